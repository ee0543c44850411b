package sqlite_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/commands"
	"commissaire/domain/event"
)

func TestEventsOfManyStreamsAreAppendedInOrderOrNotAtAll(t *testing.T) {
	store, err := sqlite.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	events := make([]eventlog.Raw, 2000)
	for i := range events {
		events[i] = eventlog.Raw{Stream: event.Stream(fmt.Sprint("s", i/3%7)), ID: uuid.New(), Type: "T", Data: fmt.Appendf(nil, "%d", i), Meta: []byte("{}")}
	}
	next := map[event.Stream]event.Revision{}
	for i, e := range events {
		events[i].Revision = next[e.Stream]
		next[e.Stream]++
	}
	is := func(n int) {
		t.Helper()
		if head, err := store.Head(t.Context()); err != nil || head != event.Position(n) {
			t.Fatalf("the head is %d, %v; want %d", head, err, n)
		}
	}
	all := func(events []eventlog.Raw) error { return store.AppendAll(t.Context(), events) }
	if err := all(events[:1000]); err != nil {
		t.Fatal(err)
	}
	is(1000)
	if err := all(events[1001:]); !errors.Is(err, commands.ErrConflict) { // the first does not fit
		t.Errorf("with a gap before: %v", err)
	}
	is(1000)
	gap := append(append([]eventlog.Raw(nil), events[1000:1500]...), events[1501:]...)
	if err := all(gap); !errors.Is(err, commands.ErrConflict) { // one in the middle does not
		t.Errorf("with a gap: %v", err)
	}
	is(1000)
	for range 2 { // may be repeated
		if err := all(events[1000:]); err != nil {
			t.Fatal(err)
		}
		is(2000)
	}
	if err := all(nil); err == nil {
		t.Error("nothing was appended, and that succeeded")
	}
	i := 0
	for batch, err := range eventlog.UpToHead(t.Context(), store.Follow(t.Context(), 0)) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			if e.ID != events[i].ID || e.Stream != events[i].Stream || e.Revision != events[i].Revision {
				t.Fatalf("event %d is %s %d, want %s %d", i, e.Stream, e.Revision, events[i].Stream, events[i].Revision)
			}
			i++
		}
	}
	if i != len(events) {
		t.Errorf("there are %d events", i)
	}
}
