package projections

import (
	"slices"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

func (s *Snapshot) startOperation(r event.Recorded, e event.Start) {
	o := &Operation{
		ID: e.Operation, Kind: e.Kind, Cluster: e.Cluster, Version: e.Version, Policy: e.Policy, Actor: r.Meta.Actor,
		Reason: r.Meta.Reason, Status: InProcess, State: running, StartedAt: Time{r.Meta.Time}, Hosts: make([]Turn, len(e.Hosts)),
		cluster: e.ClusterID, generation: s.generation,
	}
	for i, m := range e.Hosts {
		o.Hosts[i] = Turn{Address: m.Host, State: waiting, HostID: m.HostID}
	}
	s.addOperation(r.Position, o)
}

// addOperation adds one that is newer than all others.
func (s *Snapshot) addOperation(pos event.Position, o *Operation) {
	o.place = placesOf(o.Hosts)
	s.operations.Set(pos, o)
	s.started.Set(o.ID, pos)
	s.latest.Set(string(o.cluster)+" "+string(o.Kind), o.ID)
}

// indexOperations finds operations that were read by their ids.
func (s *Snapshot) indexOperations() {
	s.operations.Scan(func(pos event.Position, o *Operation) bool {
		s.started.Set(o.ID, pos)
		return true
	})
}

func placesOf(hosts []Turn) map[domain.HostID]int {
	place := make(map[domain.HostID]int, len(hosts))
	for i, t := range hosts {
		place[t.HostID] = i
	}
	return place
}

func (s *Snapshot) endOperation(id domain.OperationID, now time.Time, status, cause string) {
	s.changeOperation(id, func(o *Operation) {
		o.Status, o.State, o.Waiting, o.Cause, o.FinishedAt = status, ended, nil, cause, &Time{now}
	})
}

func (s *Snapshot) changeOperation(id domain.OperationID, change func(*Operation)) {
	pos, ok := s.started.Get(id)
	if !ok {
		return
	}
	o, _ := s.operations.Get(pos)
	if o.withTurns().generation != s.generation {
		copied := *o
		copied.Hosts, copied.generation = slices.Clone(o.Hosts), s.generation
		o = &copied
		s.operations.Set(pos, o)
	}
	change(o)
}

// The states of an operation.
const (
	running    = "running"
	waiting    = "waiting" // also of a turn
	paused     = "paused"
	cancelling = "cancelling"
	ended      = "ended"
)

// The states of a turn, with waiting and Failed.
const (
	begun     = "begun"
	succeeded = "succeeded"
	skipped   = "skipped"
	unchanged = "" // whatever it was
)

// gating is what is being done on a host while its health is checked.
const gating = "checking health"

// applyOperation applies an event of an operation that happened now.
func (s *Snapshot) applyOperation(now time.Time, e event.OperationEvent) {
	switch e := e.(type) {
	case event.HostStaged:
		s.setTurn(now, e.Turn, waiting, func(_ *Operation, t *Turn) { t.Doing = "downloaded" })
	case event.HostTurnBegun:
		s.setState(e.Operation, running, nil)
		s.setTurn(now, e.Turn, begun, func(_ *Operation, t *Turn) { t.Doing = "examining" })
	case event.HostTurnCordoned:
		s.setTurn(now, e.Turn, begun, func(_ *Operation, t *Turn) { t.Doing = "draining" })
	case event.HostTurnExamined:
		s.setTurn(now, e.Turn, begun, func(o *Operation, t *Turn) { t.examine(o, now, e) })
	case event.HostTurnWorked:
		s.setTurn(now, e.Turn, begun, func(_ *Operation, t *Turn) { t.work(e) })
	case event.HostTurnRebootOrdered:
		s.setTurn(now, e.Turn, begun, func(_ *Operation, t *Turn) {
			t.Doing = "rebooting"
			t.waitAtMost(newWait("its reboot", now, e.Until))
		})
	case event.HostTurnWaiting:
		s.changeTurn(e.Turn, func(_ *Operation, t *Turn) { t.wait(now, e) })
	case event.HostTurnGated:
		s.gateTurn(now, e)
	case event.HostTurnSucceeded:
		s.setTurn(now, e.Turn, succeeded, func(_ *Operation, t *Turn) { t.succeed(e) })
	case event.HostTurnFailed:
		s.setTurn(now, e.Turn, Failed, func(_ *Operation, t *Turn) { t.fail(e) })
	case event.HostTurnSkipped:
		s.setTurn(now, e.Turn, skipped, func(_ *Operation, t *Turn) { t.Reason = e.Reason })
	case event.HostCleanedUp:
		s.setTurn(now, e.Turn, unchanged, func(_ *Operation, t *Turn) { t.cleanUp(e) })
	case event.OperationWaiting:
		s.setState(e.Operation, waiting, newWait(e.Why, now, e.Until))
	case event.OperationTakenUp:
	case event.OperationPaused:
		s.setState(e.Operation, paused, nil)
	case event.OperationResumed:
		s.setState(e.Operation, running, nil)
	case event.OperationCancelled:
		s.setState(e.Operation, cancelling, nil)
	case event.OperationAbandoned:
		s.setState(e.Operation, cancelling, nil)
	}
}

// setState sets the state of an operation, unless that comes to its end already.
func (s *Snapshot) setState(id domain.OperationID, state string, wait *Wait) {
	s.changeOperation(id, func(o *Operation) {
		if o.State != cancelling && o.State != ended {
			o.State, o.Waiting = state, wait
		}
	})
}

func (s *Snapshot) changeTurn(e event.Turn, change func(*Operation, *Turn)) {
	s.changeOperation(e.Operation, func(o *Operation) {
		if i, ok := o.place[e.HostID]; ok {
			change(o, &o.Hosts[i])
		}
	})
}

// setTurn sets the state of a turn, and changes it further. The host is frozen as it
// is when its turn begins, and when it ends.
func (s *Snapshot) setTurn(now time.Time, e event.Turn, state string, change func(*Operation, *Turn)) {
	s.changeTurn(e, func(o *Operation, t *Turn) {
		if state != unchanged {
			t.State = state
		}
		begins := state == begun && t.StartedAt == nil
		ends := state != begun && state != waiting && t.FinishedAt == nil
		if host, ok := s.hosts.Get(e.HostID); ok && t.FinishedAt == nil && (state != begun || begins) {
			t.frozen = s.describe(host)
		}
		if begins {
			t.StartedAt, t.Attempts, t.claim = &Time{now}, 1, e.Claim
		}
		if ends {
			t.FinishedAt = &Time{now}
		}
		t.Doing, t.Waiting, t.limit = "", nil, nil
		change(o, t)
	})
}

func (s *Snapshot) gateTurn(now time.Time, e event.HostTurnGated) {
	s.changeTurn(e.Turn, func(o *Operation, t *Turn) {
		if o.Policy.Health == nil {
			return
		}
		since := now // of the first check
		if t.Doing == gating && t.limit != nil {
			since = t.limit.Since.Time
		}
		limit := newWait("its health", since, since.Add(time.Duration(o.Policy.Health.Timeout)*time.Second))
		if e.Reason != "" {
			limit.Why += ": " + e.Reason
		}
		s.setTurn(now, e.Turn, begun, func(_ *Operation, t *Turn) {
			t.Doing, t.Reason = gating, e.Reason
			t.waitAtMost(limit)
		})
	})
}

func newWait(why string, since, until time.Time) *Wait { return &Wait{why, Time{since}, Time{until}} }

// waitAtMost sets what a turn waits for by itself, whatever else it waits for
// meanwhile.
func (t *Turn) waitAtMost(limit *Wait) { t.Waiting, t.limit = limit, limit }

func (t *Turn) examine(o *Operation, now time.Time, e event.HostTurnExamined) {
	t.Doing, t.VersionBefore = "working", e.Version
	if o.Kind != domain.Restart {
		t.waitAtMost(newWait("its "+string(o.Kind), now, now.Add(time.Duration(o.Policy.Timeout)*time.Second)))
	}
}

func (t *Turn) work(e event.HostTurnWorked) {
	t.ExitStatus, t.VersionAfter, t.Printed = new(int), e.Version, e.Output.Size
	t.Doing, t.Pending, t.Warnings = "checking", e.Pending, e.Warnings
	if e.Reboot {
		t.Doing = "rebooting"
	}
}

// wait sets what else a turn waits for, until that is over.
func (t *Turn) wait(now time.Time, e event.HostTurnWaiting) {
	switch {
	case t.FinishedAt != nil:
	case e.Why == "":
		t.Waiting = t.limit
	default:
		t.Waiting = newWait(e.Why, now, e.Until)
	}
}

func (t *Turn) succeed(e event.HostTurnSucceeded) {
	t.ExitStatus, t.VersionAfter, t.Pending, t.Reason = new(int), e.Version, e.Pending, ""
	t.Printed, t.Warnings = max(t.Printed, e.Output.Size), e.Warnings
}

func (t *Turn) fail(e event.HostTurnFailed) {
	t.Reason, t.Printed = e.Reason, max(t.Printed, e.Output.Size)
	if e.Exit != nil {
		t.ExitStatus = e.Exit
	}
	if e.Version != "" {
		t.VersionAfter, t.Pending = e.Version, ""
	}
}

func (t *Turn) cleanUp(e event.HostCleanedUp) {
	why := e.Failure
	if e.Failure == "" {
		why, t.Pending = "the pending deployment "+e.Version+" was dropped: the operation was cancelled", ""
	}
	if t.State == Failed {
		why = t.Reason + "; " + why
	}
	t.Reason = why
}

// countAttempt counts how often a turn was taken up: again by each service that finds
// it begun.
func (s *Snapshot) countAttempt(e event.HostTaken) {
	if e.Operation == "" {
		return
	}
	s.changeTurn(event.Turn{Operation: e.Operation, HostID: e.HostID}, func(_ *Operation, t *Turn) {
		if t.State == begun && t.claim == e.Claim {
			t.Attempts++
		}
	})
}
