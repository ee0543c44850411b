package process

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
)

// systemHost is a host with something to run: before its command, after it, and
// after the reboot.
type systemHost struct {
	fakeHost
	found, worked, booted event.Facts
	needed, problem       string
	ran, reboots          int
}

func (h *systemHost) Dial(context.Context, Target) (Session, error) { return h, nil }

func (h *systemHost) Plan(domain.OperationKind, string, event.Policy, event.Facts) (commands []string, skip, problem string) {
	return nil, "", h.problem
}

func (h *systemHost) BootID(context.Context) (string, error) {
	return fmt.Sprint("boot ", h.reboots), nil
}

func (h *systemHost) Facts(context.Context) (event.Facts, error) {
	facts := h.found
	if h.ran > 0 {
		facts = h.worked
	}
	if h.reboots > 0 {
		facts = h.booted
	}
	facts.BootID = fmt.Sprint("boot ", h.reboots)
	return facts, nil
}

func (h *systemHost) Run(context.Context, WorkID, Work) (Result, error) {
	h.ran++
	return Result{Exit: new(int)}, nil
}

func (h *systemHost) Reboot(context.Context, WorkID, string) error {
	h.reboots++
	return nil
}

func (h *systemHost) RebootNeeded(context.Context) (string, error) { return h.needed, nil }

func TestWhatAHostBootsIsTakenByWhatItIsNotByItsName(t *testing.T) {
	tree := func(version, id, pending, pendingID string) event.Facts {
		return event.Facts{
			OS: "atomic", OSTree: true, Programs: "journalctl rpm-ostree", Version: version, BootedID: id, Pending: pending, PendingID: pendingID,
		}
	}
	kernel := func(running, pending string) event.Facts {
		return event.Facts{OS: "debian", Programs: "apt-get", Version: "12 " + running, BootedID: running, Pending: pending, PendingID: pending}
	}
	locked := tree("1", "a", "2", "b")
	locked.Locked = true
	wanting := kernel("k1", "")
	wanting.RebootNeeded = "there is /run/reboot-required"
	for name, c := range map[string]struct {
		host    *systemHost
		reboot  event.Reboot
		reboots int
		why     string // it failed; "": it succeeded
	}{
		"fallen back to a deployment of the same name": {
			host:   &systemHost{found: tree("1", "a", "", ""), worked: tree("1", "a", "1", "b"), booted: tree("1", "a", "1", "b")},
			reboot: event.AlwaysReboot, reboots: 1, why: "it came back on 1 (a), wanted 1 (b): see journalctl -b -1 and rpm-ostree status on the host",
		},
		"booted into a deployment of the same name": {
			host:   &systemHost{found: tree("1", "a", "", ""), worked: tree("1", "a", "1", "b"), booted: tree("1", "b", "", "")},
			reboot: event.AlwaysReboot, reboots: 1,
		},
		"locked": {
			host:   &systemHost{found: tree("1", "a", "", ""), worked: locked},
			reboot: event.RebootIfNeeded, why: "a reboot would not bring 2, which is locked: run rpm-ostree finalize-deployment b on the host",
		},
		"locked, and no reboot asked for": {host: &systemHost{found: tree("1", "a", "", ""), worked: locked}},
		"fallen back to an old kernel": {
			host:   &systemHost{found: kernel("k1", ""), worked: kernel("k1", "k2"), booted: kernel("k1", "k2")},
			reboot: event.RebootIfNeeded, reboots: 1, why: "it came back on 12 k1, wanted k2: see the console and the logs on the host",
		},
		"a kernel that was there before": {
			host:   &systemHost{found: kernel("k1", "k2"), worked: kernel("k1", "k2"), booted: kernel("k1", "k2")},
			reboot: event.RebootIfNeeded, reboots: 1,
		},
		"the distribution wants a reboot": {
			host:   &systemHost{found: kernel("k1", ""), worked: wanting, booted: kernel("k1", "")},
			reboot: event.RebootIfNeeded, reboots: 1,
		},
		"the package manager wants a reboot": {
			host:   &systemHost{found: kernel("k1", ""), worked: kernel("k1", ""), booted: kernel("k1", ""), needed: "needs-restarting"},
			reboot: event.RebootIfNeeded, reboots: 1,
		},
		"nobody wants a reboot": {host: &systemHost{found: kernel("k1", ""), worked: kernel("k1", "")}, reboot: event.RebootIfNeeded},
		"recorded before there were checksums": {
			host:   &systemHost{found: tree("1", "", "", ""), worked: tree("1", "", "2", ""), booted: tree("1", "a", "2", "b")},
			reboot: event.AlwaysReboot, reboots: 1, why: "it came back on 1, wanted 2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoll(t, c.host, upgrade, 1, func(p *event.Policy) { p.Reboot = c.reboot })
				r.turn(1).carryOut(t.Context())
				history := r.history(event.OperationStream("o"))
				why := ""
				if !strings.HasSuffix(types(history), "HostTurnSucceeded") {
					why = last[event.HostTurnFailed](t, history).Reason
				}
				if c.host.reboots != c.reboots || (why == "") != (c.why == "") || !strings.HasPrefix(why, c.why) {
					t.Errorf("%d reboots, %q", c.host.reboots, why)
				}
			})
		})
	}
}

