package commands_test

import (
	"errors"
	"testing"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

// withClusters has the clusters c and d.
func withClusters(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.record(event.RosterStream, event.ClusterCreated{ClusterID: "C", Cluster: "c"}, event.ClusterCreated{ClusterID: "D", Cluster: "d"})
	return f
}

// upgrade is asked for of cluster c with a key.
func upgrade(key string) commands.StartOperation {
	return commands.StartOperation{Kind: domain.Upgrade, Cluster: "c", Policy: event.DefaultPolicy(), Key: key}
}

func TestAnIdempotencyKeyNamesOneOperation(t *testing.T) {
	end := func(f *fixture, id domain.OperationID) {
		if _, err := f.EndOperation(f.t.Context(), id, ""); err != nil {
			f.t.Fatal(err)
		}
	}
	otherwise := func(key string, change func(*commands.StartOperation)) commands.StartOperation {
		cmd := upgrade(key)
		change(&cmd)
		return cmd
	}
	for name, c := range map[string]struct {
		first   commands.StartOperation
		between func(*fixture, domain.OperationID) // nil: nothing happens
		second  commands.StartOperation
		err     error
		isNew   bool
	}{
		"the same key":                       {first: upgrade("k"), second: upgrade("k")},
		"the same key after its end":         {first: upgrade("k"), between: end, second: upgrade("k")},
		"another key while it runs":          {first: upgrade("k"), second: upgrade("l")},
		"no key while it runs":               {first: upgrade("k"), second: upgrade("")},
		"a key while one without a key runs": {first: upgrade(""), second: upgrade("k")},
		"another key after its end":          {first: upgrade("k"), between: end, second: upgrade("l"), isNew: true},
		"no key after its end":               {first: upgrade(""), between: end, second: upgrade(""), isNew: true},
		"the same key for another cluster": {
			first: upgrade("k"), second: otherwise("k", func(cmd *commands.StartOperation) { cmd.Cluster = "d" }), isNew: true,
		},
		"the same key for another kind": {
			first: upgrade("k"), second: otherwise("k", func(cmd *commands.StartOperation) { cmd.Kind = domain.Restart }), err: roster.ErrKeyUsed,
		},
		"the same key for another kind after its end": {
			first: upgrade("k"), between: end, second: otherwise("k", func(cmd *commands.StartOperation) { cmd.Kind = domain.Restart }), err: roster.ErrKeyUsed,
		},
		"the same key for another version": {
			first: upgrade("k"), second: otherwise("k", func(cmd *commands.StartOperation) { cmd.Version = "2" }), err: roster.ErrKeyUsed,
		},
		"the same key for another policy": {
			first: upgrade("k"), second: otherwise("k", func(cmd *commands.StartOperation) { cmd.Policy.Timeout = 1 }), err: roster.ErrKeyUsed,
		},
		"another key for another kind while it runs": {
			first: upgrade("k"), second: otherwise("l", func(cmd *commands.StartOperation) { cmd.Kind = domain.Restart }), err: roster.ErrRunning,
		},
	} {
		for _, instance := range []string{"the same instance", "another instance"} {
			t.Run(name+"/"+instance, func(t *testing.T) {
				f := withClusters(t)
				first, err := f.StartOperation(t.Context(), ann, c.first)
				if err != nil || !first.New || first.StartedAt.IsZero() {
					t.Fatalf("the first is %+v: %v", first, err)
				}
				if c.between != nil {
					c.between(f, first.ID)
				}
				handler, before := f.Handler, len(f.history(event.RosterStream))
				if instance == "another instance" {
					handler = f.otherInstance()
				}
				second, err := handler.StartOperation(t.Context(), ann, c.second)
				recorded := len(f.history(event.RosterStream)) - before
				switch {
				case !errors.Is(err, c.err) || c.err != nil && recorded > 0:
					t.Errorf("%v, and %d events are recorded", err, recorded)
				case c.err != nil:
				case second.New != c.isNew || (second.ID == first.ID) == c.isNew || (recorded == 1) != c.isNew:
					t.Errorf("first %+v, then %+v, and %d events are recorded", first, second, recorded)
				}
			})
		}
	}
}

func TestAStartWithAKeyIsRepeatedWhereNothingIsKnownOfTheFirst(t *testing.T) {
	for name, c := range map[string]struct {
		fault fault
		isNew bool
	}{
		"the events were lost": {lost, true},
		"the answer was lost":  {unanswered, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := withClusters(t)
			f.log.fault = c.fault
			if first, err := f.StartOperation(t.Context(), ann, upgrade("k")); !errors.Is(err, commands.ErrOutcomeUnknown) || first != (commands.OperationReceipt{}) {
				t.Errorf("the first is %+v: %v", first, err)
			}
			f.log.fault = nil
			second, err := f.StartOperation(t.Context(), ann, upgrade("k"))
			if err != nil || second.New != c.isNew {
				t.Errorf("the second is %+v: %v", second, err)
			}
			if got := f.types(event.RosterStream); got != "ClusterCreated ClusterCreated UpgradeStarted" {
				t.Errorf("recorded are %s", got)
			}
		})
	}
}

