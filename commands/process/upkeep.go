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
		taken, err := p.config.Commands.TakeHost(ctx, h.HostID, claim, "", p.term)
		if err != nil {
			if !errors.Is(err, roster.ErrNoHost) && !errors.Is(err, roster.ErrTaken) {
				p.report(ctx, "taking a host failed", err, "host", h.Host)
			}
			return 0, err
		}
		// What was ordered before, such as a membership by the commit that added the
		// host, is what the upkeep does, and no reason to do it once more.
		if err := p.reached(ctx, taken.Position); err != nil {
			return 0, err
		}
		p.mu.Lock()
		p.schedule.begun(h.HostID)
		p.mu.Unlock()
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

// startUpkeep starts the upkeep of hosts that need it and are free, and says when to
// look again if nothing happens.
func (p *Process) startUpkeep(ctx context.Context) time.Duration {
	now, next := p.config.Now(), time.Hour
	for id := range p.schedule.dirty {
		if p.schedule.hosts.busy(id) {
			continue
		}
		h, known, needed := p.world.upkeepOf(id, p.term)
		if !needed {
			p.schedule.done(id)
			continue
		}
		if p.world.roster.InHand(h) {
			continue // released by its operation it is looked at again
		}
		if due := p.schedule.retries[id].due.Sub(now); due > 0 {
			next = min(next, due)
			continue
		}
		if _, former := p.schedule.upkeeps[h.Host]; former || len(p.schedule.upkeeps) >= p.config.AtOnce {
			continue // a host of that address, removed since, is still being worked on
		}
		p.keepUp(ctx, h, known)
	}
	return next
}

// keepUp starts the upkeep of a host.
func (p *Process) keepUp(ctx context.Context, h roster.Host, known bool) {
	id := h.HostID
	working, stop := context.WithCancel(ctx)
	p.schedule.upkeeps[h.Host] = stop
	p.schedule.hosts[id] = &job{stop: stop}
	p.schedule.begun(id)
	p.jobs.Go(func() {
		outcome, err := p.upkeep(working, h, known)
		p.mu.Lock()
		defer p.mu.Unlock()
		if working.Err() != nil {
			err = nil // being stopped says nothing about the host
		}
		stop()
		delete(p.schedule.upkeeps, h.Host)
		p.schedule.hosts.end(id, outcome)
		p.schedule.retryAfter(id, err, p.config.Now())
		p.notify()
	})
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
	current, known := u.p.world.roster.Host(u.host.HostID)
	wanted := u.p.world.wanted(current)
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
type failure func(state *host.Host, why string) []event.HostEvent

// fail records why a step failed. A host that fails is a fact; err says only
// that the upkeep is to be tried again later.
func (u *upkeep) fail(ctx context.Context, err error, f failure) error {
	if subject := about(err); ctx.Err() != nil || subject == theHostKey || subject == theStore {
		return err
	}
	if overtaken := u.p.overtaken(ctx, err); overtaken != nil {
		return overtaken
	}
	recordErr := u.record(ctx, func(state *host.Host) []event.HostEvent { return f(state, reason(err)) })
	u.p.report(ctx, "recording a failure failed", recordErr, "host", u.host.Host)
	return err
}

// overtaken says whether what a host answered is true of this leader: that a later
// one has begun. What one host says of terms is only its claim; the log knows. A
// later leader records its term before it says a word to any host, so where a host
// told the truth, it is on record by now.
func (p *Process) overtaken(ctx context.Context, answered error) error {
	if about(answered) != anotherOwner {
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
	failed := func(state *host.Host, why string) []event.HostEvent {
		return state.RecordInvestigationFailure(address, why)
	}
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
	return u.record(ctx, func(state *host.Host) []event.HostEvent { return state.RecordFacts(address, facts) })
}

func (u *upkeep) bootstrap(ctx context.Context) error {
	address := u.host.Host
	failed := func(state *host.Host, why string) []event.HostEvent {
		return state.RecordBootstrapFailure(address, why)
	}
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
	name := domain.DefaultNetwork
	if h, ok := u.p.world.roster.Host(u.host.HostID); ok {
		if c, ok := u.p.world.roster.Cluster(h.Cluster); ok {
			name = c.Network
		}
	}
	network, _ := u.p.world.roster.Network(name)
	u.p.mu.Unlock()
	b.NetworkType, b.NetworkOptions = network.Type, network.Options
	if err := u.session.Bootstrap(ctx, WorkID(u.claim), b); err != nil {
		return u.fail(ctx, err, failed)
	}
	return u.record(ctx, func(state *host.Host) []event.HostEvent { return state.RecordBootstrap(address, u.p.config.Profile) })
}

// register goes on to its end when the host is removed meanwhile: only when it is
// on record can it be taken back.
func (u *upkeep) register(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	u.p.mu.Lock()
	h, _ := u.p.world.roster.Host(u.host.HostID)
	definition := u.p.world.managers[u.p.world.wanted(h)]
	u.p.mu.Unlock()
	if err := u.record(ctx, func(state *host.Host) []event.HostEvent {
		return state.BeginRegistration(u.host.Host, definition.ManagerID, definition.Manager)
	}); err != nil {
		return err
	}
	return u.tell(ctx, definition, Manager.Register, u.registrationFailed(definition), func(state *host.Host) []event.HostEvent {
		return state.RecordRegistration(u.host.Host, definition.ManagerID, definition.Manager)
	})
}

func (u *upkeep) unregister(ctx context.Context) error {
	state, err := u.state(ctx)
	if err != nil {
		return err
	}
	id, _ := state.Registered()
	u.p.mu.Lock()
	definition := u.p.world.managers[id]
	u.p.mu.Unlock()
	unregistered := func(state *host.Host) []event.HostEvent {
		return state.RecordUnregistration(u.host.Host, definition.ManagerID, definition.Manager)
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
	later, known := u.p.world.roster.HostAt(u.host.Host)
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
	return func(state *host.Host, why string) []event.HostEvent {
		return state.RecordRegistrationFailure(u.host.Host, definition.ManagerID, definition.Manager, why)
	}
}

func (u *upkeep) uncordon(ctx context.Context) error {
	state, err := u.state(ctx)
	if err != nil {
		return err
	}
	id := state.LeftCordoned()
	u.p.mu.Lock()
	definition := u.p.world.managers[id]
	u.p.mu.Unlock()
	return u.tell(ctx, definition, Manager.Uncordon, func(state *host.Host, why string) []event.HostEvent {
		return state.RecordUncordonFailure(u.host.Host, id, definition.Manager, why)
	}, func(state *host.Host) []event.HostEvent {
		return state.RecordUncordon(u.host.Host, id, definition.Manager)
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
