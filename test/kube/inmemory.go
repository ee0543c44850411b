package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// inMemory is a cluster in memory.
type inMemory struct {
	namespace string

	mu      sync.Mutex
	nodes   map[string]*corev1.Node
	objects map[string]*pod // by namespace/name
	sets    map[string]*appsv1.DaemonSet
	uids    int
}

type pod struct {
	corev1.Pod
	refusals int // evictions that its disruption budget still refuses
	lingers  int // looks at it that it survives after its eviction
}

func newInMemory() *inMemory {
	return &inMemory{namespace: "work", nodes: map[string]*corev1.Node{}, objects: map[string]*pod{}, sets: map[string]*appsv1.DaemonSet{}}
}

func (c *inMemory) addNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[node.Name] = c.made(node)
}

func (c *inMemory) change(name string, f func(*corev1.Node)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if node, ok := c.nodes[name]; ok {
		f(node)
	}
}

func (c *inMemory) node(name string) *corev1.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name].DeepCopy()
}

func (c *inMemory) addPod(p Pod) {
	owner := metav1.OwnerReference{APIVersion: "apps/v1", Kind: p.Owner, Name: "of-" + p.Name, UID: "1"}
	switch p.Owner {
	case "":
		owner.Kind = "ReplicaSet"
	case "-":
		owner = metav1.OwnerReference{}
	}
	made := &pod{refusals: p.Refusals, lingers: p.Lingers, Pod: *p.object(c.namespace, owner)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uids++
	made.UID = types.UID(fmt.Sprint("pod-", c.uids))
	c.objects[c.namespace+"/"+p.Name] = made
	if p.Owner == "DaemonSet" {
		c.sets[c.namespace+"/"+owner.Name] = &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: owner.Name}}
	}
}

func (c *inMemory) allow(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.objects[c.namespace+"/"+name]; ok {
		p.refusals = 0
	}
}

func (c *inMemory) pods(node string) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.objects {
		if p.Spec.NodeName == node {
			names = append(names, p.Name)
		}
	}
	return names
}

// made gives an object what the server gives each; the lock is held.
func (c *inMemory) made(node *corev1.Node) *corev1.Node {
	c.uids++
	node.UID = types.UID(fmt.Sprint("node-", c.uids))
	node.ResourceVersion = fmt.Sprint(c.uids)
	node.CreationTimestamp = metav1.Now()
	return node
}

var nodes, pods = schema.GroupResource{Resource: "nodes"}, schema.GroupResource{Resource: "pods"}

func (c *inMemory) ask(r *http.Request, known bool, body []byte) (int, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var answer any
	err := error(apierrors.NewUnauthorized("Unauthorized"))
	if known {
		answer, err = c.answer(r, body)
	}
	text := []byte(nil)
	if err == nil {
		text, err = json.Marshal(answer)
	}
	if err != nil {
		status, ok := errors.AsType[*apierrors.StatusError](err)
		if !ok {
			status = apierrors.NewInternalError(err)
		}
		return int(status.Status().Code), refusal(status)
	}
	if r.Method == http.MethodPost {
		return http.StatusCreated, text
	}
	return http.StatusOK, text
}

// refusal is an error as a server sends it.
func refusal(err *apierrors.StatusError) []byte {
	said := err.Status()
	said.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	text, _ := json.Marshal(said) // it is of plain fields
	return text
}

// answer does what is asked for; the lock is held.
func (c *inMemory) answer(r *http.Request, body []byte) (any, error) {
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
		return c.listNodes(r)
	case on("POST", "api", "v1", "nodes"):
		return c.createNode(body)
	case on("GET", "api", "v1", "nodes", "*"):
		return c.getNode(path[3])
	case on("PATCH", "api", "v1", "nodes", "*"):
		return c.patchNode(path[3], r.Header.Get("Content-Type"), body)
	case on("DELETE", "api", "v1", "nodes", "*"):
		return c.deleteNode(path[3], body)
	case on("GET", "api", "v1", "pods"):
		return c.listPods(r)
	case on("GET", "api", "v1", "namespaces", "*", "pods", "*"):
		return c.pod(path[3] + "/" + path[5])
	case on("POST", "api", "v1", "namespaces", "*", "pods", "*", "eviction"):
		return c.evict(path[3]+"/"+path[5], body)
	case on("GET", "apis", "apps", "v1", "namespaces", "*", "daemonsets", "*"):
		if set, ok := c.sets[path[4]+"/"+path[6]]; ok {
			return set, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "daemonsets"}, path[6])
	}
	return nil, apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "", "no such path", 0, true)
}

