package process

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

func TestARebootThatIsNeverAnsweredEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		host := &fakeHost{reboot: func() error { return &Unreachable{Reason: "it gave no answer"} }}
		r := newRoll(t, host, restart, 1, func(*event.Policy) {})
		r.turn(1).carryOut(ctx)
		if failed := r.failed(); !strings.Contains(failed.Reason, "it gave no answer") {
			t.Errorf("it failed: %s", failed.Reason)
		}
	})
}

func TestAConnectionThatBreaksAgainAndAgainIsMadeAnewAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		host.dial = func() error { time.Sleep(time.Millisecond); return nil }
		host.run = func(ctx context.Context) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &Unreachable{Reason: "the connection broke"}
		}
		r := newRoll(t, host, upgrade, 1, func(p *event.Policy) { p.Timeout = 60 })
		r.turn(1).carryOut(t.Context())
		r.failed()
		if host.dials > 100 {
			t.Errorf("it was connected to %d times in a minute", host.dials)
		}
	})
}

func TestOurOwnRebootIsNoneThatNobodyExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, restart, 1, func(p *event.Policy) { p.Health = &event.Health{TCP: 80, Timeout: 5} })
		r.config.Probe = closed{}
		r.turn(1).carryOut(t.Context())
		r.applied()
		r.failed()
		h, _ := r.world.roster.Host("1")
		r.look(t.Context(), h)
		if got := types(r.history(event.HostStream("1"))); strings.Contains(got, "HostRebooted") {
			t.Errorf("recorded are %s", got)
		}
	})
}

// closed is a host on which nothing listens.
type closed struct{}

var errClosed = errors.New("nothing listens")

func (closed) TCP(context.Context, domain.Address, int) error     { return errClosed }
func (closed) HTTP(context.Context, domain.Address, string) error { return errClosed }

func TestAnOutageOfTheStoreIsNoIllHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		host.check = func() error {
			host.dial = func() error { return fmt.Errorf("read the private key: %w", commands.ErrUnavailable) }
			return &Unreachable{Reason: "the connection broke"}
		}
		r := newRoll(t, host, restart, 1, func(p *event.Policy) { p.Health = &event.Health{Command: "true", Timeout: 5} })
		r.turn(1).carryOut(t.Context())
		r.check(event.OperationStream("o"), "HostTurnBegun HostTurnExamined HostTurnRebootOrdered")
	})
}

func TestNoTurnBeginsAfterTooManyFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, restart, 3, func(p *event.Policy) { p.MaxUnavailable = event.Amount{N: 2} })
		second := r.turn(2) // about to be taken
		r.record(event.OperationStream("o"),
			event.HostTurnBegun{Turn: event.Turn{Operation: "o", HostID: "1", Claim: "x"}, Term: 1},
			event.HostTurnFailed{Turn: event.Turn{Operation: "o", HostID: "1", Claim: "x"}})
		second.carryOut(t.Context())
		r.check(event.OperationStream("o"), "HostTurnBegun HostTurnFailed")
		if got := types(r.history(event.RosterStream)); !strings.HasSuffix(got, "HostTaken HostReleased") {
			t.Errorf("recorded are %s", got)
		}
	})
}

func TestWorkIsAskedForInTheBootThatWasExaminedAndForAllItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, upgrade, 1, func(p *event.Policy) { p.Timeout = 5 })
		ctx, stop := context.WithCancel(t.Context())
		host.run = func(context.Context) error { // the service stops, and the host loses its power
			host.boot++
			stop()
			return ctx.Err()
		}
		r.turn(1).carryOut(ctx)
		host.run = nil
		r.applied()
		r.turn(1).carryOut(t.Context())
		if len(host.work) != 2 {
			t.Fatalf("it was asked for %d times", len(host.work))
		}
		for _, work := range host.work {
			if work.BootID != "boot 0" || work.Limit != 5*time.Second {
				t.Errorf("asked for %+v", work)
			}
		}
	})
}

func TestWarningsOfACommandThatSucceededAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{warns: []string{"warning: %post(agent) scriptlet failed, exit status 1"}}
		r := newRoll(t, host, upgrade, 1, func(*event.Policy) {})
		r.turn(1).carryOut(t.Context())
		worked := last[event.HostTurnWorked](t, r.history(event.OperationStream("o"))[:3])
		succeeded := r.succeeded()
		if !slices.Equal(worked.Warnings, host.warns) || !slices.Equal(succeeded.Warnings, host.warns) {
			t.Errorf("%q and %q", worked.Warnings, succeeded.Warnings)
		}
	})
}

func TestAnEarlierLeaderEndsNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, upgrade, 1, func(p *event.Policy) {})
		host.run = func(context.Context) error { // suspended, while another one begins to lead
			r.record(event.OperationStream("o"), event.OperationTakenUp{Operation: "o", Term: 2})
			return &Refused{Reason: "the upgrade did not end in time"}
		}
		r.turn(1).carryOut(t.Context())
		r.check(event.OperationStream("o"), "HostTurnBegun HostTurnExamined OperationTakenUp")
	})
}

func TestAnOutageOfTheStoreIsNoFailureOfAContainerManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoll(t, &fakeHost{}, restart, 1, func(*event.Policy) {})
		r.record(event.RosterStream, event.ContainerManagerDefined{ManagerID: "m", Manager: "m"}, event.ClusterReconfigured{ClusterID: "i", Cluster: "c", ManagerID: "m", Manager: "m"})
		r.applied()
		r.config.Managers = func(event.ContainerManagerDefined) (Manager, error) {
			return nil, fmt.Errorf("the token: %w", commands.ErrUnavailable)
		}
		r.turn(1).carryOut(t.Context())
		r.check(event.OperationStream("o"), "HostTurnBegun")
	})
}
