package operation

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/policy"
	"commissaire/test/scenario"

	"pgregory.net/rapid"
)

var (
	noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // a Monday
	turn = event.Turn{Operation: "op", HostID: "1", Host: "10.0.0.1", Claim: "x"}
)

func given(t *testing.T, events ...event.OperationEvent) *scenario.Scenario[*Progress, event.OperationEvent] {
	t.Helper()
	return scenario.Given(t, &Progress{}, func(p *Progress, e event.OperationEvent) { p.Evolve(e, noon) }, events...)
}

type decision = func(*Progress) ([]event.OperationEvent, error)

func decide(f func(*Progress) []event.OperationEvent) decision {
	return func(p *Progress) ([]event.OperationEvent, error) { return f(p), nil }
}

var (
	begin  = decide(func(p *Progress) []event.OperationEvent { return p.Begin(turn, 1, 0) })
	pause  = decide(func(p *Progress) []event.OperationEvent { return p.Pause("op", false) })
	resume = decide(func(p *Progress) []event.OperationEvent { return p.Resume("op") })
	cancel = decide(func(p *Progress) []event.OperationEvent { return p.Cancel("op", "cancelled by ann") })
)

func TestATurnIsBegunExaminedAndEndedOnce(t *testing.T) {
	begun := event.HostTurnBegun{Turn: turn, Term: 1}
	examined := event.HostTurnExamined{Turn: turn, BootID: "b", Version: "v"}
	worked := event.HostTurnWorked{Turn: turn, BootID: "b", Version: "v", Pending: "w", Reboot: true}
	succeeded := event.HostTurnSucceeded{Turn: turn, Version: "w"}
	given(t).When(begin).Then(begun)
	given(t, begun).When(decide(func(p *Progress) []event.OperationEvent { return p.Examine(examined) })).Then(examined)
	given(t, begun, examined).When(decide(func(p *Progress) []event.OperationEvent { return p.Work(worked) })).Then(worked)
	given(t, begun, examined, worked).When(decide(func(p *Progress) []event.OperationEvent { return p.End("1", succeeded) })).Then(succeeded)
	given(t, begun, examined, succeeded).
		When(decide(func(p *Progress) []event.OperationEvent { return p.End("1", event.HostTurnFailed{Turn: turn}) })).Then()
}

func TestNothingBeginsWhilePausedOrOnceCancelled(t *testing.T) {
	paused, resumed := event.OperationPaused{Operation: "op"}, event.OperationResumed{Operation: "op"}
	cancelled := event.OperationCancelled{Operation: "op", Cause: "cancelled by ann"}
	given(t).When(pause).Then(paused)
	given(t, paused).When(begin).Then()
	given(t, paused).When(resume).Then(resumed)
	given(t, paused, resumed).When(begin).Then(event.HostTurnBegun{Turn: turn, Term: 1})
	given(t).When(resume).Then()
	given(t, paused).When(cancel).Then(cancelled)
	given(t, cancelled).When(begin).Then()
	given(t, cancelled).When(pause).Then()
}

func TestNothingBeginsAfterTooManyFailed(t *testing.T) {
	begin := func(tolerated int) decision {
		return decide(func(p *Progress) []event.OperationEvent { return p.Begin(turn, 1, tolerated) })
	}
	given(t, begun(2), failed(2)).When(begin(0)).Then()
	given(t, begun(2), failed(2)).When(begin(1)).Then(event.HostTurnBegun{Turn: turn, Term: 1})
}

func TestNothingBeginsInATermThatIsOver(t *testing.T) {
	takeUp := func(term domain.Term) decision {
		return decide(func(p *Progress) []event.OperationEvent { return p.TakeUp("op", term) })
	}
	begin := decide(func(p *Progress) []event.OperationEvent { return p.Begin(turn, 1, 0) })
	taken := event.OperationTakenUp{Operation: "op", Term: 2}
	given(t).When(takeUp(2)).Then(taken)
	given(t, taken).When(takeUp(2)).Then()
	given(t, taken).When(takeUp(1)).Then()
	given(t, taken).When(begin).Then()
	other := event.HostTurnBegun{Turn: event.Turn{Operation: "op", HostID: "2"}, Term: 2}
	given(t, other).When(begin).Then()
	given(t, other).When(takeUp(2)).Then()
}

