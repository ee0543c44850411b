// Package logtest is the contract that every event log store keeps, as a test
// suite: what eventlog.Store promises, tried on a store from the outside.
//
// The suite names streams at random and looks at its own streams only, so that
// it may run on a store that others write to at the same time.
package logtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// Trait is something in which a store differs from the others.
type Trait int

const (
	// Volatile says that the store forgets everything when it is closed.
	Volatile Trait = iota
	// Shared says that others write to the store too and that an empty dir does
	// not make an empty store.
	Shared
)

type suite struct {
	open   func(*testing.T, string) eventlog.Store
	traits map[Trait]bool
}

// Run tries the store that open opens. Opening the same dir again after Close
// must give what was kept in it. The suite closes what it opens.
func Run(t *testing.T, open func(t *testing.T, dir string) eventlog.Store, traits ...Trait) {
	s := suite{open: open, traits: map[Trait]bool{}}
	for _, trait := range traits {
		s.traits[trait] = true
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, suite)
	}{
		{"an empty store", empty},
		{"an append names the revision it follows", expectedRevision},
		{"an append is recorded as a whole or not at all", allOrNothing},
		{"what is read is what was appended", faithful},
		{"positions rise in the order of appending", positions},
		{"a repeated append changes nothing", repeated},
		{"a repeat that differs is refused", repeatedOtherwise},
		{"a stream is read from a revision", readFrom},
		{"events are read at positions", readAt},
		{"Follow gives what is there in batches and says when it is at the head", followBacklog},
		{"Follow resumes after any position", followResumes},
		{"Follow gives what comes, after it was at the head", followLive},
		{"Follow ends with its context and when its reader leaves", followEnds},
		{"Follow has no gap and no repeat under concurrent writers", followConcurrent},
		{"one of many writers to a revision wins", contendedStream},
		{"many writers to many streams", manyStreams},
		{"a cancelled context does not cancel an append", cancelled},
		{"a closed store", closed},
		{"a store opened again", reopened},
		{"terms rise", terms},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

func (s suite) start(t *testing.T) eventlog.Store {
	t.Helper()
	store := s.open(t, t.TempDir())
	t.Cleanup(func() { closing(t, store) })
	return store
}

func closing(t *testing.T, store eventlog.Store) {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// stream is a stream that nobody has used.
func stream() event.Stream { return event.Stream("logtest-" + rand.Text()) }

// events are n new events.
func events(n int) []eventlog.Raw {
	raws := make([]eventlog.Raw, n)
	for i := range raws {
		id := uuid.New()
		raws[i] = eventlog.Raw{
			ID:   id,
			Type: "HostAdded",
			Data: fmt.Appendf(nil, `{"host":"%s"}`, id),
			Meta: fmt.Appendf(nil, `{"schema":1,"n":%d}`, i),
		}
	}
	return raws
}

func add(t *testing.T, store eventlog.Store, to event.Stream, expected event.Revision, raws []eventlog.Raw) event.Position {
	t.Helper()
	position, err := store.Append(t.Context(), to, expected, raws)
	if err != nil {
		t.Fatalf("Append after revision %d: %v", expected, err)
	}
	return position
}

func read(t *testing.T, store eventlog.Store, from event.Stream, rev event.Revision) []eventlog.Raw {
	t.Helper()
	var raws []eventlog.Raw
	for raw, err := range store.ReadStream(t.Context(), from, rev) {
		if err != nil {
			t.Fatalf("ReadStream: %v", err)
		}
		raws = append(raws, raw)
	}
	return raws
}

func head(t *testing.T, store eventlog.Store) event.Position {
	t.Helper()
	position, err := store.Head(t.Context())
	if err != nil {
		t.Fatalf("Head: %v", err)
	}
	return position
}

// backlog is all of these streams after a position, as far as the head.
func backlog(t *testing.T, store eventlog.Store, after event.Position, streams ...event.Stream) []eventlog.Raw {
	t.Helper()
	var raws []eventlog.Raw
	for batch, err := range eventlog.UpToHead(t.Context(), store.Follow(t.Context(), after)) {
		if err != nil {
			t.Fatalf("Follow: %v", err)
		}
		raws = append(raws, only(batch, streams)...)
	}
	return raws
}

func only(batch []eventlog.Raw, streams []event.Stream) []eventlog.Raw {
	var raws []eventlog.Raw
	for _, raw := range batch {
		for _, stream := range streams {
			if raw.Stream == stream {
				raws = append(raws, raw)
			}
		}
	}
	return raws
}

// sameIDs fails unless got has exactly the ids of want, in order.
func sameIDs(t *testing.T, got, want []eventlog.Raw) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d events, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].ID != want[i].ID {
			t.Fatalf("event %d is %s, want %s", i, got[i].ID, want[i].ID)
		}
	}
}

