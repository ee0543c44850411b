package commands

import (
	"context"
	"encoding/json"
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
var ErrNoOperation = domain.Refuse(domain.NotFound, "no-such-operation")

// StartOperation starts an operation. Asking again with the same key, or for
// the same while it runs, names the same operation and changes nothing.
func (h *Handler) StartOperation(ctx context.Context, who Who, cmd StartOperation) (OperationReceipt, error) {
	var answer OperationReceipt
	request, recorded := h.request(ctx, cmd), recordBy[event.RosterEvent](h, who)
	record := func(e event.RosterEvent) event.Decided {
		decided := recorded(e)
		answer.StartedAt = decided.Meta.Time
		return decided
	}
	at, err := h.roster.transact(ctx, record, func(r *roster.Roster) ([]event.RosterEvent, error) {
		meant, events, err := r.Start(request)
		answer = OperationReceipt{ID: meant, New: len(events) > 0, StartedAt: h.config.Now().UTC()}
		return events, err
	})
	if err != nil {
		return OperationReceipt{}, err
	}
	answer.Receipt = Receipt{at}
	return answer, nil
}

// ParsePolicy reads the policy in the body of a request, and names every field
// of it that is wrong. Keys that are no fields of a policy are not looked at.
func ParsePolicy(kind domain.OperationKind, body map[string]json.RawMessage) (event.Policy, error) {
	return operation.ParsePolicy(kind, body)
}

// PolicyFields are the fields that a policy of that kind of operation has.
func PolicyFields(kind domain.OperationKind) []string { return operation.PolicyFields(kind) }

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
	request := h.request(ctx, cmd)
	var o operation.Operation
	receipt, err := h.onRoster(ctx, Who{}, func(r *roster.Roster) (_ []event.RosterEvent, err error) {
		o.Started, err = r.Plan(request)
		return nil, err
	})
	if err != nil {
		return Plan{}, err
	}
	return Plan{receipt, o.Started, o.Batches()}, nil
}

func (h *Handler) request(ctx context.Context, cmd StartOperation) roster.Request {
	q := roster.Request{
		ID: newID[domain.OperationID](h), Kind: cmd.Kind, Cluster: cmd.Cluster, Version: cmd.Version, Policy: cmd.Policy, Seed: cmd.Seed,
		Done: func(id domain.OperationID) (map[domain.HostID]bool, error) { return h.done(ctx, id) },
	}
	if cmd.Key != "" {
		q.ID = operationNamed(cmd.Cluster, cmd.Key)
	}
	if q.Seed == 0 && cmd.Policy.Order != nil && cmd.Policy.Order.Random {
		q.Seed = h.config.Random()
	}
	return q
}

