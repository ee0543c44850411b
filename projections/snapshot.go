package projections

import (
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/google/uuid"
	"github.com/tidwall/btree"
)

// Snapshot is all views at one position.
type Snapshot struct {
	Position event.Position
	ID       uuid.UUID // of the event there
	Time     time.Time // of that event
	Events   uint64    // how many were folded
	newest   time.Time // of all events: clocks differ, and are set

	hosts      tree[domain.HostID, *hostState]
	addresses  tree[domain.Address, domain.HostID]
	clusters   tree[domain.ClusterName, *clusterState]
	byID       tree[domain.ClusterID, domain.ClusterName]
	members    tree[string, domain.HostID] // cluster id, space, address
	networks   tree[string, *Answer]
	managers   tree[string, *Answer]
	operations tree[event.Position, *Operation] // by the position of their start
	started    tree[domain.OperationID, event.Position]
	latest     tree[string, domain.OperationID] // cluster id, space, kind
	history    *histories
	sweep      time.Time
	leader     Leader

	// generation counts the snapshots that were made before. What bears the
	// number of the state being folded is in none of them, and may be changed.
	generation int
	historic   bool // it was copied to look back: what it folds is in the histories already
}

// views are all views, in the order in which they are written. A view is a field of
// Snapshot, an entry here, and what apply does to it.
var views = []view{
	{name: cutLine, index: true, records: (*Snapshot).cutRecord, parse: parseCut},
	table("hosts", func(s *Snapshot) *tree[domain.HostID, *hostState] { return &s.hosts }, parseName, asIs, decodeHost),
	index("addresses", func(s *Snapshot) *tree[domain.Address, domain.HostID] { return &s.addresses }),
	table("clusters", func(s *Snapshot) *tree[domain.ClusterName, *clusterState] { return &s.clusters }, parseName, asIs, decodeCluster),
	index("clusterids", func(s *Snapshot) *tree[domain.ClusterID, domain.ClusterName] { return &s.byID }),
	index("members", func(s *Snapshot) *tree[string, domain.HostID] { return &s.members }),
	table("networks", func(s *Snapshot) *tree[string, *Answer] { return &s.networks }, parseName, encodeAnswer, decodeAnswer),
	table("containermanagers", func(s *Snapshot) *tree[string, *Answer] { return &s.managers }, parseName, encodeAnswer, decodeAnswer),
	table("operations", func(s *Snapshot) *tree[event.Position, *Operation] { return &s.operations }, parsePosition, (*Operation).encode, decodeOperation),
	{name: "turns", index: true, records: (*Snapshot).turnRecords, parse: parseTurns},
	index("latest", func(s *Snapshot) *tree[string, domain.OperationID] { return &s.latest }),
	{name: "history", count: (*Snapshot).countHistories, records: (*Snapshot).historyRecords, parse: parseHistory},
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

// hostState is a host. Its JSON, as that of all that is written to files, is of no
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

	rendered   *rendered // this very state in JSON
	generation int
}

// rendered is a host in JSON, made when it is asked for and once a sweep.
type rendered struct {
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

// newSnapshot is a snapshot without records.
func newSnapshot() *Snapshot {
	s := &Snapshot{started: &btree.Map[domain.OperationID, event.Position]{}, history: newHistories()}
	s.unshare()
	return s
}

// copy shares all that does not change. Only one caller at a time may copy a snapshot.
func (s *Snapshot) copy() *Snapshot {
	c := *s
	c.started = s.started.Copy()
	c.unshare()
	return &c
}

func (s *Snapshot) unshare() {
	for _, v := range views {
		if v.unshare != nil {
			v.unshare(s)
		}
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

func (s *Snapshot) cluster(id domain.ClusterID) (*clusterState, bool) {
	name, ok := s.byID.Get(id)
	if !ok {
		return nil, false
	}
	return s.clusters.Get(name)
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