// rising fails unless revisions of a stream have no gap and positions rise.
func rising(t *testing.T, raws []eventlog.Raw) {
	t.Helper()
	next := map[event.Stream]event.Revision{}
	var last event.Position
	for i, raw := range raws {
		if raw.Position <= last {
			t.Fatalf("event %d is at position %d, after %d", i, raw.Position, last)
		}
		if raw.Revision != next[raw.Stream] {
			t.Fatalf("event %d of %s has revision %d, want %d", i, raw.Stream, raw.Revision, next[raw.Stream])
		}
		last = raw.Position
		next[raw.Stream]++
	}
}

func empty(t *testing.T, s suite) {
	store := s.start(t)
	if raws := read(t, store, stream(), 0); len(raws) != 0 {
		t.Errorf("a stream without events gave %d", len(raws))
	}
	pos := head(t, store)
	if !s.traits[Shared] && pos != 0 {
		t.Errorf("the head of an empty store is %d, want 0", pos)
	}
	if raws := backlog(t, store, pos, stream()); len(raws) != 0 {
		t.Errorf("Follow gave %d events of a stream without events", len(raws))
	}
}

func expectedRevision(t *testing.T, s suite) {
	store := s.start(t)
	to := stream()
	refused := func(expected event.Revision) {
		t.Helper()
		if _, err := store.Append(t.Context(), to, expected, events(1)); !errors.Is(err, commands.ErrConflict) {
			t.Errorf("Append after revision %d: %v, want ErrConflict", expected, err)
		}
	}
	for _, expected := range []event.Revision{0, 1, 7} {
		refused(expected)
	}
	add(t, store, to, event.NoRevision, events(1))
	for _, expected := range []event.Revision{event.NoRevision, 1, 7} {
		refused(expected)
	}
	add(t, store, to, 0, events(3))
	for _, expected := range []event.Revision{event.NoRevision, 0, 1, 2, 4} {
		refused(expected)
	}
	add(t, store, to, 3, events(1))
	if n := len(read(t, store, to, 0)); n != 5 {
		t.Errorf("the stream has %d events, want 5", n)
	}
}

