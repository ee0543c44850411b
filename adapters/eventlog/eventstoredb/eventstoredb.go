// Package eventstoredb keeps the log in EventStoreDB, for several instances of
// the service.
//
// Decisions:
//
//   - Every call asks for the leader, in its own metadata: the client's option of
//     that name is never sent. So no read is older than an append that was
//     acknowledged, and the client moves when the leader does.
//   - Discovery never gives up: a client whose discovery gave up is dead for
//     good. As it does not heed a context meanwhile, each call runs beside its
//     caller, who leaves when the context ends or the time is over.
//   - An append is tried again with the same event ids, which the server
//     recognises, until its outcome is known or its time is over: the client hides
//     what the server said when it said it early, and a broken connection says
//     nothing.
//   - A position is the commit position. System events are left out.
package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/metadata"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain/event"
)

const (
	batchSize = 1000
	patience  = 10 * time.Second       // for an append, and for Close
	pause     = 200 * time.Millisecond // between two tries of an append
)

var errClosed = errors.New("the event log is closed")

// Store is an event log in EventStoreDB.
type Store struct {
	client *esdb.Client
	ending context.Context // ends with Close
	end    context.CancelFunc

	mu     sync.Mutex
	closed bool
	busy   sync.WaitGroup // calls of the client under way
}

var _ eventlog.Store = (*Store)(nil)

// Open makes a store of an esdb:// connection string. It refuses one that it
// does not understand, and does not connect yet.
func Open(connection string, logger *slog.Logger) (*Store, error) {
	configuration, err := esdb.ParseConnectionString(connection)
	if err != nil {
		// The string may hold a password: neither it nor the error is repeated.
		return nil, errors.New("open the event log: the EventStoreDB connection string is not understood")
	}
	configuration.MaxDiscoverAttempts = math.MaxInt32
	configuration.DiscoveryInterval = 500 // milliseconds
	configuration.Logger = func(level esdb.LogLevel, format string, arguments ...any) {
		logger.Debug("EventStoreDB client", "level", level, "message", fmt.Sprintf(format, arguments...))
	}
	client, err := esdb.NewClient(configuration)
	if err != nil {
		return nil, fmt.Errorf("open the event log: %w", err)
	}
	ending, end := context.WithCancel(context.Background())
	return &Store{client: client, ending: ending, end: end}, nil
}

// call does something with the client beside the caller. It fails when ctx or
// the store ends; what was begun then ends on its own.
func call[T any](ctx context.Context, s *Store, do func(context.Context) (T, error)) (T, error) {
	var none T
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return none, errClosed
	}
	s.busy.Add(1)
	s.mu.Unlock()
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		defer s.busy.Done()
		value, err := do(metadata.AppendToOutgoingContext(ctx, "requires-leader", "true"))
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// joined is a context that ends with ctx and with the store.
func (s *Store) joined(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ending, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// is tells whether the client failed with one of these codes.
func is(err error, codes ...esdb.ErrorCode) bool {
	var failed *esdb.Error
	if !errors.As(err, &failed) {
		return false
	}
	for _, code := range codes {
		if failed.Code() == code {
			return true
		}
	}
	return false
}

// Append implements eventlog.Store.
func (s *Store) Append(ctx context.Context, stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	at, err := s.append(context.WithoutCancel(ctx), stream, expected, events)
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", stream, err)
	}
	return at, nil
}

func (s *Store) append(ctx context.Context, stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	if len(events) == 0 {
		return 0, errors.New("there is no event to append")
	}
	proposed := make([]esdb.EventData, len(events))
	for i, e := range events {
		proposed[i] = esdb.EventData{EventID: e.ID, EventType: e.Type, ContentType: esdb.ContentTypeJson, Data: e.Data, Metadata: e.Meta}
	}
	options := esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}
	if expected != event.NoRevision {
		options.ExpectedRevision = esdb.Revision(uint64(expected))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	doubt := false // an earlier try may have been recorded
	for {
		result, err := call(ctx, s, func(ctx context.Context) (*esdb.WriteResult, error) {
			return s.client.AppendToStream(ctx, string(stream), options, proposed...)
		})
		switch {
		case err == nil:
			return event.Position(result.CommitPosition), nil
		case is(err, esdb.ErrorCodeWrongExpectedVersion):
			return 0, fmt.Errorf("%w: %w", commands.ErrConflict, err)
		case errors.Is(err, errClosed) && !doubt, is(err, esdb.ErrorCodeAccessDenied, esdb.ErrorCodeUnauthenticated, esdb.ErrorCodeStreamDeleted) && !doubt:
			return 0, fmt.Errorf("%w: %w", commands.ErrUnavailable, err)
		case ctx.Err() != nil, errors.Is(err, errClosed):
			return 0, fmt.Errorf("%w: %w", commands.ErrOutcomeUnknown, err)
		}
		doubt = doubt || !is(err, esdb.ErrorCodeNotLeader)
		select {
		case <-time.After(pause):
		case <-s.ending.Done():
		case <-ctx.Done():
		}
	}
}

// raw is a recorded event; ok is false for a system event.
func raw(resolved *esdb.ResolvedEvent) (eventlog.Raw, bool) {
	e := resolved.OriginalEvent()
	if e == nil || strings.HasPrefix(e.EventType, "$") {
		return eventlog.Raw{}, false
	}
	return eventlog.Raw{
		Position: event.Position(e.Position.Commit), Stream: event.Stream(e.StreamID), Revision: event.Revision(e.EventNumber),
		ID: e.EventID, Type: e.EventType, Data: e.Data, Meta: e.UserMetadata,
	}, true
}

