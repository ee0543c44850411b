// Package kube is an API server of Kubernetes for tests: over HTTP/2 and TLS it
// speaks the part of the API that concerns nodes, the pods on them and their
// eviction, asks for a token or a client certificate, and keeps a record of what
// it was asked. It can be told to misbehave.
package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Server is an API server on loopback.
type Server struct {
	token     string
	address   string
	authority *authority
	tls       *tls.Config

	mu       sync.Mutex
	changed  chan struct{} // closed at each change
	http     *http.Server  // nil: it is away
	served   chan struct{} // closed when http has ended
	nodes    map[string]*corev1.Node
	pods     map[string]*pod // by namespace/name
	sets     map[string]*appsv1.DaemonSet
	requests []Request
	faults   []*fault
	uids     int
	page     int // objects in an answer at most
}

type pod struct {
	corev1.Pod
	refusals int // evictions that its disruption budget still refuses
	lingers  int // looks at it that it survives after its eviction
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

// Start starts a server that takes a token, at 127.0.0.1.
func Start(token string) (*Server, error) {
	s := &Server{
		token: token, changed: make(chan struct{}), page: 1 << 20,
		nodes: map[string]*corev1.Node{}, pods: map[string]*pod{}, sets: map[string]*appsv1.DaemonSet{},
	}
	var err error
	if s.authority, err = newAuthority(); err != nil {
		return nil, err
	}
	certificate, err := s.authority.issue("kube", x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	known := x509.NewCertPool()
	known.AddCert(s.authority.certificate)
	s.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: known, MinVersion: tls.VersionTLS12}
	s.address = "127.0.0.1:0"
	return s, s.Return()
}

// Return makes a server that is away listen again, where it did.
func (s *Server) Return() error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", s.address)
	if err != nil {
		return fmt.Errorf("start the API server: %w", err)
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
	return nil
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

// Close ends the server.
func (s *Server) Close() { s.Leave() }

// URL is where the server is.
func (s *Server) URL() string { return "https://" + s.address }

// CA is the certificate that vouches for the server, as PEM.
func (s *Server) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.authority.certificate.Raw})
}

// ClientCertificate makes a certificate that the server takes in place of a
// token, and its key, as PEM.
func (s *Server) ClientCertificate() (certificate, key []byte, err error) {
	made, err := s.authority.issue("client", x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[name] = s.made(node)
	s.notify()
}

// Report has a kubelet report a node ready.
func (s *Server) Report(name string) { s.Change(name, report) }

func report(node *corev1.Node) {
	node.Status.NodeInfo.KubeletVersion = "v1.37.2"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
}

// Change changes a node.
func (s *Server) Change(name string, f func(*corev1.Node)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if node, ok := s.nodes[name]; ok {
		f(node)
		s.notify()
	}
}

// Node is a node as it is; false where there is none.
func (s *Server) Node(name string) (corev1.Node, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node, ok := s.nodes[name]
	if !ok {
		return corev1.Node{}, false
	}
	return *node.DeepCopy(), true
}

// Cordoned tells whether there is such a node and it is unschedulable.
func (s *Server) Cordoned(name string) bool {
	node, _ := s.Node(name)
	return node.Spec.Unschedulable
}

// DeleteNode removes a node behind everybody's back.
func (s *Server) DeleteNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, name)
	s.notify()
}

// Pod is how a pod is made.
type Pod struct {
	Node, Name string
	Owner      string // kind of its controller: ReplicaSet unless it is said; "-": it has none
	EmptyDir   bool
	Mirror     bool
	Finished   bool
	Refusals   int // evictions that its disruption budget refuses before one succeeds; -1: all
	Lingers    int // looks that it takes until it is gone after its eviction
}

// Namespace is the one that all pods are in.
const Namespace = "work"

// AddPod puts a pod on a node.
func (s *Server) AddPod(p Pod) {
	made := &pod{refusals: p.Refusals, lingers: p.Lingers, Pod: corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: p.Name},
		Spec:       corev1.PodSpec{NodeName: p.Node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}}
	owner := p.Owner
	if owner == "" {
		owner = "ReplicaSet"
	}
	if owner != "-" {
		yes := true
		made.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: owner, Name: "of-" + p.Name, UID: "1", Controller: &yes}}
	}
	if p.EmptyDir {
		made.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	if p.Mirror {
		made.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "1"}
	}
	if p.Finished {
		made.Status.Phase = corev1.PodSucceeded
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uids++
	made.UID = types.UID(fmt.Sprint("pod-", s.uids))
	s.pods[Namespace+"/"+p.Name] = made
	if owner == "DaemonSet" {
		s.sets[Namespace+"/of-"+p.Name] = &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "of-" + p.Name}}
	}
	s.notify()
}

// Allow has the disruption budget let a pod go.
func (s *Server) Allow(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pods[Namespace+"/"+name]; ok {
		p.refusals = 0
	}
}

// Pods are the names of the pods on a node.
func (s *Server) Pods(node string) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pods {
		if p.Spec.NodeName == node {
			names = append(names, p.Name)
		}
	}
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

// notify tells those that wait; the lock is held.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// made gives an object what the server gives each; the lock is held.
func (s *Server) made(node *corev1.Node) *corev1.Node {
	s.uids++
	node.UID = types.UID(fmt.Sprint("node-", s.uids))
	node.ResourceVersion = fmt.Sprint(s.uids)
	node.CreationTimestamp = metav1.Now()
	return node
}
