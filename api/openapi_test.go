package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"commissaire/projections"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// TestTheDocumentHasEveryRoute holds the document against the router, both ways.
func TestTheDocumentHasEveryRoute(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var documented, routed []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	s := New(Config{Views: projections.New(), Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	err = chi.Walk(s.router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routed = append(routed, method+" "+strings.TrimSuffix(route, "/"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	routed = append(routed, "GET /healthz", "GET /readyz") // before the router, as they need no credentials
	slices.Sort(documented)
	slices.Sort(routed)
	if !slices.Equal(documented, routed) {
		t.Errorf("documented:\n%s\nserved:\n%s", strings.Join(documented, "\n"), strings.Join(routed, "\n"))
	}
}
