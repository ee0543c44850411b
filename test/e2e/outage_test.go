package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"commissaire/test/esdb"
	"commissaire/test/fleet"
)

// outages are how a store can be away, and how it comes back. What was sent to it
// may be recorded all the same where it is slow and not gone.
var outages = []struct {
	name  string
	begin func(*testing.T, *esdb.Server) (end func())
	slow  bool
}{
	{"stopped", func(t *testing.T, server *esdb.Server) func() {
		server.Stop(t)
		return func() { server.Restart(t) }
	}, false},
	{"not ready", func(_ *testing.T, server *esdb.Server) func() {
		server.NotReady(true)
		return func() { server.NotReady(false) }
	}, false},
	{"stalled", func(_ *testing.T, server *esdb.Server) func() { return server.Stall() }, true},
	{"frozen", func(_ *testing.T, server *esdb.Server) func() { return server.Freeze() }, true},
}

// TestWhileTheStoreIsAwayReadsAreServedAndSayHowOldTheyAre has one service for
// all outages, one after the other, and one reader of its events.
func TestWhileTheStoreIsAwayReadsAreServedAndSayHowOldTheyAre(t *testing.T) {
	s := newOnDouble(t, map[string]any{"events.heartbeat": "100ms"})
	s.leads()
	s.put("/cluster/before", nil).is(201)
	heard := s.listen("?after=0&type=ClusterCreated")
	heard.await(t, s.get("/clusters").position())
	for i, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			if outage.slow && *storeKind == "sqlite" {
				t.Skip("it takes long, as a change is waited for: with -store=esdb only")
			}
			s := cutOff{on(t, s), outage.slow}
			end := sync.OnceFunc(outage.begin(t, s.esdb))
			t.Cleanup(end)
			s.await(func() bool { return s.read("/clusters").header.Get("X-Commissaire-Age") != "" }, "/status")
			refused := fmt.Sprintf("/cluster/refused-%d-", i)
			s.refuses(refused)
			s.serves()

			end()
			back := time.Now()
			made := fmt.Sprintf("/cluster/after-%d", i)
			pos := s.recovers(made, back)
			if told := heard.await(t, pos); !slices.ContainsFunc(told, func(m message) bool { return m.id == pos }) {
				t.Errorf("the reader of events heard %+v", told)
			}
			if took := time.Since(back); took > 15*time.Second {
				t.Errorf("it took %s", took)
			}
			s.get(made).is(200)
			for n := range refusals {
				path := fmt.Sprint(refused, n)
				if a := s.get(path); a.status != 404 && !outage.slow {
					t.Errorf("%s was refused, and is there: %s", path, a.body)
				}
			}
		})
	}
}

// cutOff is a service whose store is away, or slow.
type cutOff struct {
	*service
	slow bool
}

// promptly asks for an answer that does not wait for the store.
func (s cutOff) promptly(user, path string) answer {
	s.t.Helper()
	began := time.Now()
	a := s.as(user, "GET", path, nil)
	if took := time.Since(began); took > 3*time.Second {
		s.t.Errorf("%s was answered after %s", a.call, took)
	}
	return a.is(200)
}

func (s cutOff) read(path string) answer {
	s.t.Helper()
	return s.promptly("admin", path)
}

const refusals = 3

// refuses asks for changes, at a path with a number, which are not made. Where the
// store does not answer one may have been sent, and be recorded yet.
func (s cutOff) refuses(path string) {
	s.t.Helper()
	for n := range refusals {
		a := s.put(fmt.Sprint(path, n), nil).is(503)
		if a.header.Get("Retry-After") == "" || a.isUnknown() && !s.slow {
			s.t.Errorf("Retry-After %q: %s", a.header.Get("Retry-After"), a.body)
		}
		if n == 0 {
			s.t.Logf("a change: %s", a.body)
		}
	}
}

// serves checks what is answered without the store.
func (s cutOff) serves() {
	s.t.Helper()
	for _, path := range []string{"/clusters", "/cluster/before", "/hosts", "/networks", "/operations"} {
		age, err := strconv.Atoi(s.read(path).header.Get("X-Commissaire-Age"))
		if err != nil || age > 120 {
			s.t.Errorf("%s is %d s old, %v", path, age, err)
		}
	}
	s.await(func() bool { return s.read("/status").object()["age"].(float64) >= 1 }, "/status")
	s.promptly("", "//healthz")
	s.promptly("", "//readyz")
	if a := s.get("/cluster/before/history"); a.status != 200 && (a.is(503).header.Get("Retry-After") == "" || a.object()["outcome"] != nil) {
		s.t.Errorf("history: %v %s", a.header, a.body)
	}
}

// recovers waits until the service takes a change, acts and is present again, and
// gives the position of the change.
func (s cutOff) recovers(path string, back time.Time) (pos uint64) {
	s.t.Helper()
	s.await(func() bool {
		a := s.put(path, nil)
		if a.status == 201 {
			pos = a.position()
		}
		return a.status == 201
	}, "/status")
	changed := time.Since(back)
	s.leads()
	acts := time.Since(back)
	s.await(func() bool { return s.get("/clusters").is(200).header.Get("X-Commissaire-Age") == "" }, "/status")
	s.t.Logf("changes were taken %s after the store was back, the service acted after %s, it was present after %s", changed, acts, time.Since(back))
	return pos
}