const gaveUp = "abandoned by ann: why not"

// withNodes has an operation that has two hosts in hand, whose nodes it has cordoned.
func withNodes(t *testing.T) *fixture {
	t.Helper()
	f := withClusters(t)
	f.record(event.RosterStream, event.ContainerManagerDefined{ManagerID: "M", Manager: "m"},
		event.ClusterReconfigured{ClusterID: "C", Cluster: "c", ManagerID: "M", Manager: "m"})
	started := event.Started{Operation: "o", ClusterID: "C", Cluster: "c", Policy: event.DefaultPolicy()}
	var taken, turns []event.Event
	for _, m := range []event.Member{{HostID: "h1", Host: "10.0.0.1"}, {HostID: "h2", Host: "10.0.0.2"}} {
		started.Hosts = append(started.Hosts, m)
		claim := domain.ClaimID("claim of " + m.HostID)
		turn := event.Turn{Operation: "o", HostID: m.HostID, Host: m.Host, Claim: claim}
		f.record(event.RosterStream, event.HostAdded{HostID: m.HostID, Host: m.Host}, event.HostJoined{HostID: m.HostID, Host: m.Host, ClusterID: "C", Cluster: "c"})
		taken = append(taken, event.HostTaken{HostID: m.HostID, Host: m.Host, Claim: claim, Operation: "o", Term: 1})
		turns = append(turns, event.HostTurnBegun{Turn: turn, Term: 1}, event.HostTurnCordoned{Turn: turn})
	}
	f.record(event.RosterStream, event.UpgradeStarted{Started: started})
	f.record(event.RosterStream, taken...)
	f.record(event.OperationStream("o"), turns...)
	return f
}

// abandoned checks that the operation of withNodes was abandoned, once.
func (f *fixture) abandoned() {
	f.t.Helper()
	for stream, want := range map[event.Stream]string{
		event.OperationStream("o"): "HostTurnBegun HostTurnCordoned HostTurnBegun HostTurnCordoned OperationAbandoned HostTurnFailed HostTurnFailed",
		event.HostStream("h1"):     "HostUncordonFailed",
		event.HostStream("h2"):     "HostUncordonFailed",
		event.RosterStream: "ClusterCreated ClusterCreated ContainerManagerDefined ClusterReconfigured HostAdded HostJoined HostAdded HostJoined " +
			"UpgradeStarted HostTaken HostTaken HostReleased HostReleased OperationAborted",
	} {
		if got := f.types(stream); got != want {
			f.t.Errorf("recorded on %s are %s", stream, got)
		}
	}
	for _, id := range []domain.HostID{"h1", "h2"} {
		for _, r := range f.history(event.HostStream(id)) {
			if left := r.Event.(event.HostUncordonFailed); left.ManagerID != "M" || left.Reason != gaveUp {
				f.t.Errorf("the node of %s is left to %+v", id, left)
			}
		}
	}
	all := f.history(event.RosterStream)
	if end, ok := all[len(all)-1].Event.(event.OperationAborted); !ok || end.Cause != gaveUp {
		f.t.Errorf("it ended with %+v", all[len(all)-1].Event)
	}
}

