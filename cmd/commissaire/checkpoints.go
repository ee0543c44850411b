package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"commissaire/adapters/transparency"
	"commissaire/api"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/domain"
	"commissaire/domain/event"
)

var (
	errNoEvent    = domain.Refuse(domain.NotFound, "no-event")
	errLogChanged = domain.Refuse(domain.Conflict, "log-changed")
)

// openTransparency opens the tree over the log; nil where there is no key.
func (s *service) openTransparency(ctx context.Context, name store.Location) (*transparency.Log, error) {
	of := s.config.Log
	if of.SigningKey == "" {
		return nil, nil
	}
	if name.Kind() == "sqlite" {
		for what, source := range map[string]string{"log.signing-key": of.SigningKey, "log.checkpoint-file": "file:" + of.CheckpointFile} {
			if source == "file:" {
				continue
			}
			if err := store.RefuseInside(what, source, "the store's directory", name.Dir()); err != nil {
				return nil, err
			}
		}
	}
	key, err := config.ReadSigningKey(ctx, of.SigningKey)
	if err != nil {
		return nil, err
	}
	dir, err := s.kept(of.TreeDir, name, store.TreeDir)
	if err != nil {
		return nil, err
	}
	return transparency.Open(transparency.Config{
		Feed: s.store.Log, Dir: dir, Key: key, Interval: time.Duration(of.CheckpointInterval),
		File: of.CheckpointFile, URL: of.CheckpointURL, Client: &http.Client{Timeout: 30 * time.Second}, Logger: s.logger,
	})
}

// transparency is what the API has of the tree; nil where there is none.
func (s *service) transparency() api.Transparency {
	if s.sealed == nil {
		return nil
	}
	return checkpoints{s.sealed}
}

// checkpoints is the tree over the log as the API reads it.
type checkpoints struct{ log *transparency.Log }

func (c checkpoints) Checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := c.log.Checkpoint(ctx)
	return signed, refused(err)
}

func (c checkpoints) Proof(ctx context.Context, position, size uint64) (api.LogProof, error) {
	p, err := c.log.Proof(ctx, event.Position(position), size)
	return api.LogProof{
		Position: position, Index: p.Index, Size: p.Size, Leaf: p.Leaf[:], Hashes: p.Hashes, Checkpoint: string(p.Checkpoint),
	}, refused(err)
}

// refused says what a client may know of an error.
func refused(err error) error {
	switch {
	case errors.Is(err, transparency.ErrNoEvent):
		return errNoEvent.With("%v", err)
	case errors.Is(err, transparency.ErrChanged):
		return errLogChanged.With("%v", err)
	}
	return err
}
