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

// problem turns an error into an answer, and logs those that are our own fault.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	p := problem{Instance: instance(r), RequestID: requestOf(r).id, Detail: err.Error()}
	var refusal *domain.Refusal
	var delayed *authentication.Delayed
	var notReady *unready
	var wait time.Duration
	switch {
	case errors.As(err, &refusal):
		refusal = hinted(refusal)
		p.Code, p.Detail, p.Errors = refusal.Code, refusal.Detail, refusal.Fields
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
	case errors.Is(err, authentication.ErrDenied), errors.Is(err, errForbidden):
		p.Status = http.StatusForbidden
	case errors.As(err, &delayed):
		p.Status, wait = http.StatusForbidden, delayed.RetryAfter
	case errors.Is(err, errNoPath):
		p.Status = http.StatusNotFound
	case errors.Is(err, errNoMethod):
		p.Status = http.StatusMethodNotAllowed
	case errors.Is(err, errTooLarge):
		p.Status = http.StatusRequestEntityTooLarge
	case errors.Is(err, errCrowded):
		p.Status, wait = http.StatusTooManyRequests, 10*retryAfter
	case errors.Is(err, errLate), errors.Is(err, errBehind), errors.As(err, &notReady):
		p.Status, wait = http.StatusServiceUnavailable, retryAfter
		if errors.Is(err, errLate) && r.Method != http.MethodGet { // it was recorded
			p.Outcome = "unknown"
		}
	case errors.Is(err, commands.ErrOutcomeUnknown):
		p.Status, wait, p.Outcome = http.StatusServiceUnavailable, retryAfter, "unknown"
		p.Detail = "it is not known whether the change was recorded; repeating the request is safe"
	case errors.Is(err, commands.ErrUnavailable):
		p.Status, wait, p.Detail = http.StatusServiceUnavailable, retryAfter, "changes cannot be recorded at the moment; nothing was changed"
		if r.Method == http.MethodGet {
			p.Detail = "what this is read from, or recorded in, is not available at the moment"
		}
	default:
		p.Status, p.Detail = http.StatusInternalServerError, ""
		if r.Method != http.MethodGet {
			p.Outcome = "unknown"
		}
	}
	if p.Status >= http.StatusInternalServerError {
		attributes := []any{"method", r.Method, "path", r.URL.Path, "request_id", p.RequestID, "error", err}
		if panicked := (*panicError)(nil); errors.As(err, &panicked) {
			attributes = append(attributes, "stack", string(debug.Stack()))
		}
		s.config.Logger.Error("request failed", attributes...)
	}
	p.write(w, wait)
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
