package projections

import (
	"cmp"
	"encoding/json"

	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/tidwall/btree"
)

func (s *Snapshot) apply(r event.Recorded) {
	s.Position, s.ID, s.Time = r.Position, r.ID, r.Meta.Time
	s.Events++
	if r.Meta.Time.After(s.newest) {
		s.newest = r.Meta.Time
	}
	if !s.forked { // the histories of the past are part of those of the present
		s.remember(r)
	}
	switch e := r.Event.(type) {
	case event.RosterEvent:
		s.applyRoster(r, e)
	case event.HostEvent:
		if id, ok := r.Stream.Host(); ok {
			s.changeHost(id, func(h *hostState) { h.apply(r.Meta, e) })
		}
	case event.OperationEvent:
		s.applyTurn(r.Meta.Time, e)
	case event.SweepFinished:
		s.leave(e.Left, true) // of the sweep before it is the last check
		s.sweep = e.Started
		s.leave(e.Looked, false)
		for _, id := range e.Missed {
			s.miss(id, true)
		}
		for _, id := range e.Answered {
			s.miss(id, false)
		}
	}
}

// leave keeps what was the last check of hosts that a sweep leaves alone.
func (s *Snapshot) leave(ids []domain.HostID, left bool) {
	for _, id := range ids {
		if h, ok := s.hosts.Get(id); ok && left != h.Left {
			checked := s.checked(h)
			h = s.own(h)
			h.Checked, h.Left = checked, left
		}
	}
}

// miss keeps what was the last check of a host before it went missing.
func (s *Snapshot) miss(id domain.HostID, missing bool) {
	if h, ok := s.hosts.Get(id); ok && missing != h.Missing {
		s.own(h).Missing = missing
	}
}

// own is a host's state that may be changed: the one given, or a copy in its place.
func (s *Snapshot) own(h *hostState) *hostState {
	if h.generation == s.generation {
		return h
	}
	c := *h
	c.generation, c.shown = s.generation, &shown{}
	s.hosts.Set(c.ID, &c)
	return &c
}

func (s *Snapshot) applyRoster(r event.Recorded, e event.RosterEvent) {
	switch e := e.(type) {
	case event.HostAdded:
		h := &hostState{
			ID: e.HostID, Address: e.Host, Port: cmp.Or(e.Port, 22), RemoteUser: e.RemoteUser, Since: r.Meta.Time, shown: &shown{}, generation: s.generation,
		}
		if e.HostKey != "" {
			h.Keys = hostKeys{Fingerprint: e.HostKey, At: r.Meta.Time, By: r.Meta.Actor}
		}
		s.hosts.Set(e.HostID, h)
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
			s.changeHost(id, func(h *hostState) { h.Wanted = e.ManagerID })
		}
	case event.ClusterDeleted:
		s.clusters.Delete(e.Cluster)
		s.byID.Delete(e.ClusterID)
	case event.HostJoined:
		s.members.Set(memberKey(e.ClusterID, e.Host), e.HostID)
		s.changeHost(e.HostID, func(h *hostState) {
			h.Cluster = e.ClusterID
			if c, ok := s.cluster(e.ClusterID); ok {
				h.Wanted = c.Wanted
			}
		})
	case event.HostLeft:
		s.members.Delete(memberKey(e.ClusterID, e.Host))
		s.changeHost(e.HostID, func(h *hostState) { h.Cluster, h.Wanted = "", "" })
	case event.NetworkDefined:
		s.define(s.networks, string(e.Network), e.Type, e.Options)
	case event.NetworkRemoved:
		s.networks.Delete(string(e.Network))
	case event.ContainerManagerDefined:
		s.define(s.managers, string(e.Manager), e.Type, masked(e))
	case event.ContainerManagerRemoved:
		s.managers.Delete(string(e.Manager))
	case event.OperationStarted:
		s.start(r, e.Start())
	case event.OperationCompleted:
		s.end(e.Operation, r.Meta.Time, Finished, "")
	case event.OperationAborted:
		s.end(e.Operation, r.Meta.Time, Failed, e.Cause)
	case event.TermBegun:
		s.leader = Leader{e.Instance, e.Term, Time{r.Meta.Time}, cmp.Or(s.leader.Log, e.Log)}
	case event.HostTaken:
		s.taken(e)
	case event.HostReleased:
	}
}

func (s *Snapshot) define(all *btree.Map[string, *Answer], name, kind string, options json.RawMessage) {
	all.Set(name, NewAnswer(Definition{Name: name, Type: kind, Options: options}))
}

// masked is a container manager's options as they are shown.
func masked(e event.ContainerManagerDefined) json.RawMessage {
	if e.Credential == "" {
		return e.Options
	}
	options := map[string]json.RawMessage{}
	if json.Unmarshal(e.Options, &options) != nil {
		return e.Options
	}
	options["token"] = json.RawMessage(`"********"`)
	shown, err := json.Marshal(options)
	if err != nil {
		return e.Options
	}
	return shown
}

// apply brings a host up to an event of its own stream.
func (h *hostState) apply(meta event.Meta, e event.HostEvent) {
	at := meta.Time
	switch e := e.(type) {
	case event.HostInvestigated:
		h.Facts, h.Checked, h.Investigated, h.Failed, h.Silent = e.Facts, at, true, false, false
	case event.HostInvestigationFailed:
		h.Failed, h.Failure = true, e.Reason
	case event.HostBootstrapFailed:
		h.Failed, h.Failure = true, e.Reason
	case event.HostBootstrapped:
		h.Bootstrapped, h.Failed = at, false
	case event.HostRegistered:
		h.Registered, h.Registration = e.ManagerID, ""
	case event.HostUnregistered:
		h.Registered, h.Registration, h.Uncordon = "", "", ""
	case event.HostKeyChanged:
		h.Changed = true
		h.Keys.OtherType, h.Keys.OtherFingerprint, h.Keys.OtherAt = e.Type, e.Fingerprint, at
	case event.HostKeyShownAgain:
		h.Changed, h.Failed = false, false
	case event.HostKeyAccepted:
		h.Changed, h.Failed = false, false
		h.Keys = hostKeys{Type: e.Type, Fingerprint: e.Fingerprint, At: at, By: meta.Actor}
	case event.HostKeyPinned:
		h.Changed = false
		h.Keys = hostKeys{Type: e.Type, Fingerprint: e.Fingerprint, At: at, By: e.AddedBy, Authority: e.Authority}
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
	case event.HostTakeoverOrdered, event.HostRebooted, event.HostCredentialsRead:
	}
}

// changeHost changes a host, and its clusters' counts with it.
func (s *Snapshot) changeHost(id domain.HostID, change func(*hostState)) {
	h, ok := s.hosts.Get(id)
	if !ok {
		return // it was removed: what is still learnt of it is history
	}
	h = s.own(h)
	cluster, available, status := h.Cluster, h.available(), h.status()
	change(h)
	if h.status() != status {
		h.Since = s.Time
	}
	if h.Cluster != cluster || h.available() != available {
		s.count(cluster, available, -1)
		s.count(h.Cluster, h.available(), 1)
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
