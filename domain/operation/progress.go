package operation

import (
	"maps"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// State is how far a host's turn is.
type State int

// The states of a turn. Those from Succeeded on are its end.
const (
	Waiting  State = iota
	Begun          // taken in hand; nothing was changed on it
	Examined       // its boot id and version are known
	Worked         // the command has ended well; a reboot and the health gate may follow
	Succeeded
	Failed
	Skipped
)

// Turn is a host's part in an operation.
type Turn struct {
	State   State
	Claim   domain.ClaimID
	Staged  bool         // what it needs is downloaded
	BootID  string       // as it was found
	Booted  event.System // as it was found
	Pending event.System // what waited for a boot when it was found
	Locked  bool         // the next boot was not to bring that
	OSTree  bool
	Worked  Work      // from Worked on
	Cordon  Cordon    // what was done to keep work away from it
	Healthy time.Time // since when the gate is passed without a break; zero: it is not
	Gated   time.Time // since when the gate is asked
	Since   time.Time // when it came to what it does now
	BackBy  time.Time // when it must be back from its reboot; zero: none was ordered
	Wait    Wait      // what it waits for
	waits   int       // so many were recorded
	Reason  string
	Ended   time.Time
	Left    event.System // the deployment that it left to be booted
}

// Wait is what a turn waits for, since when, and until when at most; its zero value
// is nothing.
type Wait struct {
	Why          string
	Since, Until time.Time
}

// mostWaits is how often it is recorded what a turn waits for: a host may change its
// mind about that as often as it likes.
const mostWaits = 100

// Work is how the host was after its command.
type Work struct {
	BootID  string
	Pending event.System // what waits for a boot; its zero value is nothing new
	Locked  bool         // the next boot does not bring that
	Reboot  bool         // one is to follow
	Output  event.Output

	Warnings []string // as in event.HostTurnWorked
}

// Gate tells whether a host has passed the gate by now, or is late.
func (t Turn) Gate(h event.Health, now time.Time) (passed, late bool) {
	passed = !t.Healthy.IsZero() && !now.Before(t.Healthy.Add(time.Duration(h.StableFor)*time.Second))
	late = !passed && !t.Gated.IsZero() && !now.Before(t.Gated.Add(time.Duration(h.Timeout)*time.Second))
	return passed, late
}

// Cordon is what an operation knows of a host's node.
type Cordon int

// The states of a node.
const (
	NotCordoned    Cordon = iota
	Cordoned              // by this turn, which takes it back
	CordonedBefore        // by somebody else, whose business it stays
)

// Over tells whether the turn has ended.
func (t Turn) Over() bool { return t.State >= Succeeded }

// Progress is what the events of an operation's stream come to.
type Progress struct {
	turns       map[domain.HostID]Turn
	Paused      bool
	pausedAlone bool // by its policy, once
	waiting     event.OperationWaiting
	Cancelled   string // why; "": it was not
	Abandoned   string // likewise
	term        domain.Term
}

// Turn is a host's turn.
func (p *Progress) Turn(id domain.HostID) Turn { return p.turns[id] }

// failed counts the hosts that failed.
func (p *Progress) failed() (n int) {
	for _, t := range p.turns {
		if t.State == Failed {
			n++
		}
	}
	return n
}

// Done are the hosts that have what the operation wanted for them: also those that
// were skipped as there was nothing to do, not those that had left before their turn.
func (p *Progress) Done() map[domain.HostID]bool {
	done := map[domain.HostID]bool{}
	for id, t := range p.turns {
		if t.State == Succeeded || t.State == Skipped && t.Claim != "" {
			done[id] = true
		}
	}
	return done
}

// Clone is a progress of its own with the same content.
func (p *Progress) Clone() *Progress {
	c := *p
	c.turns = make(map[domain.HostID]Turn, len(p.turns))
	maps.Copy(c.turns, p.turns)
	return &c
}

// Evolve brings the progress up to e, which was recorded at that time.
func (p *Progress) Evolve(e event.OperationEvent, now time.Time) {
	change := func(of event.Turn, f func(*Turn)) {
		if p.turns == nil {
			p.turns = map[domain.HostID]Turn{}
		}
		t := p.turns[of.HostID]
		t.Since, t.Wait = now, Wait{}
		f(&t)
		p.turns[of.HostID] = t
	}
	end := func(of event.Turn, state State, reason string, left event.System) {
		change(of, func(t *Turn) { t.State, t.Reason, t.Left, t.Ended = state, reason, left, now })
	}
	switch e := e.(type) {
	case event.HostStaged:
		change(e.Turn, func(t *Turn) { t.Staged = true })
	case event.HostTurnBegun:
		change(e.Turn, func(t *Turn) { t.State, t.Claim = Begun, e.Claim })
		p.term = max(p.term, e.Term)
	case event.HostTurnCordoned:
		change(e.Turn, func(t *Turn) {
			if t.Cordon = Cordoned; e.Before {
				t.Cordon = CordonedBefore
			}
		})
	case event.HostTurnExamined:
		change(e.Turn, func(t *Turn) {
			t.State, t.BootID, t.OSTree = Examined, e.BootID, e.OSTree
			t.Booted, t.Pending, t.Locked = event.System{Name: e.Version, ID: e.BootedID}, event.System{Name: e.Pending, ID: e.PendingID}, e.Locked
		})
	case event.HostTurnWorked:
		change(e.Turn, func(t *Turn) {
			t.State, t.Worked = Worked, Work{e.BootID, event.System{Name: e.Pending, ID: e.PendingID}, e.Locked, e.Reboot, e.Output, e.Warnings}
		})
	case event.HostTurnRebootOrdered:
		change(e.Turn, func(t *Turn) { t.BackBy = e.Until })
	case event.HostTurnWaiting:
		since := p.turns[e.HostID].Since
		change(e.Turn, func(t *Turn) {
			t.Since = since
			t.waits++
			if e.Why != "" {
				t.Wait = Wait{e.Why, now, e.Until}
			}
		})
	case event.HostTurnGated:
		change(e.Turn, func(t *Turn) {
			if t.Gated.IsZero() {
				t.Gated = now
			}
			if t.Healthy = (time.Time{}); e.Healthy {
				t.Healthy = now
			}
		})
	case event.HostTurnSucceeded:
		// What waits there now it left only if its own command made that: after a
		// reboot, and after a restart, it is another's.
		var left event.System
		t, pending := p.turns[e.HostID], event.System{Name: e.Pending, ID: e.PendingID}
		made := t.State == Begun || t.State == Worked && !t.Worked.Reboot && pending.Is(t.Worked.Pending)
		if e.OSTree && made && !pending.Is(t.Pending) {
			left = pending
		}
		end(e.Turn, Succeeded, "", left)
	case event.HostTurnFailed:
		var left event.System
		if t := p.turns[e.HostID]; t.State == Worked && t.OSTree && !t.Worked.Reboot && !t.Worked.Pending.Is(t.Pending) {
			left = t.Worked.Pending
		}
		end(e.Turn, Failed, e.Reason, left)
	case event.HostTurnSkipped:
		end(e.Turn, Skipped, e.Reason, event.System{})
	case event.HostCleanedUp:
		change(e.Turn, func(t *Turn) { t.Left = event.System{} })
	case event.OperationTakenUp:
		p.term = max(p.term, e.Term)
	case event.OperationWaiting:
		p.waiting = e
	case event.OperationPaused:
		p.Paused = true
		p.pausedAlone = p.pausedAlone || e.ByPolicy
	case event.OperationResumed:
		p.Paused, p.waiting = false, event.OperationWaiting{} // what it waits for is said again
	case event.OperationCancelled:
		p.Cancelled = e.Cause
	case event.OperationAbandoned:
		p.Abandoned = e.Cause
	}
}

// Stage records that a host has downloaded what it needs. Once is enough.
func (p *Progress) Stage(turn event.Turn) []event.OperationEvent {
	if t := p.Turn(turn.HostID); t.Staged || t.State != Waiting || p.Abandoned != "" {
		return nil
	}
	return []event.OperationEvent{event.HostStaged{Turn: turn}}
}

// TakeUp records that the leader of a term carries the operation out. A leader
// does so before it decides anything by what it has seen of the operation: what
// an earlier one begins after that is refused, so it has seen all of it.
func (p *Progress) TakeUp(id domain.OperationID, term domain.Term) []event.OperationEvent {
	if term <= p.term {
		return nil
	}
	return []event.OperationEvent{event.OperationTakenUp{Operation: id, Term: term}}
}

// Overtaken tells whether the leader of a later term carries the operation out:
// what one of this term makes of it is no matter any more.
func (p *Progress) Overtaken(term domain.Term) bool { return term < p.term }

// Begin begins a host's turn. A turn that was begun stays as it is, and none
// begins while the operation is paused, after more than the tolerated number of
// hosts failed, after it was cancelled or abandoned, or in a term that is over.
func (p *Progress) Begin(turn event.Turn, term domain.Term, tolerated int) []event.OperationEvent {
	if p.Turn(turn.HostID).State != Waiting || p.Paused || p.Cancelled != "" || p.Abandoned != "" || p.failed() > tolerated || p.Overtaken(term) {
		return nil
	}
	return []event.OperationEvent{event.HostTurnBegun{Turn: turn, Term: term}}
}

// Cordon records, before it is done, that work is kept away from a host's node;
// before: somebody did so already. Once a turn, unless that somebody let work in
// again meanwhile, and now it is this turn that keeps it away.
func (p *Progress) Cordon(turn event.Turn, before bool) []event.OperationEvent {
	if t := p.Turn(turn.HostID); t.Over() || t.Cordon == Cordoned || t.Cordon == CordonedBefore && before {
		return nil
	}
	return []event.OperationEvent{event.HostTurnCordoned{Turn: turn, Before: before}}
}

// Examine records how a host was found, once a turn.
func (p *Progress) Examine(e event.HostTurnExamined) []event.OperationEvent {
	if p.Turn(e.HostID).State != Begun {
		return nil
	}
	return []event.OperationEvent{e}
}

// Work records that a host's command ended well, once a turn.
func (p *Progress) Work(e event.HostTurnWorked) []event.OperationEvent {
	if p.Turn(e.HostID).State != Examined {
		return nil
	}
	return []event.OperationEvent{e}
}

// OrderReboot records, before it is done, that the host is told to reboot; once a turn.
func (p *Progress) OrderReboot(e event.HostTurnRebootOrdered) []event.OperationEvent {
	if t := p.Turn(e.HostID); t.State != Examined && t.State != Worked || !t.BackBy.IsZero() {
		return nil
	}
	return []event.OperationEvent{e}
}

// AwaitHost records what a turn waits for, and until when at most, where that is
// another thing than before; with no reason, that it waits for nothing any more.
func (p *Progress) AwaitHost(turn event.Turn, why string, until time.Time) []event.OperationEvent {
	t := p.Turn(turn.HostID)
	if t.Over() || p.Abandoned != "" || t.Wait.Why == why || why != "" && t.waits >= mostWaits {
		return nil
	}
	e := event.HostTurnWaiting{Turn: turn, Why: why}
	if why != "" {
		e.Until = until.UTC()
	}
	return []event.OperationEvent{e}
}

// Gate records what a host's health is, when it changes.
func (p *Progress) Gate(turn event.Turn, healthy bool, reason string) []event.OperationEvent {
	t := p.Turn(turn.HostID)
	if t.Over() || !t.Gated.IsZero() && healthy == !t.Healthy.IsZero() {
		return nil
	}
	return []event.OperationEvent{event.HostTurnGated{Turn: turn, Healthy: healthy, Reason: reason}}
}

// End records how a turn ended: e is one of HostTurnSucceeded, HostTurnFailed
// and HostTurnSkipped. A turn that is over stays as it is.
func (p *Progress) End(host domain.HostID, e event.OperationEvent) []event.OperationEvent {
	if p.Turn(host).Over() {
		return nil
	}
	return []event.OperationEvent{e}
}

// CleanUp records that the deployment a turn had left is gone, or why it is not.
func (p *Progress) CleanUp(turn event.Turn, failure string) []event.OperationEvent {
	left := p.Turn(turn.HostID).Left
	if left == (event.System{}) {
		return nil
	}
	return []event.OperationEvent{event.HostCleanedUp{Turn: turn, Version: left.Name, Failure: failure}}
}

// Wait records that no host is begun until a time, and why; the same once.
func (p *Progress) Wait(id domain.OperationID, why string, until time.Time) []event.OperationEvent {
	e := event.OperationWaiting{Operation: id, Why: why, Until: until.UTC()}
	if p.waiting == e {
		return nil
	}
	return []event.OperationEvent{e}
}

// Pause keeps further hosts from being begun. Pausing again changes nothing.
func (p *Progress) Pause(id domain.OperationID, byPolicy bool) []event.OperationEvent {
	if p.Paused || p.Cancelled != "" || byPolicy && p.pausedAlone {
		return nil
	}
	return []event.OperationEvent{event.OperationPaused{Operation: id, ByPolicy: byPolicy}}
}

// Resume ends a pause. Resuming what is not paused changes nothing.
func (p *Progress) Resume(id domain.OperationID) []event.OperationEvent {
	if !p.Paused {
		return nil
	}
	return []event.OperationEvent{event.OperationResumed{Operation: id}}
}

// Cancel ends an operation as soon as no host is in hand. It cannot be taken
// back; doing it again changes nothing.
func (p *Progress) Cancel(id domain.OperationID, cause string) []event.OperationEvent {
	if p.Cancelled != "" {
		return nil
	}
	return []event.OperationEvent{event.OperationCancelled{Operation: id, Cause: cause}}
}

// Abandon gives an operation up: turns that were begun are over, with the cause as
// their reason, and no further one begins. What goes on on hosts is not touched.
// It cannot be taken back; doing it again changes nothing.
func (p *Progress) Abandon(id domain.OperationID, cause string, hosts []event.Member) []event.OperationEvent {
	if p.Abandoned != "" {
		return nil
	}
	events := []event.OperationEvent{event.OperationAbandoned{Operation: id, Cause: cause}}
	for _, m := range hosts {
		if t := p.Turn(m.HostID); t.State != Waiting && !t.Over() {
			events = append(events, event.HostTurnFailed{
				Turn:   event.Turn{Operation: id, HostID: m.HostID, Host: m.Host, Claim: t.Claim},
				Reason: cause, Output: t.Worked.Output,
			})
		}
	}
	return events
}
