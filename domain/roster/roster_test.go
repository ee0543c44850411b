package roster

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/scenario"

	"pgregory.net/rapid"
)

var (
	created = event.ClusterCreated{ClusterID: "C", Cluster: "c", Network: "default"}
	other   = event.ClusterCreated{ClusterID: "D", Cluster: "d", Network: "default"}
	one     = event.HostAdded{HostID: "1", Host: "10.0.0.1", RemoteUser: "root", Credential: "k", Fingerprint: "f"}
	two     = event.HostAdded{HostID: "2", Host: "10.0.0.2", RemoteUser: "root", Credential: "k", Fingerprint: "f"}
	ten     = event.HostAdded{HostID: "10", Host: "10.0.0.10", RemoteUser: "root", Credential: "k", Fingerprint: "f"}
)

func joined(h event.HostAdded) event.HostJoined {
	return event.HostJoined{HostID: h.HostID, Host: h.Host, ClusterID: "C", Cluster: "c"}
}

func left(h event.HostAdded) event.HostLeft {
	return event.HostLeft{HostID: h.HostID, Host: h.Host, ClusterID: "C", Cluster: "c"}
}

var upgrading = event.UpgradeStarted{Started: event.Started{
	Operation: "op", ClusterID: "C", Cluster: "c", Policy: event.DefaultPolicy(), Hosts: []event.Member{{HostID: "1", Host: "10.0.0.1"}},
}}

func given(t *testing.T, events ...event.RosterEvent) *scenario.Scenario[*Roster, event.RosterEvent] {
	t.Helper()
	return scenario.Given(t, New(), (*Roster).Evolve, events...)
}

type decision func(*Roster) ([]event.RosterEvent, error)

// ready is known of all hosts of a roster: that they may join, and have no host key
// yet.
func ready(r *Roster) Known {
	known := Known{Hosts: map[domain.HostID]KnownHost{}}
	r.Hosts(func(h Host) bool {
		known.Hosts[h.HostID] = KnownHost{Ready: true}
		return true
	})
	return known
}

func add(h event.HostAdded, cluster ...domain.ClusterName) decision {
	return func(r *Roster) ([]event.RosterEvent, error) {
		var c *domain.ClusterName
		if len(cluster) > 0 {
			c = &cluster[0]
		}
		return r.AddHost(h, c, ready(r))
	}
}

func members(old, wanted []domain.Address) decision {
	return func(r *Roster) ([]event.RosterEvent, error) { return r.PutMembers("c", old, wanted, ready(r)) }
}

func start(kind domain.OperationKind, id domain.OperationID) decision {
	return func(r *Roster) ([]event.RosterEvent, error) {
		events, err := r.Start(Request{ID: id, Kind: kind, Cluster: "c", Policy: event.DefaultPolicy()}, Known{})
		return events, err
	}
}

func TestAHostIsAddedIntoItsCluster(t *testing.T) {
	given(t, created).When(add(one, "c")).Then(one, joined(one))
	given(t, created).When(add(one)).Then(one)
	given(t).When(add(one, "c")).ThenRefused(ErrUnknownCluster)
}

func TestAKnownHostStaysAsItIs(t *testing.T) {
	another := one
	another.Fingerprint = "g"
	given(t, one).When(add(another)).ThenRefused(ErrOtherKey)
	given(t, created, one).When(add(one, "c")).ThenRefused(ErrOtherMember)
	keyless := event.HostAdded{HostID: "3", Host: "10.0.0.3"}
	given(t).When(add(keyless)).ThenRefused(domain.ErrInvalid)
}

func TestARemovedHostLeavesItsCluster(t *testing.T) {
	remove := func(r *Roster) ([]event.RosterEvent, error) { return r.RemoveHost(one.Host) }
	given(t, created, one, joined(one)).Once(remove).Then(left(one), event.HostRemoved{HostID: "1", Host: one.Host})
	given(t).When(remove).ThenRefused(ErrNoHost)
	taken := event.HostTaken{HostID: "1", Host: one.Host, Claim: "x", Operation: "op", Term: 1}
	given(t, created, one, joined(one), upgrading, taken).When(remove).ThenRefused(ErrHostInHand)
	given(t, created, one, joined(one), upgrading, taken, event.OperationCompleted{Operation: "op", ClusterID: "C"}).
		Once(remove).Then(left(one), event.HostRemoved{HostID: "1", Host: one.Host})
}

