package projections

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"commissaire/domain/event"
	"commissaire/test/scenario"
)

// happened is a log that grows.
type happened struct {
	mu     sync.Mutex
	events []event.Recorded
	grown  chan struct{}
}

// add makes up an event and records it. Positions are sparse.
func (h *happened) add(t *rapid.T) event.Recorded {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.events) + 1
	stream, e := scenario.Anything(t)
	r := event.Recorded{
		Position: event.Position(3 * n), ID: uuid.NewSHA1(uuid.Nil, []byte(fmt.Sprint(n))), Stream: stream, Event: e,
		Meta: event.Meta{Time: time.Date(2026, 1, 2, 3, 4, n, 1234, time.UTC), Actor: "ann", Reason: "a\ttab\nand \"more\""},
	}
	h.events = append(h.events, r)
	if h.grown != nil {
		close(h.grown)
		h.grown = nil
	}
	return r
}

// read implements Read.
func (h *happened) read(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
	return func(yield func([]event.Recorded, error) bool) {
		for {
			h.mu.Lock()
			i := int(after / 3)
			batch := append([]event.Recorded{}, h.events[i:min(len(h.events), i+7)]...)
			if len(batch) == 0 && h.grown == nil {
				h.grown = make(chan struct{})
			}
			grown := h.grown
			h.mu.Unlock()
			if !yield(batch, nil) {
				return
			}
			if len(batch) > 0 {
				after = batch[len(batch)-1].Position
				continue
			}
			select {
			case <-grown:
			case <-ctx.Done():
				return
			}
		}
	}
}

func written(t interface{ Fatal(...any) }, s *Snapshot) []byte {
	var text bytes.Buffer
	if err := s.Write(&text); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// TestViewsGoOnFromAKeptSnapshot holds views that were read back against those
// that folded all of the same history, there and after more of it.
func TestViewsGoOnFromAKeptSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var log happened
		whole := New()
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			whole.Apply(log.add(t))
		}
		saved := written(t, whole.Snapshot())
		back, err := ReadViews(bytes.NewReader(saved))
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 60).Draw(t, "more") {
			same(t, whole, back)
			r := log.add(t)
			whole.Apply(r)
			back.Apply(r)
		}
		same(t, whole, back)
	})
}

// same checks that two views serve the same and keep the same.
func same(t *rapid.T, a, b *Views) {
	if different := Difference(a.Snapshot(), b.Snapshot()); different != "" {
		t.Fatal(different)
	}
	l, m := log{views: a}, log{views: b}
	if l.all() != m.all() {
		t.Fatalf("%s\nis served, and should be\n%s", m.all(), l.all())
	}
}

// TestEveryTreeIsCopied sees that no view is missing from the list of them: two
// snapshots that had a tree in common would change each other.
func TestEveryTreeIsCopied(t *testing.T) {
	s := New().Snapshot()
	was, is := reflect.ValueOf(*s), reflect.ValueOf(*s.copy())
	trees := 0
	for i, field := range reflect.VisibleFields(was.Type()) {
		if strings.HasPrefix(field.Type.String(), "*btree.Map[") {
			trees++
			if was.Field(i).Pointer() == is.Field(i).Pointer() {
				t.Errorf("a copy shares its %s", field.Name)
			}
		}
	}
	if trees == 0 {
		t.Error("a snapshot has no tree")
	}
}

func TestAPartOfASnapshotIsNone(t *testing.T) {
	l := newLog(t).roster(created, added, joined).host(investigated, bootstrapped)
	text := written(t, l.views.Snapshot())
	lines := bytes.SplitAfter(text, []byte("\n"))
	for i := range len(lines) - 1 { // what is after the last end of a line is empty
		if _, err := ReadViews(bytes.NewReader(bytes.Join(lines[:i], nil))); err == nil {
			t.Errorf("the first %d lines are read", i)
		}
	}
	without := func(i int) []byte { return append(bytes.Join(lines[:i], nil), bytes.Join(lines[i+1:], nil)...) }
	for i := range len(lines) - 1 {
		if _, err := ReadViews(bytes.NewReader(without(i))); err == nil {
			t.Errorf("without %q it is read", lines[i])
		}
	}
	for _, bad := range []string{string(text) + string(lines[1]), "hosts\t1\t{", "planets\tmars\t{}\n" + string(text), strings.Repeat("x", 3<<20)} {
		if _, err := ReadViews(strings.NewReader(bad)); err == nil || len(err.Error()) > 300 {
			t.Errorf("%.80q: %v", bad, err)
		}
	}
}

