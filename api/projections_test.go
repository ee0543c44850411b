package api_test

import (
	"context"
	"encoding/json"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"commissaire/api"
	"commissaire/api/authentication"
	"commissaire/domain/event"
	"commissaire/projections"
)

// named is who says which role he has.
type named struct{}

func (named) Authenticate(r *http.Request) (authentication.Identity, error) {
	user, _, _ := r.BasicAuth()
	return authentication.Identity{Name: user, Roles: []authentication.Role{authentication.Role(user)}}, nil
}

func TestViewsAreRebuiltOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := aStory()
		views := projections.New()
		for _, r := range log {
			views.Apply(r)
		}
		var going chan struct{} // the log says nothing until it is closed
		rebuilt := 0
		rebuilds := projections.NewRebuilder(projections.RebuilderConfig{
			Views: views, Now: time.Now, Logger: slog.New(slog.DiscardHandler), Rebuilt: func(*projections.Snapshot) { rebuilt++ },
			Read: func(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
				return func(yield func([]event.Recorded, error) bool) {
					select {
					case <-going:
						log.after(ctx, after)(yield)
					case <-ctx.Done():
					}
				}
			},
		})
		server := api.New(api.Config{
			Views: views, Rebuilds: rebuilds, Authenticator: named{}, Metrics: prometheus.NewRegistry(),
			Snapshots: func() (any, error) { return []string{}, nil },
			Now:       time.Now, NewID: uuid.NewString, Logger: slog.New(slog.DiscardHandler),
		})
		ask := func(user, method, path string, status int, with ...string) {
			t.Helper()
			r := httptest.NewRequestWithContext(t.Context(), method, "/api/v0"+path, nil)
			r.SetBasicAuth(user, "")
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r)
			if w.Code != status || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: %s %s: %d %s", user, method, path, w.Code, w.Body)
			}
			for _, part := range with {
				if !strings.Contains(w.Body.String(), part) {
					t.Errorf("%s: %s %s: %s has no %s", user, method, path, w.Body, part)
				}
			}
		}
		going = make(chan struct{})
		ask("viewer", http.MethodGet, "/projections", 200, `"rebuild":null`, `{"name":"clusters","records":`)
		ask("viewer", http.MethodGet, "/projections?at=1", 400)
		ask("admin", http.MethodDelete, "/projections/all/rebuild", 404, "nothing was rebuilt")
		for _, user := range []string{"viewer", "operator", "auditor", "join"} {
			ask(user, http.MethodPut, "/projections/all/rebuild", 403)
			ask(user, http.MethodDelete, "/projections/all/rebuild", 403)
		}
		ask("operator", http.MethodPut, "/projections/hosts/verify", 403)
		ask("admin", http.MethodPut, "/projections/planets/rebuild", 404, "all, hosts, clusters, networks, containermanagers, operations, history")

		ask("auditor", http.MethodPut, "/projections/hosts/verify", 202, `"kind":"verify"`, `"actor":"auditor"`, `"state":"folding"`)
		ask("admin", http.MethodPut, "/projections/all/rebuild", 202, `"kind":"verify"`, `"actor":"auditor"`) // the one that runs
		ask("admin", http.MethodDelete, "/projections/all/rebuild", 200, `"state":"cancelled"`)
		ask("viewer", http.MethodGet, "/projections", 200, `"state":"cancelled"`)

		ctx, stop := context.WithCancel(t.Context())
		own := make(chan error)
		go func() { own <- rebuilds.Run(ctx, nil, nil) }()
		synctest.Wait()
		ask("admin", http.MethodDelete, "/projections/all/rebuild", 409, "acts when it has come to its end")
		stop()
		if <-own == nil {
			t.Error("it came to its end")
		}

		close(going)
		ask("admin", http.MethodPut, "/projections/clusters/rebuild", 202, `"kind":"rebuild"`)
		synctest.Wait()
		ask("viewer", http.MethodGet, "/projections", 200, `"state":"done"`, `"different":""`, `"error":""`)
		if rebuilt != 1 {
			t.Errorf("%d were rebuilt", rebuilt)
		}
		rebuilds.Close()
		ask("admin", http.MethodPut, "/projections/all/rebuild", 503, "ending")
	})
}
