package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/projections"
)

// fold measures how fast a long log becomes views, and how long a service that
// has one takes until it serves.
func (b *bench) fold(ctx context.Context) error {
	const hosts = 10_000
	if err := b.write(ctx, "fold", hosts, b.events); err != nil {
		return err
	}
	store, err := sqlite.Open(ctx, filepath.Join(b.dir, "fold"))
	if err != nil {
		return err
	}
	views, began, n := projections.New(), time.Now(), 0
	for batch, err := range eventlog.NewLog(store).Follow(ctx, 0) {
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			break
		}
		for _, r := range batch {
			views.Apply(r)
		}
		n += len(batch)
	}
	views.Snapshot()
	took := time.Since(began)
	runtime.KeepAlive(views)
	if err := store.Close(); err != nil {
		return err
	}
	b.row(fmt.Sprintf("fold %d events into all views", n), rate(n, took), fmt.Sprintf("in %s", took.Round(10*time.Millisecond)))
	s, err := b.service(ctx, "fold", map[string]any{"watch": map[string]any{"interval": "1h"}})
	if err != nil {
		return err
	}
	defer s.stop()
	b.row(fmt.Sprintf("start with %d events", n), s.took.Round(10*time.Millisecond).String(), "until it listens")
	return nil
}
