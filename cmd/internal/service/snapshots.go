package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/snapshots"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/projections"
)

// snapshotKeeper writes snapshots of the views, from which a start goes on. Without them
// a start takes longer, and that is all.
type snapshotKeeper struct {
	store   *snapshots.Store // nil: none are kept
	every   int              // events between two snapshots
	counted int              // events since the start
	due     chan struct{}    // has one when a snapshot may be due
	saved   atomic.Uint64    // events that the latest snapshot has
	logger  *slog.Logger
}

func newSnapshotKeeper(c config.Snapshots, location store.Location, logger *slog.Logger) (*snapshotKeeper, error) {
	opened, err := openSnapshots(c, location, logger)
	if err != nil {
		return nil, err
	}
	return &snapshotKeeper{store: opened, every: c.Events, due: make(chan struct{}, 1), logger: logger}, nil
}

// load reads the latest snapshot that is good, and tells whether there was one.
func (k *snapshotKeeper) load(read func(snapshots.Cut, io.Reader) error) (bool, error) {
	if k.store == nil {
		return false, nil
	}
	_, loaded, err := k.store.Load(read)
	return loaded, err
}

// begin notes what the views are at the start. A log that was folded from its beginning
// has a snapshot due at once, so that this is not done again, whatever comes.
func (k *snapshotKeeper) begin(snapshot *projections.Snapshot, resumed bool) {
	if resumed {
		k.saved.Store(snapshot.Events)
	} else {
		k.due <- struct{}{}
	}
}

// count notes that one more event was applied. Only one goroutine may call it.
func (k *snapshotKeeper) count() {
	if k.counted++; k.counted%k.every != 0 {
		return
	}
	select {
	case k.due <- struct{}{}:
	default:
	}
}

// run saves a snapshot when one is due, and at the end, until ctx ends.
func (k *snapshotKeeper) run(ctx context.Context, current func() *projections.Snapshot) {
	if k.store == nil {
		return
	}
	enough := uint64(k.every)
	for ended := false; !ended; {
		select {
		case <-k.due:
		case <-ctx.Done():
			ended, enough = true, max(enough/10, 1)
		}
		if snapshot := current(); snapshot.Events >= k.saved.Load()+enough {
			k.save(snapshot)
		}
	}
}

// save writes a snapshot. It does nothing where none are kept, and logs a failure.
func (k *snapshotKeeper) save(snapshot *projections.Snapshot) {
	if k.store == nil || snapshot.Position == 0 {
		return
	}
	k.saved.Store(snapshot.Events)
	if err := k.store.Save(snapshot.Position, snapshot.ID, snapshot.Write); err != nil {
		k.logger.Error("no snapshot was kept; a start folds more", "error", err)
	}
}

// list is what is kept, as the API shows it.
func (k *snapshotKeeper) list() (any, error) {
	if k.store == nil {
		return []snapshots.Info{}, nil
	}
	all, err := k.store.List()
	if all == nil {
		all = []snapshots.Info{}
	}
	return all, err
}

// openSnapshots opens the snapshots of a store; nil where none are kept.
func openSnapshots(c config.Snapshots, location store.Location, logger *slog.Logger) (*snapshots.Store, error) {
	dir := c.Dir
	if dir == "" {
		if location.Kind() != "sqlite" {
			return nil, nil
		}
		dir = filepath.Join(location.Dir(), store.SnapshotsDir)
	}
	id, err := buildID()
	if err != nil {
		return nil, err
	}
	return snapshots.Open(dir, snapshots.Config{
		Build: id, MaxAge: time.Duration(c.MaxAge), MaxSize: c.MaxSize, Now: time.Now,
	}, logger), nil
}

// readViews returns a function that reads a snapshot into views, where it is of this log.
// An error of that function that is not snapshots.ErrBad says that the log cannot be read.
func readViews(ctx context.Context, log eventlog.Feed, views **projections.Views) func(snapshots.Cut, io.Reader) error {
	return func(cut snapshots.Cut, in io.Reader) error {
		for batch, err := range log.Follow(ctx, cut.Position-1) {
			if err != nil {
				return err
			}
			if len(batch) == 0 || batch[0].Position != cut.Position || batch[0].ID != cut.ID {
				return fmt.Errorf("%w: the log has another event at position %d, or none", snapshots.ErrBad, cut.Position)
			}
			read, err := projections.ReadViews(in)
			if err != nil {
				return fmt.Errorf("%w: %w", snapshots.ErrBad, err)
			}
			*views = read
			return nil
		}
		return fmt.Errorf("find position %d in the log: %w", cut.Position, context.Cause(ctx))
	}
}
