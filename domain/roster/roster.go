// Package roster decides all that refers to something else: hosts, clusters and
// who is a member where, networks, container managers, which operation a
// cluster runs and who works on a host. All of it is one stream, so that a host
// is in one cluster at most, no removed host joins, and nothing refers to what
// is gone, by construction.
package roster

import (
	"cmp"
	"encoding/json"
	"strings"

	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/tidwall/btree"
)

// Roster is what the roster's events come to. Clone it before events are tried
// on it that may not be recorded.
type Roster struct {
	hosts      btree.Map[domain.HostID, Host]
	addresses  btree.Map[domain.Address, domain.HostID]
	clusters   btree.Map[domain.ClusterID, Cluster]
	names      btree.Map[domain.ClusterName, domain.ClusterID]
	members    btree.Map[member, domain.HostID]
	networks   btree.Map[domain.NetworkName, Network]
	managers   btree.Map[domain.ManagerName, Manager]
	operations btree.Map[domain.OperationID, Operation]
	latest     btree.Map[string, domain.OperationID] // cluster id, space, kind
	term       domain.Term
	log        domain.LogID
}

// member is a cluster's id, a space and a host's address.
type member string

func memberOf(cluster domain.ClusterID, host domain.Address) member {
	return member(string(cluster) + " " + string(host))
}

// Host is a host as the roster knows it.
type Host struct {
	event.HostAdded
	Cluster domain.ClusterID // "": in none
	Claim   domain.ClaimID   // "": nobody works on it
	By      domain.OperationID
	Term    domain.Term
}

// Cluster is a cluster as the roster knows it.
type Cluster struct {
	ID        domain.ClusterID
	Name      domain.ClusterName
	Network   domain.NetworkName
	ManagerID domain.ManagerID
	Manager   domain.ManagerName
	Running   domain.OperationID // "": none
}

// Network is a network's definition.
type Network struct {
	Type    string
	Options json.RawMessage
}

// Manager is a container manager's definition.
type Manager struct{ event.ContainerManagerDefined }

// Operation is what identifies an operation.
type Operation struct {
	event.Started
	Kind    domain.OperationKind
	Version string
}

// New is the roster before its first event.
func New() *Roster {
	r := &Roster{}
	r.networks.Set(domain.DefaultNetwork, Network{Type: domain.FlannelEtcd, Options: json.RawMessage("{}")})
	return r
}

// Clone is a roster of its own with the same content; it costs next to nothing.
func (r *Roster) Clone() *Roster {
	return &Roster{
		hosts: *r.hosts.Copy(), addresses: *r.addresses.Copy(), clusters: *r.clusters.Copy(),
		names: *r.names.Copy(), members: *r.members.Copy(), networks: *r.networks.Copy(),
		managers: *r.managers.Copy(), operations: *r.operations.Copy(), latest: *r.latest.Copy(), term: r.term, log: r.log,
	}
}

// Evolve brings the roster up to e.
func (r *Roster) Evolve(e event.RosterEvent) {
	switch e := e.(type) {
	case event.HostAdded:
		r.hosts.Set(e.HostID, Host{HostAdded: e})
		r.addresses.Set(e.Host, e.HostID)
	case event.HostRemoved:
		r.hosts.Delete(e.HostID)
		r.addresses.Delete(e.Host)
	case event.ClusterCreated:
		r.clusters.Set(e.ClusterID, Cluster{ID: e.ClusterID, Name: e.Cluster, Network: e.Network, ManagerID: e.ManagerID, Manager: e.Manager})
		r.names.Set(e.Cluster, e.ClusterID)
	case event.ClusterReconfigured:
		c, _ := r.clusters.Get(e.ClusterID)
		c.Network, c.ManagerID, c.Manager = e.Network, e.ManagerID, e.Manager
		r.clusters.Set(e.ClusterID, c)
	case event.ClusterDeleted:
		r.clusters.Delete(e.ClusterID)
		r.names.Delete(e.Cluster)
	case event.HostJoined:
		r.changeHost(e.HostID, func(h *Host) { h.Cluster = e.ClusterID })
		r.members.Set(memberOf(e.ClusterID, e.Host), e.HostID)
	case event.HostLeft:
		r.changeHost(e.HostID, func(h *Host) { h.Cluster = "" })
		r.members.Delete(memberOf(e.ClusterID, e.Host))
	case event.NetworkDefined:
		r.networks.Set(e.Network, Network{Type: e.Type, Options: e.Options})
	case event.NetworkRemoved:
		r.networks.Delete(e.Network)
	case event.ContainerManagerDefined:
		r.managers.Set(e.Manager, Manager{e})
	case event.ContainerManagerRemoved:
		r.managers.Delete(e.Manager)
	case event.HostTaken:
		r.changeHost(e.HostID, func(h *Host) { h.Claim, h.By, h.Term = e.Claim, e.Operation, e.Term })
		r.term = max(r.term, e.Term)
	case event.TermBegun:
		r.term = max(r.term, e.Term)
		r.log = cmp.Or(r.log, e.Log)
	case event.HostReleased:
		r.changeHost(e.HostID, func(h *Host) { h.Claim, h.By = "", "" })
	case event.OperationStarted:
		r.started(Operation(e.Start()))
	case event.OperationCompleted:
		r.ended(e.ClusterID)
	case event.OperationAborted:
		r.ended(e.ClusterID)
	}
}

