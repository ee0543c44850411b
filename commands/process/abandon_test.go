package process

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

var ann = commands.Who{Actor: "ann", Reason: "the host hangs"}

// free checks that an abandoned operation of two hosts, of which the first was in
// hand, holds nothing.
func (r *roll) free() {
	r.t.Helper()
	r.applied()
	o := last[event.OperationAborted](r.t, r.history(event.RosterStream))
	if o.Cause != "abandoned by ann: the host hangs" {
		r.t.Errorf("its cause is %q", o.Cause)
	}
	for _, m := range r.started.Hosts {
		h, _ := r.world.roster.Host(m.HostID)
		if h.Claim != "" || r.world.roster.InHand(h) {
			r.t.Errorf("host %s is held: %+v", m.Host, h)
		}
		if _, err := r.config.Commands.DeleteHost(r.t.Context(), ann, m.Host); err != nil {
			r.t.Errorf("delete host %s: %v", m.Host, err)
		}
	}
}

func TestAnOperationIsAbandonedInTheMiddleOfATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		stopped := false
		host.run = func(ctx context.Context) error { <-ctx.Done(); stopped = true; return ctx.Err() }
		r := newRoll(t, host, upgrade, 2, func(*event.Policy) {})
		r.config.AtOnce = 1
		r.runFor(5 * time.Second)
		h, _ := r.world.roster.Host("1")
		_, err := r.config.Commands.DeleteHost(t.Context(), ann, h.Host)
		if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || !errors.Is(err, roster.ErrHostInHand) || refusal.About["operation"] != "o" {
			t.Errorf("a host in hand is removed: %v", err)
		}
		for range 2 {
			if _, err := r.config.Commands.AbandonOperation(t.Context(), ann, "o"); err != nil {
				t.Fatal(err)
			}
		}
		r.runFor(5 * time.Second)
		if !stopped {
			t.Error("the work goes on here")
		}
		r.check(event.OperationStream("o"), "OperationTakenUp HostTurnBegun HostTurnExamined OperationAbandoned HostTurnFailed")
		r.free()
	})
}

func TestAnOperationIsAbandonedWhileNobodyLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoll(t, &fakeHost{}, upgrade, 2, func(*event.Policy) {})
		claim := event.Turn{Operation: "o", HostID: "1", Host: "10.0.0.1", Claim: "x"}
		r.record(event.RosterStream, event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x", Operation: "o", Term: 1})
		r.record(event.OperationStream("o"), event.HostTurnBegun{Turn: claim, Term: 1})
		if _, err := r.config.Commands.AbandonOperation(t.Context(), commands.Who{Actor: "ann"}, "o"); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("abandoned without a reason: %v", err)
		}
		for range 2 {
			if _, err := r.config.Commands.AbandonOperation(t.Context(), ann, "o"); err != nil {
				t.Fatal(err)
			}
		}
		r.check(event.OperationStream("o"), "HostTurnBegun OperationAbandoned HostTurnFailed")
		r.free()
	})
}

// TestAnAbandonedOperationEndsThoughWhoAbandonedItCrashed between what is recorded of
// it and what is recorded of its hosts.
func TestAnAbandonedOperationEndsThoughWhoAbandonedItCrashed(t *testing.T) {
	for name, heal := range map[string]func(*roll){
		"a leader finds it": func(r *roll) { r.runFor(5 * time.Second) },
		"it is asked for again": func(r *roll) {
			if _, err := r.config.Commands.AbandonOperation(r.t.Context(), ann, "o"); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoll(t, &fakeHost{}, upgrade, 2, func(*event.Policy) {})
				r.record(event.RosterStream, event.ContainerManagerDefined{ManagerID: "m", Manager: "m"},
					event.ClusterReconfigured{ClusterID: "i", Cluster: "c", ManagerID: "m", Manager: "m"})
				turn := event.Turn{Operation: "o", HostID: "1", Host: "10.0.0.1", Claim: "x"}
				r.record(event.RosterStream, event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x", Operation: "o", Term: 1})
				const why = "abandoned by ann: the host hangs"
				r.record(event.OperationStream("o"), event.HostTurnBegun{Turn: turn, Term: 1}, event.HostTurnCordoned{Turn: turn},
					event.OperationAbandoned{Operation: "o", Cause: why}, event.HostTurnFailed{Turn: turn, Reason: why})
				heal(r)
				left := last[event.HostUncordonFailed](t, r.history(event.HostStream("1")))
				if left.ManagerID != "m" {
					t.Errorf("its node is left to %+v", left)
				}
				r.free()
			})
		})
	}
}

// TestATurnThatIsAbandonedMeanwhileDoesNothingMore has that happen between any two
// things that it does.
func TestATurnThatIsAbandonedMeanwhileDoesNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, restart, 1, func(*event.Policy) {})
		host.facts = func() error { // another instance answers the request
			_, err := r.config.Commands.AbandonOperation(t.Context(), ann, "o")
			return err
		}
		host.reboot = func() error { t.Error("it was rebooted"); return nil }
		r.turn(1).carryOut(t.Context())
		r.check(event.OperationStream("o"), "HostTurnBegun OperationAbandoned HostTurnFailed")
	})
}

func TestWhatEndedOtherwiseIsNotAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoll(t, &fakeHost{}, upgrade, 1, func(*event.Policy) {})
		r.record(event.RosterStream, event.OperationCompleted{Operation: "o", ClusterID: "i", Cluster: "c"})
		if _, err := r.config.Commands.AbandonOperation(t.Context(), ann, "o"); !errors.Is(err, commands.ErrEnded) {
			t.Errorf("abandoned after its end: %v", err)
		}
		if got := r.history(event.OperationStream("o")); len(got) > 0 {
			t.Errorf("recorded are %s", types(got))
		}
	})
}

// TestAHostIsReleasedThoughThatFailedAtFirst has the store fail when the upkeep of a
// host has ended, and the same leader go on.
func TestAHostIsReleasedThoughThatFailedAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoll(t, &fakeHost{}, upgrade, 1, func(*event.Policy) {})
		r.config.AtOnce = 1
		r.record(event.RosterStream, event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x", Term: 1})
		r.runFor(30 * time.Second)
		last[event.OperationCompleted](t, r.history(event.RosterStream))
	})
}