// TestViewsFoldedAfreshJoinWhatGoesOn folds afresh while events are applied.
func TestViewsFoldedAfreshJoinWhatGoesOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var log happened
		views, whole := New(), New()
		more := func() {
			r := log.add(t)
			views.Apply(r)
			whole.Apply(r)
		}
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			more()
		}
		spoilt := ""
		if views.Snapshot().hosts.Len() > 0 && rapid.Bool().Draw(t, "spoilt") {
			id, h, _ := views.state.hosts.Min()
			h = views.state.writable(h)
			h.Facts.OS = "plan9"
			spoilt = "hosts " + string(id)
			views.current.Store(false)
		}
		begun := views.Snapshot()
		before := written(t, begun)
		// More happens while the last of it is read, and after that before the join.
		read := func(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
			return func(yield func([]event.Recorded, error) bool) {
				for batch, err := range log.read(ctx, after) {
					if !yield(batch, err) {
						return
					}
					if len(batch) == 0 && rapid.Bool().Draw(t, "more") {
						more()
					}
				}
			}
		}
		var folded []event.Recorded
		joined := false
		keep := rapid.Bool().Draw(t, "keep")
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		different, err := views.Rebuild(ctx, RebuildOptions{
			Read: read, Serve: keep, Joined: func() { joined = true },
			Folded: func(batch []event.Recorded) { folded = append(folded, batch...) },
		})
		if err != nil || !strings.HasPrefix(different, spoilt) || spoilt == "" && different != "" || !joined {
			t.Fatalf("%q, %v; should name %q; joined: %t", different, err, spoilt, joined)
		}
		if !bytes.Equal(written(t, begun), before) {
			t.Fatal("a snapshot that somebody held has changed")
		}
		for i, r := range folded {
			if r.Position != event.Position(3*(i+1)) {
				t.Fatalf("event %d that was folded is at %d", i, r.Position)
			}
		}
		if len(folded) != len(log.events) {
			t.Fatalf("it was called with %d of %d events", len(folded), len(log.events))
		}
		if spoilt != "" && !keep {
			return
		}
		same(t, whole, views)
		for range rapid.IntRange(0, 20).Draw(t, "after") {
			more()
			same(t, whole, views)
		}
		for i := range len(log.events) { // the past is that of the fresh ones
			then, err := views.AsOf(ctx, log.read, Bound{Position: event.Position(3 * i)}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if then.Position != event.Position(3*i) {
				t.Fatalf("at %d: %d", 3*i, then.Position)
			}
		}
	})
}

func TestWhatIsFoldedAfreshMayBeGivenUp(t *testing.T) {
	l := newLog(t).roster(created, added, joined)
	before := written(t, l.views.Snapshot())
	for n := range 3 {
		ctx, stop := context.WithCancel(t.Context())
		read := func(ctx context.Context, _ event.Position) iter.Seq2[[]event.Recorded, error] {
			return func(yield func([]event.Recorded, error) bool) {
				for range n {
					if !yield(nil, nil) {
						return
					}
				}
				stop()
				<-ctx.Done()
			}
		}
		joined := func() { t.Error("it joined") }
		if _, err := l.views.Rebuild(ctx, RebuildOptions{Read: read, Serve: true, Joined: joined}); err == nil {
			t.Error("what was given up says that it came to its end")
		}
		if l.views.tail != nil || !bytes.Equal(written(t, l.views.Snapshot()), before) {
			t.Error("what was given up left something")
		}
	}
}
