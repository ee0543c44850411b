// Package kube is an API server of Kubernetes for tests: over HTTP/2 and TLS it
// answers what concerns nodes, the pods on them and their eviction, asks for a token
// or a client certificate, and keeps a record of what it was asked. It can be told to
// misbehave. The objects are its own, or those of a real server that it hands every
// request on to.
package kube

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// KubeconfigVariable names the file of an administrator of a real server. A server
// that is started while it is set is in front of that one, and in place of a kubelet
// and of those who change budgets there. What it makes there goes with it: nodes, as
// many as a test has hosts, a namespace, a ClusterRole and its binding.
const KubeconfigVariable = "COMMISSAIRE_TEST_KUBECONFIG"

// Server is an API server on loopback.
type Server struct {
	Namespace string // the one that all pods are in

	t         testing.TB
	token     string
	address   string
	authority *authority
	tls       *tls.Config
	cluster   cluster

	mu       sync.Mutex
	changed  chan struct{} // closed at each change
	http     *http.Server  // nil: it is away
	served   chan struct{} // closed when http has ended
	requests []Request
	faults   []*fault
	page     int // objects in an answer at most
}

// cluster is what there is behind a server.
type cluster interface {
	ask(r *http.Request, known bool, body []byte) (status int, answer []byte)
	addNode(node *corev1.Node)
	change(name string, f func(*corev1.Node)) // nothing where there is no such node
	node(name string) *corev1.Node            // nil: there is none
	addPod(p Pod)
	allow(pod string)
	pods(node string) []string
}

// Request is one that the server was asked.
type Request struct {
	Time   time.Time
	Method string
	Path   string // with its query
	Body   string
	Status int // of the answer; 0: there was none
}

func (r Request) String() string { return r.Method + " " + r.Path }

type fault struct {
	match  string
	times  int // -1: for ever
	status int // 0: it stalls
}

// Start starts a server that takes a token, at 127.0.0.1. It ends with the test.
func Start(t testing.TB, token string) *Server {
	t.Helper()
	s := &Server{t: t, token: token, changed: make(chan struct{}), page: 500}
	if path := os.Getenv(KubeconfigVariable); path != "" {
		remote := newRemote(t, path)
		s.Namespace, s.cluster = remote.namespace, remote
	} else {
		inMemory := newInMemory()
		s.Namespace, s.cluster = inMemory.namespace, inMemory
	}
	var err error
	if s.authority, err = newAuthority(); err != nil {
		t.Fatal(err)
	}
	certificate, err := s.authority.issue("kube", x509.ExtKeyUsageServerAuth)
	if err != nil {
		t.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AddCert(s.authority.certificate)
	s.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: known, MinVersion: tls.VersionTLS12}
	s.address = "127.0.0.1:0"
	s.Return()
	t.Cleanup(s.Leave)
	return s
}

// Return makes a server that is away listen again, where it did.
func (s *Server) Return() {
	s.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", s.address)
	if err != nil {
		s.t.Fatalf("start the API server: %v", err)
	}
	server := &http.Server{Handler: s, TLSConfig: s.tls.Clone(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet}
	served := make(chan struct{})
	s.mu.Lock()
	s.address, s.http, s.served = listener.Addr().String(), server, served
	s.mu.Unlock()
	go func() {
		defer close(served)
		_ = server.ServeTLS(listener, "", "") // it ends when it is closed
	}()
}

// Leave breaks all connections and takes no more.
func (s *Server) Leave() {
	s.mu.Lock()
	server, served := s.http, s.served
	s.http = nil
	s.mu.Unlock()
	if server != nil {
		_ = server.Close() // what was open is broken, as is meant
		<-served
	}
}

// URL is where the server is.
func (s *Server) URL() string { return "https://" + s.address }

// CA is the certificate that vouches for the server, as PEM.
func (s *Server) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.authority.certificate.Raw})
}

// ClientCertificate makes a certificate that the server takes in place of a
// token, and its key, as PEM.
func (s *Server) ClientCertificate() (certificate, key []byte) {
	s.t.Helper()
	made, err := s.authority.issue("client", x509.ExtKeyUsageClientAuth)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Fail answers the next requests (times; -1: all) that contain match, as
// "PATCH /api/v1/nodes/", with a status.
func (s *Server) Fail(match string, times, status int) { s.add(fault{match, times, status}) }

// Stall does not answer requests that contain match.
func (s *Server) Stall(match string) { s.add(fault{match, -1, 0}) }

// Heal ends all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
	s.notify()
}

func (s *Server) add(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Page makes the server answer lists in pages of at most so many objects.
func (s *Server) Page(objects int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.page = objects
}

// AddNode adds a node that a kubelet reports ready.
func (s *Server) AddNode(name string, addresses ...string) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, address := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	report(node)
	s.cluster.addNode(node)
	s.happened()
}

