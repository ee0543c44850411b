package process

import (
	"context"
	"fmt"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
)

// Probe asks a host's services from here, without logging in.
type Probe interface {
	// TCP succeeds where the port takes a connection.
	TCP(ctx context.Context, host domain.Address, port int) error
	// HTTP succeeds where the URL, in which the host's address is put, is answered
	// with a 2xx status.
	HTTP(ctx context.Context, host domain.Address, url string) error
}

// oneCheck bounds how long one look at a host's health may take.
const oneCheck = 10 * time.Second

// awaitHealth waits until the host is healthy, and stays so for as long as the policy
// says; or says how the turn ended instead. What it sees is recorded when it
// changes, so the time the host has runs on while nobody looks. bootID is that of
// the host now.
func (t *turn) awaitHealth(ctx context.Context, bootID string) (event.OperationEvent, error) {
	h := t.policy.Health
	if h == nil {
		return nil, nil
	}
	for {
		why, err := t.checkHealth(ctx, *h, bootID)
		if err != nil {
			return nil, err
		}
		if err := t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.Gate(t.ref, why == "", why) }); err != nil {
			return nil, err
		}
		passed, late := t.state.Gate(*h, t.p.config.Now())
		switch {
		case passed:
			return nil, nil
		case late && why == "":
			why = fmt.Sprintf("it did not stay so for %d s", h.StableFor)
			fallthrough
		case late:
			return event.HostTurnFailed{
				Turn: t.ref, Output: t.state.Worked.Output,
				Reason: fmt.Sprintf("the host was not healthy within %d s after its %s: %s", h.Timeout, t.kind, why),
			}, nil
		}
		if !pause(ctx, t.p.config.HealthInterval) {
			return nil, ctx.Err()
		}
	}
}

// checkHealth looks once, and says why the host is not healthy.
func (t *turn) checkHealth(ctx context.Context, h event.Health, bootID string) (why string, err error) {
	limited, cancel := context.WithTimeout(ctx, oneCheck)
	defer cancel()
	switch {
	case h.Command != "":
		why, err = t.checkCommand(limited, h.Command)
	case h.TCP != 0:
		err = t.p.config.Probe.TCP(limited, t.host.Host, h.TCP)
	case h.HTTP != "":
		err = t.p.config.Probe.HTTP(limited, t.host.Host, h.HTTP)
	case t.node == nil:
		return "", &Refused{Reason: "the cluster has no container manager that could say whether the node is ready"}
	default:
		err = t.node.ask(limited, "say whether the node is ready", func(m Manager) error {
			ready, reason, err := m.Ready(limited, t.host.Host, bootID)
			if err == nil && !ready {
				why = reason
			}
			return err
		})
	}
	switch subject := about(err); {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil:
		return readable(why), nil
	case subject == anotherOwner || subject == theStore:
		return "", err
	}
	return reason(err), nil
}

func (t *turn) checkCommand(ctx context.Context, command string) (string, error) {
	var exit int
	var said string
	err := t.connected(ctx, time.Time{}, func(s Session) (err error) {
		exit, said, err = s.Check(ctx, command)
		return err
	})
	if err != nil || exit == 0 {
		return "", err
	}
	return "the health command " + ended(exit, said), nil
}
