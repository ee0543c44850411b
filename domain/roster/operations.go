package roster

import (
	"math/rand/v2"
	"slices"

	"commissaire/domain"
	"commissaire/domain/event"
)

// ErrKeyUsed refuses an idempotency key that already names something else.
var ErrKeyUsed = domain.Refuse(domain.Conflict, "idempotency-key-used")

// Request is an operation as it is asked for.
type Request struct {
	ID      domain.OperationID
	Kind    domain.OperationKind
	Cluster domain.ClusterName
	Version string // Deploy: to which
	Policy  event.Policy
	Seed    uint64 // of a random order
}

// Start starts an operation over the present members of a cluster. It records
// nothing where the operation that is meant (Meant) was started before: the one of
// that id, or the one that runs with the same kind, version and policy.
func (r *Roster) Start(q Request, known Known) ([]event.RosterEvent, error) {
	c, err := r.cluster(q.Cluster)
	if err != nil {
		return nil, err
	}
	same := func(o Operation) bool {
		return o.ClusterID == c.ID && o.Kind == q.Kind && o.Version == q.Version && o.Policy.Equal(q.Policy)
	}
	if old, ok := r.operations.Get(q.ID); ok {
		if !same(old) {
			return nil, ErrKeyUsed.With("the idempotency key names operation %s, which is another one; use a new key", q.ID)
		}
		return nil, nil
	}
	if c.Running != "" {
		if op, _ := r.operations.Get(c.Running); same(op) {
			return nil, nil
		}
		return nil, running(c)
	}
	started, err := r.Plan(q, known)
	if err != nil {
		return nil, err
	}
	start := event.Start{Started: started, Kind: q.Kind, Version: q.Version}.Event()
	if start == nil {
		return nil, domain.ErrInvalid.With("%q is no operation", q.Kind)
	}
	return []event.RosterEvent{start}, nil
}

// Meant is the operation that a request is for, once it was decided on: the one of
// its id, else the one that runs.
func (r *Roster) Meant(q Request) domain.OperationID {
	if _, ok := r.operations.Get(q.ID); ok {
		return q.ID
	}
	c, _ := r.cluster(q.Cluster)
	return c.Running
}

// Plan is what would be started: over which hosts, and in which order.
func (r *Roster) Plan(q Request, known Known) (event.Started, error) {
	c, err := r.cluster(q.Cluster)
	if err != nil {
		return event.Started{}, err
	}
	started := event.Started{Operation: q.ID, ClusterID: c.ID, Cluster: c.Name, Policy: q.Policy}
	if started.Hosts, err = r.chosen(c, q, known); err != nil {
		return event.Started{}, err
	}
	slices.SortFunc(started.Hosts, func(a, b event.Member) int { return a.Host.Compare(b.Host) })
	if o := q.Policy.Order; o != nil {
		if o.Random {
			started.Seed = q.Seed
			rand.New(rand.NewPCG(q.Seed, 0)).Shuffle(len(started.Hosts), func(i, j int) {
				started.Hosts[i], started.Hosts[j] = started.Hosts[j], started.Hosts[i]
			})
		}
		if err := amongMembers("order", o.First, started.Hosts); err != nil {
			return event.Started{}, err
		}
		places := make(map[domain.Address]int, len(o.First))
		for i, address := range o.First {
			places[address] = i
		}
		place := func(m event.Member) int {
			if i, first := places[m.Host]; first {
				return i
			}
			return len(o.First)
		}
		slices.SortStableFunc(started.Hosts, func(a, b event.Member) int { return place(a) - place(b) })
	}
	return started, nil
}

// chosen are the members that an operation is for.
func (r *Roster) chosen(c Cluster, q Request, known Known) ([]event.Member, error) {
	all, only := r.Members(c.ID), q.Policy.Only
	if only == nil {
		return all, nil
	}
	if !only.Failed {
		chosen, err := addressSet(only.Hosts), amongMembers("only", only.Hosts, all)
		return slices.DeleteFunc(all, func(m event.Member) bool {
			_, ok := chosen[m.Host]
			return !ok
		}), err
	}
	last, ok := r.latest.Get(latestOf(c.ID, q.Kind))
	if !ok {
		return nil, domain.ErrInvalid.At("only", "there was no %s of cluster %s yet that hosts could have failed in", q.Kind, c.Name)
	}
	done, ok := known.Done[last]
	if !ok {
		return nil, &Unknown{Operations: []domain.OperationID{last}}
	}
	before, _ := r.operations.Get(last)
	tried := make(map[domain.HostID]struct{}, len(before.Hosts))
	for _, m := range before.Hosts {
		tried[m.HostID] = struct{}{}
	}
	return slices.DeleteFunc(all, func(m event.Member) bool {
		_, was := tried[m.HostID]
		return done[m.HostID] || !was
	}), nil
}

// amongMembers refuses addresses that are no members.
func amongMembers(field string, addresses []domain.Address, all []event.Member) error {
	members := addressSet(hostsOf(all))
	for _, address := range addresses {
		if _, ok := members[address]; !ok {
			return domain.ErrInvalid.At(field, "host %s is not among the members this is for", address)
		}
	}
	return nil
}

// End ends an operation: completed when cause is "", else aborted. Ending what
// does not run changes nothing.
func (r *Roster) End(id domain.OperationID, cause string) ([]event.RosterEvent, error) {
	o, ok := r.operations.Get(id)
	if !ok {
		return nil, nil
	}
	if c, _ := r.clusters.Get(o.ClusterID); c.Running != id {
		return nil, nil
	}
	if cause != "" {
		return []event.RosterEvent{event.OperationAborted{Operation: id, ClusterID: o.ClusterID, Cluster: o.Cluster, Cause: cause}}, nil
	}
	return []event.RosterEvent{event.OperationCompleted{Operation: id, ClusterID: o.ClusterID, Cluster: o.Cluster}}, nil
}

// Abandon ends an operation that was abandoned, and frees the hosts that it has in
// hand. Abandoning what does not run changes nothing.
func (r *Roster) Abandon(id domain.OperationID, cause string) ([]event.RosterEvent, error) {
	end, err := r.End(id, cause)
	if err != nil || len(end) == 0 {
		return nil, err
	}
	var events []event.RosterEvent
	o, _ := r.operations.Get(id)
	for _, m := range o.Hosts {
		if h, ok := r.hosts.Get(m.HostID); ok && h.Claim != "" && h.By == id {
			events = append(events, event.HostReleased{HostID: m.HostID, Host: h.Host, Claim: h.Claim})
		}
	}
	return append(events, end...), nil
}
