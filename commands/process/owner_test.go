package process

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// answers of a host that says it works for somebody else.
func elsewheres() []error {
	return []error{
		&Fenced{Host: "10.0.0.1", Seen: math.MaxInt64 - 1, Ours: 1},
		&Fenced{Host: "10.0.0.1"},
		&Foreign{Host: "10.0.0.1", Owner: "x", Since: time.Unix(1e9, 0), Term: math.MaxInt64},
		&Foreign{Host: "10.0.0.1"},
	}
}

func TestWhatOneHostSaysOfTermsEndsItsTurnAlone(t *testing.T) {
	for _, answer := range elsewheres() {
		for _, c := range []struct {
			name string
			says func(*fakeHost)
		}{
			{"facts", func(h *fakeHost) { h.facts = func() error { return answer } }},
			{"run", func(h *fakeHost) { h.run = func(context.Context) error { return answer } }},
			{"reboot", func(h *fakeHost) { h.reboot = func() error { return answer } }},
			{"check", func(h *fakeHost) { h.check = func() error { return answer } }},
		} {
			t.Run(c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := &fakeHost{}
					c.says(h)
					r := newRoll(t, h, upgrade, 1, func(p *event.Policy) {
						p.Reboot = event.AlwaysReboot
						p.Health = &event.Health{Command: "true", Timeout: 3600}
					})
					began := time.Now()
					r.turn(1).carryOut(t.Context())
					if failed := r.failed(); failed.Reason != answer.Error() {
						t.Errorf("the turn failed: %s", failed.Reason)
					}
					if failed := last[event.HostInvestigationFailed](t, r.history(event.HostStream("1"))); failed.Reason != answer.Error() {
						t.Errorf("the host failed: %s", failed.Reason)
					}
					if took := time.Since(began); took > time.Minute {
						t.Errorf("it took %s", took)
					}
					if !strings.HasSuffix(types(r.history(event.RosterStream)), "HostTaken HostReleased") {
						t.Error("the host is not released")
					}
				})
			})
		}
	}
}

func TestALeaderThatWasOvertakenSaysNothingOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{}
		r := newRoll(t, h, upgrade, 1, func(*event.Policy) {})
		h.facts = func() error { // suspended, while another one begins to lead and goes on
			r.record(event.RosterStream, event.TermBegun{Term: 2})
			r.record(event.OperationStream("o"), event.OperationTakenUp{Operation: "o", Term: 2})
			return &Fenced{Host: "10.0.0.1", Seen: 2, Ours: 1}
		}
		r.turn(1).carryOut(t.Context())
		r.check(event.OperationStream("o"), "HostTurnBegun OperationTakenUp")
		if got := types(r.history(event.HostStream("1"))); strings.Contains(got, "HostInvestigationFailed") {
			t.Errorf("recorded are %s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{}
		r := upkept(t, nil, &kept{})
		r.config.Remote, r.term = h, 1
		r.record(event.RosterStream, event.TermBegun{Term: 1}, event.HostAdded{HostID: "1", Host: "10.0.0.1"})
		h.facts = func() error {
			r.record(event.RosterStream, event.TermBegun{Term: 2})
			return &Fenced{Host: "10.0.0.1", Seen: 2, Ours: 1}
		}
		r.runFor(2 * time.Second)
		r.check(event.HostStream("1"), "HostKeyPinned")
	})
}

// TestWhatIsOrderedWhileAHostIsLookedAtIsDoneAtOnce gives an order in the middle of the
// second look at a host, which fails as the first did.
func TestWhatIsOrderedWhileAHostIsLookedAtIsDoneAtOnce(t *testing.T) {
	for name, order := range map[string]func(*roll){
		"a takeover": func(r *roll) { r.record(event.HostStream("1"), event.HostTakeoverOrdered{Host: "10.0.0.1"}) },
		"another key": func(r *roll) {
			r.record(event.HostStream("1"), event.HostKeyAccepted{Host: "10.0.0.1", Type: "ssh-ed25519", Fingerprint: "SHA256:x"})
		},
		"a membership": func(r *roll) {
			r.record(event.RosterStream, event.ClusterCreated{ClusterID: "c", Cluster: "c"}, event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "c", Cluster: "c"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &fakeHost{}
				r := upkept(t, nil, &kept{})
				r.config.Remote, r.term = h, 1
				r.record(event.RosterStream, event.TermBegun{Term: 1}, event.HostAdded{HostID: "1", Host: "10.0.0.1"})
				looks, ordered := 0, time.Time{}
				h.facts = func() error {
					if looks++; looks == 2 {
						order(r)
						r.applied()
						ordered = time.Now()
					}
					if looks == 3 {
						if late := time.Since(ordered); late > 2*time.Second {
							t.Errorf("it is done after %s", late)
						}
						return nil
					}
					return &Foreign{Host: "10.0.0.1", Owner: "x"}
				}
				r.runFor(5 * time.Minute)
				if looks != 3 {
					t.Errorf("it was looked at %d times", looks)
				}
				r.record(event.RosterStream, event.HostRemoved{HostID: "1", Host: "10.0.0.1"})
				r.runFor(2 * time.Second)
				if len(r.schedule.retries) > 0 {
					t.Errorf("of a host that was removed is kept %+v", r.schedule.retries)
				}
			})
		})
	}
}

