package commands

import (
	"context"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

// PutCluster asks for a cluster. nil leaves a value of an existing one as it is.
type PutCluster struct {
	Name    domain.ClusterName
	Network *string // one that is not there becomes "default"
	Manager *string // "": unmanaged
}

// PutMembers asks for other members, if Old are the present ones. Both are sets.
type PutMembers struct {
	Cluster  domain.ClusterName
	Old, New []domain.Address
}

// ClusterReceipt says what a cluster is after a command.
type ClusterReceipt struct {
	Receipt
	Network domain.NetworkName
	Manager domain.ManagerName
}

// PutCluster creates or changes a cluster. It may be repeated.
func (h *Handler) PutCluster(ctx context.Context, who Who, cmd PutCluster) (ClusterReceipt, error) {
	id := newID[domain.ClusterID](h)
	return h.changeCluster(ctx, who, cmd.Name, func(r *roster.Roster) ([]event.RosterEvent, error) {
		return r.PutCluster(id, cmd.Name, cmd.Network, cmd.Manager)
	})
}

// PutMembers replaces the members of a cluster, all or nothing.
func (h *Handler) PutMembers(ctx context.Context, who Who, cmd PutMembers) (ClusterReceipt, error) {
	var receipt ClusterReceipt
	err := h.knowing(ctx, func(known roster.Known) (err error) {
		receipt, err = h.changeCluster(ctx, who, cmd.Cluster, func(r *roster.Roster) ([]event.RosterEvent, error) {
			return r.PutMembers(cmd.Cluster, cmd.Old, cmd.New, known)
		})
		return err
	})
	return receipt, err
}

func (h *Handler) changeCluster(ctx context.Context, who Who, name domain.ClusterName, f func(*roster.Roster) ([]event.RosterEvent, error)) (ClusterReceipt, error) {
	c, position, err := decide(ctx, h.roster, recordBy[event.RosterEvent](h, who), f, func(r *roster.Roster, _ []event.Decided) roster.Cluster {
		c, _ := r.ClusterNamed(name) // it is there: the decision says so
		return c
	})
	if err != nil {
		return ClusterReceipt{}, err
	}
	return ClusterReceipt{Receipt{position}, c.Network, c.Manager}, nil
}

// DeleteCluster deletes a cluster; its members are let go.
func (h *Handler) DeleteCluster(ctx context.Context, who Who, name domain.ClusterName) (Receipt, error) {
	return h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.DeleteCluster(name) })
}

// JoinHost makes a host a member. It may be repeated.
func (h *Handler) JoinHost(ctx context.Context, who Who, name domain.ClusterName, address domain.Address) (Receipt, error) {
	var receipt Receipt
	err := h.knowing(ctx, func(known roster.Known) (err error) {
		receipt, err = h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.Join(name, address, known) })
		return err
	})
	return receipt, err
}

// LeaveHost ends a host's membership. It may be repeated.
func (h *Handler) LeaveHost(ctx context.Context, who Who, name domain.ClusterName, address domain.Address) (Receipt, error) {
	return h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.Leave(name, address) })
}
