package containermanager

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/kube"
	"commissaire/test/vault"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	token = "the-token-of-a-manager-0123456789"
	web1  = domain.Address("10.0.0.1")
)

// setting is how a server is asked in a test.
type setting struct {
	config     Config
	definition event.ContainerManagerDefined
	options    map[string]string
	dir        string // where certificates are
}

// serve starts a server, and is how it is asked.
func serve(t *testing.T) (*kube.Server, *setting) {
	t.Helper()
	server := kube.Start(t, token)
	s := &setting{dir: t.TempDir()}
	s.config = Config{Credentials: vault.Of("C", commands.Secret(token)), CertificateDir: s.dir, Timeout: 5 * time.Second}
	s.definition = event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Type: domain.Kubernetes, Credential: "C"}
	s.options = map[string]string{"server_url": server.URL() + "/api/", "ca_path": s.write(t, "ca.crt", server.CA())}
	return server, s
}

func (s *setting) write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *setting) manager(t *testing.T) process.Manager {
	t.Helper()
	return s.of(t, s.managers(t))
}

func (s *setting) managers(t *testing.T) *Managers {
	managers := New(s.config)
	t.Cleanup(managers.Close)
	return managers
}

func (s *setting) of(t *testing.T, managers *Managers) process.Manager {
	t.Helper()
	var err error
	if s.definition.Options, err = json.Marshal(s.options); err != nil {
		t.Fatal(err)
	}
	m, err := managers.Of(s.definition)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fails checks that there is an error, what it says, and that it gives no token
// away.
func fails(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v, want %s", err, want)
	}
	if err != nil && strings.Contains(fmt.Sprintf("%#v %v", err, err), token) {
		t.Errorf("the error holds the token: %v", err)
	}
}

func TestAHostIsRegisteredOnceAndUnregisteredOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[domain.Address]struct{ node, of string }{
		web1:             {"10.0.0.1", domain.Kubernetes},
		"web1.example":   {"web1.example", domain.OpenShift},
		"2001:db8::1":    {"2001-0db8-0000-0000-0000-0000-0000-0001", domain.Kubernetes},
		"10.0.0.2":       {"10.0.0.2", domain.OpenShift},
		"web2.of.things": {"web2.of.things", domain.Kubernetes},
	} {
		server, s := serve(t)
		s.definition.Type = c.of
		m := s.manager(t)
		for range 2 {
			if err := m.Register(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if _, ok := server.Node(c.node); !ok {
				t.Errorf("host %s: there is no node %s", name, c.node)
			}
		}
		if n := len(server.Asked("POST /api/v1/nodes")); n != 1 {
			t.Errorf("host %s: the node was made %d times", name, n)
		}
		for range 2 {
			if err := m.Unregister(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if _, ok := server.Node(c.node); ok {
				t.Errorf("host %s: its node is there still", name)
			}
		}
	}
}

func TestANodeIsFoundByItsAddress(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.Page(2) // it is not on the first page
	for i := range 5 {
		server.AddNode(fmt.Sprintf("node-%d", i), fmt.Sprintf("10.0.0.%d", i))
	}
	if err := m.Register(t.Context(), web1); err != nil {
		t.Fatal(err)
	}
	if _, ok := server.Node("10.0.0.1"); ok {
		t.Error("a second node was made")
	}
	if err := m.Cordon(t.Context(), "::ffff:10.0.0.4"); err != nil || !server.Cordoned("node-4") {
		t.Errorf("node-4 is not cordoned: %v", err)
	}
	server.AddNode("twin", "10.0.0.1")
	_, err := m.Cordoned(t.Context(), web1)
	fails(t, err, "nodes node-1 and twin both have the address 10.0.0.1")
	_, err = m.Cordoned(t.Context(), "10.9.9.9")
	fails(t, err, errNoNode.Error())
}

// A kubelet may come with another name than the host was registered under.
func TestTheNodeThatAKubeletReportsIsTheOneThatCounts(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	if err := m.Register(t.Context(), web1); err != nil {
		t.Fatal(err)
	}
	if ready, why, err := m.Ready(t.Context(), web1, ""); ready || err != nil || why != "the node has not reported yet" {
		t.Errorf("nobody stands behind the node: %t, %q, %v", ready, why, err)
	}
	server.Change("10.0.0.1", func(n *corev1.Node) { // which a controller does after a minute
		n.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
		}}
	})
	if ready, why, err := m.Ready(t.Context(), web1, ""); ready || err != nil || why != "the node is not ready: NodeStatusNeverUpdated: Kubelet never posted node status." {
		t.Errorf("nobody stands behind the node still: %t, %q, %v", ready, why, err)
	}
	server.AddNode("web1.example", "10.0.0.1")
	if err := m.Cordon(t.Context(), web1); err != nil {
		t.Fatal(err)
	}
	if !server.Cordoned("web1.example") || server.Cordoned("10.0.0.1") {
		t.Error("the wrong node was cordoned")
	}
	if err := m.Unregister(t.Context(), web1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"10.0.0.1", "web1.example"} {
		if _, ok := server.Node(name); ok {
			t.Errorf("node %s is there still", name)
		}
	}
}

