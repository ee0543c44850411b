package commands

import (
	"context"
	"errors"
	"iter"

	"commissaire/domain/event"
)

// Log is the history that decisions are made on and added to.
type Log interface {
	// ReadStream yields the events of a stream from revision from on, oldest
	// first; none where there is no such stream. It stops after an error.
	ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[event.Recorded, error]

	// Append records all the events or none of them, durably, at the end of a
	// stream whose last revision must be expected (event.NoRevision: it has no
	// event). It returns the position of the last one. Appending the same event
	// ids at the same place again succeeds and changes nothing.
	Append(ctx context.Context, stream event.Stream, expected event.Revision, events []event.Decided) (event.Position, error)
}

// What Append can fail with. Only ErrOutcomeUnknown leaves open whether the
// events were recorded.
var (
	ErrConflict       = errors.New("the stream has moved on")
	ErrUnavailable    = errors.New("the event log takes no events at the moment")
	ErrOutcomeUnknown = errors.New("the event log did not say whether it took the events")
)
