package commands

import (
	"context"
	"fmt"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

// newSecret is a secret that an event is to name by its id.
type newSecret struct {
	id   domain.CredentialID
	text Secret
	what string // for errors, as in "the key of host 10.0.0.1"
}

// recordSecret carries out a command that brings a secret. All secrets live like
// this: nothing is kept for a command that is refused or changes nothing, nor where
// check fails, which is called for what is new; the secret is sealed and kept before
// an event names it; and it is destroyed if none does after all, or once what it was
// for is gone. Where it is not known whether an event was recorded, the sweep of
// credentials decides when the log says more.
func (h *Handler) recordSecret(ctx context.Context, who Who, s newSecret, check func() error, f func(*roster.Roster) ([]event.RosterEvent, error)) (Receipt, error) {
	type verdict struct {
		isNew bool
		err   error
	}
	asked, position, err := query(ctx, h.roster, func(r *roster.Roster) verdict {
		events, err := f(r)
		return verdict{len(events) > 0, err}
	})
	switch {
	case err != nil:
		return Receipt{}, err
	case asked.err != nil:
		return Receipt{}, asked.err
	case !asked.isNew:
		return Receipt{position}, nil
	}
	if err := check(); err != nil {
		return Receipt{}, err
	}
	if err := h.config.Credentials.Store(ctx, s.id, s.text); err != nil {
		return Receipt{}, fmt.Errorf("keep %s: %w: %w", s.what, ErrUnavailable, err)
	}
	used, position, err := decide(ctx, h.roster, recordBy[event.RosterEvent](h, who), f, anyRecorded)
	if unrecorded(err) || err == nil && !used {
		if destroyErr := h.config.Credentials.Destroy(ctx, s.id); destroyErr != nil && err == nil {
			err = fmt.Errorf("forget %s, which is not used: %w", s.what, destroyErr)
		}
	}
	return Receipt{position}, err
}
