package process

import (
	"context"
	"errors"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
	"commissaire/domain/roster"
)

// left is why the turn of a host that is still known is skipped.
const left = "the host is no longer a member of the cluster"

// claimed takes the host, does what is to be done there, records how the turn
// ended (nil: it has not) and releases the host. Where there is nobody to do it
// to any more, gone records that. It returns the position of the last thing
// recorded; 0 when nothing was.
func (t *turn) claimed(ctx context.Context, gone func(ctx context.Context, why string) event.Position, work func(context.Context) (event.OperationEvent, error)) event.Position {
	t.ref.Claim = t.claim()
	_, err := t.p.config.Commands.TakeHost(ctx, t.member.HostID, t.ref.Claim, t.operation, t.p.term)
	switch {
	case errors.Is(err, roster.ErrNoHost):
		return gone(ctx, "the host was removed")
	case errors.Is(err, roster.ErrLeft):
		return gone(ctx, left)
	case err != nil:
		if !errors.Is(err, roster.ErrTaken) {
			t.report(ctx, "taking a host failed", err)
		}
		return 0
	}
	t.look()
	outcome, err := work(ctx)
	t.hangUp()
	if err != nil && !errors.Is(err, errNotBegun) && !errors.Is(err, errOver) {
		t.report(ctx, "a turn could not be recorded", err)
		return 0 // it stays open, and is taken up again
	}
	if outcome != nil {
		if _, err := t.recordAny(ctx, func(p *operation.Progress) []event.OperationEvent { return p.End(t.member.HostID, outcome) }); err != nil {
			t.report(ctx, "the end of a turn could not be recorded", err)
			return 0
		}
	}
	return t.releaseClaim(ctx, t.ref.Claim)
}

// claim is the one that the turn was begun under, or that a download is going on
// under: the host knows the work by it. Else it is new.
func (t *turn) claim() domain.ClaimID {
	if t.state.Claim != "" {
		return t.state.Claim
	}
	t.p.mu.Lock()
	h, _ := t.p.world.roster.Host(t.member.HostID)
	t.p.mu.Unlock()
	if h.Claim != "" && h.By == t.operation {
		return h.Claim
	}
	return domain.ClaimID(t.p.config.NewID().String())
}

// release ends the claim that the operation left on the host.
func (t *turn) release(ctx context.Context) event.Position {
	t.p.mu.Lock()
	h, _ := t.p.world.roster.Host(t.member.HostID)
	t.p.mu.Unlock()
	return t.releaseClaim(ctx, h.Claim)
}

func (t *turn) releaseClaim(ctx context.Context, claim domain.ClaimID) event.Position {
	receipt, err := t.p.config.Commands.ReleaseHost(ctx, t.member.HostID, claim, t.p.term)
	t.report(ctx, "releasing a host failed", err)
	return receipt.Position
}

func (t *turn) skip(ctx context.Context, why string) event.Position {
	position, err := t.recordAny(ctx, func(p *operation.Progress) []event.OperationEvent {
		return p.End(t.member.HostID, event.HostTurnSkipped{Turn: t.unclaimed(), Reason: why})
	})
	t.report(ctx, "skipping a host failed", err)
	return position
}
