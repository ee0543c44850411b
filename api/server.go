// Package api serves the REST interface: it reads requests, hands PUT and DELETE
// to commands, answers GET from views, and turns every error into a problem
// (RFC 9457) in one place.
//
// The order of checks is the contract's: who asks (403, also for unknown
// paths), where to (404, 405), whether they may (403), what they send.
//
// openapi.yaml is the document of the interface; README.md explains what needs
// more than a line there.
package api

import (
	"context"
	_ "embed" // the API document
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"commissaire/api/authentication"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/projections"

	"github.com/go-chi/chi/v5"
	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed openapi.yaml
var document []byte

// Config is what a Server needs.
type Config struct {
	Commands      *commands.Handler
	Views         *projections.Views
	Follow        projections.Read
	Entries       func(ctx context.Context, positions []projections.Position) ([]HistoryEntry, error)
	EntriesAfter  func(ctx context.Context, after projections.Position) ([]HistoryEntry, error) // the next of the log, not necessarily all
	Events        *Events
	EventTypes    []string
	NodeStatus    func(ctx context.Context, manager domain.ManagerName, host domain.Address) (json.RawMessage, error)
	Outputs       Outputs
	Transparency  Transparency // nil: no checkpoints are signed
	Authenticator authentication.Plugin
	OnHost        projections.OnHost
	Rebuilds      *projections.Rebuilder
	Snapshots     func() (any, error) // of views, in files
	Status        func(context.Context) Status
	Ready         func(context.Context) error // why the service is not ready to serve
	Age           func() time.Duration        // since when the views cannot follow the log; 0: they do; nil: they always do
	Metrics       *prometheus.Registry
	MaxBody       int // bytes of a request's body; 0: 1 MiB
	Now           func() time.Time
	NewID         func() string
	Logger        *slog.Logger
}

// HistoryEntry is a line of the audit trail, and of the stream of events.
type HistoryEntry struct {
	Position  uint64           `json:"position"`
	Time      projections.Time `json:"time"`
	Type      string           `json:"type"`
	Stream    string           `json:"stream"`
	Actor     string           `json:"actor"`
	Reason    string           `json:"reason"`
	RequestID string           `json:"request_id"`
	Data      json.RawMessage  `json:"data"`
}

// Limits of what is taken and waited for.
const (
	maxBody   = 1 << 20 // unless configured
	maxReason = 1 << 10
	viewWait  = 5 * time.Second
	base      = "/api/v0"
)

// Server is the service as clients see it.
type Server struct {
	config   Config
	router   *chi.Mux
	handler  http.Handler
	requests *prometheus.HistogramVec
	closing  context.Context // ends when answers that go on must end
	close    context.CancelFunc
}

// New builds the server.
func New(config Config) *Server {
	if config.MaxBody == 0 {
		config.MaxBody = maxBody
	}
	if config.Age == nil {
		config.Age = func() time.Duration { return 0 }
	}
	s := &Server{config: config, router: chi.NewRouter()}
	s.closing, s.close = context.WithCancel(context.Background())
	s.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "commissaire_http_request_seconds", Help: "Time to answer, by route, method and status.",
	}, []string{"route", "method", "code"})
	config.Metrics.MustRegister(s.requests, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "commissaire_view_position", Help: "Position in the log up to which views are served.",
	}, func() float64 { return float64(config.Views.Snapshot().Position) }))
	if events := config.Events; events != nil {
		config.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "commissaire_event_readers", Help: "Open streams of events.",
		}, func() float64 { return float64(events.readers.Load()) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "commissaire_event_readers_dropped_total", Help: "Streams of events that were ended because their reader was too slow.",
		}, func() float64 { return float64(events.dropped.Load()) }))
	}
	s.routes()
	compress, err := gzhttp.NewWrapper(gzhttp.SuffixETag("-gzip"), gzhttp.MinSize(512))
	if err != nil {
		panic(err) // the options above are constants
	}
	s.handler = compress(http.HandlerFunc(s.serve))
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Close breaks off the answers that would go on; no new ones are begun.
func (s *Server) Close() { s.close() }

type endpoint func(w http.ResponseWriter, r *http.Request) error

