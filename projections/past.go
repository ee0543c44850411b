package projections

import (
	"context"
	"fmt"
	"iter"
	"sort"
	"sync"
	"time"

	"commissaire/domain/event"
)

// How many snapshots of the past are kept; they share what did not change between
// them.
const (
	kept         = 512
	firstSpacing = 16 // events between two
)

// past keeps snapshots along the log, so that any other is a short fold away from
// one of them. When there are too many, every other is dropped, and they are
// taken half as often from then on.
type past struct {
	snapshots []*Snapshot // oldest first
	spacing   int         // events between two
	since     int         // events since the last

	copying sync.Mutex // of one of them
	forks   int
}

// keep keeps the present for later when it is time to. The caller has the lock.
func (v *Views) keep() {
	p := v.past
	if p.since++; p.since < p.spacing {
		return
	}
	p.since = 0
	p.snapshots = append(p.snapshots, v.publish())
	if len(p.snapshots) < kept {
		return
	}
	for i := range kept / 2 {
		p.snapshots[i] = p.snapshots[2*i+1]
	}
	clear(p.snapshots[kept/2:])
	p.snapshots, p.spacing = p.snapshots[:kept/2], 2*p.spacing
}

// Read yields the events after a position, in order, in batches; it may go on
// for ever.
type Read func(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error]

// AsOf is what the views were at a bound. One that is not reached yet is refused.
func (v *Views) AsOf(ctx context.Context, read Read, at Bound, now time.Time) (*Snapshot, error) {
	present := v.Snapshot()
	if err := at.Reached(present.Position, now); err != nil {
		return nil, err
	}
	reaches := func(s *Snapshot) bool { return s.Position <= at.Position }
	if !at.Time.IsZero() {
		reaches = func(s *Snapshot) bool { return !s.newest.After(at.Time) }
	}
	return v.before(ctx, read, present, reaches, at.Before)
}

// before folds up to the first event that is beyond, from the last snapshot that
// is before it.
func (v *Views) before(ctx context.Context, read Read, present *Snapshot, reaches func(*Snapshot) bool, beyond func(event.Recorded) bool) (*Snapshot, error) {
	if reaches(present) {
		return present, nil
	}
	s := v.fork(reaches)
	for batch, err := range read(ctx, s.Position) {
		if err != nil {
			return nil, fmt.Errorf("read the past after position %d: %w", s.Position, err)
		}
		for _, r := range batch {
			if beyond(r) || r.Position > present.Position {
				return s, nil
			}
			s.apply(r)
		}
	}
	return nil, fmt.Errorf("read the past after position %d: %w", s.Position, context.Cause(ctx))
}

// fork is a snapshot of its own, which may be folded on, from the last kept one
// that reaches.
func (v *Views) fork(reaches func(*Snapshot) bool) *Snapshot {
	v.mu.Lock()
	p, from, history := v.past, New().state, v.state.history
	if i := sort.Search(len(p.snapshots), func(i int) bool { return !reaches(p.snapshots[i]) }); i > 0 {
		from = p.snapshots[i-1]
	}
	v.mu.Unlock()
	p.copying.Lock()
	defer p.copying.Unlock()
	s := from.copy()
	p.forks++
	s.generation, s.history, s.forked = -p.forks, history, true // no other has that number
	return s
}
