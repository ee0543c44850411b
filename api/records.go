package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"commissaire/api/authentication"
	"commissaire/domain"
)

// Records answers GETs of what the log alone tells (records, their histories, and
// what changed in them) to whoever has the log: there is no service, and nobody
// has to log in.
type Records struct {
	server    *Server
	endpoints map[string]endpoint // by pattern
}

// NewRecords answers from Views; of the configuration, Follow, Entries, EventTypes
// and Now are used beside them.
func NewRecords(config Config) *Records {
	config.Age = func() time.Duration { return 0 }
	config.NodeStatus = func(context.Context, domain.ManagerName, domain.Address) (json.RawMessage, error) {
		return json.RawMessage("{}"), nil // as with ?at=
	}
	a := &Records{server: &Server{config: config, router: chi.NewRouter()}, endpoints: map[string]endpoint{}}
	a.server.records(func(path string, _ authentication.Permission, f endpoint) {
		a.server.router.Get(base+path, http.NotFound)
		a.endpoints[base+path] = f
	})
	return a
}

// Get is what GET of a path below /api/v0, with its query, answers as of the views,
// byte for byte, and the path of the next page where the answer has one. What a
// service refuses is refused with the same *domain.Refusal.
func (a *Records) Get(ctx context.Context, path string) (body []byte, next string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, "", fmt.Errorf("%.128q is no path such as /cluster/NAME", path)
	}
	withoutSlash(r.URL)
	route := chi.NewRouteContext()
	answer, ok := a.endpoints[a.server.router.Find(route, http.MethodGet, routed(r))]
	if !ok {
		return nil, "", fmt.Errorf("%.128q is nothing that the log alone tells: it tells of clusters, hosts, networks, container managers and operations, "+
			"of their history and diff, and not of credentials, of what hosts print, of streams of events or of how a service is", path)
	}
	w := written{header: http.Header{}}
	if err := answer(&w, r.WithContext(&request{Context: ctx, route: route})); err != nil {
		return nil, "", err
	}
	next, _, _ = strings.Cut(strings.TrimPrefix(w.header.Get("Link"), "<"+base), ">")
	return w.body.Bytes(), next, nil
}

// written is an answer that is kept.
type written struct {
	header http.Header
	body   bytes.Buffer
}

func (w *written) Header() http.Header { return w.header }

func (w *written) WriteHeader(int) {}

func (w *written) Write(text []byte) (int, error) { return w.body.Write(text) }