// measured are figures that the service gives of itself.
func (s *service) measured(names ...string) (all []float64) {
	s.t.Helper()
	text := string(s.get("//metrics").is(200).body)
	for _, name := range names {
		_, rest, found := strings.Cut(text, "\n"+name+" ")
		value, _, _ := strings.Cut(rest, "\n")
		figure, err := strconv.ParseFloat(value, 64)
		if !found || err != nil {
			s.t.Fatalf("there is no %s: %v", name, err)
		}
		all = append(all, figure)
	}
	return all
}

func TestOutagesOfTheStoreLeaveNothingBehind(t *testing.T) {
	s := newOnDouble(t)
	s.leads()
	busy := func(what string) {
		t.Helper()
		var clients sync.WaitGroup
		for n := range 16 {
			clients.Go(func() {
				for m := range 4 {
					s.put(fmt.Sprintf("/network/%s-%d-%d", what, n, m), nil)
					s.get("/networks").is(200)
				}
			})
		}
		clients.Wait()
	}
	busy("before")
	quiet := func() []float64 {
		s.client.CloseIdleConnections()
		return s.measured("go_goroutines", "process_resident_memory_bytes")
	}
	before, connections := quiet(), s.esdb.Connections()
	for i := range 4 {
		outage := outages[i%2] // the others take long
		end := outage.begin(t, s.esdb)
		busy(fmt.Sprint("in", i))
		end()
		s.await(func() bool { return s.put(fmt.Sprint("/network/after", i), nil).status == 201 }, "/status")
	}
	s.leads()
	s.await(func() bool {
		current := quiet()
		return current[0] <= before[0]+5 && current[1] <= before[1]+32<<20 && s.esdb.Connections() <= connections
	}, "/status")
	t.Logf("goroutines and bytes of memory: before %.0f, now %.0f; connections: before %d, now %d", before, quiet(), connections, s.esdb.Connections())
}

// TestAnOutageOfTheStoreSaysNothingAboutHosts has keys that cannot be read while
// hosts are looked at, and while one reboots.
func TestAnOutageOfTheStoreSaysNothingAboutHosts(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.56.1", OS: fleet.Fedora, Version: "6.1", Speed: fleet.Speed{Reboot: time.Second}},
		fleet.Spec{Address: "127.0.56.2", OS: fleet.Fedora, Version: "6.1"},
		fleet.Spec{Address: "127.0.56.3", OS: fleet.Fedora, Version: "6.1"},
	)
	s := newOnDouble(t, map[string]any{
		"bootstrap.profile": "none", "watch.interval": "300ms", "watch.misses": 1, "watch.keep-open": 0,
		"eventstoredb.lease": "1m", // the leader stays the same
	})
	s.join(f, body)
	rebooting := f.Host("127.0.56.1")
	s.put("/cluster/c/restart", nil).is(201)
	awaitCommand(t, rebooting, "systemctl reboot")
	s.esdb.NotReady(true)
	s.await(func() bool {
		return strings.Count(s.logged(), "read the private key for") > 10
	}, "/status")
	s.esdb.NotReady(false)
	if o := s.until("/cluster/c/restart", status("finished", "failed")); o["status"] != "finished" {
		t.Errorf("the restart %v: %s", o["status"], s.get("/operations").body)
	}
	for _, h := range f.Hosts() {
		path := "/host/" + h.Address()
		s.until(path, status("disassociated"))
		if n := commands(h, "systemctl reboot"); n != 1 {
			t.Errorf("%s was rebooted %d times", h.Address(), n)
		}
		if told := string(s.get(path + "/history").is(200).body); strings.Contains(told, "HostWentSilent") || strings.Contains(told, "Failed") {
			t.Errorf("%s: %s", h.Address(), told)
		}
	}
}

