package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// answer is what the service said to a call; status 0: nothing.
type answer struct {
	t      *testing.T
	call   string
	status int
	header http.Header
	body   []byte
}

// as asks as a user.
func (s *service) as(user, method, path string, body any, headers ...string) answer {
	s.t.Helper()
	return s.do(s.request(user, method, path, body, headers...))
}

// do sends a request that must be answered, as the API document says.
func (s *service) do(r *http.Request) answer {
	s.t.Helper()
	a, err := s.try(r)
	if err != nil {
		s.t.Fatalf("%s: %v", a.call, err)
	}
	s.documented(r, a)
	return a
}

// try sends a request that may get no answer: then its status is 0. Where the answer
// breaks off it has a status, and err is not nil.
func (s *service) try(r *http.Request) (answer, error) {
	a := answer{t: s.t, call: r.Method + " " + r.URL.Path}
	response, err := s.client.Do(r)
	if err != nil {
		return a, err
	}
	defer func() { _ = response.Body.Close() }()
	a.status, a.header = response.StatusCode, response.Header
	a.body, err = io.ReadAll(response.Body)
	return a, err
}

// request is a request of a user; "" is nobody. The body is text, or becomes JSON.
// A path that begins with // is not one of the API.
func (s *service) request(user, method, path string, body any, headers ...string) *http.Request {
	s.t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	url := s.base + "/api/v0" + path
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		url = s.base + "/" + rest
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, url, reader)
	if err != nil {
		s.t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// documented holds an answer against the API document. What is no route may be
// asked for too: that is answered with a problem, which `is` checks.
func (s *service) documented(r *http.Request, a answer) {
	s.t.Helper()
	r.URL = &url.URL{Path: strings.TrimSuffix(r.URL.Path, "/")} // one slash at the end is as good as none
	route, params, err := document().FindRoute(r)
	if err != nil {
		if a.status < 400 {
			s.t.Errorf("%s %s is answered, and not in the API document", r.Method, r.URL.Path)
		}
		return
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if err := openapi3filter.ValidateResponse(s.t.Context(), input); err != nil {
		s.t.Errorf("%s %s is not answered as documented: %v", r.Method, r.URL.Path, err)
	}
}

var document = sync.OnceValue(func() routers.Router {
	doc, err := openapi3.NewLoader().LoadFromFile("../../api/openapi.yaml")
	if err != nil {
		panic(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	return router
})

func (s *service) get(path string, headers ...string) answer {
	s.t.Helper()
	return s.as("admin", http.MethodGet, path, nil, headers...)
}

func (s *service) put(path string, body any, headers ...string) answer {
	s.t.Helper()
	return s.as("admin", http.MethodPut, path, body, headers...)
}

func (s *service) delete(path string) answer {
	s.t.Helper()
	return s.as("admin", http.MethodDelete, path, nil)
}

// is checks the status; a refusal must be a whole problem.
func (a answer) is(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: got %d, want %d: %s", a.call, a.status, status, a.body)
	}
	if status >= 400 {
		if got := a.header.Get("Content-Type"); got != "application/problem+json" {
			a.t.Errorf("%s: a refusal of type %s", a.call, got)
		}
		for _, key := range []string{"type", "title", "status", "instance", "request_id"} {
			if _, ok := a.object()[key]; !ok {
				a.t.Errorf("%s: the problem has no %s: %s", a.call, key, a.body)
			}
		}
		if status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
			a.t.Errorf("%s: 405 without Allow", a.call)
		}
	}
	return a
}

func (a answer) object() map[string]any {
	a.t.Helper()
	var value map[string]any
	if err := json.Unmarshal(a.body, &value); err != nil {
		a.t.Fatalf("%s: %v: %s", a.call, err, a.body)
	}
	return value
}

// isUnknown tells whether a change may have been made or not.
func (a answer) isUnknown() bool {
	return a.status == 0 || a.status >= 500 && strings.Contains(string(a.body), `"outcome":"unknown"`)
}

// keys checks that the record has exactly these keys.
func (a answer) keys(want ...string) answer {
	a.t.Helper()
	got := slices.Sorted(maps.Keys(a.object()))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		a.t.Errorf("%s: keys %v, want %v", a.call, got, want)
	}
	return a
}

func (a answer) list() (all []any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, &all); err != nil {
		a.t.Fatalf("%s: no list: %s", a.call, a.body)
	}
	return all
}

// next is the path of the next page, "" after the last.
func (a answer) next() string {
	path, _, _ := strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "</api/v0"), ">; rel=\"next\"")
	return path
}

// events are the data of the events of some types in a history.
func (s *service) events(path string, types ...string) (found []map[string]any) {
	s.t.Helper()
	for _, e := range list(s.get(path).is(200).list()) {
		if slices.Contains(types, sprint(e["type"])) {
			data, _ := e["data"].(map[string]any)
			found = append(found, data)
		}
	}
	return found
}

// mentions counts how often the history of what is at a path has a text.
func (s *service) mentions(path, text string) int {
	s.t.Helper()
	return strings.Count(string(s.get(path+"/history").is(200).body), text)
}

// says checks the whole body, as JSON.
func (a answer) says(want string) answer {
	a.t.Helper()
	var x, y any
	if json.Unmarshal(a.body, &x) != nil || json.Unmarshal([]byte(want), &y) != nil || fmt.Sprint(x) != fmt.Sprint(y) {
		a.t.Errorf("%s: got %s, want %s", a.call, a.body, want)
	}
	return a
}

func sprint(value any) string { return fmt.Sprint(value) }

// location is the path of what a request made.
func (a answer) location() string {
	return strings.TrimPrefix(a.header.Get("Location"), "/api/v0")
}

// position is where a change was recorded, or the views stood.
func (a answer) position() uint64 {
	a.t.Helper()
	pos, err := strconv.ParseUint(a.header.Get("X-Commissaire-Position"), 10, 64)
	if err != nil {
		a.t.Fatal(err)
	}
	return pos
}

// list is a list of objects within a record.
func list(value any) (objects []map[string]any) {
	items, _ := value.([]any)
	for _, item := range items {
		object, _ := item.(map[string]any)
		objects = append(objects, object)
	}
	return objects
}

func of(objects []map[string]any, key string) []any {
	values := []any{}
	for _, o := range objects {
		values = append(values, o[key])
	}
	return values
}
