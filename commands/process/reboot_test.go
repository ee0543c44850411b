package process

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/domain/event"
)

var (
	otherKey = &KeyChanged{Host: "10.0.0.1", Shown: HostKey{Type: "ssh-ed25519", Fingerprint: "SHA256:initramfs"}}
	noSuchID = &Refused{Reason: "10.0.0.1:22 does not let admin in with the key SHA256:k"}
	noSudo   = &Refused{Reason: "sudo: a password is required"}
	reset    = &Unreachable{Reason: "no SSH with 10.0.0.1:22: connection reset by peer"}
)

// TestWhatAHostAnswersBetweenTheOrderToRebootAndItsDeadlineIsNotItsOwnAnswer has a
// host that is being rebooted answer in one way for half of the time it has, or for
// ever.
func TestWhatAHostAnswersBetweenTheOrderToRebootAndItsDeadlineIsNotItsOwnAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		why   error
		where func(*fakeHost) *func() error
	}{
		"another server shows another host key": {otherKey, func(h *fakeHost) *func() error { return &h.dial }},
		"users are not known yet":               {noSuchID, func(h *fakeHost) *func() error { return &h.dial }},
		"it resets connections":                 {reset, func(h *fakeHost) *func() error { return &h.dial }},
		"its shell fails":                       {&Refused{Reason: "it does not run /bin/sh -s"}, func(h *fakeHost) *func() error { return &h.bootID }},
		"its boot id makes no sense":            {&Refused{Reason: "its boot id cannot be read"}, func(h *fakeHost) *func() error { return &h.bootID }},
		"sudo is not ready":                     {noSudo, func(h *fakeHost) *func() error { return &h.facts }},
		"its facts break off":                   {reset, func(h *fakeHost) *func() error { return &h.facts }},
	} {
		for _, ever := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					host := &fakeHost{}
					r := newRoll(t, host, restart, 1, func(*event.Policy) {})
					r.record(event.HostStream("1"), event.HostKeyPinned{Host: "10.0.0.1", Type: "ssh-ed25519", Fingerprint: "SHA256:x"})
					r.applied()
					var until time.Time
					orders := 0
					host.reboot = func() error {
						orders++
						host.boot++
						until = time.Now().Add(30 * time.Second)
						*c.where(host) = func() error {
							if ever || time.Now().Before(until) {
								return c.why
							}
							return nil
						}
						return nil
					}
					r.turn(1).carryOut(t.Context())
					history := r.history(event.OperationStream("o"))
					if ever {
						failed := last[event.HostTurnFailed](t, history)
						if !strings.Contains(failed.Reason, "not back within 1m0s") || !strings.Contains(failed.Reason, c.why.Error()) {
							t.Errorf("it failed: %s", failed.Reason)
						}
						if late := time.Since(until.Add(30 * time.Second)); late > lateLook {
							t.Errorf("it ended %s after its deadline", late)
						}
					} else {
						last[event.HostTurnSucceeded](t, history)
					}
					if orders != 1 {
						t.Errorf("it was told to reboot %d times", orders)
					}
					if all := types(r.history(event.HostStream("1"))); strings.Contains(all, "HostKeyChanged") {
						t.Errorf("recorded of the host: %s", all)
					}
				})
			})
		}
	}
}

func TestBeforeTheOrderToRebootWhatAHostAnswersIsItsAnswer(t *testing.T) {
	for _, why := range []error{otherKey, noSuchID} {
		synctest.Test(t, func(t *testing.T) {
			host := &fakeHost{dial: func() error { return why }}
			r := newRoll(t, host, restart, 1, func(*event.Policy) {})
			began := time.Now()
			r.turn(1).carryOut(t.Context())
			failed := r.failed()
			if failed.Reason != why.Error() || time.Since(began) > time.Second {
				t.Errorf("it failed after %s: %s", time.Since(began), failed.Reason)
			}
		})
	}
}

func TestARebootThatTheHostRefusesFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{reboot: func() error { return &Refused{Reason: "Failed to set wall message: Access denied"} }}
		r := newRoll(t, host, restart, 1, func(*event.Policy) {})
		began := time.Now()
		r.turn(1).carryOut(t.Context())
		failed := r.failed()
		if !strings.Contains(failed.Reason, "Access denied") || time.Since(began) > time.Second {
			t.Errorf("it failed after %s: %s", time.Since(began), failed.Reason)
		}
	})
}

