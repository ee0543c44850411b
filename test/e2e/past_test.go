package e2e

import (
	"net/http"
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
			kept := seen{path: path, position: a.header.Get("X-Commissaire-Position"), etag: a.header.Get("ETag"), body: string(a.body)}
			if a.status == http.StatusNotFound { // the problem names the request
				kept.etag, kept.body = "", "404"
			}
			then = append(then, kept)
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
	s.stop(syscall.SIGKILL)
	s.start()
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