// done asks an operation's own history which hosts have what it wanted.
func (h *Handler) done(ctx context.Context, id domain.OperationID) (map[domain.HostID]bool, error) {
	var done map[domain.HostID]bool
	_, err := h.onOperation(ctx, Who{}, id, func(p *operation.Progress) ([]event.OperationEvent, error) {
		done = p.Done()
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
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
		return Receipt{}, domain.ErrInvalid.At("reason", "is required: say why the operation is given up, here or in X-Commissaire-Reason")
	}
	o, ended, err := h.operation(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	cause := "abandoned by " + who.Actor + ": " + who.Reason
	if _, err := h.steered(ctx, who, id, ended, func(p *operation.Progress) []event.OperationEvent { return p.Abandon(id, cause, o.Hosts) }); err != nil {
		return Receipt{}, err
	}
	return h.FinishAbandoned(ctx, who, id)
}

// FinishAbandoned ends an abandoned operation and frees what it has in hand. Nodes
// that it cordoned are left to the upkeep of their hosts. It may be repeated.
func (h *Handler) FinishAbandoned(ctx context.Context, who Who, id domain.OperationID) (Receipt, error) {
	o, ended, err := h.operation(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	cause := ""
	var cordoned []event.Member
	receipt, err := h.onOperation(ctx, who, id, func(p *operation.Progress) ([]event.OperationEvent, error) {
		cause, cordoned = p.Abandoned, nil
		for _, m := range o.Hosts {
			if t := p.Turn(m.HostID); t.State == operation.Failed && t.Reason == cause && t.Cordon == operation.Cordoned {
				cordoned = append(cordoned, m)
			}
		}
		return nil, nil
	})
	if err != nil || cause == "" || ended != nil {
		return receipt, err
	}
	managers := map[domain.HostID]roster.Cluster{}
	if _, err := h.onRoster(ctx, Who{}, func(r *roster.Roster) ([]event.RosterEvent, error) {
		for _, m := range cordoned {
			if one, ok := r.Host(m.HostID); ok {
				managers[m.HostID], _ = r.Cluster(one.Cluster)
			}
		}
		return nil, nil
	}); err != nil {
		return Receipt{}, err
	}
	for _, m := range cordoned {
		of := managers[m.HostID]
		if of.ManagerID == "" {
			continue
		}
		if _, err := h.onHost(ctx, who, m.HostID, func(one *host.Host) ([]event.HostEvent, error) {
			return one.UncordonFailed(m.Host, of.ManagerID, of.Manager, cause), nil
		}); err != nil {
			return Receipt{}, err
		}
	}
	receipt, err = h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.Abandon(id, cause) })
	if err == nil {
		h.operations.forget(event.OperationStream(id))
	}
	return receipt, err
}

// steer records a decision about an operation that has not ended. One that ends
// at the same moment takes no harm from it. Where it has ended, only what changes
// nothing is done, so that a request whose answer was lost may be repeated.
func (h *Handler) steer(ctx context.Context, who Who, id domain.OperationID, decide func(*operation.Progress) []event.OperationEvent) (Receipt, error) {
	_, ended, err := h.operation(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	return h.steered(ctx, who, id, ended, decide)
}

// operation is the operation of that id; ended refuses to change one that has ended.
func (h *Handler) operation(ctx context.Context, id domain.OperationID) (o roster.Operation, ended, err error) {
	_, err = h.onRoster(ctx, Who{}, func(r *roster.Roster) ([]event.RosterEvent, error) {
		var running, ok bool
		if o, running, ok = r.Operation(id); !ok {
			return nil, ErrNoOperation.With("there is no operation %s", id)
		}
		if ended = nil; !running {
			ended = ErrEnded.With("the %s of cluster %s has ended; start another one", o.Kind, o.Cluster)
		}
		return nil, nil
	})
	return o, ended, err
}

func (h *Handler) steered(ctx context.Context, who Who, id domain.OperationID, ended error, decide func(*operation.Progress) []event.OperationEvent) (Receipt, error) {
	return h.onOperation(ctx, who, id, func(p *operation.Progress) ([]event.OperationEvent, error) {
		decided := decide(p)
		if len(decided) > 0 && ended != nil {
			return nil, ended
		}
		return decided, nil
	})
}

func (h *Handler) onOperation(ctx context.Context, who Who, id domain.OperationID, decide func(*operation.Progress) ([]event.OperationEvent, error)) (Receipt, error) {
	at, err := h.operations.of(event.OperationStream(id)).transact(ctx, recordBy[event.OperationEvent](h, who), decide)
	return Receipt{at}, err
}

// RecordTurn records on an operation's history what f decides on its progress,
// and says what a host's turn is then; for the process that carries it out.
func (h *Handler) RecordTurn(ctx context.Context, id domain.OperationID, host domain.HostID, f func(*operation.Progress) []event.OperationEvent) (Receipt, operation.Turn, error) {
	var turn operation.Turn
	at, err := h.operations.of(event.OperationStream(id)).transactThen(ctx, recordBy[event.OperationEvent](h, Who{Actor: Service}),
		func(p *operation.Progress) ([]event.OperationEvent, error) { return f(p), nil },
		func(p *operation.Progress) { turn = p.Turn(host) })
	if err != nil {
		return Receipt{}, operation.Turn{}, err
	}
	return Receipt{at}, turn, nil
}

// EndOperation ends an operation: completed where cause is "", else aborted.
func (h *Handler) EndOperation(ctx context.Context, id domain.OperationID, cause string) (Receipt, error) {
	receipt, err := h.onRoster(ctx, Who{Actor: Service}, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.End(id, cause) })
	if err == nil {
		h.operations.forget(event.OperationStream(id))
	}
	return receipt, err
}
