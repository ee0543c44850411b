package operation

import (
	"fmt"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/scenario"

	"pgregory.net/rapid"
)

var turn = event.Turn{Operation: "op", HostID: "1", Host: "10.0.0.1", Claim: "x"}

func given(t *testing.T, events ...event.OperationEvent) *scenario.Scenario[Turns, event.OperationEvent] {
	t.Helper()
	return scenario.Given(t, Turns{}, Turns.Evolve, events...)
}

func TestATurnIsBegunExaminedAndEndedOnce(t *testing.T) {
	begun := event.HostTurnBegun{Turn: turn, Term: 1}
	examined := event.HostTurnExamined{Turn: turn, BootID: "b", Version: "v", Pending: "p"}
	succeeded := event.HostTurnSucceeded{Turn: turn, Version: "w"}
	given(t).When(func(s Turns) ([]event.OperationEvent, error) { return s.Begin(turn, 1), nil }).Then(begun)
	given(t, begun).When(func(s Turns) ([]event.OperationEvent, error) { return s.Examine(turn, "b", "v", "p"), nil }).Then(examined)
	given(t, begun, examined).When(func(s Turns) ([]event.OperationEvent, error) { return s.End("1", succeeded), nil }).Then(succeeded)
	given(t, begun, examined, succeeded).
		When(func(s Turns) ([]event.OperationEvent, error) {
			return s.End("1", event.HostTurnFailed{Turn: turn}), nil
		}).Then()
}

func operationOf(n int, policy event.Policy) *Operation {
	o := &Operation{Started: event.Started{Operation: "op", Policy: policy}, Turns: Turns{}}
	for i := range n {
		o.Hosts = append(o.Hosts, event.Member{HostID: domain.HostID(fmt.Sprint(i)), Host: domain.Address(fmt.Sprintf("10.0.0.%d", i))})
	}
	return o
}

func TestAnOperationWithoutHostsEndsAtOnce(t *testing.T) {
	if next := operationOf(0, event.DefaultPolicy()).Next(nil); !next.Ended || next.Cause != "" {
		t.Errorf("got %+v", next)
	}
}

func TestABusyHostDoesNotHoldUpTheOthers(t *testing.T) {
	o := operationOf(2, event.DefaultPolicy())
	next := o.Next(func(m event.Member) Availability {
		if m.HostID == "0" {
			return Busy
		}
		return Free
	})
	if len(next.Begin) != 1 || next.Begin[0].HostID != "1" {
		t.Errorf("got %+v", next)
	}
}

func TestAHostThatIsBeingTakenCountsAsInHand(t *testing.T) {
	next := operationOf(2, event.DefaultPolicy()).Next(func(m event.Member) Availability {
		if m.HostID == "1" {
			return Taken
		}
		return Free
	})
	if len(next.Begin) != 0 || next.Ended {
		t.Errorf("got %+v", next)
	}
}

// TestAnyOperationKeepsItsPolicyAndEnds tries any outcomes: never more in hand
// than allowed, none begun after too many failed, every host once, and an end.
func TestAnyOperationKeepsItsPolicyAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "hosts")
		policy := event.Policy{
			MaxUnavailable: event.Amount{N: rapid.IntRange(1, 100).Draw(t, "unavailable"), Percent: rapid.Bool().Draw(t, "percent")},
			MaxFailures:    event.Amount{N: rapid.IntRange(0, 3).Draw(t, "failures")},
		}
		limit := max(1, policy.MaxUnavailable.Of(n))
		o := operationOf(n, policy)
		failed, begun := 0, map[domain.HostID]int{}
		for range 3*n + 1 {
			next := o.Next(func(event.Member) Availability { return Free })
			if next.Ended {
				if (failed > policy.MaxFailures.N) != (next.Cause != "") {
					t.Fatalf("%d failed and the cause is %q", failed, next.Cause)
				}
				return
			}
			if len(next.Begin) > 0 && failed > policy.MaxFailures.N {
				t.Fatal("a host was begun after too many had failed")
			}
			if len(next.InHand)+len(next.Begin) > limit {
				t.Fatalf("%d in hand, at most %d allowed", len(next.InHand)+len(next.Begin), limit)
			}
			for _, m := range next.Begin {
				if begun[m.HostID]++; begun[m.HostID] > 1 {
					t.Fatalf("host %s was begun twice", m.Host)
				}
				o.Turns.Evolve(event.HostTurnBegun{Turn: event.Turn{HostID: m.HostID, Claim: "x"}})
			}
			inHand := append(next.InHand, next.Begin...)
			m := inHand[rapid.IntRange(0, len(inHand)-1).Draw(t, "ends")]
			if rapid.Bool().Draw(t, "fails") {
				failed++
				o.Turns.Evolve(event.HostTurnFailed{Turn: event.Turn{HostID: m.HostID}, Reason: "broken"})
			} else {
				o.Turns.Evolve(event.HostTurnSucceeded{Turn: event.Turn{HostID: m.HostID}})
			}
		}
		t.Fatal("the operation did not end")
	})
}
