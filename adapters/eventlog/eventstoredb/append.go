package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain/event"
)

// maxHidden is how often the server may end the same append early before it is
// taken for a refusal.
const maxHidden = 5

// Append implements eventlog.Store.
func (s *Store) Append(ctx context.Context, stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	pos, err := s.appendToLog(context.WithoutCancel(ctx), stream, expected, events)
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", stream, err)
	}
	return pos, nil
}

func (s *Store) appendToLog(ctx context.Context, stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	if stream == leaseStream {
		return 0, errors.New("that stream holds the lease")
	}
	if err := s.begin(); err != nil {
		return 0, wrap(commands.ErrUnavailable, err)
	}
	defer s.busy.Done()
	ctx, cancel := context.WithTimeout(ctx, s.times.append)
	defer cancel()
	pos, err := s.append(ctx, s.prefix+string(stream), expected, events, s.times.attempt)
	if err == nil {
		s.seen.recordEvent(pos)
	}
	return pos, err
}

// append records events in a stream by its full name. It ends with ctx, or a
// little later when it has to find out what it did.
func (s *Store) append(ctx context.Context, stream string, expected event.Revision, events []eventlog.Raw, attempt time.Duration) (event.Position, error) {
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
	pauses := newPauses()
	doubt, hidden := false, 0 // an earlier try may have been recorded; answers that were hidden
	for {
		try, cancel := context.WithTimeoutCause(ctx, attempt, errNoAnswer)
		defer cancel() // there are few
		result, err := call(try, s.links, func(ctx context.Context, k *link) (*esdb.WriteResult, error) {
			return k.client.AppendToStream(ctx, stream, options, proposed...)
		})
		if err == nil && result.CommitPosition != 0 && result.CommitPosition != math.MaxUint64 {
			return event.Position(result.CommitPosition), nil
		}
		doubt = doubt || !isUnrecorded(err) && !hasCode(err, esdb.ErrorCodeWrongExpectedVersion)
		switch {
		case err == nil || hasCode(err, esdb.ErrorCodeWrongExpectedVersion):
			return s.settle(ctx, stream, expected, events, doubt, err)
		case !doubt && (isFinal(err) || errors.Is(err, errNoServer)):
			return 0, wrap(commands.ErrUnavailable, err)
		case isFinal(err):
			return s.settle(ctx, stream, expected, events, doubt, err)
		case errors.Is(err, io.EOF):
			// The server ended the call early and the client hides why: that another
			// leads shows when it is asked something small.
			if hidden++; hidden == maxHidden && !doubt {
				return 0, fmt.Errorf("%w: the server refuses it before it has all of it: %w", commands.ErrUnavailable, err)
			}
			for _, err := range s.read(try, s.streamFrom(stream, 0, 1)) {
				_ = err // the client has heard it
			}
		}
		if ended := s.wait(ctx, pauses.NextBackOff()); ended != nil {
			if !doubt {
				return 0, wrap(commands.ErrUnavailable, err)
			}
			return s.settle(ctx, stream, expected, events, doubt, err)
		}
	}
}

// wrap makes an error one of a kind, unless it is already.
func wrap(kind, err error) error {
	if err == nil || errors.Is(err, kind) {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// settle finds out by reading what became of an append that answered did not
// tell of: nil that it was recorded, a wrong expected revision, or nothing. In
// doubt an earlier try may have been recorded.
func (s *Store) settle(ctx context.Context, stream string, expected event.Revision, events []eventlog.Raw, doubt bool, answered error) (event.Position, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.times.settle)
	defer cancel()
	place := expected + 1
	for resolved, err := range s.read(ctx, s.streamFrom(stream, place, uint64(len(events)))) {
		if err != nil {
			if answered == nil {
				answered = err
			}
			return 0, wrap(commands.ErrOutcomeUnknown, answered)
		}
		e := resolved.OriginalEvent()
		switch {
		case event.Revision(e.EventNumber) != place && doubt: // the stream is capped
			return 0, wrap(commands.ErrOutcomeUnknown, answered)
		case event.Revision(e.EventNumber) != place, e.EventID != events[place-expected-1].ID:
			return 0, wrap(commands.ErrConflict, answered)
		case place-expected == event.Revision(len(events)):
			return event.Position(e.Position.Commit), nil
		}
		place++
	}
	if hasCode(answered, esdb.ErrorCodeWrongExpectedVersion) {
		return 0, wrap(commands.ErrConflict, answered) // the stream ends before, or the events end it otherwise
	}
	if answered == nil {
		answered = errors.New("the server acknowledged events that cannot be read")
	}
	return 0, wrap(commands.ErrOutcomeUnknown, answered)
}
