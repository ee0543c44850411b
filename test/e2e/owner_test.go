package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"commissaire/test/fleet"
)

// identity is that of the service's log.
func (s *service) identity() string {
	s.leads()
	return sprint(s.get("/status").is(200).object()["leader"].(map[string]any)["log"])
}

// TestTwoInstallationsAndOneHost has two services with stores of their own manage
// the same host.
func TestTwoInstallationsAndOneHost(t *testing.T) {
	f, body := hosts(t, atomics(73, 1)...)
	h := f.Hosts()[0]
	path := "/host/" + h.Address()
	settings := map[string]any{"bootstrap.profile": "none", "watch.interval": "300ms"}
	a, b := newService(t, settings), newService(t, settings)
	if a.identity() == b.identity() {
		t.Fatal("two new logs have the same identity")
	}
	a.join(f, body)
	owner, err := h.ReadFile("/var/lib/commissaire/owner")
	if err != nil || !strings.HasPrefix(string(owner), a.identity()+" ") {
		t.Fatalf("the host is of %s, %v", owner, err)
	}
	since := strings.TrimSpace(strings.TrimPrefix(string(owner), a.identity()))

	b.put("/cluster/c", nil).is(201)
	known := body()
	known["cluster"] = "c"
	b.put(path, known).is(201)
	b.failedFor(h.Address(), "another installation of this service (log "+a.identity()+") manages this host since "+since+":")
	operation := b.until(b.operate("restart", `{}`), status("failed"))
	if !strings.Contains(sprint(operation["cause"]), "another installation") {
		t.Errorf("the cause: %v", operation["cause"])
	}
	if n := commands(h, "systemctl reboot"); n != 0 {
		t.Errorf("it was rebooted %d times", n)
	}

	known["take_over"] = true
	if a := b.put(path, known).is(409); !strings.Contains(string(a.body), "PUT "+path+"/takeover") {
		t.Errorf("%s: %s", a.call, a.body)
	}
	known["take_over"] = "yes"
	b.put(path, known).is(400)
	b.put("/host/127.0.73.99/takeover", nil).is(404)
	for range 2 {
		b.put(path+"/takeover", nil, "X-Commissaire-Reason", "the old one is gone").is(200)
	}
	b.until(path, status("disassociated"))
	b.until(b.operate("restart", `{}`), status("finished"))
	b.put(path+"/takeover", nil).is(200)
	if n := len(b.events(path+"/history", "HostTakeoverOrdered")); n != 1 {
		t.Errorf("%d takeovers are recorded", n)
	}

	operation = a.until(a.operate("restart", `{}`), status("failed"))
	if !strings.Contains(sprint(operation["cause"]), "another installation of this service (log "+b.identity()+")") {
		t.Errorf("the cause: %v", operation["cause"])
	}
	a.failedFor(h.Address(), "another installation")
	a.delete(path).is(200)
	if n := commands(h, "systemctl reboot"); n != 1 {
		t.Errorf("it was rebooted %d times", n)
	}

	again := body()
	again["take_over"] = true
	again["cluster"] = "c"
	a.put(path, again).is(201)
	a.until(path, status("disassociated"))
	a.put(path, again).is(201)
	b.until(b.operate("restart", `{}`), status("failed"))
	b.failedFor(h.Address(), "another installation")
}

// TestAHostThatLiesAboutTermsHarmsItselfAlone has a host that says it has seen the
// last of all terms.
func TestAHostThatLiesAboutTermsHarmsItselfAlone(t *testing.T) {
	r := newTrial(t, fleet.Fedora, nil)
	r.add("disassociated")
	if err := r.bad.WriteFile("/var/lib/commissaire/term", []byte("9223372036854775806\n")); err != nil {
		t.Fatal(err)
	}
	path := r.operate("upgrade", nil)
	r.put(path+"/cancel", nil)
	r.until(path, status("failed", "finished"))
	r.fails("upgrade", "the host has seen term 9223372036854775806 of this log that is later than ours, 1: if a copy of this service is at work there, stop it; then PUT /host/"+r.bad.Address()+"/takeover")
	r.until("/host/"+r.bad.Address(), status("failed"))
	r.put("/host/"+r.bad.Address()+"/takeover", nil).is(200)
	r.ready(r.bad.Address())
	r.run("upgrade", "finished")
	if err := r.bad.WriteFile("/var/lib/commissaire/term", []byte("9223372036854775806\n")); err != nil {
		t.Fatal(err)
	}
	r.run("restart", "failed")
	r.delete("/host/" + r.bad.Address()).is(200)
	r.run("restart", "finished")
}

// TestEveryCopyOfALogHasItsIdentity starts a service on each.
func TestEveryCopyOfALogHasItsIdentity(t *testing.T) {
	onSQLite(t, migrates)
	s := newService(t)
	identity := s.identity()
	if fresh := newService(t).identity(); fresh == identity || len(fresh) != 36 {
		t.Errorf("two logs are %s and %s", identity, fresh)
	}
	s.stop(syscall.SIGTERM)
	store, config := filepath.Join(s.dir, "store"), filepath.Join(s.dir, "config.json")
	copies := map[string]func(to string){
		"a restart": func(to string) {
			if err := os.CopyFS(to, os.DirFS(store)); err != nil {
				t.Fatal(err)
			}
		},
		"export and import": func(to string) {
			file := filepath.Join(s.dir, "events.jsonl")
			s.tool("events", "export", "--config", config, file)
			s.tool("events", "import", "--config", config, "--store", "sqlite:"+to, file)
		},
		"backup and restore": func(to string) {
			backup := filepath.Join(s.dir, "kept")
			s.saves(t, "backup", backup)
			s.saves(t, "restore", backup, "--store", "sqlite:"+to)
		},
		"migration": func(to string) {
			_, wait := migrate(t, "--from", "sqlite:"+store, "--to", "sqlite:"+to)
			if o := wait(); o.code != 0 {
				t.Fatal(o.said)
			}
		},
	}
	for name, make := range copies {
		to := filepath.Join(s.dir, name)
		make(to)
		copied := unstarted(t, map[string]any{"store": "sqlite:" + to})
		copied.start()
		if got := copied.identity(); got != identity {
			t.Errorf("after %s it is %s, not %s", name, got, identity)
		}
		copied.stop(syscall.SIGTERM)
	}
}
