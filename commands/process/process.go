// Package process does what history leaves outstanding: it investigates,
// bootstraps, registers and watches hosts and carries out the turns of
// operations.
//
// What is outstanding follows from recorded events alone (host.Next,
// operation.Next); the loop here takes a host (a durable claim), records intent,
// acts, records the outcome and releases the host. There is no code for
// recovery: after a crash the same history leaves the same steps outstanding,
// and each is safe to take up again.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
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

// Backoff of upkeep that failed.
const (
	storeRetry = 2 * time.Second // of upkeep that failed as the store did
	firstRetry = time.Minute
	lastRetry  = time.Hour
)

// unnamedFor is how old a credential must be that the log does not name, before
// it is destroyed: younger ones may belong to a host that is being added.
const unnamedFor = time.Hour

// Process folds the log and, while its instance leads, acts on it. Apply may be
// called at any time, Run again after it has returned.
type Process struct {
	config Config
	wake   chan struct{}
	jobs   sync.WaitGroup
	term   domain.Term // of the Run that is under way

	mu         sync.Mutex
	position   event.Position
	roster     *roster.Roster
	hosts      map[domain.HostID]*host.Host
	operations map[domain.OperationID]*operation.Operation
	managers   map[domain.ManagerID]event.ContainerManagerDefined
	retired    map[domain.ManagerID]bool         // removed, and its token kept: hosts may be registered there still
	removed    map[domain.HostID]event.HostAdded // still registered somewhere
	named      map[domain.CredentialID]bool      // by the log; false: what it was for is gone
	missing    map[domain.HostID]bool            // at the last sweep
	left       map[domain.HostID]bool            // alone, at the last sweep
	addedBy    map[domain.HostID]string
	addedAt    map[domain.HostID]event.Position

	machines map[domain.HostID]machine       // as hosts said last, here; those that are another host's are not in it
	twins    map[domain.HostID]domain.HostID // hosts that are the same machine as another one

	dirty    map[domain.HostID]bool
	retries  map[domain.HostID]retry
	busy     map[domain.HostID]event.Position      // worked on: until this position is applied; 0: not ended yet
	upkeeps  map[domain.Address]context.CancelFunc // under way
	deciding map[domain.OperationID]event.Position // decisions about them, until applied; 0: not recorded yet
	misses   map[domain.HostID]int
	refusals map[domain.HostID]refusal // of logins, since the last one that was not refused
	turning  map[domain.HostID]turning // busy with a turn of an operation
	destroys []domain.CredentialID

	sweeps    int                   // so far
	intervals map[domain.HostID]int // in sweeps, between looks for which the host was logged in to
}

// turning is a turn that is under way here.
type turning struct {
	operation domain.OperationID
	stop      context.CancelFunc
}

// retry is when the upkeep of a host is tried again, and after which delay.
type retry struct {
	at    time.Time
	delay time.Duration
	anew  bool // something was ordered of the host since its upkeep began
}

// New is a Process that has seen nothing yet.
func New(config Config) *Process {
	return &Process{
		config: config, wake: make(chan struct{}, 1), roster: roster.New(),
		hosts: map[domain.HostID]*host.Host{}, operations: map[domain.OperationID]*operation.Operation{},
		managers: map[domain.ManagerID]event.ContainerManagerDefined{}, retired: map[domain.ManagerID]bool{}, removed: map[domain.HostID]event.HostAdded{},
		named: map[domain.CredentialID]bool{}, missing: map[domain.HostID]bool{}, left: map[domain.HostID]bool{}, intervals: map[domain.HostID]int{}, addedBy: map[domain.HostID]string{}, addedAt: map[domain.HostID]event.Position{},
		machines: map[domain.HostID]machine{}, twins: map[domain.HostID]domain.HostID{},
		dirty: map[domain.HostID]bool{}, retries: map[domain.HostID]retry{}, busy: map[domain.HostID]event.Position{}, turning: map[domain.HostID]turning{},
		deciding: map[domain.OperationID]event.Position{}, misses: map[domain.HostID]int{}, refusals: map[domain.HostID]refusal{},
		upkeeps: map[domain.Address]context.CancelFunc{},
	}
}

