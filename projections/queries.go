package projections

import (
	"slices"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// checked is when a host was last looked at.
func (s *Snapshot) checked(h *hostState) time.Time {
	if !h.Missing && !h.Left && !h.Bootstrapped.IsZero() && h.Bootstrapped.Before(s.sweep) && h.Checked.Before(s.sweep) {
		return s.sweep
	}
	return h.Checked
}

func (s *Snapshot) record(h *hostState) Host {
	return Host{
		Address: h.Address, Status: h.status(), OS: h.Facts.OS, CPUs: h.Facts.CPUs,
		Memory: h.Facts.Memory, Space: h.Facts.Space, LastCheck: Time{s.checked(h)},
	}
}

// answer is a host's record in JSON.
func (s *Snapshot) answer(h *hostState) *Answer {
	h.shown.mu.Lock()
	defer h.shown.mu.Unlock()
	if h.shown.answer == nil || !h.shown.sweep.Equal(s.sweep) {
		h.shown.answer, h.shown.sweep = NewAnswer(s.record(h)), s.sweep
	}
	return h.shown.answer
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
	h, ok := s.hosts.Get(id)
	if !ok {
		return event.Facts{}
	}
	return h.Facts
}

// Host is the host that is known under an address.
func (s *Snapshot) Host(address domain.Address) (Host, bool) {
	h, ok := s.host(address)
	if !ok {
		return Host{}, false
	}
	return s.record(h), true
}

// HostAnswer is Host in JSON.
func (s *Snapshot) HostAnswer(address domain.Address) (*Answer, bool) {
	h, ok := s.host(address)
	if !ok {
		return nil, false
	}
	return s.answer(h), true
}

// Hosts are all hosts in JSON, by address.
func (s *Snapshot) Hosts() *Answer {
	all := make([]*hostState, 0, s.hosts.Len())
	s.hosts.Scan(func(_ domain.HostID, h *hostState) bool {
		all = append(all, h)
		return true
	})
	slices.SortFunc(all, func(a, b *hostState) int { return compare(a.Address, b.Address) })
	answers := make([]*Answer, len(all))
	for i, h := range all {
		answers[i] = s.answer(h)
	}
	return listOf(answers)
}

// Count is how many hosts there are, and how many operations were started.
func (s *Snapshot) Count() (hosts, operations int) { return s.hosts.Len(), s.operations.Len() }

// Managed is the container manager that knows a host as a member; "" when none does.
func (s *Snapshot) Managed(address domain.Address) domain.ManagerName {
	h, ok := s.host(address)
	if !ok {
		return ""
	}
	c, ok := s.cluster(h.Cluster)
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
func (s *Snapshot) Clusters() []domain.ClusterName { return some(s.clusters.Keys()) }

// Members are the addresses of a cluster's members, sorted; false where there is
// no such cluster.
func (s *Snapshot) Members(name domain.ClusterName) ([]domain.Address, bool) {
	c, ok := s.clusters.Get(name)
	if !ok {
		return nil, false
	}
	members := []domain.Address{}
	for _, id := range s.memberIDs(c.ID) {
		if h, ok := s.hosts.Get(id); ok {
			members = append(members, h.Address)
		}
	}
	slices.SortFunc(members, compare)
	return members, true
}

// Networks are the names of all networks, sorted.
func (s *Snapshot) Networks() []string { return some(s.networks.Keys()) }

// Network is the network of that name.
func (s *Snapshot) Network(name domain.NetworkName) (*Answer, bool) {
	return s.networks.Get(string(name))
}

// Managers are the names of all container managers, sorted.
func (s *Snapshot) Managers() []string { return some(s.managers.Keys()) }

// Manager is the container manager of that name.
func (s *Snapshot) Manager(name domain.ManagerName) (*Answer, bool) {
	return s.managers.Get(string(name))
}

func some[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

func compare(a, b domain.Address) int {
	switch {
	case a == b:
		return 0
	case a.Less(b):
		return -1
	}
	return 1
}

// Operation is the operation of that id.
func (s *Snapshot) Operation(id domain.OperationID) (*Operation, bool) {
	at, ok := s.started.Get(id)
	if !ok {
		return nil, false
	}
	o, ok := s.operations.Get(at)
	if !ok {
		return nil, false
	}
	return o.whole(), true
}

// Operations calls f with every operation that was started before a position (0:
// all), newest first, until it returns false.
func (s *Snapshot) Operations(before uint64, f func(uint64, *Operation) bool) {
	whole := func(at uint64, o *Operation) bool { return f(at, o.whole()) }
	if before == 0 {
		s.operations.Reverse(whole)
		return
	}
	s.operations.Descend(before-1, whole)
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
