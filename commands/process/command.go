package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
)

// workID is how the host knows the turn's command.
func (t *turn) workID() WorkID { return WorkID(t.ref.Claim) }

// rebootID is how it knows the turn's reboot.
func (t *turn) rebootID() WorkID {
	if t.kind == domain.Restart {
		return t.workID()
	}
	return t.workID() + "-reboot"
}

func (t *turn) hangUp() {
	if t.session != nil {
		_ = t.session.Close() // whatever was begun on the host goes on
		t.session = nil
	}
}

// stopping is the time that a host has, beyond a command's time limit, to stop what
// the command started and to say so.
const stopping = time.Minute

// command has the host do something once a turn, until the turn's time limit, which
// counts from when it was recorded that it begins, however often it is taken up
// again. What it prints is kept, and what it waits for there is recorded.
func (t *turn) command(ctx context.Context, work Work, since time.Time) (Result, error) {
	var result Result
	work.Output = func(command string) Output {
		return t.p.config.Outputs.Begin(t.operation, t.member.HostID, string(t.workID()), command)
	}
	work.Limit = t.limit
	deadline := since.Add(t.limit)
	limited, cancel := context.WithDeadline(ctx, later(deadline, t.p.config.Now()).Add(stopping))
	defer cancel()
	var recording sync.WaitGroup
	defer recording.Wait()
	latest := make(chan string, 1)
	otherwise := ""
	if work.Act == Stage {
		otherwise = download
	}
	recording.Go(func() { t.recordWaits(limited, latest, otherwise, deadline) })
	defer cancel()
	work.Waiting = func(why string) {
		select {
		case <-latest:
		default:
		}
		latest <- why
	}
	err := t.connected(limited, deadline, func(s Session) (err error) {
		result, err = s.Run(limited, t.workID(), work)
		return err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return result, &Refused{Reason: fmt.Sprintf("the %s did not end within %s", t.kind, t.limit)}
	}
	return result, err
}

// recordEvery is how often it is recorded at most what a host waits for.
const recordEvery = 5 * time.Second

// download is what a turn waits for that is to apply what it has downloaded.
const download = "its download"

// recordWaits records what the host says that its command waits for, or otherwise,
// until ctx ends.
func (t *turn) recordWaits(ctx context.Context, latest <-chan string, otherwise string, until time.Time) {
	for {
		select {
		case why := <-latest:
			t.awaits(ctx, cmp.Or(why, otherwise), until)
		case <-ctx.Done():
			return
		}
		pause(ctx, recordEvery)
	}
}

// awaits records what the turn waits for; "": nothing any more. It is for people
// alone, so that it fails is no matter.
func (t *turn) awaits(ctx context.Context, why string, until time.Time) {
	if why != "" {
		why = reason(errors.New(strings.ToValidUTF8(why, "")))
	}
	_, _, err := t.p.config.Commands.RecordTurn(ctx, t.operation, t.member.HostID, func(p *operation.Progress) []event.OperationEvent {
		if p.Overtaken(t.p.term) {
			return nil
		}
		return p.AwaitHost(t.ref, why, until)
	})
	t.report(ctx, "what a turn waits for could not be recorded", err)
}
