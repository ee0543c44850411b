package process

import (
	"context"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// schedule is what is under way here, and what is to be looked at.
type schedule struct {
	hosts      inflight[domain.HostID]      // what is done to them
	operations inflight[domain.OperationID] // decisions about them

	dirty    map[domain.HostID]bool // they may need upkeep
	retries  map[domain.HostID]retry
	upkeeps  map[domain.Address]context.CancelFunc // under way
	destroys []domain.CredentialID
}

func newSchedule() schedule {
	return schedule{
		hosts:      inflight[domain.HostID]{},
		operations: inflight[domain.OperationID]{},
		dirty:      map[domain.HostID]bool{},
		retries:    map[domain.HostID]retry{},
		upkeeps:    map[domain.Address]context.CancelFunc{},
	}
}

// inflight is work that is under way, by what it is about. Work that has ended stays
// in it until its outcome was applied, so that nothing is begun on what was before.
type inflight[K comparable] map[K]*job

// job is one piece of it.
type job struct {
	operation domain.OperationID // whose turn it is; "": other work
	stop      context.CancelFunc // nil: it cannot be stopped
	ended     bool
	outcome   event.Position
}

func (f inflight[K]) busy(key K) bool { return f[key] != nil }

// end notes where the outcome of work is; 0: nowhere.
func (f inflight[K]) end(key K, outcome event.Position) {
	if j, ok := f[key]; ok {
		j.ended, j.outcome = true, outcome
	}
}

// applied drops what has ended with an outcome up to that position, and says what
// that was about.
func (f inflight[K]) applied(position event.Position) (settled []K) {
	for key, j := range f {
		if j.ended && j.outcome <= position {
			delete(f, key)
			settled = append(settled, key)
		}
	}
	return settled
}

// retry is when the upkeep of a host is tried again, and after which delay.
type retry struct {
	due     time.Time
	delay   time.Duration
	ordered bool // something was ordered of the host since its upkeep began
}

// Backoff of upkeep that failed.
const (
	storeRetry = 2 * time.Second // of upkeep that failed as the store did
	firstRetry = time.Minute
	lastRetry  = time.Hour
)

// follow schedules what an event calls for.
func (s *schedule) follow(c consequences) {
	if c.forgotten != "" {
		delete(s.dirty, c.forgotten)
		delete(s.retries, c.forgotten)
	}
	for _, id := range c.changed {
		s.dirty[id] = true
	}
	for _, id := range c.ordered {
		s.order(id)
	}
	if c.removed != nil {
		if stop, ok := s.upkeeps[c.removed.Host]; ok {
			stop()
		}
	}
	if c.unused != "" {
		s.destroys = append(s.destroys, c.unused)
	}
	if c.abandoned != "" { // what was begun on hosts goes on there
		for _, j := range s.hosts {
			if j.operation == c.abandoned {
				j.stop()
			}
		}
	}
}

// order looks at a host at once, or as soon as what is under way has ended: what that
// fails at may not be wanted any more.
func (s *schedule) order(id domain.HostID) {
	s.dirty[id] = true
	s.retries[id] = retry{ordered: true}
}

// begun notes that the upkeep of a host begins, with all that was ordered by now.
func (s *schedule) begun(id domain.HostID) {
	s.retries[id] = retry{delay: s.retries[id].delay}
}

// done takes a host off the schedule that needs no upkeep.
func (s *schedule) done(id domain.HostID) {
	delete(s.dirty, id)
	delete(s.retries, id)
}

// retryAfter notes how upkeep ended that was not stopped.
func (s *schedule) retryAfter(id domain.HostID, err error, now time.Time) {
	delay := s.retries[id].delay
	switch {
	case err == nil || s.retries[id].ordered:
		delete(s.retries, id)
	case about(err) == theStore:
		s.retries[id] = retry{due: now.Add(storeRetry), delay: delay}
	default:
		delay = min(max(firstRetry, 2*delay), lastRetry)
		s.retries[id] = retry{due: now.Add(delay), delay: delay}
	}
}
