// Package e2e tests the whole service: the program as it is run, over HTTP, with
// hosts that it reaches over SSH.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/ssh"

	"commissaire/test/esdb"
	"commissaire/test/fleet"
	"commissaire/test/systemd"
)

var program string

func TestMain(m *testing.M) {
	flag.Parse()
	if *storeKind != "sqlite" && *storeKind != "esdb" {
		fmt.Fprintf(os.Stderr, "-store is sqlite or esdb, and %s is neither\n", *storeKind)
		os.Exit(2)
	}
	if *realDisk != "" {
		systemd.Enter(*realDisk)
	}
	dir, err := os.MkdirTemp("", "commissaire-e2e-")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // one test runs it as nobody
		panic(err)
	}
	program = filepath.Join(dir, "commissaire")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "commissaire/cmd/commissaire")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// service is a running program, started anew as often as wanted on one store.
type service struct {
	t      *testing.T
	dir    string
	config map[string]any
	esdb   *esdb.Server // that it records in; nil: in SQLite files
	base   string
	client *http.Client
	cmd    *exec.Cmd
	ends   chan struct{}

	within []string // the program that runs the program; none: it is run as it is
}

const password = "correct horse: battery staple"

// masterKey is what the service seals its credentials with.
var masterKey = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))

// newService starts the program on a new store. settings are keys of its
// configuration, dotted.
func newService(t *testing.T, settings ...map[string]any) *service {
	t.Helper()
	s := unstarted(t, settings...)
	s.start()
	t.Cleanup(func() { s.stop(syscall.SIGKILL) })
	return s
}

// unstarted is a service with a configuration and nothing else.
func unstarted(t *testing.T, settings ...map[string]any) *service {
	t.Helper()
	s := &service{t: t, dir: t.TempDir(), client: http.DefaultClient}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]any{"admin": map[string]any{"hash": string(hash)}}
	for _, role := range []string{"viewer", "operator", "auditor", "join"} {
		users[role] = map[string]any{"hash": string(hash), "roles": []string{role}}
	}
	s.write("users.json", users)
	s.config = map[string]any{
		"listen-interface": "127.0.0.1", "listen-port": 0, "store": "sqlite:" + filepath.Join(s.dir, "store"),
		"hosts.allow-loopback":         true,
		"ssh.retry_delay":              "20ms",
		"operations.reboot-first-look": "50ms", "operations.reboot-timeout": "60s",
		"watch.interval":         "500ms",
		"authentication-plugins": []any{map[string]any{"name": "commissaire_http.authentication.httpbasicauth", "filepath": filepath.Join(s.dir, "users.json")}},
		"credentials.master-key": "env:TEST_MASTER_KEY",
	}
	if *storeKind == "esdb" {
		s.onDouble()
	}
	s.configure(settings...)
	return s
}

// configure changes keys of the configuration for the next start.
func (s *service) configure(settings ...map[string]any) {
	s.t.Helper()
	for _, more := range settings {
		maps.Copy(s.config, more)
	}
	s.write("config.json", s.config)
}

func (s *service) write(name string, value any) {
	s.t.Helper()
	text, err := json.Marshal(value)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, name), text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// start starts the program and waits until it listens.
func (s *service) start() {
	s.t.Helper()
	base, ok := <-s.launch()
	if !ok {
		<-s.ends
		text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		s.t.Fatalf("the service did not start: %s", text)
	}
	s.base = base
}

// launch starts the program. What it returns gives the URL on which the program
// listens, or is closed when it ends before.
func (s *service) launch() <-chan string {
	s.t.Helper()
	line := append(slices.Clone(s.within), program, "serve", "--config", filepath.Join(s.dir, "config.json"))
	s.cmd = exec.CommandContext(context.WithoutCancel(s.t.Context()), line[0], line[1:]...)
	s.cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+masterKey)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Stderr = log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	listens := make(chan string, 1)
	s.ends = make(chan struct{})
	go func(cmd *exec.Cmd, ends chan struct{}) {
		defer close(ends)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			_, _ = fmt.Fprintln(log, lines.Text())
			if _, url, ok := strings.Cut(lines.Text(), "listens on "); ok {
				listens <- url
			}
		}
		close(listens)
		_ = cmd.Wait()
		_ = log.Close()
	}(s.cmd, s.ends)
	return listens
}

