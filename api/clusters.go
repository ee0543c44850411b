package api

import (
	"context"
	"net/http"
	"slices"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/projections"
)

var errNoMember = domain.Refuse(domain.NotFound, "not-a-member")

// empty is the body of every DELETE's answer.
var empty = []string{}

func (s *Server) getClusters(w http.ResponseWriter, r *http.Request) error {
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, snapshot.Clusters())
}

func (s *Server) getCluster(w http.ResponseWriter, r *http.Request) error {
	name, err := clusterName(r)
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	c, ok := snapshot.Cluster(name)
	if !ok {
		return noCluster(name)
	}
	return s.answer(w, r, http.StatusOK, c)
}

func noCluster(name domain.ClusterName) error {
	return domain.ErrNoCluster.With("there is no cluster %q", name)
}

// changedCluster is a cluster as PUT answers it: without its counts.
type changedCluster struct {
	Name    domain.ClusterName `json:"name"`
	Status  string             `json:"status"`
	Network domain.NetworkName `json:"network"`
	Manager domain.ManagerName `json:"container_manager"`
	HostSet []domain.Address   `json:"hostset,omitzero"`
}

func (s *Server) changed(w http.ResponseWriter, r *http.Request, name domain.ClusterName, receipt commands.ClusterReceipt) changedCluster {
	snapshot := s.settle(w, r, receipt.Receipt)
	c := changedCluster{Name: name, Status: projections.OK, Network: receipt.Network, Manager: receipt.Manager}
	if cluster, ok := snapshot.Cluster(name); ok {
		c.Status = cluster.Status
	}
	return c
}

func (s *Server) putCluster(w http.ResponseWriter, r *http.Request) error {
	name, err := clusterName(r)
	if err != nil {
		return err
	}
	who, b, err := s.change(r)
	if err != nil {
		return err
	}
	if err := b.same("name", string(name)); err != nil {
		return err
	}
	cmd := commands.PutCluster{Name: name}
	if cmd.Network, err = b.str("network"); err != nil {
		return err
	}
	if cmd.Manager, err = b.str("container_manager"); err != nil {
		return err
	}
	receipt, err := s.config.Commands.PutCluster(r.Context(), who, cmd)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusCreated, s.changed(w, r, name, receipt))
}

func (s *Server) deleteCluster(w http.ResponseWriter, r *http.Request) error {
	name, err := clusterName(r)
	if err != nil {
		return err
	}
	return s.delete(w, r, func(ctx context.Context, who commands.Who) (commands.Receipt, error) {
		return s.config.Commands.DeleteCluster(ctx, who, name)
	})
}

// delete carries out a command whose answer is [].
func (s *Server) delete(w http.ResponseWriter, r *http.Request, f func(context.Context, commands.Who) (commands.Receipt, error)) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	receipt, err := f(r.Context(), who)
	if err != nil {
		return err
	}
	s.settle(w, r, receipt)
	return s.answer(w, r, http.StatusOK, empty)
}

func (s *Server) getMembers(w http.ResponseWriter, r *http.Request) error {
	name, err := clusterName(r)
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	members, ok := snapshot.Members(name)
	if !ok {
		return noCluster(name)
	}
	return s.answer(w, r, http.StatusOK, members)
}

func (s *Server) putMembers(w http.ResponseWriter, r *http.Request) error {
	name, err := clusterName(r)
	if err != nil {
		return err
	}
	who, b, err := s.change(r)
	if err != nil {
		return err
	}
	cmd := commands.PutMembers{Cluster: name}
	if cmd.Old, err = b.addresses("old"); err != nil {
		return err
	}
	if cmd.New, err = b.addresses("new"); err != nil {
		return err
	}
	receipt, err := s.config.Commands.PutMembers(r.Context(), who, cmd)
	if err != nil {
		return err
	}
	c := s.changed(w, r, name, receipt)
	slices.SortFunc(cmd.New, domain.Address.Compare)
	c.HostSet = slices.Compact(cmd.New)
	return s.answer(w, r, http.StatusOK, c)
}

func member(r *http.Request) (name domain.ClusterName, host domain.Address, err error) {
	if name, err = clusterName(r); err == nil {
		host, err = address(r)
	}
	return name, host, err
}

func (s *Server) getMember(w http.ResponseWriter, r *http.Request) error {
	name, host, err := member(r)
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	members, ok := snapshot.Members(name)
	switch {
	case !ok:
		return noCluster(name)
	case !slices.Contains(members, host):
		return errNoMember.With("host %s is no member of cluster %s", host, name)
	}
	return s.answer(w, r, http.StatusOK, []domain.Address{host})
}

func (s *Server) putMember(w http.ResponseWriter, r *http.Request) error {
	name, host, err := member(r)
	if err != nil {
		return err
	}
	who, _, err := s.change(r)
	if err != nil {
		return err
	}
	receipt, err := s.config.Commands.JoinHost(r.Context(), who, name, host)
	if err != nil {
		return err
	}
	s.settle(w, r, receipt)
	return s.answer(w, r, http.StatusOK, []domain.Address{host})
}

func (s *Server) deleteMember(w http.ResponseWriter, r *http.Request) error {
	name, host, err := member(r)
	if err != nil {
		return err
	}
	return s.delete(w, r, func(ctx context.Context, who commands.Who) (commands.Receipt, error) {
		return s.config.Commands.LeaveHost(ctx, who, name, host)
	})
}
