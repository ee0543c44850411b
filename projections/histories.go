package projections

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	"commissaire/domain"
	"commissaire/domain/event"
)

// The things that have a history.
const (
	OfCluster   = "cluster"
	OfHost      = "host"
	OfOperation = "operation"
)

// about is a thing that has a history.
type about struct{ of, name string }

// histories are the positions of all events about each thing. They only grow, so
// all snapshots of one log have the same, and each looks no further than its own
// position.
type histories struct {
	mu        sync.RWMutex
	positions map[about][]event.Position
}

func newHistories() *histories { return &histories{positions: map[about][]event.Position{}} }

func (h *histories) note(thing about, at event.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.positions[thing] = append(h.positions[thing], at)
}

// upTo is the history of a thing, up to a position; nil where it has none.
func (h *histories) upTo(thing about, last event.Position) []event.Position {
	h.mu.RLock()
	all := h.positions[thing]
	h.mu.RUnlock()
	n := sort.Search(len(all), func(i int) bool { return all[i] > last })
	if n == 0 {
		return nil
	}
	return all[:n:n]
}

// len is how many things have a history up to a position.
func (h *histories) len(last event.Position) (n int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, all := range h.positions {
		if all[0] <= last {
			n++
		}
	}
	return n
}

// all are the histories up to a position, by kind and name of the thing.
func (h *histories) all(last event.Position) iter.Seq2[string, []event.Position] {
	h.mu.RLock()
	things := slices.Collect(maps.Keys(h.positions))
	h.mu.RUnlock()
	slices.SortFunc(things, func(a, b about) int { return cmp.Or(strings.Compare(a.of, b.of), strings.Compare(a.name, b.name)) })
	return func(yield func(string, []event.Position) bool) {
		for _, thing := range things {
			if positions := h.upTo(thing, last); positions != nil && !yield(thing.of+" "+thing.name, positions) {
				return
			}
		}
	}
}

// set gives a thing, named as all does, its history.
func (h *histories) set(key string, positions []event.Position) {
	of, name, _ := strings.Cut(key, " ")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.positions[about{of, name}] = positions
}

// History are the positions of all events about a thing, oldest first, also of
// one that is gone; nil where there never was one. It must not be changed.
func (s *Snapshot) History(of, name string) []event.Position {
	return s.history.upTo(about{of, name}, s.Position)
}

// remember notes which things an event is about.
func (s *Snapshot) remember(r event.Recorded) {
	note := func(of, name string) {
		if name == "" {
			return
		}
		s.history.note(about{of, name}, r.Position)
	}
	operation := func(e event.Started) {
		note(OfCluster, string(e.Cluster))
		note(OfOperation, string(e.Operation))
	}
	turn := func(t event.Turn) {
		note(OfHost, string(t.Host))
		note(OfOperation, string(t.Operation))
	}
	steered := func(id domain.OperationID) {
		note(OfOperation, string(id))
		if o, ok := s.Operation(id); ok {
			note(OfCluster, string(o.Cluster))
		}
	}
	member := func(cluster domain.ClusterName, host domain.Address) {
		note(OfCluster, string(cluster))
		note(OfHost, string(host))
	}
	switch e := r.Event.(type) {
	case event.HostAdded:
		note(OfHost, string(e.Host))
	case event.HostRemoved:
		note(OfHost, string(e.Host))
	case event.ClusterCreated:
		note(OfCluster, string(e.Cluster))
	case event.ClusterReconfigured:
		note(OfCluster, string(e.Cluster))
	case event.ClusterDeleted:
		note(OfCluster, string(e.Cluster))
	case event.HostJoined:
		member(e.Cluster, e.Host)
	case event.HostLeft:
		member(e.Cluster, e.Host)
	case event.HostTaken:
		note(OfHost, string(e.Host))
		note(OfOperation, string(e.Operation))
	case event.HostReleased:
		note(OfHost, string(e.Host))
	case event.DeployStarted:
		operation(e.Started)
	case event.UpgradeStarted:
		operation(e.Started)
	case event.RestartStarted:
		operation(e.Started)
	case event.OperationCompleted:
		note(OfCluster, string(e.Cluster))
		note(OfOperation, string(e.Operation))
	case event.OperationAborted:
		note(OfCluster, string(e.Cluster))
		note(OfOperation, string(e.Operation))
	case event.HostTurnBegun:
		turn(e.Turn)
	case event.HostTurnExamined:
		turn(e.Turn)
	case event.HostTurnSucceeded:
		turn(e.Turn)
	case event.HostTurnFailed:
		turn(e.Turn)
	case event.HostTurnSkipped:
		turn(e.Turn)
	case event.HostStaged:
		turn(e.Turn)
	case event.HostTurnCordoned:
		turn(e.Turn)
	case event.HostTurnWorked:
		turn(e.Turn)
	case event.HostTurnRebootOrdered:
		turn(e.Turn)
	case event.HostTurnWaiting:
		turn(e.Turn)
	case event.HostTurnGated:
		turn(e.Turn)
	case event.HostCleanedUp:
		turn(e.Turn)
	case event.OperationPaused:
		steered(e.Operation)
	case event.OperationResumed:
		steered(e.Operation)
	case event.OperationCancelled:
		steered(e.Operation)
	case event.OperationAbandoned:
		steered(e.Operation)
	case event.OperationWaiting:
		steered(e.Operation)
	case event.OperationTakenUp:
		steered(e.Operation)
	case event.HostEvent:
		note(OfHost, string(event.HostOf(e))) // also of one that was removed
	}
}
