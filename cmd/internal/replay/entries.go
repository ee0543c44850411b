package replay

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"commissaire/adapters/eventlog"
	"commissaire/api"
	"commissaire/cmd/internal/audit"
	"commissaire/domain/event"
)

// entries are the lines of the audit trail at these positions, which grow.
func (r *Replay) entries(ctx context.Context, positions []event.Position) ([]api.HistoryEntry, error) {
	if len(positions) == 0 {
		return []api.HistoryEntry{}, nil
	}
	if r.once {
		return nil, errOnce
	}
	if log, ok := r.feed.(eventlog.Store); ok { // which need not read all in between
		found, err := eventlog.NewLog(log).Entries(ctx, positions)
		return audit.Lines(found), err
	}
	entries := []api.HistoryEntry{}
	last := positions[len(positions)-1]
	for batch, err := range eventlog.UpToHead(ctx, r.feed.Follow(ctx, positions[0]-1)) {
		if err != nil {
			return nil, err
		}
		for _, raw := range batch {
			if _, wanted := slices.BinarySearchFunc(positions, raw.Position, cmp.Compare[event.Position]); !wanted {
				continue
			}
			e, err := eventlog.Decode(raw)
			if err != nil {
				return nil, err
			}
			entries = append(entries, audit.Line(eventlog.Entry{Recorded: e, Type: raw.Type, Data: raw.Data}))
			if raw.Position == last {
				return entries, nil
			}
		}
	}
	return nil, errors.New("the log has not all that was read of it before")
}