func TestMembersAreReplacedAllOrNothing(t *testing.T) {
	base := []event.RosterEvent{created, other, one, two, joined(one)}
	given(t, base...).Once(members([]domain.Address{one.Host}, []domain.Address{two.Host})).Then(left(one), joined(two))
	given(t, base...).When(members([]domain.Address{one.Host}, []domain.Address{one.Host, one.Host})).Then()
	given(t, base...).When(members(nil, []domain.Address{two.Host})).ThenRefused(ErrMembersChanged)
	given(t, base...).When(members([]domain.Address{one.Host}, []domain.Address{"10.0.0.9"})).ThenRefused(ErrNoHost)
	given(t, base...).When(func(r *Roster) ([]event.RosterEvent, error) {
		return r.PutMembers("c", []domain.Address{one.Host}, []domain.Address{two.Host}, Known{Hosts: map[domain.HostID]KnownHost{"2": {}}})
	}).ThenRefused(ErrHostNotReady)
	away := event.HostJoined{HostID: "2", Host: two.Host, ClusterID: "D", Cluster: "d"}
	given(t, append(base, away)...).When(members([]domain.Address{one.Host}, []domain.Address{two.Host})).ThenRefused(ErrOtherMember)
}

func TestAClusterRunsOneOperation(t *testing.T) {
	base := []event.RosterEvent{created, one, joined(one), ten, joined(ten), two, joined(two)}
	given(t, base...).When(start(domain.Upgrade, "op")).Then(event.UpgradeStarted{Started: event.Started{
		Operation: "op", ClusterID: "C", Cluster: "c", Policy: event.DefaultPolicy(),
		Hosts: []event.Member{{HostID: "1", Host: one.Host}, {HostID: "2", Host: two.Host}, {HostID: "10", Host: ten.Host}},
	}})
	running := append(base, upgrading)
	given(t, running...).When(start(domain.Upgrade, "another")).Then()
	given(t, running...).When(start(domain.Restart, "another")).ThenRefused(ErrRunning)
	given(t, running...).When(start(domain.Restart, "op")).ThenRefused(ErrKeyUsed)
	given(t, running...).When(func(r *Roster) ([]event.RosterEvent, error) { return r.DeleteCluster("c") }).ThenRefused(ErrRunning)
	network := "other"
	given(t, append(running, event.NetworkDefined{Network: "other"})...).
		When(func(r *Roster) ([]event.RosterEvent, error) { return r.PutCluster("E", "c", &network, nil) }).ThenRefused(ErrRunning)
	given(t, running...).When(func(r *Roster) ([]event.RosterEvent, error) { return r.End("op", "") }).
		Then(event.OperationCompleted{Operation: "op", ClusterID: "C", Cluster: "c"})
}

func TestAHostIsTakenByOne(t *testing.T) {
	take := func(claim domain.ClaimID, term domain.Term) decision {
		return func(r *Roster) ([]event.RosterEvent, error) { return r.TakeHost("1", claim, "", term) }
	}
	taken := event.HostTaken{HostID: "1", Host: one.Host, Claim: "x", Term: 2}
	given(t, one).When(take("x", 2)).Then(taken)
	given(t, one, taken).When(take("y", 2)).ThenRefused(ErrTaken)
	given(t, one, taken).When(take("y", 1)).ThenRefused(ErrOldTerm)
	given(t, one, taken).When(take("y", 3)).Then(event.HostTaken{HostID: "1", Host: one.Host, Claim: "y", Term: 3})
	release := func(claim domain.ClaimID, term domain.Term) decision {
		return func(r *Roster) ([]event.RosterEvent, error) { return r.ReleaseHost("1", claim, term) }
	}
	released := event.HostReleased{HostID: "1", Host: one.Host, Claim: "x"}
	given(t, one, taken).When(release("y", 2)).Then()
	given(t, one, taken).When(release("x", 2)).Then(released)
	given(t, one, taken).When(release("x", 3)).Then(released) // what an earlier term left
	given(t, one, taken).When(release("x", 1)).Then()         // carried on by a later term
}

func TestATermThatBeganEndsThoseBefore(t *testing.T) {
	begin := func(term domain.Term) decision {
		return func(r *Roster) ([]event.RosterEvent, error) { return r.BeginTerm(term, "b", "fresh") }
	}
	begun := event.TermBegun{Term: 2, Instance: "a", Log: "first"}
	given(t, one).When(begin(2)).Then(event.TermBegun{Term: 2, Instance: "b", Log: "fresh"})
	given(t, one, begun).When(begin(2)).Then()
	given(t, one, begun).When(begin(3)).Then(event.TermBegun{Term: 3, Instance: "b", Log: "first"})
	given(t, one, begun, event.TermBegun{Term: 3, Instance: "older"}).When(begin(4)).Then(event.TermBegun{Term: 4, Instance: "b", Log: "first"})
	given(t, one, begun).When(begin(1)).ThenRefused(ErrOldTerm)
	given(t, one, begun).When(func(r *Roster) ([]event.RosterEvent, error) { return r.TakeHost("1", "x", "", 1) }).ThenRefused(ErrOldTerm)
}