func TestCordoningIsRepeatable(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	server.Fail("PATCH", 2, 409) // another writer was faster
	for _, cordon := range []func(context.Context, domain.Address) error{m.Cordon, m.Cordon} {
		if err := cordon(t.Context(), web1); err != nil {
			t.Fatal(err)
		}
		if is, err := m.Cordoned(t.Context(), web1); !is || err != nil {
			t.Errorf("cordoned: %t, %v", is, err)
		}
	}
	for range 2 {
		if err := m.Uncordon(t.Context(), web1); err != nil || server.Cordoned("10.0.0.1") {
			t.Errorf("it is cordoned still: %v", err)
		}
	}
	if n := len(server.Asked("PATCH")); n != 4 {
		t.Errorf("%d patches, want 2 that were refused and 2", n)
	}
	if err := m.Uncordon(t.Context(), "10.9.9.9"); err != nil {
		t.Errorf("a node that is gone is not cordoned: %v", err)
	}
	fails(t, m.Cordon(t.Context(), "10.9.9.9"), errNoNode.Error())
}

func TestDrainingEvictsWhatIsNotTheNodesOwn(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	server.Page(2)
	for _, pod := range []kube.Pod{
		{Name: "one"},
		{Name: "scratch", EmptyDir: true, Lingers: 1},
		{Name: "guarded", Refusals: 1},
		{Name: "done", Owner: "-", Finished: true},
		{Name: "logs", Owner: "DaemonSet"},
		{Name: "static", Owner: "-", Mirror: true},
	} {
		pod.Node = "10.0.0.1"
		server.AddPod(pod)
	}
	server.AddPod(kube.Pod{Node: "another", Name: "elsewhere"})
	if err := m.Drain(t.Context(), web1, 7); err != nil {
		t.Fatal(err)
	}
	if left := server.Pods("10.0.0.1"); !slices.Equal(left, []string{"logs", "static"}) {
		t.Errorf("left are %v", left)
	}
	if left := server.Pods("another"); len(left) != 1 {
		t.Errorf("of another node, left are %v", left)
	}
	evictions := server.Asked("/eviction")
	if len(evictions) != 5 {
		t.Errorf("evictions: %v", evictions)
	}
	for _, e := range evictions {
		if !strings.Contains(e.Body, `"gracePeriodSeconds":7`) {
			t.Errorf("%s without the grace: %s", e, e.Body)
		}
	}
	if deleted := server.Asked("DELETE"); len(deleted) > 0 {
		t.Errorf("pods were deleted past their budgets: %v", deleted)
	}
	if err := m.Drain(t.Context(), web1, -1); err != nil || len(server.Asked("/eviction")) != 5 {
		t.Errorf("drained again: %v", err)
	}
}

func TestAPodThatNobodyWouldMakeAgainIsNotDeleted(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	server.AddPod(kube.Pod{Node: "10.0.0.1", Name: "pet", Owner: "-"})
	server.AddPod(kube.Pod{Node: "10.0.0.1", Name: "one"})
	fails(t, m.Drain(t.Context(), web1, -1), server.Namespace+"/pet")
	if evictions := server.Asked("/eviction"); len(evictions) > 0 {
		t.Errorf("evictions: %v", evictions)
	}
}