// stop ends the program with a signal and waits until it has ended. One that was
// killed leads no longer, so that nobody need wait for the end of its lease.
func (s *service) stop(signal os.Signal) {
	s.end(signal)
	if s.esdb != nil && signal == syscall.SIGKILL {
		s.esdb.Deleted("commissaire-lease")
	}
}

// end is stop, and what is killed leads to the end of its lease.
func (s *service) end(signal os.Signal) {
	_ = s.cmd.Process.Signal(signal)
	<-s.ends
}

// answer is what the service said.
type answer struct {
	t      *testing.T
	call   string
	status int
	header http.Header
	body   []byte
}

func (s *service) as(user, method, path string, body any, headers ...string) answer {
	s.t.Helper()
	return s.do(s.request(user, method, path, body, headers...))
}

func (s *service) do(r *http.Request) answer {
	s.t.Helper()
	call := r.Method + " " + r.URL.Path
	response, err := s.client.Do(r)
	if err != nil {
		s.t.Fatalf("%s: %v", call, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.documented(r, response, text)
	return answer{s.t, call, response.StatusCode, response.Header, text}
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
func (s *service) documented(r *http.Request, response *http.Response, body []byte) {
	s.t.Helper()
	r.URL = &url.URL{Path: strings.TrimSuffix(r.URL.Path, "/")} // one slash at the end is as good as none
	route, params, err := document().FindRoute(r)
	if err != nil {
		if response.StatusCode < 400 {
			s.t.Errorf("%s %s is answered, and not in the API document", r.Method, r.URL.Path)
		}
		return
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 response.StatusCode, Header: response.Header, Body: io.NopCloser(bytes.NewReader(body)),
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

// says checks the whole body, as JSON.
func (a answer) says(want string) answer {
	a.t.Helper()
	var x, y any
	if json.Unmarshal(a.body, &x) != nil || json.Unmarshal([]byte(want), &y) != nil || fmt.Sprint(x) != fmt.Sprint(y) {
		a.t.Errorf("%s: got %s, want %s", a.call, a.body, want)
	}
	return a
}

// until asks again until the condition holds.
func (s *service) until(path string, condition func(map[string]any) bool) (o map[string]any) {
	s.t.Helper()
	s.await(func() bool {
		a := s.get(path)
		if a.status == http.StatusOK {
			o = a.object()
		}
		return a.status == http.StatusOK && condition(o)
	}, path)
	return o
}

// await looks again and again whether a condition on what is at a path holds.
func (s *service) await(condition func() bool, path string) {
	s.t.Helper()
	patience := 60 * time.Second
	if *realDisk != "" {
		patience = 3 * time.Minute // real hosts boot and install
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.t.Fatalf("GET %s did not come to what was waited for: %s\n%s", path, s.get(path).body, log)
		}
	}
}

// leads waits until the service acts.
func (s *service) leads() {
	s.t.Helper()
	s.until("/status", func(o map[string]any) bool {
		leader, ok := o["leader"].(map[string]any)
		return o["leads"] == true && ok && leader["instance"] == o["instance"]
	})
}

func status(want ...string) func(map[string]any) bool {
	return func(o map[string]any) bool { return slices.Contains(want, fmt.Sprint(o["status"])) }
}

// hosts starts simulated hosts and returns how they are added.
func hosts(t *testing.T, specs ...fleet.Spec) (*fleet.Fleet, func() map[string]any) {
	t.Helper()
	return startFleet(t, fleet.Config{Hosts: specs})
}

// startFleet starts simulated hosts that one key opens.
func startFleet(t *testing.T, config fleet.Config) (*fleet.Fleet, func() map[string]any) {
	t.Helper()
	private, public, err := fleet.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	config.Authorized = []ssh.PublicKey{public}
	f, err := fleet.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, func() map[string]any {
		return map[string]any{"ssh_priv_key": base64.StdEncoding.EncodeToString(private), "ssh_port": f.Port()}
	}
}

// on is the service for a subtest.
func on(t *testing.T, s *service) *service {
	c := *s
	c.t = t
	return &c
}

func sprint(value any) string { return fmt.Sprint(value) }

// run runs the program to its end, with a text as its standard input.
func (s *service) run(input string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+masterKey)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func fingerprint(h *fleet.Host) string { return ssh.FingerprintSHA256(h.HostKey()) }
