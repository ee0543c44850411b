package service

import (
	"context"
	"errors"

	"commissaire/adapters/transparency"
	"commissaire/api"
	"commissaire/domain"
	"commissaire/domain/event"
)

var (
	errNoEvent    = domain.Refuse(domain.NotFound, "no-event")
	errLogChanged = domain.Refuse(domain.Conflict, "log-changed")
)

// transparency is what the API has of the tree; nil where there is none.
func (b *beside) transparency() api.Transparency {
	if b.tree == nil {
		return nil
	}
	return checkpoints{b.tree}
}

// checkpoints is the tree over the log as the API reads it.
type checkpoints struct{ log *transparency.Log }

func (c checkpoints) Checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := c.log.Checkpoint(ctx)
	return signed, refuse(err)
}

func (c checkpoints) Proof(ctx context.Context, position, size uint64) (api.LogProof, error) {
	p, err := c.log.Proof(ctx, event.Position(position), size)
	return api.LogProof{
		Position: position, Index: p.Index, Size: p.Size, Leaf: p.Leaf[:], Hashes: p.Hashes, Checkpoint: string(p.Checkpoint),
	}, refuse(err)
}

// refuse makes a refusal of an error that a client may know.
func refuse(err error) error {
	switch {
	case errors.Is(err, transparency.ErrNoEvent):
		return errNoEvent.With("%v", err)
	case errors.Is(err, transparency.ErrChanged):
		return errLogChanged.With("%v", err)
	}
	return err
}