func TestAPodThatSomebodyHasDeletedIsWaitedFor(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	server.AddPod(kube.Pod{Node: "10.0.0.1", Name: "pet", Owner: "-", Lingers: 1})
	to, err := m.(*cluster).connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deleted := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: server.Namespace, Name: "pet"}}
	if err := to.api.policy.Evictions(server.Namespace).Evict(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	if err := m.Drain(t.Context(), web1, -1); err != nil || len(server.Pods("10.0.0.1")) > 0 {
		t.Errorf("%v, left are %v", err, server.Pods("10.0.0.1"))
	}
}

func TestOtherCallsDoNotWaitForDrains(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	s.config.Timeout = 5 * time.Second
	m := s.manager(t)
	ctx, cancel := context.WithCancel(t.Context())
	server.AddNode("10.0.0.1", "10.0.0.1")
	for n := range 400 {
		server.AddPod(kube.Pod{Node: "10.0.0.1", Name: fmt.Sprint("slow-", n), Lingers: 1000})
	}
	drained := make(chan error)
	go func() { drained <- m.Drain(ctx, web1, -1) }()
	if err := server.Await(t.Context(), func() bool { return len(server.Asked("/eviction")) > 110 }); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := m.Cordoned(t.Context(), web1); err != nil {
			t.Error(err)
		}
	}
	cancel()
	fails(t, <-drained, "pods are left")
}

func TestAPodIsNotBlamedForWhatKeptAnother(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	server.AddPod(kube.Pod{Node: "10.0.0.1", Name: "guarded", Refusals: 1})
	server.AddPod(kube.Pod{Node: "10.0.0.1", Name: "slow", Lingers: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		looks := 0
		_ = server.Await(ctx, func() bool {
			if n := len(server.Asked("GET /api/v1/pods")); len(server.Pods("10.0.0.1")) > 1 {
				looks = n
			} else if n > looks+2 {
				return true
			}
			return false
		})
		cancel()
	}()
	err := m.Drain(ctx, web1, -1)
	fails(t, err, "1 pods are left: "+server.Namespace+"/slow")
	if err != nil && strings.Contains(err.Error(), "budget") {
		t.Error(err)
	}
}

func TestDrainingEndsWithItsTime(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	server.AddPod(kube.Pod{Node: "10.0.0.1", Name: "guarded", Refusals: -1})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_ = server.Await(ctx, func() bool { return len(server.Asked("/eviction")) > 1 })
		cancel()
	}()
	err := m.Drain(ctx, web1, -1)
	fails(t, err, "1 pods are left: "+server.Namespace+"/guarded: Cannot evict pod as it would violate the pod's disruption budget.")
	server.Allow("guarded")
	server.Fail("/eviction", 1, 500)
	fails(t, m.Drain(t.Context(), web1, -1), "as it was told to")
	if err := m.Drain(t.Context(), web1, -1); err != nil || len(server.Pods("10.0.0.1")) > 0 {
		t.Errorf("the server is well again: %v", err)
	}
}

func TestANodeIsReadyWhenItSaysSoInThisBoot(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	is := func(bootID string, want bool, wantWhy string) {
		t.Helper()
		if ready, why, err := m.Ready(t.Context(), web1, bootID); ready != want || why != wantWhy || err != nil {
			t.Errorf("ready %t: %q, %v", ready, why, err)
		}
	}
	is("b2", true, "")
	server.Change("10.0.0.1", func(n *corev1.Node) { n.Status.NodeInfo.BootID = "b1" })
	is("b2", false, "the node has not reported since the host was booted")
	is("b1", true, "")
	is("", true, "")
	server.Change("10.0.0.1", func(n *corev1.Node) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: "no\x1b[31m network"}}
	})
	is("b1", false, "the node is not ready: KubeletNotReady: no [31m network")
	if ready, why, err := m.Ready(t.Context(), "10.9.9.9", ""); ready || why != errNoNode.Error() || err != nil {
		t.Errorf("an unknown host: %t, %q, %v", ready, why, err)
	}
}

