package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"commissaire/api"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
)

// recorded is a log that a test wrote.
type recorded []event.Recorded

func (l recorded) after(_ context.Context, at event.Position) iter.Seq2[[]event.Recorded, error] {
	return func(yield func([]event.Recorded, error) bool) {
		var batch []event.Recorded
		for _, r := range l {
			if r.Position <= at {
				continue
			}
			if batch = append(batch, r); len(batch) == 10 && !yield(batch, nil) {
				return
			} else if len(batch) == 10 {
				batch = nil
			}
		}
		if len(batch) > 0 && !yield(batch, nil) {
			return
		}
		yield(nil, nil)
	}
}

// anything is an event about a few things, whether it makes sense or not.
func anything(t *rapid.T) (event.Stream, event.Event) {
	i := rapid.IntRange(0, 3).Draw(t, "host")
	id, address := domain.HostID(fmt.Sprint("id", i)), domain.Address(fmt.Sprintf("10.0.0.%d", i))
	c := rapid.IntRange(0, 1).Draw(t, "cluster")
	clusterID, cluster := domain.ClusterID(fmt.Sprint("C", c)), domain.ClusterName(fmt.Sprint("c", c))
	o := rapid.IntRange(0, 3).Draw(t, "operation")
	started := event.Started{
		Operation: domain.OperationID(fmt.Sprint("o", o)), ClusterID: clusterID, Cluster: cluster,
		Hosts: []event.Member{{HostID: "id0", Host: "10.0.0.0"}, {HostID: "id1", Host: "10.0.0.1"}},
	}
	turn := event.Turn{Operation: started.Operation, HostID: id, Host: address}
	roster := func(e event.RosterEvent) (event.Stream, event.Event) { return event.RosterStream, e }
	host := func(e event.HostEvent) (event.Stream, event.Event) { return event.HostStream(id), e }
	on := func(e event.OperationEvent) (event.Stream, event.Event) {
		return event.OperationStream(started.Operation), e
	}
	version := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "version"))
	switch rapid.IntRange(0, 30).Draw(t, "kind") {
	case 0, 1, 2, 3:
		return roster(event.HostAdded{HostID: id, Host: address})
	case 4:
		return roster(event.HostRemoved{HostID: id, Host: address})
	case 5, 6:
		return roster(event.ClusterCreated{ClusterID: clusterID, Cluster: cluster, Network: "default"})
	case 7:
		return roster(event.ClusterReconfigured{ClusterID: clusterID, Cluster: cluster, Network: "n", Manager: "m", ManagerID: "M"})
	case 8:
		return roster(event.ClusterDeleted{ClusterID: clusterID, Cluster: cluster})
	case 9, 10, 11:
		return roster(event.HostJoined{HostID: id, Host: address, ClusterID: clusterID, Cluster: cluster})
	case 12:
		return roster(event.HostLeft{HostID: id, Host: address, ClusterID: clusterID, Cluster: cluster})
	case 13:
		return roster(event.NetworkDefined{Network: "n", Type: "flannel_etcd", Options: json.RawMessage("{}")})
	case 14:
		return roster(event.NetworkRemoved{Network: "n"})
	case 15:
		return roster(event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Type: "trivial", Options: json.RawMessage(`{"token":"********"}`), Credential: "x"})
	case 16:
		return roster(event.DeployStarted{Started: started, Version: version})
	case 17:
		return roster(event.UpgradeStarted{Started: started})
	case 18:
		return roster(event.RestartStarted{Started: started})
	case 19:
		return roster(event.OperationCompleted{Operation: started.Operation, ClusterID: clusterID, Cluster: cluster})
	case 20:
		return roster(event.OperationAborted{Operation: started.Operation, ClusterID: clusterID, Cluster: cluster, Cause: "broken"})
	case 21, 22:
		return host(event.HostInvestigated{Host: address, Facts: event.Facts{OS: "fedora", CPUs: 2, Version: version}})
	case 23:
		return host(event.HostBootstrapped{Host: address})
	case 24:
		return host(event.HostRegistered{Host: address, ManagerID: "M"})
	case 25:
		return host(event.HostWentSilent{Host: address})
	case 26:
		return on(event.HostTurnBegun{Turn: turn})
	case 27:
		return on(event.HostTurnSucceeded{Turn: turn, Version: version})
	case 28:
		return on(event.HostTurnFailed{Turn: turn, Reason: version})
	case 29:
		return on(event.HostTurnSkipped{Turn: turn})
	}
	return event.WatchStream, event.SweepFinished{Started: time.Unix(int64(rapid.IntRange(0, 1000).Draw(t, "sweep")), 0), Missed: []domain.HostID{id}}
}

