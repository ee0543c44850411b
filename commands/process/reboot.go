package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
)

// rebooted is how the host is after the reboot that the turn calls for, if it
// does, else as it worked; or how the turn ended instead. The host is rebooted
// once, and waited for until it is back with another boot id. What was pending is
// what it must run then: a host that fell back to the old version has failed, so
// that the others are not sent after it. (Without ostree that holds for a kernel
// which this turn installed: for one that was there before there may be reasons
// not to boot it.)
func (t *turn) rebooted(ctx context.Context, worked event.Facts) (after event.Facts, outcome event.OperationEvent, err error) {
	from, want, locked := t.state.Worked.BootID, t.state.Worked.Pending, t.state.Worked.Locked
	switch {
	case t.kind == domain.Restart:
		from, want, locked = t.state.BootID, t.state.Pending, t.state.Locked
	case !t.state.Worked.Reboot:
		if worked.BootID == "" { // taken up again
			worked, err = t.facts(ctx, time.Time{})
		}
		if err == nil && locked && t.policy.Reboot != event.NoReboot {
			outcome = event.HostTurnFailed{Turn: t.ref, Output: t.state.Worked.Output, Reason: fmt.Sprintf(
				"a reboot would not bring %s, which is locked: run rpm-ostree finalize-deployment %s on the host, which reboots it, or drop it there by rpm-ostree cleanup -p, and start the %s again",
				want.Name, cmp.Or(want.ID, "--allow-missing-checksum"), t.kind)}
		}
		return worked, outcome, err
	}
	if locked || !t.state.OSTree && want.Is(t.state.Pending) {
		want = event.System{}
	}
	if after, err = t.back(ctx, from); err != nil {
		return after, nil, err
	}
	if want == (event.System{}) || after.Booted().Is(want) {
		return after, nil, nil
	}
	return after, event.HostTurnFailed{
		Turn: t.ref, Version: after.Version, Output: t.state.Worked.Output, Reason: fellBack(after, want),
	}, nil
}

// fellBack says that a host came back on something else than was wanted, and what
// there tells why.
func fellBack(after event.Facts, want event.System) string {
	is, wanted := after.Version, want.Name
	if is == wanted {
		is, wanted = is+" ("+after.BootedID+")", wanted+" ("+want.ID+")"
	}
	var see []string
	if after.Has("journalctl") {
		see = append(see, "journalctl -b -1")
	}
	if after.OSTree && after.Has("rpm-ostree") {
		see = append(see, "rpm-ostree status")
	}
	if len(see) == 0 {
		see = []string{"the console and the logs"}
	}
	return fmt.Sprintf("it came back on %s, wanted %s: see %s on the host", is, wanted, strings.Join(see, " and "))
}

// lateLook is how long the last look at a host that is late may take.
const lateLook = 30 * time.Second

// back reboots the host, unless it runs from another boot already, and tells how it
// is when it is back. From the order to its deadline nothing that the host answers
// is an answer of its own but a login with its key, a shell that works, as root, and
// another boot id: another server may ask for the passphrase of a disk, with
// another key, and users come late from the network. A reboot that the host refuses
// fails at once.
func (t *turn) back(ctx context.Context, from string) (after event.Facts, err error) {
	wait := time.Duration(0)
	if t.state.BackBy.IsZero() {
		wait = t.p.config.RebootFirstLook
		if after, err = t.order(ctx, from); err != nil || after.BootID != "" {
			return after, err
		}
	}
	limited, cancel := context.WithDeadline(ctx, later(t.state.BackBy, t.p.config.Now()).Add(lateLook))
	defer cancel()
	slow := time.Duration(0)
	for tries := 1; pause(ctx, wait); tries++ {
		after, in, err := t.isBack(limited, from)
		if err == nil {
			return after, nil
		}
		stillUp := errors.Is(err, errStillUp)
		if stillUp {
			err = t.orderAgain(limited, from)
		}
		t.hangUp()
		left := t.state.BackBy.Sub(t.p.config.Now())
		switch {
		case ctx.Err() != nil:
			return after, ctx.Err()
		case !fromHost(err) && limited.Err() == nil, stillUp && errors.As(err, new(*Refused)):
			return after, err
		case left <= 0 && (tries >= t.p.config.Attempts || limited.Err() != nil):
			return after, &Refused{Reason: fmt.Sprintf("the host was not back within %s of its reboot, look at its console: %s", t.p.config.RebootTimeout, reason(err))}
		}
		wait = t.nextLook(left)
		if in && left > 0 && !errors.Is(err, errStillUp) {
			slow = t.p.slower(slow)
			wait = min(slow, left)
		}
	}
	return after, ctx.Err()
}

// orderAgain gives the order, unless the host took note of it: whoever recorded it may
// not have given it. It says why the host does not go down.
func (t *turn) orderAgain(ctx context.Context, from string) error {
	if !t.ordered {
		if err := t.reboot(ctx, from); err != nil {
			return err
		}
	}
	return errStillUp
}

// nextLook is the pause before the next look at a host that has so much time left to
// be back.
func (t *turn) nextLook(left time.Duration) time.Duration {
	if left <= 0 {
		return t.p.config.RetryDelay
	}
	return min(t.p.config.RebootFirstLook, time.Second, left)
}

// order orders the reboot; or it tells how the host is that runs from another boot
// already. Where what became of the order is not known, it may be given again.
func (t *turn) order(ctx context.Context, from string) (after event.Facts, err error) {
	deadline := time.Time{}
	if t.session == nil { // taken up again
		deadline = t.state.Since.Add(t.p.config.RebootTimeout)
	}
	var bootID string
	if err := t.connected(ctx, deadline, func(s Session) (err error) {
		bootID, err = s.BootID(ctx)
		return err
	}); err != nil {
		return after, err
	}
	if bootID != from {
		return t.facts(ctx, deadline)
	}
	if err := t.drain(ctx); err != nil { // somebody may have let work in again
		return after, err
	}
	if err := t.record(ctx, func(p *operation.Progress) []event.OperationEvent {
		return p.OrderReboot(event.HostTurnRebootOrdered{Turn: t.ref, BootID: from, Until: t.p.config.Now().Add(t.p.config.RebootTimeout).UTC()})
	}); err != nil {
		return after, err
	}
	err = t.reboot(ctx, from)
	t.hangUp()
	if isUnreachable(err) { // it may have gone down before it answered
		err = nil
	}
	return after, err
}

// reboot gives the order, on a connection that is there.
func (t *turn) reboot(ctx context.Context, from string) error {
	if t.session == nil {
		return &Unreachable{Reason: "the connection broke"}
	}
	err := t.session.Reboot(ctx, t.rebootID(), from)
	t.ordered = err == nil
	return err
}

// isBack tells how the host is that runs from another boot than before; in: it let
// us in.
func (t *turn) isBack(ctx context.Context, from string) (facts event.Facts, in bool, err error) {
	if err = t.p.refusing(t.host.HostID); err != nil {
		return facts, false, err
	}
	if t.session, err = t.p.login(ctx, t.host); err != nil {
		t.session = nil
		return facts, false, err
	}
	bootID, err := t.session.BootID(ctx)
	switch {
	case err != nil:
		return facts, true, err
	case bootID == from:
		return facts, true, errStillUp
	}
	facts, err = t.session.Facts(ctx)
	switch {
	case err != nil:
	case facts.BootID == from:
		err = errStillUp
	default:
		err = t.p.identify(t.host.HostID, t.session.HostKey(), &facts)
	}
	return facts, true, err
}