func allOrNothing(t *testing.T, s suite) {
	store := s.start(t)
	to, start := stream(), head(t, store)
	const size, rounds = 10, 40
	var running sync.WaitGroup
	done := make(chan struct{})
	running.Go(func() { // a reader never sees part of an append
		for {
			n := 0
			for _, err := range store.ReadStream(t.Context(), to, 0) {
				if err != nil {
					t.Errorf("ReadStream: %v", err)
					return
				}
				n++
			}
			if n%size != 0 {
				t.Errorf("a reader saw %d events of appends of %d", n, size)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	var want []eventlog.Raw
	for i := range rounds {
		batch := events(size)
		add(t, store, to, event.Revision(i*size-1), batch)
		want = append(want, batch...)
		if _, err := store.Append(t.Context(), to, event.Revision(i*size-1), events(size)); !errors.Is(err, commands.ErrConflict) {
			t.Errorf("a late append of %d: %v, want ErrConflict", size, err)
		}
	}
	close(done)
	running.Wait()
	sameIDs(t, read(t, store, to, 0), want)
	sameIDs(t, backlog(t, store, start, to), want)
}

func faithful(t *testing.T, s suite) {
	store := s.start(t)
	to, start := stream(), head(t, store)
	want := []eventlog.Raw{
		{ID: uuid.New(), Type: "HostAdded", Data: []byte(`{}`), Meta: []byte(`{}`)},
		{ID: uuid.New(), Type: "HostJoined", Data: []byte("{ \"a\" :\t1.50,\n\"b\":1e3 , \"a\":2}"), Meta: []byte(`{"time":"2026-01-02T03:04:05.000000001Z"}`)},
		{ID: uuid.New(), Type: "HostLeft", Data: []byte(`{"reason":"<&> 'quoted' \"twice\" \\ \u0000 \ud83d\ude80 naïve 主机 🚀"}`), Meta: []byte(`{"actor":"Zoë"}`)},
		{ID: uuid.New(), Type: "HostInvestigated", Data: []byte(`{"facts":"` + strings.Repeat("0123456789abcdef", 16<<10) + `"}`), Meta: []byte(`{"schema":1}`)},
	}
	last := add(t, store, to, event.NoRevision, want)
	for i := range want {
		want[i].Stream, want[i].Revision = to, event.Revision(i)
	}
	stored := read(t, store, to, 0)
	if n := len(stored); n != len(want) {
		t.Fatalf("the stream has %d events, want %d", n, len(want))
	}
	if stored[len(want)-1].Position != last {
		t.Errorf("Append returned position %d, the last event is at %d", last, stored[len(want)-1].Position)
	}
	var places []event.Position
	for _, raw := range stored {
		places = append(places, raw.Position)
	}
	raws, err := store.ReadAt(t.Context(), places)
	if err != nil {
		t.Fatalf("ReadAt: %v", err)
	}
	for from, got := range map[string][]eventlog.Raw{
		"ReadStream": stored, "Follow": backlog(t, store, start, to), "ReadAt": raws,
	} {
		sameIDs(t, got, want)
		for i := range want {
			w := want[i]
			w.Position = places[i]
			same(t, from, got[i], w)
		}
	}
}

func same(t *testing.T, from string, got, want eventlog.Raw) {
	t.Helper()
	if got.Position != want.Position || got.Stream != want.Stream || got.Revision != want.Revision || got.ID != want.ID || got.Type != want.Type {
		t.Errorf("%s gave %v, want %v", from, place(got), place(want))
	}
	if string(got.Data) != string(want.Data) {
		t.Errorf("%s changed the data of %s: %d bytes, want %d", from, want.Type, len(got.Data), len(want.Data))
	}
	if string(got.Meta) != string(want.Meta) {
		t.Errorf("%s gave meta %s, want %s", from, got.Meta, want.Meta)
	}
}

func place(raw eventlog.Raw) string {
	return fmt.Sprintf("%s %s at %d: %s revision %d", raw.Type, raw.ID, raw.Position, raw.Stream, raw.Revision)
}

func positions(t *testing.T, s suite) {
	store := s.start(t)
	streams, start := []event.Stream{stream(), stream(), stream()}, head(t, store)
	var want []eventlog.Raw
	last := start
	for i := range 30 {
		batch := events(1 + i%4)
		to := streams[i%len(streams)]
		position := add(t, store, to, event.Revision(len(only(want, []event.Stream{to}))-1), batch)
		if position <= last {
			t.Fatalf("append %d is at %d, the one before at %d", i, position, last)
		}
		last = position
		for j := range batch {
			batch[j].Stream = to
		}
		want = append(want, batch...)
		if pos := head(t, store); pos < position || !s.traits[Shared] && pos != position {
			t.Fatalf("the head is %d after an append at %d", pos, position)
		}
	}
	got := backlog(t, store, start, streams...)
	sameIDs(t, got, want)
	rising(t, got)
	if got[len(got)-1].Position != last {
		t.Errorf("the last event is at %d, want %d", got[len(got)-1].Position, last)
	}
}

func repeated(t *testing.T, s suite) {
	store := s.start(t)
	to, start := stream(), head(t, store)
	first, second, third := events(3), events(1), events(40)
	p1 := add(t, store, to, event.NoRevision, first)
	if again := add(t, store, to, event.NoRevision, first); again != p1 {
		t.Errorf("the repeat is at %d, the first at %d", again, p1)
	}
	p2 := add(t, store, to, 2, second)
	p3 := add(t, store, to, 3, third)
	// Also when the stream has moved on since.
	for _, repeat := range []struct {
		expected event.Revision
		events   []eventlog.Raw
		pos      event.Position
	}{{event.NoRevision, first, p1}, {2, second, p2}, {3, third, p3}} {
		if again := add(t, store, to, repeat.expected, repeat.events); again != repeat.pos {
			t.Errorf("the repeat after %d is at %d, the first was at %d", repeat.expected, again, repeat.pos)
		}
	}
	want := append(append(first, second...), third...)
	sameIDs(t, read(t, store, to, 0), want)
	sameIDs(t, backlog(t, store, start, to), want)

	// Many at once: as after a time-out, when the first try is still on its way.
	to, batch := stream(), events(5)
	places := make(chan event.Position, 16)
	var running sync.WaitGroup
	for range cap(places) {
		running.Go(func() {
			position, err := store.Append(t.Context(), to, event.NoRevision, batch)
			if err != nil {
				t.Errorf("one of many repeats: %v", err)
			}
			places <- position
		})
	}
	running.Wait()
	close(places)
	pos := <-places
	for p := range places {
		if p != pos {
			t.Errorf("repeats are at %d and %d", pos, p)
		}
	}
	sameIDs(t, read(t, store, to, 0), batch)
}

func repeatedOtherwise(t *testing.T, s suite) {
	store := s.start(t)
	to, other := stream(), stream()
	batch := events(4)
	add(t, store, to, event.NoRevision, batch)
	add(t, store, other, event.NoRevision, events(1))
	a, b, c, d := batch[0], batch[1], batch[2], batch[3]
	for _, test := range []struct {
		name     string
		stream   event.Stream
		expected event.Revision
		events   []eventlog.Raw
	}{
		{"more than was appended", to, event.NoRevision, append(batch[:4:4], events(1)...)},
		{"the first is new", to, event.NoRevision, append(events(1), b, c, d)},
		{"the last is new", to, event.NoRevision, append([]eventlog.Raw{a, b, c}, events(1)...)},
		{"another order", to, event.NoRevision, []eventlog.Raw{b, a, c, d}},
		{"one revision off", to, event.NoRevision, []eventlog.Raw{b, c, d}},
		{"one revision later", to, 0, []eventlog.Raw{c, d}},
		{"elsewhere in the stream", to, 1, []eventlog.Raw{a, b}},
		{"past the end", to, 2, []eventlog.Raw{d, a}},
		{"another stream", other, event.NoRevision, batch},
	} {
		if _, err := store.Append(t.Context(), test.stream, test.expected, test.events); !errors.Is(err, commands.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", test.name, err)
		}
	}
	sameIDs(t, read(t, store, to, 0), batch)
	if n := len(read(t, store, other, 0)); n != 1 {
		t.Errorf("the other stream has %d events, want 1", n)
	}
}

func readFrom(t *testing.T, s suite) {
	store := s.start(t)
	to, next := stream(), stream()
	const size = 2345
	batch := events(size)
	for i := 0; i < size; i += 335 {
		add(t, store, to, event.Revision(i-1), batch[i:i+335])
		add(t, store, next, event.Revision(i/335-1), events(1))
	}
	for _, from := range []event.Revision{0, 1, 999, 1000, 1001, 2000, size - 1, size, size + 1} {
		got := read(t, store, to, from)
		sameIDs(t, got, batch[min(int(from), size):])
		for i, raw := range got {
			if raw.Revision != from+event.Revision(i) || raw.Stream != to {
				t.Fatalf("event %d from revision %d is %s", i, from, place(raw))
			}
		}
	}
	n := 0
	for _, err := range store.ReadStream(t.Context(), to, 0) { // a reader may leave
		if err != nil {
			t.Fatalf("ReadStream: %v", err)
		}
		if n++; n == 3 {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, last = range store.ReadStream(ctx, to, 0) {
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("ReadStream with a cancelled context ended with %v", last)
	}
}

func readAt(t *testing.T, s suite) {
	store := s.start(t)
	a, b, start := stream(), stream(), head(t, store)
	for i := range 20 {
		add(t, store, a, event.Revision(i-1), events(1))
		add(t, store, b, event.Revision(2*i-1), events(2))
	}
	all := backlog(t, store, start, a, b)
	if len(all) != 60 {
		t.Fatalf("the log has %d events, want 60", len(all))
	}
	var asked []event.Position
	var want []eventlog.Raw
	for _, i := range []int{59, 0, 17, 17, 3, 58} {
		asked = append(asked, all[i].Position)
		want = append(want, all[i])
	}
	got, err := store.ReadAt(t.Context(), asked)
	if err != nil {
		t.Fatalf("ReadAt: %v", err)
	}
	sameIDs(t, got, want)
	for i := range want {
		same(t, "ReadAt", got[i], want[i])
	}
	if got, err := store.ReadAt(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("ReadAt of no position: %d events, %v", len(got), err)
	}
	if _, err := store.ReadAt(t.Context(), []event.Position{all[0].Position, all[59].Position + 1<<40}); err == nil {
		t.Error("ReadAt of a position without event gave no error")
	}
}

func followBacklog(t *testing.T, s suite) {
	store := s.start(t)
	to, start := stream(), head(t, store)
	want := events(3210)
	for i := 0; i < len(want); i += 321 {
		add(t, store, to, event.Revision(i-1), want[i:i+321])
	}
	var got []eventlog.Raw
	for batch, err := range eventlog.UpToHead(t.Context(), store.Follow(t.Context(), start)) {
		if err != nil {
			t.Fatalf("Follow: %v", err)
		}
		if len(batch) > 1000 {
			t.Errorf("a batch has %d events", len(batch))
		}
		got = append(got, only(batch, []event.Stream{to})...)
	}
	sameIDs(t, got, want)
	rising(t, got)
}

func followResumes(t *testing.T, s suite) {
	store := s.start(t)
	to, start := stream(), head(t, store)
	want := events(12)
	for i := 0; i < len(want); i += 3 {
		add(t, store, to, event.Revision(i-1), want[i:i+3])
	}
	all := backlog(t, store, start, to)
	sameIDs(t, all, want)
	for i, raw := range all {
		sameIDs(t, backlog(t, store, raw.Position, to), want[i+1:])
	}
	if !s.traits[Shared] {
		sameIDs(t, backlog(t, store, 0, to), want)
	}
}

func followLive(t *testing.T, s suite) {
	store := s.start(t)
	to := stream()
	add(t, store, to, event.NoRevision, events(1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rev := event.Revision(0)
	var waiting []eventlog.Raw
	rounds := 0
	for batch, err := range store.Follow(ctx, head(t, store)) {
		if err != nil {
			t.Fatalf("Follow: %v", err)
		}
		for _, raw := range only(batch, []event.Stream{to}) {
			if len(waiting) == 0 || raw.ID != waiting[0].ID {
				t.Fatalf("Follow gave %s", place(raw))
			}
			waiting = waiting[1:]
		}
		if len(batch) > 0 || len(waiting) > 0 {
			continue // the append may be announced in parts
		}
		if rounds++; rounds > 10 {
			break
		}
		// Only an empty batch brings us here: Follow is at the head, and waits.
		waiting = events(rounds % 4 * 2)
		if len(waiting) == 0 {
			waiting = events(1)
		}
		add(t, store, to, rev, waiting)
		rev += event.Revision(len(waiting))
	}
	if rounds <= 10 {
		t.Errorf("Follow ended after %d rounds", rounds)
	}
}

func followEnds(t *testing.T, s suite) {
	store := s.start(t)
	add(t, store, stream(), event.NoRevision, events(1))
	start := head(t, store)
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		for _, err := range store.Follow(ctx, start) {
			if err != nil {
				t.Errorf("Follow ended with %v", err)
			}
			cancel() // it would wait now
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for batch, err := range store.Follow(ctx, start) {
		if err != nil || len(batch) > 0 {
			t.Errorf("Follow with a cancelled context: %d events, %v", len(batch), err)
		}
	}
	for range store.Follow(t.Context(), start) { //nolint:errcheck // it is left at once
		break // a reader may leave
	}
}

func followConcurrent(t *testing.T, s suite) {
	store := s.start(t)
	start := head(t, store)
	const writers, each, size = 8, 60, 3
	streams := make([]event.Stream, writers)
	for i := range streams {
		streams[i] = stream()
	}
	const total = writers * each * size
	follow := func() []eventlog.Raw {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []eventlog.Raw
		for batch, err := range store.Follow(ctx, start) {
			if err != nil {
				t.Errorf("Follow: %v", err)
				break
			}
			if len(batch) > 1000 {
				t.Errorf("a batch has %d events", len(batch))
			}
			if got = append(got, only(batch, streams)...); len(got) >= total {
				break
			}
		}
		return got
	}
	seen := make([][]eventlog.Raw, 6)
	var following, writing sync.WaitGroup
	var appends atomic.Int64
	half := make(chan struct{})
	for i := range seen {
		following.Go(func() {
			if i >= len(seen)/2 {
				<-half // these begin in the middle
			}
			seen[i] = follow()
		})
	}
	for _, to := range streams {
		writing.Go(func() {
			rev := event.NoRevision
			for range each {
				if _, err := store.Append(t.Context(), to, rev, events(size)); err != nil {
					t.Errorf("Append: %v", err)
				}
				rev += size
				if appends.Add(1) == writers*each/2 {
					close(half)
				}
			}
		})
	}
	writing.Wait()
	if t.Failed() {
		t.FailNow() // the followers end with the test's context
	}
	following.Wait()
	for i, got := range seen {
		if len(got) != total {
			t.Fatalf("follower %d saw %d events, want %d", i, len(got), total)
		}
		rising(t, got)
		sameIDs(t, got, seen[0])
	}
}

func contendedStream(t *testing.T, s suite) {
	store := s.start(t)
	to := stream()
	const writers, each = 8, 15
	var running sync.WaitGroup
	var mu sync.Mutex
	won := map[event.Revision]uuid.UUID{}
	for range writers {
		running.Go(func() {
			rev := event.NoRevision
			for done := 0; done < each; {
				batch := events(1)
				_, err := store.Append(t.Context(), to, rev, batch)
				switch {
				case err == nil:
					rev++
					done++
					mu.Lock()
					if other, taken := won[rev]; taken {
						t.Errorf("%s and %s won revision %d", other, batch[0].ID, rev)
					}
					won[rev] = batch[0].ID
					mu.Unlock()
				case errors.Is(err, commands.ErrConflict):
					for raw, err := range store.ReadStream(t.Context(), to, rev+1) {
						if err != nil {
							t.Errorf("ReadStream: %v", err)
							return
						}
						rev = raw.Revision
					}
				default:
					t.Errorf("Append: %v", err)
					return
				}
			}
		})
	}
	running.Wait()
	got := read(t, store, to, 0)
	if len(got) != writers*each {
		t.Fatalf("the stream has %d events, want %d", len(got), writers*each)
	}
	rising(t, got)
	for _, raw := range got {
		if won[raw.Revision] != raw.ID {
			t.Errorf("revision %d is %s, but %s won it", raw.Revision, raw.ID, won[raw.Revision])
		}
	}
}

func manyStreams(t *testing.T, s suite) {
	store := s.start(t)
	start := head(t, store)
	const writers, each = 64, 10
	streams := make([]event.Stream, writers)
	var running sync.WaitGroup
	for i := range streams {
		streams[i] = stream()
		running.Go(func() {
			var last event.Position
			for rev := range event.Revision(each) {
				position, err := store.Append(t.Context(), streams[i], rev-1, events(1))
				if err != nil {
					t.Errorf("Append: %v", err)
				}
				if position <= last {
					t.Errorf("append %d is at %d, the one before at %d", rev, position, last)
				}
				last = position
				// One that cannot succeed disturbs nobody.
				if _, err := store.Append(t.Context(), streams[i], rev+7, events(1)); !errors.Is(err, commands.ErrConflict) {
					t.Errorf("Append past the end: %v, want ErrConflict", err)
				}
			}
		})
	}
	running.Wait()
	got := backlog(t, store, start, streams...)
	if len(got) != writers*each {
		t.Fatalf("the log has %d events, want %d", len(got), writers*each)
	}
	rising(t, got)
}

func cancelled(t *testing.T, s suite) {
	store := s.start(t)
	to := stream()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	batch := events(3)
	if _, err := store.Append(ctx, to, event.NoRevision, batch); err != nil {
		t.Fatalf("Append with a cancelled context: %v", err)
	}
	sameIDs(t, read(t, store, to, 0), batch)

	// In the middle: what succeeded is there, and all of it succeeds.
	ctx, cancel = context.WithCancel(t.Context())
	var running sync.WaitGroup
	streams := make([]event.Stream, 32)
	for i := range streams {
		streams[i] = stream()
		running.Go(func() {
			if _, err := store.Append(ctx, streams[i], event.NoRevision, events(2)); err != nil {
				t.Errorf("Append while its context was cancelled: %v", err)
			}
			cancel()
		})
	}
	running.Wait()
	cancel()
	for _, to := range streams {
		if n := len(read(t, store, to, 0)); n != 2 {
			t.Errorf("%s has %d events, want 2", to, n)
		}
	}
}

func closed(t *testing.T, s suite) {
	store := s.open(t, t.TempDir())
	to := stream()
	add(t, store, to, event.NoRevision, events(1))
	var running sync.WaitGroup
	atHead := make(chan struct{})
	running.Go(func() {
		var last error
		first := true
		for batch, err := range store.Follow(t.Context(), 0) {
			if last = err; err == nil && len(batch) == 0 && first {
				first = false
				close(atHead)
			}
		}
		if last == nil {
			t.Error("Follow ended without error when the store was closed")
		}
	})
	<-atHead
	// Appends under way are recorded, or say that they were not.
	outcomes := make([]error, 24)
	streams := make([]event.Stream, len(outcomes))
	began := make(chan struct{}, len(outcomes))
	for i := range outcomes {
		streams[i] = stream()
		running.Go(func() {
			began <- struct{}{}
			_, outcomes[i] = store.Append(t.Context(), streams[i], event.NoRevision, events(2))
		})
	}
	for range outcomes {
		<-began
	}
	for range 3 {
		closing(t, store)
	}
	running.Wait()
	for _, err := range outcomes {
		if err != nil && !errors.Is(err, commands.ErrUnavailable) && !errors.Is(err, commands.ErrOutcomeUnknown) {
			t.Errorf("an append while the store was closed: %v", err)
		}
	}
	if _, err := store.Append(t.Context(), to, 0, events(1)); !errors.Is(err, commands.ErrUnavailable) {
		t.Errorf("Append to a closed store: %v, want ErrUnavailable", err)
	}
	if _, err := store.Head(t.Context()); err == nil {
		t.Error("Head of a closed store gave no error")
	}
	if _, err := store.ReadAt(t.Context(), []event.Position{1}); err == nil {
		t.Error("ReadAt of a closed store gave no error")
	}
	var last error
	for _, last = range store.ReadStream(t.Context(), to, 0) {
	}
	if last == nil {
		t.Error("ReadStream of a closed store gave no error")
	}
}

func reopened(t *testing.T, s suite) {
	if s.traits[Volatile] {
		t.Skip("the store forgets: opening again is left out")
	}
	dir := t.TempDir()
	store := s.open(t, dir)
	a, b, start := stream(), stream(), head(t, store)
	first := events(5)
	p1 := add(t, store, a, event.NoRevision, first)
	add(t, store, b, event.NoRevision, events(1))
	before := backlog(t, store, start, a, b)
	closing(t, store)

	store = s.open(t, dir)
	defer closing(t, store)
	after := backlog(t, store, start, a, b)
	sameIDs(t, after, before)
	for i := range before {
		same(t, "opening again", after[i], before[i])
	}
	sameIDs(t, read(t, store, a, 0), first)
	if again := add(t, store, a, event.NoRevision, first); again != p1 {
		t.Errorf("the repeat is at %d, the first was at %d", again, p1)
	}
	if _, err := store.Append(t.Context(), a, event.NoRevision, events(1)); !errors.Is(err, commands.ErrConflict) {
		t.Errorf("Append after no revision: %v, want ErrConflict", err)
	}
	if position := add(t, store, a, 4, events(1)); position <= before[len(before)-1].Position {
		t.Errorf("an append after opening again is at %d, after %d", position, before[len(before)-1].Position)
	}
	rising(t, backlog(t, store, start, a, b))
}

func terms(t *testing.T, s suite) {
	dir := t.TempDir()
	store := s.open(t, dir)
	lease, ok := store.(eventlog.Lease)
	if !ok {
		closing(t, store)
		t.Skip("the store gives no lease: terms are left out")
	}
	var highest domain.Term
	lead := func(after domain.Term) {
		t.Helper()
		ctx, over := context.WithCancel(t.Context())
		defer over()
		leading, term, err := lease.Lead(ctx, after)
		if err != nil || term <= max(highest, after) {
			t.Fatalf("the next term is %d, %v; the last was %d", term, err, highest)
		}
		if leading.Err() != nil {
			t.Errorf("term %d was over at once: %v", term, context.Cause(leading))
		}
		over()
		<-leading.Done()
		highest = term
	}
	lead(0)
	lead(0)
	lead(highest + 100)
	lead(0)
	if !s.traits[Volatile] {
		closing(t, store)
		store = s.open(t, dir)
		lease = store.(eventlog.Lease)
		lead(0)
	}
	closing(t, store)
}