func TestTheNodeIsShownAsTheServerHasIt(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("node-1", "10.0.0.1")
	status, err := m.NodeStatus(t.Context(), web1)
	var node corev1.Node
	if err != nil || json.Unmarshal(status, &node) != nil || node.Kind != "Node" || node.Name != "node-1" || len(node.Status.Conditions) == 0 {
		t.Errorf("shown is %s, %v", status, err)
	}
	server.Change("node-1", func(n *corev1.Node) {
		n.Status.Images = []corev1.ContainerImage{{Names: []string{strings.Repeat("x", maxNode)}}}
	})
	_, err = m.NodeStatus(t.Context(), web1)
	fails(t, err, "at most")
}

func TestEveryCallHasATimeLimit(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	s.config.Timeout = 50 * time.Millisecond
	server.Stall("")
	m := s.manager(t)
	for name, call := range map[string]func() error{
		"register":   func() error { return m.Register(t.Context(), web1) },
		"unregister": func() error { return m.Unregister(t.Context(), web1) },
		"status":     func() error { _, err := m.NodeStatus(t.Context(), web1); return err },
		"ready":      func() error { _, _, err := m.Ready(t.Context(), web1, ""); return err },
		"cordoned":   func() error { _, err := m.Cordoned(t.Context(), web1); return err },
		"cordon":     func() error { return m.Cordon(t.Context(), web1) },
		"drain":      func() error { return m.Drain(t.Context(), web1, -1) },
		"uncordon":   func() error { return m.Uncordon(t.Context(), web1) },
	} {
		t.Run(name, func(t *testing.T) { fails(t, call(), "it did not answer within 50ms") })
	}
	server.Heal()
	server.Stall("/pods")
	fails(t, m.Drain(t.Context(), web1, -1), "xceeded")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Cordon(gone, web1); !errors.Is(err, context.Canceled) {
		t.Errorf("of who went away: %v", err)
	}
}

func TestOnlyAServerThatProvesWhoItIsIsTold(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	s.write(t, "other.crt", kube.Start(t, token).CA())
	certificate, key := server.ClientCertificate()
	s.write(t, "client.crt", certificate)
	s.write(t, "client.key", key)
	outside := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(outside, server.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(s.dir, "link.crt")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*setting)
		want   string // "": it succeeds
	}{
		"as it is meant":        {func(*setting) {}, ""},
		"a client certificate":  {func(s *setting) { s.definition.Credential = ""; s.use("client.crt", "client.key") }, ""},
		"a certificate, no key": {func(s *setting) { s.use("client.crt", "ca.crt") }, "client certificate"},
		"nothing to show":       {func(s *setting) { s.definition.Credential = "" }, "Unauthorized"},
		"another token":         {func(s *setting) { s.config.Credentials = vault.Of("C", commands.Secret("another")) }, "Unauthorized"},
		"no token any more":     {func(s *setting) { s.config.Credentials = &vault.Vault{} }, "no such credential"},
		"another authority":     {func(s *setting) { s.options["ca_path"] = filepath.Join(s.dir, "other.crt") }, "certificate signed by unknown authority"},
		"no authority of ours":  {func(s *setting) { delete(s.options, "ca_path") }, "certificate signed by unknown authority"},
		"a file elsewhere":      {func(s *setting) { s.options["ca_path"] = outside }, "does not lie under"},
		"a link elsewhere":      {func(s *setting) { s.options["ca_path"] = filepath.Join(s.dir, "link.crt") }, "escapes"},
		"no directory":          {func(s *setting) { s.config.CertificateDir = "" }, "does not lie under"},
		"not over TLS":          {func(s *setting) { s.options["server_url"] = "http://127.0.0.1:1" }, "is not https"},
		"a denied range": {func(s *setting) {
			s.config.Control = func(_, address string, _ syscall.RawConn) error {
				return fmt.Errorf("%s is in a range that this service may not connect to", address)
			}
		}, "may not connect to"},
	} {
		t.Run(name, func(t *testing.T) {
			of := *s
			of.options = maps.Clone(s.options)
			c.change(&of)
			err := of.manager(t).Register(t.Context(), web1)
			if c.want == "" && err != nil {
				t.Errorf("it failed: %v", err)
			}
			if c.want != "" {
				fails(t, err, c.want)
			}
		})
	}
}

// out are credentials whose store gives no answer.
type out struct{ vault.Vault }

func (*out) Read(context.Context, domain.CredentialID) (commands.Secret, error) {
	return nil, fmt.Errorf("read credential C: %w", commands.ErrUnavailable)
}

