package e2e

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"commissaire/test/fleet"
)

func TestMoreFailuresThanToleratedStopIt(t *testing.T) {
	t.Run("a number: what was begun is finished", func(t *testing.T) {
		s, f := rolled(t, 51, 6, fleet.Speed{})
		slow := f.Hosts()[2]
		finish := slow.Hold("rpm-ostree upgrade")
		var failing []func()
		for _, h := range f.Hosts()[:2] { // when all three are begun
			h.FailNext("rpm-ostree upgrade", 1)
			failing = append(failing, h.Hold("rpm-ostree upgrade"))
		}
		path := s.operate("upgrade", `{"batches":[3],"max_failures":1}`)
		awaitCommand(t, slow, "rpm-ostree upgrade")
		for i, fail := range failing {
			awaitCommand(t, f.Hosts()[i], "rpm-ostree upgrade")
			fail()
		}
		s.await(func() bool { return s.turns(path) == "failed failed begun waiting waiting waiting" }, path)
		finish()
		o := s.until(path, status("failed"))
		s.checkTurns(path, "failed failed succeeded waiting waiting waiting")
		checkUpgrades(t, f, 1, 1, 1, 0, 0, 0)
		if slow.Pending() != "41.2" {
			t.Error("the host that was begun was not finished")
		}
		if got := sprint(o["cause"]); !strings.HasPrefix(got, "host 127.0.51.") || !strings.Contains(got, ": the upgrade ended with exit status 1") {
			t.Errorf("the cause: %s", got)
		}
	})
	t.Run("a percentage", func(t *testing.T) {
		s, f := rolled(t, 52, 8, fleet.Speed{})
		for _, i := range []int{0, 1, 3} {
			f.Hosts()[i].FailNext("rpm-ostree upgrade", 1)
		}
		s.until(s.operate("upgrade", `{"max_failures":"25%"}`), status("failed"))
		checkUpgrades(t, f, 1, 1, 1, 1, 0, 0, 0, 0)
	})
	t.Run("no more than tolerated", func(t *testing.T) {
		s, f := rolled(t, 53, 4, fleet.Speed{})
		f.Hosts()[0].FailNext("rpm-ostree upgrade", 1)
		f.Hosts()[2].FailNext("rpm-ostree upgrade", 1)
		path := s.operate("upgrade", `{"max_failures":"50%"}`)
		s.until(path, status("finished"))
		checkUpgrades(t, f, 1, 1, 1, 1)
		s.checkTurns(path, "failed succeeded failed succeeded")
	})
}

func TestBetweenBatchesItWaits(t *testing.T) {
	s, f := rolled(t, 54, 4, fleet.Speed{Upgrade: 200 * time.Millisecond})
	path := s.operate("upgrade", `{"batches":[2],"delay":1}`)
	o := s.until(path, state("waiting"))
	if got := sprint(o["waiting"].(map[string]any)["why"]); got != "the delay between batches" {
		t.Errorf("it waits: %s", got)
	}
	checkUpgrades(t, f, 1, 1, 0, 0)
	s.until(path, status("finished"))
	checkUpgrades(t, f, 1, 1, 1, 1)
	for _, before := range []int{0, 1} {
		for _, after := range []int{2, 3} {
			_, ended := inHand(t, f, before)
			begun, _ := inHand(t, f, after)
			if gap := begun.Sub(ended); gap < time.Second {
				t.Errorf("host %d was begun %s after host %d of the batch before ended", after, gap, before)
			}
		}
	}
}

