// Package projections holds what GET serves: views folded from the log, in
// memory, all in one group, so that every answer is made from one cut through
// history. A published Snapshot never changes; its maps share all that did not
// change with the one before. DESIGN.md says why, and how views are rebuilt and
// written to files.
package projections

import (
	"cmp"
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/google/uuid"
	"github.com/tidwall/btree"
)

// The words of the API for how things are.
const (
	Investigating = "investigating"
	Bootstrapping = "bootstrapping"
	Disassociated = "disassociated"
	Active        = "active"
	Failed        = "failed"

	OK       = "ok"
	Degraded = "degraded"

	InProcess = "in_process"
	Finished  = "finished"
)

// Position is a place in the log.
type Position = event.Position

// Views folds events. A snapshot is made when somebody looks, so a burst of
// events that nobody looks at between costs one. All methods may be called at
// once from any goroutine; events are applied in their order.
type Views struct {
	latest  atomic.Pointer[Snapshot]
	current atomic.Bool // latest has all that was applied

	mu      sync.Mutex
	state   *Snapshot // being folded
	waiting map[chan struct{}]event.Position
	past    *past
	tail    *[]event.Recorded // applied since a rebuild came near; nil: none did
}

// Snapshot is all views at one position.
type Snapshot struct {
	Position event.Position
	ID       uuid.UUID // of the event there
	Time     time.Time // of that event
	Events   uint64    // how many were folded
	newest   time.Time // of all events: clocks differ, and are set

	hosts      *btree.Map[domain.HostID, *hostState]
	addresses  *btree.Map[domain.Address, domain.HostID]
	clusters   *btree.Map[domain.ClusterName, *clusterState]
	byID       *btree.Map[domain.ClusterID, domain.ClusterName]
	members    *btree.Map[string, domain.HostID] // cluster id, space, address
	networks   *btree.Map[string, *Answer]
	managers   *btree.Map[string, *Answer]
	operations *btree.Map[uint64, *Operation] // by the position of their start
	started    *btree.Map[domain.OperationID, uint64]
	latest     *btree.Map[string, domain.OperationID] // cluster id, space, kind
	history    *histories
	sweep      time.Time
	leader     Leader

	// generation counts the snapshots that were made before. What bears the
	// number of the state being folded is in none of them, and may be changed.
	generation int
	forked     bool
}

// Leader is the instance that began to lead last.
type Leader struct {
	Instance string      `json:"instance"`
	Term     domain.Term `json:"term"`
	Since    Time        `json:"since"`

	// Log is by what hosts know who manages them.
	Log domain.LogID `json:"log,omitempty"`
}

// Leader is who led at the position of the snapshot.
func (s *Snapshot) Leader() Leader { return s.leader }

// hostState is a host. Its JSON, as that of all that is kept in files, is of no
// concern to clients.
type hostState struct {
	ID           domain.HostID    `json:"id"`
	Address      domain.Address   `json:"address"`
	Cluster      domain.ClusterID `json:"cluster,omitzero"`
	Facts        event.Facts      `json:"facts,omitzero"`
	Checked      time.Time        `json:"checked,omitzero"`
	Investigated bool             `json:"investigated,omitzero"`
	Bootstrapped time.Time        `json:"bootstrapped,omitzero"`
	Failed       bool             `json:"failed,omitzero"`
	Silent       bool             `json:"silent,omitzero"`
	Changed      bool             `json:"changed,omitzero"` // the host key
	Missing      bool             `json:"missing,omitzero"`
	Left         bool             `json:"left,omitzero"` // alone, at the latest sweep
	Registered   domain.ManagerID `json:"registered,omitzero"`
	Wanted       domain.ManagerID `json:"wanted,omitzero"` // the cluster's

	Port         int               `json:"port,omitzero"`
	RemoteUser   domain.RemoteUser `json:"remote_user,omitzero"`
	Since        time.Time         `json:"since,omitzero"` // of the status
	Failure      string            `json:"failure,omitzero"`
	Silence      string            `json:"silence,omitzero"`
	Registration string            `json:"registration,omitzero"` // why it failed
	Uncordon     string            `json:"uncordon,omitzero"`     // why that failed
	Keys         hostKeys          `json:"keys,omitzero"`

	shown      *shown // how this very state is served
	generation int
}

// shown is a host's record, made when it is asked for and once a sweep.
type shown struct {
	mu     sync.Mutex
	sweep  time.Time
	answer *Answer
}