func (r *Roster) changeHost(id domain.HostID, change func(*Host)) {
	if h, ok := r.hosts.Get(id); ok {
		change(&h)
		r.hosts.Set(id, h)
	}
}

func (r *Roster) started(o Operation) {
	r.operations.Set(o.Operation, o)
	r.latest.Set(latestOf(o.ClusterID, o.Kind), o.Operation)
	if c, ok := r.clusters.Get(o.ClusterID); ok {
		c.Running = o.Operation
		r.clusters.Set(c.ID, c)
	}
}

func latestOf(cluster domain.ClusterID, kind domain.OperationKind) string {
	return string(cluster) + " " + string(kind)
}

func (r *Roster) ended(id domain.ClusterID) {
	if c, ok := r.clusters.Get(id); ok {
		c.Running = ""
		r.clusters.Set(id, c)
	}
}

// Log is the log's identity; "" before the first term.
func (r *Roster) Log() domain.LogID { return r.log }

// Host is the host of that id, while it is known to the service.
func (r *Roster) Host(id domain.HostID) (Host, bool) { return r.hosts.Get(id) }

// HostAt is the host that is known under an address.
func (r *Roster) HostAt(address domain.Address) (Host, bool) {
	id, ok := r.addresses.Get(address)
	if !ok {
		return Host{}, false
	}
	return r.hosts.Get(id)
}

// Hosts calls f with every host until it returns false.
func (r *Roster) Hosts(f func(Host) bool) {
	r.hosts.Scan(func(_ domain.HostID, h Host) bool { return f(h) })
}

// Cluster is the cluster of that id.
func (r *Roster) Cluster(id domain.ClusterID) (Cluster, bool) { return r.clusters.Get(id) }

// Network is the network of that name.
func (r *Roster) Network(name domain.NetworkName) (Network, bool) { return r.networks.Get(name) }

// Manager is the container manager of that name.
func (r *Roster) Manager(name domain.ManagerName) (Manager, bool) { return r.managers.Get(name) }

// Operation is the operation of that id, and whether it has not ended.
func (r *Roster) Operation(id domain.OperationID) (o Operation, running, ok bool) {
	o, ok = r.operations.Get(id)
	c, _ := r.clusters.Get(o.ClusterID)
	return o, ok && c.Running == id, ok
}

// Members are the hosts of a cluster.
func (r *Roster) Members(id domain.ClusterID) []event.Member {
	var all []event.Member
	prefix := string(id) + " "
	r.members.Ascend(member(prefix), func(m member, host domain.HostID) bool {
		address, ok := strings.CutPrefix(string(m), prefix)
		if ok {
			all = append(all, event.Member{HostID: host, Host: domain.Address(address)})
		}
		return ok
	})
	return all
}

func (r *Roster) cluster(name domain.ClusterName) (Cluster, error) {
	id, ok := r.names.Get(name)
	if !ok {
		return Cluster{}, ErrNoCluster.With("there is no cluster %q", name)
	}
	c, _ := r.clusters.Get(id)
	return c, nil
}
