package process

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
	"commissaire/domain/roster"
)

// left is why the turn of a host that is still known is skipped.
const left = "the host is no longer a member of the cluster"

// turn carries out a host's part in an operation, from wherever it is.
type turn struct {
	p         *Process
	operation domain.OperationID
	kind      domain.OperationKind
	version   string
	policy    event.Policy
	member    event.Member
	before    operation.Turn
}

// carryOut returns the position of the last thing recorded; 0 when nothing was.
func (t turn) carryOut(ctx context.Context) event.Position {
	claim := t.before.Claim
	if claim == "" {
		claim = domain.ClaimID(t.p.config.NewID().String())
	}
	at := event.Turn{Operation: t.operation, HostID: t.member.HostID, Host: t.member.Host, Claim: claim}
	_, err := t.p.config.Commands.TakeHost(ctx, t.member.HostID, claim, t.operation, t.p.config.Term)
	switch {
	case errors.Is(err, roster.ErrNoHost):
		return t.skip(ctx, "the host was removed")
	case errors.Is(err, roster.ErrLeft):
		return t.skip(ctx, left)
	case err != nil:
		if !errors.Is(err, roster.ErrTaken) {
			t.p.report(ctx, "taking a host failed", err, "host", t.member.Host, "operation", t.operation)
		}
		return 0
	}
	outcome, err := t.work(ctx, at)
	if err != nil {
		t.p.report(ctx, "a turn could not be recorded", err, "host", t.member.Host, "operation", t.operation)
		return 0 // it stays open, and is taken up again
	}
	if err := t.record(ctx, func(turns operation.Turns) []event.OperationEvent {
		return turns.End(t.member.HostID, outcome)
	}); err != nil {
		t.p.report(ctx, "the end of a turn could not be recorded", err, "host", t.member.Host, "operation", t.operation)
		return 0
	}
	receipt, err := t.p.config.Commands.ReleaseHost(ctx, t.member.HostID, claim)
	t.p.report(ctx, "releasing a host failed", err, "host", t.member.Host, "operation", t.operation)
	return receipt.Position
}

func (t turn) skip(ctx context.Context, why string) event.Position {
	receipt, err := t.p.config.Commands.RecordTurn(ctx, t.operation, func(turns operation.Turns) []event.OperationEvent {
		return turns.End(t.member.HostID, event.HostTurnSkipped{
			Turn:   event.Turn{Operation: t.operation, HostID: t.member.HostID, Host: t.member.Host},
			Reason: why,
		})
	})
	t.p.report(ctx, "skipping a host failed", err, "host", t.member.Host, "operation", t.operation)
	return receipt.Position
}

func (t turn) record(ctx context.Context, f func(operation.Turns) []event.OperationEvent) error {
	_, err := t.p.config.Commands.RecordTurn(ctx, t.operation, f)
	return err
}

// work does the turn's work and says how it ended. An error says nothing about
// the host: the turn stays open.
func (t turn) work(ctx context.Context, at event.Turn) (event.OperationEvent, error) {
	if err := t.record(ctx, func(turns operation.Turns) []event.OperationEvent {
		return turns.Begin(at, t.p.config.Term)
	}); err != nil {
		return nil, err
	}
	t.p.mu.Lock()
	h, _ := t.p.roster.Host(t.member.HostID)
	t.p.mu.Unlock()
	limit := time.Duration(t.policy.Timeout) * time.Second
	if t.kind == domain.Restart { // what it waits for is the host, not a command
		limit = t.p.config.RebootTimeout
	}
	w := &working{turn: t, at: at, host: h, limit: limit, deadline: t.p.config.Now().Add(limit)}
	defer w.hangUp()

	found := t.before
	var facts event.Facts
	var err error
	switch {
	case found.State != operation.Examined:
		if facts, err = w.facts(ctx, time.Time{}); err != nil {
			return w.failed(ctx, err)
		}
		if t.kind == domain.Deploy && !facts.OSTree {
			return event.HostTurnSkipped{Turn: at, Reason: "not an ostree host: there is no tree to deploy"}, nil
		}
		found = operation.Turn{BootID: facts.BootID, Version: facts.Version, Pending: facts.Pending}
		if err := t.record(ctx, func(turns operation.Turns) []event.OperationEvent {
			return turns.Examine(at, facts.BootID, facts.Version, facts.Pending)
		}); err != nil {
			return nil, err
		}
	case t.kind != domain.Restart:
		// The work may be going on, or done, while the host is out of reach.
		if facts, err = w.facts(ctx, w.deadline); err != nil {
			return w.failed(ctx, err)
		}
	}
	var outcome event.OperationEvent
	if t.kind == domain.Restart {
		outcome, err = w.restart(ctx, found)
	} else {
		outcome, err = w.run(ctx, found, facts)
	}
	if err != nil {
		return w.failed(ctx, err)
	}
	return outcome, nil
}