// TestAnAbandonedOperationEndsWhereverItsEndBrokeOff has the store fail at each of the
// four appends: the operation's, one for each host, and the roster's.
func TestAnAbandonedOperationEndsWhereverItsEndBrokeOff(t *testing.T) {
	abandon := func(f *fixture, h *commands.Handler) error {
		_, err := h.AbandonOperation(f.t.Context(), ann, "o")
		return err
	}
	finish := func(f *fixture, h *commands.Handler) error {
		_, err := h.FinishAbandoned(f.t.Context(), ann, "o")
		return err
	}
	for name, c := range map[string]struct {
		fault fault
		least int // appends before it, so that there is something to finish
		heal  func(*fixture, *commands.Handler) error
	}{
		"not recorded, and asked for again":   {unavailable, 0, abandon},
		"not recorded, and found by a leader": {unavailable, 1, finish},
		"events lost, and asked for again":    {lost, 0, abandon},
		"events lost, and found by a leader":  {lost, 1, finish},
		"answer lost, and asked for again":    {unanswered, 0, abandon},
		"answer lost, and found by a leader":  {unanswered, 0, finish},
	} {
		for appends := c.least; appends < 4; appends++ {
			t.Run(name, func(t *testing.T) {
				f := withNodes(t)
				f.log.fault = after(appends, c.fault)
				if err := abandon(f, f.Handler); err == nil {
					t.Fatalf("the store did not fail after %d appends", appends)
				}
				f.log.fault = nil
				for _, h := range []*commands.Handler{f.otherInstance(), f.Handler} { // the second time there is nothing to do
					if err := c.heal(f, h); err != nil {
						t.Errorf("after %d appends: %v", appends, err)
					}
					f.abandoned()
				}
			})
		}
	}
}

func TestAnOperationThatWasNotAbandonedIsNotFinished(t *testing.T) {
	f := withNodes(t)
	before := f.types(event.RosterStream)
	if _, err := f.FinishAbandoned(t.Context(), ann, "o"); err != nil {
		t.Error(err)
	}
	if _, err := f.FinishAbandoned(t.Context(), ann, "p"); !errors.Is(err, commands.ErrNoOperation) {
		t.Error(err)
	}
	if got := f.types(event.RosterStream); got != before {
		t.Errorf("recorded are %s", got)
	}
}

func TestAnOperationThatHasEndedIsNotSteered(t *testing.T) {
	for name, steer := range map[string]func(*fixture) error{
		"pause":   func(f *fixture) error { _, err := f.PauseOperation(f.t.Context(), ann, "o"); return err },
		"cancel":  func(f *fixture) error { _, err := f.CancelOperation(f.t.Context(), ann, "o"); return err },
		"abandon": func(f *fixture) error { _, err := f.AbandonOperation(f.t.Context(), ann, "o"); return err },
	} {
		for _, before := range []bool{false, true} { // it was asked for before the end
			t.Run(name, func(t *testing.T) {
				f := withNodes(t)
				if before {
					if err := steer(f); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := f.EndOperation(t.Context(), "o", ""); err != nil {
					t.Fatal(err)
				}
				recorded := f.types(event.OperationStream("o"))
				if err := steer(f); errors.Is(err, commands.ErrEnded) == before || before && err != nil {
					t.Errorf("asked for before: %v: %v", before, err)
				}
				if got := f.types(event.OperationStream("o")); got != recorded {
					t.Errorf("recorded are %s", got)
				}
			})
		}
	}
}