// Report has a kubelet report a node ready.
func (s *Server) Report(name string) { s.Change(name, report) }

func report(node *corev1.Node) {
	node.Status.NodeInfo.KubeletVersion = "v1.37.2"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
}

// Change changes a node.
func (s *Server) Change(name string, f func(*corev1.Node)) {
	s.cluster.change(name, f)
	s.happened()
}

// Node is a node as it is; false where there is none.
func (s *Server) Node(name string) (corev1.Node, bool) {
	node := s.cluster.node(name)
	if node == nil {
		return corev1.Node{}, false
	}
	return *node, true
}

// Cordoned tells whether there is such a node and it is unschedulable.
func (s *Server) Cordoned(name string) bool {
	node, _ := s.Node(name)
	return node.Spec.Unschedulable
}

// Pod is how a pod is made.
type Pod struct {
	Node, Name string
	Owner      string // kind of its controller: DaemonSet; "-": it has none; "": some other
	EmptyDir   bool
	Mirror     bool
	Finished   bool
	Refusals   int // evictions that its disruption budget refuses before one succeeds; -1: all
	Lingers    int // looks that it takes until it is gone after its eviction
}

// object is the pod as an API server has it; the owner may be none.
func (p Pod) object(namespace string, owner metav1.OwnerReference) *corev1.Pod {
	made := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name, Labels: map[string]string{"pod": p.Name}},
		Spec:       corev1.PodSpec{NodeName: p.Node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	if owner.Kind != "" {
		yes := true
		owner.Controller = &yes
		made.OwnerReferences = []metav1.OwnerReference{owner}
	}
	if p.EmptyDir {
		made.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	if p.Mirror {
		made.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "1"}
	}
	if p.Finished {
		made.Status = corev1.PodStatus{Phase: corev1.PodSucceeded}
	}
	return made
}

// AddPod puts a pod on a node.
func (s *Server) AddPod(p Pod) {
	s.cluster.addPod(p)
	s.happened()
}

// Allow has the disruption budget let a pod go.
func (s *Server) Allow(name string) { s.cluster.allow(name) }

// Pods are the names of the pods on a node.
func (s *Server) Pods(node string) []string {
	names := s.cluster.pods(node)
	slices.Sort(names)
	return names
}

// Requests are those that were answered, in the order of their answers, and those
// that stalled.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Asked are the requests that contain match.
func (s *Server) Asked(match string) []Request {
	return slices.DeleteFunc(s.Requests(), func(r Request) bool { return !strings.Contains(r.String(), match) })
}

// Await waits until a condition holds, looking whenever something happened.
func (s *Server) Await(ctx context.Context, condition func() bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(errors.New("what was waited for did not happen"), context.Cause(ctx))
		}
	}
}

func (s *Server) happened() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify()
}

// notify tells those that wait; the lock is held.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// quiet takes what net/http says of connections that clients give up.
var quiet = log.New(io.Discard, "", 0)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	asked := Request{Time: time.Now(), Method: r.Method, Path: r.URL.RequestURI(), Body: string(body)}
	if s.stalls(asked) {
		s.record(asked)
		<-r.Context().Done()
		return
	}
	var answer []byte
	if asked.Status = s.fails(asked); asked.Status != 0 {
		answer = refusal(apierrors.NewGenericServerResponse(asked.Status, r.Method, nodes, "", "as it was told to", 0, true))
	} else {
		s.paged(r)
		asked.Status, answer = s.cluster.ask(r, s.known(r), body)
	}
	s.record(asked)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(asked.Status)
	_, _ = w.Write(answer) // whoever asked may have gone
}

func (s *Server) record(asked Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, asked)
	s.notify()
}

func (s *Server) stalls(asked Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.faults, func(f *fault) bool { return f.status == 0 && strings.Contains(asked.String(), f.match) })
}

// fails is the status that a request fails with; 0: it does not.
func (s *Server) fails(asked Request) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if f.times != 0 && strings.Contains(asked.String(), f.match) {
			f.times = max(f.times-1, -1)
			return f.status
		}
	}
	return 0
}

// paged limits a list that is asked for.
func (s *Server) paged(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	query := r.URL.Query()
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit > s.page {
		query.Set("limit", strconv.Itoa(s.page))
		r.URL.RawQuery = query.Encode()
	}
}

// known tells whether who asks may.
func (s *Server) known(r *http.Request) bool {
	given, isToken := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return isToken && subtle.ConstantTimeCompare([]byte(given), []byte(s.token)) == 1 || len(r.TLS.VerifiedChains) > 0
}
