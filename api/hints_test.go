package api

import (
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/roster"
	"commissaire/projections"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
)

const firstKey, otherKey = "SHA256:a", "SHA256:b"

// known is a roster with a cluster c, whose member 10.0.0.1 operation o has in hand,
// and a cluster d, a host 10.0.0.2 in neither, a network n and a manager m.
func known() *roster.Roster {
	r := roster.New()
	web1 := event.HostAdded{HostID: "1", Host: "10.0.0.1", RemoteUser: "core", Fingerprint: "f", Port: 2222}
	started := event.Started{Operation: "o", ClusterID: "C", Cluster: "c", Hosts: []event.Member{{HostID: "1", Host: "10.0.0.1"}}}
	for _, e := range []event.RosterEvent{
		event.ClusterCreated{ClusterID: "C", Cluster: "c", Network: "default"},
		event.ClusterCreated{ClusterID: "D", Cluster: "d", Network: "default"},
		web1,
		event.HostAdded{HostID: "2", Host: "10.0.0.2", Fingerprint: "g"},
		event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"},
		event.NetworkDefined{Network: "n", Type: domain.FlannelServer, Options: []byte("{}")},
		event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Type: domain.Trivial, Options: []byte("{}")},
		event.UpgradeStarted{Started: started},
		event.HostTaken{HostID: "1", Host: "10.0.0.1", Claim: "x", Operation: "o"},
	} {
		r.Evolve(e)
	}
	return r
}

func TestARefusalSaysHowToGoOn(t *testing.T) {
	add := func(given event.HostAdded, pinned string, clusters ...domain.ClusterName) error {
		given.Host = "10.0.0.1"
		var cluster *domain.ClusterName
		if len(clusters) > 0 {
			cluster = &clusters[0]
		}
		_, err := known().AddHost(given, cluster, roster.Known{Hosts: map[domain.HostID]roster.KnownHost{"1": {Pinned: pinned}}})
		return err
	}
	refused := func(_ []event.RosterEvent, err error) error { return err }
	notReady := roster.Known{Hosts: map[domain.HostID]roster.KnownHost{"1": {}, "2": {}}}
	manager := "k"
	for _, c := range []struct {
		err    error
		detail string
	}{
		{refused(known().DefineNetwork(event.NetworkDefined{Network: "n", Type: domain.FlannelEtcd})), "network n is defined otherwise; DELETE it before defining it anew"},
		{refused(known().DefineManager(event.ContainerManagerDefined{Manager: "m", Type: domain.Trivial, Options: []byte("{}"), TokenDigest: "x"})), "container manager m is defined otherwise; DELETE it before defining it anew"},
		{refused(known().PutCluster("E", "e", nil, &manager)), `there is no container manager "k"; PUT /containermanager/k first`},
		{refused(known().PutMembers("c", nil, nil, notReady)), "the members of cluster c are not those given as old, but [10.0.0.1]; GET /cluster/c/hosts and try again"},
		{refused(known().PutMembers("c", []domain.Address{"10.0.0.1"}, []domain.Address{"10.0.0.9"}, notReady)), "there is no host 10.0.0.9; PUT /host/10.0.0.9 first"},
		{refused(known().Join("c", "10.0.0.9", notReady)), "there is no host 10.0.0.9; PUT /host/10.0.0.9 first"},
		{refused(known().RemoveHost("10.0.0.9")), "there is no host 10.0.0.9"},
		{refused(known().Join("c", "10.0.0.2", notReady)), "host 10.0.0.2 is neither active nor disassociated yet; GET /host/10.0.0.2 says how far it is"},
		{refused(known().Join("d", "10.0.0.1", notReady)), "host 10.0.0.1 is a member of cluster c; remove it there first"},
		{refused(known().Leave("c", "10.0.0.1")), "operation o has host 10.0.0.1 in hand; wait until its turn ends, or, as a last resort, PUT /operation/o/abandon"},
		{add(event.HostAdded{Fingerprint: "other"}, ""), "host 10.0.0.1 is known with another key; DELETE it first to add it with a new one"},
		{add(event.HostAdded{}, "", "d"), "host 10.0.0.1 is known and not a member of cluster d; use /cluster/d/hosts/10.0.0.1"},
		{add(event.HostAdded{}, "", "nowhere"), `there is no cluster "nowhere"; create it first`},
		{add(event.HostAdded{TakeOver: true}, ""), "take_over: host 10.0.0.1 is known; PUT /host/10.0.0.1/takeover takes it over"},
		{add(event.HostAdded{Port: 22}, ""), "ssh_port: host 10.0.0.1 is known with 2222, not with 22, and stays so; DELETE it first to add it with that"},
		{add(event.HostAdded{RemoteUser: "root"}, ""), "remote_user: host 10.0.0.1 is known with core, not with root, and stays so; DELETE it first to add it with that"},
		{add(event.HostAdded{HostKey: otherKey}, ""), "ssh_host_key: host 10.0.0.1 is known with none, not with SHA256:b, and stays so; DELETE it first to add it with that"},
		{add(event.HostAdded{HostKey: otherKey}, firstKey), "ssh_host_key: the key of host 10.0.0.1 is SHA256:a, not SHA256:b; PUT /host/10.0.0.1/hostkey accepts another one that it shows"},
		{add(event.HostAdded{Certificate: "x"}, ""), "ssh_certificate: host 10.0.0.1 is known with another one, or without; DELETE it first to add it with this one"},
		{notShown(), `host 10.0.0.1 did not show the key "SHA256:b"; GET /host/10.0.0.1/history says which it showed`},
	} {
		refusal, ok := errors.AsType[*domain.Refusal](c.err)
		if !ok {
			t.Errorf("%v is no refusal, wanted %q", c.err, c.detail)
			continue
		}
		before := refusal.Error()
		got := hinted(refusal)
		if got.Detail != c.detail || refusal.Error() != before {
			t.Errorf("got %q, want %q", got.Detail, c.detail)
		}
		if len(got.Fields) > 0 && got.Fields[0].Field+": "+got.Fields[0].Reason != c.detail {
			t.Errorf("field %s: %q", got.Fields[0].Field, got.Fields[0].Reason)
		}
	}
}

func notShown() error {
	_, err := (&host.Host{}).AcceptKey("10.0.0.1", otherKey)
	return err
}

func TestWhatAClientSentIsNoBlankOfAHint(t *testing.T) {
	manager := "{host}{"
	_, err := roster.New().PutCluster("C", "c", nil, &manager)
	refusal, _ := errors.AsType[*domain.Refusal](err)
	if got := hinted(refusal).Detail; got != `there is no container manager "{host}{"; PUT /containermanager/{host}{ first` {
		t.Error(got)
	}
}

// TestHintsNameCodesAndRoutesThatAre holds the hints against the rules and the router.
func TestHintsNameCodesAndRoutesThatAre(t *testing.T) {
	codes := strings.Join(domain.Codes(), " ") + " "
	s := New(Config{Views: projections.New(), Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	route := regexp.MustCompile(`(?:(GET|PUT|DELETE) |use )(/\S+)`)
	for key, all := range hints {
		if code, _, _ := strings.Cut(key, " "); !strings.Contains(codes, code+" ") {
			t.Errorf("no rule refuses as %s", code)
		}
		for _, hint := range all {
			for _, named := range route.FindAllStringSubmatch(hint, -1) {
				method, path := named[1], blank.ReplaceAllString(named[2], "x")
				if method == "" {
					method = "PUT"
				}
				if !s.router.Match(chi.NewRouteContext(), method, base+path) {
					t.Errorf("%s: there is no %s %s", key, method, path)
				}
			}
		}
	}
}
