package process

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

// fact is an event on its stream.
type fact struct {
	stream event.Stream
	event  event.Event
}

func onRoster(e event.RosterEvent) fact { return fact{event.RosterStream, e} }

func onHost(id domain.HostID, e event.HostEvent) fact { return fact{event.HostStream(id), e} }

func onOperation(e event.OperationEvent) fact { return fact{event.OperationStream("o"), e} }

// worldOf is what facts come to.
func worldOf(facts ...fact) *world {
	w := newWorld()
	for _, f := range facts {
		apply(&w, f)
	}
	return &w
}

func apply(w *world, f fact) consequences {
	return w.apply(event.Recorded{Position: w.position + 1, Stream: f.stream, Event: f.event})
}

// known are the hosts 1, a member of cluster c, and 2, of which nothing is known.
var known = []fact{
	onRoster(event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Credential: "token"}),
	onRoster(event.ClusterCreated{ClusterID: "C", Cluster: "c", ManagerID: "M", Manager: "m"}),
	onRoster(event.HostAdded{HostID: "1", Host: "10.0.0.1", Credential: "key"}),
	onRoster(event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"}),
	onRoster(event.HostAdded{HostID: "2", Host: "10.0.0.2"}),
}

func with(given []fact, more ...fact) []fact { return slices.Concat(given, more) }

