package projections

import (
	"fmt"
	"strconv"
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