func TestItPausesByItselfOnce(t *testing.T) {
	alone := decide(func(p *Progress) []event.OperationEvent { return p.Pause("op", true) })
	paused := event.OperationPaused{Operation: "op", ByPolicy: true}
	given(t).When(alone).Then(paused)
	given(t, paused, event.OperationResumed{Operation: "op"}).When(alone).Then()
}

func TestWhatItWaitsForIsSaidAgainAfterAPause(t *testing.T) {
	waits := event.OperationWaiting{Operation: "op", Why: "its window is closed", Until: noon}
	wait := decide(func(p *Progress) []event.OperationEvent { return p.Wait("op", waits.Why, noon) })
	given(t).When(wait).Then(waits)
	given(t, waits).When(wait).Then()
	given(t, waits, event.OperationPaused{Operation: "op"}, event.OperationResumed{Operation: "op"}).When(wait).Then(waits)
}

func TestWhoHasWhatTheOperationWanted(t *testing.T) {
	p := &Progress{}
	for _, e := range []event.OperationEvent{
		begun(0), succeeded(0), begun(1), failed(1),
		begun(2),
		event.HostTurnSkipped{Turn: of(2), Reason: "not an ostree host"},
		event.HostTurnSkipped{Turn: event.Turn{Operation: "op", HostID: "3"}, Reason: "it is no member any more"},
	} {
		p.Evolve(e, noon)
	}
	if got, want := p.Done(), map[domain.HostID]bool{"0": true, "2": true}; !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestHealthIsRecordedWhenItChanges(t *testing.T) {
	gate := func(healthy bool) decision {
		return decide(func(p *Progress) []event.OperationEvent { return p.Gate(turn, healthy, "") })
	}
	ill, well := event.HostTurnGated{Turn: turn}, event.HostTurnGated{Turn: turn, Healthy: true}
	given(t).When(gate(false)).Then(ill)
	given(t, ill).When(gate(false)).Then()
	given(t, ill).When(gate(true)).Then(well)
	given(t, ill, well).When(gate(false)).Then(ill)
}

func TestANodeThatWasCordonedBeforeIsNotOurs(t *testing.T) {
	p := &Progress{}
	p.Evolve(event.HostTurnCordoned{Turn: turn, Before: true}, noon)
	if got := p.Turn("1").Cordon; got != CordonedBefore {
		t.Errorf("got %v", got)
	}
}

func operationOf(n int, p event.Policy) *Operation {
	o := &Operation{Started: event.Started{Operation: "op", Policy: p}}
	if w := p.Window; w != nil {
		zone, err := time.LoadLocation(w.Zone)
		if err != nil {
			panic(err)
		}
		o.Zone = zone
	}
	for i := range n {
		o.Hosts = append(o.Hosts, event.Member{HostID: domain.HostID(fmt.Sprint(i)), Host: domain.Address(fmt.Sprintf("10.0.0.%d", i))})
	}
	return o
}

func (o *Operation) on(when time.Time, events ...event.OperationEvent) *Operation {
	for _, e := range events {
		o.Evolve(e, when)
	}
	return o
}

func of(i int) event.Turn {
	return event.Turn{Operation: "op", HostID: domain.HostID(fmt.Sprint(i)), Claim: "x"}
}

func begun(i int) event.OperationEvent     { return event.HostTurnBegun{Turn: of(i)} }
func succeeded(i int) event.OperationEvent { return event.HostTurnSucceeded{Turn: of(i)} }
func failed(i int) event.OperationEvent    { return event.HostTurnFailed{Turn: of(i), Reason: "broken"} }

func free(event.Member) Situation { return Situation{} }

func ids(members []event.Member) (all string) {
	for _, m := range members {
		all += string(m.HostID)
	}
	return all
}

func policyWith(change func(*event.Policy)) event.Policy {
	p := event.DefaultPolicy()
	change(&p)
	return p
}

func TestWhichHostsComeNext(t *testing.T) {
	sizes := func(n ...int) (all []event.Amount) {
		for _, one := range n {
			all = append(all, event.Amount{N: one})
		}
		return all
	}
	later := noon.Add(time.Minute)
	for name, c := range map[string]struct {
		o           *Operation
		now         time.Time
		begin, wait string
		until       time.Time
		pause       bool
		cause       string
	}{
		"one by default":                       {o: operationOf(3, event.DefaultPolicy()), begin: "0"},
		"none while one is in hand":            {o: operationOf(3, event.DefaultPolicy()).on(noon, begun(0))},
		"as many as may be unavailable":        {o: operationOf(4, policyWith(func(p *event.Policy) { p.MaxUnavailable = event.Amount{N: 50, Percent: true} })).on(noon, begun(0)), begin: "1"},
		"at least one, however low":            {o: operationOf(4, policyWith(func(p *event.Policy) { p.MaxUnavailable = event.Amount{N: 1, Percent: true} })), begin: "0"},
		"the first batch":                      {o: operationOf(6, policyWith(func(p *event.Policy) { p.Batches = sizes(1, 2) })), begin: "0"},
		"the second when the first has ended":  {o: operationOf(6, policyWith(func(p *event.Policy) { p.Batches = sizes(1, 2) })).on(noon, begun(0), succeeded(0)), begin: "12"},
		"not before all of a batch have ended": {o: operationOf(6, policyWith(func(p *event.Policy) { p.Batches = sizes(1, 2) })).on(noon, begun(0), succeeded(0), begun(1), begun(2), succeeded(1))},
		"the last size repeats":                {o: operationOf(6, policyWith(func(p *event.Policy) { p.Batches = sizes(1, 2) })).on(noon, succeeded(0), succeeded(1), succeeded(2)), begin: "34"},
		"a delay between hosts": {
			o:   operationOf(2, policyWith(func(p *event.Policy) { p.Delay = 60 })).on(noon, begun(0), succeeded(0)),
			now: noon.Add(59 * time.Second), until: later, wait: "the delay between batches",
		},
		"after the delay": {o: operationOf(2, policyWith(func(p *event.Policy) { p.Delay = 60 })).on(noon, begun(0), succeeded(0)), now: later, begin: "1"},
		"a delay between batches": {
			o:   operationOf(3, policyWith(func(p *event.Policy) { p.Delay, p.Batches = 60, sizes(2) })).on(noon, begun(0), succeeded(0), begun(1), failed(1)).tolerating(1),
			now: noon, until: later, wait: "the delay between batches",
		},
		"no more than until the pause":        {o: operationOf(6, policyWith(func(p *event.Policy) { p.MaxUnavailable, p.PauseAfter = event.Amount{N: 4}, 2 })), begin: "01"},
		"a pause when those have ended":       {o: operationOf(6, policyWith(func(p *event.Policy) { p.PauseAfter = 1 })).on(noon, begun(0), succeeded(0)), pause: true},
		"no pause while one is in hand":       {o: operationOf(6, policyWith(func(p *event.Policy) { p.PauseAfter, p.MaxUnavailable = 2, event.Amount{N: 2} })).on(noon, begun(0), begun(1), succeeded(0))},
		"on after the pause":                  {o: operationOf(6, policyWith(func(p *event.Policy) { p.PauseAfter = 1 })).on(noon, begun(0), succeeded(0), event.OperationPaused{ByPolicy: true}, event.OperationResumed{}), begin: "1"},
		"none while paused":                   {o: operationOf(3, event.DefaultPolicy()).on(noon, event.OperationPaused{}), wait: "it is paused"},
		"an end after too many failed":        {o: operationOf(3, event.DefaultPolicy()).on(noon, begun(0), failed(0)), cause: "host 10.0.0.0: broken"},
		"no end while another is in hand":     {o: operationOf(3, policyWith(func(p *event.Policy) { p.MaxUnavailable = event.Amount{N: 2} })).on(noon, begun(0), begun(1), failed(0))},
		"on when a failure is tolerated":      {o: operationOf(3, event.DefaultPolicy()).tolerating(1).on(noon, begun(0), failed(0)), begin: "1"},
		"an end once cancelled":               {o: operationOf(3, event.DefaultPolicy()).on(noon, event.OperationCancelled{Cause: "enough"}), cause: "enough"},
		"no end while cancelled, with a host": {o: operationOf(3, event.DefaultPolicy()).on(noon, begun(0), event.OperationCancelled{Cause: "enough"})},
	} {
		t.Run(name, func(t *testing.T) {
			now := c.now
			if now.IsZero() {
				now = noon
			}
			next := c.o.Next(now, free)
			if ids(next.Begin) != c.begin || next.Wait != c.wait || !next.Until.Equal(c.until) || next.Pause != c.pause || next.Cause != c.cause || next.Ended != (c.cause != "") {
				t.Errorf("got %+v", next)
			}
		})
	}
}

func (o *Operation) tolerating(n int) *Operation {
	o.Policy.MaxFailures = event.Amount{N: n}
	return o
}

func TestAnOperationWithoutHostsEndsAtOnce(t *testing.T) {
	if next := operationOf(0, event.DefaultPolicy()).Next(noon, nil); !next.Ended || next.Cause != "" {
		t.Errorf("got %+v", next)
	}
}

func TestABusyHostDoesNotHoldUpTheOthers(t *testing.T) {
	next := operationOf(2, event.DefaultPolicy()).Next(noon, func(m event.Member) Situation {
		if m.HostID == "0" {
			return Situation{Availability: Busy}
		}
		return Situation{}
	})
	if ids(next.Begin) != "1" {
		t.Errorf("got %+v", next)
	}
}

func TestAHostThatIsBeingTakenCountsAsInHand(t *testing.T) {
	next := operationOf(2, event.DefaultPolicy()).Next(noon, func(m event.Member) Situation {
		if m.HostID == "1" {
			return Situation{Availability: Taken}
		}
		return Situation{}
	})
	if len(next.Begin) != 0 || next.Ended {
		t.Errorf("got %+v", next)
	}
	for _, e := range []event.OperationEvent{failed(0), event.OperationCancelled{Cause: "enough"}} {
		o := operationOf(2, event.DefaultPolicy()).on(noon, e)
		taken := func(event.Member) Situation { return Situation{Availability: Taken} }
		if next := o.Next(noon, taken); next.Ended {
			t.Errorf("after %s it ends while a host is being taken", e.EventType())
		}
		if next := o.Next(noon, free); !next.Ended {
			t.Errorf("after %s it does not end", e.EventType())
		}
	}
}

func TestOSTreeHostsDownloadBeforeAnyIsBegun(t *testing.T) {
	o := operationOf(3, policyWith(func(p *event.Policy) { p.Stage = true }))
	situation := func(m event.Member) Situation { return Situation{OSTree: m.HostID != "2"} }
	if next := o.Next(noon, situation); ids(next.Stage) != "01" || len(next.Begin) != 0 {
		t.Errorf("at first: %+v", next)
	}
	o.on(noon, event.HostStaged{Turn: of(0)})
	if next := o.Next(noon, situation); ids(next.Stage) != "1" || len(next.Begin) != 0 {
		t.Errorf("with one: %+v", next)
	}
	o.on(noon, event.HostStaged{Turn: of(1)})
	if next := o.Next(noon, situation); len(next.Stage) != 0 || ids(next.Begin) != "0" {
		t.Errorf("with all: %+v", next)
	}
}

func TestCancellingDropsWhatNobodyBooted(t *testing.T) {
	o := operationOf(3, event.DefaultPolicy()).on(noon, begun(0), event.HostTurnSucceeded{Turn: of(0), Pending: "2", OSTree: true}, begun(1))
	o.on(noon, event.OperationCancelled{Cause: "enough"}, succeeded(1))
	if next := o.Next(noon, free); ids(next.Drop) != "0" || next.Ended {
		t.Errorf("got %+v", next)
	}
	o.on(noon, event.HostCleanedUp{Turn: of(0)})
	if next := o.Next(noon, free); !next.Ended || next.Cause != "enough" {
		t.Errorf("got %+v", next)
	}
}

func TestCancellingDropsWhatAHostThatFailedAfterItsWorkWasLeft(t *testing.T) {
	examined := event.HostTurnExamined{Turn: of(0), Pending: "1", OSTree: true}
	for _, c := range []struct {
		worked event.HostTurnWorked
		drop   string
	}{
		{event.HostTurnWorked{Turn: of(0), Pending: "2"}, "0"},
		{event.HostTurnWorked{Turn: of(0), Pending: "1"}, ""},
		{event.HostTurnWorked{Turn: of(0), Pending: "2", Reboot: true}, ""}, // which booted it, or tried to
	} {
		o := operationOf(3, event.DefaultPolicy()).on(noon, begun(0), examined, c.worked, failed(0), event.OperationCancelled{Cause: "enough"})
		if next := o.Next(noon, free); ids(next.Drop) != c.drop || next.Ended != (c.drop == "") {
			t.Errorf("after %+v: %+v", c.worked, next)
		}
	}
}

func TestOnlyWhatATurnMadeIsDropped(t *testing.T) {
	examined := event.HostTurnExamined{Turn: of(0), Version: "1", BootedID: "a", OSTree: true}
	for name, c := range map[string]struct {
		events []event.OperationEvent
		left   event.System
	}{
		"made, of the same name as what runs": {[]event.OperationEvent{
			examined, event.HostTurnWorked{Turn: of(0), Pending: "1", PendingID: "b"}, event.HostTurnSucceeded{Turn: of(0), Pending: "1", PendingID: "b", OSTree: true},
		}, event.System{Name: "1", ID: "b"}},
		"replaced by another's": {[]event.OperationEvent{
			examined, event.HostTurnWorked{Turn: of(0), Pending: "1", PendingID: "b"}, event.HostTurnSucceeded{Turn: of(0), Pending: "1", PendingID: "c", OSTree: true},
		}, event.System{}},
		"another's, after the reboot": {[]event.OperationEvent{
			examined, event.HostTurnWorked{Turn: of(0), Pending: "1", PendingID: "b", Reboot: true}, event.HostTurnSucceeded{Turn: of(0), Pending: "2", PendingID: "c", OSTree: true},
		}, event.System{}},
		"another's, after a restart": {[]event.OperationEvent{examined, event.HostTurnSucceeded{Turn: of(0), Pending: "2", PendingID: "c", OSTree: true}}, event.System{}},
		"there before": {[]event.OperationEvent{
			event.HostTurnExamined{Turn: of(0), Version: "1", BootedID: "a", Pending: "2", PendingID: "b", OSTree: true},
			event.HostTurnWorked{Turn: of(0), Pending: "2", PendingID: "b"},
			event.HostTurnSucceeded{Turn: of(0), Pending: "2", PendingID: "b", OSTree: true},
		}, event.System{}},
	} {
		o := operationOf(1, event.DefaultPolicy()).on(noon, append([]event.OperationEvent{begun(0)}, c.events...)...)
		if got := o.Turn("0").Left; got != c.left {
			t.Errorf("%s: %+v is left", name, got)
		}
	}
}

func TestNoHostIsBegunOutsideTheWindow(t *testing.T) {
	nights := &event.Window{Days: []string{"sat"}, From: "22:00", To: "04:30", Zone: "Europe/Berlin"}
	closed, opens := time.Date(2026, 3, 8, 3, 30, 0, 0, time.UTC), time.Date(2026, 3, 14, 21, 0, 0, 0, time.UTC)
	o := operationOf(1, policyWith(func(p *event.Policy) { p.Window = nights }))
	if next := o.Next(closed, free); len(next.Begin) != 0 || next.Wait != "its window is closed" || !next.Until.Equal(opens) {
		t.Errorf("got %+v", next)
	}
	o.Zone = nil
	if next := o.Next(opens, free); len(next.Begin) != 0 || next.Wait != "its window is closed" || !next.Until.IsZero() {
		t.Errorf("got %+v where the zone is not known", next)
	}
}

// TestAnyOperationKeepsItsPolicyAndEnds tries any members, policies, outcomes,
// controls and losses of what is not recorded: never more in hand than allowed,
// none begun after too many failed, while paused, once cancelled or outside the
// window, every host once, no batch before the one before it, and an end.
func TestAnyOperationKeepsItsPolicyAndEnds(t *testing.T) {
	amounts := func(t *rapid.T, name string, least int) event.Amount {
		return event.Amount{N: rapid.IntRange(least, 100).Draw(t, name), Percent: rapid.Bool().Draw(t, name+" in percent")}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "hosts")
		p := event.Policy{MaxUnavailable: amounts(t, "unavailable", 1), MaxFailures: amounts(t, "failures", 0), Delay: rapid.IntRange(0, 100).Draw(t, "delay"), PauseAfter: rapid.IntRange(0, 5).Draw(t, "pause after")}
		for range rapid.IntRange(0, 3).Draw(t, "batches") {
			p.Batches = append(p.Batches, amounts(t, "batch", 1))
		}
		if rapid.Bool().Draw(t, "windowed") {
			p.Window = &event.Window{From: "11:00", To: "13:00", Zone: "UTC"}
		}
		o, now := operationOf(n, p), noon
		limit := max(1, p.MaxUnavailable.Of(n))
		for _, size := range p.Batches {
			limit = max(limit, max(1, size.Of(n)))
		}
		begun, inHand, failures, quiet := map[domain.HostID]bool{}, []event.Member{}, 0, false
		for range 40*n + 40 {
			if rapid.IntRange(0, 9).Draw(t, "a person") == 0 && !quiet {
				for _, e := range rapid.SampledFrom([]func() []event.OperationEvent{
					func() []event.OperationEvent { return o.Pause("op", false) },
					func() []event.OperationEvent { return o.Resume("op") },
					func() []event.OperationEvent { return o.Cancel("op", "enough") },
				}).Draw(t, "steers")() {
					o.Evolve(e, now)
				}
			}
			next := o.Next(now, free)
			if got := ids(next.InHand); got != ids(inHand) {
				t.Fatalf("in hand are %s, not %s", got, ids(inHand))
			}
			if next.Ended {
				if len(inHand) > 0 {
					t.Fatal("it ended with a host in hand")
				}
				stopped := failures > p.MaxFailures.Of(n) || o.Cancelled != ""
				if stopped != (next.Cause != "") || !stopped && len(begun) != n {
					t.Fatalf("%d of %d were begun, %d failed, and the cause is %q", len(begun), n, failures, next.Cause)
				}
				return
			}
			open, _ := policy.Opening(p.Window, time.UTC, now)
			switch {
			case len(next.Begin) == 0:
			case o.Paused, o.Cancelled != "", failures > p.MaxFailures.Of(n), !open:
				t.Fatalf("hosts were begun that must not: %+v", next)
			case len(inHand)+len(next.Begin) > limit:
				t.Fatalf("%d in hand, at most %d allowed", len(inHand)+len(next.Begin), limit)
			case p.PauseAfter > 0 && !o.pausedAlone && len(begun)+len(next.Begin) > p.PauseAfter:
				t.Fatal("more were begun than before the pause")
			}
			for _, m := range next.Begin {
				if begun[m.HostID] {
					t.Fatalf("host %s was begun twice", m.Host)
				}
				if rapid.IntRange(0, 4).Draw(t, "lost") == 0 {
					continue // a crash before it was recorded
				}
				begun[m.HostID] = true
				inHand = append(inHand, m)
				o.Evolve(event.HostTurnBegun{Turn: event.Turn{HostID: m.HostID, Claim: "x"}}, now)
			}
			slices.SortFunc(inHand, func(a, b event.Member) int {
				return slices.IndexFunc(o.Hosts, func(m event.Member) bool { return m == a }) - slices.IndexFunc(o.Hosts, func(m event.Member) bool { return m == b })
			})
			switch {
			case next.Pause:
				for _, e := range o.Pause("op", true) {
					o.Evolve(e, now)
				}
				quiet = rapid.Bool().Draw(t, "left alone from here on")
			case !next.Until.IsZero():
				now = next.Until
			case len(inHand) > 0:
				i := rapid.IntRange(0, len(inHand)-1).Draw(t, "ends")
				m := inHand[i]
				inHand = slices.Delete(inHand, i, i+1)
				if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
					failures++
					o.Evolve(event.HostTurnFailed{Turn: event.Turn{HostID: m.HostID}, Reason: "broken"}, now)
				} else {
					o.Evolve(event.HostTurnSucceeded{Turn: event.Turn{HostID: m.HostID}}, now)
				}
			case o.Paused:
				for _, e := range o.Resume("op") {
					o.Evolve(e, now)
				}
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "minutes")) * time.Minute)
		}
		t.Fatal("the operation did not end")
	})
}

func TestANodeThatSomebodyLetWorkInAgainIsTheTurnsToKeepEmpty(t *testing.T) {
	before, ours := event.HostTurnCordoned{Turn: turn, Before: true}, event.HostTurnCordoned{Turn: turn}
	cordon := func(before bool) decision {
		return decide(func(p *Progress) []event.OperationEvent { return p.Cordon(turn, before) })
	}
	given(t).When(cordon(true)).Then(before)
	given(t, before).When(cordon(true)).Then()
	given(t, before).When(cordon(false)).Then(ours)
	given(t, ours).When(cordon(true)).Then()
}
