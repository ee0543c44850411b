package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"commissaire/test/fleet"
	"commissaire/test/kube"
)

const managerToken = "the-token-of-the-container-manager-0123456789"

// managed are a service and a container manager that knows all hosts of a fleet,
// members of the cluster c.
type managed struct {
	*service
	kube  *kube.Server
	fleet *fleet.Fleet
}

func newManaged(t *testing.T, specs ...fleet.Spec) managed {
	t.Helper()
	f, body := hosts(t, specs...)
	server := kube.Start(t, managerToken)
	certificates := t.TempDir()
	authority := filepath.Join(certificates, "ca.crt")
	if err := os.WriteFile(authority, server.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newService(t, map[string]any{
		"bootstrap.profile": "none", "operations.health-interval": "20ms", "debug": true,
		"container-managers.certificate-dir": certificates, "container-managers.timeout": "1s",
	})
	t.Cleanup(func() {
		s.stop(syscall.SIGTERM)
		if read := (secrets{"the token": managerToken}).nowhere(t, s.dir); read < 4 {
			t.Errorf("only %d files were read", read)
		}
	})
	s.put("/containermanager/k", map[string]any{"type": "kubernetes", "options": map[string]string{
		"server_url": server.URL() + "/api", "token": managerToken, "ca_path": authority,
	}}).is(201)
	s.put("/cluster/c", `{"container_manager":"k"}`).is(201)
	s.addHosts("c", body, addresses(f.Hosts())...)
	for _, h := range f.Hosts() {
		s.until("/host/"+h.Address(), status("active"))
		server.Report(h.Address())
	}
	return managed{s, server, f}
}

// pod puts a pod on a host's node.
func (m managed) pod(host *fleet.Host, p kube.Pod) {
	p.Node = host.Address()
	m.kube.AddPod(p)
}

// given checks that no node is cordoned and which pods are left on a host's.
func (m managed) given(host *fleet.Host, pods ...string) {
	m.t.Helper()
	if m.kube.Cordoned(host.Address()) {
		m.t.Errorf("the node of host %s is left cordoned", host.Address())
	}
	if got := m.kube.Pods(host.Address()); strings.Join(got, " ") != strings.Join(pods, " ") {
		m.t.Errorf("on host %s are %v, want %v", host.Address(), got, pods)
	}
}

// during starts an operation and waits until a command runs on a host, which it does
// until release.
func (m managed) during(kind, policy string, host *fleet.Host, command string) (path string, release func()) {
	m.t.Helper()
	release = host.Hold(command)
	path = m.operate(kind, policy)
	awaitCommand(m.t, host, command)
	return path, release
}

func (m managed) reason(path string) string {
	m.t.Helper()
	return sprint(turnOf(m.get(path).object(), 0)["reason"])
}

// atAsked is when a request was first answered, from a time on.
func (m managed) atAsked(from time.Time, match, body string) time.Time {
	m.t.Helper()
	for _, r := range m.kube.Asked(match) {
		if r.Time.After(from) && strings.Contains(r.Body, body) {
			return r.Time
		}
	}
	m.t.Fatalf("nobody asked for %s with %q after %s: %v", match, body, from, m.kube.Requests())
	return time.Time{}
}

func TestManagedHostIsEmptiedWorkedOnCheckedAndGivenBack(t *testing.T) {
	m := newManaged(t, atomics(41, 1)...)
	h := m.fleet.Hosts()[0]
	m.pod(h, kube.Pod{Name: "one", Refusals: 1})
	m.pod(h, kube.Pod{Name: "logs", Owner: "DaemonSet"})
	m.kube.Change(h.Address(), func(n *corev1.Node) { n.Status.NodeInfo.BootID = h.BootID() })
	path := m.operate("restart", `{"health":{"node_ready":true,"timeout":60},"drain":{"grace":3}}`)
	notYet := "the node has not reported since the host was booted"
	m.await(func() bool { return strings.Contains(string(m.get(path+"/history").body), notYet) }, path+"/history")
	m.kube.Change(h.Address(), func(n *corev1.Node) { n.Status.NodeInfo.BootID = h.BootID() })
	m.until(path, status("finished"))
	m.given(h, "logs")

	cordoned := m.atAsked(time.Time{}, "PATCH", `true`)
	evicted := m.atAsked(cordoned, "/eviction", `"gracePeriodSeconds":3`)
	uncordoned := m.atAsked(evicted, "PATCH", `null`)
	for _, c := range m.fleet.InHand() {
		if !evicted.Before(c.Time) || !c.Until.Before(uncordoned) {
			t.Errorf("%s ran from %s until %s; the node was emptied at %s and given back at %s", c.Line, c.Time, c.Until, evicted, uncordoned)
		}
	}
	if n := len(m.fleet.InHand()); n != 1 {
		t.Errorf("%d commands took the host in hand", n)
	}
	if n := len(m.kube.Asked("/eviction")); n != 2 {
		t.Errorf("%d evictions, want one that was refused and one", n)
	}
}

func TestManagedHostThatABudgetKeepsIsLeftAlone(t *testing.T) {
	m := newManaged(t, atomics(42, 1)...)
	h := m.fleet.Hosts()[0]
	m.pod(h, kube.Pod{Name: "one", Refusals: -1})
	path := m.operate("upgrade", `{"drain":{"timeout":1}}`)
	m.until(path, status("failed"))
	want := "the host was not drained within 1 s, and nothing was done to it: 1 pods are left: " + m.kube.Namespace + "/one: Cannot evict"
	if got := m.reason(path); !strings.HasPrefix(got, want) {
		t.Errorf("the reason: %s", got)
	}
	m.given(h, "one")
	if n := commands(h, "rpm-ostree upgrade"); n != 0 {
		t.Error("it was upgraded nevertheless")
	}
	m.until(m.operate("upgrade", `{"drain":{"timeout":1,"on_timeout":"continue"}}`), status("finished"))
	m.given(h, "one")
	if n := commands(h, "rpm-ostree upgrade"); n != 1 {
		t.Errorf("it was upgraded %d times", n)
	}
}

func TestManagedHostIsGivenBackAfterAKill(t *testing.T) {
	m := newManaged(t, atomics(43, 1)...)
	h := m.fleet.Hosts()[0]
	path, release := m.during("upgrade", `{}`, h, "rpm-ostree upgrade")
	if !m.kube.Cordoned(h.Address()) {
		t.Error("the node is not cordoned while its host is upgraded")
	}
	m.crash()
	release()
	m.until(path, status("finished"))
	m.given(h)
	if n := commands(h, "rpm-ostree upgrade"); n != 1 {
		t.Errorf("it was upgraded %d times", n)
	}
}

func TestManagedHostThatCannotBeGivenBackNowIsLater(t *testing.T) {
	m := newManaged(t, atomics(44, 1)...)
	h := m.fleet.Hosts()[0]
	path, release := m.during("upgrade", `{}`, h, "rpm-ostree upgrade")
	m.kube.Leave()
	release()
	m.until(path, status("failed"))
	if got := m.reason(path); !strings.HasPrefix(got, "container manager k could not uncordon the host, which is tried again later: ") {
		t.Errorf("the reason: %s", got)
	}
	if !m.kube.Cordoned(h.Address()) {
		t.Error("who uncordoned it?")
	}
	m.stop(syscall.SIGTERM)
	m.kube.Return()
	m.start()
	m.await(func() bool {
		return strings.Contains(string(m.get("/host/"+h.Address()+"/history").body), "HostUncordoned")
	}, "/host/"+h.Address()+"/history")
	m.given(h)

	m.kube.Fail("PATCH", 3, 500) // each attempt
	path = m.operate("upgrade", `{}`)
	m.until(path, status("failed"))
	if got := m.reason(path); !strings.HasPrefix(got, "container manager k could not cordon the host: ") {
		t.Errorf("the reason: %s", got)
	}
	m.given(h)
	m.kube.Stall("GET /api/v1/nodes/")
	path = m.operate("upgrade", `{}`)
	m.until(path, status("failed"))
	if got := m.reason(path); !strings.HasSuffix(got, "could not say whether the host is cordoned: it did not answer within 1s") {
		t.Errorf("the reason: %s", got)
	}
	m.kube.Heal()
	m.given(h)
}

func TestManagedHostIsEmptiedAgainBeforeItsReboot(t *testing.T) {
	m := newManaged(t, atomics(45, 1)...)
	h := m.fleet.Hosts()[0]
	m.kube.Change(h.Address(), func(n *corev1.Node) { n.Spec.Unschedulable = true })
	m.until(m.operate("upgrade", `{}`), status("finished"))
	if !m.kube.Cordoned(h.Address()) {
		t.Error("what somebody else had cordoned was uncordoned")
	}
	h.Release("41.3")
	path, release := m.during("deploy", `{"version":"41.3","reboot":true}`, h, "rpm-ostree deploy")
	m.kube.Change(h.Address(), func(n *corev1.Node) { n.Spec.Unschedulable = false })
	m.pod(h, kube.Pod{Name: "back"})
	release()
	m.until(path, status("finished"))
	m.given(h)
	evicted := m.atAsked(time.Time{}, "/eviction", "")
	for _, c := range h.Commands() {
		if strings.HasPrefix(c.Line, "systemctl reboot") && c.Time.Before(evicted) {
			t.Error("it was rebooted with work on it")
		}
	}
}

func TestManagedHostInHandIsGivenBackAfterAPauseOrCancel(t *testing.T) {
	m := newManaged(t, atomics(46, 2)...)
	first, second := m.fleet.Hosts()[0], m.fleet.Hosts()[1]
	path, release := m.during("upgrade", `{}`, first, "rpm-ostree upgrade")
	m.put(path+"/pause", nil).is(200)
	m.until(path, state("paused"))
	release()
	m.await(func() bool { return m.turns(path) == "succeeded waiting" }, path)
	m.given(first)
	m.put(path+"/cancel", nil).is(200)
	m.until(path, status("failed"))
	m.given(second)
	if n := len(m.kube.Asked("PATCH /api/v1/nodes/" + second.Address())); n != 0 {
		t.Errorf("the node of a host that was not begun was changed %d times", n)
	}
}

func TestManagedHostsAreKnownToTheirManager(t *testing.T) {
	m := newManaged(t, atomics(47, 3)...)
	one, two, three := "127.0.47.1", "127.0.47.2", "127.0.47.3"
	node := m.get("/host/" + one + "/status").is(200).object()["container_manager"].(map[string]any)
	if node["kind"] != "Node" || fmt.Sprint(node["metadata"].(map[string]any)["name"]) != one {
		t.Errorf("shown is %v", node)
	}
	m.kube.Stall("GET /api/v1/nodes/")
	if got := m.get("/host/" + one + "/status").is(200).object()["container_manager"]; sprint(got) != "map[]" {
		t.Errorf("of a manager that does not answer, shown is %v", got)
	}
	m.kube.Heal()
	gone := func(name string) {
		t.Helper()
		if err := m.kube.Await(t.Context(), func() bool { _, there := m.kube.Node(name); return !there }); err != nil {
			t.Fatal(err)
		}
	}
	m.delete("/host/" + one).is(200)
	gone(one)
	m.fleet.Host(two).Down() // also a host that does not answer any more
	m.until("/host/"+two, status("failed"))
	m.delete("/host/" + two).is(200)
	gone(two)

	m.kube.Leave() // and one whose manager is away, and is then removed too
	m.delete("/cluster/c").is(200)
	m.delete("/host/" + three).is(200)
	m.delete("/containermanager/k").is(200)
	m.stop(syscall.SIGKILL)
	m.kube.Return()
	m.start()
	gone(three)
}
