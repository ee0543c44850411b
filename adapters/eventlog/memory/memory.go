// Package memory keeps the log in memory: for trying things, and the double that
// tests decide on. It is gone when the process ends.
package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// Store is an eventlog.Store and eventlog.Lease in memory.
type Store struct {
	mu      sync.Mutex
	events  []eventlog.Raw // position n is at n-1
	streams map[event.Stream][]event.Position
	term    domain.Term
	grown   chan struct{} // closed and replaced with every append
	closed  bool
}

var (
	_ eventlog.Store = (*Store)(nil)
	_ eventlog.Lease = (*Store)(nil)
)

// New is an empty store.
func New() *Store {
	return &Store{streams: map[event.Stream][]event.Position{}, grown: make(chan struct{})}
}

// batch is how many events Follow yields at once.
const batch = 1000

// ReadStream implements eventlog.Store.
func (s *Store) ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[eventlog.Raw, error] {
	return func(yield func(eventlog.Raw, error) bool) {
		s.mu.Lock()
		positions := s.streams[stream]
		events := s.events
		s.mu.Unlock()
		for _, at := range positions[min(int(max(from, 0)), len(positions)):] {
			if err := ctx.Err(); err != nil {
				yield(eventlog.Raw{}, err)
				return
			}
			if !yield(events[at-1], nil) {
				return
			}
		}
	}
}

// Append implements eventlog.Store.
func (s *Store) Append(_ context.Context, stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, fmt.Errorf("append to %s: the store is closed: %w", stream, commands.ErrUnavailable)
	}
	positions := s.streams[stream]
	last := event.Revision(len(positions)) - 1
	if last != expected {
		if at, same := s.repeated(positions, expected, events); same {
			return at, nil
		}
		return 0, fmt.Errorf("append to %s: its last revision is %d, not %d: %w", stream, last, expected, commands.ErrConflict)
	}
	for i, e := range events {
		e.Stream, e.Revision = stream, expected+event.Revision(i)+1
		e.Position = event.Position(len(s.events)) + 1
		e.Data, e.Meta = slices.Clone(e.Data), slices.Clone(e.Meta)
		s.events = append(s.events, e)
		s.streams[stream] = append(s.streams[stream], e.Position)
	}
	close(s.grown)
	s.grown = make(chan struct{})
	return event.Position(len(s.events)), nil
}

// repeated tells whether exactly these events follow expected already.
func (s *Store) repeated(positions []event.Position, expected event.Revision, events []eventlog.Raw) (event.Position, bool) {
	first := int(expected) + 1
	if len(events) == 0 || first < 0 || first+len(events) > len(positions) {
		return 0, false
	}
	ids := make([]uuid.UUID, len(events))
	for i := range events {
		ids[i] = s.events[positions[first+i]-1].ID
	}
	return positions[first+len(events)-1], slices.EqualFunc(events, ids, func(e eventlog.Raw, id uuid.UUID) bool { return e.ID == id })
}

// ReadAt implements eventlog.Store.
func (s *Store) ReadAt(_ context.Context, positions []event.Position) ([]eventlog.Raw, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make([]eventlog.Raw, len(positions))
	for i, at := range positions {
		if at == 0 || int(at) > len(s.events) {
			return nil, fmt.Errorf("read position %d: there is no event", at)
		}
		events[i] = s.events[at-1]
	}
	return events, nil
}

// Follow implements eventlog.Store.
func (s *Store) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for ctx.Err() == nil {
			s.mu.Lock()
			from := min(int(after), len(s.events))
			events := slices.Clone(s.events[from:min(from+batch, len(s.events))])
			grown := s.grown
			s.mu.Unlock()
			if !yield(events, nil) {
				return
			}
			if len(events) > 0 {
				after = events[len(events)-1].Position
				continue
			}
			select {
			case <-grown:
			case <-ctx.Done():
			}
		}
	}
}

// Head implements eventlog.Store.
func (s *Store) Head(context.Context) (event.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return event.Position(len(s.events)), nil
}

// NextTerm implements eventlog.Lease.
func (s *Store) NextTerm(context.Context) (domain.Term, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.term++
	return s.term, nil
}

// Close implements eventlog.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
