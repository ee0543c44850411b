package process

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
	"commissaire/projections"
)

// waits are what was recorded that turns wait for.
func (r *roll) waits() (all []event.HostTurnWaiting) {
	r.t.Helper()
	for _, e := range r.history(event.OperationStream("o")) {
		if w, is := e.(event.HostTurnWaiting); is {
			all = append(all, w)
		}
	}
	return all
}

// shown is what GET tells that the turn of a host waits for.
func (r *roll) shown(i int) *projections.Wait {
	r.t.Helper()
	views := projections.New()
	head, err := r.log.Head(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for events, err := range r.log.Read(r.t.Context(), 0) {
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range events {
			views.Apply(e)
			views.Apply(e)
		}
		if events[len(events)-1].Position >= head {
			break
		}
	}
	o, _ := views.Snapshot().Operation("o")
	return o.Hosts[i-1].Waiting
}

// TestWhatATurnWaitsForIsShownWhileItLasts looks at turns that each wait for another
// thing, half a minute after that began.
func TestWhatATurnWaitsForIsShownWhileItLasts(t *testing.T) {
	for name, c := range map[string]struct {
		start func(event.Started) event.RosterEvent
		with  func(*event.Policy)
		host  func(*roll, *fakeHost)
		why   string
		limit time.Duration
		slack time.Duration // within which it was recorded
	}{
		"its command": {
			upgrade, func(*event.Policy) {},
			func(_ *roll, h *fakeHost) { h.run = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } },
			"its upgrade", time.Hour, 0,
		},
		"a lock on the host": {
			upgrade, func(*event.Policy) {},
			func(_ *roll, h *fakeHost) {
				h.asked = func(w Work) { w.Waiting("the lock of apt, held by unattended-upgr (1234)") }
				h.run = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			},
			"the lock of apt, held by unattended-upgr (1234)", time.Hour, 0,
		},
		"no lock any more": {
			upgrade, func(*event.Policy) {},
			func(_ *roll, h *fakeHost) {
				h.asked = func(w Work) {
					w.Waiting("the lock of apt")
					time.Sleep(10 * time.Second)
					w.Waiting("")
				}
				h.run = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			},
			"its upgrade", time.Hour, 0,
		},
		"its reboot": {
			restart, func(*event.Policy) {},
			func(_ *roll, h *fakeHost) {
				h.reboot = func() error { h.dial = func() error { return reset }; return nil }
			},
			"its reboot", 200 * time.Second, 0,
		},
		"its health": {
			upgrade, func(p *event.Policy) { p.Health = &event.Health{TCP: 80, Timeout: 300} },
			func(r *roll, _ *fakeHost) { r.config.Probe = closed{} },
			"its health: nothing listens", 300 * time.Second, 0,
		},
		"a host that is out of reach": {
			upgrade, func(*event.Policy) {},
			func(r *roll, h *fakeHost) {
				r.config.RetryDelay = 20 * time.Second
				h.dial = func() error { return reset }
			},
			"its answer: " + reset.Reason, 3 * (20*time.Second + oneTry), 0,
		},
		"one that went away in the middle of its command": {
			upgrade, func(*event.Policy) {},
			func(_ *roll, h *fakeHost) {
				h.run = func(context.Context) error { h.dial = func() error { return reset }; return reset }
			},
			"its answer: " + reset.Reason, time.Hour, time.Second,
		},
		"its node": {
			upgrade, func(p *event.Policy) { p.Drain = &event.Drain{Timeout: 100} },
			func(r *roll, _ *fakeHost) {
				r.record(event.RosterStream, event.ContainerManagerDefined{ManagerID: "m", Manager: "m"},
					event.ClusterReconfigured{ClusterID: "i", Cluster: "c", ManagerID: "m", Manager: "m"})
				r.applied()
				r.config.Managers = func(event.ContainerManagerDefined) (Manager, error) { return full{}, nil }
			},
			"its node to be drained", 100 * time.Second, 0,
		},
		"its download": {
			upgrade, func(p *event.Policy) { p.Stage = true },
			func(_ *roll, h *fakeHost) { h.run = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } },
			"its download", time.Hour, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := &fakeHost{}
				r := newRoll(t, host, c.start, 1, c.with)
				r.config.RebootTimeout = 200 * time.Second
				c.host(r, host)
				ctx, stop := context.WithCancel(t.Context())
				began, ended := time.Now(), make(chan struct{})
				go func() {
					defer close(ended)
					if turn := r.turn(1); turn.policy.Stage {
						turn.stage(ctx)
					} else {
						turn.carryOut(ctx)
					}
				}()
				time.Sleep(30 * time.Second)
				synctest.Wait()
				wait := r.shown(1)
				switch {
				case wait == nil:
					t.Error("nothing is shown")
				case wait.Why != c.why:
					t.Errorf("shown is %q", wait.Why)
				case wait.Since.Sub(began).Abs() > c.slack || wait.Until.Sub(began.Add(c.limit)).Abs() > c.slack:
					t.Errorf("shown are %s and %s after it began", wait.Since.Sub(began), wait.Until.Sub(began))
				}
				stop()
				<-ended
			})
		})
	}
}

