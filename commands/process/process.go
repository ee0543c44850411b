// Package process does what history leaves outstanding: it investigates,
// bootstraps, registers and watches hosts and carries out the turns of
// operations.
//
// What is outstanding follows from recorded events alone (host.Next,
// operation.Next); the loop here takes a host (a durable claim), records intent,
// acts, records the outcome and releases the host. There is no code for
// recovery. DESIGN.md says why that holds after a crash, and what terms are for.
//
// The world is what is known, the schedule what is under way; a turn is a host's
// part in an operation, upkeep what a host needs besides.
package process

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"commissaire/commands"
	"commissaire/commands/sleep"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"

	"github.com/google/uuid"
)

// Config is what a Process needs.
type Config struct {
	Commands    *commands.Handler
	Remote      Remote
	Probe       Probe
	Managers    func(event.ContainerManagerDefined) (Manager, error)
	Credentials commands.Credentials
	Outputs     Outputs
	Profile     string // of the bootstrap, as it is recorded

	Attempts   int           // to connect, before a host counts as out of reach
	RetryDelay time.Duration // between them
	AtOnce     int           // hosts in upkeep at once

	RebootFirstLook time.Duration // after a reboot was asked for
	RebootTimeout   time.Duration // until the host must be back
	HealthInterval  time.Duration // between two looks at a host's health

	WatchInterval    time.Duration // of a sweep over all hosts
	WatchConcurrency int
	WatchMisses      int // in a row, until a host counts as silent

	NewID  func() uuid.UUID
	Now    func() time.Time
	Logger *slog.Logger
}

// Process folds the log and, while its instance leads, acts on it. Apply may be
// called at any time, Run again after it has returned.
type Process struct {
	config Config
	wake   chan struct{}
	jobs   sync.WaitGroup
	term   domain.Term // of the Run that is under way

	mu       sync.Mutex // of what follows
	world    world
	changed  chan struct{} // closed as the world changes next; nil: nobody waits for that
	schedule schedule
	sweeper  sweeper
	refusals map[domain.HostID]refusal // of logins, since the last one that was not refused
	machines machines
}

// New is a Process that has seen nothing yet.
func New(config Config) *Process {
	return &Process{
		config: config, wake: make(chan struct{}, 1),
		world: newWorld(), schedule: newSchedule(), sweeper: newSweeper(), refusals: map[domain.HostID]refusal{}, machines: newMachines(),
	}
}

// Apply brings the process up to r. An event that was applied before changes
// nothing.
func (p *Process) Apply(r event.Recorded) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Position <= p.world.position {
		return
	}
	c := p.world.apply(r)
	p.schedule.follow(c)
	if c.forgotten != "" {
		delete(p.refusals, c.forgotten)
		p.sweeper.forget(c.forgotten)
	}
	if c.removed != nil {
		p.sweeper.forget(c.removed.HostID)
		for _, twin := range p.machines.free(c.removed.HostID) {
			p.schedule.order(twin)
		}
	}
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
	p.notify()
}

// reached waits until all up to that position was applied, or ctx ends.
func (p *Process) reached(ctx context.Context, position event.Position) error {
	for {
		p.mu.Lock()
		if p.world.position >= position {
			p.mu.Unlock()
			return nil
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Process) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run acts, as the leader of a term, until ctx ends; then it leaves open what is
// open and returns when all work here has stopped. It begins when all that was
// recorded before its term was applied: an earlier leader can add no claim after
// that. Where a later term has begun it does nothing and fails.
func (p *Process) Run(ctx context.Context, term domain.Term) error {
	defer p.jobs.Wait()
	if err := p.begin(ctx, term); err != nil || ctx.Err() != nil {
		return err
	}
	p.jobs.Go(func() { p.watch(ctx) })
	p.jobs.Go(func() { p.sweepCredentials(ctx) })
	p.jobs.Go(func() { p.sweepOutputs(ctx) })
	for {
		next := p.act(ctx)
		timer := time.NewTimer(next)
		select {
		case <-p.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// begin records the term, waits until that is applied or ctx ends, and begins anew.
func (p *Process) begin(ctx context.Context, term domain.Term) error {
	p.term = term
	begun, err := p.config.Commands.BeginTerm(ctx, term)
	for ; err != nil; begun, err = p.config.Commands.BeginTerm(ctx, term) {
		if errors.Is(err, roster.ErrOldTerm) {
			return err
		}
		p.report(ctx, "beginning a term failed", err, "term", term)
		if !pause(ctx, p.config.RetryDelay) {
			return nil
		}
	}
	if p.reached(ctx, begun.Position) != nil {
		return nil // Run ends
	}
	p.forgetFormerTerm()
	return nil
}

// forgetFormerTerm drops what an earlier term of this instance left of its own.
func (p *Process) forgetFormerTerm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeper.reset()
	clear(p.refusals)
	clear(p.schedule.retries)
	p.schedule.destroys = nil // the sweep finds them
}

// act starts what is outstanding and not under way, and says when to look again
// if nothing happens.
func (p *Process) act(ctx context.Context) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range p.schedule.hosts.applied(p.world.position) {
		p.schedule.dirty[id] = true
	}
	p.schedule.operations.applied(p.world.position)
	if len(p.schedule.upkeeps) == 0 { // else a host may be about to be registered
		p.schedule.destroys = append(p.schedule.destroys, p.world.retire()...)
	}
	for _, id := range p.schedule.destroys {
		p.jobs.Go(func() { p.destroy(ctx, id) })
	}
	p.schedule.destroys = nil
	next := time.Hour
	for _, o := range p.world.operations {
		next = min(next, p.advance(ctx, o))
	}
	return min(next, p.startUpkeep(ctx))
}

// settle ends what is under way about key as soon as its outcome, which is at that
// position of the log, is applied. Where nothing was recorded (0) it ends after a
// while, so that it is not tried again at once.
func settle[K comparable](ctx context.Context, p *Process, f inflight[K], key K, outcome event.Position) {
	end := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		f.end(key, outcome)
		p.notify()
	}
	if outcome == 0 && ctx.Err() == nil {
		time.AfterFunc(p.config.RetryDelay, end)
		return
	}
	end()
}

// report logs an error where it stops, unless all is stopping anyway.
func (p *Process) report(ctx context.Context, what string, err error, attributes ...any) {
	if err != nil && ctx.Err() == nil {
		p.config.Logger.Error("process: work failed", append([]any{"what", what, "error", err}, attributes...)...)
	}
}

// pause waits, or returns false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool { return sleep.For(ctx, d) == nil }

// running tells whether an operation has not ended.
func (p *Process) running(id domain.OperationID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.world.operations[id]
	return ok
}

// Manager is the container manager of a name, as it is defined now.
func (p *Process) Manager(name domain.ManagerName) (Manager, error) {
	p.mu.Lock()
	definition, ok := p.world.roster.Manager(name)
	p.mu.Unlock()
	if !ok {
		return nil, roster.ErrNoManager.With("there is no container manager %q", name)
	}
	return p.config.Managers(definition.ContainerManagerDefined)
}
