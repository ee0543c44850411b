package process

import (
	"slices"
	"testing"
	"testing/synctest"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/operation"
)

func TestTheSituationOfAHost(t *testing.T) {
	taken := func(by domain.OperationID, term domain.Term) event.Event {
		return event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x", Operation: by, Term: term}
	}
	for name, c := range map[string]struct {
		onRoster, onHost []event.Event
		job              *job // what is under way at it; nil: nothing
		want             operation.Situation
	}{
		"it is free": {},
		"it is of another kind": {
			onHost: []event.Event{event.HostInvestigated{Host: "10.0.0.1", Facts: event.Facts{OSTree: true}}},
			want:   operation.Situation{OSTree: true},
		},
		"it has left": {
			onRoster: []event.Event{event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "i", Cluster: "c"}},
			want:     operation.Situation{Availability: operation.Gone},
		},
		"it was removed": {
			onRoster: []event.Event{event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "i", Cluster: "c"}, event.HostRemoved{HostID: "1", Host: "10.0.0.1"}},
			want:     operation.Situation{Availability: operation.Gone},
		},
		"it is in another cluster": {
			onRoster: []event.Event{
				event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "i", Cluster: "c"},
				event.ClusterCreated{ClusterID: "j", Cluster: "d"},
				event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "j", Cluster: "d"},
			},
			want: operation.Situation{Availability: operation.Gone},
		},
		"it left while its turn goes on": {
			onRoster: []event.Event{event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "i", Cluster: "c"}},
			job:      &job{operation: "o"},
			want:     operation.Situation{Availability: operation.Gone},
		},
		"its turn goes on":                             {job: &job{operation: "o"}, want: operation.Situation{Availability: operation.Taken}},
		"its upkeep goes on":                           {job: &job{}, want: operation.Situation{Availability: operation.Busy, Why: "its upkeep"}},
		"another operation has it":                     {job: &job{operation: "p"}, want: operation.Situation{Availability: operation.Busy, Why: "its upkeep"}},
		"its upkeep left its claim":                    {onRoster: []event.Event{taken("", 1)}, want: operation.Situation{Availability: operation.Busy, Why: "its upkeep"}},
		"its upkeep left its claim in an earlier term": {onRoster: []event.Event{taken("", 0)}},
		"the operation left its claim":                 {onRoster: []event.Event{taken("o", 1)}},
		"it is new": {
			onRoster: []event.Event{
				event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "i", Cluster: "c"},
				event.HostRemoved{HostID: "1", Host: "10.0.0.1"},
				event.HostAdded{HostID: "1", Host: "10.0.0.1"},
				event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "i", Cluster: "c"},
			},
			want: operation.Situation{Availability: operation.Busy, Why: "it is new, and looked at"},
		},
		"it does not answer": {onHost: []event.Event{event.HostWentSilent{Host: "10.0.0.1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoll(t, &fakeHost{}, upgrade, 1, func(*event.Policy) {})
				for stream, events := range map[event.Stream][]event.Event{event.RosterStream: c.onRoster, event.HostStream("1"): c.onHost} {
					if len(events) > 0 {
						r.record(stream, events...)
					}
				}
				r.applied()
				if c.job != nil {
					r.schedule.hosts["1"] = c.job
				}
				if got := r.situation(r.world.operations["o"], r.started.Hosts[0]); got != c.want {
					t.Errorf("it is %+v, want %+v", got, c.want)
				}
			})
		})
	}
}

// TestWhatAnOperationHolds has it claim the first of two hosts.
func TestWhatAnOperationHolds(t *testing.T) {
	turn := event.Turn{Operation: "o", HostID: "1", Host: "10.0.0.1", Claim: "x"}
	begun := event.HostTurnBegun{Turn: turn, Term: 1}
	for name, c := range map[string]struct {
		by         domain.OperationID
		turn       []event.Event
		stage      bool // the host is to download
		busy       bool
		held, idle bool
	}{
		"a host that nobody has":                    {by: "-"},
		"a host that its upkeep has":                {by: ""},
		"a host whose turn goes on":                 {by: "o", turn: []event.Event{begun}, busy: true, held: true},
		"a host whose turn is to be taken up":       {by: "o", turn: []event.Event{begun}, held: true},
		"a host whose turn is over":                 {by: "o", turn: []event.Event{begun, event.HostTurnSucceeded{Turn: turn}}, held: true, idle: true},
		"a host whose turn has failed":              {by: "o", turn: []event.Event{begun, event.HostTurnFailed{Turn: turn}}, held: true, idle: true},
		"a host whose turn is over, being released": {by: "o", turn: []event.Event{begun, event.HostTurnSucceeded{Turn: turn}}, busy: true, held: true},
		"a host whose turn was not begun":           {by: "o", held: true, idle: true},
		"a host whose turn is being begun":          {by: "o", busy: true, held: true},
		"a host whose download is to be taken up":   {by: "o", stage: true, held: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoll(t, &fakeHost{}, upgrade, 2, func(*event.Policy) {})
				if c.by != "-" {
					r.record(event.RosterStream, event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x", Operation: c.by, Term: 1})
				}
				if len(c.turn) > 0 {
					r.record(event.OperationStream("o"), c.turn...)
				}
				r.applied()
				var next operation.Next
				if c.stage {
					next.Stage = r.started.Hosts[:1]
				}
				if c.busy {
					r.schedule.hosts["1"] = &job{operation: "o"}
				}
				held, idle := r.held(r.world.operations["o"], next)
				var want []event.Member
				if c.idle {
					want = r.started.Hosts[:1]
				}
				if held != c.held || !slices.Equal(idle, want) {
					t.Errorf("held: %v, and idle are %v", held, idle)
				}
			})
		})
	}
}
