package e2e

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestThePastIsAnsweredAsItWas keeps what the service answers while a cluster is
// set up, upgraded and taken down, and asks for it again later: of the same
// service, and of the one after it.
func TestThePastIsAnsweredAsItWas(t *testing.T) {
	f, body := hosts(t, atomics(41, 2)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none", "watch.interval": "100ms"})
	one, two := "/host/"+f.Hosts()[0].Address(), "/host/"+f.Hosts()[1].Address()
	paths := []string{
		"/clusters", "/cluster/c", "/cluster/c/hosts", "/cluster/c/hosts/" + f.Hosts()[0].Address(), "/cluster/c/upgrade", "/cluster/c/deploy",
		"/hosts", one, two, one + "/status", "/networks", "/network/n", "/containermanagers", "/containermanager/m", "/operations",
	}
	type seen struct{ path, position, etag, body string }
	var then []seen
	look := func() {
		t.Helper()
		for _, path := range paths {
			a := s.get(path)
			answer := seen{path: path, position: a.header.Get("X-Commissaire-Position"), etag: a.header.Get("ETag"), body: string(a.body)}
			if a.status == http.StatusNotFound { // the problem names the request
				answer.etag, answer.body = "", "404"
			}
			then = append(then, answer)
		}
	}
	look()
	s.put("/network/n", nil).is(201)
	s.put("/containermanager/m", `{"type":"trivial"}`).is(201)
	s.put("/cluster/c", `{"network":"n"}`).is(201)
	look()
	with := body()
	with["cluster"] = "c"
	s.put(one, with, "X-Commissaire-Reason", "first of the rack").is(201)
	look()
	s.put(two, with).is(201)
	s.until(one, status("disassociated"))
	s.until(two, status("disassociated"))
	look()
	s.put("/cluster/c/upgrade", nil).is(201)
	look()
	s.until("/cluster/c/upgrade", func(o map[string]any) bool { look(); return o["status"] == "finished" })
	f.Hosts()[1].Down()
	s.until(two, status("failed"))
	look()
	s.delete(one).is(200)
	s.delete("/cluster/c").is(200)
	look()

	check := func() {
		t.Helper()
		for _, k := range then {
			a := s.get(k.path+"?at="+k.position, "X-Commissaire-At-Least", k.position)
			body := string(a.body)
			if a.status == http.StatusNotFound {
				body = "404"
			}
			if body != k.body || k.etag != "" && a.header.Get("ETag") != k.etag {
				t.Fatalf("GET %s at %s: %d %s\nwas: %s", k.path, k.position, a.status, body, k.body)
			}
		}
	}
	check()
	s.crash()
	check()

	if d := s.get(one + "/diff?from=0&to=" + then[len(then)-1].position).is(200).object(); !strings.Contains(sprint(d["events"]), "first of the rack") || len(d["changes"].([]any)) != 0 {
		t.Errorf("between never and no longer there: %v", d["changes"])
	}
	if a := s.get(one+"/history?type=HostAdded", "Accept", "text/csv").is(200); !strings.Contains(string(a.body), "first of the rack") {
		t.Errorf("the history of a host that is gone: %s", a.body)
	}
	for _, path := range []string{"/hosts?at=99999999", "/hosts?at=2999-01-01T00:00:00Z", "/hosts?at=yesterday", one + "/creds?at=1"} {
		s.get(path).is(400)
	}
	s.as("viewer", http.MethodGet, two+"/diff?from=0", nil).is(403)
	s.as("auditor", http.MethodGet, two+"/diff?from=0", nil).is(200)
}

// TestAnImportedLogAnswersTheSame exports the log of a service and imports it into
// a store of another kind, with a service of its own.
func TestAnImportedLogAnswersTheSame(t *testing.T) {
	f, body := hosts(t, atomics(44, 2)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none", "watch.interval": "1h"})
	one, two := "/host/"+f.Hosts()[0].Address(), "/host/"+f.Hosts()[1].Address()
	s.put("/network/n", nil).is(201)
	s.put("/containermanager/m", `{"type":"trivial"}`).is(201)
	s.put("/cluster/c", `{"network":"n","container_manager":"m"}`).is(201)
	with := body()
	with["cluster"] = "c"
	s.put(one, with, "X-Commissaire-Reason", "first <of> the rack").is(201)
	s.put(two, with).is(201)
	s.until(one, status("active"))
	s.until(two, status("active"))
	s.put("/cluster/c/upgrade", nil).is(201)
	s.until("/cluster/c/upgrade", status("finished"))
	operation := "/operation/" + sprint(s.get("/operations").list()[0].(map[string]any)["id"])
	s.delete(two).is(200)
	s.delete("/cluster/c").is(200)
	paths := []string{
		"/clusters", "/cluster/c", "/hosts", one, two, "/networks", "/network/n", "/containermanagers", "/containermanager/m", "/operations", operation,
	}
	histories := map[string]int{} // how long each was
	for _, path := range []string{"/cluster/c/history", one + "/history", two + "/history?actor=admin", operation + "/history"} {
		histories[path] = len(s.get(path).list())
	}
	then := s.get("/hosts").header.Get("X-Commissaire-Position")
	s.stop(syscall.SIGTERM)

	file := filepath.Join(t.TempDir(), "log.zst")
	s.tool("events", "export", "--config", filepath.Join(s.dir, "config.json"), file)
	other := unstarted(t, map[string]any{"watch.interval": "1h"})
	if s.esdb == nil {
		other.onDouble()
		other.configure()
	}
	other.tool("events", "import", "--config", filepath.Join(other.dir, "config.json"), file)
	if a, b := s.root("--config", filepath.Join(s.dir, "config.json")), other.root("--config", filepath.Join(other.dir, "config.json")); a != b || a == "" {
		t.Errorf("the roots are %q and %q", a, b)
	}
	s.start()
	other.start()
	t.Cleanup(func() { other.stop(syscall.SIGKILL) })
	positionOf := func(s *service) string { // what is the position of the same event there
		all := s.get("/cluster/c/history").is(200).list()
		return sprint(all[len(all)-1].(map[string]any)["position"])
	}
	for _, path := range paths {
		a, b := s.get(path+"?at="+then), other.get(path+"?at="+positionOf(other))
		if a.status != b.status || a.status == http.StatusOK && string(a.body) != string(b.body) {
			t.Errorf("GET %s: %d %s\nof the other: %d %s", path, a.status, a.body, b.status, b.body)
		}
	}
	for path, n := range histories {
		a, b := s.get(path).is(200).list()[:n], other.get(path).is(200).list()[:n]
		for _, entries := range [][]any{a, b} {
			for _, e := range entries {
				delete(e.(map[string]any), "position")
			}
		}
		if sprint(a) != sprint(b) || len(a) == 0 {
			t.Errorf("GET %s: %.999s\nof the other: %.999s", path, sprint(a), sprint(b))
		}
	}
}

// root is the root of the tree over a log.
func (s *service) root(of ...string) string {
	s.t.Helper()
	var report struct{ Root string }
	if err := json.Unmarshal([]byte(s.tool(append([]string{"events", "verify", "-o", "json"}, of...)...)), &report); err != nil {
		s.t.Fatal(err)
	}
	return report.Root
}
