// Package memory keeps an event log for as long as the process lives: for tests
// and for trying things out. It promises what every store promises, except that
// Close forgets everything.
//
// Positions are dense and begin at 1.
package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

const batchSize = 1000

var errClosed = errors.New("the event log is closed")

// Store is an event log in memory.
type Store struct {
	mu      sync.Mutex
	events  []eventlog.Raw         // position n is at index n-1; never changed, only added to
	streams map[event.Stream][]int // indexes into events
	changed chan struct{}          // closed and replaced when there is more to see
	term    domain.Term
	closed  bool
}

var (
	_ eventlog.Store = (*Store)(nil)
	_ eventlog.Lease = (*Store)(nil)
)

// New is an empty log.
func New() *Store {
	return &Store{streams: map[event.Stream][]int{}, changed: make(chan struct{})}
}

// Append implements eventlog.Store.
func (s *Store) Append(_ context.Context, stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	position, err := s.append(stream, expected, events)
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", stream, err)
	}
	return position, nil
}

func (s *Store) append(stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	if len(events) == 0 {
		return 0, errors.New("there is no event to append")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, fmt.Errorf("%w: %w", commands.ErrUnavailable, errClosed)
	}
	places := s.streams[stream]
	if head := event.Revision(len(places) - 1); head != expected {
		return s.findAppended(places, expected, events)
	}
	for i, e := range events {
		e.Position = event.Position(len(s.events) + 1)
		e.Stream = stream
		e.Revision = expected + 1 + event.Revision(i)
		e.Data, e.Meta = bytes.Clone(e.Data), bytes.Clone(e.Meta)
		places = append(places, len(s.events))
		s.events = append(s.events, e)
	}
	s.streams[stream] = places
	close(s.changed)
	s.changed = make(chan struct{})
	return event.Position(len(s.events)), nil
}

// findAppended returns where events are that were appended after expected before.
func (s *Store) findAppended(places []int, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	first := int(expected) + 1
	if first < 0 || first+len(events) > len(places) {
		return 0, commands.ErrConflict
	}
	for i, e := range events {
		if s.events[places[first+i]].ID != e.ID {
			return 0, commands.ErrConflict
		}
	}
	return event.Position(places[first+len(events)-1] + 1), nil
}

// ReadStream implements eventlog.Store.
func (s *Store) ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[eventlog.Raw, error] {
	return func(yield func(eventlog.Raw, error) bool) {
		for rev := max(from, 0); ; rev++ {
			e, ok, err := s.readOne(ctx, stream, rev)
			if err != nil {
				yield(eventlog.Raw{}, fmt.Errorf("read %s: %w", stream, err))
				return
			}
			if !ok || !yield(e, nil) {
				return
			}
		}
	}
}

// readOne returns the event at a revision; false where there is none.
func (s *Store) readOne(ctx context.Context, stream event.Stream, rev event.Revision) (eventlog.Raw, bool, error) {
	if err := ctx.Err(); err != nil {
		return eventlog.Raw{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return eventlog.Raw{}, false, errClosed
	}
	places := s.streams[stream]
	if int(rev) >= len(places) {
		return eventlog.Raw{}, false, nil
	}
	return s.events[places[rev]], true, nil
}

// ReadAt implements eventlog.Store.
func (s *Store) ReadAt(_ context.Context, positions []event.Position) ([]eventlog.Raw, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("read positions: %w", errClosed)
	}
	found := make([]eventlog.Raw, len(positions))
	for i, p := range positions {
		if p == 0 || p > event.Position(len(s.events)) {
			return nil, fmt.Errorf("read positions: there is no event at %d", p)
		}
		found[i] = s.events[p-1]
	}
	return found, nil
}

// Follow implements eventlog.Store.
func (s *Store) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for ctx.Err() == nil {
			batch, changed, err := s.readAfter(after)
			if err != nil {
				yield(nil, fmt.Errorf("follow: %w", err))
				return
			}
			if !yield(batch, nil) {
				return
			}
			if len(batch) > 0 {
				after = batch[len(batch)-1].Position
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// readAfter returns the next batch; at the head, where it is empty, the channel is
// closed when there is more.
func (s *Store) readAfter(after event.Position) ([]eventlog.Raw, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errClosed
	}
	if after >= event.Position(len(s.events)) {
		return nil, s.changed, nil
	}
	end := min(int(after)+batchSize, len(s.events))
	return s.events[after:end:end], s.changed, nil
}

// Head implements eventlog.Store.
func (s *Store) Head(context.Context) (event.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, fmt.Errorf("read the head: %w", errClosed)
	}
	return event.Position(len(s.events)), nil
}

// Lead implements eventlog.Lease: there is nobody else.
func (s *Store) Lead(ctx context.Context, after domain.Term) (context.Context, domain.Term, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, fmt.Errorf("begin a term: %w", errClosed)
	}
	s.term = max(s.term, after) + 1
	return ctx, s.term, nil
}

// Close implements eventlog.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.changed)
	}
	return nil
}
