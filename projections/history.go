package projections

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	"commissaire/domain/event"
)

// The things that have a history.
const (
	OfCluster   = "cluster"
	OfHost      = "host"
	OfOperation = "operation"
)

// subject is a thing that has a history.
type subject struct{ of, name string }

// histories are the positions of all events about each thing. They only grow, so
// all snapshots of one log have the same, and each looks no further than its own
// position.
type histories struct {
	mu        sync.RWMutex
	positions map[subject][]event.Position
}

func newHistories() *histories { return &histories{positions: map[subject][]event.Position{}} }

func (h *histories) note(thing subject, pos event.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.positions[thing] = append(h.positions[thing], pos)
}

// upTo is the history of a thing, up to a position; nil where it has none.
func (h *histories) upTo(thing subject, last event.Position) []event.Position {
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
	slices.SortFunc(things, func(a, b subject) int { return cmp.Or(strings.Compare(a.of, b.of), strings.Compare(a.name, b.name)) })
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
	h.positions[subject{of, name}] = positions
}

// History are the positions of all events about a thing, oldest first, also of
// one that is gone; nil where there never was one. It must not be changed.
func (s *Snapshot) History(of, name string) []event.Position {
	return s.history.upTo(subject{of, name}, s.Position)
}

// remember notes which things an event is about, also those that are gone. What
// is done to an operation as a whole belongs to the history of its cluster too.
func (s *Snapshot) remember(r event.Recorded) {
	of := event.SubjectsOf(r.Event)
	if of.Host == "" && of.Cluster == "" && of.Operation != "" {
		if o, ok := s.Operation(of.Operation); ok {
			of.Cluster = o.Cluster
		}
	}
	for _, thing := range []subject{{OfHost, string(of.Host)}, {OfCluster, string(of.Cluster)}, {OfOperation, string(of.Operation)}} {
		if thing.name != "" {
			s.history.note(thing, r.Position)
		}
	}
}
