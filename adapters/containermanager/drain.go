package containermanager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"commissaire/commands/sleep"
	"commissaire/domain"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

const (
	betweenLooks    = time.Second // at the pods of a node that is drained
	evictionsAtOnce = 10
)

// Drain evicts the node's pods and waits until they are gone and no others have
// come, until ctx ends.
//
//   - Evictions only, so that disruption budgets hold: a pod that one keeps is
//     asked for again until it goes. A server without evictions is refused.
//   - Pods of daemon sets and static pods stay: they belong to the node.
//   - What a pod has in an emptyDir is deleted with it; that is what one is for.
//   - A pod that no controller would make again elsewhere is not deleted: the
//     node is not drained, and the error names the pod. One that somebody has
//     deleted is waited for.
//   - grace is how many seconds pods have to end; less than 0: as each of them says.
func (c *cluster) Drain(ctx context.Context, host domain.Address, grace int) error {
	d := &drain{sets: map[string]bool{}}
	if grace >= 0 {
		d.options.GracePeriodSeconds = new(int64(grace))
	}
	if err := c.call(ctx, func(limited context.Context, api *server) error {
		node, err := find(limited, api, host)
		if err != nil {
			return err
		}
		to, err := c.connect(limited)
		if err == nil {
			d.api, d.node = to.drains, node.Name
		}
		return err
	}); err != nil {
		return err
	}
	switch err := d.run(ctx); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return d.unfinished(ctx.Err())
	default:
		return said(err)
	}
}

// drain is the draining of one node.
type drain struct {
	api     *server
	node    string
	options metav1.DeleteOptions
	sets    map[string]bool // daemon sets that were looked for; false: there is none

	mu   sync.Mutex        // for left, while pods are evicted side by side
	left map[string]string // pods that were there at the last look; why each was kept, if it was
}

func (d *drain) run(ctx context.Context) error {
	for able := false; ; able = true {
		pods, err := d.pods(ctx)
		if err != nil || len(pods) == 0 {
			return err
		}
		if !able {
			if err := d.canEvict(ctx); err != nil {
				return err
			}
		}
		if err := d.evict(ctx, pods); err != nil {
			return err
		}
		if err := sleep.For(ctx, betweenLooks); err != nil {
			return err
		}
	}
}

// canEvict refuses servers that are older than evictions of policy/v1 (Kubernetes 1.22).
func (d *drain) canEvict(ctx context.Context) error {
	var known metav1.APIResourceList
	if err := d.api.core.RESTClient().Get().AbsPath("/api/v1").Do(ctx).Into(&known); err != nil {
		return err
	}
	if !slices.ContainsFunc(known.APIResources, func(r metav1.APIResource) bool {
		return r.Name == "pods/eviction" && r.Kind == "Eviction" && r.Group == "policy" && r.Version == "v1"
	}) {
		return errors.New("it has no evictions of policy/v1, and pods are not deleted without")
	}
	return nil
}

// pods are those that have to leave the node.
func (d *drain) pods(ctx context.Context) (pods []*corev1.Pod, err error) {
	var lost []string
	list := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return d.api.core.Pods(metav1.NamespaceAll).List(ctx, options)
	})
	list.PageSize = page
	if err := list.EachListItem(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", d.node).String()}, func(object runtime.Object) error {
		pod := object.(*corev1.Pod)
		switch stays, err := d.stays(ctx, pod); {
		case err != nil:
			return err
		case stays:
		case irreplaceable(pod):
			lost = append(lost, fullName(pod))
		default:
			pods = append(pods, pod)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		return nil, fmt.Errorf("there are pods that no controller would make again (delete them, or do without drain): %s", first(lost))
	}
	left := map[string]string{}
	for _, pod := range pods {
		left[fullName(pod)] = ""
		if pod.DeletionTimestamp == nil {
			left[fullName(pod)] = d.left[fullName(pod)]
		}
	}
	d.left = left
	return pods, nil
}

func fullName(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// stays tells whether a pod belongs to the node.
func (d *drain) stays(ctx context.Context, pod *corev1.Pod) (bool, error) {
	if _, static := pod.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return true, nil
	}
	controller := metav1.GetControllerOf(pod)
	if controller == nil || controller.Kind != "DaemonSet" || over(pod) {
		return false, nil
	}
	name := pod.Namespace + "/" + controller.Name
	there, known := d.sets[name]
	if !known {
		switch _, err := d.api.apps.DaemonSets(pod.Namespace).Get(ctx, controller.Name, metav1.GetOptions{}); {
		case err == nil:
			there = true
		case !apierrors.IsNotFound(err):
			return false, err
		}
		d.sets[name] = there
	}
	return there, nil
}

func irreplaceable(pod *corev1.Pod) bool {
	return !over(pod) && pod.DeletionTimestamp == nil && metav1.GetControllerOf(pod) == nil
}

func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// evict asks for the pods to go that nobody has asked for.
func (d *drain) evict(ctx context.Context, pods []*corev1.Pod) error {
	evictions, ctx := errgroup.WithContext(ctx)
	evictions.SetLimit(evictionsAtOnce)
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		evictions.Go(func() error {
			err := d.api.policy.Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
				ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
				DeleteOptions: &d.options,
			})
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case apierrors.IsTooManyRequests(err), // a disruption budget keeps it
				apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause): // it goes with its namespace
				d.mu.Lock()
				defer d.mu.Unlock()
				d.left[fullName(pod)] = err.Error()
				return nil
			}
			return err
		})
	}
	return evictions.Wait()
}

// unfinished names pods that are left when time is over, and why the first is that was kept.
func (d *drain) unfinished(err error) error {
	if len(d.left) == 0 {
		return err
	}
	names := slices.Sorted(maps.Keys(d.left))
	text := fmt.Sprintf("%d pods are left: %s", len(names), first(names))
	if i := slices.IndexFunc(names, func(name string) bool { return d.left[name] != "" }); i >= 0 {
		text += ": " + d.left[names[i]]
	}
	return said(errors.New(text))
}

func first(names []string) string { return strings.Join(names[:min(len(names), 5)], ", ") }
