package e2e

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
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
	"commissaire/test/longlog"
)

var (
	rebuilds = flag.Int("rebuilds", 6, "how often a rebuild is begun, and cancelled, killed or let be")
	longLog  = flag.Int("events", 20_000, "events that there are before")
)

// TestARebuildDisturbsNobody has a service fold a long log afresh, again and again,
// while clients read and write, cancels that or kills the service at any moment,
// and holds what is served against what clients were told, and against history.
func TestARebuildDisturbsNobody(t *testing.T) {
	seed := cmp.Or(*seed, rand.Uint64())
	t.Logf("-seed=%d repeats when what is done", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := unstarted(t, map[string]any{"watch.interval": "1h", "snapshots.events": max(*longLog/20, 100)})
	if s.esdb != nil {
		t.Skip("the long log is written into SQLite files")
	}
	hosts := min(*longLog/10, 10_000)
	if err := longlog.New().Write(t.Context(), filepath.Join(s.dir, "store"), hosts, *longLog); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() { s.stop(syscall.SIGKILL) })

	began := time.Now()
	c := &lookers{service: s, told: map[string]string{}}
	var did [3]int // cancelled, killed, let be
	for n := 0; n < *rebuilds && !t.Failed(); n++ {
		stop := c.load(hosts)
		took := c.rebuilding()
		switch random.IntN(3) {
		case 0:
			pause(t.Context(), time.Duration(random.Int64N(int64(took))))
			if state := s.delete("/projections/all/rebuild").object()["state"]; state == "folding" {
				t.Error("it was cancelled, and goes on")
			}
			stop()
			did[0]++
		case 1:
			pause(t.Context(), time.Duration(random.Int64N(int64(took))))
			c.down.Store(true)
			s.stop(syscall.SIGKILL)
			stop()
			s.start()
			c.down.Store(false)
			did[1]++
		default:
			s.await(func() bool { return c.rebuild()["state"] != "folding" }, "/projections")
			if r := c.rebuild(); r["state"] != "done" || r["different"] != "" {
				t.Errorf("a rebuild came to %v", r)
			}
			stop()
			did[2]++
		}
		c.look()
	}
	c.quiet()
	verified := s.tool("projections", "verify", "--service", s.clientFile())
	if !strings.Contains(verified, "is what history says") {
		t.Errorf("it says %s", verified)
	}
	s.stop(syscall.SIGTERM)
	if text := s.tool("projections", "verify", "--config", filepath.Join(s.dir, "config.json")); !strings.Contains(text, "is what history says") {
		t.Errorf("of the snapshot it says %s", text)
	}
	s.start()
	c.look()
	t.Logf("%d rebuilds of %d events in %s: %d cancelled, %d killed, %d let be; %d reads and %d writes in %s, %d of them unanswered as it was killed; %s",
		*rebuilds, *longLog, time.Since(began).Round(time.Second), did[0], did[1], did[2], c.reads.Load(), c.writes.Load(), c.busy.Round(time.Second), c.lost.Load(), verified)
}

// lookers are clients that read, and clients that write and remember it.
type lookers struct {
	*service
	down                atomic.Bool
	busy                time.Duration // that clients asked for
	reads, writes, lost atomic.Int64

	mu   sync.Mutex
	told map[string]string // the options of networks that were defined
}

// rebuild is the one that runs, or ran last; nil where none did.
func (c *lookers) rebuild() map[string]any {
	r, _ := c.get("/projections").is(200).object()["rebuild"].(map[string]any)
	return r
}

// rebuilding begins a rebuild and says about how long it will take.
func (c *lookers) rebuilding() (took time.Duration) {
	c.put("/projections/all/rebuild", nil).is(202)
	c.await(func() bool {
		r := c.rebuild()
		if r["state"] == "folding" && r["events"].(float64) == 0 {
			return false
		}
		took = time.Duration(r["of"].(float64) / r["events_per_second"].(float64) * float64(time.Second))
		return true
	}, "/projections")
	return took
}

// quiet waits until no rebuild runs.
func (c *lookers) quiet() {
	c.await(func() bool { return c.rebuild() == nil || c.rebuild()["state"] != "folding" }, "/projections")
}

// load has clients write and read, with a log of a million events more than 200
// and 2,000 times a second where the machine can, until what it returns is called.
func (c *lookers) load(hosts int) (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	writers, readers := 2, 4
	if *longLog >= 1_000_000 {
		writers, readers = 16, 52
	}
	began := time.Now()
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for pause(ctx, 60*time.Millisecond) {
				n := c.writes.Add(2) / 2
				c.write(http.MethodPut, n)
				c.write(http.MethodDelete, n-100)
			}
		})
	}
	for range readers {
		all.Go(func() {
			last := uint64(0)
			for n := rand.IntN(hosts); pause(ctx, 12*time.Millisecond); n++ {
				last = c.read([]string{
					"/host/" + longlog.Address(n%hosts), fmt.Sprintf("/cluster/cluster-%d", n%hosts/50), "/networks", "/operations?limit=2", "/cluster/cluster-0/upgrade",
				}[n%5], last)
			}
		})
	}
	return func() {
		c.busy += time.Since(began)
		cancel()
		all.Wait()
	}
}

