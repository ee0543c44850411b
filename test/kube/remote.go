package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
)

// Rights are those that the README of adapters/containermanager asks for, and all that who asks a real server has.
var Rights = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "create", "patch", "delete"}},
	{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
	{APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}},
	{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, Verbs: []string{"get"}},
}

// remote is the cluster of a real server. Requests are made there as a service account;
// nodes and pods are made, and their kubelets played, as an administrator.
type remote struct {
	t           testing.TB
	namespace   string
	api         kubernetes.Interface
	url         string
	account, no http.RoundTripper // as the service account, and as nobody

	mu    sync.Mutex
	made  map[string]bool // nodes
	asked map[string]*asked
}

// asked is what is known of a pod beyond what the server has.
type asked struct {
	refusals, lingers int
	evicted           bool
}

// newRemote makes what it needs on the server of a kubeconfig. It goes with the test.
func newRemote(t testing.TB, kubeconfig string) *remote {
	t.Helper()
	c := &remote{t: t, made: map[string]bool{}, asked: map[string]*asked{}}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	c.check("read "+kubeconfig, err)
	config.QPS = -1 // as fast as it goes
	c.api, err = kubernetes.NewForConfig(config)
	c.check("use "+kubeconfig, err)
	c.url = strings.TrimSuffix(config.Host, "/")
	ctx, options := t.Context(), metav1.CreateOptions{}
	space, err := c.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "commissaire-test-"}}, options)
	c.check("make a namespace", err)
	c.namespace = space.Name
	t.Cleanup(c.remove)
	name := metav1.ObjectMeta{Name: c.namespace}
	_, err = c.api.CoreV1().ServiceAccounts(c.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: name}, options)
	c.check("make an account", err)
	_, err = c.api.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: name, Rules: Rights}, options)
	c.check("make a role", err)
	_, err = c.api.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: name, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: c.namespace, Name: name.Name}},
	}, options)
	c.check("bind the role", err)
	token, err := c.api.CoreV1().ServiceAccounts(c.namespace).CreateToken(ctx, name.Name, &authenticationv1.TokenRequest{}, options)
	c.check("make a token", err)
	c.account, c.no = c.as(config, token.Status.Token), c.as(config, "of-nobody")
	return c
}

func (c *remote) as(config *rest.Config, token string) http.RoundTripper {
	c.t.Helper()
	of := rest.AnonymousClientConfig(config)
	of.BearerToken = token
	transport, err := rest.TransportFor(of)
	c.check("use a token", err)
	return transport
}

// check fails the test where something did not work that it has to build on.
func (c *remote) check(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

// remove removes all that was made, also by who asked.
func (c *remote) remove() {
	ctx := context.WithoutCancel(c.t.Context())
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.api.CoreV1().Pods(c.namespace).DeleteCollection(ctx, *metav1.NewDeleteOptions(0), metav1.ListOptions{})
	for name := range c.made {
		err = errors.Join(err, gone(c.api.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})))
	}
	err = errors.Join(err,
		gone(c.api.RbacV1().ClusterRoleBindings().Delete(ctx, c.namespace, metav1.DeleteOptions{})),
		gone(c.api.RbacV1().ClusterRoles().Delete(ctx, c.namespace, metav1.DeleteOptions{})),
		c.api.CoreV1().Namespaces().Delete(ctx, c.namespace, metav1.DeleteOptions{}), // and all that is in it
	)
	if err != nil {
		c.t.Errorf("remove what the test made: %v", err)
	}
}

// gone is the error of a removal, where what was to be removed is there still.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *remote) addNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.api.CoreV1().Nodes().Create(c.t.Context(), node, metav1.CreateOptions{})
	c.check("make a node", err)
	c.made[node.Name] = true
}

func (c *remote) change(name string, change func(*corev1.Node)) {
	c.check("change node "+name, gone(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := c.api.CoreV1().Nodes().Get(c.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(node)
		status := node.Status
		if node, err = c.api.CoreV1().Nodes().Update(c.t.Context(), node, metav1.UpdateOptions{}); err != nil {
			return err
		}
		node.Status = status
		_, err = c.api.CoreV1().Nodes().UpdateStatus(c.t.Context(), node, metav1.UpdateOptions{})
		return err
	})))
}

func (c *remote) node(name string) *corev1.Node {
	node, err := c.api.CoreV1().Nodes().Get(c.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	c.check("look at node "+name, err)
	return node
}

func (c *remote) addPod(p Pod) {
	ctx := c.t.Context()
	made := p.object(c.namespace, c.owner(p))
	if !p.Mirror { // which may have none
		made.Spec.ServiceAccountName = c.namespace
	}
	status := made.Status
	made, err := c.api.CoreV1().Pods(c.namespace).Create(ctx, made, metav1.CreateOptions{})
	c.check("make a pod", err)
	made.Status = status
	_, err = c.api.CoreV1().Pods(c.namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
	c.check("start a pod", err)
	c.mu.Lock()
	c.asked[p.Name] = &asked{refusals: p.Refusals, lingers: p.Lingers}
	c.mu.Unlock()
	if p.Refusals == 0 {
		return
	}
	budgets, one := c.api.PolicyV1().PodDisruptionBudgets(c.namespace), intstr.FromInt32(1)
	_, err = budgets.Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: made.Labels}},
	}, metav1.CreateOptions{})
	c.check("make a budget", err)
	c.check("have a budget counted", wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		budget, err := budgets.Get(ctx, p.Name, metav1.GetOptions{})
		return err == nil && budget.Status.ObservedGeneration == budget.Generation && budget.Status.CurrentHealthy == 1, err
	}))
}

