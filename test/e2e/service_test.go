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
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"commissaire/test/esdb"
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
		s.t.Fatalf("the service did not start: %s", s.logged())
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

// crash kills the program and starts it again.
func (s *service) crash() {
	s.t.Helper()
	s.stop(syscall.SIGKILL)
	s.start()
}

// logged is what the program has logged and printed so far.
func (s *service) logged() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// on is the service for a subtest.
func on(t *testing.T, s *service) *service {
	c := *s
	c.t = t
	return &c
}

// run runs the program to its end, with a text as its standard input.
func (s *service) run(input string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+masterKey)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// tool runs the program and gives what it prints.
func (s *service) tool(arguments ...string) string {
	s.t.Helper()
	out, err := s.run("", arguments...)
	if err != nil {
		s.t.Errorf("commissaire %s: %v: %s", strings.Join(arguments, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// clientFile is a file that says how to ask the service.
func (s *service) clientFile() string {
	s.write("commctl.json", map[string]any{"endpoint": s.base, "username": "admin", "password": password})
	return filepath.Join(s.dir, "commctl.json")
}
