// Package projections holds what GET serves: views folded from the log, in
// memory, all in one group, so that every answer is made from one cut through
// history. A published Snapshot never changes; its trees share all that did not
// change with the one before. DESIGN.md says why, and how views are rebuilt and
// written to files.
//
// All views are in one list, and a table says once how its records are keyed and
// encoded: a view is a field of Snapshot, an entry in that list, and what apply does
// to it.
package projections

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"

	"commissaire/domain"
	"commissaire/domain/event"
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

	mu       sync.Mutex
	state    *Snapshot // being folded
	waiting  map[chan struct{}]event.Position
	retained *retained
	tail     *[]event.Recorded // applied since a rebuild came near; nil: none did
}

// New is the views of an empty log.
func New() *Views {
	v := viewsOf(newSnapshot())
	v.state.define(v.state.networks, string(domain.DefaultNetwork), domain.FlannelEtcd, json.RawMessage("{}"))
	return v
}

func viewsOf(state *Snapshot) *Views {
	return &Views{waiting: map[chan struct{}]event.Position{}, retained: &retained{spacing: firstSpacing}, state: state}
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

// WaitFor returns when a position was applied, or with ctx's error.
func (v *Views) WaitFor(ctx context.Context, pos event.Position) error {
	v.mu.Lock()
	if v.state.Position >= pos {
		v.mu.Unlock()
		return nil
	}
	reached := make(chan struct{})
	v.waiting[reached] = pos
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
	v.retain()
	if v.tail != nil {
		*v.tail = append(*v.tail, r)
	}
	for reached, pos := range v.waiting {
		if pos <= s.Position {
			close(reached)
			delete(v.waiting, reached)
		}
	}
}
