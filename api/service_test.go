package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/api"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
)

// service is a server, whose views have what is recorded before whoever recorded
// it hears of that.
type service struct {
	*eventlog.Log
	t        *testing.T
	views    *projections.Views
	commands *commands.Handler
	server   *api.Server
	metrics  *prometheus.Registry
	then     func(event.Decided) // called when an event was recorded; nil: nothing is
}

func newService(t *testing.T) *service {
	t.Helper()
	secrets, err := credentials.Open(t.Context(), "", make([]byte, 32), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = secrets.Close() })
	s := &service{Log: eventlog.NewLog(memory.New()), t: t, views: projections.New(), metrics: prometheus.NewRegistry()}
	s.commands = commands.New(commands.Config{
		Log: s, Credentials: secrets, TokenDigest: secrets.Digest, Shared: true,
		KeyFingerprint: func(text []byte) (string, error) { return "of " + string(text), nil },
		Denied:         func(domain.Address) error { return nil },
		Now:            time.Now, NewID: uuid.New,
	})
	s.server = api.New(api.Config{
		Commands: s.commands, Views: s.views, Follow: s.Read, Authenticator: anybody{}, Metrics: s.metrics,
		Ready: func(context.Context) error { return nil },
		Now:   time.Now, NewID: uuid.NewString, Logger: slog.New(slog.DiscardHandler),
	})
	return s
}

// Append implements commands.Log.
func (s *service) Append(ctx context.Context, stream event.Stream, expected event.Revision, events []event.Decided) (event.Position, error) {
	pos, err := s.Log.Append(ctx, stream, expected, events)
	if err != nil {
		return pos, err
	}
	if s.then != nil {
		for _, e := range events {
			s.then(e)
		}
	}
	for batch, err := range eventlog.UpToHead(ctx, s.Read(ctx, s.views.Snapshot().Position)) {
		if err != nil {
			return pos, err
		}
		for _, r := range batch {
			s.views.Apply(r)
		}
	}
	return pos, nil
}

// do makes a request, and gives the answer and what it says.
func (s *service) do(method, path, body string, header ...string) (*httptest.ResponseRecorder, map[string]any) {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.server.ServeHTTP(w, r)
	var object map[string]any
	_ = json.Unmarshal(w.Body.Bytes(), &object) // nil: it is none
	return w, object
}

// put makes what a test is about.
func (s *service) put(path, body string) map[string]any {
	s.t.Helper()
	w, object := s.do(http.MethodPut, "/api/v0"+path, body)
	if w.Code/100 != 2 {
		s.t.Fatalf("PUT %s: %d %s", path, w.Code, w.Body)
	}
	return object
}

var aKey = base64.StdEncoding.EncodeToString([]byte("key"))

