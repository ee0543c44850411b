package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/output"
	"commissaire/adapters/transparency"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
)

// beside is what is kept in directories beside the log.
type beside struct {
	outputs *output.Store
	tree    *transparency.Log // over the log; nil: no checkpoints are signed
	scratch string            // a directory that ends with the service; "": there is none
}

// openBeside opens what is kept beside a log. After an error, what it returns has to be
// closed still.
func openBeside(ctx context.Context, c config.Config, log eventlog.Feed, logger *slog.Logger) (_ *beside, err error) {
	b := &beside{}
	location := c.Location()
	dir, err := b.dir(c.Operations.OutputDir, location, store.OutputDir)
	if err != nil {
		return b, err
	}
	if b.outputs, err = output.Open(dir, output.Config{
		Limit: c.Operations.OutputLimit, MaxAge: time.Duration(c.Operations.OutputMaxAge), MaxSize: c.Operations.OutputMaxSize, Now: time.Now,
	}, logger); err != nil {
		return b, err
	}
	b.tree, err = b.openTree(ctx, c.Log, location, log, logger)
	return b, err
}

// dir is the configured directory, or the one of this name in the store's; of a store
// that has none, it ends with the service.
func (b *beside) dir(configured string, location store.Location, name string) (string, error) {
	switch {
	case configured != "":
		return configured, nil
	case location.Kind() == "sqlite":
		return filepath.Join(location.Dir(), name), nil
	case b.scratch == "":
		var err error
		if b.scratch, err = os.MkdirTemp("", "commissaire-"); err != nil {
			return "", fmt.Errorf("make a directory for what is kept beside the log: %w", err)
		}
	}
	return filepath.Join(b.scratch, name), nil
}

// openTree opens the tree over the log; nil where there is no key to sign checkpoints.
func (b *beside) openTree(ctx context.Context, c config.Log, location store.Location, log eventlog.Feed, logger *slog.Logger) (*transparency.Log, error) {
	if c.SigningKey == "" {
		return nil, nil
	}
	if location.Kind() == "sqlite" {
		for what, source := range map[string]string{"log.signing-key": c.SigningKey, "log.checkpoint-file": "file:" + c.CheckpointFile} {
			if source == "file:" {
				continue
			}
			if err := store.RefuseInside(what, source, "the store's directory", location.Dir()); err != nil {
				return nil, err
			}
		}
	}
	key, err := config.ReadSigningKey(ctx, c.SigningKey)
	if err != nil {
		return nil, err
	}
	dir, err := b.dir(c.TreeDir, location, store.TreeDir)
	if err != nil {
		return nil, err
	}
	return transparency.Open(transparency.Config{
		Feed: log, Dir: dir, Key: key, Interval: time.Duration(c.CheckpointInterval),
		File: c.CheckpointFile, URL: c.CheckpointURL, Client: &http.Client{Timeout: 30 * time.Second}, Logger: logger,
	})
}

// signCheckpoints signs checkpoints of the log, where that is configured, until ctx ends.
func (b *beside) signCheckpoints(ctx context.Context) {
	if b.tree != nil {
		b.tree.Run(ctx)
	}
}

func (b *beside) closeTree() error {
	if b.tree == nil {
		return nil
	}
	return b.tree.Close()
}

func (b *beside) removeScratch() error {
	if b.scratch == "" {
		return nil
	}
	return os.RemoveAll(b.scratch)
}
