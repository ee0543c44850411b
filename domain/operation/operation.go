// Package operation decides the turns of the hosts in an operation and which
// come next. That a cluster runs one operation at a time is the roster's rule.
package operation

import (
	"fmt"

	"commissaire/domain"
	"commissaire/domain/event"
)

// State is how far a host's turn is.
type State int

// The states of a turn.
const (
	Waiting State = iota
	Begun
	Examined
	Succeeded
	Failed
	Skipped
)

// Turn is a host's part in an operation.
type Turn struct {
	State   State
	Claim   domain.ClaimID
	BootID  string // as it was found
	Version string
	Pending string
	Reason  string
}

// Over tells whether the turn has ended.
func (t Turn) Over() bool { return t.State >= Succeeded }

// Turns is what the events of an operation's stream come to.
type Turns map[domain.HostID]Turn

// Evolve brings the turns up to e.
func (t Turns) Evolve(e event.OperationEvent) {
	switch e := e.(type) {
	case event.HostTurnBegun:
		t[e.HostID] = Turn{State: Begun, Claim: e.Claim}
	case event.HostTurnExamined:
		t[e.HostID] = Turn{State: Examined, Claim: e.Claim, BootID: e.BootID, Version: e.Version, Pending: e.Pending}
	case event.HostTurnSucceeded:
		t[e.HostID] = Turn{State: Succeeded, Claim: e.Claim}
	case event.HostTurnFailed:
		t[e.HostID] = Turn{State: Failed, Claim: e.Claim, Reason: e.Reason}
	case event.HostTurnSkipped:
		t[e.HostID] = Turn{State: Skipped, Claim: e.Claim, Reason: e.Reason}
	}
}

// Begin begins a host's turn. A turn that was begun stays as it is.
func (t Turns) Begin(turn event.Turn, term domain.Term) []event.OperationEvent {
	if t[turn.HostID].State != Waiting {
		return nil
	}
	return []event.OperationEvent{event.HostTurnBegun{Turn: turn, Term: term}}
}

// Examine records how a host was found, once a turn.
func (t Turns) Examine(turn event.Turn, bootID, version, pending string) []event.OperationEvent {
	if t[turn.HostID].State != Begun {
		return nil
	}
	return []event.OperationEvent{event.HostTurnExamined{Turn: turn, BootID: bootID, Version: version, Pending: pending}}
}

// End records how a turn ended: e is one of HostTurnSucceeded, HostTurnFailed
// and HostTurnSkipped. A turn that is over stays as it is.
func (t Turns) End(host domain.HostID, e event.OperationEvent) []event.OperationEvent {
	if t[host].Over() {
		return nil
	}
	return []event.OperationEvent{e}
}

// Operation is an operation with its turns.
type Operation struct {
	event.Started
	Kind    domain.OperationKind
	Version string
	Turns   Turns
}

// Availability is whether a host can be taken in hand.
type Availability int

// The availabilities.
const (
	Free  Availability = iota
	Busy               // somebody else works on it: it waits, and does not hold up the others
	Taken              // its turn is being begun: it counts as in hand
	Gone               // it was removed, or left the cluster: its turn is skipped
)

// Next is what history leaves outstanding.
type Next struct {
	InHand []event.Member // turns begun and not over: they are to be carried on
	Begin  []event.Member // turns to begin now
	Skip   []event.Member
	Ended  bool
	Cause  string // with Ended: why it was aborted; "" when it came to its end
}

// Next depends on recorded history and on the hosts' availability alone, so a
// restart needs no recovery. Begun hosts finish; none begins after more than
// the tolerated number failed.
func (o *Operation) Next(available func(event.Member) Availability) Next {
	var next Next
	var failed []event.Member
	var waiting []event.Member
	for _, m := range o.Hosts {
		switch o.Turns[m.HostID].State {
		case Waiting:
			waiting = append(waiting, m)
		case Begun, Examined:
			next.InHand = append(next.InHand, m)
		case Failed:
			failed = append(failed, m)
		case Succeeded, Skipped:
		}
	}
	if len(failed) > o.Policy.MaxFailures.Of(len(o.Hosts)) {
		if len(next.InHand) == 0 {
			first := failed[0]
			next.Ended, next.Cause = true, fmt.Sprintf("host %s: %s", first.Host, o.Turns[first.HostID].Reason)
		}
		return next
	}
	room := max(1, o.Policy.MaxUnavailable.Of(len(o.Hosts))) - len(next.InHand)
	var free []event.Member
	for _, m := range waiting {
		switch available(m) {
		case Gone:
			next.Skip = append(next.Skip, m)
		case Free:
			free = append(free, m)
		case Taken:
			room--
		case Busy:
		}
	}
	next.Begin = free[:min(max(room, 0), len(free))]
	next.Ended = len(waiting) == 0 && len(next.InHand) == 0
	return next
}