// records are the GETs whose answers are a function of the log.
var records = []string{
	"/clusters", "/cluster/c0", "/cluster/c1", "/cluster/c0/hosts", "/cluster/c1/hosts", "/cluster/c0/hosts/10.0.0.0",
	"/cluster/c0/deploy", "/cluster/c1/deploy", "/cluster/c0/upgrade", "/cluster/c1/restart", "/containermanagers", "/containermanager/m",
	"/hosts", "/host/10.0.0.0", "/host/10.0.0.1", "/host/10.0.0.2/status", "/networks", "/network/default", "/network/n",
	"/operations", "/operation/o0",
}

// TestThePastIsAnsweredAsItWasThen compares every GET with ?at= with what was
// answered when the log ended there, for logs whose clock goes back, too.
func TestThePastIsAnsweredAsItWasThen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		views := projections.New()
		var log recorded
		epoch := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		server := api.New(api.Config{
			Views: views, Authenticator: anybody{}, Metrics: prometheus.NewRegistry(), Age: func() time.Duration { return 0 },
			Follow: func(ctx context.Context, at event.Position) iter.Seq2[[]event.Recorded, error] {
				return log.after(ctx, at)
			},
			Now: func() time.Time { return epoch.Add(time.Hour) }, NewID: uuid.NewString, Logger: slog.New(slog.DiscardHandler),
			NodeStatus: func(context.Context, domain.ManagerName, domain.Address) (json.RawMessage, error) {
				return json.RawMessage("{}"), nil
			},
		})
		get := func(path, at string) string {
			target := "/api/v0" + path
			if at != "" {
				target += "?at=" + url.QueryEscape(at)
			}
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, target, nil))
			if w.Code >= 500 {
				t.Fatalf("GET %s: %d %s", target, w.Code, w.Body)
			}
			if w.Code >= 400 { // a problem names the request
				return fmt.Sprint(w.Code)
			}
			return fmt.Sprint(w.Code, w.Header().Get("X-Commissaire-Position"), w.Header().Get("ETag"), w.Body)
		}
		all := func(at string) map[string]string {
			answers := map[string]string{}
			for _, path := range records {
				answers[path] = get(path, at)
			}
			return answers
		}
		live := []map[string]string{all("")}
		n := rapid.IntRange(1, 60).Draw(t, "events")
		for i := range n {
			stream, e := anything(t)
			at := epoch.Add(time.Duration(10*i-rapid.IntRange(0, 40).Draw(t, "back")) * time.Second)
			r := event.Recorded{Position: event.Position(3 * (i + 1)), Stream: stream, Event: e, Meta: event.Meta{Time: at, Actor: "ann"}}
			log = append(log, r)
			views.Apply(r)
			live = append(live, all(""))
		}
		compare := func(at string, want map[string]string) {
			for path, answer := range all(at) {
				if answer != want[path] {
					t.Fatalf("GET %s?at=%s: %s\nwas: %s", path, at, answer, want[path])
				}
			}
		}
		for i, want := range live { // positions are sparse: those between mean the one before
			compare(fmt.Sprint(min(3*i+rapid.IntRange(0, 2).Draw(t, "offset"), 3*n)), want)
		}
		for range n { // again: no answer has changed another
			i := rapid.IntRange(0, n).Draw(t, "again")
			compare(fmt.Sprint(3*i), live[i])
		}
		for range 20 {
			at := epoch.Add(time.Duration(rapid.IntRange(-50, 10*n+10).Draw(t, "time")) * time.Second)
			first := 0
			for first < n && !log[first].Meta.Time.After(at) {
				first++
			}
			compare(at.Format(time.RFC3339Nano), live[first])
			compare(at.Format("2006-01-02T15:04:05.000000"), live[first])
		}
		for _, at := range []string{fmt.Sprint(3*n + 1), "18446744073709551615", epoch.Add(2 * time.Hour).Format(time.RFC3339), "noon", "-1", "99999999999999999999999"} {
			if got := get("/hosts", at); got != "400" {
				t.Fatalf("?at=%s: %s", at, got)
			}
		}
		for _, path := range []string{"/host/10.0.0.0/creds", "/host/10.0.0.0/history", "/status"} {
			if got := get(path, "0"); got != "400" {
				t.Fatalf("%s?at=0: %s", path, got)
			}
		}
	})
}
