package containermanager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"commissaire/domain"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/drain"
)

// betweenEvictions is how long a pod is left alone that a disruption budget keeps.
const betweenEvictions = time.Second

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
func (c *cluster) Drain(ctx context.Context, host domain.Address, grace int) error {
	var api kubernetes.Interface
	var node *corev1.Node
	if err := c.call(ctx, func(limited context.Context, found kubernetes.Interface) (err error) {
		if node, err = find(limited, found, host); err != nil {
			return err
		}
		to, err := c.connect(limited)
		if err == nil {
			api = to.drains
		}
		return err
	}); err != nil {
		return err
	}
	left := &leftovers{refusals: map[string]string{}}
	helper := &drain.Helper{
		Ctx: ctx, Client: api, GracePeriodSeconds: grace, ChunkSize: page, EvictErrorRetryDelay: betweenEvictions,
		IgnoreAllDaemonSets: true, DeleteEmptyDirData: true,
		Force: true, AdditionalFilters: []drain.PodFilter{irreplaceable}, // which is what it would be refused without
		Out: io.Discard, ErrOut: left, OnPodDeletionOrEvictionFinished: left.finished,
	}
	for {
		list, errs := helper.GetPodsForDeletion(node.Name)
		if ctx.Err() != nil {
			return left.error(ctx.Err())
		}
		if len(errs) > 0 {
			return said(errors.Join(errs...))
		}
		pods := list.Pods()
		if len(pods) == 0 {
			return nil
		}
		left.are(pods)
		evictions, err := drain.CheckEvictionSupport(api)
		if err == nil && evictions.Empty() {
			err = errors.New("it has no evictions, and pods are not deleted without")
		}
		if err == nil {
			err = helper.DeleteOrEvictPods(pods)
		}
		if ctx.Err() != nil {
			return left.error(ctx.Err())
		}
		if err != nil {
			return said(err)
		}
	}
}

// irreplaceable refuses pods that would be lost.
func irreplaceable(pod corev1.Pod) drain.PodDeleteStatus {
	over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
	if over || metav1.GetControllerOf(&pod) != nil {
		return drain.MakePodDeleteStatusOkay()
	}
	return drain.MakePodDeleteStatusWithError("pods that no controller would make again (delete them, or do without drain)")
}

// leftovers are the pods that are still on the node, and why. They are told while
// pods are evicted side by side.
type leftovers struct {
	mu       sync.Mutex
	pods     map[string]bool
	refusals map[string]string // by pod
}

func (l *leftovers) are(pods []corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods = map[string]bool{}
	for _, pod := range pods {
		l.pods[pod.Namespace+"/"+pod.Name] = true
	}
}

func (l *leftovers) finished(pod *corev1.Pod, _ bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(l.pods, pod.Namespace+"/"+pod.Name)
	}
}

// Write takes what drain says about an eviction that is to be tried again.
func (l *leftovers) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var name, namespace string
	_, err := fmt.Sscanf(string(line), "error when evicting pods/%q -n %q", &name, &namespace)
	if _, why, ok := strings.Cut(string(line), "): "); ok && err == nil {
		l.refusals[namespace+"/"+name] = strings.TrimSpace(why)
	}
	return len(line), nil
}

func (l *leftovers) error(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pods) == 0 {
		return err
	}
	names := slices.Sorted(maps.Keys(l.pods))
	text := fmt.Sprintf("%d pods are left: %s", len(names), strings.Join(names[:min(len(names), 5)], ", "))
	if i := slices.IndexFunc(names, func(name string) bool { return l.refusals[name] != "" }); i >= 0 {
		text += ": " + l.refusals[names[i]]
	}
	return said(errors.New(text))
}
