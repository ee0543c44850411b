package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"commissaire/test/fleet"
)

func commands(h *fleet.Host, begin string) (n int) {
	for _, c := range h.Commands() {
		if strings.HasPrefix(c.Line, begin) {
			n++
		}
	}
	return n
}

// join makes a fleet's hosts the members of the cluster c and waits until they
// are ready.
func (s *service) join(f *fleet.Fleet, body func() map[string]any) {
	s.t.Helper()
	s.put("/cluster/c", nil).is(201)
	for _, h := range f.Hosts() {
		b := body()
		b["cluster"] = "c"
		s.put("/host/"+h.Address(), b).is(201)
		s.until("/host/"+h.Address(), status("disassociated"))
	}
}

// TestAKilledServiceFinishesItsOperation kills the service while a host is being
// upgraded, and again while it reboots: each was asked for once.
func TestAKilledServiceFinishesItsOperation(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.12.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.12.2", OS: fleet.Atomic, Version: "41.1", Next: "41.2"},
	)
	s := newService(t)
	s.join(f, body)
	for kind, command := range map[string]string{"upgrade": "dnf -y upgrade", "restart": "systemctl reboot"} {
		first := f.Host("127.0.12.1")
		first.Slow(command, 1e9)
		s.put("/cluster/c/"+kind, nil).is(201)
		if err := first.Await(t.Context(), func(h *fleet.Host) bool { return commands(h, command) == 1 }); err != nil {
			t.Fatal(err)
		}
		s.stop(syscall.SIGKILL)
		s.start()
		record := s.until("/cluster/c/"+kind, status("finished", "failed"))
		if record["status"] != "finished" {
			t.Errorf("the %s %v: %s", kind, record["status"], s.get("/operations?limit=1").body)
		}
		for _, h := range f.Hosts() {
			if n := commands(h, command); h == first && n != 1 {
				t.Errorf("%s was sent %d times to %s", command, n, h.Address())
			}
		}
	}
}

func TestAHostThatFailsStopsTheOperation(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.13.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.13.2", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
	)
	s := newService(t)
	s.join(f, body)
	f.Host("127.0.13.1").FailNext("dnf -y upgrade", 3)
	location := s.put("/cluster/c/upgrade", nil).is(201).header.Get("Location")
	o := s.until(strings.TrimPrefix(location, "/api/v0"), status("failed"))
	if !strings.Contains(sprint(o["cause"]), "127.0.13.1: the upgrade ended with exit status 3") {
		t.Errorf("the cause is %v", o["cause"])
	}
	if n := commands(f.Host("127.0.13.2"), "dnf -y upgrade"); n != 0 {
		t.Error("the second host was upgraded though the first had failed")
	}
	s.get("/cluster/c/upgrade").is(200).keys("name", "status", "upgraded", "in_process", "started_at", "finished_at")
	s.until("/host/127.0.13.1", status("disassociated"))
}

func TestAChangedHostKeyStopsAllWorkUntilItIsAccepted(t *testing.T) {
	f, body := hosts(t, fleet.Spec{Address: "127.0.14.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"})
	s := newService(t)
	at := "/host/127.0.14.1"
	s.put(at, body()).is(201)
	s.until(at, status("disassociated"))
	h := f.Host("127.0.14.1")
	if err := h.ChangeHostKey(); err != nil {
		t.Fatal(err)
	}
	h.DropConnections()
	s.until(at, status("failed"))
	s.put(at+"/hostkey", `{"fingerprint":"SHA256:another"}`).is(409)
	s.put(at+"/hostkey", `{"fingerprint":"`+fingerprint(h)+`"}`).is(201)
	s.until(at, status("disassociated"))
}

func TestAStoreInUseIsRefused(t *testing.T) {
	s := newService(t)
	second := &service{t: t, dir: s.dir}
	out, err := second.run("serve", "--config", filepath.Join(s.dir, "config.json"))
	if err == nil || !strings.Contains(out, "another process is using it") || strings.Count(strings.TrimSpace(out), "\n") != 0 {
		t.Errorf("a second service on the same store: %v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "store", "events.db")); err != nil {
		t.Error(err)
	}
	s.get("/clusters").is(200)
}