// TestAServiceWaitsForItsStoreToStart has a store that comes up after the service.
func TestAServiceWaitsForItsStoreToStart(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	s := unstarted(t)
	if s.esdb == nil {
		s.onDouble()
	}
	s.configure(map[string]any{"listen-port": port})
	s.esdb.Stop(t)
	s.base = fmt.Sprintf("http://127.0.0.1:%d", port)
	logged := func(text string) int {
		log, err := os.ReadFile(filepath.Join(s.dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(log), text)
	}
	const away = "the store is away; the service starts when it is there"
	for round := range 2 { // on a new store, and on one that has something
		listens := s.launch()
		t.Cleanup(func() { s.stop(syscall.SIGKILL) })
		s.await(func() bool {
			r, err := http.Get(s.base + "/healthz")
			if err != nil {
				return false
			}
			_ = r.Body.Close()
			return r.StatusCode == 200
		}, "//healthz")
		s.await(func() bool { return logged(away) == 2*round+1 }, "//healthz")
		if a := s.as("", "GET", "//readyz", nil).is(503); a.header.Get("Retry-After") == "" {
			t.Errorf("not ready, and no Retry-After: %v", a.header)
		}
		for _, a := range []answer{s.get("/clusters"), s.put("/cluster/c", nil), s.as("", "GET", "/hosts", nil)} {
			if a.is(503).header.Get("Retry-After") == "" || strings.Contains(string(a.body), "outcome") {
				t.Errorf("%s: %v %s", a.call, a.header, a.body)
			}
		}
		s.esdb.Restart(t)
		if _, ok := <-listens; !ok {
			t.Fatal("the service ended")
		}
		s.as("", "GET", "//readyz", nil).is(200)
		s.put("/cluster/c", nil).is(201)
		s.stop(syscall.SIGTERM)
		s.esdb.Stop(t)

		// It ends when it is asked to while it waits, too.
		s.launch()
		s.await(func() bool { return logged(away) == 2*round+2 }, "//healthz")
		s.stop(syscall.SIGTERM)
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("it ended with %d", code)
		}
	}
}

// TestAKilledLeaderIsSucceededWhenItsLeaseIsOver kills the service in the middle
// of an upgrade, which goes on in a later term and is not begun again.
func TestAKilledLeaderIsSucceededWhenItsLeaseIsOver(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.57.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.57.2", OS: fleet.Atomic, Version: "41.1", Next: "41.2"},
	)
	s := newOnDouble(t, map[string]any{"bootstrap.profile": "none", "eventstoredb.lease": "3s"})
	s.join(f, body)
	term := func() float64 { return s.get("/status").object()["leader"].(map[string]any)["term"].(float64) }
	first, led := f.Host("127.0.57.1"), term()
	release := first.Hold("dnf -y upgrade")
	s.operate("upgrade", nil)
	awaitCommand(t, first, "dnf -y upgrade")
	s.end(syscall.SIGKILL)
	killed := time.Now()
	s.start()
	if o, took := s.get("/status").object(), time.Since(killed); o["leads"] != false && took < 2*time.Second {
		t.Errorf("it leads %s after the leader was killed: %v", took, o)
	}
	s.leads()
	if took := time.Since(killed); took < 2*time.Second {
		t.Errorf("it led %s after the leader was killed", took)
	}
	release()
	record := s.until("/cluster/c/upgrade", status("finished", "failed"))
	if record["status"] != "finished" || term() <= led {
		t.Errorf("in term %v, after %v, the upgrade %v: %s", term(), led, record["status"], s.get("/operations").body)
	}
	for _, h := range f.Hosts() {
		if n := commands(h, "dnf -y upgrade") + commands(h, "rpm-ostree upgrade"); n != 1 {
			t.Errorf("%s was upgraded %d times", h.Address(), n)
		}
	}
	h := s.recorded()
	h.isWhole()
	h.keepsTheRules()
	h.explains(f)
}

// TestADoubleHoldsSealedCredentialsOnly looks at all that was sent to the store,
// and at what is left of a host that was removed.
func TestADoubleHoldsSealedCredentialsOnly(t *testing.T) {
	f, _ := hosts(t, fleet.Spec{Address: "127.0.58.1", OS: fleet.Fedora, Version: "6.1"}, fleet.Spec{Address: "127.0.58.2", OS: fleet.Fedora, Version: "6.1"})
	all := secrets{"the token": "a-token-that-is-nowhere-in-the-store", "the master key": masterKey}
	private, _ := all.addKey(t, "the private key of sealed hosts.", "")
	s := newOnDouble(t, map[string]any{"bootstrap.profile": "none"})
	for _, h := range f.Hosts() {
		s.put("/host/"+h.Address(), map[string]any{"ssh_priv_key": base64.StdEncoding.EncodeToString(private), "ssh_port": f.Port()}).is(201)
	}
	s.put("/containermanager/m", map[string]any{"options": map[string]any{"server_url": "https://k:1", "token": all["the token"]}}).is(201)
	sealed := func() (n int) {
		for stream, text := range s.esdb.Records() {
			if strings.HasPrefix(stream, "commissaire-credential-") && bytes.Contains(text, []byte("sealed")) {
				n++
			}
		}
		return n
	}
	before := s.keys()
	if n := sealed(); len(before) != 3 || n != 4 { // and the check of the master key
		t.Errorf("there are the keys %v, and %d sealed credentials", before, n)
	}
	s.delete("/host/127.0.58.1").is(200)
	s.await(func() bool { return len(s.keys()) == 2 }, "/hosts")
	s.get("/host/127.0.58.2/creds").is(200)
	s.delete("/containermanager/m").is(200)
	s.await(func() bool { return len(s.keys()) == 1 }, "/hosts")
	if found := all.in(s.get("/host/127.0.58.2/creds").is(200).body); len(found) == 0 {
		t.Error("the key that is left does not open")
	}
	if streams := all.nowhereIn(t, s.esdb); streams < 6 {
		t.Errorf("only %d streams were looked at", streams)
	}
	all.nowhere(t, filepath.Join(s.dir, "keys"))
}