func TestAnOutageOfTheStoreCanBeTold(t *testing.T) {
	t.Parallel()
	_, s := serve(t)
	s.config.Credentials = &out{}
	if err := s.manager(t).Register(t.Context(), web1); !errors.Is(err, commands.ErrUnavailable) {
		t.Errorf("it failed: %v", err)
	}
}

func (s *setting) use(certificate, key string) {
	s.options["certificate_path"], s.options["certificate_key_path"] = filepath.Join(s.dir, certificate), filepath.Join(s.dir, key)
}

func TestADefinitionKeepsItsConnection(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	server.AddNode("10.0.0.1", "10.0.0.1")
	managers := s.managers(t)
	first := s.of(t, managers).(*cluster)
	if s.of(t, managers).(*cluster) != first {
		t.Error("the same definition is another container manager")
	}
	made := func() *connection {
		t.Helper()
		if _, err := first.Cordoned(t.Context(), web1); err != nil {
			t.Fatal(err)
		}
		return first.connection
	}
	one := made()
	if made() != one {
		t.Error("each call connects anew")
	}
	s.write(t, "ca.crt", append(server.CA(), '\n')) // authorities are renewed in place
	if made() == one {
		t.Error("the former authorities are still in force")
	}
	s.definition.ManagerID = "N"
	if s.of(t, managers).(*cluster) == first || first.connection != nil {
		t.Error("a former definition is still in force")
	}
	s.definition.Type = "swarm"
	if _, err := managers.Of(s.definition); err == nil {
		t.Error("a type that nobody knows is known")
	}
}

func TestWhatIsNoAPIServerIsAnError(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	server.Fail("", -1, 302)
	_, err := s.manager(t).Cordoned(t.Context(), web1)
	fails(t, err, "")
	server.Leave()
	_, err = s.manager(t).Cordoned(t.Context(), web1)
	fails(t, err, "connection refused")
}

// README.md lists the rights that are needed.
func TestNoOtherRightsAreNeededThanThoseDocumented(t *testing.T) {
	t.Parallel()
	server, s := serve(t)
	m := s.manager(t)
	server.AddNode("node-2", "10.0.0.2")
	server.AddPod(kube.Pod{Node: "node-2", Name: "one", Lingers: 1})
	server.AddPod(kube.Pod{Node: "node-2", Name: "logs", Owner: "DaemonSet"})
	for _, host := range []domain.Address{web1, "10.0.0.2"} {
		for _, err := range []error{
			m.Register(t.Context(), host), m.Cordon(t.Context(), host), m.Drain(t.Context(), host, -1), m.Uncordon(t.Context(), host),
			m.Unregister(t.Context(), host),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	used := map[string]bool{}
	for _, r := range server.Requests() {
		path, _, _ := strings.Cut(r.Path, "?")
		parts := strings.Split(strings.Trim(path, "/"), "/")
		verb := map[string]string{"POST": "create", "PATCH": "patch", "DELETE": "delete"}[r.Method]
		resource := ""
		switch {
		case path == "/api/v1":
			continue // every account may
		case strings.HasPrefix(path, "/apis/apps/"):
			resource, verb = "daemonsets", "get"
		case strings.HasSuffix(path, "/eviction"):
			resource = "pods/eviction"
		case parts[2] == "namespaces":
			resource, verb = "pods", "get"
		default:
			if resource = parts[2]; r.Method == "GET" {
				verb = map[bool]string{true: "list", false: "get"}[len(parts) == 3]
			}
		}
		used[verb+" "+resource] = true
	}
	want := map[string]bool{}
	for _, rule := range kube.Rights {
		for _, verb := range rule.Verbs {
			want[verb+" "+rule.Resources[0]] = true
		}
	}
	if fmt.Sprint(used) != fmt.Sprint(want) {
		t.Errorf("used are %v, documented %v", used, want)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range kube.Rights {
		line := fmt.Sprintf("- {apiGroups: [%s], resources: [%s], verbs: [%s]}", cmp.Or(rule.APIGroups[0], `""`), rule.Resources[0], strings.Join(rule.Verbs, ", "))
		if !strings.Contains(string(readme), line) {
			t.Errorf("README.md does not say: %s", line)
		}
	}
}
