package eventlog

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

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

// batchesAhead is how many batches are read and decoded while one is applied.
const batchesAhead = 4

// Follow yields all events after a position, as Store.Follow does, decoded.
func (l *Log) Follow(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
	return Follow(ctx, l.store, after)
}

// Follow yields all events of a feed after a position, as its Follow does, decoded.
// It stops with an error at an event that cannot be read. What comes next is read
// and decoded meanwhile, by several at once.
func Follow(ctx context.Context, from Feed, after event.Position) iter.Seq2[[]event.Recorded, error] {
	return func(yield func([]event.Recorded, error) bool) {
		for events, err := range Parallel(ctx,
			func(ctx context.Context) iter.Seq2[[]Raw, error] { return from.Follow(ctx, after) }, batchesAhead,
			func(_ context.Context, raws []Raw) ([]event.Recorded, error) { return decodeAll(raws) },
		) {
			if !yieldDecoded(events, err, yield) {
				return
			}
		}
	}
}

// yieldDecoded yields the events of a batch, and then the error that follows them. It
// returns false when no more is to be yielded.
func yieldDecoded(events []event.Recorded, err error, yield func([]event.Recorded, error) bool) bool {
	if (len(events) > 0 || err == nil) && !yield(events, nil) {
		return false
	}
	if err != nil {
		yield(nil, err)
	}
	return err == nil
}

// chunkSize is how many events are decoded at a time for who may want no more.
const chunkSize = 100

// Read yields what Follow does, in smaller batches, and reads nothing ahead: it is
// for who wants a part of it.
func (l *Log) Read(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
	return func(yield func([]event.Recorded, error) bool) {
		for raws, err := range l.store.Follow(ctx, after) {
			if err != nil || len(raws) == 0 {
				if !yieldDecoded(nil, err, yield) {
					return
				}
			}
			for chunk := range slices.Chunk(raws, chunkSize) {
				events, err := decodeAll(chunk)
				if !yieldDecoded(events, err, yield) {
					return
				}
			}
		}
	}
}

// decodeAll decodes up to the first event that cannot be read.
func decodeAll(raws []Raw) ([]event.Recorded, error) {
	events := make([]event.Recorded, len(raws))
	for i, raw := range raws {
		if err := decode(&events[i], raw, types, upcasters); err != nil {
			return events[:i], err
		}
	}
	return events, nil
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
	return decodeEntries(raws)
}

// EntriesAfter are the next events after a position, as many as the store reads
// at once; none at the head.
func (l *Log) EntriesAfter(ctx context.Context, after event.Position) ([]Entry, error) {
	for raws, err := range l.store.Follow(ctx, after) {
		if err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		return decodeEntries(raws)
	}
	return nil, ctx.Err()
}

func decodeEntries(raws []Raw) ([]Entry, error) {
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