// records are the GETs of what the log alone tells.
func (s *Server) records(get register) {
	const read, audit = authentication.Read, authentication.ReadAudit
	get("/clusters", read, s.getClusters)
	get("/cluster/{name}", read, s.getCluster)
	get("/cluster/{name}/hosts", read, s.getMembers)
	get("/cluster/{name}/hosts/{host}", read, s.getMember)
	for _, kind := range kinds {
		get("/cluster/{name}/"+string(kind), read, s.getLatest(kind))
	}
	get("/cluster/{name}/diff", audit, s.getDiff(projections.OfCluster, "name"))
	get("/cluster/{name}/history", audit, s.getHistory(projections.OfCluster, "name"))
	get("/containermanagers", read, s.getManagers)
	get("/containermanager/{name}", read, s.getManager)
	get("/hosts", read, s.getHosts)
	get("/host/{host}", read, s.getHost)
	get("/host/{host}/status", read, s.getHostStatus)
	get("/host/{host}/diff", audit, s.getDiff(projections.OfHost, "host"))
	get("/host/{host}/history", audit, s.getHistory(projections.OfHost, "host"))
	get("/inventory/{host}", read, s.getInventory)
	get("/networks", read, s.getNetworks)
	get("/network/{name}", read, s.getNetwork)
	get("/operations", read, s.getOperations)
	get("/operation/{id}", read, s.getOperation)
	get("/operation/{id}/diff", audit, s.getDiff(projections.OfOperation, "id"))
	get("/operation/{id}/history", audit, s.getHistory(projections.OfOperation, "id"))
}

var kinds = []domain.OperationKind{domain.Deploy, domain.Upgrade, domain.Restart}

// register takes a route of a method: its path below base, who may ask, and what
// answers.
type register func(path string, p authentication.Permission, f endpoint)

func (s *Server) routes() {
	below := func(method string) register {
		return func(path string, p authentication.Permission, f endpoint) { s.route(method, base+path, p, f) }
	}
	get, put, del := below(http.MethodGet), below(http.MethodPut), below(http.MethodDelete)
	s.records(get)
	s.definitions(put, del)
	s.hosts(get, put, del)
	s.operations(get, put)
	s.service(get, put, del)
	s.router.NotFound(func(w http.ResponseWriter, r *http.Request) { s.problem(w, r, errNoPath) })
	s.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		allowed := s.allowed(r)
		if allowed == "" { // the router asks for the method first where it does not know it
			s.problem(w, r, errNoPath)
			return
		}
		w.Header().Set("Allow", allowed)
		s.problem(w, r, errNoMethod)
	})
}

// route has requests answered by f, of those who may.
func (s *Server) route(method, path string, p authentication.Permission, f endpoint) {
	s.router.MethodFunc(method, path, func(w http.ResponseWriter, r *http.Request) {
		if !identity(r).May(p) {
			s.problem(w, r, errForbidden)
			return
		}
		if err := f(w, r); err != nil {
			s.problem(w, r, err)
		}
	})
}

// definitions are the changes of clusters, networks and container managers.
func (s *Server) definitions(put, del register) {
	const operate, administer = authentication.Operate, authentication.Administer
	put("/cluster/{name}", administer, s.putCluster)
	del("/cluster/{name}", administer, s.deleteCluster)
	put("/cluster/{name}/hosts", operate, s.putMembers)
	put("/cluster/{name}/hosts/{host}", operate, s.putMember)
	del("/cluster/{name}/hosts/{host}", operate, s.deleteMember)
	put("/containermanager/{name}", administer, s.putManager)
	del("/containermanager/{name}", administer, s.deleteManager)
	put("/network/{name}", administer, s.putNetwork)
	del("/network/{name}", administer, s.deleteNetwork)
}

// hosts are the changes of hosts, and their credentials.
func (s *Server) hosts(get, put, del register) {
	const administer = authentication.Administer
	put("/host", authentication.AddSelf, s.putSelf)
	put("/host/{host}", administer, s.putHost)
	del("/host/{host}", administer, s.deleteHost)
	get("/host/{host}/creds", administer, s.getCredentials)
	put("/host/{host}/hostkey", administer, s.putHostKey)
	put("/host/{host}/takeover", administer, s.putTakeover)
}

// operations are the changes of operations, and what their hosts print.
func (s *Server) operations(get, put register) {
	const operate = authentication.Operate
	for _, kind := range kinds {
		put("/cluster/{name}/"+string(kind), operate, s.putOperation(kind))
	}
	get("/operation/{id}/host/{host}/log", authentication.ReadOutput, s.getOutput)
	put("/operation/{id}/pause", operate, s.steer(s.config.Commands.PauseOperation))
	put("/operation/{id}/resume", operate, s.steer(s.config.Commands.ResumeOperation))
	put("/operation/{id}/cancel", operate, s.steer(s.config.Commands.CancelOperation))
	put("/operation/{id}/abandon", authentication.Administer, s.abandon)
}

