package kube

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

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
	s.mu.Lock()
	answer, err := s.answer(r, body, asked)
	s.mu.Unlock()
	asked.Status = http.StatusOK
	if err != nil {
		status, known := errors.AsType[*apierrors.StatusError](err)
		if !known {
			status = apierrors.NewInternalError(err)
		}
		said := status.Status()
		said.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		answer, asked.Status = said, int(said.Code)
	} else if r.Method == http.MethodPost {
		asked.Status = http.StatusCreated
	}
	s.record(asked)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(asked.Status)
	_ = json.NewEncoder(w).Encode(answer) // whoever asked may have gone
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

// known tells whether who asks may; the lock is held.
func (s *Server) known(r *http.Request) bool {
	given, isToken := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return isToken && subtle.ConstantTimeCompare([]byte(given), []byte(s.token)) == 1 || len(r.TLS.VerifiedChains) > 0
}

var nodes, pods = schema.GroupResource{Resource: "nodes"}, schema.GroupResource{Resource: "pods"}

// answer does what is asked for; the lock is held.
func (s *Server) answer(r *http.Request, body []byte, asked Request) (any, error) {
	if !s.known(r) {
		return nil, apierrors.NewUnauthorized("Unauthorized")
	}
	for _, f := range s.faults {
		if f.times != 0 && strings.Contains(asked.String(), f.match) {
			f.times = max(f.times-1, -1)
			return nil, apierrors.NewGenericServerResponse(f.status, r.Method, nodes, "", "as it was told to", 0, true)
		}
	}
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	on := func(method string, pattern ...string) bool {
		if r.Method != method || len(path) != len(pattern) {
			return false
		}
		for i := range pattern {
			if pattern[i] != "*" && pattern[i] != path[i] {
				return false
			}
		}
		return true
	}
	switch {
	case on("GET", "api", "v1"):
		return metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: "v1",
			APIResources: []metav1.APIResource{
				{Name: "nodes", Kind: "Node"},
				{Name: "pods", Namespaced: true, Kind: "Pod"},
				{Name: "pods/eviction", Namespaced: true, Group: "policy", Version: "v1", Kind: "Eviction"},
			},
		}, nil
	case on("GET", "api", "v1", "nodes"):
		return s.listNodes(r)
	case on("POST", "api", "v1", "nodes"):
		return s.createNode(body)
	case on("GET", "api", "v1", "nodes", "*"):
		return s.node(path[3])
	case on("PATCH", "api", "v1", "nodes", "*"):
		return s.patchNode(path[3], r.Header.Get("Content-Type"), body)
	case on("DELETE", "api", "v1", "nodes", "*"):
		return s.deleteNode(path[3], body)
	case on("GET", "api", "v1", "pods"):
		return s.listPods(r)
	case on("GET", "api", "v1", "namespaces", "*", "pods", "*"):
		return s.pod(path[3] + "/" + path[5])
	case on("POST", "api", "v1", "namespaces", "*", "pods", "*", "eviction"):
		return s.evict(path[3]+"/"+path[5], body)
	case on("GET", "apis", "apps", "v1", "namespaces", "*", "daemonsets", "*"):
		if set, ok := s.sets[path[4]+"/"+path[6]]; ok {
			return set, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "daemonsets"}, path[6])
	}
	return nil, apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "", "no such path", 0, true)
}

// pageOf is the part of a list that is asked for, and what continues it.
func pageOf(r *http.Request, page int, names []string) (part []string, rest string) {
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	if limit == 0 || limit > page {
		limit = page
	}
	from = min(from, len(names))
	until := min(from+limit, len(names))
	if until < len(names) {
		rest = fmt.Sprint(until)
	}
	return names[from:until], rest
}

func typed(node *corev1.Node) *corev1.Node {
	of := node.DeepCopy()
	of.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	return of
}

func (s *Server) listNodes(r *http.Request) (any, error) {
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}}
	names, rest := pageOf(r, s.page, slices.Sorted(maps.Keys(s.nodes)))
	list.Continue = rest
	for _, name := range names {
		list.Items = append(list.Items, *s.nodes[name].DeepCopy())
	}
	return list, nil
}

func (s *Server) createNode(body []byte) (any, error) {
	var node corev1.Node
	if err := json.Unmarshal(body, &node); err != nil || node.Name == "" || strings.ContainsAny(node.Name, ":_/") {
		return nil, apierrors.NewBadRequest("no node")
	}
	if _, there := s.nodes[node.Name]; there {
		return nil, apierrors.NewAlreadyExists(nodes, node.Name)
	}
	s.nodes[node.Name] = s.made(&node)
	return typed(&node), nil
}

func (s *Server) node(name string) (*corev1.Node, error) {
	node, ok := s.nodes[name]
	if !ok {
		return nil, apierrors.NewNotFound(nodes, name)
	}
	return typed(node), nil
}

func (s *Server) patchNode(name, kind string, body []byte) (any, error) {
	node, err := s.node(name)
	if err != nil {
		return nil, err
	}
	if types.PatchType(kind) != types.StrategicMergePatchType {
		return nil, apierrors.NewBadRequest("no strategic merge patch")
	}
	before, err := json.Marshal(node)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, body, corev1.Node{})
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	var patched corev1.Node
	if err := json.Unmarshal(after, &patched); err != nil {
		return nil, err
	}
	s.uids++
	patched.ResourceVersion = fmt.Sprint(s.uids)
	s.nodes[name] = &patched
	return typed(&patched), nil
}

func (s *Server) deleteNode(name string, body []byte) (any, error) {
	node, err := s.node(name)
	if err != nil {
		return nil, err
	}
	var options metav1.DeleteOptions
	if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, &options); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if p := options.Preconditions; p != nil && p.UID != nil && *p.UID != node.UID {
		return nil, apierrors.NewConflict(nodes, name, fmt.Errorf("the UID is another"))
	}
	delete(s.nodes, name)
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}, nil
}

func (s *Server) listPods(r *http.Request) (any, error) {
	selector, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	var names []string
	for name, p := range s.pods {
		if selector.Matches(fields.Set{"spec.nodeName": p.Spec.NodeName}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	names, list.Continue = pageOf(r, s.page, names)
	for _, name := range names {
		list.Items = append(list.Items, *s.pods[name].DeepCopy())
	}
	return list, nil
}

func (s *Server) pod(name string) (any, error) {
	p, ok := s.pods[name]
	if !ok {
		return nil, apierrors.NewNotFound(pods, name)
	}
	if p.DeletionTimestamp != nil {
		if p.lingers--; p.lingers < 0 {
			delete(s.pods, name)
			return nil, apierrors.NewNotFound(pods, name)
		}
	}
	of := p.DeepCopy()
	of.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	return of, nil
}

func (s *Server) evict(name string, body []byte) (any, error) {
	var eviction policyv1.Eviction
	if err := json.Unmarshal(body, &eviction); err != nil || eviction.APIVersion != "policy/v1" {
		return nil, apierrors.NewBadRequest("no eviction")
	}
	p, ok := s.pods[name]
	if !ok {
		return nil, apierrors.NewNotFound(pods, name)
	}
	if p.refusals != 0 {
		p.refusals = max(p.refusals-1, -1)
		return nil, apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	}
	now := metav1.Now()
	if p.DeletionTimestamp = &now; p.lingers == 0 {
		delete(s.pods, name)
	}
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}, nil
}
