package projections

import (
	"context"
	"fmt"
	"iter"
	"sort"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// ErrFuture refuses what has not happened yet.
var ErrFuture = domain.Refuse(domain.Invalid, "future")

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

// At is what the views were at a position: after the last event that is not
// beyond it. A position that nothing was recorded at yet is refused.
//
// The lists of History are not part of it.
func (v *Views) At(ctx context.Context, read Read, position event.Position) (*Snapshot, error) {
	present := v.Snapshot()
	if position > present.Position {
		return nil, ErrFuture.With("position %d is not there yet: the log is at %d", position, present.Position)
	}
	return v.before(ctx, read, present,
		func(s *Snapshot) bool { return s.Position <= position },
		func(r event.Recorded) bool { return r.Position > position })
}

// AtTime is what the views were just before the first event, in the order of the
// log, that was recorded later than a time. A time after now is refused.
func (v *Views) AtTime(ctx context.Context, read Read, at, now time.Time) (*Snapshot, error) {
	if at.After(now) {
		return nil, ErrFuture.With("%s has not come yet", at.UTC().Format(time.RFC3339Nano))
	}
	return v.before(ctx, read, v.Snapshot(),
		func(s *Snapshot) bool { return !s.newest.After(at) },
		func(r event.Recorded) bool { return r.Meta.Time.After(at) })
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
	p, from := v.past, New().state
	if i := sort.Search(len(p.snapshots), func(i int) bool { return !reaches(p.snapshots[i]) }); i > 0 {
		from = p.snapshots[i-1]
	}
	v.mu.Unlock()
	p.copying.Lock()
	defer p.copying.Unlock()
	s := from.copy()
	p.forks++
	s.generation, s.forked = -p.forks, true // no other has that number
	return s
}
