package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/projections"
)

// fold measures how fast a long log becomes views, and how long a service that
// has one takes until it serves: on SQLite, and a shorter one on the EventStoreDB
// double.
func (b *bench) fold(ctx context.Context) (err error) {
	const hosts = 10_000
	if err := b.write(ctx, "fold", hosts, b.events); err != nil {
		return err
	}
	store, err := sqlite.Open(ctx, filepath.Join(b.dir, "fold"))
	if err != nil {
		return err
	}
	if err := b.foldAndStart(ctx, store, "", map[string]any{"watch": map[string]any{"interval": "1h"}}); err != nil {
		return err
	}
	d, err := b.newDouble(hosts, b.events/5) // which is in memory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	onDouble, err := eventstoredb.Open(d.ConnectionString(), slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		return err
	}
	return b.foldAndStart(ctx, onDouble, ", "+doubleName, d.settings("double"))
}

// foldAndStart folds a store, closes it, and has a service start with it.
func (b *bench) foldAndStart(ctx context.Context, store eventlog.Store, where string, settings map[string]any) error {
	views, began, used, n := projections.New(), time.Now(), processorTime(), 0
	for batch, err := range eventlog.UpToHead(ctx, eventlog.NewLog(store).Follow(ctx, 0)) {
		if err != nil {
			return errors.Join(err, store.Close())
		}
		for _, r := range batch {
			views.Apply(r)
		}
		n += len(batch)
	}
	views.Snapshot()
	took := time.Since(began)
	used = processorTime() - used
	runtime.KeepAlive(views)
	if err := store.Close(); err != nil {
		return err
	}
	b.row(fmt.Sprintf("fold %d events into all views%s", n, where), rate(n, took), each(used, n))
	s, err := b.service(ctx, "fold", settings)
	if err != nil {
		return err
	}
	defer s.stop()
	b.row(fmt.Sprintf("start with %d events%s", n, where), s.took.Round(10*time.Millisecond).String(), "until it listens")
	return nil
}
