package projections

import (
	"context"
	"fmt"
	"iter"
	"sort"
	"strconv"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// ErrFuture refuses what has not happened yet.
var ErrFuture = domain.Refuse(domain.Invalid, "future")

// Bound is a place in the log: after the last event that is not beyond a position,
// or just before the first event, in the order of the log, that was recorded later
// than a time.
type Bound struct {
	Position event.Position
	Time     time.Time // zero: the position counts
}

// ParseBound reads a position, if it is written in digits, or a time: RFC 3339, or
// as the API writes times, UTC. Seconds may be left out.
func ParseBound(text string) (Bound, error) {
	if position, err := strconv.ParseUint(text, 10, 63); err == nil {
		return Bound{Position: event.Position(position)}, nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02T15:04"} {
		if t, err := time.Parse(form, text); err == nil {
			return Bound{Time: t}, nil
		}
	}
	return Bound{}, fmt.Errorf("%.64q is neither a position nor a time such as 2015-12-17T15:48:18Z", text)
}

// Before tells whether the bound is before an event.
func (b Bound) Before(r event.Recorded) bool {
	if b.Time.IsZero() {
		return r.Position > b.Position
	}
	return r.Meta.Time.After(b.Time)
}

// Reached refuses a bound that a log with its last event at head has not come to: a
// position that nothing was recorded at yet, a time after now.
func (b Bound) Reached(head event.Position, now time.Time) error {
	switch {
	case b.Position > head:
		return ErrFuture.With("position %d is not there yet: the log is at %d", b.Position, head)
	case b.Time.After(now):
		return ErrFuture.With("%s has not come yet", b.Time.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

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