func TestOptionsOfANetworkCanBeReadBack(t *testing.T) {
	for _, options := range []string{`{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, `{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `{"\udc00":1}`} {
		s := newService(t)
		w, _ := s.do(http.MethodPut, "/api/v0/network/n", `{"options":`+options+`}`)
		if w.Code != http.StatusCreated && w.Code != http.StatusBadRequest {
			t.Errorf("%q: %d %s", options, w.Code, w.Body)
		}
		for _, err := range s.ReadStream(t.Context(), event.RosterStream, 0) {
			if err != nil {
				t.Errorf("%q cannot be read back: %v", options, err)
			}
		}
	}
}

func TestARouteMayEndWithASlash(t *testing.T) {
	s := newService(t)
	for _, path := range []string{"/healthz/", "/readyz/", "/openapi.yaml/", "/api/v0/clusters/", "/metrics/"} {
		if w, _ := s.do(http.MethodGet, path, ""); w.Code != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	api.Starting(uuid.NewString).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz/", nil))
	if w.Code != http.StatusOK {
		t.Errorf("GET /healthz/ at the start: %d", w.Code)
	}
}

func TestAMethodThatNobodyKnows(t *testing.T) {
	s := newService(t)
	if w, _ := s.do("PURGE", "/api/v0/nothing", ""); w.Code != http.StatusNotFound {
		t.Errorf("where nothing is: %d, Allow: %q", w.Code, w.Header().Get("Allow"))
	}
	if w, _ := s.do("PURGE", "/api/v0/clusters", ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET" {
		t.Errorf("where something is: %d, Allow: %q", w.Code, w.Header().Get("Allow"))
	}
	for _, method := range []string{"A", "B", "C", "D"} {
		s.do(method, "/api/v0/clusters", "")
	}
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "commissaire_http_request_seconds" && len(family.GetMetric()) > 2 {
			t.Errorf("requests of %d sorts are counted apart: %v", len(family.GetMetric()), family.GetMetric()[0].GetLabel())
		}
	}
}

func TestOperationsAreFoundByTheHostsAddressHoweverItIsWritten(t *testing.T) {
	s := newService(t)
	s.put("/cluster/c", "")
	s.put("/host/2001:db8::a", `{"ssh_priv_key":"`+aKey+`","cluster":"c"}`)
	s.put("/cluster/c/restart", "")
	for _, host := range []string{"2001:db8::a", "2001:DB8:0::A", "2001%3Adb8%3A%3Aa"} {
		if w, _ := s.do(http.MethodGet, "/api/v0/operations?host="+host, ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) == "[]" {
			t.Errorf("of host %s: %d %s", host, w.Code, w.Body)
		}
	}
}

func TestAnOperationIsAnsweredAsItStarted(t *testing.T) {
	s := newService(t)
	s.put("/cluster/c", "")
	s.then = func(d event.Decided) {
		if e, ok := d.Event.(event.RestartStarted); ok { // it has no hosts, and ends before the answer is made
			if _, err := s.Log.Append(t.Context(), event.RosterStream, 1, []event.Decided{{
				ID: uuid.New(), Event: event.OperationCompleted{Operation: e.Operation, ClusterID: e.ClusterID, Cluster: e.Cluster},
				Meta: event.Meta{Time: time.Now().UTC(), Schema: 1},
			}}); err != nil {
				t.Error(err)
			}
		}
	}
	started := s.put("/cluster/c/restart", "")
	if started["status"] != "in_process" || started["finished_at"] != nil {
		t.Errorf("as it started: %v", started)
	}
	_, current := s.do(http.MethodGet, "/api/v0/cluster/c/restart", "")
	if current["status"] != "finished" || current["started_at"] != started["started_at"] {
		t.Errorf("now: %v, as it started: %v", current, started)
	}
}

func TestTheTimeOfAnEventAsItIsShownIsAfterTheEvent(t *testing.T) {
	s := newService(t)
	s.put("/cluster/c", "")
	started := s.put("/cluster/c/restart", "")
	w, then := s.do(http.MethodGet, "/api/v0/cluster/c/restart?at="+started["started_at"].(string), "")
	if w.Code != 200 || then["started_at"] != started["started_at"] {
		t.Errorf("at %s: %d %s", started["started_at"], w.Code, w.Body)
	}
}

func TestAServerOfANetworkIsAnAddressAndAPort(t *testing.T) {
	s := newService(t)
	for address, status := range map[string]int{
		"10.0.0.1:8080": 201, "[2001:db8::1]:8080": 201, "flannel.example:1": 201,
		"10.0.0.1": 400, ":8080": 400, "10.0.0.1:": 400, "10.0.0.1:http": 400, "10.0.0.1:0": 400, "10.0.0.1:65536": 400, "no host:80": 400, `a"b:80`: 400,
	} {
		body, err := json.Marshal(map[string]any{"type": "flannel_server", "options": map[string]string{"address": address}})
		if err != nil {
			t.Fatal(err)
		}
		if w, _ := s.do(http.MethodPut, "/api/v0/network/"+uuid.NewString(), string(body)); w.Code != status {
			t.Errorf("%s: %d, want %d", address, w.Code, status)
		}
	}
}

func TestAnEmptyBodyMayBeSaidToBeGzip(t *testing.T) {
	s := newService(t)
	if w, _ := s.do(http.MethodPut, "/api/v0/cluster/c", "", "Content-Encoding", "gzip"); w.Code != http.StatusCreated {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAnOptionOfAContainerManagerIsNotNull(t *testing.T) {
	s := newService(t)
	for _, options := range []string{`{"server_url":null}`, `{"token":null}`} {
		if w, _ := s.do(http.MethodPut, "/api/v0/containermanager/m", `{"type":"trivial","options":`+options+`}`); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", options, w.Code, w.Body)
		}
	}
}

func TestOptionsThatDifferInALargeNumberAreOthers(t *testing.T) {
	s := newService(t)
	s.put("/network/n", `{"options":{"a":12345678901234567890,"b":[1]}}`)
	s.put("/network/n", `{"options":{"b": [1],"a":12345678901234567890}}`)
	if w, _ := s.do(http.MethodPut, "/api/v0/network/n", `{"options":{"a":12345678901234567891,"b":[1]}}`); w.Code != http.StatusConflict {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAKnownHostIsNotSaidToBeChanged(t *testing.T) {
	s := newService(t)
	const path = "/api/v0/host/10.0.0.1"
	s.put("/host/10.0.0.1", `{"ssh_priv_key":"`+aKey+`"}`)
	var added event.HostAdded
	for r := range s.ReadStream(t.Context(), event.RosterStream, 0) {
		added, _ = r.Event.(event.HostAdded)
	}
	const pinned, other = "SHA256:eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8", "SHA256:ngi5RJPRk2bqDt9UBZUyLk2vkvlgkKkIhmQLMhFYhNs"
	if _, err := s.Append(t.Context(), event.HostStream(added.HostID), event.NoRevision, []event.Decided{{
		ID: uuid.New(), Event: event.HostKeyPinned{Host: "10.0.0.1", Type: "ssh-ed25519", Fingerprint: pinned, AddedBy: "ann"}, Meta: event.Meta{Schema: 1},
	}}); err != nil {
		t.Fatal(err)
	}
	for body, status := range map[string]int{
		`{}`: 201, `{"ssh_priv_key":"` + aKey + `","remote_user":"root","ssh_port":22,"ssh_host_key":"` + pinned + `","ssh_certificate":""}`: 201,
		`{"remote_user":"","ssh_host_key":""}`: 201,
		`{"ssh_port":2222}`:                    409, `{"remote_user":"core"}`: 409, `{"ssh_host_key":"` + other + `"}`: 409, `{"ssh_certificate":"bogus"}`: 409,
		`{"ssh_port":0}`: 400, `{"ssh_port":"22"}`: 400, `{"remote_user":"no user"}`: 400,
	} {
		w, problem := s.do(http.MethodPut, path, body)
		detail, _ := problem["detail"].(string)
		if w.Code != status || status == 409 && !strings.Contains(detail, "DELETE") && !strings.Contains(detail, "/hostkey") {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	s.put("/host", `{"ssh_priv_key":"`+aKey+`"}`) // of the connection, which is 192.0.2.1
	if w, _ := s.do(http.MethodPut, "/api/v0/host", `{"ssh_port":2222}`); w.Code != http.StatusConflict {
		t.Errorf("PUT /host: %d %s", w.Code, w.Body)
	}
}