// service are the requests about the service itself: its log, its views, how it is.
func (s *Server) service(get, put, del register) {
	const read, readLog, administer = authentication.Read, authentication.ReadLog, authentication.Administer
	get("/events", authentication.ReadAudit, s.getEvents)
	get("/log/checkpoint", readLog, s.getCheckpoint)
	get("/log/proof", readLog, s.getProof)
	get("/projections", read, s.getProjections)
	put("/projections/{name}/rebuild", administer, s.putRebuild(projections.KindRebuild))
	del("/projections/{name}/rebuild", administer, s.deleteRebuild)
	put("/projections/{name}/verify", readLog, s.putRebuild(projections.KindVerify))
	get("/status", read, s.getStatus)

	metrics := promhttp.HandlerFor(s.config.Metrics, promhttp.HandlerOpts{DisableCompression: true})
	s.route(http.MethodGet, "/metrics", read, func(w http.ResponseWriter, r *http.Request) error {
		metrics.ServeHTTP(w, r)
		return nil
	})
	s.route(http.MethodGet, "/openapi.yaml", read, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/yaml")
		_, err := w.Write(document)
		return ignore(err)
	})
}

// methods are all that there are routes for.
var methods = []string{http.MethodDelete, http.MethodGet, http.MethodPut}

// allowed are the methods of the request's path.
func (s *Server) allowed(r *http.Request) string {
	var allowed []string
	for _, method := range methods {
		if s.router.Match(chi.NewRouteContext(), method, routed(r)) {
			allowed = append(allowed, method)
		}
	}
	return strings.Join(allowed, ", ")
}

// routed is the path that the router sees.
func routed(r *http.Request) string {
	if r.URL.RawPath != "" {
		return r.URL.RawPath
	}
	return r.URL.Path
}

// serve does what comes before any route.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	began := s.config.Now()
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		id = s.config.NewID()
	}
	w.Header().Set("X-Request-Id", id)
	counted := &counting{ResponseWriter: w, code: http.StatusOK}
	w = counted
	of := &request{Context: r.Context(), route: chi.NewRouteContext(), id: id}
	defer func() {
		route := of.route.RoutePattern()
		if route == "" {
			route = "none"
		}
		method := r.Method
		if !slices.Contains(methods, method) { // a client may make up any number of them
			method = "other"
		}
		s.requests.WithLabelValues(route, method, strconv.Itoa(counted.code)).Observe(s.config.Now().Sub(began).Seconds())
	}()
	r = r.WithContext(of)
	defer func() {
		if panicked := recover(); panicked != nil {
			if panicked == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like that, too
				panic(panicked)
			}
			s.problem(w, r, &panicError{panicked})
		}
	}()
	withoutSlash(r.URL)
	switch r.URL.Path {
	case "/healthz":
		s.plain(w, r, nil)
		return
	case "/readyz":
		s.plain(w, r, s.config.Ready(r.Context()))
		return
	}
	who, err := s.config.Authenticator.Authenticate(r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	of.identity = who
	s.router.ServeHTTP(w, r)
}

// withoutSlash drops the one slash that any route may end with.
func withoutSlash(u *url.URL) {
	for _, path := range []*string{&u.Path, &u.RawPath} {
		if len(*path) > 1 {
			*path = strings.TrimSuffix(*path, "/")
		}
	}
}

func (s *Server) plain(w http.ResponseWriter, r *http.Request, err error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		s.problem(w, r, errNoMethod)
		return
	}
	if err != nil {
		s.problem(w, r, &unready{err})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err = w.Write([]byte("ok\n"))
	_ = ignore(err)
}

// counting remembers the status code.
type counting struct {
	http.ResponseWriter
	code int
}

func (c *counting) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// snapshot is the one cut that a GET is answered from. A client that says what
// position it has seen gets nothing older.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) (*projections.Snapshot, error) {
	if least := r.Header.Get("X-Commissaire-At-Least"); least != "" {
		position, err := strconv.ParseUint(least, 10, 64)
		if err != nil {
			return nil, domain.ErrInvalid.At("X-Commissaire-At-Least", "not a position as X-Commissaire-Position gives it")
		}
		if !s.waitFor(r.Context(), position) {
			return nil, errLate
		}
	}
	snapshot, err := s.cut(r)
	if err != nil {
		return nil, err
	}
	w.Header().Set("X-Commissaire-Position", strconv.FormatUint(uint64(snapshot.Position), 10))
	if age := s.config.Age(); age > 0 {
		w.Header().Set("X-Commissaire-Age", strconv.FormatInt(int64(age/time.Second), 10))
	}
	return snapshot, nil
}

