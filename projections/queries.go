package projections

import (
	"iter"
	"slices"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// checked is when a host was last looked at.
func (s *Snapshot) checked(host *hostState) time.Time {
	if !host.Missing && !host.Left && !host.Bootstrapped.IsZero() && host.Bootstrapped.Before(s.sweep) && host.Checked.Before(s.sweep) {
		return s.sweep
	}
	return host.Checked
}

func (s *Snapshot) describe(host *hostState) Host {
	return Host{
		Address: host.Address, Status: host.status(), OS: host.Facts.OS, CPUs: host.Facts.CPUs,
		Memory: host.Facts.Memory, Space: host.Facts.Space, LastCheck: Time{s.checked(host)},
	}
}

// answer is a host in JSON.
func (s *Snapshot) answer(host *hostState) *Answer {
	host.rendered.mu.Lock()
	defer host.rendered.mu.Unlock()
	if host.rendered.answer == nil || !host.rendered.sweep.Equal(s.sweep) {
		host.rendered.answer, host.rendered.sweep = NewAnswer(s.describe(host)), s.sweep
	}
	return host.rendered.answer
}

func (s *Snapshot) host(address domain.Address) (*hostState, bool) {
	id, ok := s.addresses.Get(address)
	if !ok {
		return nil, false
	}
	return s.hosts.Get(id)
}

// facts are what is known of a host; the zero Facts where nothing is.
func (s *Snapshot) facts(id domain.HostID) event.Facts {
	host, ok := s.hosts.Get(id)
	if !ok {
		return event.Facts{}
	}
	return host.Facts
}

// Host is the host that is known under an address.
func (s *Snapshot) Host(address domain.Address) (Host, bool) {
	host, ok := s.host(address)
	if !ok {
		return Host{}, false
	}
	return s.describe(host), true
}

// HostAnswer is Host in JSON.
func (s *Snapshot) HostAnswer(address domain.Address) (*Answer, bool) {
	host, ok := s.host(address)
	if !ok {
		return nil, false
	}
	return s.answer(host), true
}

// Hosts are all hosts in JSON, by address.
func (s *Snapshot) Hosts() *Answer {
	all := make([]*hostState, 0, s.hosts.Len())
	s.hosts.Scan(func(_ domain.HostID, host *hostState) bool {
		all = append(all, host)
		return true
	})
	slices.SortFunc(all, func(a, b *hostState) int { return a.Address.Compare(b.Address) })
	answers := make([]*Answer, len(all))
	for i, host := range all {
		answers[i] = s.answer(host)
	}
	return listAnswer(answers)
}

// Count is how many hosts there are, and how many operations were started.
func (s *Snapshot) Count() (hosts, operations int) { return s.hosts.Len(), s.operations.Len() }

// Managed is the container manager that knows a host as a member; "" when none does.
func (s *Snapshot) Managed(address domain.Address) domain.ManagerName {
	host, ok := s.host(address)
	if !ok {
		return ""
	}
	c, ok := s.cluster(host.Cluster)
	if !ok {
		return ""
	}
	return c.Manager
}

// Cluster is the cluster of that name.
func (s *Snapshot) Cluster(name domain.ClusterName) (Cluster, bool) {
	c, ok := s.clusters.Get(name)
	if !ok {
		return Cluster{}, false
	}
	status := Degraded
	switch {
	case c.Counts.Unavailable == 0:
		status = OK
	case c.Counts.Available == 0:
		status = Failed
	}
	return Cluster{Name: c.Name, Status: status, Network: c.Network, Manager: c.Manager, Hosts: c.Counts}, true
}

// Clusters are the names of all clusters, sorted.
func (s *Snapshot) Clusters() []domain.ClusterName { return s.clusters.Keys() }

// Members are the addresses of a cluster's members, sorted; false where there is
// no such cluster.
func (s *Snapshot) Members(name domain.ClusterName) ([]domain.Address, bool) {
	c, ok := s.clusters.Get(name)
	if !ok {
		return nil, false
	}
	members := []domain.Address{}
	for _, id := range s.memberIDs(c.ID) {
		if host, ok := s.hosts.Get(id); ok {
			members = append(members, host.Address)
		}
	}
	slices.SortFunc(members, domain.Address.Compare)
	return members, true
}

// Networks are the names of all networks, sorted.
func (s *Snapshot) Networks() []string { return s.networks.Keys() }

// Network is the network of that name.
func (s *Snapshot) Network(name domain.NetworkName) (*Answer, bool) {
	return s.networks.Get(string(name))
}

// Managers are the names of all container managers, sorted.
func (s *Snapshot) Managers() []string { return s.managers.Keys() }

// Manager is the container manager of that name.
func (s *Snapshot) Manager(name domain.ManagerName) (*Answer, bool) {
	return s.managers.Get(string(name))
}

// Operation is the operation of that id.
func (s *Snapshot) Operation(id domain.OperationID) (*Operation, bool) {
	pos, ok := s.started.Get(id)
	if !ok {
		return nil, false
	}
	o, ok := s.operations.Get(pos)
	if !ok {
		return nil, false
	}
	return o.withTurns(), true
}

// Operations are those that were started before a position (0: all), newest first,
// each with the position of its start.
func (s *Snapshot) Operations(before event.Position) iter.Seq2[event.Position, *Operation] {
	return func(yield func(event.Position, *Operation) bool) {
		each := func(pos event.Position, o *Operation) bool { return yield(pos, o.withTurns()) }
		if before == 0 {
			s.operations.Reverse(each)
			return
		}
		s.operations.Descend(before-1, each)
	}
}

// Latest is the record of a cluster's latest operation of a kind; false when it
// has none.
func (s *Snapshot) Latest(name domain.ClusterName, kind domain.OperationKind) (*Answer, bool) {
	c, ok := s.clusters.Get(name)
	if !ok {
		return nil, false
	}
	id, ok := s.latest.Get(string(c.ID) + " " + string(kind))
	if !ok {
		return nil, false
	}
	o, ok := s.Operation(id)
	if !ok {
		return nil, false
	}
	return o.Record(), true
}

// View is a view and how many records it has.
type View struct {
	Name    string `json:"name"`
	Records int    `json:"records"`
}

// Views are the views by name, as they are served.
func (s *Snapshot) Views() []View {
	var all []View
	for _, v := range views {
		if !v.index {
			all = append(all, View{v.name, v.count(s)})
		}
	}
	return all
}