// owner makes the owner of a pod. One that makes no pods of its own does as well as a
// ReplicaSet.
func (c *remote) owner(p Pod) metav1.OwnerReference {
	c.t.Helper()
	meta := metav1.ObjectMeta{Name: "of-" + p.Name}
	switch p.Owner {
	case "-":
		return metav1.OwnerReference{}
	case "":
		made, err := c.api.CoreV1().ConfigMaps(c.namespace).Create(c.t.Context(), &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{})
		c.check("make an owner", err)
		return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: made.Name, UID: made.UID}
	}
	c.change(p.Node, func(node *corev1.Node) { // so that the daemon set makes no pod of its own, and leaves this one
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "commissaire-test", Effect: corev1.TaintEffectNoSchedule})
	})
	labels := map[string]string{"pod": p.Name}
	made, err := c.api.AppsV1().DaemonSets(c.namespace).Create(c.t.Context(), &appsv1.DaemonSet{
		ObjectMeta: meta,
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: labels},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}, metav1.CreateOptions{})
	c.check("make a daemon set", err)
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "DaemonSet", Name: made.Name, UID: made.UID}
}

func (c *remote) allow(pod string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[pod].refusals = 0
	c.drop(pod)
}

func (c *remote) pods(node string) (names []string) {
	list, err := c.api.CoreV1().Pods(c.namespace).List(c.t.Context(), metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(),
	})
	c.check("list the pods on "+node, err)
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	return names
}

func (c *remote) ask(r *http.Request, known bool, body []byte) (int, []byte) {
	as := c.no
	if known {
		as = c.account
	}
	name, eviction := c.pod(r.URL.Path)
	switch {
	case r.Method != http.MethodGet:
	case name != "":
		c.looked(name)
	case r.URL.Path == "/api/v1/pods" && r.URL.Query().Get("continue") == "":
		c.looked(c.names()...)
	}
	status, answer, err := c.hand(as, r, body)
	if err != nil {
		return http.StatusBadGateway, refusal(apierrors.NewGenericServerResponse(http.StatusBadGateway, r.Method, nodes, "", err.Error(), 0, true))
	}
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/api/v1/nodes" && status == http.StatusCreated:
		c.registered(answer)
	case eviction && status == http.StatusCreated:
		c.evicted(name)
	case eviction && status == http.StatusTooManyRequests:
		c.refused(name)
	}
	return status, answer
}

// hand hands a request on.
func (c *remote) hand(as http.RoundTripper, r *http.Request, body []byte) (status int, answer []byte, err error) {
	on, err := http.NewRequestWithContext(r.Context(), r.Method, c.url+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for _, header := range []string{"Content-Type", "Accept"} {
		if value := r.Header.Get(header); value != "" {
			on.Header.Set(header, value)
		}
	}
	response, err := as.RoundTrip(on)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// pod is the name of the pod that a path is of; "": it is of none.
func (c *remote) pod(path string) (name string, eviction bool) {
	rest, ok := strings.CutPrefix(path, "/api/v1/namespaces/"+c.namespace+"/pods/")
	if !ok {
		return "", false
	}
	name, eviction = strings.CutSuffix(rest, "/eviction")
	return name, eviction
}

// registered remembers a node that who asked has made.
func (c *remote) registered(answer []byte) {
	var node corev1.Node
	if err := json.Unmarshal(answer, &node); err != nil {
		c.t.Errorf("a node was made that cannot be read: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[node.Name] = true
}

// evicted has a pod end as its kubelet would, or linger.
func (c *remote) evicted(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.asked[name]; p.lingers == 0 {
		c.end(name)
	} else {
		p.evicted = true
	}
}

// looked has pods that linger end when they were looked at often enough.
func (c *remote) looked(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if p := c.asked[name]; p != nil && p.evicted {
			if p.lingers--; p.lingers < 0 {
				c.end(name)
			}
		}
	}
}

// names are those of the pods that were made.
func (c *remote) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.asked))
}

// refused has a budget let go after as many refusals as it is good for.
func (c *remote) refused(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.asked[name]; p.refusals > 0 {
		if p.refusals--; p.refusals == 0 {
			c.drop(name)
		}
	}
}

// end removes a pod, as its kubelet does once it has ended.
func (c *remote) end(name string) {
	err := c.api.CoreV1().Pods(c.namespace).Delete(context.WithoutCancel(c.t.Context()), name, *metav1.NewDeleteOptions(0))
	if gone(err) != nil {
		c.t.Errorf("end pod %s: %v", name, err)
	}
}

// drop removes the budget of a pod.
func (c *remote) drop(name string) {
	err := c.api.PolicyV1().PodDisruptionBudgets(c.namespace).Delete(context.WithoutCancel(c.t.Context()), name, metav1.DeleteOptions{})
	if gone(err) != nil {
		c.t.Errorf("drop the budget of pod %s: %v", name, err)
	}
}