func TestAnOperationTakesMembersOnly(t *testing.T) {
	take := func(r *Roster) ([]event.RosterEvent, error) { return r.TakeHost("1", "x", "op", 1) }
	taken := event.HostTaken{HostID: "1", Host: one.Host, Claim: "x", Operation: "op", Term: 1}
	running := []event.RosterEvent{created, other, one, joined(one), upgrading}
	given(t, running...).When(take).Then(taken)
	given(t, append(running, left(one))...).When(take).ThenRefused(ErrLeft)
	away := event.HostJoined{HostID: "1", Host: one.Host, ClusterID: "D", Cluster: "d"}
	given(t, append(running, left(one), away)...).When(take).ThenRefused(ErrLeft)
}

func TestWhatIsInUseStays(t *testing.T) {
	manager := event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Type: domain.Trivial, Options: json.RawMessage("{}")}
	managed := event.ClusterCreated{ClusterID: "C", Cluster: "c", Network: "n", ManagerID: "M", Manager: "m"}
	network := event.NetworkDefined{Network: "n", Type: domain.FlannelEtcd, Options: json.RawMessage("{}")}
	given(t, manager, network, managed).When(func(r *Roster) ([]event.RosterEvent, error) { return r.RemoveManager("m") }).ThenRefused(ErrInUse)
	given(t, manager, network, managed).When(func(r *Roster) ([]event.RosterEvent, error) { return r.RemoveNetwork("n") }).ThenRefused(ErrInUse)
	given(t).When(func(r *Roster) ([]event.RosterEvent, error) { return r.RemoveNetwork("default") }).ThenRefused(ErrInUse)
}

func TestTheServerOfAContainerManagerHasNoPassword(t *testing.T) {
	for _, key := range []string{"server_url", "apiserver"} {
		for server, allowed := range map[string]bool{
			"https://k:1": true, "http://k/api": true, "https://user:secret@k:1": false, "https://user@k": false,
			"user:secret@k:1": false, "https://user:se cret@k": false, "ftp://k": false, "": false,
		} {
			options, err := json.Marshal(map[string]string{key: server})
			if err != nil {
				t.Fatal(err)
			}
			_, err = New().DefineManager(event.ContainerManagerDefined{Manager: "m", Type: domain.Kubernetes, Options: options})
			if (err == nil) != allowed || err != nil && (!errors.Is(err, domain.ErrInvalid) || strings.Contains(err.Error(), "cret")) {
				t.Errorf("%s %q: %v", key, server, err)
			}
		}
	}
}

// TestAHostIsNeverInTwoClusters tries any sequence of requests (rule 1).
func TestAHostIsNeverInTwoClusters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := New()
		for _, e := range []event.RosterEvent{created, other, one, two, ten} {
			r.Evolve(e)
		}
		cluster := rapid.SampledFrom([]domain.ClusterName{"c", "d"})
		address := rapid.SampledFrom([]domain.Address{one.Host, two.Host, ten.Host})
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			name, host := cluster.Draw(t, "cluster"), address.Draw(t, "host")
			var events []event.RosterEvent
			switch rapid.IntRange(0, 3).Draw(t, "request") {
			case 0:
				events, _ = r.Join(name, host, ready(r))
			case 1:
				events, _ = r.Leave(name, host)
			case 2:
				id, _ := r.names.Get(name)
				var present []domain.Address
				for _, m := range r.Members(id) {
					present = append(present, m.Host)
				}
				events, _ = r.PutMembers(name, present, rapid.SliceOf(address).Draw(t, "new"), ready(r))
			case 3:
				events, _ = r.AddHost(event.HostAdded{HostID: "n", Host: host, Fingerprint: "f"}, &name, ready(r))
			}
			for _, e := range events {
				r.Evolve(e)
			}
			seen := map[domain.HostID]bool{}
			for _, id := range []domain.ClusterID{"C", "D"} {
				for _, m := range r.Members(id) {
					if h, ok := r.Host(m.HostID); seen[m.HostID] || !ok || h.Cluster != id {
						t.Fatalf("host %s is in two clusters, or its cluster is not known", m.Host)
					}
					seen[m.HostID] = true
				}
			}
		}
	})
}

