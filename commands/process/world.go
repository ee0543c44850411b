package process

import (
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
	"commissaire/domain/roster"
)

// world is what is known: what the events so far come to. Only apply changes it.
type world struct {
	position   event.Position
	roster     *roster.Roster
	hosts      map[domain.HostID]*host.Host
	added      map[domain.HostID]addition
	operations map[domain.OperationID]*operation.Operation // that have not ended

	managers map[domain.ManagerID]event.ContainerManagerDefined
	retired  map[domain.ManagerID]bool         // removed, and its token kept: hosts may be registered there still
	removed  map[domain.HostID]event.HostAdded // still registered somewhere
	named    map[domain.CredentialID]bool      // by the log; false: what it was for is gone

	missing map[domain.HostID]bool // at the last sweep
	left    map[domain.HostID]bool // alone, at the last sweep
}

// addition says who added a host, and where that is in the log.
type addition struct {
	by       string
	position event.Position
}

// consequences are what an event calls for.
type consequences struct {
	changed   []domain.HostID     // they may need upkeep
	ordered   []domain.HostID     // likewise, whatever their upkeep failed at before
	removed   *event.HostRemoved  // nil: none
	forgotten domain.HostID       // nothing is known of it any more; "": none
	unused    domain.CredentialID // to be destroyed; "": none
	abandoned domain.OperationID  // "": none
}

func newWorld() world {
	return world{
		roster:     roster.New(),
		hosts:      map[domain.HostID]*host.Host{},
		added:      map[domain.HostID]addition{},
		operations: map[domain.OperationID]*operation.Operation{},
		managers:   map[domain.ManagerID]event.ContainerManagerDefined{},
		retired:    map[domain.ManagerID]bool{},
		removed:    map[domain.HostID]event.HostAdded{},
		named:      map[domain.CredentialID]bool{},
		missing:    map[domain.HostID]bool{},
		left:       map[domain.HostID]bool{},
	}
}

// apply brings the world up to r, which comes after all that was applied before.
func (w *world) apply(r event.Recorded) (c consequences) {
	w.position = r.Position
	switch e := r.Event.(type) {
	case event.RosterEvent:
		w.applyRoster(e, addition{r.Meta.Actor, r.Position}, &c)
		w.roster.Evolve(e)
	case event.HostEvent:
		if id, ok := r.Stream.Host(); ok {
			w.applyHost(id, e, &c)
		}
	case event.OperationEvent:
		if id, ok := r.Stream.Operation(); ok {
			w.applyOperation(id, e, r.Meta.Time, &c)
		}
	case event.SweepFinished:
		w.applySweep(e)
	}
	return c
}

// applyRoster is called before the roster evolves.
func (w *world) applyRoster(e event.RosterEvent, added addition, c *consequences) {
	switch e := e.(type) {
	case event.HostAdded:
		w.named[e.Credential] = true
		w.added[e.HostID] = added
		c.changed = append(c.changed, e.HostID)
	case event.HostRemoved:
		w.removeHost(e, c)
	case event.HostJoined:
		c.ordered = append(c.ordered, e.HostID)
	case event.HostLeft:
		c.ordered = append(c.ordered, e.HostID)
	case event.HostReleased:
		c.changed = append(c.changed, e.HostID)
	case event.ClusterReconfigured:
		for _, m := range w.roster.Members(e.ClusterID) {
			c.ordered = append(c.ordered, m.HostID)
		}
	case event.ContainerManagerDefined:
		w.managers[e.ManagerID] = e
		if e.Credential != "" {
			w.named[e.Credential] = true
		}
	case event.ContainerManagerRemoved:
		w.retired[e.ManagerID] = true // its definition stays: hosts may have to be unregistered from it still
	case event.OperationStarted:
		start := e.Start()
		w.operations[start.Operation] = &operation.Operation{Started: start.Started, Kind: start.Kind, Version: start.Version}
	case event.OperationCompleted:
		delete(w.operations, e.Operation)
	case event.OperationAborted:
		delete(w.operations, e.Operation)
	case event.ClusterCreated, event.ClusterDeleted, event.NetworkDefined, event.NetworkRemoved, event.HostTaken, event.TermBegun:
	}
}

