package eventstoredb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// entry is what an event of the lease's stream says: who leads, in which term
// and for how long after it, or that it does no more.
type entry struct {
	Instance string      `json:"instance"`
	Term     domain.Term `json:"term"`
	Length   int64       `json:"length_ms"`
	Released bool        `json:"released,omitempty"`
}

// parseEntry reads the data of an event of the lease's stream.
func parseEntry(data []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		return entry{}, fmt.Errorf("read the lease: %w", err)
	}
	return e, nil
}

// sighting is the last entry of the stream as this instance knows it. Its own
// clock says how old it is: that of who wrote the entry may be wrong.
type sighting struct {
	entry
	revision event.Revision // event.NoRevision: nobody has led yet
	since    time.Time      // when it was seen at this revision for the first time
}

// update returns the sighting after the stream was read again. It begins anew only
// when the entry is another.
func (s sighting) update(e entry, revision event.Revision, now time.Time) sighting {
	if revision == s.revision {
		return s
	}
	return sighting{entry: e, revision: revision, since: now}
}

// isVacant tells whether the lease may be taken: nobody has it, or who has it did
// not say so again for as long as it may lead without. The leader counts from before it
// wrote, and the sighting from after it was read, so it no longer leads by then.
func (s sighting) isVacant(now time.Time) bool {
	return s.revision == event.NoRevision || s.Released || now.Sub(s.since) >= time.Duration(s.Length)*time.Millisecond
}

// next is the entry of who takes the lease after this sighting, in a term that is
// later than a given one, too: the stream may have been deleted.
func (s sighting) next(instance string, length time.Duration, after domain.Term) entry {
	return entry{Instance: instance, Term: max(s.Term, after) + 1, Length: length.Milliseconds()}
}

// leadsUntil is when a leader who wrote last at a time must have stopped: a tenth
// before anybody may take over, for timers that are late and clocks that differ.
func leadsUntil(wrote time.Time, length time.Duration) time.Time {
	return wrote.Add(length - length/10)
}

// renewsAt is when a leader who wrote last at a time writes again.
func renewsAt(wrote time.Time, length time.Duration) time.Time { return wrote.Add(length / 3) }

var errLeaseOver = errors.New("this instance leads no longer")

// leading is the context of who leads. It ends when its time is over without a
// renewal. Err looks at the clock, so it is right also when the timer did not
// run because the process did not: it may be asked right before an act. Contexts
// derived from it end with the timer.
type leading struct {
	context.Context
	end context.CancelCauseFunc

	mu    sync.Mutex
	until time.Time
	timer *time.Timer
}

func newLeading(ctx context.Context, until time.Time) *leading {
	l := &leading{until: until}
	l.Context, l.end = context.WithCancelCause(ctx)
	l.mu.Lock() // the timer looks at itself
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(time.Until(until), l.check)
	return l
}

// Err implements context.Context.
func (l *leading) Err() error {
	l.check()
	return l.Context.Err()
}

// check ends the context when its time is over.
func (l *leading) check() {
	l.mu.Lock()
	over := !time.Now().Before(l.until)
	l.mu.Unlock()
	if over {
		l.stop(errLeaseOver)
	}
}

// renew puts off the end, unless it has come.
func (l *leading) renew(until time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.Context.Err() != nil || !now.Before(l.until) {
		return false
	}
	l.until = until
	l.timer.Reset(time.Until(until))
	return true
}

func (l *leading) stop(why error) {
	l.timer.Stop()
	l.end(why)
}
