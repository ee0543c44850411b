package process

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"
	"unicode"

	"commissaire/commands"
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
	t.Leader = Leader{Log: p.roster.Log(), Term: p.term}
	if key, ok := p.host(h.HostID).Pinned(); ok {
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
		var away *Unreachable
		switch {
		case errors.As(err, &changed):
			return nil, errors.Join(err, p.recordKeyChange(ctx, h, changed.Shown))
		case errors.As(err, &away) && attempt < attempts && pause(ctx, p.config.RetryDelay):
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
	var refused *Refused
	var changed *KeyChanged
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r := p.refusals[id]; {
	case err == nil:
		delete(p.refusals, id)
	case errors.As(err, &changed):
		p.refusals[id] = refusal{err, r.delay, p.config.Now().Add(p.slower(0))}
	case errors.As(err, &refused):
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
	pinned, ok := p.host(h.HostID).Pinned()
	_, other := p.host(h.HostID).OtherKey()
	addedBy := p.addedBy[h.HostID]
	p.mu.Unlock()
	if ok && !other && pinned.Fingerprint == key.Fingerprint {
		return nil
	}
	_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(one *host.Host) []event.HostEvent {
		shown := host.Key{Type: key.Type, Fingerprint: key.Fingerprint}
		if key.Authority != "" {
			return one.KeyVouched(h.Host, shown, key.Authority, addedBy)
		}
		return one.KeyShown(h.Host, shown, addedBy)
	})
	return err
}

func (p *Process) recordKeyChange(ctx context.Context, h roster.Host, shown HostKey) error {
	_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(one *host.Host) []event.HostEvent {
		if _, pinned := one.Pinned(); !pinned { // it was given when the host was added
			return []event.HostEvent{
				event.HostKeyPinned{Host: h.Host, Fingerprint: h.HostKey},
				event.HostKeyChanged{Host: h.Host, Type: shown.Type, Fingerprint: shown.Fingerprint},
			}
		}
		return one.KeyShown(h.Host, host.Key{Type: shown.Type, Fingerprint: shown.Fingerprint}, "")
	})
	return err
}

// upkeep does what a host needs until nothing is left or something fails. It
// returns the position of the last thing recorded.
func (p *Process) upkeep(ctx context.Context, h roster.Host, known bool) (event.Position, error) {
	// A claim that an earlier term left is carried on: what was begun under it is
	// on record on the host, and is waited for instead of begun beside it.
	claim := h.Claim
	if claim == "" || h.By != "" {
		claim = domain.ClaimID(p.config.NewID().String())
	}
	if known {
		if _, err := p.config.Commands.TakeHost(ctx, h.HostID, claim, "", p.term); err != nil {
			if !errors.Is(err, roster.ErrNoHost) && !errors.Is(err, roster.ErrTaken) {
				p.report(ctx, "taking a host failed", err, "host", h.Host)
			}
			return 0, err
		}
	}
	u := upkeep{p: p, host: h, claim: claim}
	err := u.steps(ctx)
	if u.session != nil {
		_ = u.session.Close() // the work is done or recorded as failed
	}
	if ctx.Err() != nil {
		return 0, err // stopping says nothing about the host: its claim stays, and a later term takes over
	}
	receipt, releaseErr := p.config.Commands.ReleaseHost(ctx, h.HostID, claim, p.term)
	p.report(ctx, "releasing a host failed", releaseErr, "host", h.Host)
	return receipt.Position, errors.Join(err, releaseErr)
}

type upkeep struct {
	p       *Process
	host    roster.Host
	claim   domain.ClaimID
	session Session
}

var errNoProgress = errors.New("the step changed nothing")

func (u *upkeep) steps(ctx context.Context) error {
	last := host.Nothing
	for {
		step, err := u.next(ctx)
		if err != nil || step == host.Nothing {
			return err
		}
		if step == last {
			return errNoProgress
		}
		last = step
		switch step {
		case host.Investigate:
			err = u.investigate(ctx)
		case host.Bootstrap:
			err = u.bootstrap(ctx)
		case host.Unregister:
			err = u.unregister(ctx)
		case host.Register:
			err = u.register(ctx)
		case host.Uncordon:
			err = u.uncordon(ctx)
		case host.Nothing:
		}
		if err != nil {
			return err
		}
	}
}