// working is a turn with a connection, made anew when it breaks.
type working struct {
	turn
	at       event.Turn
	host     roster.Host
	limit    time.Duration // for the command, or for the host to be back
	deadline time.Time     // limit from when the turn was taken up, here and now
	session  Session
}

func (w *working) hangUp() {
	if w.session != nil {
		_ = w.session.Close() // whatever was begun on the host goes on
		w.session = nil
	}
}

// name is how the host knows the turn.
func (w *working) name() Turn { return Turn{Name: string(w.at.Claim), Term: w.p.config.Term} }

// failed is the outcome of a turn that an error ended. Being stopped or
// overtaken by a later leader says nothing about the host.
func (w *working) failed(ctx context.Context, err error) (event.OperationEvent, error) {
	var fenced *Fenced
	var away *Unreachable
	var refused *Refused
	var changed *KeyChanged
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &fenced):
		return nil, err
	case errors.As(err, &away), errors.As(err, &refused), errors.As(err, &changed):
		return event.HostTurnFailed{Turn: w.at, Reason: reason(err)}, nil
	}
	return nil, err
}

// connected runs f on a connection, and again on a new one when that breaks.
// While the host is out of reach it connects anew, until the deadline passes, if
// there is one, else as often as configured.
func (w *working) connected(ctx context.Context, deadline time.Time, f func(Session) error) error {
	for attempt := 1; ; attempt++ {
		if w.session == nil {
			session, err := w.p.dial(ctx, w.host, w.p.config.Attempts)
			if err != nil {
				var away *Unreachable
				if errors.As(err, &away) && w.p.config.Now().Before(deadline) && pause(ctx, w.p.config.RetryDelay) {
					continue
				}
				return err
			}
			w.session = session
		}
		err := f(w.session)
		var away *Unreachable
		if !errors.As(err, &away) || ctx.Err() != nil {
			return err
		}
		w.hangUp()
		if attempt >= w.p.config.Attempts && !w.p.config.Now().Before(deadline) {
			return err
		}
	}
}

func (w *working) facts(ctx context.Context, deadline time.Time) (facts event.Facts, err error) {
	err = w.connected(ctx, deadline, func(s Session) error {
		facts, err = s.Facts(ctx)
		return err
	})
	return facts, err
}

