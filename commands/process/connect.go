package process

import (
	"context"
	"time"

	"commissaire/domain/event"
)

// connected runs f on a connection, and again on a new one when that breaks.
// While the host is out of reach it connects anew, until the deadline passes, if
// there is one, else as often as configured.
func (t *turn) connected(ctx context.Context, deadline time.Time, f func(Session) error) error {
	for attempt := 1; ; attempt++ {
		if err := t.connect(ctx, deadline); err != nil {
			return err
		}
		err := f(t.session)
		if !isUnreachable(err) || ctx.Err() != nil {
			return err
		}
		t.hangUp()
		if attempt >= t.p.config.Attempts && (!t.p.config.Now().Before(deadline) || !pause(ctx, t.p.config.RetryDelay)) {
			return err
		}
	}
}

// oneTry is about how long an attempt to connect takes at most.
const oneTry = 20 * time.Second

// connect sees to it that there is a connection. A host that does not let us in has
// answered; but with a deadline something may be going on there, and it may have been
// rebooted meanwhile, without us: then it has as long as after a reboot of ours.
func (t *turn) connect(ctx context.Context, deadline time.Time) error {
	var refused time.Time // since when it does not let us in
	attempts := t.p.config.Attempts
	ordinary := t.p.config.Now().Add(time.Duration(attempts) * (t.p.config.RetryDelay + oneTry))
	for attempt := 1; t.session == nil; attempt++ {
		err := t.dial(ctx)
		switch {
		case err == nil && attempt > 1:
			t.awaits(ctx, "", time.Time{})
			return nil
		case err == nil || !fromHost(err):
			return err
		}
		now := t.p.config.Now()
		until, again := later(deadline, ordinary), attempt < attempts
		if !isUnreachable(err) {
			if refused.IsZero() {
				refused = now
			}
			until, again = earlier(deadline, refused.Add(t.p.config.RebootTimeout)), false
		}
		if !again && !now.Before(deadline) || !now.Before(until) || ctx.Err() != nil {
			return err
		}
		t.awaits(ctx, "its answer: "+reason(err), until)
		if !pause(ctx, t.p.config.RetryDelay) {
			return err
		}
	}
	return nil
}

// dial connects once. A host that did not let us in is left alone for a while.
func (t *turn) dial(ctx context.Context) (err error) {
	if err = t.p.refusing(t.host.HostID); err != nil && t.contacted {
		return err
	}
	t.contacted = true
	t.session, err = t.p.dial(ctx, t.host, 1)
	return err
}

func (t *turn) facts(ctx context.Context, deadline time.Time) (facts event.Facts, err error) {
	err = t.connected(ctx, deadline, func(s Session) error {
		if facts, err = s.Facts(ctx); err != nil {
			return err
		}
		return t.p.identify(t.host.HostID, s.HostKey(), &facts)
	})
	return facts, err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
