package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"commissaire/api/authentication"
	"commissaire/commands"
	"commissaire/domain"
)

var (
	errForbidden = errors.New("your roles do not allow this")
	errNoPath    = errors.New("there is nothing at this path")
	errNoMethod  = errors.New("this path does not take that method; see Allow")
	errTooLarge  = errors.New("the body is too large")
	errEnding    = errors.New("the service is ending")
	errBehind    = errors.New("the tree over the log has not reached its end yet; try again")
	errLate      = errors.New("the view has not reached that position yet; try again")
)

type unready struct{ why error }

func (u *unready) Error() string { return "not ready: " + u.why.Error() }

type panicError struct{ value any }

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// problem is an error as clients see it (RFC 9457).
type problem struct {
	Type      string              `json:"type"`
	Title     string              `json:"title"`
	Status    int                 `json:"status"`
	Detail    string              `json:"detail,omitempty"`
	Instance  string              `json:"instance"`
	RequestID string              `json:"request_id"`
	Code      string              `json:"code,omitempty"`
	Outcome   string              `json:"outcome,omitempty"`
	Errors    []domain.FieldError `json:"errors,omitempty"`
}

const retryAfter = 2 * time.Second

// unknown is the outcome of a change that may have been recorded.
const unknown = "unknown"

// problem turns an error into an answer, and logs those that are our own fault.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	var p problem
	var wait time.Duration
	if refusal := (*domain.Refusal)(nil); errors.As(err, &refusal) {
		p = s.refusal(w, r, hinted(refusal))
	} else {
		p, wait = failure(r.Method, err)
	}
	p.Instance, p.RequestID = instance(r), requestOf(r).id
	if p.Status >= http.StatusInternalServerError {
		attributes := []any{"method", r.Method, "path", r.URL.Path, "request_id", p.RequestID, "error", err}
		if panicked := (*panicError)(nil); errors.As(err, &panicked) {
			attributes = append(attributes, "stack", string(debug.Stack()))
		}
		s.config.Logger.Error("request failed", attributes...)
	}
	p.write(w, wait)
}

// refusal is the problem of a request that a rule refuses.
func (s *Server) refusal(w http.ResponseWriter, r *http.Request, refusal *domain.Refusal) problem {
	p := problem{Code: refusal.Code, Detail: refusal.Detail, Errors: refusal.Fields}
	switch refusal.Kind {
	case domain.Invalid:
		p.Status = http.StatusBadRequest
	case domain.NotFound:
		p.Status = http.StatusNotFound
	case domain.NotReady:
		p.Status = http.StatusMethodNotAllowed
		w.Header().Set("Allow", s.allowed(r))
	case domain.Conflict:
		p.Status = http.StatusConflict
	}
	return p
}

// failures are the errors that have a status of their own, and how long a client is
// to wait before it tries again; 0: it is not said.
var failures = []struct {
	err    error
	status int
	wait   time.Duration
}{
	{authentication.ErrDenied, http.StatusForbidden, 0},
	{errForbidden, http.StatusForbidden, 0},
	{errNoPath, http.StatusNotFound, 0},
	{errNoMethod, http.StatusMethodNotAllowed, 0},
	{errTooLarge, http.StatusRequestEntityTooLarge, 0},
	{errCrowded, http.StatusTooManyRequests, 10 * retryAfter},
	{errLate, http.StatusServiceUnavailable, retryAfter},
	{errBehind, http.StatusServiceUnavailable, retryAfter},
}

// failure is the problem of a request that failed otherwise than by a rule, and how
// long the client is to wait.
func failure(method string, err error) (problem, time.Duration) {
	reads := method == http.MethodGet
	for _, f := range failures {
		if !errors.Is(err, f.err) {
			continue
		}
		p := problem{Status: f.status, Detail: err.Error()}
		if errors.Is(err, errLate) && !reads { // it was recorded
			p.Outcome = unknown
		}
		return p, f.wait
	}
	var delayed *authentication.Delayed
	var notReady *unready
	switch {
	case errors.As(err, &delayed):
		return problem{Status: http.StatusForbidden, Detail: err.Error()}, delayed.RetryAfter
	case errors.As(err, &notReady):
		return problem{Status: http.StatusServiceUnavailable, Detail: err.Error()}, retryAfter
	case errors.Is(err, commands.ErrOutcomeUnknown):
		return problem{Status: http.StatusServiceUnavailable, Outcome: unknown, Detail: "it is not known whether the change was recorded; repeating the request is safe"}, retryAfter
	case errors.Is(err, commands.ErrUnavailable) && reads:
		return problem{Status: http.StatusServiceUnavailable, Detail: "what this is read from, or recorded in, is not available at the moment"}, retryAfter
	case errors.Is(err, commands.ErrUnavailable):
		return problem{Status: http.StatusServiceUnavailable, Detail: "changes cannot be recorded at the moment; nothing was changed"}, retryAfter
	}
	p := problem{Status: http.StatusInternalServerError}
	if !reads {
		p.Outcome = unknown
	}
	return p, 0
}

// longestInstance bounds what is repeated of a path.
const longestInstance = 1 << 10

func instance(r *http.Request) string {
	path := r.URL.EscapedPath()
	return path[:min(len(path), longestInstance)]
}

// write answers with the problem, and says when to come again where there is a
// time for that.
func (p problem) write(w http.ResponseWriter, wait time.Duration) {
	p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // a problem holds nothing that has no JSON
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_, err = w.Write(append(text, '\n'))
	_ = ignore(err)
}