// cut is the present, or what was at the bound that ?at= gives.
func (s *Server) cut(r *http.Request) (*projections.Snapshot, error) {
	text, past := asOfQuery(r)
	if !past {
		return s.config.Views.Snapshot(), nil
	}
	return s.asOf(r, "at", text)
}

// asOf is what was at a bound, which the request gives under a key.
func (s *Server) asOf(r *http.Request, key, text string) (*projections.Snapshot, error) {
	bound, err := projections.ParseBound(text)
	if err != nil {
		return nil, domain.ErrInvalid.At(key, "%v", err)
	}
	return s.config.Views.AsOf(r.Context(), s.config.Follow, bound, s.config.Now())
}

// presentOnly refuses ?at= where what is answered is not a function of the log.
func presentOnly(r *http.Request) error {
	if _, past := asOfQuery(r); past {
		return domain.ErrInvalid.At("at", "this is answered as of now only")
	}
	return nil
}

// asOfQuery is what ?at= of a request says that it is to be answered as of; false: the
// present.
func asOfQuery(r *http.Request) (string, bool) {
	if r.URL.RawQuery == "" { // most have none
		return "", false
	}
	query := r.URL.Query()
	return query.Get("at"), query.Has("at")
}

// settle waits until the outcome of a command is in the view; a view that is
// late does not make the command fail.
func (s *Server) settle(w http.ResponseWriter, r *http.Request, receipt commands.Receipt) *projections.Snapshot {
	s.waitFor(r.Context(), uint64(receipt.Position))
	w.Header().Set("X-Commissaire-Position", strconv.FormatUint(uint64(receipt.Position), 10))
	return s.config.Views.Snapshot()
}

// answer writes a record. GET answers are conditional.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, value any) error {
	record, ok := value.(*projections.Answer)
	if !ok {
		record = projections.NewAnswer(value)
	}
	body, etag := record.JSON()
	return s.send(w, r, status, "application/json", body, etag)
}

// send writes an answer whose entity tag is known.
func (s *Server) send(w http.ResponseWriter, r *http.Request, status int, kind string, body []byte, etag string) error {
	header := w.Header()
	header.Set("Content-Type", kind)
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "private, no-cache")
		if r.Method == http.MethodGet {
			header.Set("Vary", "Accept-Encoding")
			header.Set("ETag", etag)
			if given := r.Header.Get("If-None-Match"); given != "" {
				if match, ok := matches(given, etag); ok {
					header.Set("ETag", match)
					w.WriteHeader(http.StatusNotModified)
					return nil
				}
			}
		}
	}
	w.WriteHeader(status)
	_, err := w.Write(body)
	return ignore(err)
}

// matches tells whether If-None-Match names the answer in one of its two
// encodings (RFC 9110, 13.1.2), and which.
func matches(header, etag string) (string, bool) {
	given := strings.Split(header, ",")
	for i := range given {
		given[i] = strings.TrimPrefix(strings.TrimSpace(given[i]), "W/")
	}
	for _, form := range []string{etag, strings.TrimSuffix(etag, `"`) + `-gzip"`} {
		if slices.Contains(given, form) || header == "*" {
			return form, true
		}
	}
	return "", false
}

// ignore drops the error of a write to a client that has gone.
func ignore(error) error { return nil }

func (s *Server) who(r *http.Request) (commands.Who, error) {
	of, reason := requestOf(r), r.Header.Get("X-Commissaire-Reason")
	reason = strings.ToValidUTF8(reason, "�") // as it is recorded
	if len(reason) > maxReason {
		return commands.Who{}, domain.ErrInvalid.At("X-Commissaire-Reason", "longer than 1024 bytes")
	}
	return commands.Who{Actor: of.identity.Name, Reason: reason, RequestID: of.id, Remote: r.RemoteAddr}, nil
}

// change is who asks for a change, and what they send.
func (s *Server) change(r *http.Request) (commands.Who, body, error) {
	who, err := s.who(r)
	if err != nil {
		return commands.Who{}, nil, err
	}
	b, err := s.readBody(r)
	return who, b, err
}
