package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/adapters/eventlog/memory"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/domain/event"
	"commissaire/test/esdb"
)

var stores = map[string]func(t *testing.T) eventlog.Store{
	"memory": func(*testing.T) eventlog.Store { return memory.New() },
	"sqlite": func(t *testing.T) eventlog.Store {
		store, err := sqlite.Open(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		return store
	},
	"eventstoredb": func(t *testing.T) eventlog.Store {
		store, err := eventstoredb.Open(esdb.Start(t).ConnectionString(), slog.New(slog.DiscardHandler), eventstoredb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		return store
	},
}

func ignore(int) {}

// fill records n events on streams that take turns, some of them long runs.
func fill(t *testing.T, store eventlog.Store, n int) {
	t.Helper()
	ends := map[event.Stream]event.Revision{}
	for i := 0; i < n; {
		stream := event.Stream(fmt.Sprint("stream-", i%7))
		run := 1
		if i%11 == 0 {
			run = 3
		}
		var events []eventlog.Raw
		for ; run > 0 && i < n; run-- {
			data := fmt.Appendf(nil, `{ "n":%d,"text":"é\u00e9 \ud83d\ude00" ,"n": 1e2}`, i) // no encoder writes it so
			if i < 3 {                                                                       // a run of three that no append takes at once
				data = fmt.Appendf(nil, `{"large":"%s"}`, strings.Repeat("x", 300<<10))
			}
			events = append(events, eventlog.Raw{ID: uuid.New(), Type: fmt.Sprint("T", i%3), Data: data, Meta: fmt.Appendf(nil, `{"schema":1, "i":%d}`, i)})
			i++
		}
		end, ok := ends[stream]
		if !ok {
			end = event.NoRevision
		}
		if _, err := store.Append(t.Context(), stream, end, events); err != nil {
			t.Fatal(err)
		}
		ends[stream] = end + event.Revision(len(events))
	}
}

// all is what a log has, without positions.
func all(t *testing.T, store eventlog.Store) (events []string) {
	t.Helper()
	for batch, err := range eventlog.UpToHead(t.Context(), store.Follow(t.Context(), 0)) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			events = append(events, fmt.Sprintf("%s %d %s %s %s %s", e.Stream, e.Revision, e.ID, e.Type, e.Data, e.Meta))
		}
	}
	return events
}

func TestACopyIsEqualInEveryByteAndInOrder(t *testing.T) {
	for from := range stores {
		for to := range stores {
			t.Run(from+" to "+to, func(t *testing.T) {
				source, target := stores[from](t), stores[to](t)
				fill(t, source, 120)
				if n, whole, err := eventlog.Compare(t.Context(), source, target, ignore); n != 0 || whole || err != nil {
					t.Errorf("compared with nothing: %d, %v, %v", n, whole, err)
				}
				told := 0
				if n, err := eventlog.Copy(t.Context(), source, target, func(n int) { told = n }); n != 120 || told != 120 || err != nil {
					t.Fatalf("copied %d, told of %d, %v", n, told, err)
				}
				before, after := all(t, source), all(t, target)
				for i := range max(len(before), len(after)) {
					if i >= len(before) || i >= len(after) || before[i] != after[i] {
						t.Fatalf("of %d and %d events, %d differs", len(before), len(after), i)
					}
				}
				if n, whole, err := eventlog.Compare(t.Context(), source, target, ignore); n != 120 || !whole || err != nil {
					t.Errorf("compared: %d, %v, %v", n, whole, err)
				}
				if n, err := eventlog.Copy(t.Context(), source, target, ignore); n != 0 || err != nil {
					t.Errorf("copied again %d, %v", n, err)
				}
			})
		}
	}
}

func TestACopyGoesOnWhereItStopped(t *testing.T) {
	for to := range stores {
		t.Run(to, func(t *testing.T) {
			source, target := memory.New(), stores[to](t)
			all := 200
			if to == "sqlite" { // which takes many at once
				all = 2500
			}
			fill(t, source, all)
			sum, stops := 0, 0
			for stop := all / 10; ; stop += all / 10 {
				ctx, cancel := context.WithCancel(t.Context())
				n, err := eventlog.Copy(ctx, source, target, func(n int) {
					if n >= stop {
						cancel()
					}
				})
				cancel()
				if sum += n; err == nil {
					break
				}
				if !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				stops++
			}
			if n, whole, err := eventlog.Compare(t.Context(), source, target, ignore); n != all || sum != all || stops < 3 || !whole || err != nil {
				t.Errorf("%d events, %d copied with %d stops, %v, %v", n, sum, stops, whole, err)
			}
		})
	}
}

func TestWhatIsNoCopyIsToldAndNotTouched(t *testing.T) {
	source := memory.New()
	fill(t, source, 40)
	var events []eventlog.Raw
	for batch, err := range eventlog.UpToHead(t.Context(), source.Follow(t.Context(), 0)) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, batch...)
	}
	foreign := eventlog.Raw{Stream: "foreign", Revision: 0, ID: uuid.New(), Type: "T", Data: []byte("{}"), Meta: []byte("{}")}
	for name, test := range map[string]struct {
		change func(events []eventlog.Raw) []eventlog.Raw
		event  int
		what   string
	}{
		"another log":       {func([]eventlog.Raw) []eventlog.Raw { return []eventlog.Raw{foreign} }, 1, "stream"},
		"more":              {func(e []eventlog.Raw) []eventlog.Raw { return append(e, foreign) }, 41, "presence"},
		"one in the middle": {func(e []eventlog.Raw) []eventlog.Raw { return append(append(e[:10:10], foreign), e[10:]...) }, 11, "stream"},
		"another id":        {func(e []eventlog.Raw) []eventlog.Raw { e[17].ID = uuid.New(); return e }, 18, "id"},
		"another type":      {func(e []eventlog.Raw) []eventlog.Raw { e[17].Type = "U"; return e }, 18, "type"},
		"other data":        {func(e []eventlog.Raw) []eventlog.Raw { e[17].Data = append(e[17].Data, ' '); return e }, 18, "data"},
		"other metadata":    {func(e []eventlog.Raw) []eventlog.Raw { e[39].Meta = []byte("{}"); return e }, 40, "metadata"},
		"another order":     {func(e []eventlog.Raw) []eventlog.Raw { e[17], e[18] = e[18], e[17]; return e }, 18, "stream"},
	} {
		target := memory.New()
		cloned := make([]eventlog.Raw, len(events))
		for i, e := range events {
			e.Data = append([]byte(nil), e.Data...)
			cloned[i] = e
		}
		for _, e := range test.change(cloned) {
			if _, err := target.Append(t.Context(), e.Stream, e.Revision-1, []eventlog.Raw{e}); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		before := len(all(t, target))
		_, copyErr := eventlog.Copy(t.Context(), source, target, ignore)
		_, whole, compareErr := eventlog.Compare(t.Context(), source, target, ignore)
		for _, err := range []error{copyErr, compareErr} {
			if d, ok := errors.AsType[*eventlog.Difference](err); !ok || d.Event != test.event || d.What != test.what || whole {
				t.Errorf("%s: %v; want event %d to differ in its %s", name, err, test.event, test.what)
			}
		}
		if after := len(all(t, target)); after != before {
			t.Errorf("%s: %d events became %d", name, before, after)
		}
	}
}