// TestAnOrderToRebootThatWasRecordedAndNotGivenIsGivenAndWaitedFor ends the service, or
// the connection, between the two.
func TestAnOrderToRebootThatWasRecordedAndNotGivenIsGivenAndWaitedFor(t *testing.T) {
	for _, kind := range []func(event.Started) event.RosterEvent{restart, upgrade} {
		for _, refused := range []bool{false, true} {
			for _, dies := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					host := &fakeHost{}
					r := newRoll(t, host, kind, 1, func(p *event.Policy) { p.Reboot = event.AlwaysReboot })
					orders := 0
					ctx, die := context.WithCancel(t.Context())
					var ordered time.Time
					host.reboot = func() error {
						switch orders++; {
						case orders == 1 && dies:
							die()
							return ctx.Err()
						case orders == 1:
							return reset
						case refused:
							return &Refused{Reason: "Access denied"}
						}
						ordered = time.Now()
						host.dial = func() error {
							if time.Since(ordered) < 20*time.Second {
								return reset
							}
							return nil
						}
						host.boot++
						return nil
					}
					r.turn(1).carryOut(ctx)
					if dies {
						r.applied()
						r.turn(1).carryOut(t.Context())
					}
					history := r.history(event.OperationStream("o"))
					if refused {
						if failed := last[event.HostTurnFailed](t, history); failed.Reason != "Access denied" {
							t.Errorf("it failed: %s", failed.Reason)
						}
					} else if last[event.HostTurnSucceeded](t, history); time.Since(ordered) < 20*time.Second {
						t.Errorf("it was done %s after the order", time.Since(ordered))
					}
					if orders != 2 {
						t.Errorf("it was told to reboot %d times", orders)
					}
				})
			}
		}
	}
}

// TestARebootThatIsTakenUpAgainHasNoMoreTime ends the service again and again while
// a host is being rebooted, each time before it could have given up.
func TestARebootThatIsTakenUpAgainHasNoMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, restart, 1, func(*event.Policy) {})
		orders := 0
		host.reboot = func() error {
			orders++
			host.dial = func() error { return otherKey }
			return nil
		}
		began := time.Now()
		for time.Since(began) < 10*time.Minute {
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			r.turn(1).carryOut(ctx)
			cancel()
			r.applied()
			if r.world.operations["o"].Turn("1").Over() {
				break
			}
		}
		failed := r.failed()
		if !strings.Contains(failed.Reason, "SHA256:initramfs") || time.Since(began) > 2*time.Minute {
			t.Errorf("after %s: %s", time.Since(began), failed.Reason)
		}
		if orders != 1 {
			t.Errorf("it was told to reboot %d times", orders)
		}
	})
}

func TestAHostThatIsBackWhenItsDeadlineHasPassedIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, restart, 1, func(*event.Policy) {})
		ctx, crash := context.WithCancel(t.Context())
		host.reboot = func() error { crash(); host.boot++; return nil }
		r.turn(1).carryOut(ctx)
		time.Sleep(time.Hour)
		r.applied()
		r.turn(1).carryOut(t.Context())
		r.succeeded()
	})
}

// logins are when a host was connected to.
type logins []time.Time

// most is the largest number of them in a stretch of time.
func (l logins) most(in time.Duration) (most int) {
	for i := range l {
		n := 0
		for _, when := range l[i:] {
			if when.Sub(l[i]) < in {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// TestAHostThatRefusesLoginsIsAskedAHandfulOfTimesAMinute has it refuse for good,
// wherever somebody logs in again and again.
func TestAHostThatRefusesLoginsIsAskedAHandfulOfTimesAMinute(t *testing.T) {
	for name, c := range map[string]struct {
		start func(event.Started) event.RosterEvent
		with  func(*event.Policy)
		when  func(*fakeHost, func())
		do    func(*roll)
	}{
		"after its reboot": {
			restart, func(*event.Policy) {},
			func(h *fakeHost, refuse func()) { h.reboot = func() error { h.boot++; refuse(); return nil } },
			func(r *roll) { r.turn(1).carryOut(r.t.Context()) },
		},
		"while its health is looked at": {
			upgrade, func(p *event.Policy) { p.Health = &event.Health{Command: "true", Timeout: 300} },
			func(h *fakeHost, refuse func()) { h.check = func() error { refuse(); return reset } },
			func(r *roll) { r.turn(1).carryOut(r.t.Context()) },
		},
		"in the middle of a command": {
			upgrade, func(*event.Policy) {},
			func(h *fakeHost, refuse func()) {
				h.run = func(context.Context) error { refuse(); return reset }
			},
			func(r *roll) { r.turn(1).carryOut(r.t.Context()) },
		},
		"when it is watched": {
			upgrade, func(*event.Policy) {},
			func(_ *fakeHost, refuse func()) { refuse() },
			func(r *roll) {
				ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute)
				defer cancel()
				r.config.WatchInterval, r.config.WatchConcurrency, r.config.WatchMisses = time.Second, 1, 3
				r.watch(ctx)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := &fakeHost{}
				var all logins
				r := newRoll(t, host, c.start, 1, c.with)
				r.config.RetryDelay, r.config.RebootTimeout = 5*time.Second, 200*time.Second
				c.when(host, func() {
					if host.dial == nil {
						host.dial = func() error { all = append(all, time.Now()); return noSuchID }
					}
				})
				c.do(r)
				if most := all.most(time.Minute); most < 2 || most > 5 {
					t.Errorf("it was asked %d times in a minute: %v", most, all)
				}
			})
		})
	}
}

// TestAHostIsTriedAgainAtOnceWhereItDoesNotListen: to be refused a connection costs
// nobody anything.
func TestAHostIsTriedAgainAtOnceWhereItDoesNotListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, restart, 1, func(*event.Policy) {})
		var back time.Time
		host.reboot = func() error {
			host.boot++
			back = time.Now().Add(41 * time.Second)
			host.dial = func() error {
				if time.Now().Before(back) {
					return &Unreachable{Reason: "nothing listens"}
				}
				return nil
			}
			return nil
		}
		r.turn(1).carryOut(t.Context())
		r.succeeded()
		if late := time.Since(back); late > time.Second {
			t.Errorf("it was found %s after it was back", late)
		}
	})
}

