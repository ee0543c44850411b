package projections

import (
	"cmp"
	"encoding/json"

	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/tidwall/btree"
)

// apply folds an event. Every event goes through here, whether the snapshot is the
// present or a copy to look back.
func (s *Snapshot) apply(r event.Recorded) {
	s.Position, s.ID, s.Time = r.Position, r.ID, r.Meta.Time
	s.Events++
	if r.Meta.Time.After(s.newest) {
		s.newest = r.Meta.Time
	}
	if !s.historic {
		s.remember(r)
	}
	switch e := r.Event.(type) {
	case event.RosterEvent:
		s.applyRoster(r, e)
	case event.HostEvent:
		if id, ok := r.Stream.Host(); ok {
			s.changeHost(id, func(host *hostState) { host.apply(r.Meta, e) })
		}
	case event.OperationEvent:
		s.applyOperation(r.Meta.Time, e)
	case event.SweepFinished:
		s.applySweep(e)
	}
}

func (s *Snapshot) applySweep(e event.SweepFinished) {
	s.setLeft(e.Left, true) // their last check was in the sweep before
	s.sweep = e.Started
	s.setLeft(e.Looked, false)
	s.setMissing(e.Missed, true)
	s.setMissing(e.Answered, false)
}

// setLeft keeps when hosts that a sweep leaves alone were last checked.
func (s *Snapshot) setLeft(ids []domain.HostID, left bool) {
	for _, id := range ids {
		if host, ok := s.hosts.Get(id); ok && left != host.Left {
			checked := s.checked(host)
			host = s.writable(host)
			host.Checked, host.Left = checked, left
		}
	}
}

// setMissing says of hosts whether they answer sweeps: when one that does not was
// last checked stays as it was.
func (s *Snapshot) setMissing(ids []domain.HostID, missing bool) {
	for _, id := range ids {
		if host, ok := s.hosts.Get(id); ok && missing != host.Missing {
			s.writable(host).Missing = missing
		}
	}
}

// writable is a host's state that may be changed: the one given, or a copy in its place.
func (s *Snapshot) writable(host *hostState) *hostState {
	if host.generation == s.generation {
		return host
	}
	c := *host
	c.generation, c.rendered = s.generation, &rendered{}
	s.hosts.Set(c.ID, &c)
	return &c
}

func (s *Snapshot) applyRoster(r event.Recorded, e event.RosterEvent) {
	switch e := e.(type) {
	case event.HostAdded:
		host := &hostState{
			ID: e.HostID, Address: e.Host, Port: cmp.Or(e.Port, 22), RemoteUser: e.RemoteUser, Since: r.Meta.Time, rendered: &rendered{}, generation: s.generation,
		}
		if e.HostKey != "" {
			host.Keys = hostKeys{Fingerprint: e.HostKey, At: r.Meta.Time, By: r.Meta.Actor}
		}
		s.hosts.Set(e.HostID, host)
		s.addresses.Set(e.Host, e.HostID)
	case event.HostRemoved:
		s.hosts.Delete(e.HostID)
		s.addresses.Delete(e.Host)
	case event.ClusterCreated:
		s.clusters.Set(e.Cluster, &clusterState{
			ID: e.ClusterID, Name: e.Cluster, Network: e.Network, Manager: e.Manager, Wanted: e.ManagerID, generation: s.generation,
		})
		s.byID.Set(e.ClusterID, e.Cluster)
	case event.ClusterReconfigured:
		s.changeCluster(e.ClusterID, func(c *clusterState) { c.Network, c.Manager, c.Wanted = e.Network, e.Manager, e.ManagerID })
		for _, id := range s.memberIDs(e.ClusterID) {
			s.changeHost(id, func(host *hostState) { host.Wanted = e.ManagerID })
		}
	case event.ClusterDeleted:
		s.clusters.Delete(e.Cluster)
		s.byID.Delete(e.ClusterID)
	case event.HostJoined:
		s.members.Set(memberKey(e.ClusterID, e.Host), e.HostID)
		s.changeHost(e.HostID, func(host *hostState) {
			host.Cluster = e.ClusterID
			if c, ok := s.cluster(e.ClusterID); ok {
				host.Wanted = c.Wanted
			}
		})
	case event.HostLeft:
		s.members.Delete(memberKey(e.ClusterID, e.Host))
		s.changeHost(e.HostID, func(host *hostState) { host.Cluster, host.Wanted = "", "" })
	case event.NetworkDefined:
		s.define(s.networks, string(e.Network), e.Type, e.Options)
	case event.NetworkRemoved:
		s.networks.Delete(string(e.Network))
	case event.ContainerManagerDefined:
		s.define(s.managers, string(e.Manager), e.Type, maskToken(e))
	case event.ContainerManagerRemoved:
		s.managers.Delete(string(e.Manager))
	case event.OperationStarted:
		s.startOperation(r, e.Start())
	case event.OperationCompleted:
		s.endOperation(e.Operation, r.Meta.Time, Finished, "")
	case event.OperationAborted:
		s.endOperation(e.Operation, r.Meta.Time, Failed, e.Cause)
	case event.TermBegun:
		s.leader = Leader{e.Instance, e.Term, Time{r.Meta.Time}, cmp.Or(s.leader.Log, e.Log)}
	case event.HostTaken:
		s.countAttempt(e)
	case event.HostReleased:
	}
}