// TestBatchesGrow has the hosts of a batch wait for each other at the gate: all of
// it is in hand then, and nothing of the next.
func TestBatchesGrow(t *testing.T) {
	s, f := rolled(t, 55, 8, fleet.Speed{})
	probe := listen(t, "127.0.55.1:0")
	_, port, _ := net.SplitHostPort(probe.Addr().String())
	_ = probe.Close()
	path := s.operate("upgrade", `{"batches":[1,"25%","50%"],"health":{"tcp":`+port+`,"timeout":60}}`)
	begun := make([]int, 8)
	for _, batch := range [][]int{{0}, {1, 2}, {3, 4, 5, 6}, {7}} {
		s.until(path, func(o map[string]any) bool {
			return !slices.ContainsFunc(batch, func(host int) bool { return turnOf(o, host)["doing"] != "checking health" })
		})
		for _, host := range batch {
			begun[host] = 1
		}
		checkUpgrades(t, f, begun...)
		for _, host := range batch {
			listen(t, f.Hosts()[host].Address()+":"+port)
		}
	}
	s.until(path, status("finished"))
	checkUpgrades(t, f, begun...)
}

func TestTheGateKeepsTheOthersWaiting(t *testing.T) {
	t.Run("until a port takes connections", func(t *testing.T) {
		s, f := rolled(t, 56, 2, fleet.Speed{})
		probe := listen(t, "127.0.56.1:0")
		_, port, _ := net.SplitHostPort(probe.Addr().String())
		_ = probe.Close()
		path := s.operate("upgrade", `{"health":{"tcp":`+port+`,"timeout":30}}`)
		s.until(path, func(o map[string]any) bool { return turnOf(o, 0)["doing"] == "checking health" })
		checkUpgrades(t, f, 1, 0)
		listen(t, "127.0.56.2:"+port)
		checkUpgrades(t, f, 1, 0)
		opened := time.Now()
		listen(t, "127.0.56.1:"+port)
		s.until(path, status("finished"))
		checkUpgrades(t, f, 1, 1)
		if begun, _ := inHand(t, f, 1); begun.Before(opened) {
			t.Error("the second host was begun before the first was healthy")
		}
	})
	t.Run("until a URL has been well for a while", func(t *testing.T) {
		s, f := rolled(t, 57, 2, fleet.Speed{})
		var mu sync.Mutex
		asked := map[string]int{}
		var well time.Time // the first host, since when without a break
		site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			host, _, _ := net.SplitHostPort(r.Host)
			asked[host]++
			if r.URL.Path != "/healthz" || asked[host] == 1 || asked[host] == 4 { // well, ill again, well
				w.WriteHeader(http.StatusServiceUnavailable)
			} else if host == "127.0.57.1" && asked[host] == 5 {
				well = time.Now()
			}
		})
		first := listen(t, "127.0.57.1:0")
		_, port, _ := net.SplitHostPort(first.Addr().String())
		for _, l := range []net.Listener{first, listen(t, "127.0.57.2:"+port)} {
			server := &http.Server{Handler: site, ReadHeaderTimeout: time.Minute}
			go func() { _ = server.Serve(l) }()
			t.Cleanup(func() { _ = server.Close() })
		}
		s.until(s.operate("upgrade", `{"health":{"http":"http://:`+port+`/healthz","timeout":30,"stable_for":1}}`), status("finished"))
		checkUpgrades(t, f, 1, 1)
		mu.Lock()
		defer mu.Unlock()
		if begun, _ := inHand(t, f, 1); well.IsZero() || begun.Before(well.Add(time.Second)) {
			t.Errorf("the second host was begun at %s, and the first well from %s on", begun, well)
		}
		if asked["127.0.57.1"] < 6 || asked["127.0.57.2"] < 6 {
			t.Errorf("the hosts were asked %v times", asked)
		}
	})
	t.Run("until a command on the host succeeds", func(t *testing.T) {
		s, f := rolled(t, 58, 2, fleet.Speed{})
		s.until(s.operate("upgrade", `{"health":{"command":"echo look >>/tmp/looks; test $(wc -l </tmp/looks) -ge 3","timeout":30}}`), status("finished"))
		checkUpgrades(t, f, 1, 1)
		for _, h := range f.Hosts() {
			if text, err := h.ReadFile("/tmp/looks"); err != nil || string(text) != "look\nlook\nlook\n" {
				t.Errorf("host %s was asked: %q, %v", h.Address(), text, err)
			}
		}
	})
	t.Run("and fails what is not well in time", func(t *testing.T) {
		s, f := rolled(t, 59, 2, fleet.Speed{})
		l := listen(t, "127.0.59.1:0")
		server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(l) }()
		t.Cleanup(func() { _ = server.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		path := s.operate("upgrade", `{"health":{"http":"http://:`+port+`/healthz","timeout":1}}`)
		s.until(path, status("failed"))
		want := "the host was not healthy within 1 s after its upgrade: GET http://127.0.59.1:" + port + "/healthz was answered 404 Not Found"
		if got := sprint(turnOf(s.get(path).object(), 0)["reason"]); got != want {
			t.Errorf("the reason: %s", got)
		}
		_ = server.Close()
		path = s.operate("upgrade", `{"health":{"tcp":`+port+`,"timeout":1},"only":["127.0.59.2"]}`)
		s.until(path, status("failed"))
		if got := sprint(turnOf(s.get(path).object(), 0)["reason"]); !strings.HasPrefix(got, "the host was not healthy within 1 s after its upgrade: connect to port "+port+": ") {
			t.Errorf("the reason: %s", got)
		}
		checkUpgrades(t, f, 1, 1)
	})
}