// write defines the n-th network or removes it, and reads that.
func (c *lookers) write(method string, n int64) {
	path, options := fmt.Sprintf("/network/n%d", n), fmt.Sprintf(`"options":{"n":%d}`, n)
	c.mu.Lock()
	delete(c.told, path) // until there is an answer it is either
	c.mu.Unlock()
	a, err := c.try(c.request("admin", method, path, `{"type":"flannel_etcd",`+options+`}`))
	if a.status == 0 {
		c.lost.Add(1)
		c.mayBeDown(err)
		return
	}
	if a.status >= 300 && a.status != http.StatusNotFound {
		c.t.Errorf("%s: %d: %s", a.call, a.status, a.body)
		return
	}
	if method == http.MethodPut {
		c.mu.Lock()
		c.told[path] = options
		c.mu.Unlock()
		position, _ := strconv.ParseUint(a.header.Get("X-Commissaire-Position"), 10, 64)
		c.read(path, position, options)
	}
}

// read reads, and nothing that is older than last.
func (c *lookers) read(path string, last uint64, with ...string) uint64 {
	a, err := c.try(c.request("admin", http.MethodGet, path, nil))
	if err != nil {
		c.mayBeDown(err)
		return last
	}
	c.reads.Add(1)
	position, _ := strconv.ParseUint(a.header.Get("X-Commissaire-Position"), 10, 64)
	if a.status != http.StatusOK || position < last || slices.ContainsFunc(with, func(part string) bool { return !strings.Contains(string(a.body), part) }) {
		c.t.Errorf("%s after position %d: %d at position %d: %.300s, should have %v", a.call, last, a.status, position, a.body, with)
	}
	return position
}

func (c *lookers) mayBeDown(err error) {
	if !c.down.Load() && c.t.Context().Err() == nil {
		c.t.Errorf("the service runs, and does not answer: %v", err)
	}
}

// look compares what is shown with what was answered.
func (c *lookers) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, options := range c.told {
		c.read(path, 0, options)
	}
}

// TestAServiceGoesOnFromASnapshot ends a service in the middle of an operation,
// and starts it from a snapshot: it finishes the operation, and knows all that was
// before.
func TestAServiceGoesOnFromASnapshot(t *testing.T) {
	f, body := startFleet(t, fleet.Config{Hosts: atomics(71, 3)})
	snapshots := filepath.Join(t.TempDir(), "snapshots")
	s := newService(t, map[string]any{"bootstrap.profile": "none", "watch.interval": "1h", "snapshots.events": 10, "snapshots.dir": snapshots})
	s.join(f, body)
	for _, h := range f.Hosts() {
		h.Release("41.9")
	}
	release := f.Hosts()[1].Hold("rpm-ostree upgrade")
	path := s.operate("upgrade", nil)
	s.until(path, func(o map[string]any) bool { return turnOf(o, 1)["state"] == "begun" })
	awaitCommand(t, f.Hosts()[1], "rpm-ostree upgrade")
	past := s.get("/status").object()["view_position"]
	paths := []string{"/hosts", "/clusters", "/cluster/c", "/cluster/c/hosts", "/cluster/c/upgrade", path, "/operations", "/networks", "/cluster/c/history", path + "/history", "/host/" + f.Hosts()[0].Address()}
	before := map[string]string{}
	for _, path := range paths {
		before[path] = string(s.get(path).is(200).body)
	}
	s.stop(syscall.SIGTERM)
	s.start()
	if all := s.get("/projections").object()["snapshots"].([]any); len(all) == 0 {
		t.Fatal("no snapshot was kept")
	}
	for _, path := range paths {
		path += map[bool]string{true: "?at=" + sprint(past)}[!strings.Contains(path, "history")]
		if got := string(s.get(path).is(200).body); !strings.Contains(path, "history") && got != before[strings.TrimSuffix(path, "?at="+sprint(past))] {
			t.Errorf("GET %s: %s\nwas %s", path, got, before[path])
		} else if strings.Contains(path, "history") && !strings.HasPrefix(got, strings.TrimSuffix(strings.TrimSpace(before[path]), "]")) {
			t.Errorf("GET %s: %s\nwas %s", path, got, before[path])
		}
	}
	release()
	s.until(path, status("finished"))
	for _, h := range f.Hosts() {
		if n := commands(h, "rpm-ostree upgrade"); n != 1 {
			t.Errorf("%s was upgraded %d times", h.Address(), n)
		}
	}
	s.until("/projections", func(o map[string]any) bool {
		r, ok := o["rebuild"].(map[string]any)
		return ok && r["state"] == "done" && r["different"] == "" && r["actor"] == "commissaire"
	})

	hosts := s.get("/hosts").is(200).body
	s.stop(syscall.SIGKILL)
	files, err := filepath.Glob(filepath.Join(snapshots, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 1
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	if log := s.logged(); strings.Count(log, "a snapshot of views is thrown away") != len(files) {
		t.Errorf("of %d damaged snapshots it says %s", len(files), log)
	}
	if got := s.get("/hosts").is(200).body; string(got) != string(hosts) {
		t.Errorf("without a snapshot: %s\nwas: %s", got, hosts)
	}
	s.until("/projections", func(o map[string]any) bool { return len(o["snapshots"].([]any)) > 0 }) // of what was folded, though nothing happens
}