func (w *world) removeHost(e event.HostRemoved, c *consequences) {
	if h, ok := w.roster.Host(e.HostID); ok {
		w.removed[e.HostID] = h.HostAdded
		w.disuse(h.Credential, c)
	}
	delete(w.missing, e.HostID)
	delete(w.left, e.HostID)
	c.removed = &e
	c.ordered = append(c.ordered, e.HostID)
	w.settleRemoved(e.HostID, c)
}

func (w *world) applyHost(id domain.HostID, e event.HostEvent, c *consequences) {
	w.host(id).Evolve(e)
	c.changed = append(c.changed, id)
	_, takeover := e.(event.HostTakeoverOrdered)
	_, key := e.(event.HostKeyAccepted)
	if takeover || key {
		c.ordered = append(c.ordered, id)
	}
	if late, ok := e.(event.HostRegistered); ok {
		if _, known := w.roster.Host(id); !known { // it was removed while it was being registered
			w.removed[id] = event.HostAdded{HostID: id, Host: late.Host}
		}
	}
	if _, gone := w.removed[id]; gone {
		w.settleRemoved(id, c)
	}
}

func (w *world) applyOperation(id domain.OperationID, e event.OperationEvent, recorded time.Time, c *consequences) {
	if o, running := w.operations[id]; running {
		o.Evolve(e, recorded)
	}
	if _, abandoned := e.(event.OperationAbandoned); abandoned {
		c.abandoned = id
	}
}

func (w *world) applySweep(e event.SweepFinished) {
	for _, id := range e.Missed {
		w.missing[id] = true
	}
	for _, id := range e.Answered {
		delete(w.missing, id)
	}
	for _, id := range e.Left {
		w.left[id] = true
	}
	for _, id := range e.Looked {
		delete(w.left, id)
	}
}

// settleRemoved forgets a removed host as soon as no container manager knows it.
func (w *world) settleRemoved(id domain.HostID, c *consequences) {
	if manager, _ := w.host(id).Registered(); manager != "" {
		c.changed = append(c.changed, id)
		return
	}
	delete(w.removed, id)
	delete(w.hosts, id)
	delete(w.added, id)
	c.forgotten = id
}

// disuse notes that what a credential was for is gone.
func (w *world) disuse(id domain.CredentialID, c *consequences) {
	if id != "" {
		w.named[id] = false
		c.unused = id
	}
}

// retire gives the tokens of container managers that were removed and that no host
// is registered with. They are given once.
func (w *world) retire() (unused []domain.CredentialID) {
	if len(w.retired) == 0 {
		return nil
	}
	needed := map[domain.ManagerID]bool{}
	for _, state := range w.hosts {
		id, _ := state.Registered()
		needed[id] = true
	}
	for id := range w.retired {
		if needed[id] {
			continue
		}
		delete(w.retired, id)
		var c consequences
		if w.disuse(w.managers[id].Credential, &c); c.unused != "" {
			unused = append(unused, c.unused)
		}
	}
	return unused
}

// host is what a host's own events come to.
func (w *world) host(id domain.HostID) *host.Host {
	state, ok := w.hosts[id]
	if !ok {
		state = &host.Host{}
		w.hosts[id] = state
	}
	return state
}

// wanted is the container manager that should know a host.
func (w *world) wanted(h roster.Host) domain.ManagerID {
	c, _ := w.roster.Cluster(h.Cluster)
	return c.ManagerID
}

// upkeepOf is the host whose upkeep has something to do, in a term, and whether it
// is known still; or there is nothing to do.
func (w *world) upkeepOf(id domain.HostID, term domain.Term) (h roster.Host, known, needed bool) {
	h, known = w.roster.Host(id)
	if !known {
		added, removed := w.removed[id]
		if !removed {
			return h, false, false
		}
		h = roster.Host{HostAdded: added}
	}
	unreleased := h.Claim != "" && h.By == "" && h.Term == term // by upkeep that could not record its end
	return h, known, unreleased || w.host(id).Next(w.wanted(h)) != host.Nothing
}