func (s *Snapshot) define(all *btree.Map[string, *Answer], name, kind string, options json.RawMessage) {
	all.Set(name, NewAnswer(Definition{Name: name, Type: kind, Options: options}))
}

// maskToken is a container manager's options as clients may see them.
func maskToken(e event.ContainerManagerDefined) json.RawMessage {
	if e.Credential == "" {
		return e.Options
	}
	options := map[string]json.RawMessage{}
	if json.Unmarshal(e.Options, &options) != nil {
		return e.Options
	}
	options["token"] = json.RawMessage(`"` + domain.Mask + `"`)
	masked, err := json.Marshal(options)
	if err != nil {
		return e.Options
	}
	return masked
}

// apply brings a host up to an event of its own stream.
func (h *hostState) apply(meta event.Meta, e event.HostEvent) {
	now := meta.Time
	switch e := e.(type) {
	case event.HostInvestigated:
		h.Facts, h.Checked, h.Investigated, h.Failed, h.Silent = e.Facts, now, true, false, false
	case event.HostInvestigationFailed:
		h.Failed, h.Failure = true, e.Reason
	case event.HostBootstrapFailed:
		h.Failed, h.Failure = true, e.Reason
	case event.HostBootstrapped:
		h.Bootstrapped, h.Failed = now, false
	case event.HostRegistered:
		h.Registered, h.Registration = e.ManagerID, ""
	case event.HostUnregistered:
		h.Registered, h.Registration, h.Uncordon = "", "", ""
	case event.HostKeyChanged:
		h.Changed = true
		h.Keys.OtherType, h.Keys.OtherFingerprint, h.Keys.OtherAt = e.Type, e.Fingerprint, now
	case event.HostKeyShownAgain:
		h.Changed, h.Failed = false, false
	case event.HostKeyAccepted:
		h.Changed, h.Failed = false, false
		h.Keys = hostKeys{Type: e.Type, Fingerprint: e.Fingerprint, At: now, By: meta.Actor}
	case event.HostKeyPinned:
		h.Changed = false
		h.Keys = hostKeys{Type: e.Type, Fingerprint: e.Fingerprint, At: now, By: e.AddedBy, Authority: e.Authority}
	case event.HostWentSilent:
		h.Silent, h.Silence = true, e.Reason
	case event.HostAnswered:
		h.Silent = false
	case event.HostRegistrationFailed:
		h.Registration = e.Reason
	case event.HostUncordonFailed:
		h.Uncordon = e.Reason
	case event.HostUncordoned:
		h.Uncordon = ""
	case event.HostTakeoverOrdered, event.HostRebooted, event.HostCredentialsRead, event.HostRegistrationBegun:
	}
}

// changeHost changes a host, and its clusters' counts with it.
func (s *Snapshot) changeHost(id domain.HostID, change func(*hostState)) {
	host, ok := s.hosts.Get(id)
	if !ok {
		return // it was removed: what is still learnt of it is history
	}
	host = s.writable(host)
	cluster, available, status := host.Cluster, host.available(), host.status()
	change(host)
	if host.status() != status {
		host.Since = s.Time
	}
	if host.Cluster != cluster || host.available() != available {
		s.count(cluster, available, -1)
		s.count(host.Cluster, host.available(), 1)
	}
}

func (s *Snapshot) count(id domain.ClusterID, available bool, n int) {
	s.changeCluster(id, func(c *clusterState) {
		c.Counts.Total += n
		if available {
			c.Counts.Available += n
		} else {
			c.Counts.Unavailable += n
		}
	})
}

func (s *Snapshot) changeCluster(id domain.ClusterID, change func(*clusterState)) {
	c, ok := s.cluster(id)
	if !ok {
		return
	}
	if c.generation != s.generation {
		copied := *c
		copied.generation = s.generation
		c = &copied
		s.clusters.Set(c.Name, c)
	}
	change(c)
}
