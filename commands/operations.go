package commands

import (
	"cmp"
	"context"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
	"commissaire/domain/roster"
)

// StartOperation asks for an operation over a cluster's members.
type StartOperation struct {
	Kind    domain.OperationKind
	Cluster domain.ClusterName
	Version string // Deploy: to which
	Policy  event.Policy
	Key     string // Idempotency-Key; "": none
	Seed    uint64 // of a random order; 0: one is drawn
}

// OperationReceipt names the operation that a command started, or that it found
// to be the one meant.
type OperationReceipt struct {
	Receipt
	ID        domain.OperationID
	New       bool      // this command started it
	StartedAt time.Time // UTC; of a new one
}

// ErrEnded refuses to change an operation that has ended.
var ErrEnded = domain.Refuse(domain.Conflict, "operation-ended")

// ErrNoOperation refuses to steer what is no operation.
var ErrNoOperation = domain.ErrNoOperation

// StartOperation starts an operation. Asking again with the same key, or for
// the same while it runs, names the same operation and changes nothing.
func (h *Handler) StartOperation(ctx context.Context, who Who, cmd StartOperation) (OperationReceipt, error) {
	var receipt OperationReceipt
	request, now := h.request(cmd), h.config.Now().UTC()
	err := h.knowing(ctx, func(known roster.Known) error {
		started, position, err := decide(ctx, h.roster, recordBy[event.RosterEvent](h, who),
			func(r *roster.Roster) ([]event.RosterEvent, error) { return r.Start(request, known) },
			func(r *roster.Roster, recorded []event.Decided) OperationReceipt {
				started := OperationReceipt{ID: r.Meant(request), New: len(recorded) > 0, StartedAt: now}
				if started.New {
					started.StartedAt = recorded[0].Meta.Time
				}
				return started
			})
		receipt = started
		receipt.Position = position
		return err
	})
	if err != nil {
		return OperationReceipt{}, err
	}
	return receipt, nil
}

// Plan is what would be started, and in which batches; none where it does not go
// in batches.
type Plan struct {
	Receipt
	Started event.Started
	Batches [][]event.Member
}

// PlanOperation is what StartOperation would start. It changes nothing, and is
// answered also while an operation runs.
func (h *Handler) PlanOperation(ctx context.Context, cmd StartOperation) (Plan, error) {
	type planned struct {
		started event.Started
		err     error
	}
	var plan Plan
	request := h.request(cmd)
	err := h.knowing(ctx, func(known roster.Known) error {
		would, position, err := query(ctx, h.roster, func(r *roster.Roster) planned {
			started, err := r.Plan(request, known)
			return planned{started, err}
		})
		if err = cmp.Or(err, would.err); err != nil {
			return err
		}
		o := operation.Operation{Started: would.started}
		plan = Plan{Receipt{position}, o.Started, o.Batches()}
		return nil
	})
	return plan, err
}

func (h *Handler) request(cmd StartOperation) roster.Request {
	q := roster.Request{
		ID: newID[domain.OperationID](h), Kind: cmd.Kind, Cluster: cmd.Cluster, Version: cmd.Version, Policy: cmd.Policy, Seed: cmd.Seed,
	}
	if cmd.Key != "" {
		q.ID = operationNamed(cmd.Cluster, cmd.Key)
	}
	if q.Seed == 0 && cmd.Policy.Order != nil && cmd.Policy.Order.Random {
		q.Seed = h.config.Random()
	}
	return q
}

// PauseOperation keeps further hosts from being begun; those in hand are
// finished. It may be repeated.
func (h *Handler) PauseOperation(ctx context.Context, who Who, id domain.OperationID) (Receipt, error) {
	return h.steer(ctx, who, id, func(p *operation.Progress) []event.OperationEvent { return p.Pause(id, false) })
}

// ResumeOperation ends a pause. It may be repeated.
func (h *Handler) ResumeOperation(ctx context.Context, who Who, id domain.OperationID) (Receipt, error) {
	return h.steer(ctx, who, id, func(p *operation.Progress) []event.OperationEvent { return p.Resume(id) })
}

// CancelOperation ends an operation; hosts in hand are finished before. It may
// be repeated.
func (h *Handler) CancelOperation(ctx context.Context, who Who, id domain.OperationID) (Receipt, error) {
	cause := "cancelled by " + who.Actor
	if who.Reason != "" {
		cause += ": " + who.Reason
	}
	return h.steer(ctx, who, id, func(p *operation.Progress) []event.OperationEvent { return p.Cancel(id, cause) })
}

