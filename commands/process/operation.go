package process

import (
	"context"
	"fmt"
	"slices"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
)

// advance starts what an operation calls for and is not under way, and says when
// to look again if nothing happens.
func (p *Process) advance(ctx context.Context, o *operation.Operation) time.Duration {
	if p.schedule.operations.busy(o.Operation) {
		return time.Hour
	}
	takeUp := func(of *operation.Progress) []event.OperationEvent { return of.TakeUp(o.Operation, p.term) }
	if len(takeUp(&o.Progress)) > 0 {
		p.progress(ctx, o, takeUp)
		return time.Hour
	}
	if w := o.Policy.Window; w != nil && o.Zone == nil {
		o.Zone, _ = time.LoadLocation(w.Zone) // one that is not known here never opens
	}
	now := p.config.Now()
	next := o.Next(now, func(m event.Member) operation.Situation { return p.situation(o, m) })
	held := p.startTurns(ctx, o, next)
	p.steer(ctx, o, next, held, now)
	due := time.Hour
	for _, t := range []time.Time{next.Until, next.Again} {
		if !t.IsZero() {
			due = min(due, max(0, t.Sub(now)))
		}
	}
	return due
}

// situation is what an operation must know of a host.
func (p *Process) situation(o *operation.Operation, m event.Member) operation.Situation {
	h, known := p.world.roster.Host(m.HostID)
	state := p.world.host(m.HostID)
	facts, _ := state.Facts()
	situation := operation.Situation{OSTree: facts.OSTree}
	j, working := p.schedule.hosts[m.HostID]
	switch {
	case !known || h.Cluster != o.ClusterID:
		situation.Availability = operation.Gone
	case working && j.operation == o.Operation:
		situation.Availability = operation.Taken
	case working || h.Claim != "" && h.By != o.Operation && h.Term == p.term:
		situation.Availability, situation.Why = operation.Busy, "its upkeep"
	case state.Settling():
		situation.Availability, situation.Why = operation.Busy, "it is new, and looked at"
	}
	return situation
}

// startTurns starts what is to be done to hosts, and tells whether the operation
// holds any.
func (p *Process) startTurns(ctx context.Context, o *operation.Operation, next operation.Next) (held bool) {
	held, idle := p.held(o, next)
	for _, start := range []struct {
		members []event.Member
		carry   func(*turn, context.Context) event.Position
	}{
		{next.InHand, (*turn).carryOut},
		{without(next.Begin, idle), (*turn).carryOut},
		{next.Stage, (*turn).stage},
		{without(next.Drop, idle), (*turn).cleanUp},
		{next.Skip, func(t *turn, ctx context.Context) event.Position { return t.skip(ctx, left) }},
		{idle, (*turn).release},
	} {
		for _, m := range start.members {
			if p.schedule.hosts.busy(m.HostID) {
				continue
			}
			working, stop := context.WithCancel(ctx)
			p.schedule.hosts[m.HostID] = &job{operation: o.Operation, stop: stop}
			t := newTurn(p, o, m)
			p.jobs.Go(func() {
				defer stop()
				settle(working, p, p.schedule.hosts, m.HostID, start.carry(t, working))
			})
		}
	}
	return held
}

// held tells whether an operation holds a host, and gives those that it holds
// though nothing is under way there: whoever did something died before it was
// released. What is done there next is other work, and must not be taken for that:
// it waits until the host is free.
func (p *Process) held(o *operation.Operation, next operation.Next) (held bool, idle []event.Member) {
	for _, m := range o.Hosts {
		h, _ := p.world.roster.Host(m.HostID)
		if h.Claim == "" || h.By != o.Operation {
			continue
		}
		held = true
		if p.schedule.hosts.busy(m.HostID) {
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

// steer decides what an operation as a whole calls for.
func (p *Process) steer(ctx context.Context, o *operation.Operation, next operation.Next, held bool, now time.Time) {
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
		p.progress(ctx, o, waiting(o, next, now))
	case next.Pause:
		p.progress(ctx, o, func(of *operation.Progress) []event.OperationEvent { return of.Pause(o.Operation, true) })
	case !next.Until.IsZero() && len(o.Wait(o.Operation, next.Wait, next.Until)) > 0:
		p.progress(ctx, o, func(of *operation.Progress) []event.OperationEvent {
			return of.Wait(o.Operation, next.Wait, next.Until)
		})
	}
}

// waiting decides what hosts wait for whose turn cannot be begun, and ends the turns
// that waited for too long.
func waiting(o *operation.Operation, next operation.Next, now time.Time) func(*operation.Progress) []event.OperationEvent {
	limit := time.Duration(o.Policy.Timeout) * time.Second
	turnOf := func(m event.Member) event.Turn {
		return event.Turn{Operation: o.Operation, HostID: m.HostID, Host: m.Host}
	}
	return func(of *operation.Progress) (events []event.OperationEvent) {
		for _, a := range next.Await {
			if of.Turn(a.HostID).State == operation.Waiting {
				events = append(events, of.AwaitHost(turnOf(a.Member), a.Why, now.Add(limit))...)
			}
		}
		for _, a := range next.Late {
			if of.Turn(a.HostID).State == operation.Waiting {
				events = append(events, of.End(a.HostID, event.HostTurnFailed{
					Turn: turnOf(a.Member), Reason: fmt.Sprintf("its turn was not begun within %s: %s", limit, a.Why),
				})...)
			}
		}
		return events
	}
}

// progress records what f decides on an operation's progress.
func (p *Process) progress(ctx context.Context, o *operation.Operation, f func(*operation.Progress) []event.OperationEvent) {
	p.decide(ctx, o.Operation, func() (commands.Receipt, error) {
		receipt, _, err := p.config.Commands.RecordTurn(ctx, o.Operation, "", f)
		return receipt, err
	})
}

// decide records a decision about an operation; until that is applied here,
// nothing else is done about it.
func (p *Process) decide(ctx context.Context, id domain.OperationID, record func() (commands.Receipt, error)) {
	p.schedule.operations[id] = &job{}
	p.jobs.Go(func() {
		receipt, err := record()
		p.report(ctx, "a decision about an operation could not be recorded", err, "operation", id)
		if err != nil {
			receipt.Position = 0
		}
		settle(ctx, p, p.schedule.operations, id, receipt.Position)
	})
}
