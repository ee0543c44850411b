// Package eventlog keeps the log of everything that happened: the codec between
// facts and bytes, and the one Watermill subscriber, both written once over
// Store, which memory, sqlite and eventstoredb implement.
package eventlog

import (
	"context"
	"errors"
	"iter"

	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/google/uuid"
)

// Raw is an event as a store keeps it. Data and Meta are JSON objects; a store
// returns them byte for byte as it got them.
type Raw struct {
	Position event.Position
	Stream   event.Stream
	Revision event.Revision
	ID       uuid.UUID
	Type     string
	Data     []byte
	Meta     []byte
}

// Store keeps raw events. All methods may be called at once from any goroutine.
// What every store promises is tested by test/logtest.
type Store interface {
	// ReadStream yields the events of a stream from revision from on, oldest
	// first; none where there is no such stream. An error is the last it yields.
	ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[Raw, error]

	// Append records all events or none, durably before it returns, after the
	// stream's last revision, which must be expected (event.NoRevision: the
	// stream has no event). It fills in nothing in events and returns the
	// position of the last. When the stream has moved on from expected by
	// exactly these event ids, that is success too. Else it fails with
	// commands.ErrConflict, commands.ErrUnavailable (nothing was recorded) or
	// commands.ErrOutcomeUnknown, wrapped.
	//
	// An append that was handed over is not cancelled by ctx.
	Append(ctx context.Context, stream event.Stream, expected event.Revision, events []Raw) (event.Position, error)

	// ReadAt returns the events at these positions, in the order asked for.
	ReadAt(ctx context.Context, positions []event.Position) ([]Raw, error)

	Feed

	// Head is the position of the last event; 0 where there is none.
	Head(ctx context.Context) (event.Position, error)

	// Close waits for appends under way and gives the store back. A second call
	// does nothing.
	Close() error
}

// ErrOrder says that an event comes after one that it should come before.
var ErrOrder = errors.New("the events are not in their order, or are there twice")

// Feed is events as they can be read from one end to the other: of a store, or of
// a file that they were exported to.
type Feed interface {
	// Follow yields everything after a position, in order, without gap or
	// repeat, in batches of at most 1000: first what is there, then what comes,
	// waiting for it. An empty batch says that it is at the head; it comes at
	// least once, and before every wait. UpToHead ends there. It ends without
	// error when ctx does; any other error is the last it yields.
	Follow(ctx context.Context, after event.Position) iter.Seq2[[]Raw, error]
}

// Lease decides which instance leads.
type Lease interface {
	// Lead waits until this instance leads. It returns the term it leads in, which
	// is later than any before and than after, and a context that ends with ctx or
	// when the instance may lead no longer. Ending ctx gives up leading.
	Lead(ctx context.Context, after domain.Term) (context.Context, domain.Term, error)
}
