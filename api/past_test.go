package api_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"commissaire/api"
	"commissaire/api/authentication"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
	"commissaire/test/scenario"
)

// recorded is a log that a test wrote.
type recorded []event.Recorded

func (l recorded) after(_ context.Context, pos event.Position) iter.Seq2[[]event.Recorded, error] {
	return func(yield func([]event.Recorded, error) bool) {
		var batch []event.Recorded
		for _, r := range l {
			if r.Position <= pos {
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

// printed is what hosts print now, which was not printed then.
type printed struct{ api.Outputs }

func (printed) Last(domain.OperationID, domain.HostID, int, int) (string, error) { return "now", nil }

// whoLooksBack may see what hosts print, and who does not may not.
type whoLooksBack struct{}

func (whoLooksBack) Authenticate(r *http.Request) (authentication.Identity, error) {
	role := authentication.Viewer
	if r.URL.Query().Has("at") {
		role = authentication.Admin
	}
	return authentication.Identity{Name: "ann", Roles: []authentication.Role{role}}, nil
}

// records are the GETs whose answers are a function of the log.
var records = []string{
	"/clusters", "/cluster/c0", "/cluster/c1", "/cluster/c0/hosts", "/cluster/c1/hosts", "/cluster/c0/hosts/10.0.0.0",
	"/cluster/c0/deploy", "/cluster/c1/deploy", "/cluster/c0/upgrade", "/cluster/c1/restart", "/containermanagers", "/containermanager/m",
	"/hosts", "/host/10.0.0.0", "/host/10.0.0.1", "/host/10.0.0.2/status", "/networks", "/network/default", "/network/n",
	"/operations", "/operation/" + string(scenario.Operations[0]),
}

// looking is a server over a log that a test wrote, and what it answers to a GET.
func looking(log recorded, accept string) func(path string) (int, string, http.Header) {
	views := projections.New()
	for _, r := range log {
		views.Apply(r)
	}
	server := api.New(api.Config{
		Views: views, Authenticator: anybody{}, Metrics: prometheus.NewRegistry(), Follow: log.after,
		Now: func() time.Time { return log[len(log)-1].Meta.Time.Add(time.Minute) }, NewID: uuid.NewString, Logger: slog.New(slog.DiscardHandler),
		EventTypes: []string{"HostAdded", "HostJoined", "ClusterCreated", "ClusterReconfigured", "ClusterDeleted"},
		Entries: func(_ context.Context, positions []event.Position) (entries []api.HistoryEntry, _ error) {
			for _, r := range log {
				if slices.Contains(positions, r.Position) {
					entries = append(entries, api.HistoryEntry{
						Position: uint64(r.Position), Time: projections.Time{Time: r.Meta.Time}, Type: r.Event.EventType(), Stream: string(r.Stream),
						Actor: r.Meta.Actor, Reason: r.Meta.Reason, Data: json.RawMessage("{}"),
					})
				}
			}
			return entries, nil
		},
	})
	return func(path string) (int, string, http.Header) {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/api/v0"+path, nil)
		r.Header.Set("Accept", accept)
		server.ServeHTTP(w, r)
		return w.Code, w.Body.String(), w.Header()
	}
}

// aStory is a cluster that was made, got a host and another network, and went.
func aStory() (log recorded) {
	when := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	add := func(actor, why string, e event.RosterEvent) {
		when = when.Add(time.Minute)
		log = append(log, event.Recorded{
			Position: event.Position(10 * (len(log) + 1)), Stream: event.RosterStream, Event: e, Meta: event.Meta{Time: when, Actor: actor, Reason: why},
		})
	}
	add("ann", "", event.ClusterCreated{ClusterID: "C", Cluster: "c", Network: "default"})
	add("bob", "new rack", event.HostAdded{HostID: "1", Host: "10.0.0.1"})
	add("bob", "new rack", event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"})
	add("ann", "=cmd()", event.ClusterReconfigured{ClusterID: "C", Cluster: "c", Network: "n"})
	add("eve", "by mistake", event.ClusterDeleted{ClusterID: "C", Cluster: "c"})
	return log
}

func TestADiffSaysWhatChangedByWhomAndWhy(t *testing.T) {
	get := looking(aStory(), "")
	type change struct {
		Field    string
		From, To any
	}
	for _, c := range []struct {
		query   string
		changes []change
		actors  string
	}{
		{"from=10&to=40", []change{
			{"hosts.total", 0.0, 1.0},
			{"hosts.unavailable", 0.0, 1.0},
			{"members", []any{}, []any{"10.0.0.1"}},
			{"network", "default", "n"},
			{"status", "ok", "failed"},
		}, "bob ann"},
		{"from=2026-01-02T03:03:30Z&to=2026-01-02T03:04:00.000000", []change{{"network", "default", "n"}}, "ann"},
		{"from=2026-01-02T04:03%2B01:00&to=2026-01-02T03:04", []change{{"network", "default", "n"}}, "ann"},
		{"from=40&to=45", []change{}, ""},
		{"from=20&limit=1&to=40", []change{
			{"hosts.total", 0.0, 1.0},
			{"hosts.unavailable", 0.0, 1.0},
			{"members", []any{}, []any{"10.0.0.1"}},
			{"network", "default", "n"},
			{"status", "ok", "failed"},
		}, "bob"},
		{"from=40", []change{
			{"container_manager", "", nil},
			{"hosts.available", 0.0, nil},
			{"hosts.total", 1.0, nil},
			{"hosts.unavailable", 1.0, nil},
			{"members", []any{"10.0.0.1"}, nil},
			{"name", "c", nil},
			{"network", "n", nil},
			{"status", "failed", nil},
		}, "eve"},
	} {
		code, body, _ := get("/cluster/c/diff?" + c.query)
		var got struct {
			Changes []change
			Events  []struct{ Actor string }
		}
		if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil {
			t.Fatalf("%s: %d %s %v", c.query, code, body, err)
		}
		actors := make([]string, len(got.Events))
		for i, e := range got.Events {
			actors[i] = e.Actor
		}
		if !reflect.DeepEqual(got.Changes, c.changes) || strings.Join(actors, " ") != c.actors {
			t.Errorf("%s: %v by %v", c.query, got.Changes, actors)
		}
	}
	for query, want := range map[string]int{
		"/cluster/c/diff": 400, "/cluster/c/diff?from=40&to=10": 400, "/cluster/c/diff?from=51": 400, "/cluster/c/diff?from=x": 400,
		"/cluster/d/diff?from=0": 404, "/host/10.0.0.1/diff?from=0": 200, "/operation/o/diff?from=0": 404,
	} {
		if code, body, _ := get(query); code != want {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
}

func TestAHistoryIsSelectedAndWrittenInOtherForms(t *testing.T) {
	for query, want := range map[string]string{
		"":                               "10,30,40,50",
		"?actor=ann":                     "10,40",
		"?type=HostJoined":               "30",
		"?type=HostJoined,HostAdded":     "30",
		"?from=10&to=40":                 "30,40",
		"?to=2026-01-02T03:03:00Z":       "10,30",
		"?from=2026-01-02T03:04:00Z":     "50",
		"?limit=1&actor=ann":             "10",
		"?limit=1&actor=ann&after=10":    "40",
		"?limit=2&from=10&after=30":      "40,50",
		"?from=30&after=10&actor=nobody": "",
	} {
		code, body, header := looking(aStory(), "text/csv")("/cluster/c/history" + query)
		rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
		if code != http.StatusOK || err != nil || len(rows) == 0 || !strings.HasPrefix(header.Get("Content-Type"), "text/csv") {
			t.Fatalf("%s: %d %s %v", query, code, body, err)
		}
		var positions []string
		for _, row := range rows[1:] {
			positions = append(positions, row[0])
			if strings.HasPrefix(row[5], "=") {
				t.Errorf("a spreadsheet would compute %q", row[5])
			}
		}
		if got := strings.Join(positions, ","); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		if more := header.Get("Link") != ""; more != (query == "?limit=1&actor=ann") {
			t.Errorf("%s: Link %q", query, header.Get("Link"))
		}
	}
	_, body, header := looking(aStory(), "application/x-ndjson")("/cluster/c/history?limit=2")
	if lines := strings.Split(strings.TrimSpace(body), "\n"); len(lines) != 2 || !json.Valid([]byte(lines[1])) || header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%q as %s", body, header.Get("Content-Type"))
	}
	for _, query := range []string{"?type=HostJoind", "?from=x", "?to=51", "?at=10"} {
		if code, body, _ := looking(aStory(), "")("/cluster/c/history" + query); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
}

// TestThePastIsAnsweredAsItWasThen compares every GET with ?at= with what was
// answered when the log ended there, for logs whose clock goes back, too.
func TestThePastIsAnsweredAsItWasThen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		views := projections.New()
		var log recorded
		epoch := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		server := api.New(api.Config{
			Views: views, Authenticator: whoLooksBack{}, Metrics: prometheus.NewRegistry(), Outputs: printed{},
			Follow: func(ctx context.Context, pos event.Position) iter.Seq2[[]event.Recorded, error] {
				return log.after(ctx, pos)
			},
			Now: func() time.Time { return epoch.Add(time.Hour) }, NewID: uuid.NewString, Logger: slog.New(slog.DiscardHandler),
			NodeStatus: func(context.Context, domain.ManagerName, domain.Address) (json.RawMessage, error) {
				return json.RawMessage("{}"), nil
			},
		})
		get := func(path, moment string) string {
			target := "/api/v0" + path
			if moment != "" {
				target += "?at=" + url.QueryEscape(moment)
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
		all := func(moment string) map[string]string {
			answers := map[string]string{}
			for _, path := range records {
				answers[path] = get(path, moment)
			}
			return answers
		}
		live := []map[string]string{all("")}
		n := rapid.IntRange(1, 40).Draw(t, "events")
		for i := range n {
			stream, e := scenario.Anything(t)
			when := epoch.Add(time.Duration(10*i-rapid.IntRange(0, 40).Draw(t, "back")) * time.Second)
			r := event.Recorded{Position: event.Position(3 * (i + 1)), Stream: stream, Event: e, Meta: event.Meta{Time: when, Actor: "ann"}}
			log = append(log, r)
			views.Apply(r)
			live = append(live, all(""))
		}
		compare := func(moment string, want map[string]string) {
			for path, answer := range all(moment) {
				if answer != want[path] {
					t.Fatalf("GET %s?at=%s: %s\nwas: %s", path, moment, answer, want[path])
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
			when := epoch.Add(time.Duration(rapid.IntRange(-50, 10*n+10).Draw(t, "time")) * time.Second)
			first := 0
			for first < n && !log[first].Meta.Time.After(when) {
				first++
			}
			compare(when.Format(time.RFC3339Nano), live[first])
			compare(when.Format("2006-01-02T15:04:05.000000"), live[first])
		}
		for _, moment := range []string{fmt.Sprint(3*n + 1), "18446744073709551615", epoch.Add(2 * time.Hour).Format(time.RFC3339), "noon", "-1", "99999999999999999999999"} {
			if got := get("/hosts", moment); got != "400" {
				t.Fatalf("?at=%s: %s", moment, got)
			}
		}
		for _, path := range []string{"/host/10.0.0.0/creds", "/host/10.0.0.0/history", "/status", "/events", "/operation/" + string(scenario.Operations[0]) + "/host/10.0.0.0/log"} {
			if got := get(path, "0"); got != "400" {
				t.Fatalf("%s?at=0: %s", path, got)
			}
		}
	})
}