// Apply brings the process up to r. An event that was applied before changes
// nothing.
func (p *Process) Apply(r event.Recorded) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Position <= p.position {
		return
	}
	p.position = r.Position
	switch e := r.Event.(type) {
	case event.RosterEvent:
		p.applyRoster(e)
		if added, ok := e.(event.HostAdded); ok {
			p.addedBy[added.HostID], p.addedAt[added.HostID] = r.Meta.Actor, r.Position
		}
	case event.HostEvent:
		if id, ok := r.Stream.Host(); ok {
			p.host(id).Evolve(e)
			p.dirty[id] = true
			_, takeover := e.(event.HostTakeoverOrdered)
			_, key := e.(event.HostKeyAccepted)
			if takeover || key {
				p.anew(id)
			}
			if late, ok := e.(event.HostRegistered); ok {
				if _, known := p.roster.Host(id); !known { // it was removed while it was being registered
					p.removed[id] = event.HostAdded{HostID: id, Host: late.Host}
				}
			}
			if _, gone := p.removed[id]; gone {
				p.settleRemoved(id)
			}
		}
	case event.OperationEvent:
		if id, ok := r.Stream.Operation(); ok {
			if o, running := p.operations[id]; running {
				o.Evolve(e, r.Meta.Time)
			}
			if _, abandoned := e.(event.OperationAbandoned); abandoned {
				p.drop(id)
			}
		}
	case event.SweepFinished:
		for _, id := range e.Missed {
			p.missing[id] = true
		}
		for _, id := range e.Answered {
			delete(p.missing, id)
		}
		for _, id := range e.Left {
			p.left[id] = true
		}
		for _, id := range e.Looked {
			delete(p.left, id)
		}
	}
	p.notify()
}

func (p *Process) applyRoster(e event.RosterEvent) {
	switch e := e.(type) {
	case event.HostAdded:
		p.named[e.Credential] = true
		p.dirty[e.HostID] = true
	case event.HostRemoved:
		if h, ok := p.roster.Host(e.HostID); ok {
			p.removed[e.HostID] = h.HostAdded
			p.forget(h.Credential)
		}
		if stop, ok := p.upkeeps[e.Host]; ok {
			stop()
		}
		p.settleRemoved(e.HostID)
		p.anew(e.HostID)
		p.freeTwins(e.HostID)
		delete(p.missing, e.HostID)
		delete(p.left, e.HostID)
		delete(p.intervals, e.HostID)
	case event.HostJoined:
		p.anew(e.HostID)
	case event.HostLeft:
		p.anew(e.HostID)
	case event.HostReleased:
		p.dirty[e.HostID] = true
	case event.ClusterReconfigured:
		for _, m := range p.roster.Members(e.ClusterID) {
			p.anew(m.HostID)
		}
	case event.ContainerManagerDefined:
		p.managers[e.ManagerID] = e
		if e.Credential != "" {
			p.named[e.Credential] = true
		}
	case event.DeployStarted:
		p.started(operation.Operation{Started: e.Started, Kind: domain.Deploy, Version: e.Version})
	case event.UpgradeStarted:
		p.started(operation.Operation{Started: e.Started, Kind: domain.Upgrade})
	case event.RestartStarted:
		p.started(operation.Operation{Started: e.Started, Kind: domain.Restart})
	case event.OperationCompleted:
		delete(p.operations, e.Operation)
	case event.OperationAborted:
		delete(p.operations, e.Operation)
	case event.ContainerManagerRemoved:
		p.retired[e.ManagerID] = true // its definition stays: hosts may have to be unregistered from it still
	case event.ClusterCreated, event.ClusterDeleted, event.NetworkDefined, event.NetworkRemoved, event.HostTaken, event.TermBegun:
	}
	p.roster.Evolve(e)
}

// anew looks at a host at once, or as soon as what is under way has ended: what that
// fails at may not be wanted any more.
func (p *Process) anew(id domain.HostID) {
	p.dirty[id] = true
	p.retries[id] = retry{anew: true}
}

// drop ends what is under way here for an operation that was abandoned. What was
// begun on hosts goes on there.
func (p *Process) drop(id domain.OperationID) {
	for _, t := range p.turning {
		if t.operation == id {
			t.stop()
		}
	}
}

func (p *Process) started(o operation.Operation) {
	p.operations[o.Operation] = &o
}

func (p *Process) forget(id domain.CredentialID) {
	if id != "" {
		p.named[id] = false
		p.destroys = append(p.destroys, id)
	}
}

