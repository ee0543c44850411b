package eventlog

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"commissaire/commands"
	"commissaire/domain/event"
)

// Log is the port commands.Log over a store, and the feed that views and the
// process follow.
type Log struct{ store Store }

// NewLog is the log in a store.
func NewLog(store Store) *Log { return &Log{store} }

var _ commands.Log = (*Log)(nil)

// ReadStream implements commands.Log.
func (l *Log) ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		for raw, err := range l.store.ReadStream(ctx, stream, from) {
			if err != nil {
				yield(event.Recorded{}, err)
				return
			}
			r, err := Decode(raw)
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// Append implements commands.Log.
func (l *Log) Append(ctx context.Context, stream event.Stream, expected event.Revision, events []event.Decided) (event.Position, error) {
	raws := make([]Raw, len(events))
	for i, e := range events {
		raw, err := Encode(stream, e)
		if err != nil {
			return 0, err
		}
		raws[i] = raw
	}
	return l.store.Append(ctx, stream, expected, raws)
}

// Follow yields all events after a position, as Store.Follow does, decoded. It
// stops with an error at an event that cannot be read.
func (l *Log) Follow(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
	return func(yield func([]event.Recorded, error) bool) {
		for raws, err := range l.store.Follow(ctx, after) {
			if err != nil {
				yield(nil, err)
				return
			}
			batch := make([]event.Recorded, 0, len(raws))
			for _, raw := range raws {
				r, err := Decode(raw)
				if err != nil {
					if len(batch) == 0 || yield(batch, nil) {
						yield(nil, err)
					}
					return
				}
				batch = append(batch, r)
			}
			if !yield(batch, nil) {
				return
			}
		}
	}
}

// Head is the position of the last event.
func (l *Log) Head(ctx context.Context) (event.Position, error) { return l.store.Head(ctx) }

// Entry is an event as the audit trail shows it.
type Entry struct {
	event.Recorded
	Type string
	Data json.RawMessage
}

// Entries are the events at these positions, in the order asked for.
func (l *Log) Entries(ctx context.Context, positions []event.Position) ([]Entry, error) {
	raws, err := l.store.ReadAt(ctx, positions)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	entries := make([]Entry, len(raws))
	for i, raw := range raws {
		r, err := Decode(raw)
		if err != nil {
			return nil, err
		}
		entries[i] = Entry{Recorded: r, Type: raw.Type, Data: raw.Data}
	}
	return entries, nil
}
