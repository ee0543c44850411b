package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/snapshots"
	"commissaire/commands"
	"commissaire/commands/sleep"
	"commissaire/domain/event"
	"commissaire/projections"
)

// snapshotsName is the directory of snapshots, in that of a store.
const snapshotsName = "snapshots"

// openSnapshots opens the snapshots of what is served; nil where none are kept.
func openSnapshots(of snapshotsConfig, name storeName, logger *slog.Logger) (*snapshots.Store, error) {
	dir := of.Dir
	if dir == "" {
		if name.kind() != "sqlite" {
			return nil, nil
		}
		dir = filepath.Join(name.dir(), snapshotsName)
	}
	made, err := build()
	if err != nil {
		return nil, err
	}
	return snapshots.Open(dir, snapshots.Config{
		Build: made, MaxAge: time.Duration(of.MaxAge), MaxSize: of.MaxSize, Now: time.Now,
	}, logger), nil
}

// viewsOf has a snapshot read into views, where it is of this log. An error that is
// not snapshots.ErrBad says that the log cannot be asked.
func viewsOf(ctx context.Context, log eventlog.Feed, views **projections.Views) func(snapshots.Cut, io.Reader) error {
	return func(cut snapshots.Cut, in io.Reader) error {
		for there, err := range log.Follow(ctx, cut.Position-1) {
			if err != nil {
				return err
			}
			if len(there) == 0 || there[0].Position != cut.Position || there[0].ID != cut.ID {
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

// resume has the service go on from a snapshot, where there is one.
func (s *service) resume(ctx context.Context) error {
	if s.snapshots == nil || s.resumed || s.position() > 0 {
		return nil
	}
	_, resumed, err := s.snapshots.Load(viewsOf(ctx, s.store.log, &s.views))
	s.resumed = resumed
	return err
}

// foldWhole brings the process, which is in no snapshot, up to what is served, and
// folds the views afresh on the way. It comes to its end, or ctx does.
func (s *service) foldWhole(ctx context.Context) {
	for wait := redeliverAfter; !s.acts(); wait = min(2*wait, time.Minute) { // what cannot be read stays so for long
		err := s.rebuilds.Run(ctx, func(batch []event.Recorded) {
			for _, r := range batch {
				s.process.Apply(r)
			}
		}, func() { close(s.whole) })
		if err == nil || ctx.Err() != nil {
			return
		}
		_ = sleep.For(ctx, wait) // acts or Run ends the loop
	}
}

// acts tells whether the process has all that the views have.
func (s *service) acts() bool {
	select {
	case <-s.whole:
		return true
	default:
		return false
	}
}

// errFolding says what a service that went on from a snapshot cannot do yet.
var errFolding = fmt.Errorf("the log is still being folded; try again: %w", commands.ErrUnavailable)

// keepSnapshots takes a snapshot when one is due, and at the end, until ctx ends.
func (s *service) keepSnapshots(ctx context.Context) {
	if s.snapshots == nil {
		return
	}
	enough := uint64(s.config.Snapshots.Events)
	for ended := false; !ended; {
		select {
		case <-s.due:
		case <-ctx.Done():
			ended, enough = true, max(enough/10, 1)
		}
		if now := s.views.Snapshot(); now.Events >= s.snapshot.Load()+enough {
			s.keepSnapshot(now)
		}
	}
}

// keepSnapshot keeps a snapshot where they are kept. Without it a start takes
// longer, and that is all.
func (s *service) keepSnapshot(now *projections.Snapshot) {
	if s.snapshots == nil || now.Position == 0 {
		return
	}
	s.snapshot.Store(now.Events)
	if err := s.snapshots.Save(now.Position, now.ID, now.Write); err != nil {
		s.logger.Error("no snapshot was kept; a start folds more", "error", err)
	}
}

// listSnapshots is what is kept, as the API shows it.
func (s *service) listSnapshots() (any, error) {
	if s.snapshots == nil {
		return []snapshots.Kept{}, nil
	}
	all, err := s.snapshots.List()
	if all == nil {
		all = []snapshots.Kept{}
	}
	return all, err
}