type clusterState struct {
	ID      domain.ClusterID   `json:"id"`
	Name    domain.ClusterName `json:"name"`
	Network domain.NetworkName `json:"network"`
	Manager domain.ManagerName `json:"manager,omitzero"`
	Wanted  domain.ManagerID   `json:"wanted,omitzero"`
	Counts  Counts             `json:"counts"`

	generation int
}

// New is the views of an empty log.
func New() *Views {
	v := &Views{waiting: map[chan struct{}]event.Position{}, past: &past{spacing: firstSpacing}, state: &Snapshot{
		hosts: &btree.Map[domain.HostID, *hostState]{}, addresses: &btree.Map[domain.Address, domain.HostID]{},
		clusters: &btree.Map[domain.ClusterName, *clusterState]{}, byID: &btree.Map[domain.ClusterID, domain.ClusterName]{},
		members: &btree.Map[string, domain.HostID]{}, networks: &btree.Map[string, *Answer]{}, managers: &btree.Map[string, *Answer]{},
		operations: &btree.Map[uint64, *Operation]{}, started: &btree.Map[domain.OperationID, uint64]{},
		latest: &btree.Map[string, domain.OperationID]{}, history: newHistories(),
	}}
	v.state.define(v.state.networks, "default", "flannel_etcd", json.RawMessage("{}"))
	return v
}

// Snapshot is all that was applied before.
func (v *Views) Snapshot() *Snapshot {
	if v.current.Load() {
		return v.latest.Load()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.publish()
}

// publish makes the snapshot of all that was applied. The caller has the lock.
func (v *Views) publish() *Snapshot {
	if !v.current.Load() {
		v.latest.Store(v.state.copy())
		v.current.Store(true)
		v.state.generation++
	}
	return v.latest.Load()
}

// copy shares all that does not change. Two may not copy one snapshot at once.
func (s *Snapshot) copy() *Snapshot {
	c := *s
	c.hosts, c.addresses, c.clusters, c.byID = s.hosts.Copy(), s.addresses.Copy(), s.clusters.Copy(), s.byID.Copy()
	c.members, c.networks, c.managers = s.members.Copy(), s.networks.Copy(), s.managers.Copy()
	c.operations, c.started, c.latest = s.operations.Copy(), s.started.Copy(), s.latest.Copy()
	return &c
}

// WaitFor returns when a position was applied, or with ctx's error.
func (v *Views) WaitFor(ctx context.Context, at uint64) error {
	position := event.Position(at)
	v.mu.Lock()
	if v.state.Position >= position {
		v.mu.Unlock()
		return nil
	}
	reached := make(chan struct{})
	v.waiting[reached] = position
	v.mu.Unlock()
	select {
	case <-reached:
		return nil
	case <-ctx.Done():
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.waiting, reached)
		return ctx.Err()
	}
}

// Apply brings the views up to r. It returns no error because it may not
// refuse: r has happened. Applying an event again changes nothing.
func (v *Views) Apply(r event.Recorded) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.state
	if r.Position <= s.Position {
		return
	}
	v.current.Store(false)
	s.apply(r)
	v.keep()
	if v.tail != nil {
		*v.tail = append(*v.tail, r)
	}
	for reached, position := range v.waiting {
		if position <= s.Position {
			close(reached)
			delete(v.waiting, reached)
		}
	}
}

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

func (h *hostState) status() string {
	switch {
	case h.Failed, h.Silent, h.Changed:
		return Failed
	case !h.Investigated:
		return Investigating
	case h.Bootstrapped.IsZero():
		return Bootstrapping
	case h.Wanted != "" && h.Registered == h.Wanted:
		return Active
	}
	return Disassociated
}

func (h *hostState) available() bool {
	status := h.status()
	return status == Active || status == Disassociated && h.Wanted == ""
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

func (s *Snapshot) cluster(id domain.ClusterID) (*clusterState, bool) {
	name, ok := s.byID.Get(id)
	if !ok {
		return nil, false
	}
	return s.clusters.Get(name)
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

func memberKey(cluster domain.ClusterID, host domain.Address) string {
	return string(cluster) + " " + string(host)
}

func (s *Snapshot) memberIDs(id domain.ClusterID) []domain.HostID {
	var ids []domain.HostID
	prefix := memberKey(id, "")
	s.members.Ascend(prefix, func(key string, host domain.HostID) bool {
		if len(key) <= len(prefix) || key[:len(prefix)] != prefix {
			return false
		}
		ids = append(ids, host)
		return true
	})
	return ids
}
