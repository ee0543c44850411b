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

// gate waits until the host is healthy, and stays so for as long as the policy
// says; or says how the turn ended instead. What it sees is recorded when it
// changes, so the time the host has runs on while nobody looks. bootID is that of
// the host now.
func (w *working) gate(ctx context.Context, bootID string) (event.OperationEvent, error) {
	h := w.policy.Health
	if h == nil {
		return nil, nil
	}
	for {
		why, err := w.check(ctx, *h, bootID)
		if err != nil {
			return nil, err
		}
		if err := w.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.Gate(w.at, why == "", why) }); err != nil {
			return nil, err
		}
		passed, late := w.state.Gate(*h, w.p.config.Now())
		switch {
		case passed:
			return nil, nil
		case late && why == "":
			why = fmt.Sprintf("it did not stay so for %d s", h.StableFor)
			fallthrough
		case late:
			return event.HostTurnFailed{
				Turn: w.at, Output: w.state.Worked.Output,
				Reason: fmt.Sprintf("the host was not healthy within %d s after its %s: %s", h.Timeout, w.kind, why),
			}, nil
		}
		if !pause(ctx, w.p.config.HealthInterval) {
			return nil, ctx.Err()
		}
	}
}

// check looks once, and says why the host is not healthy.
func (w *working) check(ctx context.Context, h event.Health, bootID string) (why string, err error) {
	limited, cancel := context.WithTimeout(ctx, oneCheck)
	defer cancel()
	switch {
	case h.Command != "":
		why, err = w.checkCommand(limited, h.Command)
	case h.TCP != 0:
		err = w.p.config.Probe.TCP(limited, w.host.Host, h.TCP)
	case h.HTTP != "":
		err = w.p.config.Probe.HTTP(limited, w.host.Host, h.HTTP)
	case w.node == nil:
		return "", &Refused{Reason: "the cluster has no container manager that could say whether the node is ready"}
	default:
		err = w.node.ask(limited, "say whether the node is ready", func(m Manager) error {
			ready, reason, err := m.Ready(limited, w.host.Host, bootID)
			if err == nil && !ready {
				why = reason
			}
			return err
		})
	}
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case elsewhere(err), ofStore(err):
		return "", err
	case err != nil:
		return reason(err), nil
	}
	return readable(why), nil
}

func (w *working) checkCommand(ctx context.Context, command string) (string, error) {
	var exit int
	var said string
	err := w.connected(ctx, time.Time{}, func(s Session) (err error) {
		exit, said, err = s.Check(ctx, command)
		return err
	})
	if err != nil || exit == 0 {
		return "", err
	}
	return "the health command " + ended(exit, said), nil
}
