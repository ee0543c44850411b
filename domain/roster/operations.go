package roster

import (
	"slices"

	"commissaire/domain"
	"commissaire/domain/event"
)

// ErrKeyUsed refuses an idempotency key that already names something else.
var ErrKeyUsed = domain.Refuse(domain.Conflict, "idempotency-key-used")

// Start starts an operation over the present members of a cluster, in the order
// of their addresses. The answer's id is that of the operation the caller meant:
// the one of that id if it was started before, or the one that runs with the
// same kind, version and policy.
func (r *Roster) Start(id domain.OperationID, kind domain.OperationKind, name domain.ClusterName, version string, policy event.Policy) (domain.OperationID, []event.RosterEvent, error) {
	c, err := r.cluster(name)
	if err != nil {
		return "", nil, err
	}
	if old, ok := r.operations.Get(id); ok {
		if old.ClusterID != c.ID || old.Kind != kind || old.Version != version || old.Policy != policy {
			return "", nil, ErrKeyUsed.With("the idempotency key names operation %s, which is another one; use a new key", id)
		}
		return id, nil, nil
	}
	if c.Running != "" {
		if now, _ := r.operations.Get(c.Running); now.Kind == kind && now.Version == version && now.Policy == policy {
			return c.Running, nil, nil
		}
		return "", nil, running(c)
	}
	hosts := r.Members(c.ID)
	slices.SortFunc(hosts, func(a, b event.Member) int {
		if a.Host.Less(b.Host) {
			return -1
		}
		return 1
	})
	started := event.Started{Operation: id, ClusterID: c.ID, Cluster: name, Hosts: hosts, Policy: policy}
	switch kind {
	case domain.Deploy:
		return id, []event.RosterEvent{event.DeployStarted{Started: started, Version: version}}, nil
	case domain.Upgrade:
		return id, []event.RosterEvent{event.UpgradeStarted{Started: started}}, nil
	case domain.Restart:
		return id, []event.RosterEvent{event.RestartStarted{Started: started}}, nil
	}
	return "", nil, domain.ErrInvalid.With("%q is no operation", kind)
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
