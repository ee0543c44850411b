package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
)

// Manager is a container manager. Registering, cordoning and draining twice,
// uncordoning what is not cordoned and unregistering what is gone succeed.
type Manager interface {
	Register(ctx context.Context, host domain.Address) error
	Unregister(ctx context.Context, host domain.Address) error

	// NodeStatus is the manager's own view of the host.
	NodeStatus(ctx context.Context, host domain.Address) (json.RawMessage, error)
	// Ready tells whether the manager can use the host, and if not, why. What the
	// host reported in another boot than bootID does not count; "": any does.
	Ready(ctx context.Context, host domain.Address, bootID string) (ready bool, why string, err error)

	// Cordoned tells whether new work is kept away from the host.
	Cordoned(ctx context.Context, host domain.Address) (bool, error)
	Cordon(ctx context.Context, host domain.Address) error
	// Drain moves the host's work elsewhere, until ctx ends. Each piece of work
	// has grace to end; -1: as long as it asks for itself.
	Drain(ctx context.Context, host domain.Address, grace int) error
	Uncordon(ctx context.Context, host domain.Address) error
}

// node is a host as its container manager knows it.
type node struct {
	p          *Process
	definition event.ContainerManagerDefined
	host       domain.Address
}

// ask asks the container manager, a few times.
func (n *node) ask(ctx context.Context, what string, f func(Manager) error) error {
	for attempt := 1; ; attempt++ {
		manager, err := n.p.config.Managers(n.definition)
		if err == nil {
			err = f(manager)
		}
		if err == nil || ctx.Err() != nil || about(err) == theStore {
			return err
		}
		if attempt >= n.p.config.Attempts || !pause(ctx, n.p.config.RetryDelay) {
			return &nodeError{fmt.Sprintf("container manager %s could not %s", n.definition.Manager, what), err}
		}
	}
}

// drain cordons a host's node and empties it before anything is done to the host, and
// before its reboot once more: what came back goes again, all within one time limit.
func (t *turn) drain(ctx context.Context) error {
	d := event.DefaultDrain()
	if t.policy.Drain != nil {
		d = *t.policy.Drain
	}
	if t.node == nil || d.Off {
		return nil
	}
	if err := t.cordon(ctx); err != nil {
		return err
	}
	return t.evict(ctx, d)
}

// cordon records that the host's node is to be cordoned, and whether somebody else
// had, and cordons it.
func (t *turn) cordon(ctx context.Context) error {
	var cordoned bool
	if err := t.node.ask(ctx, "say whether the host is cordoned", func(m Manager) (err error) {
		cordoned, err = m.Cordoned(ctx, t.host.Host)
		return err
	}); err != nil {
		return err
	}
	state, err := t.p.config.Commands.Host(ctx, t.host.HostID)
	if err != nil {
		return err
	}
	ours := state.LeftCordoned() == t.node.definition.ManagerID // by an earlier turn
	if err := t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.Cordon(t.ref, cordoned && !ours) }); err != nil {
		return err
	}
	if cordoned {
		return nil
	}
	return t.node.ask(ctx, "cordon the host", func(m Manager) error { return m.Cordon(ctx, t.host.Host) })
}

// evict moves the work of the host's node elsewhere.
func (t *turn) evict(ctx context.Context, d event.Drain) error {
	began := t.p.config.Now()
	defer func() { t.draining += t.p.config.Now().Sub(began) }()
	until, err := t.drainUntil(ctx, d, began)
	if err != nil {
		return err
	}
	limited, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	err = t.node.ask(limited, "drain the host", func(m Manager) error { return m.Drain(limited, t.host.Host, d.Grace) })
	switch {
	case err == nil || ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() == nil:
		return err
	case d.Continue:
		return nil
	}
	undone := "nothing was done to it"
	if t.state.State > operation.Begun {
		undone = "it was not rebooted"
	}
	return &nodeError{fmt.Sprintf("the host was not drained within %d s, and %s", d.Timeout, undone), err}
}

// drainUntil records that the turn waits for its node to be drained, and until when;
// it goes on where that is on record.
func (t *turn) drainUntil(ctx context.Context, d event.Drain, now time.Time) (time.Time, error) {
	const drained = "its node to be drained"
	if t.state.Wait.Why == drained {
		return later(t.state.Wait.Until, now.Add(lastLook)), nil
	}
	until := now.Add(max(time.Duration(d.Timeout)*time.Second-t.draining, lastLook))
	return until, t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.AwaitHost(t.ref, drained, until) })
}

// lastLook is how long a look at a node takes at least for which no time is left.
const lastLook = time.Second

// uncordoned gives a node that this turn cordoned back, however the turn ended.
// Where that cannot be done now, the turn says so and has failed, so that no
// further host is taken out of service for it; and the host's upkeep goes on
// trying.
func (t *turn) uncordoned(ctx context.Context, outcome event.OperationEvent) (event.OperationEvent, error) {
	if t.state.Cordon != operation.Cordoned || t.node == nil {
		return outcome, nil
	}
	err := t.node.ask(ctx, "uncordon the host, which is tried again later", func(m Manager) error { return m.Uncordon(ctx, t.host.Host) })
	var refused *nodeError
	if err != nil && !errors.As(err, &refused) {
		return nil, err
	}
	if _, err := t.p.config.Commands.RecordHost(ctx, t.host.HostID, func(state *host.Host) []event.HostEvent {
		of := t.node.definition
		if refused == nil {
			return state.RecordUncordon(t.host.Host, of.ManagerID, of.Manager)
		}
		return state.RecordUncordonFailure(t.host.Host, of.ManagerID, of.Manager, reason(refused.err))
	}); err != nil {
		return nil, err
	}
	if refused == nil {
		return outcome, nil
	}
	if failed, is := outcome.(event.HostTurnFailed); is {
		failed.Reason += "; " + reason(err)
		return failed, nil
	}
	return event.HostTurnFailed{Turn: t.ref, Reason: reason(err), Output: t.state.Worked.Output}, nil
}