func TestWhatCannotBeDoneFailsBeforeAnythingIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &systemHost{problem: "its updates are driven by Zincati"}
		r := newRoll(t, h, upgrade, 1, func(*event.Policy) {})
		r.turn(1).carryOut(t.Context())
		history := r.history(event.OperationStream("o"))
		if got := types(history); h.ran != 0 || !strings.HasSuffix(got, "HostTurnBegun HostTurnFailed") {
			t.Errorf("it ran %d times: %s", h.ran, got)
		}
		if failed := last[event.HostTurnFailed](t, history); failed.Reason != h.problem {
			t.Errorf("it failed: %s", failed.Reason)
		}
	})
}

func TestAnInterruptedUpgradeTookEffectIfItMadeWhatIsThere(t *testing.T) {
	facts := func(id, pendingID string) event.Facts {
		return event.Facts{OSTree: true, Version: "1", BootedID: id, Pending: strings.Repeat("1", len(pendingID)), PendingID: pendingID}
	}
	for _, c := range []struct {
		found, after event.Facts
		took         bool
	}{
		{facts("a", ""), facts("a", "b"), true},
		{facts("a", ""), facts("b", ""), true},
		{facts("a", ""), facts("a", ""), false},
		{facts("a", "b"), facts("a", "b"), false}, // it was there before
		{facts("a", "b"), facts("b", ""), false},
		{facts("a", "b"), facts("a", "c"), true},
	} {
		r := turnFound(c.found)
		if got := tookEffect(domain.Upgrade, "", r, c.after); got != c.took {
			t.Errorf("found %+v, then %+v: %v", c.found, c.after, got)
		}
	}
	layered := event.Facts{OSTree: true, Version: "1", BootedID: "a", Pending: "2", PendingID: "c", PendingBase: "b"}
	for version, want := range map[string]bool{"1": true, "2": true, "b": true, "c": true, "3": false} {
		if got := tookEffect(domain.Deploy, version, turnFound(event.Facts{}), layered); got != want {
			t.Errorf("deployed %s: %v", version, got)
		}
	}
}

func turnFound(facts event.Facts) operation.Turn {
	return operation.Turn{Booted: facts.Booted(), Pending: facts.Waiting(), OSTree: facts.OSTree}
}

// TestADeployThatDidNothingIsNoSuccess has commands end with exit status 0.
func TestADeployThatDidNothingIsNoSuccess(t *testing.T) {
	for pending, why := range map[string]string{
		"2": "",
		"":  "the deploy ended well, and 2 is neither what the host runs (1) nor what waits for a boot (nothing)",
		"3": "the deploy ended well, and 2 is neither what the host runs (1) nor what waits for a boot (3)",
	} {
		synctest.Test(t, func(t *testing.T) {
			host := &systemHost{found: event.Facts{OS: "atomic", OSTree: true, Version: "1", BootedID: "a"}}
			host.worked = host.found
			host.worked.Pending = pending
			deploy := func(s event.Started) event.RosterEvent { return event.DeployStarted{Started: s, Version: "2"} }
			r := newRoll(t, host, deploy, 1, func(*event.Policy) {})
			turn := r.turn(1)
			turn.version = "2"
			turn.carryOut(t.Context())
			if why == "" {
				r.succeeded()
			} else if failed := r.failed(); failed.Reason != why {
				t.Errorf("it failed: %s", failed.Reason)
			}
		})
	}
}
