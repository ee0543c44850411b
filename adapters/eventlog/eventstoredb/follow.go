package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain/event"
)

const (
	batchSize = 1000
	window    = 1000 // events of others after which the server says how far it is
)

var errGivenUp = errors.New("the connection was given up, as the server was not available")

// seen is how far the log was read: pos is that of the last event that is known, and
// the log has none after it as far as until. Who follows after pos goes on at until, and the server need not look again at what others recorded between.
type seen struct {
	mu    sync.Mutex
	pos   event.Position
	until esdb.Position
}

func (s *seen) last() (pos event.Position, until esdb.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos, s.until
}

// recordEvent records an event of the log.
func (s *seen) recordEvent(pos event.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pos > s.pos {
		s.pos, s.until = pos, esdb.Position{Commit: uint64(pos), Prepare: uint64(pos)}
	}
}

// recordNothing records that there is nothing between an event and a place.
func (s *seen) recordNothing(after event.Position, until esdb.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == s.pos && until.Commit > s.until.Commit {
		s.until = until
	}
}

// startAfter is where to subscribe to get what comes after an event.
func (s *seen) startAfter(after event.Position) esdb.AllPosition {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case after == s.pos && s.until.Commit > 0:
		return s.until
	case after > 0:
		return esdb.Position{Commit: uint64(after), Prepare: uint64(after)}
	}
	return esdb.Start{}
}

// Follow implements eventlog.Store. A subscription that drops is an error, as
// any other: who follows follows again from where it was.
func (s *Store) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		inner, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(s.ending, func() { cancel(errClosed) })()
		if err := s.follow(inner, cancel, after, yield); err != nil && ctx.Err() == nil {
			if inner.Err() != nil {
				err = context.Cause(inner)
			}
			yield(nil, fmt.Errorf("follow after position %d: %w", after, wrap(commands.ErrUnavailable, err)))
		}
	}
}

// subscription is one of the client, and the link it runs on.
type subscription struct {
	*esdb.Subscription
	on *link
}

// subscribe begins a subscription, which ends with ctx.
func (s *Store) subscribe(ctx context.Context, cancel context.CancelCauseFunc, after event.Position) (begun subscription, err error) {
	options := esdb.SubscribeToAllOptions{
		From:               s.seen.startAfter(after),
		Filter:             &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{s.prefix}},
		MaxSearchWindow:    window,
		CheckpointInterval: 1,
	}
	err = s.retry(ctx, func(context.Context) (bool, error) {
		var err error
		begun, err = call(ctx, s.links, func(ctx context.Context, k *link) (subscription, error) {
			silence := time.AfterFunc(s.times.attempt, func() { cancel(errSilent) })
			defer silence.Stop()
			begun, err := k.client.SubscribeToAll(ctx, options)
			return subscription{begun, k}, err
		})
		return false, err
	})
	if err == nil {
		s.seen.recordEvent(after)
	}
	return begun, err
}

// follow returns nil when the reader left.
func (s *Store) follow(ctx context.Context, cancel context.CancelCauseFunc, after event.Position, yield func([]eventlog.Raw, error) bool) error {
	subscription, err := s.subscribe(ctx, cancel, after)
	if err != nil {
		return err
	}
	defer context.AfterFunc(subscription.on.gone, func() { cancel(errGivenUp) })()
	received := subscription.receive(ctx)
	f := follower{seen: &s.seen, decode: s.decode, yield: yield, after: after}
	for {
		e, err := f.next(ctx, received)
		if err == nil {
			err = f.take(ctx, e)
		}
		if errors.Is(err, errLeft) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// receive receives what the subscription says, until it is dropped or ctx ends.
func (s subscription) receive(ctx context.Context) <-chan *esdb.SubscriptionEvent {
	received := make(chan *esdb.SubscriptionEvent, batchSize)
	go func() { // ends with ctx, which ends with Follow
		for ctx.Err() == nil {
			e := s.Recv()
			select {
			case received <- e:
			case <-ctx.Done():
			}
			if e.SubscriptionDropped != nil {
				return
			}
		}
	}()
	return received
}

// errLeft says that the reader left.
var errLeft = errors.New("the reader left")

// follower makes batches of what a subscription says.
type follower struct {
	seen   *seen
	decode func(*esdb.ResolvedEvent) (eventlog.Raw, bool)
	yield  func([]eventlog.Raw, error) bool

	after    event.Position // of the last event
	batch    []eventlog.Raw // what the reader has not got yet
	caughtUp bool           // the server has said that this is the head
	told     bool           // the reader knows that
}

// next is what the subscription says next. Before it waits for that, the reader gets
// what there is; where that is nothing, it is told once that this is the head.
func (f *follower) next(ctx context.Context, received <-chan *esdb.SubscriptionEvent) (*esdb.SubscriptionEvent, error) {
	for {
		if len(f.batch) < batchSize {
			select {
			case e := <-received:
				return e, nil
			default:
			}
		}
		if len(f.batch) == 0 && (!f.caughtUp || f.told) {
			select {
			case e := <-received:
				return e, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		f.told = len(f.batch) == 0
		if !f.flush() {
			return nil, errLeft
		}
	}
}

// flush yields the batch.
func (f *follower) flush() bool {
	batch := f.batch
	f.batch = nil
	return f.yield(batch, nil)
}

// take takes in what the subscription says. Where that is its end, the reader gets
// what came before.
func (f *follower) take(ctx context.Context, e *esdb.SubscriptionEvent) error {
	switch {
	case e.EventAppeared != nil:
		if raw, ok := f.decode(e.EventAppeared); ok {
			f.batch, f.after = append(f.batch, raw), raw.Position
			f.seen.recordEvent(f.after)
		} else if o := e.EventAppeared.OriginalEvent(); o != nil {
			f.seen.recordNothing(f.after, o.Position)
		}
	case e.CheckPointReached != nil:
		f.seen.recordNothing(f.after, *e.CheckPointReached)
	case e.CaughtUp != nil:
		f.caughtUp, f.told = true, false
	case e.FellBehind != nil:
		f.caughtUp = false
	case e.SubscriptionDropped != nil:
		if len(f.batch) > 0 && !f.flush() {
			return errLeft
		}
		if hasEnded(ctx) {
			return ctx.Err()
		}
		return fmt.Errorf("the subscription was dropped: %w", e.SubscriptionDropped.Error)
	}
	return nil
}