// listen listens, as a service of a simulated host, until the test ends.
func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestACommandThatTakesTooLongIsEnded(t *testing.T) {
	s, f := rolled(t, 60, 2, fleet.Speed{})
	slow := f.Hosts()[0]
	slow.Slow("rpm-ostree upgrade", time.Hour)
	path := s.operate("upgrade", `{"timeout":2,"max_failures":1}`)
	s.until(path, status("finished"))
	s.checkTurns(path, "failed succeeded")
	if got := sprint(turnOf(s.get(path).object(), 0)["reason"]); !strings.HasPrefix(got, "the upgrade was stopped at its time limit of 2 s") {
		t.Errorf("the reason: %s", got)
	}
	// It would have gone on for an hour; how soon it is stopped is up to the machine too.
	if from, until := inHand(t, f, 0); until.Sub(from) > 20*time.Second || slow.Pending() != "" {
		t.Errorf("the command went on for %s, %q is pending", until.Sub(from), slow.Pending())
	}
	checkUpgrades(t, f, 1, 1)
}

func TestOnlyThoseNamedAreTouched(t *testing.T) {
	s, f := rolled(t, 61, 5, fleet.Speed{})
	path := s.operate("upgrade", `{"only":["127.0.61.4","127.0.61.2"],"max_unavailable":"100%"}`)
	s.until(path, status("finished"))
	checkUpgrades(t, f, 0, 1, 0, 1, 0)
	if n := len(s.get(path).object()["hosts"].([]any)); n != 2 {
		t.Errorf("%d hosts are shown", n)
	}
}

func TestAHostThatComesBackOnItsOldVersionStopsIt(t *testing.T) {
	for kind, body := range map[string]string{"upgrade": `{"reboot":true}`, "deploy": `{"reboot":true,"version":"41.2"}`} {
		t.Run(kind, func(t *testing.T) {
			s, f := rolled(t, 62, 3, fleet.Speed{})
			f.Hosts()[1].SetFaults(fleet.Faults{KeepVersion: true})
			path := s.operate(kind, body)
			o := s.until(path, status("failed"))
			if got := sprint(turnOf(o, 1)["reason"]); !strings.HasPrefix(got, "it came back on 41.1, wanted 41.2") {
				t.Errorf("the reason: %s", got)
			}
			var versions []string
			var reboots []int
			for _, h := range f.Hosts() {
				versions, reboots = append(versions, h.Version()), append(reboots, commands(h, "systemctl reboot"))
			}
			if fmt.Sprint(versions, reboots) != "[41.2 41.1 41.1] [1 1 0]" {
				t.Errorf("the hosts run %v, after %v reboots", versions, reboots)
			}
		})
	}
}
