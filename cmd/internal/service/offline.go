package service

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/snapshots"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/domain/event"
	"commissaire/projections"
)

// Offline is a log and the snapshots from which a service that starts on it goes on,
// without that service.
type Offline struct {
	log       store.Reader
	snapshots *snapshots.Store
}

// OpenOffline opens both, also while a service uses them. A store with which no snapshots
// are kept is refused.
func OpenOffline(ctx context.Context, c config.Snapshots, location store.Location, logger *slog.Logger) (*Offline, error) {
	saved, err := openSnapshots(c, location, logger)
	if err != nil {
		return nil, err
	}
	if saved == nil {
		return nil, errors.New("no snapshots are kept with this store: set snapshots.dir, or ask a running service (--service)")
	}
	log, err := location.OpenReader(ctx, logger)
	if err != nil {
		return nil, err
	}
	return &Offline{log, saved}, nil
}

// Close ends reading.
func (o *Offline) Close() error { return o.log.Close() }

// List is all snapshots, latest first.
func (o *Offline) List() ([]snapshots.Info, error) { return o.snapshots.List() }

// Rebuild folds the log from its beginning and writes a snapshot of what that comes to.
// count is called with the number of events that were folded.
func (o *Offline) Rebuild(ctx context.Context, count func(int)) (projections.Rebuild, error) {
	fresh := projections.New()
	done, err := o.fold(ctx, count, fresh)
	if err != nil {
		return done, err
	}
	if snapshot := fresh.Snapshot(); snapshot.Position > 0 {
		err = o.snapshots.Save(snapshot.Position, snapshot.ID, snapshot.Write)
	}
	return done, err
}

// Verify folds the log from its beginning and compares what that comes to with the latest
// snapshot, of which it returns the position. No snapshot is an error; a difference is
// none, but named in what it returns.
func (o *Offline) Verify(ctx context.Context, count func(int)) (done projections.Rebuild, pos event.Position, err error) {
	all, err := o.snapshots.List()
	if err != nil {
		return done, 0, err
	}
	if len(all) == 0 {
		return done, 0, errors.New("there is no snapshot to compare with")
	}
	var saved *projections.Views
	if err := o.snapshots.Read(all[0], readViews(ctx, o.log, &saved)); err != nil {
		return done, 0, err
	}
	fresh := projections.New()
	if done, err = o.fold(ctx, count, fresh, saved); err != nil {
		return done, 0, err
	}
	done.Different = projections.Difference(saved.Snapshot(), fresh.Snapshot())
	return done, all[0].Position, nil
}

// fold folds the whole log into all of the views; what they have already changes nothing.
func (o *Offline) fold(ctx context.Context, count func(int), into ...*projections.Views) (done projections.Rebuild, err error) {
	began := time.Now()
	for batch, err := range eventlog.UpToHead(ctx, eventlog.Follow(ctx, o.log, 0)) {
		if err != nil {
			return done, err
		}
		for _, views := range into {
			for _, r := range batch {
				views.Apply(r)
			}
		}
		done.Events += uint64(len(batch))
		count(int(done.Events))
	}
	done.State, done.StartedAt, done.FinishedAt = projections.Done, projections.Time{Time: began}, &projections.Time{Time: time.Now()}
	done.PerSecond = float64(done.Events) / time.Since(began).Seconds()
	return done, nil
}