// pageOf is the part of a list that is asked for, and what continues it.
func pageOf(r *http.Request, names []string) (part []string, rest string) {
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	if limit == 0 {
		limit = len(names)
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

func (c *inMemory) listNodes(r *http.Request) (any, error) {
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}}
	names, rest := pageOf(r, slices.Sorted(maps.Keys(c.nodes)))
	list.Continue = rest
	for _, name := range names {
		list.Items = append(list.Items, *c.nodes[name].DeepCopy())
	}
	return list, nil
}

func (c *inMemory) createNode(body []byte) (any, error) {
	var node corev1.Node
	if err := json.Unmarshal(body, &node); err != nil || node.Name == "" || strings.ContainsAny(node.Name, ":_/") {
		return nil, apierrors.NewBadRequest("no node")
	}
	if _, there := c.nodes[node.Name]; there {
		return nil, apierrors.NewAlreadyExists(nodes, node.Name)
	}
	c.nodes[node.Name] = c.made(&node)
	return typed(&node), nil
}

func (c *inMemory) getNode(name string) (*corev1.Node, error) {
	node, ok := c.nodes[name]
	if !ok {
		return nil, apierrors.NewNotFound(nodes, name)
	}
	return typed(node), nil
}

func (c *inMemory) patchNode(name, kind string, body []byte) (any, error) {
	node, err := c.getNode(name)
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
	c.uids++
	patched.ResourceVersion = fmt.Sprint(c.uids)
	c.nodes[name] = &patched
	return typed(&patched), nil
}

func (c *inMemory) deleteNode(name string, body []byte) (any, error) {
	node, err := c.getNode(name)
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
	delete(c.nodes, name)
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}, nil
}

func (c *inMemory) listPods(r *http.Request) (any, error) {
	selector, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	first := r.URL.Query().Get("continue") == ""
	var names []string
	for name, p := range c.objects {
		if first && c.ends(name) {
			continue
		}
		if selector.Matches(fields.Set{"spec.nodeName": p.Spec.NodeName}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	names, list.Continue = pageOf(r, names)
	for _, name := range names {
		list.Items = append(list.Items, *c.objects[name].DeepCopy())
	}
	return list, nil
}

func (c *inMemory) pod(name string) (any, error) {
	p, ok := c.objects[name]
	if !ok || c.ends(name) {
		return nil, apierrors.NewNotFound(pods, name)
	}
	of := p.DeepCopy()
	of.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	return of, nil
}

// ends tells whether a pod is gone at this look at it.
func (c *inMemory) ends(name string) bool {
	p := c.objects[name]
	if p.DeletionTimestamp == nil {
		return false
	}
	if p.lingers--; p.lingers >= 0 {
		return false
	}
	delete(c.objects, name)
	return true
}

func (c *inMemory) evict(name string, body []byte) (any, error) {
	var eviction policyv1.Eviction
	if err := json.Unmarshal(body, &eviction); err != nil || eviction.APIVersion != "policy/v1" {
		return nil, apierrors.NewBadRequest("no eviction")
	}
	p, ok := c.objects[name]
	if !ok {
		return nil, apierrors.NewNotFound(pods, name)
	}
	if p.refusals != 0 {
		p.refusals = max(p.refusals-1, -1)
		return nil, apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	}
	now := metav1.Now()
	if p.DeletionTimestamp = &now; p.lingers == 0 {
		delete(c.objects, name)
	}
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}, nil
}