func TestWhatAnEventCallsFor(t *testing.T) {
	removed := event.HostRemoved{HostID: "1", Host: "10.0.0.1"}
	registered := onHost("1", event.HostRegistered{Host: "10.0.0.1", ManagerID: "M"})
	unregistered := onHost("1", event.HostUnregistered{Host: "10.0.0.1", ManagerID: "M"})
	started := onRoster(event.UpgradeStarted{Started: event.Started{Operation: "o", ClusterID: "C", Cluster: "c"}})
	turn := event.Turn{Operation: "o", HostID: "1", Host: "10.0.0.1"}
	changed, ordered := consequences{changed: []domain.HostID{"1"}}, consequences{ordered: []domain.HostID{"1"}}
	for name, c := range map[string]struct {
		given []fact
		when  fact
		then  consequences
	}{
		"a host is added":    {nil, known[2], changed},
		"it joins":           {known, known[3], ordered},
		"it leaves":          {known, onRoster(event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"}), ordered},
		"it is taken":        {known, onRoster(event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x"}), consequences{}},
		"it is released":     {known, onRoster(event.HostReleased{HostID: "1", Host: "10.0.0.1", Claim: "x"}), changed},
		"it is investigated": {known, onHost("1", event.HostInvestigated{Host: "10.0.0.1"}), changed},
		"it is silent":       {known, onHost("1", event.HostWentSilent{Host: "10.0.0.1"}), changed},
		"it is to be taken over": {
			known, onHost("1", event.HostTakeoverOrdered{Host: "10.0.0.1"}), consequences{changed: []domain.HostID{"1"}, ordered: []domain.HostID{"1"}},
		},
		"its other key is accepted": {
			known, onHost("1", event.HostKeyAccepted{Host: "10.0.0.1"}), consequences{changed: []domain.HostID{"1"}, ordered: []domain.HostID{"1"}},
		},
		"it is removed": {
			known, onRoster(removed), consequences{ordered: []domain.HostID{"1"}, removed: &removed, forgotten: "1", unused: "key"},
		},
		"it is removed and registered still": {
			with(known, registered), onRoster(removed),
			consequences{changed: []domain.HostID{"1"}, ordered: []domain.HostID{"1"}, removed: &removed, unused: "key"},
		},
		"then it is unregistered": {
			with(known, registered, onRoster(removed)), unregistered, consequences{changed: []domain.HostID{"1"}, forgotten: "1"},
		},
		"it was removed while it was being registered": {
			with(known, onRoster(removed)), registered, consequences{changed: []domain.HostID{"1", "1"}},
		},
		"a late word of a host that was forgotten": {
			with(known, onRoster(removed)), onHost("1", event.HostWentSilent{Host: "10.0.0.1"}), consequences{changed: []domain.HostID{"1"}},
		},
		"its cluster has another container manager": {
			known, onRoster(event.ClusterReconfigured{ClusterID: "C", Cluster: "c"}), ordered,
		},
		"a cluster is created":           {known, onRoster(event.ClusterCreated{ClusterID: "D", Cluster: "d"}), consequences{}},
		"a cluster is deleted":           {known, onRoster(event.ClusterDeleted{ClusterID: "D", Cluster: "d"}), consequences{}},
		"a network is defined":           {known, onRoster(event.NetworkDefined{Network: "n"}), consequences{}},
		"a network is removed":           {known, onRoster(event.NetworkRemoved{Network: "n"}), consequences{}},
		"a container manager is defined": {known, onRoster(event.ContainerManagerDefined{ManagerID: "N"}), consequences{}},
		"a container manager is removed": {known, onRoster(event.ContainerManagerRemoved{ManagerID: "M"}), consequences{}},
		"a term begins":                  {known, onRoster(event.TermBegun{Term: 2}), consequences{}},
		"an operation starts":            {known, started, consequences{}},
		"a turn begins":                  {with(known, started), onOperation(event.HostTurnBegun{Turn: turn}), consequences{}},
		"an operation is abandoned":      {with(known, started), onOperation(event.OperationAbandoned{Operation: "o"}), consequences{abandoned: "o"}},
		"an operation ends":              {with(known, started), onRoster(event.OperationCompleted{Operation: "o", ClusterID: "C"}), consequences{}},
		"a sweep ends":                   {known, fact{event.WatchStream, event.SweepFinished{Missed: []domain.HostID{"1"}}}, consequences{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := apply(worldOf(c.given...), c.when); !reflect.DeepEqual(got, c.then) {
				t.Errorf("it calls for %+v, want %+v", got, c.then)
			}
		})
	}
}

func TestAHostThatIsForgottenLeavesNothing(t *testing.T) {
	w := worldOf(with(known,
		onHost("1", event.HostInvestigated{Host: "10.0.0.1"}),
		fact{event.WatchStream, event.SweepFinished{Missed: []domain.HostID{"1"}, Left: []domain.HostID{"1"}}},
		onRoster(event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"}),
		onRoster(event.HostRemoved{HostID: "1", Host: "10.0.0.1"}),
	)...)
	_, inHosts := w.hosts["1"]
	_, inAdded := w.added["1"]
	_, inRemoved := w.removed["1"]
	if inHosts || inAdded || inRemoved || w.missing["1"] || w.left["1"] {
		t.Errorf("left is %+v", w)
	}
	if used, named := w.named["key"]; used || !named {
		t.Error("its credential is in use, or the log does not name it")
	}
}

func TestOnlyOperationsThatRunAreKnown(t *testing.T) {
	start := func(id domain.OperationID) event.Started {
		return event.Started{Operation: id, ClusterID: "C", Cluster: "c"}
	}
	w := worldOf(with(known,
		onRoster(event.DeployStarted{Started: start("d"), Version: "2"}), onRoster(event.UpgradeStarted{Started: start("u")}),
		onRoster(event.RestartStarted{Started: start("r")}), onRoster(event.RestartStarted{Started: start("s")}),
		onRoster(event.OperationCompleted{Operation: "u", ClusterID: "C"}), onRoster(event.OperationAborted{Operation: "s", ClusterID: "C"}),
	)...)
	if got := slices.Sorted(maps.Keys(w.operations)); !slices.Equal(got, []domain.OperationID{"d", "r"}) {
		t.Fatalf("known are %v", got)
	}
	if d, r := w.operations["d"], w.operations["r"]; d.Kind != domain.Deploy || d.Version != "2" || r.Kind != domain.Restart {
		t.Errorf("known are %+v and %+v", d, r)
	}
}

func TestSweepsSayWhoIsMissingAndWhoIsLeftAlone(t *testing.T) {
	sweep := func(e event.SweepFinished) fact { return fact{event.WatchStream, e} }
	w := worldOf(
		sweep(event.SweepFinished{Missed: []domain.HostID{"1", "2"}, Left: []domain.HostID{"3", "4"}}),
		sweep(event.SweepFinished{Answered: []domain.HostID{"1"}, Looked: []domain.HostID{"3"}, Left: []domain.HostID{"1"}}),
	)
	if !maps.Equal(w.missing, map[domain.HostID]bool{"2": true}) || !maps.Equal(w.left, map[domain.HostID]bool{"1": true, "4": true}) {
		t.Errorf("missing are %v, left alone %v", w.missing, w.left)
	}
}

// TestTheTokenOfAContainerManagerIsKeptWhileHostsAreRegisteredThere also when it was
// removed long ago.
func TestTheTokenOfAContainerManagerIsKeptWhileHostsAreRegisteredThere(t *testing.T) {
	w := worldOf(with(known, onHost("1", event.HostRegistered{Host: "10.0.0.1", ManagerID: "M"}))...)
	expect := func(when string, want ...domain.CredentialID) {
		t.Helper()
		if got := w.retire(); !slices.Equal(got, want) {
			t.Errorf("%s unused are %v, want %v", when, got, want)
		}
	}
	expect("while it is defined")
	apply(w, onRoster(event.ContainerManagerRemoved{ManagerID: "M"}))
	expect("when it is removed")
	apply(w, onHost("1", event.HostUnregistered{Host: "10.0.0.1", ManagerID: "M"}))
	if !w.named["token"] {
		t.Error("its token is not in use though nobody said so")
	}
	expect("when no host is registered there", "token")
	expect("then")
	if w.named["token"] {
		t.Error("its token is in use")
	}
}

func TestWhichHostsNeedUpkeep(t *testing.T) {
	fit := []fact{
		onHost("1", event.HostInvestigated{Host: "10.0.0.1"}), onHost("1", event.HostBootstrapped{Host: "10.0.0.1"}),
		onHost("1", event.HostRegistered{Host: "10.0.0.1", ManagerID: "M"}),
	}
	const term = 2
	taken := func(by domain.OperationID, term domain.Term) fact {
		return onRoster(event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x", Operation: by, Term: term})
	}
	removed := onRoster(event.HostRemoved{HostID: "1", Host: "10.0.0.1"})
	for name, c := range map[string]struct {
		given         []fact
		known, needed bool
	}{
		"a new one":                                   {known, true, true},
		"one that is fit":                             {with(known, fit...), true, false},
		"one whose facts are old":                     {with(known, with(fit, onHost("1", event.HostAnswered{Host: "10.0.0.1"}))...), true, true},
		"one that has left its cluster":               {with(known, with(fit, onRoster(event.HostLeft{HostID: "1", ClusterID: "C"}))...), true, true},
		"one that upkeep of this term did not free":   {with(known, with(fit, taken("", term))...), true, true},
		"one that upkeep of an earlier term has":      {with(known, with(fit, taken("", term-1))...), true, false},
		"one that an operation has":                   {with(known, with(fit, taken("o", term))...), true, false},
		"one that is removed, and registered still":   {with(known, with(fit, removed)...), false, true},
		"one that is removed, and registered nowhere": {with(known, removed), false, false},
		"one that was never there":                    {nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			h, known, needed := worldOf(c.given...).upkeepOf("1", term)
			if known != c.known || needed != c.needed {
				t.Errorf("known: %v, needs upkeep: %v", known, needed)
			}
			if needed && h.Host != "10.0.0.1" {
				t.Errorf("it is %+v", h)
			}
		})
	}
}

func TestTheContainerManagerThatAHostWants(t *testing.T) {
	w := worldOf(known...)
	for id, want := range map[domain.HostID]domain.ManagerID{"1": "M", "2": ""} {
		h, _ := w.roster.Host(id)
		if got := w.wanted(h); got != want {
			t.Errorf("host %s wants %q", id, got)
		}
	}
	if got := w.wanted(roster.Host{}); got != "" {
		t.Errorf("no host wants %q", got)
	}
}