func TestAKnownHostThatIsGivenOtherwiseIsRefused(t *testing.T) {
	plain := event.HostAdded{HostID: "1", Host: "10.0.0.1", RemoteUser: "root", Fingerprint: "f"}
	special := plain
	special.Port, special.RemoteUser, special.HostKey, special.Certificate = 2222, "core", "SHA256:a", "ssh-ed25519-cert-v01@openssh.com AAAA"
	type given = event.HostAdded
	for name, c := range map[string]struct {
		known  event.HostAdded
		pinned string
		given  given
		field  string // "": it is the same
	}{
		"nothing":                             {special, "", given{}, ""},
		"all":                                 {special, "", special, ""},
		"the default port":                    {plain, "", given{Port: 22}, ""},
		"another port":                        {plain, "", given{Port: 2222}, "ssh_port"},
		"the default port of another":         {special, "", given{Port: 22}, "ssh_port"},
		"the default user":                    {plain, "", given{RemoteUser: "root"}, ""},
		"another user":                        {plain, "", given{RemoteUser: "core"}, "remote_user"},
		"the default user of another":         {special, "", given{RemoteUser: "root"}, "remote_user"},
		"a host key, of a host with none":     {plain, "", given{HostKey: "SHA256:a"}, "ssh_host_key"},
		"the pinned host key":                 {plain, "SHA256:a", given{HostKey: "SHA256:a"}, ""},
		"another host key than the pinned":    {plain, "SHA256:a", given{HostKey: "SHA256:b"}, "ssh_host_key"},
		"the first host key, of another now":  {special, "SHA256:b", given{HostKey: "SHA256:a"}, "ssh_host_key"},
		"the host key that was accepted":      {special, "SHA256:b", given{HostKey: "SHA256:b"}, ""},
		"another host key than the given":     {special, "", given{HostKey: "SHA256:b"}, "ssh_host_key"},
		"the certificate with a comment":      {special, "", given{Certificate: special.Certificate + "  ann@example.com\n"}, ""},
		"another certificate":                 {special, "", given{Certificate: special.Certificate + "B"}, "ssh_certificate"},
		"a certificate, of a host without":    {plain, "", given{Certificate: special.Certificate}, "ssh_certificate"},
		"what is no certificate":              {special, "", given{Certificate: "bogus"}, "ssh_certificate"},
		"the port before the host key":        {plain, "", given{Port: 1, HostKey: "SHA256:b"}, "ssh_port"},
		"the host key before the certificate": {plain, "", given{HostKey: "SHA256:b", Certificate: "bogus"}, "ssh_host_key"},
	} {
		r := New()
		r.Evolve(c.known)
		c.given.Host = c.known.Host
		events, err := r.AddHost(c.given, nil, Known{Hosts: map[domain.HostID]KnownHost{"1": {Pinned: c.pinned}}})
		if len(events) > 0 || (err != nil) != (c.field != "") {
			t.Errorf("%s: %v, %v", name, events, err)
		}
		refusal, ok := errors.AsType[*domain.Refusal](err)
		if c.field != "" && (!ok || refusal.Kind != domain.Conflict || refusal.Fields[0].Field != c.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnotherKeyOrClusterIsSaidBeforeWhatElseDiffers(t *testing.T) {
	another := one
	another.Fingerprint, another.Port = "g", 1
	given(t, one).When(add(another)).ThenRefused(ErrOtherKey)
	another.Fingerprint = one.Fingerprint
	given(t, created, one).When(add(another, "c")).ThenRefused(ErrOtherMember)
	given(t, one).When(add(another)).ThenRefused(ErrKnownOtherwise)
}

func TestADecisionThatMissesSomethingSaysWhat(t *testing.T) {
	asks := func(what decision, wanted Unknown, history ...event.RosterEvent) {
		t.Helper()
		r := New()
		for _, e := range history {
			r.Evolve(e)
		}
		events, err := what(r)
		unknown, ok := errors.AsType[*Unknown](err)
		if !ok || len(events) > 0 || !slices.Equal(unknown.Hosts, wanted.Hosts) || !slices.Equal(unknown.Operations, wanted.Operations) {
			t.Errorf("%v, %v", events, err)
		}
	}
	base := []event.RosterEvent{created, one, joined(one), two, ten}
	asks(func(r *Roster) ([]event.RosterEvent, error) { return r.Join("c", two.Host, Known{}) }, Unknown{Hosts: []domain.HostID{"2"}}, base...)
	asks(func(r *Roster) ([]event.RosterEvent, error) {
		known := Known{Hosts: map[domain.HostID]KnownHost{"2": {Ready: true}}}
		return r.PutMembers("c", []domain.Address{one.Host}, []domain.Address{one.Host, two.Host, ten.Host}, known)
	}, Unknown{Hosts: []domain.HostID{"10"}}, base...)
	asks(func(r *Roster) ([]event.RosterEvent, error) {
		return r.AddHost(event.HostAdded{Host: one.Host, HostKey: "SHA256:a"}, nil, Known{})
	}, Unknown{Hosts: []domain.HostID{"1"}}, base...)
	failed := event.DefaultPolicy()
	failed.Only = &event.Only{Failed: true}
	asks(func(r *Roster) ([]event.RosterEvent, error) {
		return r.Start(Request{ID: "again", Kind: domain.Upgrade, Cluster: "c", Policy: failed}, Known{})
	}, Unknown{Operations: []domain.OperationID{"op"}}, append(base, upgrading, event.OperationCompleted{Operation: "op", ClusterID: "C"})...)
}
