package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"commissaire/test/fleet"
)

// backups says why a test of backups does not run on EventStoreDB.
const backups = "EventStoreDB is backed up by its own means"

// saved is what backup and restore print.
type saved struct {
	Events      uint64   `json:"events"`
	Position    uint64   `json:"position"`
	Root        string   `json:"root"`
	Credentials int      `json:"credentials"`
	Opened      bool     `json:"credentials_opened"`
	Missing     []string `json:"credentials_missing"`
}

// saves runs backup or restore.
func (s *service) saves(t *testing.T, arguments ...string) (done saved) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, append(arguments, "-o", "json", "--config", filepath.Join(s.dir, "config.json"))...)
	cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+masterKey)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || said.Len() > 0 || json.Unmarshal(out, &done) != nil {
		t.Fatalf("%v: %v: %s%s", arguments, err, out, said.String())
	}
	return done
}

// acknowledged are changes that were answered 2xx: where they are, and in which
// position of the log.
type acknowledged struct {
	mu  sync.Mutex
	all map[string]uint64
}

func (a *acknowledged) add(path string, pos uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[path] = pos
}

func (a *acknowledged) current() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.all)
}

// change makes a change as a client that need not be on the test's goroutine.
func (s *service) change(ctx context.Context, method, path string, body any) (pos uint64, err error) {
	a, err := s.try(s.request("admin", method, path, body).WithContext(ctx))
	if err == nil && a.status >= 300 {
		err = fmt.Errorf("%s: %d %s", a.call, a.status, a.body)
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(a.header.Get("X-Commissaire-Position"), 10, 64)
}

// loaded is a service whose backups are made while clients change what there is.
type loaded struct {
	*service
	fleet     *fleet.Fleet
	body      func() map[string]any
	operation string // crosses the cluster meanwhile

	acknowledged acknowledged
	taken        atomic.Int64 // backups
}

// load has five clients change what there is, until stop is called. No host that one
// adds is removed within the backup in which it was added.
func (l *loaded) load() (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var clients sync.WaitGroup
	failed := make(chan error, 5)
	for client := range 4 {
		clients.Go(func() { failed <- l.define(ctx, client) })
	}
	clients.Go(func() { failed <- l.addAndRemove(ctx) })
	return func() {
		l.t.Helper()
		cancel()
		clients.Wait()
		for range 5 {
			if err := <-failed; err != nil {
				l.t.Fatal(err)
			}
		}
	}
}

// define defines clusters and networks until ctx ends.
func (l *loaded) define(ctx context.Context, client int) error {
	for n := 0; ctx.Err() == nil; n++ {
		path := fmt.Sprintf("/%s/x%d-%d", []string{"cluster", "network"}[n%2], client, n)
		pos, err := l.change(context.WithoutCancel(ctx), http.MethodPut, path, nil)
		if err != nil {
			return err
		}
		l.acknowledged.add(path, pos)
	}
	return nil
}

// addAndRemove adds hosts and removes them until ctx ends.
func (l *loaded) addAndRemove(ctx context.Context) error {
	type added struct {
		path  string
		taken int64
	}
	var hosts []added
	for n := 0; ctx.Err() == nil; n++ {
		path := fmt.Sprintf("/host/127.0.45.%d", n%200+1)
		switch {
		case len(hosts) > 0 && hosts[0].taken < l.taken.Load() && (n%2 == 0 || len(hosts) > 100):
			if _, err := l.change(context.WithoutCancel(ctx), http.MethodDelete, hosts[0].path, nil); err != nil {
				return err
			}
			hosts = hosts[1:]
		case len(hosts) > 100:
			pause(ctx, time.Millisecond)
		default:
			if _, err := l.change(context.WithoutCancel(ctx), http.MethodPut, path, l.body()); err != nil {
				return err
			}
			hosts = append(hosts, added{path, l.taken.Load()})
		}
	}
	return nil
}

// backup is one that was made, and what the service says of that moment.
type backup struct {
	saved
	log, keys string
	before    map[string]uint64 // acknowledged
	answers   map[string]string
	begun     map[string]bool // hosts on which the operation was
}

// backUp makes a backup under load, and checks that it has what was acknowledged.
func (l *loaded) backUp(n int) *backup {
	l.t.Helper()
	has := len(l.acknowledged.current())
	l.await(func() bool { return len(l.acknowledged.current()) > has+20 }, "/status")
	b := &backup{log: filepath.Join(l.dir, fmt.Sprint("log", n)), keys: filepath.Join(l.dir, fmt.Sprint("keys", n)), before: l.acknowledged.current()}
	b.saved = l.saves(l.t, "backup", b.log, "--credentials", b.keys)
	l.taken.Add(1)
	if !b.Opened || len(b.Missing) > 0 || b.Credentials < len(l.fleet.Hosts()) {
		l.t.Errorf("backup %d: %+v", n, b.saved)
	}
	for path, pos := range b.before {
		if pos > b.Position {
			l.t.Errorf("%s was acknowledged at position %d, and the backup that began then ends with %d", path, pos, b.Position)
		}
	}
	return b
}

// remember asks what the service says of the moment of a backup.
func (l *loaded) remember(b *backup) {
	l.t.Helper()
	paths := []string{
		"/clusters", "/hosts", "/networks", "/containermanagers", "/containermanager/m", "/operations", l.operation,
		"/cluster/c", "/cluster/c/hosts", "/cluster/c/upgrade", "/network/default",
	}
	for _, h := range l.fleet.Hosts() {
		paths = append(paths, "/host/"+h.Address(), "/host/"+h.Address()+"/status", "/cluster/c/hosts/"+h.Address())
	}
	b.answers = map[string]string{}
	for _, path := range slices.AppendSeq(paths, maps.Keys(b.before)) {
		b.answers[path] = l.past(path, b.Position)
	}
	var o struct {
		Hosts []struct{ Address, State string }
	}
	if err := json.Unmarshal([]byte(b.answers[l.operation]), &o); err != nil || len(o.Hosts) != len(l.fleet.Hosts()) {
		l.t.Fatalf("%v: %s", err, b.answers[l.operation])
	}
	b.begun = map[string]bool{}
	for _, h := range o.Hosts {
		b.begun[h.Address] = h.State != "waiting"
	}
}

// past is what was at a path at a position.
func (s *service) past(path string, position uint64) string {
	s.t.Helper()
	return string(s.get(path + "?at=" + strconv.FormatUint(position, 10)).is(200).body)
}

// restore restores a backup into a new directory and starts a service of it, which
// must say what the first one said.
func (l *loaded) restore(b *backup) *service {
	l.t.Helper()
	r := *l.service
	r.dir = l.t.TempDir()
	store := filepath.Join(r.dir, "store")
	done := l.saves(l.t, "restore", b.log, "--credentials", b.keys, "--store", "sqlite:"+store)
	if done.Root != b.Root || done.Position != b.Position || done.Events != b.Events || done.Credentials != b.Credentials || len(done.Missing) > 0 {
		l.t.Errorf("backed up %+v, restored %+v", b.saved, done)
	}
	if root, _ := l.rootOf(store); root != b.Root {
		l.t.Errorf("the root is %s, was %s", root, b.Root)
	}
	r.config = maps.Clone(l.config)
	r.configure(map[string]any{"store": "sqlite:" + store})
	r.start()
	for path, was := range b.answers {
		if is := r.past(path, b.Position); is != was {
			l.t.Errorf("GET %s of the service restored from %s: %s\nwas: %s", path, b.log, is, was)
		}
	}
	return &r
}

// restartAll restarts all hosts, which shows that they obey the service.
func (s *service) restartAll() {
	s.t.Helper()
	s.put("/cluster/c/restart", `{"max_unavailable": 4}`).is(201)
	s.until("/cluster/c/restart", status("finished"))
}

// TestBackupsUnderLoadHaveAllThatWasAcknowledged backs a service up while clients
// change what there is and an operation crosses a cluster, restores each backup into
// a new directory, and asks a new service of it what the first one answered then.
func TestBackupsUnderLoadHaveAllThatWasAcknowledged(t *testing.T) {
	onSQLite(t, backups)
	specs := atomics(44, 4)
	for i := range specs {
		specs[i].Speed = fleet.Speed{Upgrade: 200 * time.Millisecond, Reboot: 100 * time.Millisecond}
	}
	f, body := hosts(t, specs...)
	s := newService(t, map[string]any{"bootstrap.profile": "none", "watch.interval": "1s", "container-managers.timeout": "1s"})
	s.join(f, body)
	s.put("/containermanager/m", `{"options":{"server_url":"https://127.0.44.99:1","token":"a-token-that-is-nowhere"}}`).is(201)
	l := &loaded{service: s, fleet: f, body: body, operation: s.operate("upgrade", `{"delay": 2}`)}
	l.acknowledged.all = map[string]uint64{}

	stop := l.load()
	var all []*backup
	for n := range 3 {
		all = append(all, l.backUp(n))
	}
	stop()

	// What the service says of each moment, and what it does after the backups: the
	// hosts see terms that no backup knows.
	s.until(l.operation, status("finished"))
	for _, b := range all {
		l.remember(b)
	}
	if !strings.Contains(all[0].answers[l.operation], `"in_process"`) {
		t.Errorf("nothing was under way at the first backup: %s", all[0].answers[l.operation])
	}
	for range 3 {
		s.crash()
		s.leads()
	}
	s.restartAll()
	last := &backup{log: filepath.Join(s.dir, "log-last"), keys: filepath.Join(s.dir, "keys-last")}
	s.stop(syscall.SIGKILL) // a write-ahead log is left
	last.saved = s.saves(t, "backup", last.log, "--credentials", last.keys)

	upgrades := map[string]int{}
	for _, h := range f.Hosts() {
		upgrades[h.Address()] = commands(h, "rpm-ostree upgrade")
	}
	for _, b := range append(all, last) {
		restored := l.restore(b)
		// The hosts are reached and obey; none that was begun on is upgraded again.
		restored.until(l.operation, status("finished"))
		for _, h := range f.Hosts() {
			got := commands(h, "rpm-ostree upgrade")
			if b.begun[h.Address()] && got != upgrades[h.Address()] {
				t.Errorf("after %s was restored, %s was upgraded %d times, and %d before", b.log, h.Address(), got, upgrades[h.Address()])
			}
			upgrades[h.Address()] = got
		}
		restored.restartAll()
		restored.stop(syscall.SIGKILL)
	}
}

// rootOf is the root over the log of a store.
func (s *service) rootOf(dir string) (root string, events uint64) {
	s.t.Helper()
	out, err := s.run("{}", "events", "verify", "--config", "-", "--store", "sqlite:"+dir, "-o", "json")
	var report saved
	if err != nil || json.Unmarshal([]byte(out), &report) != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return report.Root, report.Events
}

func TestABackupThatIsInterruptedLeavesNothing(t *testing.T) {
	onSQLite(t, backups)
	dir := t.TempDir()
	filled(t, filepath.Join(dir, "store"), 40_000, 3)
	names := func() string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, entry := range entries {
			all = append(all, entry.Name())
		}
		return strings.Join(all, " ")
	}
	// begun runs a command and sends it a signal as soon as it has begun to write;
	// again, when it was through before that.
	begun := func(signal os.Signal, pattern string, arguments ...string) (said string, code int) {
		t.Helper()
		for range 20 {
			cmd := exec.CommandContext(t.Context(), program, append(arguments, "--config", "-")...)
			cmd.Stdin = strings.NewReader("{}")
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for there := []string{}; len(there) == 0 && len(ended) == 0 && pause(t.Context(), time.Millisecond); {
				there, _ = filepath.Glob(filepath.Join(dir, pattern)) // the pattern is none that is wrong
			}
			_ = cmd.Process.Signal(signal) // it may have ended
			err := <-ended
			if _, failed := errors.AsType[*exec.ExitError](err); failed {
				return out.String(), cmd.ProcessState.ExitCode()
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range map[string][]string{"backup": {"log", "keys"}, "restore": {"new"}}[arguments[0]] {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Fatalf("%v was never interrupted", arguments)
		return "", 0
	}
	from := []string{"backup", "--store", "sqlite:" + filepath.Join(dir, "store"), "--credentials", filepath.Join(dir, "keys"), filepath.Join(dir, "log")}
	if said, code := begun(syscall.SIGINT, ".log.unfinished-*", from...); code != 130 || said != "commissaire: backup: interrupted; nothing was made\n" {
		t.Errorf("%d: %s", code, said)
	}
	if got := names(); got != "store" {
		t.Errorf("it left %s", got)
	}
	if said, code := begun(syscall.SIGKILL, ".log.unfinished-*", from...); code != -1 {
		t.Errorf("%d: %s", code, said)
	}
	s := &service{t: t, dir: dir}
	if got := names(); !strings.HasPrefix(got, ".log.unfinished-") || strings.Contains(got, " keys") || strings.Contains(got, " log") {
		t.Errorf("it left %s", got)
	} else if out, err := s.run("{}", "restore", "--config", "-", "--store", "sqlite:"+filepath.Join(dir, "new"), filepath.Join(dir, strings.Fields(got)[0])); err == nil || !strings.Contains(out, "is no backup") {
		t.Errorf("what was left was restored: %s", out)
	}
	if out, err := s.run("{}", append(from, "--config", "-")...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	to := []string{"restore", "--store", "sqlite:" + filepath.Join(dir, "new"), filepath.Join(dir, "log")}
	if said, code := begun(syscall.SIGINT, "new/restoring-*", to...); code != 130 || said != "commissaire: restore: interrupted; no store was made\n" {
		t.Errorf("%d: %s", code, said)
	}
	if exists(filepath.Join(dir, "new")) {
		t.Error("the store was left")
	}
	if said, code := begun(syscall.SIGKILL, "new/restoring-*", to...); code != -1 {
		t.Errorf("%d: %s", code, said)
	}
	if out, err := s.run("{}", append(to, "--config", "-")...); err == nil || !strings.Contains(out, "was killed") {
		t.Errorf("over what a restore left that was killed: %v: %s", err, out)
	}
	if exists(filepath.Join(dir, "new", "events.db")) {
		t.Error("there is a store")
	}
}
