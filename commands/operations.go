package commands

import (
	"context"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
	"commissaire/domain/roster"
)

// StartOperation asks for an operation over a cluster's members.
type StartOperation struct {
	Kind    domain.OperationKind
	Cluster domain.ClusterName
	Version string // Deploy: to which
	Key     string // Idempotency-Key; "": none
}

// OperationReceipt names the operation that a command started, or that it found
// to be the one meant.
type OperationReceipt struct {
	Receipt
	ID        domain.OperationID
	StartedAt time.Time // UTC; of a new one
}

// StartOperation starts an operation. Asking again with the same key, or for
// the same while it runs, names the same operation and changes nothing.
func (h *Handler) StartOperation(ctx context.Context, who Who, cmd StartOperation) (OperationReceipt, error) {
	answer := OperationReceipt{StartedAt: h.config.Now().UTC()}
	id := newID[domain.OperationID](h)
	if cmd.Key != "" {
		id = operationNamed(cmd.Cluster, cmd.Key)
	}
	receipt, err := h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) {
		meant, events, err := r.Start(id, cmd.Kind, cmd.Cluster, cmd.Version, event.DefaultPolicy())
		answer.ID = meant
		return events, err
	})
	if err != nil {
		return OperationReceipt{}, err
	}
	answer.Receipt = receipt
	return answer, nil
}

// RecordTurn records on an operation's history what f decides on its turns; for
// the process that carries them out.
func (h *Handler) RecordTurn(ctx context.Context, id domain.OperationID, f func(operation.Turns) []event.OperationEvent) (Receipt, error) {
	who := Who{Actor: Service}
	at, err := h.operations.of(event.OperationStream(id)).transact(ctx, recordBy[event.OperationEvent](h, who),
		func(t operation.Turns) ([]event.OperationEvent, error) { return f(t), nil })
	return Receipt{at}, err
}

// EndOperation ends an operation: completed where cause is "", else aborted.
func (h *Handler) EndOperation(ctx context.Context, id domain.OperationID, cause string) (Receipt, error) {
	receipt, err := h.onRoster(ctx, Who{Actor: Service}, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.End(id, cause) })
	if err == nil {
		h.operations.forget(event.OperationStream(id))
	}
	return receipt, err
}
