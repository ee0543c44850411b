package service

import (
	"context"
	"fmt"

	"commissaire/commands/sleep"
)

// lead acts whenever this instance leads, until ctx ends.
func (s *Service) lead(ctx context.Context) {
	select {
	case <-s.follower.complete:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		if err := s.leadOnce(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("this instance does not lead; trying again", "error", err)
			_ = sleep.For(ctx, retryAfter) // the loop asks whether ctx has ended
		}
	}
}

// leadOnce waits until this instance leads and acts until it does not any more.
func (s *Service) leadOnce(ctx context.Context) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	leading, term, err := s.store.Log.Lead(ctx, s.follower.views.Snapshot().Leader().Term)
	if err != nil {
		return err
	}
	s.leads.Store(true)
	defer s.leads.Store(false)
	if err := s.follower.process.Run(leading, term); err != nil {
		return err
	}
	return fmt.Errorf("term %d is over: %w", term, context.Cause(leading))
}
