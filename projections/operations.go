package projections

import (
	"slices"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// start shows an operation that was started.
func (s *Snapshot) start(r event.Recorded, e event.Start) {
	o := &Operation{
		ID: e.Operation, Kind: e.Kind, Cluster: e.Cluster, Version: e.Version, Policy: e.Policy, Actor: r.Meta.Actor,
		Reason: r.Meta.Reason, Status: InProcess, State: "running", StartedAt: Time{r.Meta.Time}, Hosts: make([]Turn, len(e.Hosts)),
		cluster: e.ClusterID, generation: s.generation,
	}
	for i, m := range e.Hosts {
		o.Hosts[i] = Turn{Address: m.Host, State: "waiting", HostID: m.HostID}
	}
	s.addOperation(uint64(r.Position), o)
}

// addOperation adds one that is newer than all others.
func (s *Snapshot) addOperation(pos uint64, o *Operation) {
	o.place = placesOf(o.Hosts)
	s.operations.Set(pos, o)
	s.started.Set(o.ID, pos)
	s.latest.Set(string(o.cluster)+" "+string(o.Kind), o.ID)
}

// indexOperations finds operations that were read by their ids.
func (s *Snapshot) indexOperations() {
	s.operations.Scan(func(pos uint64, o *Operation) bool {
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

func (s *Snapshot) end(id domain.OperationID, now time.Time, status, cause string) {
	s.changeOperation(id, func(o *Operation) {
		o.Status, o.State, o.Waiting, o.Cause, o.FinishedAt = status, "ended", nil, cause, &Time{now}
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

// gating is what is being done on a host whose health is looked at.
const gating = "checking health"

// asItWas is the state of a turn that stays in its own.
const asItWas = ""

// applyTurn shows how far a turn is. The host is frozen as it is when that begins,
// and when it ends.
func (s *Snapshot) applyTurn(now time.Time, e event.OperationEvent) {
	change := func(t event.Turn, state string, f func(*Turn)) {
		s.changeOperation(t.Operation, func(o *Operation) {
			i, ok := o.place[t.HostID]
			if !ok {
				return
			}
			turn := &o.Hosts[i]
			if state != asItWas {
				turn.State = state
			}
			if host, ok := s.hosts.Get(t.HostID); ok && turn.FinishedAt == nil && (state != "begun" || turn.StartedAt == nil) {
				turn.frozen = s.describe(host)
			}
			if state == "begun" && turn.StartedAt == nil {
				turn.StartedAt, turn.Attempts, turn.claim = &Time{now}, 1, t.Claim
			}
			turn.Waiting, turn.limit = nil, nil
			if turn.Doing = ""; state != "begun" && state != "waiting" && turn.FinishedAt == nil {
				turn.FinishedAt = &Time{now}
			}
			f(turn)
		})
	}
	wait := func(why string, since, until time.Time) *Wait { return &Wait{why, Time{since}, Time{until}} }
	doing := func(t event.Turn, what string) { change(t, "begun", func(turn *Turn) { turn.Doing = what }) }
	is := func(id domain.OperationID, state string, until *Wait) {
		s.changeOperation(id, func(o *Operation) {
			if o.State != "cancelling" && o.State != "ended" {
				o.State, o.Waiting = state, until
			}
		})
	}
	switch e := e.(type) {
	case event.HostStaged:
		change(e.Turn, "waiting", func(t *Turn) { t.Doing = "downloaded" })
	case event.HostTurnBegun:
		is(e.Operation, "running", nil)
		doing(e.Turn, "examining")
	case event.HostTurnCordoned:
		doing(e.Turn, "draining")
	case event.HostTurnExamined:
		change(e.Turn, "begun", func(t *Turn) { t.Doing, t.VersionBefore = "working", e.Version })
		s.changeOperation(e.Operation, func(o *Operation) {
			if i, ok := o.place[e.HostID]; ok && o.Kind != domain.Restart {
				o.Hosts[i].limit = wait("its "+string(o.Kind), now, now.Add(time.Duration(o.Policy.Timeout)*time.Second))
				o.Hosts[i].Waiting = o.Hosts[i].limit
			}
		})
	case event.HostTurnWorked:
		change(e.Turn, "begun", func(t *Turn) {
			exit := 0
			t.ExitStatus, t.VersionAfter, t.Printed = &exit, e.Version, e.Output.Size
			if t.Doing, t.Pending, t.Warnings = "checking", e.Pending, e.Warnings; e.Reboot {
				t.Doing = "rebooting"
			}
		})
	case event.HostTurnRebootOrdered:
		change(e.Turn, "begun", func(t *Turn) {
			t.Doing, t.limit = "rebooting", wait("its reboot", now, e.Until)
			t.Waiting = t.limit
		})
	case event.HostTurnWaiting:
		s.changeOperation(e.Operation, func(o *Operation) {
			i, ok := o.place[e.HostID]
			if !ok || o.Hosts[i].FinishedAt != nil {
				return
			}
			if o.Hosts[i].Waiting = o.Hosts[i].limit; e.Why != "" {
				o.Hosts[i].Waiting = wait(e.Why, now, e.Until)
			}
		})
	case event.HostTurnGated:
		s.changeOperation(e.Operation, func(o *Operation) {
			i, ok := o.place[e.HostID]
			if !ok || o.Policy.Health == nil {
				return
			}
			since := now // of the first look
			if o.Hosts[i].Doing == gating && o.Hosts[i].limit != nil {
				since = o.Hosts[i].limit.Since.Time
			}
			limit := wait("its health", since, since.Add(time.Duration(o.Policy.Health.Timeout)*time.Second))
			if e.Reason != "" {
				limit.Why += ": " + e.Reason
			}
			doing(e.Turn, gating)
			o.Hosts[i].Reason, o.Hosts[i].Waiting, o.Hosts[i].limit = e.Reason, limit, limit
		})
	case event.HostTurnSucceeded:
		change(e.Turn, "succeeded", func(t *Turn) {
			exit := 0
			t.ExitStatus, t.VersionAfter, t.Pending, t.Reason = &exit, e.Version, e.Pending, ""
			t.Printed, t.Warnings = max(t.Printed, e.Output.Size), e.Warnings
		})
	case event.HostTurnFailed:
		change(e.Turn, "failed", func(t *Turn) {
			t.Reason, t.Printed = e.Reason, max(t.Printed, e.Output.Size)
			if e.Exit != nil {
				t.ExitStatus = e.Exit
			}
			if e.Version != "" {
				t.VersionAfter, t.Pending = e.Version, ""
			}
		})
	case event.HostTurnSkipped:
		change(e.Turn, "skipped", func(t *Turn) { t.Reason = e.Reason })
	case event.HostCleanedUp:
		change(e.Turn, asItWas, func(t *Turn) {
			why := e.Failure
			if e.Failure == "" {
				why, t.Pending = "the pending deployment "+e.Version+" was dropped: the operation was cancelled", ""
			}
			if t.State == "failed" {
				why = t.Reason + "; " + why
			}
			t.Reason = why
		})
	case event.OperationWaiting:
		is(e.Operation, "waiting", wait(e.Why, now, e.Until))
	case event.OperationTakenUp:
	case event.OperationPaused:
		is(e.Operation, "paused", nil)
	case event.OperationResumed:
		is(e.Operation, "running", nil)
	case event.OperationCancelled:
		is(e.Operation, "cancelling", nil)
	case event.OperationAbandoned:
		is(e.Operation, "cancelling", nil)
	}
}

// taken counts how often a turn was taken up: anew by each service that finds it
// begun.
func (s *Snapshot) taken(e event.HostTaken) {
	if e.Operation == "" {
		return
	}
	s.changeOperation(e.Operation, func(o *Operation) {
		i, ok := o.place[e.HostID]
		if ok && o.Hosts[i].State == "begun" && o.Hosts[i].claim == e.Claim {
			o.Hosts[i].Attempts++
		}
	})
}
