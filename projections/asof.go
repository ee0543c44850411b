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
// than a time. It may be where a range begins as well as where it ends.
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

// Check refuses a bound that a log with its last event at head has not reached: a
// position that nothing was recorded at yet, a time after now.
func (b Bound) Check(head event.Position, now time.Time) error {
	switch {
	case b.Position > head:
		return ErrFuture.With("position %d is not there yet: the log is at %d", b.Position, head)
	case b.Time.After(now):
		return ErrFuture.With("%s has not come yet", b.Time.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// includes tells whether the bound is before no event of a snapshot.
func (b Bound) includes(s *Snapshot) bool {
	if b.Time.IsZero() {
		return s.Position <= b.Position
	}
	return !s.newest.After(b.Time)
}

const (
	maxSnapshots = 512
	firstSpacing = 16 // events between two snapshots
)

// retained are snapshots along the log, so that any other is a short fold away from
// one of them. They share what did not change between them. When there are too
// many, every other is dropped, and they are taken half as often from then on.
type retained struct {
	snapshots []*Snapshot // oldest first
	spacing   int         // events between two
	since     int         // events since the last

	copying sync.Mutex // of one of them
	copies  int
}

// retain retains the present when it is time to. The caller has the lock.
func (v *Views) retain() {
	p := v.retained
	if p.since++; p.since < p.spacing {
		return
	}
	p.since = 0
	p.snapshots = append(p.snapshots, v.publish())
	if len(p.snapshots) < maxSnapshots {
		return
	}
	const half = maxSnapshots / 2
	for i := range half {
		p.snapshots[i] = p.snapshots[2*i+1]
	}
	clear(p.snapshots[half:])
	p.snapshots, p.spacing = p.snapshots[:half], 2*p.spacing
}

// Read yields the events after a position, in order, in batches; it may go on
// for ever.
type Read func(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error]

// AsOf is what the views were at a bound: it folds up to the first event that the
// bound is before. A bound that is not reached yet is refused.
func (v *Views) AsOf(ctx context.Context, read Read, bound Bound, now time.Time) (*Snapshot, error) {
	present := v.Snapshot()
	if err := bound.Check(present.Position, now); err != nil {
		return nil, err
	}
	if bound.includes(present) {
		return present, nil
	}
	s := v.copyAt(bound)
	for batch, err := range read(ctx, s.Position) {
		if err != nil {
			return nil, fmt.Errorf("read the past after position %d: %w", s.Position, err)
		}
		for _, r := range batch {
			if bound.Before(r) || r.Position > present.Position {
				return s, nil
			}
			s.apply(r)
		}
	}
	return nil, fmt.Errorf("read the past after position %d: %w", s.Position, context.Cause(ctx))
}

// copyAt copies the last retained snapshot that a bound includes, so that it can be
// folded on. The copy has the histories of the present, and adds none.
func (v *Views) copyAt(bound Bound) *Snapshot {
	v.mu.Lock()
	p, from, history := v.retained, New().state, v.state.history
	if i := sort.Search(len(p.snapshots), func(i int) bool { return !bound.includes(p.snapshots[i]) }); i > 0 {
		from = p.snapshots[i-1]
	}
	v.mu.Unlock()
	p.copying.Lock()
	defer p.copying.Unlock()
	s := from.copy()
	p.copies++
	s.generation, s.history, s.historic = -p.copies, history, true // no other snapshot has that number
	return s
}