// run upgrades or deploys.
func (w *working) run(ctx context.Context, found operation.Turn, before event.Facts) (event.OperationEvent, error) {
	var result Result
	limited, cancel := context.WithTimeout(ctx, w.limit)
	defer cancel()
	err := w.connected(limited, w.deadline, func(s Session) (err error) {
		result, err = s.Run(limited, w.name(), Work{Kind: w.kind, Version: w.version, Facts: before})
		return err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return event.HostTurnFailed{Turn: w.at, Reason: fmt.Sprintf("the %s did not end within %s", w.kind, w.limit)}, nil
	}
	if err != nil {
		return nil, err
	}
	if result.Exit != nil && *result.Exit != 0 {
		return event.HostTurnFailed{
			Turn: w.at, Exit: result.Exit, Output: result.Output,
			Reason: fmt.Sprintf("the %s ended with exit status %d%s", w.kind, *result.Exit, lastLine(result.Tail)),
		}, nil
	}
	after, err := w.facts(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	if result.Exit == nil && !took(w.kind, w.version, found, after) {
		return event.HostTurnFailed{
			Turn: w.at, Output: result.Output,
			Reason: fmt.Sprintf("the %s was %s: see on the host how far it got, then start it again", w.kind, result.Interrupted),
		}, nil
	}
	return w.succeeded(ctx, after, result.Output)
}

// took tells, for a command that was interrupted on an ostree host, whether it
// took effect nevertheless: the deployments say.
func took(kind domain.OperationKind, version string, found operation.Turn, after event.Facts) bool {
	switch {
	case !after.OSTree:
		return false
	case kind == domain.Deploy:
		return after.Version == version || after.Pending == version
	}
	return after.Pending != "" || after.Version != found.Version
}

// restart reboots the host once and waits until it is back with another boot
// id. Where a deployment was pending, that is what it must run then: a host that
// fell back to the old one has failed, so that the others are not sent after it.
// A host that is out of reach may be down for the reboot that was asked for.
func (w *working) restart(ctx context.Context, found operation.Turn) (event.OperationEvent, error) {
	asked, wait := false, time.Duration(0)
	for pause(ctx, wait) {
		bootID, err := w.bootID(ctx)
		switch {
		case err != nil:
		case bootID != found.BootID:
			after, err := w.facts(ctx, w.deadline)
			if err != nil {
				return nil, err
			}
			if want := found.Pending; want != "" && after.Version != want {
				return w.fellBack(ctx, after, want)
			}
			return w.succeeded(ctx, after, event.Output{})
		case !asked:
			err = w.session.Reboot(ctx, w.name(), found.BootID)
			asked = err == nil // else it may have gone down before it answered
		}
		w.hangUp()
		var away *Unreachable
		if err != nil && !errors.As(err, &away) {
			return nil, err
		}
		if !w.p.config.Now().Before(w.deadline) {
			why := "it still runs as before the reboot was asked for"
			if err != nil {
				why = reason(err)
			}
			return event.HostTurnFailed{
				Turn: w.at, Reason: fmt.Sprintf("the host was not back within %s of its reboot, look at its console: %s", w.limit, why),
			}, nil
		}
		if wait == 0 {
			wait = w.p.config.RebootFirstLook
		} else {
			wait = min(w.p.config.RebootFirstLook, time.Second)
		}
	}
	return nil, ctx.Err()
}

// bootID is that of the host now, on a connection that stays.
func (w *working) bootID(ctx context.Context) (string, error) {
	if w.session == nil {
		session, err := w.p.dial(ctx, w.host, 1)
		if err != nil {
			return "", err
		}
		w.session = session
	}
	return w.session.BootID(ctx)
}

// succeeded records what the host is now, and then that its turn succeeded.
func (w *working) succeeded(ctx context.Context, after event.Facts, output event.Output) (event.OperationEvent, error) {
	if err := w.recordFacts(ctx, after); err != nil {
		return nil, err
	}
	return event.HostTurnSucceeded{Turn: w.at, Version: after.Version, Pending: after.Pending, BootID: after.BootID, Output: output}, nil
}

// fellBack records what the host is now, and then that it is not what it was to be.
func (w *working) fellBack(ctx context.Context, after event.Facts, want string) (event.OperationEvent, error) {
	if err := w.recordFacts(ctx, after); err != nil {
		return nil, err
	}
	return event.HostTurnFailed{
		Turn:   w.at,
		Reason: fmt.Sprintf("it came back on %s, wanted %s: see journalctl -b -1 and rpm-ostree status on the host", after.Version, want),
	}, nil
}

func (w *working) recordFacts(ctx context.Context, facts event.Facts) error {
	_, err := w.p.config.Commands.RecordHost(ctx, w.host.HostID, func(one *host.Host) []event.HostEvent {
		return one.Investigated(w.host.Host, facts)
	})
	return err
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" {
		return ""
	}
	return ": " + last
}
