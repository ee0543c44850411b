package e2e

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"commissaire/test/fleet"
)

var (
	hostKeys    = []string{"address", "status", "os", "cpus", "memory", "space", "last_check", "source"}
	clusterKeys = []string{"name", "status", "network", "container_manager"}
	moreOfHosts = []string{"cluster", "reason", "since", "os_release", "version", "pending", "ssh_port", "remote_user", "host_key", "facts"}
)

// TestEveryRoute walks section 2 of the contract, with good and with bad input.
func TestEveryRoute(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.11.1", OS: fleet.Atomic, Version: "41.1", Next: "41.2"},
		fleet.Spec{Address: "127.0.11.2", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
	)
	s := newService(t)

	t.Run("who asks", func(t *testing.T) {
		s := on(t, s)
		s.as("", "GET", "/clusters", nil).is(403)
		s.as("", "GET", "/nothing", nil).is(403)
		s.as("nobody", "GET", "/clusters", nil).is(403)
		s.as("viewer", "PUT", "/cluster/c", nil).is(403)
		s.as("viewer", "GET", "/host/127.0.11.1/creds", nil).is(403)
		s.as("viewer", "GET", "/cluster/c/history", nil).is(403)
		s.as("viewer", "GET", "/events", nil).is(403)
		s.as("viewer", "GET", "/events?type=x", nil).is(403)
		s.as("join", "GET", "/events", nil).is(403)
		s.as("join", "GET", "/hosts", nil).is(403)
		s.as("join", "GET", "/inventory/127.0.11.1", nil).is(403)
		s.as("viewer", "GET", "/inventory/127.0.11.1", nil).is(404)
		s.as("auditor", "PUT", "/cluster/c/restart", nil).is(403)
		s.as("", "GET", "//healthz", nil).is(200)
		s.as("", "GET", "//readyz", nil).is(200)
		s.as("", "GET", "//metrics", nil).is(403)
		s.as("viewer", "GET", "//metrics", nil).is(200)
		s.as("viewer", "GET", "//openapi.yaml", nil).is(200)
	})
	t.Run("paths", func(t *testing.T) {
		s := on(t, s)
		s.get("/nothing").is(404)
		s.get("/cluster/no%20name").is(404)
		s.get("/host/999.1.1.1").is(404)
		s.delete("/clusters").is(405)
		s.as("admin", "POST", "/cluster/c", nil).is(405)
		s.get("/clusters/").is(200).says(`[]`)
		s.get("/hosts").is(200).says(`[]`)
		s.get("/networks").is(200).says(`["default"]`)
		s.get("/containermanagers").is(200).says(`[]`)
	})
	t.Run("networks", func(t *testing.T) {
		s := on(t, s)
		s.get("/network/default").is(200).says(`{"name":"default","type":"flannel_etcd","options":{}}`)
		s.get("/network/n").is(404)
		s.put("/network/n", `{"type":"flannel_server","options":{"address":"10.0.0.1:8080"}}`).is(201).
			says(`{"name":"n","type":"flannel_server","options":{"address":"10.0.0.1:8080"}}`)
		s.put("/network/n", `{"type":"flannel_server","options":{"address":"10.0.0.1:8080"},"unknown":1}`).is(201)
		s.put("/network/n", `{}`).is(409)
		s.put("/network/m", `{"type":"flannel_server"}`).is(400)
		s.put("/network/m", `{"type":"token-ring"}`).is(400)
		s.put("/network/m", `{"options":[]}`).is(400)
		s.put("/network/m", `{"name":"other"}`).is(400)
		s.put("/network/m", `[]`).is(400)
		s.put("/network/m", `{`).is(400)
		s.put("/network/m", strings.Repeat(" ", 1<<20)+"{}").is(413)
	})
	t.Run("container managers", func(t *testing.T) {
		s := on(t, s)
		s.get("/containermanager/m").is(404)
		s.put("/containermanager/m", `{"type":"trivial"}`).is(201).says(`{"name":"m","type":"trivial","options":{}}`)
		s.put("/containermanager/m", `{"type":"trivial"}`).is(201)
		s.put("/containermanager/m", `{"type":"kubernetes","options":{"server_url":"https://k:1"}}`).is(409)
		s.put("/containermanager/k", `{"type":"kubernetes"}`).is(400)
		s.put("/containermanager/k", `{"type":"swarm"}`).is(400)
		s.put("/containermanager/k", `{"options":{"server_url":"https://k:1","colour":"red"}}`).is(400)
		s.put("/containermanager/k", `{"options":{"server_url":"https://k:1","token":"********"}}`).is(400)
		s.put("/containermanager/k", `{"options":{"server_url":"https://k:1","ca_path":"/etc/passwd"}}`).is(400)
		s.put("/containermanager/k", `{"options":{"apiserver":"https://k:1/api/","token":"t0ps3cret"}}`).is(201).
			says(`{"name":"k","type":"openshift","options":{"apiserver":"https://k:1/api/","token":"********"}}`)
		s.put("/containermanager/k", `{"options":{"apiserver":"https://k:1/api/","token":"t0ps3cret"}}`).is(201)
		s.put("/containermanager/k", `{"options":{"apiserver":"https://k:1/api/","token":"another"}}`).is(409)
		s.delete("/containermanager/k").is(200).says(`[]`)
		s.delete("/containermanager/k").is(404)
		s.get("/containermanagers").is(200).says(`["m"]`)
	})
	t.Run("clusters", func(t *testing.T) {
		s := on(t, s)
		s.get("/cluster/c").is(404)
		s.put("/cluster/c", `{"container_manager":"nobody"}`).is(409)
		s.put("/cluster/c", `{"container_manager":null}`).is(400)
		s.put("/cluster/c", `{"network":7}`).is(400)
		s.put("/cluster/c", `{"network":"unheard-of","type":"ignored"}`).is(201).keys(clusterKeys...).
			says(`{"name":"c","status":"ok","network":"default","container_manager":""}`)
		s.put("/cluster/c", `{"network":"n"}`).is(201).says(`{"name":"c","status":"ok","network":"n","container_manager":""}`)
		s.put("/cluster/c", nil).is(201).says(`{"name":"c","status":"ok","network":"n","container_manager":""}`)
		s.get("/cluster/c").is(200).says(`{"name":"c","status":"ok","network":"n","container_manager":"","hosts":{"total":0,"available":0,"unavailable":0}}`)
		s.delete("/network/n").is(409)
		s.put("/cluster/gone", nil).is(201)
		s.delete("/cluster/gone").is(200).says(`[]`)
		s.delete("/cluster/gone").is(404)
		s.get("/clusters").is(200).says(`["c"]`)
	})
	t.Run("hosts", func(t *testing.T) {
		s := on(t, s)
		one, two := "/host/127.0.11.1", "/host/127.0.11.2"
		s.get(one).is(404)
		s.get(one + "/creds").is(404)
		s.get(one + "/status").is(404)
		s.put(one, nil).is(400)
		s.put(one, `{"ssh_priv_key":"bogus!"}`).is(400)
		s.put(one, `{"ssh_priv_key":"`+base64.StdEncoding.EncodeToString([]byte("no key"))+`"}`).is(400)
		with := body()
		with["cluster"] = "unknown"
		s.put(one, with).is(409)
		s.put("/host/224.0.0.1", body()).is(400)
		bad := body()
		bad["remote_user"] = "no user; rm"
		s.put(one, bad).is(400)
		with["cluster"] = "c"
		s.put(one, with, "X-Commissaire-Reason", "spring intake").is(201).keys(hostKeys...)
		s.put(one, with).is(201)
		s.put(one, `{"ssh_priv_key":"bogus"}`).is(409)
		s.put(two, body()).is(201)
		s.put(two, with).is(409)
		s.until(one, status("disassociated"))
		s.until(two, status("disassociated"))
		s.get(one).is(200).keys(hostKeys...)
		if got := s.get(one).object(); got["os"] != "atomic" || got["cpus"] != 2.0 || got["memory"] != float64(4<<20) || got["space"] != float64(40<<20) || got["source"] != "" {
			t.Errorf("the facts of host 1: %v", got)
		}
		more := s.get("/inventory/127.0.11.1").is(200).keys(append(hostKeys, moreOfHosts...)...)
		if got := more.object(); got["cluster"] != "c" || got["reason"] != "" || got["version"] != "41.1" || got["host_key"].(map[string]any)["fingerprint"] == "" ||
			got["facts"].(map[string]any)["boot_id"] == "" {
			t.Errorf("all of host 1: %s", more.body)
		}
		if got := s.get("/inventory/127.0.11.1", "If-None-Match", more.header.Get("ETag")); got.status != http.StatusNotModified {
			t.Errorf("the same of host 1: %d", got.status)
		}
		s.get("/inventory/127.0.11.1?at=1").is(404)
		s.put(one, `{"ssh_port":23}`).is(409)
		s.get(one+"/creds").is(200).keys("ssh_priv_key", "remote_user")
		if got := s.get(one + "/creds"); got.header.Get("ETag") != "" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("credentials are cached: %v", got.header)
		}
		s.get(one+"/status").is(200).keys("type", "host", "container_manager")
		s.put("/host", nil).is(400) // the connection's own address, without a key
	})
	t.Run("members", func(t *testing.T) {
		s := on(t, s)
		s.get("/cluster/x/hosts").is(404)
		s.get("/cluster/c/hosts").is(200).says(`["127.0.11.1"]`)
		s.get("/cluster/c/hosts/127.0.11.1").is(200).says(`["127.0.11.1"]`)
		s.get("/cluster/c/hosts/127.0.11.2").is(404)
		s.get("/cluster/x/hosts/127.0.11.1").is(404)
		s.put("/cluster/c/hosts", `{"old":[]}`).is(400)
		s.put("/cluster/c/hosts", `{"old":"a","new":[]}`).is(400)
		s.put("/cluster/x/hosts", `{"old":[],"new":[]}`).is(404)
		s.put("/cluster/c/hosts", `{"old":[],"new":[]}`).is(409)
		s.put("/cluster/c/hosts", `{"old":["127.0.11.1"],"new":["127.0.11.9"]}`).is(404)
		s.put("/cluster/d", nil).is(201)
		s.put("/cluster/d/hosts", `{"old":[],"new":["127.0.11.1"]}`).is(409)
		s.put("/cluster/c/hosts", `{"old":["127.0.11.1"],"new":["127.0.11.2","127.0.11.1","127.0.11.2"]}`).is(200).
			keys(append([]string{"hostset"}, clusterKeys...)...)
		s.put("/cluster/d/hosts/127.0.11.2", nil).is(409)
		s.put("/cluster/x/hosts/127.0.11.2", nil).is(404)
		s.put("/cluster/c/hosts/127.0.11.9", nil).is(404)
		s.put("/cluster/c/hosts/127.0.11.2", nil).is(200).says(`["127.0.11.2"]`)
		s.delete("/cluster/x/hosts/127.0.11.2").is(404)
		s.delete("/cluster/c/hosts/127.0.11.2").is(200).says(`[]`)
		s.delete("/cluster/c/hosts/127.0.11.2").is(200).says(`[]`)
		s.put("/cluster/c/hosts/127.0.11.2", nil).is(200)

		away := body() // a host that is not reached may not join
		away["ssh_port"] = 1
		s.put("/host/127.0.11.3", away).is(201)
		s.until("/host/127.0.11.3", status("failed"))
		if got := s.get("/inventory/127.0.11.3").is(200).object(); got["reason"] == "" || got["since"] == "" || got["facts"] != nil || got["host_key"] != nil || got["ssh_port"] != 1.0 {
			t.Errorf("why host 3 is failed: %v", got)
		}
		s.put("/cluster/c/hosts/127.0.11.3", nil).is(405)
		s.put("/cluster/c/hosts", `{"old":["127.0.11.1","127.0.11.2"],"new":["127.0.11.1","127.0.11.2","127.0.11.3"]}`).is(405)
		s.delete("/host/127.0.11.3").is(200)
	})
	t.Run("a managed cluster", func(t *testing.T) {
		s := on(t, s)
		s.put("/cluster/c", `{"container_manager":"m"}`).is(201)
		s.until("/host/127.0.11.1", status("active"))
		s.until("/host/127.0.11.2", status("active"))
		if got := s.get("/host/127.0.11.1/status").is(200).object()["container_manager"]; !strings.Contains(sprint(got), "127.0.11.1") {
			t.Errorf("the manager says %v", got)
		}
		s.delete("/containermanager/m").is(409)
		s.put("/cluster/c", `{"container_manager":""}`).is(201)
		s.ready("127.0.11.1")
	})
	t.Run("operations", func(t *testing.T) {
		s := on(t, s)
		s.get("/cluster/c/upgrade").is(404)
		s.get("/cluster/x/deploy").is(404)
		s.put("/cluster/x/upgrade", nil).is(404)
		s.put("/cluster/c/deploy", nil).is(400)
		s.put("/cluster/c/deploy", `{"version":"-rf"}`).is(400)
		s.put("/cluster/c/deploy", `{"version":"41.2","vresion":"41.3"}`).is(400)
		s.put("/cluster/c/restart", `{"dry_rum":true}`).is(400)
		release := f.Host("127.0.11.1").Hold("rpm-ostree upgrade")
		started := s.put("/cluster/c/upgrade", nil, "Idempotency-Key", "k1").is(201).keys("name", "status", "upgraded", "in_process", "started_at", "finished_at")
		s.put("/cluster/c/upgrade", nil).is(201)
		s.put("/cluster/c/restart", nil).is(409)
		s.delete("/cluster/c").is(409)
		s.put("/cluster/c", `{"network":"default"}`).is(409)
		release()
		s.until(started.location(), status("finished"))
		if again := s.put("/cluster/c/upgrade", nil, "Idempotency-Key", "k1").is(201); again.location() != started.location() {
			t.Error("the same key started another operation")
		}
		s.put("/cluster/c/restart", nil, "Idempotency-Key", "k1").is(409)
		s.put("/cluster/c/restart", nil).is(201)
		s.until("/cluster/c/restart", status("finished"))
		s.put("/cluster/c/deploy", `{"version":"41.1"}`).is(201).keys("name", "status", "version", "deployed", "in_process", "started_at", "finished_at")
		s.until("/cluster/c/deploy", status("finished"))
		if got := f.Host("127.0.11.1"); got.Version() != "41.2" || got.Pending() != "41.1" {
			t.Errorf("host 1 runs %s, then %s", got.Version(), got.Pending())
		}
		if a := s.get("/operations?limit=1").is(200); !strings.Contains(a.header.Get("Link"), `rel="next"`) {
			t.Errorf("no next page: %v", a.header)
		}
		s.get("/operations?limit=x").is(400)
		s.get("/operation/" + strings.Repeat("0", 36)).is(404)
		s.as("operator", "GET", started.location()+"/history", nil).is(200)
		s.get("/cluster/c/history").is(200)
		s.get("/cluster/never/history").is(404)
		s.get("/cluster/c/history?limit=501").is(400)
		s.get("/cluster/c/history?after=x").is(400)
		whole, paged := s.get("/cluster/c/history").is(200).list(), []any{}
		for path := "/cluster/c/history?limit=2"; path != ""; {
			page := s.get(path).is(200)
			paged = append(paged, page.list()...)
			path = page.next()
		}
		if len(whole) < 5 || !reflect.DeepEqual(paged, whole) {
			t.Errorf("page by page the history of c is %v\nat once %v", paged, whole)
		}
		if a := s.get("/host/127.0.11.1/history").is(200); !strings.Contains(string(a.body), "spring intake") || strings.Contains(string(a.body), "PRIVATE") {
			t.Errorf("the history of host 1: %s", a.body)
		}
	})
	t.Run("conditional and positioned", func(t *testing.T) {
		s := on(t, s)
		a := s.get("/cluster/c").is(200)
		if b := s.get("/cluster/c", "If-None-Match", a.header.Get("ETag")); b.status != http.StatusNotModified || len(b.body) > 0 {
			t.Errorf("If-None-Match: %d %s", b.status, b.body)
		}
		position := s.put("/cluster/e", nil).is(201).header.Get("X-Commissaire-Position")
		s.get("/clusters", "X-Commissaire-At-Least", position).is(200).says(`["c","d","e"]`)
		s.get("/clusters", "X-Commissaire-At-Least", "soon").is(400)
		s.put("/cluster/e", nil, "X-Commissaire-Reason", strings.Repeat("why ", 300)).is(400)
		s.get("/status").is(200)
	})
	t.Run("events", func(t *testing.T) {
		s := on(t, s)
		s.get("/events?host=999.1.1.1").is(400)
		s.get("/events?type=HostAdd").is(400)
		s.get("/events", "Last-Event-ID", "x").is(400)
		history := s.get("/host/127.0.11.1/history?limit=500").is(200).list()
		last := history[len(history)-1].(map[string]any)["position"].(float64)
		for i, m := range s.listen("?after=0&host=127.0.11.1").await(t, uint64(last)) {
			var e any
			if err := json.Unmarshal([]byte(m.data), &e); err != nil || !reflect.DeepEqual(e, history[i]) {
				t.Errorf("%v: heard %v\nrecorded %v", err, e, history[i])
			}
		}
	})
	t.Run("the end", func(t *testing.T) {
		s := on(t, s)
		s.delete("/host/127.0.11.1").is(200).says(`[]`)
		s.delete("/host/127.0.11.1").is(404)
		s.get("/cluster/c/hosts").is(200).says(`["127.0.11.2"]`)
		s.delete("/cluster/c").is(200)
		s.ready("127.0.11.2")
		s.delete("/network/n").is(200)
		s.delete("/network/n").is(404)
		s.delete("/containermanager/m").is(200)
		s.get("/cluster/c/upgrade").is(404)
	})
}
