package e2e

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"commissaire/domain/event"
	"commissaire/test/fleet"
)

func TestBatchesRebootAndPassTheGate(t *testing.T) {
	f, body := hosts(t, atomics(31, 5)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none", "operations.health-interval": "20ms"})
	s.join(f, body)
	began := time.Now()
	path := s.operate("upgrade", `{"batches":[1,2],"reboot":true,"stage":true,"health":{"command":"test -e /run/ostree-booted","timeout":20}}`)
	s.until(path, status("finished", "failed"))
	s.checkTurns(path, "succeeded succeeded succeeded succeeded succeeded")
	for _, h := range f.Hosts() {
		if h.Version() != "41.2" || commands(h, "rpm-ostree upgrade --download-only") != 1 || commands(h, "rpm-ostree upgrade --cache-only") != 1 || commands(h, "systemctl reboot") != 1 {
			t.Errorf("host %s runs %s after %v", h.Address(), h.Version(), lines(h.Commands()))
		}
	}
	printed := string(s.get(path + "/host/" + f.Hosts()[4].Address() + "/log").is(200).body)
	if got := headings.FindAllString(printed, -1); len(got) != 2 || !strings.HasSuffix(got[0], "Z rpm-ostree upgrade --download-only\n") || !strings.HasSuffix(got[1], "Z rpm-ostree upgrade --cache-only\n") ||
		strings.Count(printed, "Staging deployment... done") != 2 {
		t.Errorf("printed: %s", printed)
	}
	if n := f.MostInHand(began); n > 2 {
		t.Errorf("%d hosts were in hand at once", n)
	}
	done := map[string]time.Time{}
	for _, h := range f.Hosts() {
		for _, c := range h.Commands() {
			if c.Line == "systemctl reboot" {
				done[h.Address()] = c.Time
			}
		}
	}
	if !done["127.0.31.1"].Before(done["127.0.31.2"]) || !done["127.0.31.3"].Before(done["127.0.31.4"]) {
		t.Errorf("the batches overlapped: %v", done)
	}
}

func TestAPausedOperationGoesOnWhereItWas(t *testing.T) {
	f, body := hosts(t, atomics(32, 3)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	path := s.operate("upgrade", `{"pause_after":1}`)
	s.until(path, state("paused"))
	s.checkTurns(path, "succeeded waiting waiting")
	s.put(path+"/pause", nil).is(200)
	s.crash()
	if got := s.until(path, state("paused")); got["status"] != "in_process" {
		t.Errorf("after a crash: %v", got)
	}
	s.put(path+"/resume", nil).is(200)
	s.until(path, status("finished"))
	s.put(path+"/resume", nil).is(200) // as is
	s.put(path+"/pause", nil).is(409)
	s.put(path+"/cancel", nil).is(409)
	for _, h := range f.Hosts() {
		if n := commands(h, "rpm-ostree upgrade"); n != 1 {
			t.Errorf("host %s was upgraded %d times", h.Address(), n)
		}
	}
}

func TestCancellingDropsWhatNobodyBooted(t *testing.T) {
	f, body := hosts(t, atomics(33, 3)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	path := s.operate("upgrade", `{"pause_after":2}`)
	s.until(path, state("paused"))
	s.put(path+"/cancel", nil, "X-Commissaire-Reason", "wrong week").is(200)
	o := s.until(path, status("failed"))
	if o["cause"] != "cancelled by admin: wrong week" {
		t.Errorf("the cause is %v", o["cause"])
	}
	if o := s.put(path+"/cancel", nil, "X-Commissaire-Reason", "again").is(200).object(); o["cause"] != "cancelled by admin: wrong week" {
		t.Errorf("cancelled again, the cause is %v", o["cause"])
	}
	for i, h := range f.Hosts() {
		if want := map[bool]int{true: 1}[i < 2]; commands(h, "rpm-ostree cleanup -p") != want || h.Pending() != "" {
			t.Errorf("host %s has %q pending after %v", h.Address(), h.Pending(), lines(h.Commands()))
		}
	}
}

func TestAnAbandonedOperationFreesItsHosts(t *testing.T) {
	f, body := hosts(t, atomics(34, 2)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	first := f.Hosts()[0]
	release := first.Hold("rpm-ostree upgrade")
	defer release()
	path := s.operate("upgrade", `{}`)
	awaitCommand(t, first, "rpm-ostree upgrade")
	turns := s.get(path).is(200).object()["hosts"].([]any)
	if wait, _ := turns[0].(map[string]any)["waiting"].(map[string]any); wait["why"] != "its upgrade" || wait["since"] == "" || wait["until"] == "" {
		t.Errorf("its turn waits for %v", wait)
	}
	if detail := s.delete("/host/" + first.Address()).is(409).object()["detail"]; !strings.Contains(sprint(detail), "/abandon") {
		t.Errorf("a host in hand is not removed: %v", detail)
	}
	s.put(path+"/abandon", nil).is(400)
	s.put(path+"/abandon", `{"reason":7}`).is(400)
	s.put(path+"/abandon", `{"reason":"it hangs"}`).is(200)
	o := s.put(path+"/abandon", nil, "X-Commissaire-Reason", "again").is(200).object()
	if o["state"] != "ended" || o["status"] != "failed" || o["cause"] != "abandoned by admin: it hangs" {
		t.Errorf("abandoned it is %v", o)
	}
	s.checkTurns(path, "failed waiting")
	s.put("/operation/00000000-0000-4000-8000-000000000000/abandon", `{"reason":"r"}`).is(404)
	s.delete("/host/" + first.Address()).is(200)
	s.delete("/cluster/c").is(200)
	if n := commands(f.Hosts()[1], "rpm-ostree upgrade"); n != 0 {
		t.Errorf("a host that waited was upgraded %d times", n)
	}
}

func TestOnlyThoseThatFailedAreTriedAgain(t *testing.T) {
	f, body := hosts(t, atomics(34, 4)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	s.put("/cluster/c/upgrade", `{"only":"failed"}`).is(400)
	f.Hosts()[1].FailNext("rpm-ostree upgrade", 1)
	s.until(s.operate("upgrade", `{"max_failures":"50%"}`), status("finished"))
	plan := s.put("/cluster/c/upgrade", `{"only":"failed","dry_run":true}`).is(200).object()
	if got := sprint(plan["hosts"]); got != "[map[address:127.0.34.2 commands:[rpm-ostree upgrade]]]" {
		t.Errorf("the plan: %s", got)
	}
	path := s.operate("upgrade", `{"only":"failed"}`)
	s.until(path, status("finished"))
	s.checkTurns(path, "succeeded")
	for text, field := range map[string]string{
		`{"max_unavailable":0}`:               "max_unavailable",
		`{"batches":[]}`:                      "batches",
		`{"health":{"tcp":1,"http":"x"}}`:     "health",
		`{"window":{"from":"1","to":"2"}}`:    "window",
		`{"order":["127.0.34.9"]}`:            "order",
		`{"only":["127.0.34.9"]}`:             "only",
		`{"reboot":"maybe"}`:                  "reboot",
		`{"drain":{"tiemout":1}}`:             "drain",
		`{"delay":-1}`:                        "delay",
		`{"pause_after":0,"max_failures":-1}`: "max_failures",
	} {
		if a := s.put("/cluster/c/upgrade", text).is(400); !strings.Contains(string(a.body), `"field":"`+field+`"`) {
			t.Errorf("%s: %s", text, a.body)
		}
	}
	s.put("/cluster/c/restart", `{"reboot":true}`).is(400)
}

func TestAHostThatIsNotHealthyFails(t *testing.T) {
	f, body := hosts(t, atomics(35, 2)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none", "operations.health-interval": "20ms"})
	s.join(f, body)
	path := s.operate("restart", `{"health":{"command":"echo sick; exit 3","timeout":1}}`)
	s.until(path, status("failed"))
	if got := sprint(turnOf(s.get(path).object(), 0)["reason"]); got != "the host was not healthy within 1 s after its restart: the health command ended with exit status 3: sick" {
		t.Errorf("the reason: %s", got)
	}
	if n := commands(f.Hosts()[1], "systemctl reboot"); n != 0 {
		t.Error("the second host was restarted though the first is not healthy")
	}
}

// TestAQuarterOfAHundredHosts looks from the hosts' side: never more than allowed,
// and nearly as many.
func TestAQuarterOfAHundredHosts(t *testing.T) {
	specs := make([]fleet.Spec, 100)
	for i := range specs {
		specs[i] = fleet.Spec{Address: fmt.Sprintf("127.0.36.%d", i+1), OS: fleet.Atomic, Version: "41.1", Next: "41.2", Speed: fleet.Speed{Upgrade: 3 * time.Second}}
	}
	f, body := hosts(t, specs...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	began := time.Now()
	path := s.operate("upgrade", `{"max_unavailable":"25%"}`)
	s.until(path, status("finished"))
	if n := f.MostInHand(began); n > 25 || n < 20 {
		t.Errorf("%d hosts were in hand at once", n)
	}
	for _, h := range f.Hosts() {
		if n := commands(h, "rpm-ostree upgrade"); n != 1 {
			t.Errorf("host %s was upgraded %d times", h.Address(), n)
		}
	}
}

func TestARebootOnlyWhereOneIsNeeded(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.37.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.37.2", OS: fleet.Fedora, Version: "6.2", Next: "6.2"},
	)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	path := s.operate("upgrade", `{"reboot":"if-needed","order":["127.0.37.2"]}`)
	o := s.until(path, status("finished"))
	if got := sprint(turnOf(o, 0)["address"]); got != "127.0.37.2" {
		t.Errorf("host %s was the first", got)
	}
	if one, two := f.Hosts()[0], f.Hosts()[1]; one.Version() != "6.2" || commands(one, "systemctl reboot") != 1 || commands(two, "systemctl reboot") != 0 {
		t.Errorf("%v and %v", lines(one.Commands()), lines(two.Commands()))
	}
	f.Hosts()[0].Release("6.3")
	f.Hosts()[0].SetFaults(fleet.Faults{KeepVersion: true})
	path = s.operate("upgrade", `{"reboot":"if-needed"}`)
	o = s.until(path, status("failed"))
	turn := turnOf(o, 0)
	if got := sprint(turn["reason"]); !strings.HasPrefix(got, "it came back on 41 6.2, wanted 41 6.3") {
		t.Errorf("the reason: %s", got)
	}
	if turn["version_before"] != "41 6.2" || turn["version_after"] != "41 6.2" || turn["version_pending"] != "" || turn["exit_status"] != 0.0 ||
		turn["output"] != "Upgrading:\n kernel 6.3\nComplete!" {
		t.Errorf("the turn: %v", turn)
	}
}

func TestOutsideItsWindowItWaits(t *testing.T) {
	f, body := hosts(t, atomics(38, 1)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	later := time.Now().UTC().Add(2 * time.Hour)
	path := s.operate("upgrade", fmt.Sprintf(`{"window":{"from":"%s","to":"%s","zone":"UTC"}}`, later.Format("15:04"), later.Add(time.Hour).Format("15:04")))
	o := s.until(path, state("waiting"))
	if wait := o["waiting"].(map[string]any); wait["why"] != "its window is closed" || !strings.HasPrefix(sprint(wait["until"]), later.Format("2006-01-02T15:04")) {
		t.Errorf("it waits: %v", wait)
	}
	if n := commands(f.Hosts()[0], "rpm-ostree upgrade"); n != 0 {
		t.Error("a host was upgraded outside the window")
	}
	s.put(path+"/cancel", nil).is(200)
	s.until(path, status("failed"))
}

// cut drops all that was recorded from a position on, as if the service had been
// killed before. It must not run.
func (s *service) cut(from event.Position) {
	s.t.Helper()
	if s.esdb != nil {
		s.esdb.Cut(uint64(from))
		return
	}
	db, err := sql.Open("sqlite", filepath.Join(s.dir, "store", "events.db"))
	if err == nil {
		_, err = db.ExecContext(s.t.Context(), "DELETE FROM events WHERE pos >= ?", int64(from))
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// lastRelease is where the release of a host was recorded last; it must be
// among the very last events.
func (h history) lastRelease(address string) event.Position {
	h.t.Helper()
	for i, r := range slices.Backward(h.events) {
		if e, ok := r.Event.(event.HostReleased); ok && string(e.Host) == address && i >= len(h.events)-3 {
			return r.Position
		}
	}
	h.t.Fatalf("host %s was not released last", address)
	return 0
}

// TestWhatAKillLeftClaimedIsNotTakenForOtherWork kills the service after a host
// was done with and before that was released. The host must be free soon, and what
// it does next must not be taken for what it has done already.
func TestWhatAKillLeftClaimedIsNotTakenForOtherWork(t *testing.T) {
	settings := map[string]any{"bootstrap.profile": "none", "watch.interval": "1h"}
	t.Run("after a turn", func(t *testing.T) {
		f, body := hosts(t, atomics(39, 2)...)
		s := newService(t, settings)
		s.join(f, body)
		path := s.operate("upgrade", `{"pause_after":1}`)
		s.until(path, state("paused"))
		s.await(func() bool { return len(s.recorded().held()) == 0 }, path)
		s.stop(syscall.SIGKILL)
		s.cut(s.recorded().lastRelease("127.0.39.1"))
		s.start()
		s.until(path, state("paused"))
		s.await(func() bool { return len(s.recorded().held()) == 0 }, path)
		s.put(path+"/cancel", nil).is(200)
		s.until(path, status("failed"))
		if h := f.Hosts()[0]; h.Pending() != "" || commands(h, "rpm-ostree cleanup -p") != 1 {
			t.Errorf("after it was cancelled %q is pending, the host ran %v", h.Pending(), lines(h.Commands()))
		}
	})
	t.Run("after a turn, when it is cancelled at once", func(t *testing.T) {
		f, body := hosts(t, atomics(39, 2)...)
		s := newService(t, settings)
		s.join(f, body)
		first := f.Hosts()[0]
		release := first.Hold("rpm-ostree upgrade")
		path := s.operate("upgrade", `{"pause_after":1}`)
		awaitCommand(t, first, "rpm-ostree upgrade")
		s.put(path+"/pause", nil).is(200)
		release()
		s.await(func() bool { return s.turns(path) == "succeeded waiting" && len(s.recorded().held()) == 0 }, path)
		s.stop(syscall.SIGKILL)
		s.cut(s.recorded().lastRelease("127.0.39.1"))
		s.start()
		s.put(path+"/cancel", nil).is(200)
		s.until(path, status("failed"))
		if first.Pending() != "" || commands(first, "rpm-ostree cleanup -p") != 1 {
			t.Errorf("after it was cancelled %q is pending, the host ran %v", first.Pending(), lines(first.Commands()))
		}
		if held := s.recorded().held(); len(held) > 0 {
			t.Errorf("it has ended and holds %v", held)
		}
	})
	t.Run("after a download", func(t *testing.T) {
		f, body := hosts(t, atomics(39, 1)...)
		s := newService(t, settings)
		s.join(f, body)
		h := f.Hosts()[0]
		release := h.Hold("rpm-ostree upgrade --download-only")
		path := s.operate("upgrade", `{"stage":true}`)
		awaitCommand(t, h, "rpm-ostree upgrade --download-only")
		s.put(path+"/pause", nil).is(200)
		release()
		s.until(path, func(o map[string]any) bool { return turnOf(o, 0)["doing"] == "downloaded" })
		s.await(func() bool { return len(s.recorded().held()) == 0 }, path)
		s.stop(syscall.SIGKILL)
		s.cut(s.recorded().lastRelease(h.Address()))
		s.start()
		s.put(path+"/resume", nil).is(200)
		s.until(path, status("finished"))
		if h.Pending() != "41.2" || commands(h, "rpm-ostree upgrade --cache-only") != 1 {
			t.Errorf("the upgrade finished and %q is pending, the host ran %v", h.Pending(), lines(h.Commands()))
		}
	})
}