func (u *upkeep) next(ctx context.Context) (host.Step, error) {
	u.p.mu.Lock()
	now, known := u.p.roster.Host(u.host.HostID)
	wanted := u.p.wanted(now)
	u.p.mu.Unlock()
	state, err := u.state(ctx)
	if err != nil {
		return host.Nothing, err
	}
	step := state.Next(wanted)
	if !known && step != host.Unregister {
		step = host.Nothing
	}
	return step, nil
}

func (u *upkeep) state(ctx context.Context) (host.Host, error) {
	return u.p.config.Commands.Host(ctx, u.host.HostID)
}

func (u *upkeep) record(ctx context.Context, f func(*host.Host) []event.HostEvent) error {
	_, err := u.p.config.Commands.RecordHost(ctx, u.host.HostID, f)
	return err
}

// failure is what is recorded of a step that failed.
type failure func(one *host.Host, why string) []event.HostEvent

// fail records why a step failed. A host that fails is a fact; err says only
// that the upkeep is to be tried again later.
func (u *upkeep) fail(ctx context.Context, err error, f failure) error {
	var changed *KeyChanged
	if ctx.Err() != nil || errors.As(err, &changed) || ofStore(err) {
		return err
	}
	if overtaken := u.p.overtaken(ctx, err); overtaken != nil {
		return overtaken
	}
	recordErr := u.record(ctx, func(one *host.Host) []event.HostEvent { return f(one, reason(err)) })
	u.p.report(ctx, "recording a failure failed", recordErr, "host", u.host.Host)
	return err
}

// elsewhere tells whether a host works for somebody else, or says so.
func elsewhere(err error) bool {
	var fenced *Fenced
	var foreign *Foreign
	return errors.As(err, &fenced) || errors.As(err, &foreign)
}

// overtaken says whether what a host answered is true of this leader: that a later
// one has begun. What one host says of terms is only its claim; the log knows. A
// later leader records its term before it says a word to any host, so where a host
// told the truth, it is on record by now.
func (p *Process) overtaken(ctx context.Context, answered error) error {
	if !elsewhere(answered) {
		return nil
	}
	_, err := p.config.Commands.BeginTerm(ctx, p.term)
	return err
}

func (u *upkeep) connect(ctx context.Context) (err error) {
	if u.session == nil {
		u.session, err = u.p.dial(ctx, u.host, u.p.config.Attempts)
	}
	return err
}

func (u *upkeep) investigate(ctx context.Context) error {
	address := u.host.Host
	failed := func(one *host.Host, why string) []event.HostEvent { return one.InvestigationFailed(address, why) }
	if err := u.connect(ctx); err != nil {
		return u.fail(ctx, err, failed)
	}
	state, err := u.state(ctx)
	if err != nil {
		return err
	}
	if state.ToTakeOver(u.host.HostAdded) {
		if err := u.session.TakeOver(ctx); err != nil {
			return u.fail(ctx, err, failed)
		}
	}
	facts, err := u.session.Facts(ctx)
	if err == nil {
		err = u.p.identify(u.host.HostID, u.session.HostKey(), &facts)
	}
	if err != nil {
		return u.fail(ctx, err, failed)
	}
	return u.record(ctx, func(one *host.Host) []event.HostEvent { return one.Investigated(address, facts) })
}

func (u *upkeep) bootstrap(ctx context.Context) error {
	address := u.host.Host
	failed := func(one *host.Host, why string) []event.HostEvent { return one.BootstrapFailed(address, why) }
	if err := u.connect(ctx); err != nil {
		return u.fail(ctx, err, failed)
	}
	state, err := u.state(ctx)
	if err != nil {
		return err
	}
	var b Bootstrap
	b.Facts, _ = state.Facts()
	u.p.mu.Lock()
	name := roster.DefaultNetwork
	if h, ok := u.p.roster.Host(u.host.HostID); ok {
		if c, ok := u.p.roster.Cluster(h.Cluster); ok {
			name = c.Network
		}
	}
	network, _ := u.p.roster.Network(name)
	u.p.mu.Unlock()
	b.NetworkType, b.NetworkOptions = network.Type, network.Options
	if err := u.session.Bootstrap(ctx, Turn{Name: string(u.claim)}, b); err != nil {
		return u.fail(ctx, err, failed)
	}
	return u.record(ctx, func(one *host.Host) []event.HostEvent { return one.Bootstrapped(address, u.p.config.Profile) })
}

