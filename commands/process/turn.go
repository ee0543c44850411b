package process

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
	"commissaire/domain/roster"
)

// turn carries out a host's part in an operation, from wherever it is: each
// thing it does follows from what is recorded of the turn, so taking it up again
// after a crash is nothing special.
type turn struct {
	p         *Process
	operation domain.OperationID
	kind      domain.OperationKind
	version   string
	policy    event.Policy
	tolerated int // failed hosts
	member    event.Member
	state     operation.Turn // as it is recorded
	ref       event.Turn     // how events name it

	// What follows is there once the host is taken.
	host  roster.Host
	node  *node         // nil: no container manager knows the host
	limit time.Duration // for the command

	session   Session // a connection, made anew when it breaks; nil: none
	contacted bool    // the host was dialled
	ordered   bool    // the host took note of the order to reboot

	draining time.Duration // was spent on it so far, since the turn was taken up
}

func newTurn(p *Process, o *operation.Operation, m event.Member) *turn {
	return &turn{
		p: p, operation: o.Operation, kind: o.Kind, version: o.Version, policy: o.Policy, tolerated: o.Tolerated(), member: m, state: o.Turn(m.HostID),
		ref: event.Turn{Operation: o.Operation, HostID: m.HostID, Host: m.Host},
	}
}

// look looks up the host and its container manager.
func (t *turn) look() {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.host, _ = t.p.world.roster.Host(t.member.HostID)
	t.limit = time.Duration(t.policy.Timeout) * time.Second
	if definition, managed := t.p.world.managers[t.p.world.wanted(t.host)]; managed {
		t.node = &node{p: t.p, definition: definition, host: t.host.Host}
	}
}

// unclaimed is how events name the turn that tell of no work under a claim.
func (t *turn) unclaimed() event.Turn {
	ref := t.ref
	ref.Claim = ""
	return ref
}

func (t *turn) report(ctx context.Context, what string, err error) {
	t.p.report(ctx, what, err, "host", t.member.Host, "operation", t.operation)
}

// recordAny records what f decides, and keeps what the turn is then. A leader that
// was overtaken, suspended perhaps, records nothing: the turn is another's now.
func (t *turn) recordAny(ctx context.Context, f func(*operation.Progress) []event.OperationEvent) (event.Position, error) {
	overtaken := false
	receipt, state, err := t.p.config.Commands.RecordTurn(ctx, t.operation, t.member.HostID, func(p *operation.Progress) []event.OperationEvent {
		if overtaken = p.Overtaken(t.p.term); overtaken {
			return nil
		}
		return f(p)
	})
	switch {
	case err != nil:
		return 0, err
	case overtaken:
		return 0, errOvertaken
	}
	t.state = state
	return receipt.Position, nil
}

// record is recordAny for a turn that goes on. One that was given up meanwhile is
// over: nothing more is done of it.
func (t *turn) record(ctx context.Context, f func(*operation.Progress) []event.OperationEvent) error {
	if _, err := t.recordAny(ctx, f); err != nil {
		return err
	}
	if t.state.Over() {
		return errOver
	}
	return nil
}

// carryOut returns the position of the last thing recorded; 0 when nothing was.
func (t *turn) carryOut(ctx context.Context) event.Position { return t.claimed(ctx, t.skip, t.work) }

