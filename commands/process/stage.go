package process

import (
	"context"
	"strings"
	"time"

	"commissaire/domain/event"
	"commissaire/domain/operation"
)

// stage has the host download what its turn will apply; a host that cannot has
// failed before its turn.
func (t *turn) stage(ctx context.Context) event.Position {
	return t.claimed(ctx, t.skip, func(ctx context.Context) (event.OperationEvent, error) {
		outcome, err := t.download(ctx)
		if err != nil {
			return t.failed(ctx, err)
		}
		return outcome, nil
	})
}

// download tells of the turn without its claim: the turn itself begins under another
// one, as other work.
func (t *turn) download(ctx context.Context) (event.OperationEvent, error) {
	ref := t.unclaimed()
	facts, err := t.facts(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	if _, _, problem := t.p.config.Remote.Plan(t.kind, t.version, t.policy, facts); problem != "" {
		return event.HostTurnFailed{Turn: ref, Reason: problem}, nil
	}
	if wait := t.state.Wait; wait.Why == "" || strings.HasPrefix(wait.Why, operation.OtherWork) { // else it is taken up again
		if err := t.record(ctx, func(p *operation.Progress) []event.OperationEvent {
			return p.AwaitHost(ref, download, t.p.config.Now().Add(t.limit))
		}); err != nil {
			return nil, err
		}
	}
	since := t.p.config.Now()
	if until := t.state.Wait.Until; !until.IsZero() { // zero: it was recorded too often what the turn waits for
		since = until.Add(-t.limit)
	}
	result, err := t.command(ctx, Work{Act: Stage, Kind: t.kind, Version: t.version, Facts: facts, BootID: facts.BootID, BypassDriver: t.policy.BypassDriver}, since)
	if err != nil {
		return nil, err
	}
	if how, failed := result.Failed(); failed {
		return event.HostTurnFailed{Turn: ref, Exit: result.Exit, Output: result.Output, Reason: "the download " + how}, nil
	}
	return nil, t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.Stage(ref) })
}

// cleanUp drops the deployment that the turn left, if nobody booted it or put
// another in its place. What cannot be dropped is said, once.
func (t *turn) cleanUp(ctx context.Context) event.Position {
	deployment := t.state.Left
	t.state.Claim = "" // this is other work than the turn's
	return t.claimed(ctx, t.leaveDeployment, func(ctx context.Context) (event.OperationEvent, error) {
		failure := ""
		if err := t.drop(ctx, deployment); err != nil {
			if _, err := t.failed(ctx, err); err != nil {
				return nil, err
			}
			failure = reason(err)
		}
		_, err := t.recordAny(ctx, func(p *operation.Progress) []event.OperationEvent { return p.CleanUp(t.ref, failure) })
		return nil, err
	})
}

// drop drops the deployment if it is the one that waits for a boot. The host looks
// again itself, at the last moment.
func (t *turn) drop(ctx context.Context, deployment event.System) error {
	facts, err := t.facts(ctx, time.Time{})
	if err != nil || facts.Pending == "" || !facts.Waiting().Is(deployment) {
		return err
	}
	result, err := t.command(ctx, Work{Act: CleanUp, Kind: t.kind, Facts: facts, BootID: facts.BootID}, t.p.config.Now())
	if err != nil {
		return err
	}
	if how, failed := result.Failed(); failed {
		return &Refused{Reason: "rpm-ostree cleanup -p " + how}
	}
	return nil
}

// leaveDeployment records why the deployment stays where it is.
func (t *turn) leaveDeployment(ctx context.Context, why string) event.Position {
	receipt, _, err := t.p.config.Commands.RecordTurn(ctx, t.operation, t.member.HostID, func(p *operation.Progress) []event.OperationEvent {
		return p.CleanUp(t.unclaimed(), why)
	})
	t.report(ctx, "a clean-up could not be recorded", err)
	return receipt.Position
}