// full is a container manager that drains no node.
type full struct{ Manager }

func (full) Cordoned(context.Context, domain.Address) (bool, error) { return false, nil }
func (full) Cordon(context.Context, domain.Address) error           { return nil }
func (full) Uncordon(context.Context, domain.Address) error         { return nil }
func (full) Drain(ctx context.Context, _ domain.Address, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestNoNumberOfCrashesProlongsATurn ends the service every 20 s, whatever the turn
// waits for.
func TestNoNumberOfCrashesProlongsATurn(t *testing.T) {
	for name, c := range map[string]struct {
		with func(*event.Policy)
		host func(*roll, *fakeHost)
	}{
		"a command that does not end": {
			func(p *event.Policy) { p.Timeout = 300 },
			func(_ *roll, h *fakeHost) { h.run = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } },
		},
		"a host that is away": {
			func(p *event.Policy) { p.Timeout = 300 },
			func(_ *roll, h *fakeHost) {
				h.run = func(context.Context) error { h.dial = func() error { return reset }; return reset }
			},
		},
		"a node that is full": {
			func(p *event.Policy) { p.Drain = &event.Drain{Timeout: 300} },
			func(r *roll, _ *fakeHost) {
				r.record(event.RosterStream, event.ContainerManagerDefined{ManagerID: "m", Manager: "m"},
					event.ClusterReconfigured{ClusterID: "i", Cluster: "c", ManagerID: "m", Manager: "m"})
				r.applied()
				r.config.Managers = func(event.ContainerManagerDefined) (Manager, error) { return full{}, nil }
			},
		},
		"a download that does not end": {
			func(p *event.Policy) { p.Timeout, p.Stage = 300, true },
			func(_ *roll, h *fakeHost) { h.run = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := &fakeHost{}
				r := newRoll(t, host, upgrade, 1, c.with)
				c.host(r, host)
				began, stay := time.Now(), 20*time.Second
				for time.Since(began) < time.Hour && !r.world.operations["o"].Turn("1").Over() {
					if time.Since(began) > 300*time.Second {
						stay = 2 * stopping // somebody who lives long enough to look
					}
					ctx, crash := context.WithTimeout(t.Context(), stay)
					if turn := r.turn(1); turn.policy.Stage {
						turn.stage(ctx)
					} else {
						turn.carryOut(ctx)
					}
					crash()
					r.applied()
				}
				if took := time.Since(began); took > 300*time.Second+2*stopping {
					t.Errorf("the turn took %s", took)
				}
				r.failed()
			})
		})
	}
}

func TestABusyHostIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoll(t, &fakeHost{}, upgrade, 2, func(p *event.Policy) { p.Timeout = 300 })
		r.config.AtOnce = 1
		r.schedule.hosts["1"] = &job{} // upkeep that does not end
		ended := func() bool { _, running := r.world.operations["o"]; return !running }
		began := time.Now()
		for !ended() && time.Since(began) < time.Hour {
			r.applied()
			r.act(t.Context())
			synctest.Wait()
			if time.Since(began) == 100*time.Second {
				if wait := r.shown(1); wait == nil || wait.Why != operation.OtherWork+"its upkeep" || wait.Until.Sub(wait.Since.Time) != 300*time.Second {
					t.Errorf("shown is %+v", wait)
				}
			}
			time.Sleep(time.Second)
		}
		failed := r.failed()
		if failed.HostID != "1" || failed.Reason != "its turn was not begun within 5m0s: other work on the host: its upkeep" {
			t.Errorf("failed: %+v", failed)
		}
		if took := time.Since(began); took > 310*time.Second {
			t.Errorf("it took %s", took)
		}
		if n := len(r.waits()); n != 1 {
			t.Errorf("%d waits are recorded", n)
		}
	})
}

func TestAHostThatIsBusyForAWhileIsBegunWhenItIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoll(t, &fakeHost{}, upgrade, 1, func(p *event.Policy) { p.Timeout = 300 })
		r.config.AtOnce = 1
		r.schedule.hosts["1"] = &job{}
		r.runFor(100 * time.Second)
		r.schedule.hosts.end("1", 1)
		r.runFor(100 * time.Second)
		r.succeeded()
	})
}

// TestAHostCannotFillTheLogWithWhatItWaitsFor has one tell another reason a thousand
// times a second.
func TestAHostCannotFillTheLogWithWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		host.asked = func(w Work) {
			for i := range 1_000_000 {
				w.Waiting(fmt.Sprint("reason ", i, strings.Repeat("\xff#", 2000)))
				time.Sleep(time.Millisecond)
			}
		}
		r := newRoll(t, host, upgrade, 1, func(*event.Policy) {})
		r.turn(1).carryOut(t.Context())
		all := r.waits()
		if len(all) == 0 || len(all) > 110 {
			t.Errorf("%d are recorded", len(all))
		}
		for _, w := range all {
			if len(w.Why) > 1024 {
				t.Fatalf("one has %d bytes", len(w.Why))
			}
		}
		r.succeeded()
	})
}
