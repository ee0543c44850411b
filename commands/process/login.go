package process

import (
	"context"
	"errors"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/roster"
)

// target is where and how a host is reached.
func (p *Process) target(h roster.Host) Target {
	t := Target{HostID: h.HostID, Host: h.Host, Port: h.Port, User: h.RemoteUser, Credential: h.Credential, Certificate: h.Certificate}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Leader = Leader{Log: p.world.roster.Log(), Term: p.term}
	if key, ok := p.world.host(h.HostID).Pinned(); ok {
		t.Pinned = &HostKey{Type: key.Type, Fingerprint: key.Fingerprint}
	} else if h.HostKey != "" {
		t.Pinned = &HostKey{Fingerprint: h.HostKey}
	}
	return t
}

// dial connects, trying again while the host is out of reach. Before the session
// is used the host's key is on record; a changed one is recorded too.
func (p *Process) dial(ctx context.Context, h roster.Host, attempts int) (Session, error) {
	for attempt := 1; ; attempt++ {
		session, err := p.login(ctx, h)
		var changed *KeyChanged
		switch {
		case errors.As(err, &changed):
			return nil, errors.Join(err, p.recordKeyChange(ctx, h, changed.Shown))
		case isUnreachable(err) && attempt < attempts && pause(ctx, p.config.RetryDelay):
		default:
			return session, err
		}
	}
}

// again is dial, once, for who connects again and again: a host that did not let us
// in is left alone for a while, in which its answer stands.
func (p *Process) again(ctx context.Context, h roster.Host) (Session, error) {
	if err := p.refusing(h.HostID); err != nil {
		return nil, err
	}
	return p.dial(ctx, h, 1)
}

// login connects. A key that is not the host's is not recorded.
func (p *Process) login(ctx context.Context, h roster.Host) (Session, error) {
	session, err := p.config.Remote.Dial(ctx, p.target(h))
	p.answered(h.HostID, err)
	if err != nil {
		return nil, err
	}
	if err := p.recordKey(ctx, h, session.HostKey()); err != nil {
		return nil, errors.Join(err, session.Close())
	}
	return session, nil
}

// refusal is what a host answered that did not let us in, and until when it is not
// asked again by who asks again and again.
type refusal struct {
	err   error
	delay time.Duration
	until time.Time
}

// refusing is why a host is not to be asked again yet; nil: it is.
func (p *Process) refusing(id domain.HostID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.refusals[id]; p.config.Now().Before(r.until) {
		return r.err
	}
	return nil
}

// answered notes how a host answered a login. Hosts punish who goes on trying:
// OpenSSH counts seconds for each refused login, fail2ban counts logins in ten
// minutes. A key that is not the host's is none; it stays while what shows it
// starts the host.
func (p *Process) answered(id domain.HostID, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r := p.refusals[id]; {
	case err == nil:
		delete(p.refusals, id)
	case about(err) == theHostKey:
		p.refusals[id] = refusal{err, r.delay, p.config.Now().Add(p.slower(0))}
	case errors.As(err, new(*Refused)):
		delay := p.slower(r.delay)
		p.refusals[id] = refusal{err, delay, p.config.Now().Add(delay)}
	}
}

// slower is the pause after one that was not long enough: thrice as long, from that
// between two attempts to connect to 60 of them.
func (p *Process) slower(than time.Duration) time.Duration {
	first := max(p.config.RetryDelay, time.Second)
	return min(max(3*than, first), 60*first)
}

func (p *Process) recordKey(ctx context.Context, h roster.Host, key HostKey) error {
	p.mu.Lock()
	pinned, ok := p.world.host(h.HostID).Pinned()
	_, other := p.world.host(h.HostID).OtherKey()
	addedBy := p.world.added[h.HostID].by
	p.mu.Unlock()
	if ok && !other && pinned.Fingerprint == key.Fingerprint {
		return nil
	}
	_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(state *host.Host) []event.HostEvent {
		shown := host.Key{Type: key.Type, Fingerprint: key.Fingerprint}
		if key.Authority != "" {
			return state.RecordVouchedKey(h.Host, shown, key.Authority, addedBy)
		}
		return state.RecordKey(h.Host, shown, addedBy)
	})
	return err
}

func (p *Process) recordKeyChange(ctx context.Context, h roster.Host, shown HostKey) error {
	_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(state *host.Host) []event.HostEvent {
		if _, pinned := state.Pinned(); !pinned { // it was given when the host was added
			return []event.HostEvent{
				event.HostKeyPinned{Host: h.Host, Fingerprint: h.HostKey},
				event.HostKeyChanged{Host: h.Host, Type: shown.Type, Fingerprint: shown.Fingerprint},
			}
		}
		return state.RecordKey(h.Host, host.Key{Type: shown.Type, Fingerprint: shown.Fingerprint}, "")
	})
	return err
}
