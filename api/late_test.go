package api_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/api"
	"commissaire/api/authentication"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/projections"
)

// anybody is who asks; all may do everything.
type anybody struct{}

func (anybody) Authenticate(*http.Request) (authentication.Identity, error) {
	return authentication.Identity{Name: "admin", Roles: []authentication.Role{authentication.Admin}}, nil
}

// TestWhatIsRecordedIsAnsweredThoughTheViewIsLate has views that no event ever
// reaches.
func TestWhatIsRecordedIsAnsweredThoughTheViewIsLate(t *testing.T) {
	const one, two = "SHA256:1111111111111111111111111111111111111111110", "SHA256:2222222222222222222222222222222222222222220"
	synctest.Test(t, func(t *testing.T) {
		secrets, err := credentials.Open(t.Context(), "", make([]byte, 32), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = secrets.Close() }()
		log := eventlog.NewLog(memory.New())
		handler := commands.New(commands.Config{
			Log: log, Credentials: secrets, TokenDigest: secrets.Digest,
			KeyFingerprint: func(text []byte) (string, error) { return "of " + string(text), nil },
			Denied:         func(domain.Address) error { return nil },
			Now:            time.Now, NewID: uuid.New,
		})
		server := api.New(api.Config{
			Age:      func() time.Duration { return 0 },
			Commands: handler, Views: projections.New(), Authenticator: anybody{}, Metrics: prometheus.NewRegistry(),
			Now: time.Now, NewID: uuid.NewString, Logger: slog.New(slog.DiscardHandler),
		})
		put := func(path, body string, status int, want string) {
			t.Helper()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/api/v0"+path, strings.NewReader(body))
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r)
			got := strings.TrimSpace(w.Body.String())
			var record map[string]any
			if json.Unmarshal([]byte(got), &record) == nil && record["started_at"] != nil {
				if record["started_at"] == "" {
					t.Errorf("PUT %s says not when it began: %s", path, got)
				}
				got = strings.Replace(got, record["started_at"].(string), "NOW", 1)
			}
			if w.Code != status || got != want {
				t.Errorf("PUT %s: %d %s\nwant %d %s", path, w.Code, got, status, want)
			}
			if w.Header().Get("X-Commissaire-Position") == "0" {
				t.Errorf("PUT %s names no position", path)
			}
		}
		for range 2 { // the second changes nothing, and is answered the same
			put("/network/n", `{"type":"flannel_server","options":{"address":"10.0.0.1:8080"}}`, 201,
				`{"name":"n","type":"flannel_server","options":{"address":"10.0.0.1:8080"}}`)
			put("/network/m", ``, 201, `{"name":"m","type":"flannel_etcd","options":{}}`)
			put("/containermanager/k", `{"options":{"token":"t0ps3cret","server_url":"https://k:1"}}`, 201,
				`{"name":"k","type":"openshift","options":{"server_url":"https://k:1","token":"********"}}`)
			put("/containermanager/t", `{"type":"trivial"}`, 201, `{"name":"t","type":"trivial","options":{}}`)
			put("/cluster/c", `{"network":"n"}`, 201, `{"name":"c","status":"ok","network":"n","container_manager":""}`)
			put("/host/10.0.0.9", `{"ssh_priv_key":"`+base64.StdEncoding.EncodeToString([]byte("key"))+`","cluster":"c"}`, 201,
				`{"address":"10.0.0.9","status":"investigating","os":"","cpus":0,"memory":0,"space":0,"last_check":"","source":""}`)
			put("/cluster/c/hosts/10.0.0.9", ``, 200, `["10.0.0.9"]`)
			put("/cluster/c/deploy", `{"version":"41.2"}`, 201,
				`{"name":"c","status":"in_process","version":"41.2","deployed":[],"in_process":[],"started_at":"NOW","finished_at":null}`)
		}
		for r, err := range log.ReadStream(t.Context(), event.RosterStream, 0) {
			if started, ok := r.Event.(event.DeployStarted); ok && err == nil {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/api/v0/operation/"+string(started.Operation)+"/pause", nil)
				w := httptest.NewRecorder()
				if server.ServeHTTP(w, r); w.Code != 503 || !strings.Contains(w.Body.String(), `"outcome":"unknown"`) {
					t.Errorf("PUT pause: %d %s", w.Code, w.Body)
				}
			}
			added, ok := r.Event.(event.HostAdded)
			if err != nil || !ok {
				continue
			}
			if _, err := handler.RecordHost(t.Context(), added.HostID, func(*host.Host) []event.HostEvent {
				return []event.HostEvent{
					event.HostKeyPinned{Host: added.Host, Type: "ssh-ed25519", Fingerprint: one},
					event.HostKeyChanged{Host: added.Host, Type: "ssh-ed25519", Fingerprint: two},
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			put("/host/10.0.0.9/hostkey", `{"fingerprint":"`+two+`"}`, 201,
				`{"address":"10.0.0.9","status":"investigating","os":"","cpus":0,"memory":0,"space":0,"last_check":"","source":""}`)
		}
	})
}