// retire forgets the tokens of container managers that were removed and that no
// host is registered with, or being registered.
func (p *Process) retire() {
	if len(p.retired) == 0 || len(p.upkeeps) > 0 {
		return
	}
	needed := map[domain.ManagerID]bool{}
	for _, h := range p.hosts {
		id, _ := h.Registered()
		needed[id] = true
	}
	for id := range p.retired {
		if !needed[id] {
			delete(p.retired, id)
			p.forget(p.managers[id].Credential)
		}
	}
}

// settleRemoved drops a removed host as soon as no container manager knows it.
func (p *Process) settleRemoved(id domain.HostID) {
	if known, _ := p.host(id).Registered(); known == "" {
		delete(p.removed, id)
		delete(p.hosts, id)
		delete(p.dirty, id)
		delete(p.retries, id)
		delete(p.misses, id)
		delete(p.refusals, id)
		delete(p.addedBy, id)
		delete(p.addedAt, id)
		return
	}
	p.dirty[id] = true
}

func (p *Process) host(id domain.HostID) *host.Host {
	h, ok := p.hosts[id]
	if !ok {
		h = &host.Host{}
		p.hosts[id] = h
	}
	return h
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

// begin records the term and waits until that is applied, or ctx ends.
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
	for {
		p.mu.Lock()
		applied := p.position >= begun.Position
		if applied { // what an earlier term left of its own
			clear(p.misses)
			clear(p.intervals)
			clear(p.refusals)
			clear(p.retries)
			p.destroys = nil // the sweep finds them
		}
		p.mu.Unlock()
		if applied {
			return nil
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// act starts what is outstanding and not under way, and says when to look again
// if nothing happens.
func (p *Process) act(ctx context.Context) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, until := range p.busy {
		if until != 0 && until <= p.position {
			delete(p.busy, id)
			delete(p.turning, id)
			p.dirty[id] = true
		}
	}
	for id, until := range p.deciding {
		if until != 0 && until <= p.position {
			delete(p.deciding, id)
		}
	}
	p.retire()
	for _, id := range p.destroys {
		p.jobs.Go(func() { p.destroy(ctx, id) })
	}
	p.destroys = nil
	next := time.Hour
	for _, o := range p.operations {
		next = min(next, p.advance(ctx, o))
	}
	return min(next, p.startUpkeep(ctx))
}

// startUpkeep starts the upkeep of hosts that need it and are free.
func (p *Process) startUpkeep(ctx context.Context) time.Duration {
	now, next := p.config.Now(), time.Hour
	for id := range p.dirty {
		if _, working := p.busy[id]; working {
			continue
		}
		h, known := p.roster.Host(id)
		if !known {
			added, removed := p.removed[id]
			if !removed {
				delete(p.dirty, id)
				delete(p.retries, id)
				continue
			}
			h = roster.Host{HostAdded: added}
		}
		left := h.Claim != "" && h.By == "" && h.Term == p.term // by upkeep that could not record its end
		if !left && p.host(id).Next(p.wanted(h)) == host.Nothing {
			delete(p.dirty, id)
			delete(p.retries, id)
			continue
		}
		if p.roster.InHand(h) {
			continue // released by its operation it is looked at again
		}
		if due := p.retries[id].at.Sub(now); due > 0 {
			next = min(next, due)
			continue
		}
		if _, former := p.upkeeps[h.Host]; former || len(p.upkeeps) >= p.config.AtOnce {
			continue // a host of that address, removed since, is still being worked on
		}
		working, stop := context.WithCancel(ctx)
		p.upkeeps[h.Host] = stop
		p.busy[id] = 0
		p.retries[id] = retry{delay: p.retries[id].delay}
		p.jobs.Go(func() {
			at, err := p.upkeep(working, h, known)
			p.mu.Lock()
			defer p.mu.Unlock()
			stopped := working.Err() != nil
			stop()
			delete(p.upkeeps, h.Host)
			p.busy[id] = max(at, 1)
			switch {
			case stopped || err == nil || p.retries[id].anew:
				delete(p.retries, id)
			case ofStore(err):
				p.retries[id] = retry{at: p.config.Now().Add(storeRetry), delay: p.retries[id].delay}
			default:
				delay := min(max(firstRetry, 2*p.retries[id].delay), lastRetry)
				p.retries[id] = retry{at: p.config.Now().Add(delay), delay: delay}
			}
			p.notify()
		})
	}
	return next
}

// wanted is the container manager that should know a host.
func (p *Process) wanted(h roster.Host) domain.ManagerID {
	c, _ := p.roster.Cluster(h.Cluster)
	return c.ManagerID
}

// situation is what an operation must know of a host.
func (p *Process) situation(o *operation.Operation, m event.Member) operation.Situation {
	h, known := p.roster.Host(m.HostID)
	_, working := p.busy[m.HostID]
	facts, _ := p.host(m.HostID).Facts()
	at := operation.Situation{OSTree: facts.OSTree}
	switch {
	case !known || h.Cluster != o.ClusterID:
		at.Availability = operation.Gone
	case working && p.turning[m.HostID].operation == o.Operation:
		at.Availability = operation.Taken
	case working || h.Claim != "" && h.By != o.Operation && h.Term == p.term:
		at.Availability, at.Why = operation.Busy, "its upkeep"
	case p.host(m.HostID).Settling():
		at.Availability, at.Why = operation.Busy, "it is new, and looked at"
	}
	return at
}

// advance starts what an operation calls for and is not under way, and says when
// to look again if nothing happens.
func (p *Process) advance(ctx context.Context, o *operation.Operation) time.Duration {
	if _, deciding := p.deciding[o.Operation]; deciding {
		return time.Hour
	}
	progress := func(decide func(*operation.Progress) []event.OperationEvent) {
		p.decide(ctx, o.Operation, func() (commands.Receipt, error) {
			receipt, _, err := p.config.Commands.RecordTurn(ctx, o.Operation, "", decide)
			return receipt, err
		})
	}
	takeUp := func(of *operation.Progress) []event.OperationEvent { return of.TakeUp(o.Operation, p.term) }
	if len(takeUp(&o.Progress)) > 0 {
		progress(takeUp)
		return time.Hour
	}
	now := p.config.Now()
	next := o.Next(now, func(m event.Member) operation.Situation { return p.situation(o, m) })
	held, idle := p.held(o, next)
	next.Begin, next.Drop = without(next.Begin, idle), without(next.Drop, idle)
	for _, call := range []struct {
		hosts []event.Member
		what  func(*turn, context.Context) event.Position
	}{
		{next.InHand, (*turn).carryOut},
		{next.Begin, (*turn).carryOut},
		{next.Stage, (*turn).stage},
		{next.Drop, (*turn).cleanUp},
		{next.Skip, func(t *turn, ctx context.Context) event.Position { return t.skip(ctx, left) }},
		{idle, (*turn).release},
	} {
		for _, m := range call.hosts {
			if _, working := p.busy[m.HostID]; working {
				continue
			}
			p.busy[m.HostID] = 0
			working, stop := context.WithCancel(ctx)
			p.turning[m.HostID] = turning{o.Operation, stop}
			t := &turn{p: p, operation: o.Operation, kind: o.Kind, version: o.Version, policy: o.Policy, tolerated: o.Tolerated(), member: m, state: o.Turn(m.HostID)}
			p.jobs.Go(func() {
				defer stop()
				settle(working, p, p.busy, m.HostID, call.what(t, working))
			})
		}
	}
	switch {
	case o.Abandoned != "":
		p.decide(ctx, o.Operation, func() (commands.Receipt, error) {
			return p.config.Commands.FinishAbandoned(ctx, commands.Who{Actor: commands.Service}, o.Operation)
		})
	case next.Ended && held: // it ends with no host in its hands
	case next.Ended:
		p.decide(ctx, o.Operation, func() (commands.Receipt, error) {
			return p.config.Commands.EndOperation(ctx, o.Operation, next.Cause)
		})
	case len(next.Await) > 0 || len(next.Late) > 0:
		limit := time.Duration(o.Policy.Timeout) * time.Second
		progress(func(of *operation.Progress) (events []event.OperationEvent) {
			turn := func(m event.Member) event.Turn {
				return event.Turn{Operation: o.Operation, HostID: m.HostID, Host: m.Host}
			}
			for _, a := range next.Await {
				if of.Turn(a.HostID).State == operation.Waiting {
					events = append(events, of.AwaitHost(turn(a.Member), a.Why, now.Add(limit))...)
				}
			}
			for _, a := range next.Late {
				if of.Turn(a.HostID).State == operation.Waiting {
					events = append(events, of.End(a.HostID, event.HostTurnFailed{
						Turn: turn(a.Member), Reason: fmt.Sprintf("its turn was not begun within %s: %s", limit, a.Why),
					})...)
				}
			}
			return events
		})
	case next.Pause:
		progress(func(of *operation.Progress) []event.OperationEvent { return of.Pause(o.Operation, true) })
	case !next.Until.IsZero() && len(o.Wait(o.Operation, next.Wait, next.Until)) > 0:
		progress(func(of *operation.Progress) []event.OperationEvent {
			return of.Wait(o.Operation, next.Wait, next.Until)
		})
	}
	due := time.Hour
	for _, at := range []time.Time{next.Until, next.Again} {
		if !at.IsZero() {
			due = min(due, max(0, at.Sub(now)))
		}
	}
	return due
}

// held tells whether an operation holds a host, and gives those that it holds
// though nothing is under way there: whoever did something died before it was
// released. What is done there next is other work, and must not be taken for that:
// it waits until the host is free.
func (p *Process) held(o *operation.Operation, next operation.Next) (held bool, idle []event.Member) {
	for _, m := range o.Hosts {
		h, _ := p.roster.Host(m.HostID)
		if h.Claim == "" || h.By != o.Operation {
			continue
		}
		held = true
		if _, working := p.busy[m.HostID]; working {
			continue
		}
		turn := o.Turn(m.HostID)
		if turn.Over() || turn.State == operation.Waiting && !slices.Contains(next.Stage, m) {
			idle = append(idle, m)
		}
	}
	return held, idle
}

func without(all, some []event.Member) []event.Member {
	return slices.DeleteFunc(all, func(m event.Member) bool { return slices.Contains(some, m) })
}

// decide records a decision about an operation; until that is applied here,
// nothing else is done about it.
func (p *Process) decide(ctx context.Context, id domain.OperationID, record func() (commands.Receipt, error)) {
	p.deciding[id] = 0
	p.jobs.Go(func() {
		receipt, err := record()
		p.report(ctx, "a decision about an operation could not be recorded", err, "operation", id)
		if err != nil {
			receipt.Position = 0
		}
		settle(ctx, p, p.deciding, id, receipt.Position)
	})
}

// settle ends what is under way about id as soon as position at, where its outcome
// is, is applied. Where nothing was recorded (0) it ends after a while, so that it
// is not tried again at once.
func settle[K comparable](ctx context.Context, p *Process, underWay map[K]event.Position, id K, at event.Position) {
	if at == 0 && ctx.Err() == nil {
		time.AfterFunc(p.config.RetryDelay, func() { settle(ctx, p, underWay, id, 1) })
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	underWay[id] = max(at, 1)
	p.notify()
}

func (p *Process) destroy(ctx context.Context, id domain.CredentialID) {
	p.report(ctx, "destroying credentials failed", p.config.Credentials.Destroy(ctx, id), "credential", id)
}

// sweepCredentials destroys what is left of hosts and container managers that
// are gone, at the start and every hour.
func (p *Process) sweepCredentials(ctx context.Context) {
	for ctx.Err() == nil {
		var kept map[domain.CredentialID]time.Time
		err := p.whole(ctx)
		if err == nil {
			kept, err = p.config.Credentials.List(ctx)
		}
		p.report(ctx, "listing credentials failed", err)
		for id, since := range kept {
			p.mu.Lock()
			inUse, named := p.named[id]
			p.mu.Unlock()
			if named && !inUse || !named && p.config.Now().Sub(since) > unnamedFor {
				p.destroy(ctx, id)
			}
		}
		pause(ctx, unnamedFor)
	}
}

// whole waits until all that is recorded by now was applied, or ctx ends.
func (p *Process) whole(ctx context.Context) error {
	recorded, err := p.config.Commands.BeginTerm(ctx, p.term) // it has: this says how far the log is
	for err == nil {
		p.mu.Lock()
		applied := p.position >= recorded.Position
		p.mu.Unlock()
		if applied {
			return nil
		}
		if !pause(ctx, storeRetry) {
			return ctx.Err()
		}
	}
	return err
}

// report logs an error where it stops, unless all is stopping anyway.
func (p *Process) report(ctx context.Context, what string, err error, attributes ...any) {
	if err != nil && ctx.Err() == nil {
		p.config.Logger.Error("process: work failed", append([]any{"what", what, "error", err}, attributes...)...)
	}
}

// pause waits, or returns false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Manager is the container manager of a name, as it is defined now.
func (p *Process) Manager(name domain.ManagerName) (Manager, error) {
	p.mu.Lock()
	definition, ok := p.roster.Manager(name)
	p.mu.Unlock()
	if !ok {
		return nil, roster.ErrNoManager.With("there is no container manager %q", name)
	}
	return p.config.Managers(definition.ContainerManagerDefined)
}
