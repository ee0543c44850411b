package roster

import (
	"fmt"
	"slices"
	"strings"

	"commissaire/domain"
	"commissaire/domain/event"
)

// The rules about clusters and their members.
var (
	ErrNoCluster      = domain.ErrNoCluster
	ErrUnknownCluster = domain.Refuse(domain.Conflict, "unknown-cluster")
	ErrUnknownManager = domain.Refuse(domain.Conflict, "unknown-container-manager")
	ErrRunning        = domain.Refuse(domain.Conflict, "operation-running")
	ErrMembersChanged = domain.Refuse(domain.Conflict, "members-changed")
	ErrHostNotReady   = domain.Refuse(domain.NotReady, "host-not-ready")
)

// PutCluster creates a cluster, or changes the network and container manager of
// one. nil leaves a value as it is; an unknown network becomes the default one;
// manager "" makes the cluster unmanaged.
func (r *Roster) PutCluster(id domain.ClusterID, name domain.ClusterName, network, manager *string) ([]event.RosterEvent, error) {
	old, err := r.cluster(name)
	exists := err == nil
	wanted := old
	if !exists {
		wanted.Network = domain.DefaultNetwork
	}
	if network != nil {
		wanted.Network = domain.NetworkName(*network)
		if _, ok := r.networks.Get(wanted.Network); !ok {
			wanted.Network = domain.DefaultNetwork
		}
	}
	if manager != nil {
		wanted.Manager, wanted.ManagerID = domain.ManagerName(*manager), ""
		if *manager != "" {
			m, ok := r.managers.Get(wanted.Manager)
			if !ok {
				return nil, ErrUnknownManager.With("there is no container manager %q", *manager).Naming("manager", *manager)
			}
			wanted.ManagerID = m.ManagerID
		}
	}
	switch {
	case !exists:
		return []event.RosterEvent{event.ClusterCreated{ClusterID: id, Cluster: name, Network: wanted.Network, ManagerID: wanted.ManagerID, Manager: wanted.Manager}}, nil
	case wanted == old:
		return nil, nil
	case old.Running != "":
		return nil, running(old)
	}
	return []event.RosterEvent{event.ClusterReconfigured{ClusterID: old.ID, Cluster: name, Network: wanted.Network, ManagerID: wanted.ManagerID, Manager: wanted.Manager}}, nil
}

// ClusterNamed is the cluster of that name.
func (r *Roster) ClusterNamed(name domain.ClusterName) (Cluster, error) { return r.cluster(name) }

// DeleteCluster deletes a cluster and lets its members go.
func (r *Roster) DeleteCluster(name domain.ClusterName) ([]event.RosterEvent, error) {
	c, err := r.cluster(name)
	switch {
	case err != nil:
		return nil, err
	case c.Running != "":
		return nil, running(c)
	}
	var events []event.RosterEvent
	for _, m := range r.Members(c.ID) {
		events = append(events, event.HostLeft{HostID: m.HostID, Host: m.Host, ClusterID: c.ID, Cluster: name})
	}
	return append(events, event.ClusterDeleted{ClusterID: c.ID, Cluster: name}), nil
}

// PutMembers replaces the members old by new, if old are the members. Both are
// sets.
func (r *Roster) PutMembers(name domain.ClusterName, old, wanted []domain.Address, known Known) ([]event.RosterEvent, error) {
	c, err := r.cluster(name)
	if err != nil {
		return nil, err
	}
	present := r.Members(c.ID)
	if !slices.Equal(set(old), set(hostsOf(present))) {
		return nil, ErrMembersChanged.With("the members of cluster %s are not those given as old, but %s", name, some(present)).Naming("cluster", string(name))
	}
	var joining []Host
	for _, address := range set(wanted) {
		h, ok := r.HostAt(address)
		if !ok {
			return nil, ErrNoHost.With("there is no host %s", address).Naming("host", string(address))
		}
		if h.Cluster != c.ID {
			joining = append(joining, h)
		}
	}
	for _, h := range joining {
		if h.Cluster != "" {
			return nil, r.elsewhere(h)
		}
	}
	var events []event.RosterEvent
	staying := addressSet(wanted)
	for _, m := range present {
		if _, stays := staying[m.Host]; !stays {
			h, _ := r.Host(m.HostID)
			if r.InHand(h) {
				return nil, inHand(h)
			}
			events = append(events, r.leave(h)...)
		}
	}
	if err := known.missing(joining...); err != nil {
		return nil, err
	}
	for _, h := range joining {
		if !known.Hosts[h.HostID].Ready {
			return nil, notReady(h)
		}
		events = append(events, event.HostJoined{HostID: h.HostID, Host: h.Host, ClusterID: c.ID, Cluster: name})
	}
	return events, nil
}

// Join makes a host a member. Joining again changes nothing.
func (r *Roster) Join(name domain.ClusterName, address domain.Address, known Known) ([]event.RosterEvent, error) {
	c, err := r.cluster(name)
	if err != nil {
		return nil, err
	}
	h, ok := r.HostAt(address)
	switch {
	case !ok:
		return nil, ErrNoHost.With("there is no host %s", address).Naming("host", string(address))
	case h.Cluster == c.ID:
		return nil, nil
	case h.Cluster != "":
		return nil, r.elsewhere(h)
	}
	if err := known.missing(h); err != nil {
		return nil, err
	}
	if !known.Hosts[h.HostID].Ready {
		return nil, notReady(h)
	}
	return []event.RosterEvent{event.HostJoined{HostID: h.HostID, Host: address, ClusterID: c.ID, Cluster: name}}, nil
}

// Leave ends a host's membership. For a host that is no member nothing changes.
func (r *Roster) Leave(name domain.ClusterName, address domain.Address) ([]event.RosterEvent, error) {
	c, err := r.cluster(name)
	if err != nil {
		return nil, err
	}
	h, ok := r.HostAt(address)
	switch {
	case !ok || h.Cluster != c.ID:
		return nil, nil
	case r.InHand(h):
		return nil, inHand(h)
	}
	return r.leave(h), nil
}

func (r *Roster) elsewhere(h Host) error {
	c, _ := r.clusters.Get(h.Cluster)
	return ErrOtherMember.With("host %s is a member of cluster %s; remove it there first", h.Host, c.Name)
}

func notReady(h Host) error {
	return ErrHostNotReady.With("host %s is neither active nor disassociated yet", h.Host).Naming("host", string(h.Host))
}

func running(c Cluster) error {
	return ErrRunning.With("operation %s is running on cluster %s; wait until it ends", c.Running, c.Name)
}

func set(addresses []domain.Address) []domain.Address {
	return slices.Compact(slices.Sorted(slices.Values(addresses)))
}

// addressSet is a set that is asked for its members.
func addressSet(addresses []domain.Address) map[domain.Address]struct{} {
	set := make(map[domain.Address]struct{}, len(addresses))
	for _, a := range addresses {
		set[a] = struct{}{}
	}
	return set
}

func hostsOf(members []event.Member) []domain.Address {
	addresses := make([]domain.Address, len(members))
	for i, m := range members {
		addresses[i] = m.Host
	}
	return addresses
}

// some names the members where they are few, and how many they are.
func some(members []event.Member) string {
	const few = 5
	words := make([]string, 0, few)
	for _, m := range members[:min(len(members), few)] {
		words = append(words, string(m.Host))
	}
	more := ""
	if n := len(members) - few; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return "[" + strings.Join(words, ", ") + "]" + more
}