// read yields what a read of the client finds, without system events.
func (s *Store) read(ctx context.Context, begin func(context.Context) (*esdb.ReadStream, error)) iter.Seq2[eventlog.Raw, error] {
	return func(yield func(eventlog.Raw, error) bool) {
		ctx, cancel := s.joined(ctx)
		defer cancel()
		reading, err := call(ctx, s, begin)
		for err == nil {
			var resolved *esdb.ResolvedEvent
			resolved, err = call(ctx, s, func(context.Context) (*esdb.ResolvedEvent, error) { return reading.Recv() })
			if err != nil {
				break
			}
			if e, ok := raw(resolved); ok && !yield(e, nil) {
				return
			}
		}
		switch {
		case ctx.Err() != nil:
			yield(eventlog.Raw{}, context.Cause(ctx))
		case !errors.Is(err, io.EOF) && !is(err, esdb.ErrorCodeResourceNotFound):
			yield(eventlog.Raw{}, err)
		}
	}
}

// ReadStream implements eventlog.Store.
func (s *Store) ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[eventlog.Raw, error] {
	return func(yield func(eventlog.Raw, error) bool) {
		for e, err := range s.read(ctx, func(ctx context.Context) (*esdb.ReadStream, error) {
			return s.client.ReadStream(ctx, string(stream), esdb.ReadStreamOptions{From: esdb.Revision(uint64(max(from, 0)))}, math.MaxInt64)
		}) {
			if err != nil {
				err = fmt.Errorf("read %s: %w", stream, err)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// ReadAt implements eventlog.Store.
func (s *Store) ReadAt(ctx context.Context, positions []event.Position) ([]eventlog.Raw, error) {
	if s.ending.Err() != nil {
		return nil, fmt.Errorf("read positions: %w", errClosed)
	}
	found := make([]eventlog.Raw, len(positions))
	for i, at := range positions {
		for e, err := range s.read(ctx, func(ctx context.Context) (*esdb.ReadStream, error) {
			from := esdb.Position{Commit: uint64(at), Prepare: uint64(at)}
			return s.client.ReadAll(ctx, esdb.ReadAllOptions{From: from}, 1)
		}) {
			if err != nil {
				return nil, fmt.Errorf("read position %d: %w", at, err)
			}
			found[i] = e
		}
		if found[i].Position != at || at == 0 {
			return nil, fmt.Errorf("read positions: there is no event at %d", at)
		}
	}
	return found, nil
}

// Head implements eventlog.Store.
func (s *Store) Head(ctx context.Context) (event.Position, error) {
	for e, err := range s.read(ctx, func(ctx context.Context) (*esdb.ReadStream, error) {
		return s.client.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}, math.MaxInt64)
	}) {
		if err != nil {
			return 0, fmt.Errorf("read the head: %w", err)
		}
		return e.Position, nil
	}
	return 0, nil
}

// Follow implements eventlog.Store. A subscription that drops is an error, as
// any other: who follows follows again from where it was.
func (s *Store) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		inner, cancel := s.joined(ctx)
		defer cancel()
		if err := s.follow(inner, after, yield); err != nil && ctx.Err() == nil {
			if inner.Err() != nil {
				err = context.Cause(inner)
			}
			yield(nil, fmt.Errorf("follow after position %d: %w", after, err))
		}
	}
}

// follow returns nil when the reader left.
func (s *Store) follow(ctx context.Context, after event.Position, yield func([]eventlog.Raw, error) bool) error {
	options := esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: esdb.ExcludeSystemEventsFilter()}
	if after > 0 {
		options.From = esdb.Position{Commit: uint64(after), Prepare: uint64(after)}
	}
	subscription, err := call(ctx, s, func(ctx context.Context) (*esdb.Subscription, error) {
		return s.client.SubscribeToAll(ctx, options)
	})
	if err != nil {
		return err
	}
	received := make(chan *esdb.SubscriptionEvent, batchSize)
	go func() { // ends with ctx, which ends with Follow
		for ctx.Err() == nil {
			e := subscription.Recv()
			select {
			case received <- e:
			case <-ctx.Done():
			}
			if e.SubscriptionDropped != nil {
				return
			}
		}
	}()
	var batch []eventlog.Raw
	caughtUp, told := false, false
	for {
		var e *esdb.SubscriptionEvent
		if len(batch) < batchSize {
			select {
			case e = <-received:
			default:
			}
		}
		switch {
		case e != nil:
		case len(batch) > 0:
			if !yield(batch, nil) {
				return nil
			}
			batch, told = nil, false
			continue
		case caughtUp && !told:
			if !yield(nil, nil) {
				return nil
			}
			told = true
			continue
		default:
			select {
			case e = <-received:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		switch {
		case e.EventAppeared != nil:
			if r, ok := raw(e.EventAppeared); ok {
				batch = append(batch, r)
			}
		case e.CaughtUp != nil:
			caughtUp, told = true, false
		case e.FellBehind != nil:
			caughtUp = false
		case e.SubscriptionDropped != nil:
			if len(batch) > 0 && !yield(batch, nil) {
				return nil
			}
			return e.SubscriptionDropped.Error
		}
	}
}

// Close implements eventlog.Store. Closing the client while a call of it starts
// would end the process: when one does not end in time, the client is left to
// the end of the process.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.end()
	idle := make(chan struct{})
	go func() { s.busy.Wait(); close(idle) }()
	select {
	case <-idle:
		return s.client.Close()
	case <-time.After(patience):
		return errors.New("close the event log: calls of the EventStoreDB client do not end")
	}
}