// work does the turn's work and says how it ended. An error says nothing about
// the host: the turn stays open.
func (t *turn) work(ctx context.Context) (event.OperationEvent, error) {
	if err := t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.Begin(t.ref, t.p.term, t.tolerated) }); err != nil {
		return nil, err
	}
	if t.state.State == operation.Waiting {
		return nil, errNotBegun
	}
	outcome, err := t.steps(ctx)
	if err != nil {
		outcome, err = t.failed(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return t.uncordoned(ctx, outcome)
}

// steps does what the turn calls for, one thing after the other.
func (t *turn) steps(ctx context.Context) (event.OperationEvent, error) {
	var facts, after event.Facts
	var outcome event.OperationEvent
	var err error
	if t.state.State == operation.Begun {
		if facts, outcome, err = t.examine(ctx); outcome != nil || err != nil {
			return outcome, err
		}
	}
	if t.state.State == operation.Examined && t.kind != domain.Restart {
		if after, outcome, err = t.run(ctx, facts); outcome != nil || err != nil {
			return outcome, err
		}
	}
	if after, outcome, err = t.rebooted(ctx, after); err != nil {
		return nil, err
	}
	// Whatever becomes of the turn, so that its reboot is not taken for another.
	if err := t.recordFacts(ctx, after); err != nil || outcome != nil {
		return outcome, err
	}
	if outcome, err := t.awaitHealth(ctx, after.BootID); outcome != nil || err != nil {
		return outcome, err
	}
	return event.HostTurnSucceeded{
		Turn: t.ref, Version: after.Version, Pending: after.Pending, OSTree: after.OSTree, BootID: after.BootID, Output: t.state.Worked.Output,
		BootedID: after.BootedID, PendingID: after.PendingID,
		Warnings: t.state.Worked.Warnings,
	}, nil
}

// examine records how the host is before anything is done to it, or says how the
// turn ended instead.
func (t *turn) examine(ctx context.Context) (facts event.Facts, outcome event.OperationEvent, err error) {
	if facts, err = t.facts(ctx, time.Time{}); err != nil {
		return facts, nil, err
	}
	switch _, skip, problem := t.p.config.Remote.Plan(t.kind, t.version, t.policy, facts); {
	case problem != "":
		return facts, event.HostTurnFailed{Turn: t.ref, Reason: problem}, nil
	case skip != "":
		return facts, event.HostTurnSkipped{Turn: t.ref, Reason: skip}, nil
	}
	if err := t.drain(ctx); err != nil {
		return facts, nil, err
	}
	return facts, nil, t.record(ctx, func(p *operation.Progress) []event.OperationEvent {
		return p.Examine(event.HostTurnExamined{
			Turn: t.ref, BootID: facts.BootID, Version: facts.Version, Pending: facts.Pending, OSTree: facts.OSTree,
			BootedID: facts.BootedID, PendingID: facts.PendingID, Locked: facts.Locked,
		})
	})
}

// failed is the outcome of a turn that an error ended. Being stopped or
// overtaken by a later leader, by the log, says nothing about the host.
func (t *turn) failed(ctx context.Context, err error) (event.OperationEvent, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	switch about(err) {
	case anotherOwner:
		// If it is a later leader of this log for whose sake the host refused, that one
		// has recorded by now that it carries the operation on (no host is worked on for
		// an operation before), and record refuses what is decided here. If nothing like
		// that is on record, it is the word of this one host, and ends this one turn.
		if err := t.recordOwner(ctx, err); err != nil {
			return nil, err
		}
	case theHost, theHostKey, theNode:
	case thisService, theStore:
		return nil, err
	}
	return event.HostTurnFailed{Turn: t.ref, Reason: reason(err), Output: t.state.Worked.Output}, nil
}

func (t *turn) recordFacts(ctx context.Context, facts event.Facts) error {
	_, err := t.p.config.Commands.RecordHost(ctx, t.host.HostID, func(state *host.Host) []event.HostEvent {
		return state.RecordFacts(t.host.Host, facts)
	})
	return err
}

// recordOwner records that the host works for somebody else, so that it is
// shown, and that its upkeep finds out when that ends.
func (t *turn) recordOwner(ctx context.Context, why error) error {
	if err := t.p.overtaken(ctx, why); err != nil {
		return err
	}
	_, err := t.p.config.Commands.RecordHost(ctx, t.host.HostID, func(state *host.Host) []event.HostEvent {
		return state.RecordInvestigationFailure(t.host.Host, reason(why))
	})
	return err
}

// run upgrades or deploys, and records how the host is then, which it returns; or
// says how the turn ended instead.
func (t *turn) run(ctx context.Context, before event.Facts) (after event.Facts, outcome event.OperationEvent, err error) {
	if before.OS == "" { // taken up again: the work may be going on while the host is out of reach
		if before, err = t.facts(ctx, t.state.Since.Add(t.limit)); err != nil {
			return after, nil, err
		}
	}
	work := Work{Act: Apply, Kind: t.kind, Version: t.version, Facts: before, BootID: t.state.BootID, BypassDriver: t.policy.BypassDriver}
	if t.state.Staged {
		work.Act = ApplyStaged
	}
	result, err := t.command(ctx, work, t.state.Since)
	if err != nil {
		return after, nil, err
	}
	if how, failed := result.Failed(); failed && result.Exit != nil {
		return after, event.HostTurnFailed{Turn: t.ref, Exit: result.Exit, Output: result.Output, Reason: fmt.Sprintf("the %s %s", t.kind, how)}, nil
	}
	if after, err = t.facts(ctx, time.Time{}); err != nil {
		return after, nil, err
	}
	if why := t.withoutEffect(result, after); why != "" {
		return after, event.HostTurnFailed{Turn: t.ref, Output: result.Output, Reason: why}, nil
	}
	return after, nil, t.recordWork(ctx, result, after)
}

// withoutEffect says why a command that did not fail by itself did not do what it was
// for; "" where it did, as far as the host tells.
func (t *turn) withoutEffect(result Result, after event.Facts) string {
	how, failed := result.Failed()
	switch {
	case tookEffect(t.kind, t.version, t.state, after):
		return ""
	case failed:
		return fmt.Sprintf("the %s %s: see on the host how far it got, then start it again", t.kind, how)
	case t.kind == domain.Deploy:
		return fmt.Sprintf("the deploy ended well, and %s is neither what the host runs (%s) nor what waits for a boot (%s)",
			t.version, after.Version, cmp.Or(after.Pending, "nothing"))
	}
	return ""
}

// recordWork records how the host is after its command, and whether it is to be
// rebooted.
func (t *turn) recordWork(ctx context.Context, result Result, after event.Facts) (err error) {
	reboot, why := t.policy.Reboot == event.AlwaysReboot, ""
	if t.policy.Reboot == event.RebootIfNeeded {
		if why, err = t.needsReboot(ctx, after); err != nil {
			return err
		}
		reboot = why != ""
	}
	return t.record(ctx, func(p *operation.Progress) []event.OperationEvent {
		return p.Work(event.HostTurnWorked{
			Turn: t.ref, BootID: after.BootID, Version: after.Version, Pending: after.Pending, Reboot: reboot && !after.Locked, Output: result.Output,
			BootedID: after.BootedID, PendingID: after.PendingID, Locked: after.Locked, RebootNeeded: why,
			Warnings: result.Warnings,
		})
	})
}

// needsReboot says why a host should be rebooted after its work; "" where nothing
// calls for it. What costs the host much is asked last.
func (t *turn) needsReboot(ctx context.Context, after event.Facts) (why string, err error) {
	switch {
	case after.Pending != "":
		return after.Pending + " is pending", nil
	case after.RebootNeeded != "" || after.OSTree:
		return after.RebootNeeded, nil
	}
	err = t.connected(ctx, time.Time{}, func(s Session) error {
		why, err = s.RebootNeeded(ctx)
		return err
	})
	return why, err
}

// tookEffect tells whether a command took effect on an ostree host, be it that it was
// interrupted: the deployments say.
func tookEffect(kind domain.OperationKind, version string, found operation.Turn, after event.Facts) bool {
	switch {
	case !after.OSTree:
		return false
	case kind == domain.Deploy:
		return slices.Contains([]string{
			after.Version, after.BootedID, after.BootedBase, after.Pending, after.PendingID, after.PendingBase,
		}, version)
	}
	made := func(s event.System) bool { return s.Name != "" && !s.Is(found.Booted) && !s.Is(found.Pending) }
	return made(after.Waiting()) || made(after.Booted())
}