// AbandonOperation gives an operation up, at once, whatever its hosts do: their
// turns have failed, hosts and cluster are free. What was begun on a host goes on
// there. It is the last resort, and needs a reason. It may be repeated.
func (h *Handler) AbandonOperation(ctx context.Context, who Who, id domain.OperationID) (Receipt, error) {
	if who.Reason == "" {
		return Receipt{}, domain.ErrInvalid.At("reason", "is required: say why the operation is given up")
	}
	found, err := h.findOperation(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	cause := "abandoned by " + who.Actor + ": " + who.Reason
	if _, err := h.steerFound(ctx, who, found, func(p *operation.Progress) []event.OperationEvent { return p.Abandon(id, cause, found.Hosts) }); err != nil {
		return Receipt{}, err
	}
	return h.FinishAbandoned(ctx, who, id)
}

// FinishAbandoned ends an abandoned operation and frees what it has in hand. Nodes
// that it cordoned are left to the upkeep of their hosts. It may be repeated.
func (h *Handler) FinishAbandoned(ctx context.Context, who Who, id domain.OperationID) (Receipt, error) {
	found, err := h.findOperation(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	type abandoned struct {
		cause    string
		cordoned []event.Member
	}
	a, position, err := query(ctx, h.operation(id), func(p *operation.Progress) abandoned {
		a := abandoned{cause: p.Abandoned}
		for _, m := range found.Hosts {
			if t := p.Turn(m.HostID); t.State == operation.Failed && t.Reason == a.cause && t.Cordon == operation.Cordoned {
				a.cordoned = append(a.cordoned, m)
			}
		}
		return a
	})
	if err != nil || a.cause == "" || !found.running {
		return Receipt{position}, err
	}
	if err := h.leaveCordoned(ctx, who, a.cordoned, a.cause); err != nil {
		return Receipt{}, err
	}
	receipt, err := h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.Abandon(id, a.cause) })
	if err == nil {
		h.operations.forget(event.OperationStream(id))
	}
	return receipt, err
}

// leaveCordoned leaves the nodes of these hosts to the upkeep of the hosts.
func (h *Handler) leaveCordoned(ctx context.Context, who Who, members []event.Member, cause string) error {
	managed, _, err := query(ctx, h.roster, func(r *roster.Roster) map[domain.HostID]roster.Cluster {
		managed := map[domain.HostID]roster.Cluster{}
		for _, m := range members {
			member, _ := r.Host(m.HostID)
			if c, _ := r.Cluster(member.Cluster); c.ManagerID != "" {
				managed[m.HostID] = c
			}
		}
		return managed
	})
	if err != nil {
		return err
	}
	for _, m := range members {
		c, ok := managed[m.HostID]
		if !ok {
			continue
		}
		if _, err := h.onHost(ctx, who, m.HostID, func(state *host.Host) ([]event.HostEvent, error) {
			return state.RecordUncordonFailure(m.Host, c.ManagerID, c.Manager, cause), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// steer records a decision about an operation that has not ended. One that ends
// at the same moment takes no harm from it. Where it has ended, only what changes
// nothing is done, so that a request whose answer was lost may be repeated.
func (h *Handler) steer(ctx context.Context, who Who, id domain.OperationID, f func(*operation.Progress) []event.OperationEvent) (Receipt, error) {
	found, err := h.findOperation(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	return h.steerFound(ctx, who, found, f)
}

func (h *Handler) steerFound(ctx context.Context, who Who, found foundOperation, f func(*operation.Progress) []event.OperationEvent) (Receipt, error) {
	return h.onOperation(ctx, who, found.Operation.Operation, func(p *operation.Progress) ([]event.OperationEvent, error) {
		events := f(p)
		if len(events) > 0 && !found.running {
			return nil, ErrEnded.With("the %s of cluster %s has ended; start another one", found.Kind, found.Cluster)
		}
		return events, nil
	})
}

// foundOperation is an operation as the roster has it, and whether it has not ended.
type foundOperation struct {
	roster.Operation
	running bool
}

func (h *Handler) findOperation(ctx context.Context, id domain.OperationID) (foundOperation, error) {
	found, _, err := query(ctx, h.roster, func(r *roster.Roster) *foundOperation {
		o, running, ok := r.Operation(id)
		if !ok {
			return nil
		}
		return &foundOperation{o, running}
	})
	switch {
	case err != nil:
		return foundOperation{}, err
	case found == nil:
		return foundOperation{}, ErrNoOperation.With("there is no operation %s", id)
	}
	return *found, nil
}

// RecordTurn records on an operation's history what f decides on its progress,
// and says what a host's turn is then; for the process that carries it out.
func (h *Handler) RecordTurn(ctx context.Context, id domain.OperationID, host domain.HostID, f func(*operation.Progress) []event.OperationEvent) (Receipt, operation.Turn, error) {
	turn, position, err := decide(ctx, h.operation(id), recordBy[event.OperationEvent](h, Who{Actor: Service}),
		func(p *operation.Progress) ([]event.OperationEvent, error) { return f(p), nil },
		func(p *operation.Progress, _ []event.Decided) operation.Turn { return p.Turn(host) })
	return Receipt{position}, turn, err
}

// EndOperation ends an operation: completed where cause is "", else aborted.
func (h *Handler) EndOperation(ctx context.Context, id domain.OperationID, cause string) (Receipt, error) {
	receipt, err := h.onRoster(ctx, Who{Actor: Service}, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.End(id, cause) })
	if err == nil {
		h.operations.forget(event.OperationStream(id))
	}
	return receipt, err
}