// register goes on to its end when the host is removed meanwhile: only when it is
// on record can it be taken back.
func (u *upkeep) register(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	u.p.mu.Lock()
	h, _ := u.p.roster.Host(u.host.HostID)
	definition := u.p.managers[u.p.wanted(h)]
	u.p.mu.Unlock()
	return u.tell(ctx, definition, Manager.Register, u.registrationFailed(definition), func(one *host.Host) []event.HostEvent {
		return one.RegisteredWith(u.host.Host, definition.ManagerID, definition.Manager)
	})
}

func (u *upkeep) unregister(ctx context.Context) error {
	state, err := u.state(ctx)
	if err != nil {
		return err
	}
	id, _ := state.Registered()
	u.p.mu.Lock()
	definition := u.p.managers[id]
	u.p.mu.Unlock()
	unregistered := func(one *host.Host) []event.HostEvent {
		return one.UnregisteredFrom(u.host.Host, definition.ManagerID, definition.Manager)
	}
	again, err := u.addedAgain(ctx, definition.ManagerID)
	switch {
	case err != nil:
		return err
	case again:
		return u.record(ctx, unregistered)
	}
	return u.tell(ctx, definition, Manager.Unregister, u.registrationFailed(definition), unregistered)
}

// addedAgain tells whether the host was removed and added again since, and a
// container manager knows it as that by now: the node is the later one's.
func (u *upkeep) addedAgain(ctx context.Context, manager domain.ManagerID) (again bool, err error) {
	u.p.mu.Lock()
	later, known := u.p.roster.HostAt(u.host.Host)
	u.p.mu.Unlock()
	if !known || later.HostID == u.host.HostID {
		return false, nil
	}
	state, err := u.p.config.Commands.Host(ctx, later.HostID)
	if err != nil {
		return false, err
	}
	id, _ := state.Registered()
	return id == manager, nil
}

func (u *upkeep) registrationFailed(definition event.ContainerManagerDefined) failure {
	return func(one *host.Host, why string) []event.HostEvent {
		return one.RegistrationFailed(u.host.Host, definition.ManagerID, definition.Manager, why)
	}
}

func (u *upkeep) uncordon(ctx context.Context) error {
	state, err := u.state(ctx)
	if err != nil {
		return err
	}
	id := state.LeftCordoned()
	u.p.mu.Lock()
	definition := u.p.managers[id]
	u.p.mu.Unlock()
	return u.tell(ctx, definition, Manager.Uncordon, func(one *host.Host, why string) []event.HostEvent {
		return one.UncordonFailed(u.host.Host, id, definition.Manager, why)
	}, func(one *host.Host) []event.HostEvent {
		return one.Uncordoned(u.host.Host, id, definition.Manager)
	})
}

// tell tells a container manager about the host, and records that it knows or why
// it could not be told.
func (u *upkeep) tell(ctx context.Context, definition event.ContainerManagerDefined, what func(Manager, context.Context, domain.Address) error, failed failure, told func(*host.Host) []event.HostEvent) error {
	manager, err := u.p.config.Managers(definition)
	if err == nil {
		err = what(manager, ctx, u.host.Host)
	}
	if err != nil {
		return u.fail(ctx, err, failed)
	}
	return u.record(ctx, told)
}

// ofStore tells whether what failed is the store, of events or of credentials:
// that says nothing about a host.
func ofStore(err error) bool {
	return errors.Is(err, commands.ErrUnavailable) || errors.Is(err, commands.ErrOutcomeUnknown)
}

// reason is an error as a person reads it.
func reason(err error) string { return cmp.Or(readable(err.Error()), "nobody said why") }

// readable is a text, which others may have written a part of, as it is recorded: in
// at most 1024 bytes, printable, on one line and not left open at its end.
func readable(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) > 1024 {
		text = strings.ToValidUTF8(text[:1024], "") // it may end within a rune
	}
	return strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, text), ": ")
}