func TestAPinnedKeyThatIsShownAgainIsEnough(t *testing.T) {
	for name, facts := range map[string][]event.Event{
		"a host that is fit":         {event.HostKeyPinned{Host: "10.0.0.1", Type: "ssh-ed25519", Fingerprint: "SHA256:x"}},
		"one whose key was given":    {event.HostKeyPinned{Host: "10.0.0.1", Fingerprint: "SHA256:x"}},
		"one that was silent before": {event.HostKeyPinned{Host: "10.0.0.1", Fingerprint: "SHA256:x"}, event.HostWentSilent{Host: "10.0.0.1", Reason: "r"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := &fakeHost{dial: func() error { return otherKey }}
				r := newRoll(t, host, restart, 1, func(*event.Policy) {})
				r.record(event.RosterStream, event.OperationCompleted{Operation: "o", ClusterID: "i", Cluster: "c"})
				r.record(event.HostStream("1"), facts...)
				r.config.WatchInterval, r.config.WatchConcurrency, r.config.WatchMisses, r.config.AtOnce = time.Minute, 1, 3, 1
				watched := func() {
					r.applied()
					r.sweep(t.Context(), time.Now())
					r.applied()
					r.act(t.Context())
					synctest.Wait()
					time.Sleep(time.Minute)
				}
				watched()
				watched()
				sent := 0
				host.bootID = func() error { sent++; return nil }
				watched()
				if sent > 0 {
					t.Error("something was sent while another key was shown")
				}
				host.dial = nil
				watched()
				watched()
				all := types(r.history(event.HostStream("1")))
				if strings.Count(all, "HostKeyChanged") != 1 || strings.Count(all, "HostKeyShownAgain") != 1 || !strings.HasSuffix(all, "HostInvestigated") {
					t.Errorf("recorded are %s", all)
				}
				if host := r.world.hosts["1"]; !host.Ready() {
					t.Error("it did not recover")
				}
			})
		})
	}
}

func TestAHostThatShowedAnotherKeyFromTheFirstRecoversToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{dial: func() error { return otherKey }}
		r := upkept(t, nil, &kept{})
		r.config.Remote, r.term = host, 1
		r.record(event.RosterStream, event.TermBegun{Term: 1}, event.HostAdded{HostID: "1", Host: "10.0.0.1", HostKey: "SHA256:x"})
		goOn := func() {
			r.applied()
			r.sweep(t.Context(), time.Now())
			r.applied()
			r.act(t.Context())
			synctest.Wait()
			time.Sleep(2 * time.Minute)
		}
		goOn()
		goOn()
		host.dial = nil
		for range 4 {
			goOn()
		}
		all := types(r.history(event.HostStream("1")))
		if all != "HostKeyPinned HostKeyChanged HostKeyShownAgain HostInvestigated HostBootstrapped" {
			t.Errorf("recorded are %s", all)
		}
	})
}

// TestNothingIsSentByAnOperationWhileAnotherKeyIsShown also when the first restart
// has failed by it.
func TestNothingIsSentByAnOperationWhileAnotherKeyIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{}
		r := newRoll(t, host, restart, 1, func(*event.Policy) {})
		orders := 0
		host.reboot = func() error {
			orders++
			host.dial = func() error { return otherKey }
			return nil
		}
		r.turn(1).carryOut(t.Context())
		second := r.started
		second.Operation = "p"
		r.record(event.RosterStream, event.OperationAborted{Operation: "o", ClusterID: "i", Cluster: "c"}, restart(second))
		r.applied()
		o := r.world.operations["p"]
		newTurn(r.Process, o, o.Hosts[0]).carryOut(t.Context())
		failed := last[event.HostTurnFailed](t, r.history(event.OperationStream("p")))
		if orders != 1 || !strings.Contains(failed.Reason, "SHA256:initramfs") {
			t.Errorf("%d orders to reboot; it failed: %s", orders, failed.Reason)
		}
		if all := r.history(event.HostStream("1")); !slices.ContainsFunc(all, func(e event.Event) bool { _, is := e.(event.HostKeyChanged); return is }) {
			t.Errorf("recorded are %s", types(all))
		}
	})
}
