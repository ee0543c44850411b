package commands

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"commissaire/domain/event"
)

// atOnce bounds how many decisions one append carries.
const atOnce = 512

// history keeps the folded state of one stream; query and decide use it.
// Decisions are made one after the other; those that arrive while an append is
// under way are made together after it and recorded in one append, each on the
// outcome of the ones before. So conflicts arise only between instances, and then
// all of them are decided again.
type history[S any, E event.Event] struct {
	stream event.Stream
	log    Log
	shared bool // others append to the stream too
	fold   fold[S, E]

	mu      sync.Mutex
	queue   []*decision[S, E]
	running bool

	// Of the goroutine that is running.
	state    S
	revision event.Revision
	position event.Position
	loaded   bool
}

// fold says how a state comes from events.
type fold[S any, E event.Event] struct {
	zero   func() S
	clone  func(S) S // a state that can evolve without changing the first
	evolve func(S, E, time.Time)
}

type decision[S any, E event.Event] struct {
	decide func(S) ([]E, error)
	record func(E) event.Decided
	render func(S, []event.Decided)

	err  error
	pos  event.Position
	done chan struct{}
}

// query asks a stream's state, with all that was recorded there before, and gives
// the position of the last event that it has. The answer must not share anything
// with the state that changes.
func query[S any, E event.Event, R any](ctx context.Context, h *history[S, E], ask func(S) R) (R, event.Position, error) {
	return decide(ctx, h, nil, func(S) ([]E, error) { return nil, nil }, func(state S, _ []event.Decided) R { return ask(state) })
}

// decide lets f decide on a stream's state and records what it decided, durably. f
// and render may be called more than once and must depend on their arguments alone:
// whatever else a decision depends on is found out before it is made, as others
// wait for it. The answer is what render makes of the state then and of what was
// recorded; the position is that of the last event recorded, or, where nothing was
// to record, the last known one of the stream. When ctx ends before the append
// does, the outcome is unknown.
func decide[S any, E event.Event, R any](
	ctx context.Context, h *history[S, E], record func(E) event.Decided, f func(S) ([]E, error), render func(S, []event.Decided) R,
) (R, event.Position, error) {
	var answer, none R
	d := &decision[S, E]{
		decide: f, record: record, done: make(chan struct{}),
		render: func(state S, recorded []event.Decided) { answer = render(state, recorded) },
	}
	h.enqueue(ctx, d)
	select {
	case <-d.done:
	case <-ctx.Done(): // answer may still be being written
		return none, 0, fmt.Errorf("record on %s: %w: %w", h.stream, ErrOutcomeUnknown, ctx.Err())
	}
	if d.err != nil {
		return none, 0, d.err
	}
	return answer, d.pos, nil
}

func (h *history[S, E]) enqueue(ctx context.Context, d *decision[S, E]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue = append(h.queue, d)
	if !h.running {
		h.running = true
		go h.run(context.WithoutCancel(ctx))
	}
}

func (h *history[S, E]) run(ctx context.Context) {
	for {
		h.mu.Lock()
		batch := h.queue[:min(len(h.queue), atOnce)]
		h.queue = h.queue[len(batch):]
		if len(batch) == 0 {
			h.queue, h.running = nil, false
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		h.carryOut(ctx, batch)
		for _, d := range batch {
			close(d.done)
		}
	}
}

func (h *history[S, E]) carryOut(ctx context.Context, batch []*decision[S, E]) {
	for {
		err := h.attempt(ctx, batch)
		if err == nil {
			return
		}
		h.loaded = false
		if errors.Is(err, ErrConflict) {
			continue
		}
		for _, d := range batch {
			d.err = fmt.Errorf("record on %s: %w", h.stream, err)
		}
		return
	}
}

func (h *history[S, E]) attempt(ctx context.Context, batch []*decision[S, E]) error {
	fresh := !h.loaded
	if err := h.catchUp(ctx); err != nil {
		return err
	}
	tried, events := h.try(batch)
	if len(events) == 0 && h.shared && !fresh {
		// No append says that this was decided on all that there is.
		decided := h.revision
		h.loaded = false
		if err := h.catchUp(ctx); err != nil {
			return err
		}
		if h.revision != decided {
			return h.attempt(ctx, batch)
		}
	}
	if len(events) > 0 {
		position, err := h.log.Append(ctx, h.stream, h.revision, events)
		if err != nil {
			return err
		}
		h.state, h.position = tried, position
		h.revision += event.Revision(len(events))
	}
	for _, d := range batch {
		d.pos = h.position
	}
	return nil
}

// try makes the decisions, each on the outcome of the ones before. It gives the state
// that they come to, and what is to be recorded.
func (h *history[S, E]) try(batch []*decision[S, E]) (tried S, events []event.Decided) {
	tried = h.fold.clone(h.state)
	for _, d := range batch {
		facts, err := d.decide(tried)
		d.err = err
		if err != nil {
			continue
		}
		before := len(events)
		for _, fact := range facts {
			recorded := d.record(fact)
			h.fold.evolve(tried, fact, recorded.Meta.Time)
			events = append(events, recorded)
		}
		d.render(tried, events[before:])
	}
	return tried, events
}

// catchUp reads what the state does not have yet.
func (h *history[S, E]) catchUp(ctx context.Context) error {
	if h.loaded {
		return nil
	}
	if h.revision == event.NoRevision {
		h.state = h.fold.zero()
	}
	for r, err := range h.log.ReadStream(ctx, h.stream, h.revision+1) {
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		fact, ok := r.Event.(E)
		if !ok {
			return fmt.Errorf("read: %s at position %d does not belong there", r.Event.EventType(), r.Position)
		}
		h.fold.evolve(h.state, fact, r.Meta.Time)
		h.revision, h.position = r.Revision, r.Position
	}
	h.loaded = true
	return nil
}

// histories are the streams of a family, each loaded when it is first asked for.
type histories[S any, E event.Event] struct {
	config Config
	fold   fold[S, E]

	mu  sync.Mutex
	all map[event.Stream]*history[S, E]
}

func (h *histories[S, E]) of(stream event.Stream) *history[S, E] {
	h.mu.Lock()
	defer h.mu.Unlock()
	one, ok := h.all[stream]
	if !ok {
		one = newHistory(h.config, stream, h.fold)
		if h.all == nil {
			h.all = map[event.Stream]*history[S, E]{}
		}
		h.all[stream] = one
	}
	return one
}

// forget gives back the memory of a stream that will hardly be asked for again.
func (h *histories[S, E]) forget(stream event.Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, stream)
}

func newHistory[S any, E event.Event](config Config, stream event.Stream, f fold[S, E]) *history[S, E] {
	return &history[S, E]{stream: stream, log: config.Log, shared: config.Shared, fold: f, revision: event.NoRevision}
}