// TestWhatAHostWasAddedWithIsNotOrderedSince applies the events of one commit one by
// one, with time between them for upkeep to begin. What fails then is tried again
// after the pause of a failure, not at once.
func TestWhatAHostWasAddedWithIsNotOrderedSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{}
		r := upkept(t, nil, &kept{})
		r.config.Remote, r.term = h, 1
		r.record(event.RosterStream, event.TermBegun{Term: 1}, event.ClusterCreated{ClusterID: "c", Cluster: "c"},
			event.HostAdded{HostID: "1", Host: "10.0.0.1"}, event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "c", Cluster: "c"})
		looks := 0
		h.facts = func() error {
			looks++
			return errors.New("no")
		}
		for e, err := range r.log.ReadStream(t.Context(), event.RosterStream, 0) {
			if err != nil {
				t.Fatal(err)
			}
			r.Apply(e)
			r.act(t.Context())
			synctest.Wait()
		}
		r.runFor(50 * time.Second)
		if looks != 1 {
			t.Errorf("in the first minute it was looked at %d times", looks)
		}
		r.runFor(time.Minute)
		if looks != 2 {
			t.Errorf("later it was looked at %d times", looks)
		}
	})
}

// managed is a host that keeps whose it is.
type managed struct {
	fakeHost
	owner domain.LogID
	asks  domain.LogID // who dialled last
	taken int
}

func (h *managed) Dial(ctx context.Context, target Target) (Session, error) {
	h.asks = target.Leader.Log
	_, err := h.fakeHost.Dial(ctx, target)
	return h, err
}

func (h *managed) Facts(ctx context.Context) (event.Facts, error) {
	if h.owner != h.asks {
		return event.Facts{}, &Foreign{Host: "10.0.0.1", Owner: h.owner}
	}
	return h.fakeHost.Facts(ctx)
}

func (h *managed) TakeOver(context.Context) error {
	h.owner = h.asks
	h.taken++
	return nil
}

func TestAHostOfAnotherInstallationIsTakenOverWhenThatIsOrdered(t *testing.T) {
	for name, order := range map[string]func(*roll){
		"when it is added": nil,
		"later": func(r *roll) {
			r.runFor(150 * time.Second)
			all := types(r.history(event.HostStream("1")))
			if all != "HostKeyPinned HostInvestigationFailed" {
				r.t.Errorf("before: %s", all)
			}
			for range 2 {
				if _, err := r.config.Commands.TakeHostOver(r.t.Context(), commands.Who{Actor: "admin"}, "10.0.0.1"); err != nil {
					r.t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &managed{owner: "theirs"}
				r := upkept(t, nil, &kept{})
				r.config.Remote, r.term = h, 1
				r.record(event.RosterStream, event.TermBegun{Term: 1, Log: "ours"}, event.HostAdded{HostID: "1", Host: "10.0.0.1", TakeOver: order == nil})
				want := "HostKeyPinned HostInvestigated HostBootstrapped"
				if order != nil {
					order(r)
					want = "HostKeyPinned HostInvestigationFailed HostTakeoverOrdered HostInvestigated HostBootstrapped"
				}
				r.runFor(5 * time.Second)
				if got := types(r.history(event.HostStream("1"))); got != want || h.owner != "ours" || h.taken != 1 {
					t.Errorf("taken over %d times, it is of %s; recorded are %s", h.taken, h.owner, got)
				}

				// Once is once: it is another's again, and not taken back unasked.
				h.owner = "theirs"
				r.record(event.HostStream("1"), event.HostWentSilent{Host: "10.0.0.1"}, event.HostAnswered{Host: "10.0.0.1"})
				r.runFor(3 * time.Minute)
				if failed := last[event.HostInvestigationFailed](t, r.history(event.HostStream("1"))); !strings.Contains(failed.Reason, "another installation") || h.owner != "theirs" {
					t.Errorf("it is of %s, and failed: %s", h.owner, failed.Reason)
				}

				// Given back it recovers by itself.
				h.owner = "ours"
				r.runFor(10 * time.Minute)
				if got := types(r.history(event.HostStream("1"))); !strings.HasSuffix(got, "HostInvestigationFailed HostInvestigated") || h.taken != 1 {
					t.Errorf("taken over %d times; recorded are %s", h.taken, got)
				}

				// Nobody else has it: nothing changes.
				if _, err := r.config.Commands.TakeHostOver(t.Context(), commands.Who{Actor: "admin"}, "10.0.0.1"); err != nil {
					t.Fatal(err)
				}
				r.runFor(5 * time.Second)
				if got := types(r.history(event.HostStream("1"))); !strings.HasSuffix(got, "HostInvestigated") || h.taken != 1 {
					t.Errorf("taken over %d times; recorded are %s", h.taken, got)
				}
			})
		})
	}
}
