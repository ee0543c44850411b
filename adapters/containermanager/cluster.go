package containermanager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"unicode"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

const (
	page     = 500     // objects in one answer
	maxNode  = 1 << 20 // bytes of a node object
	maxSaid  = 512     // bytes of what a person is told of an error
	maxNodes = 8       // nodes that one host may turn out to have, when it is unregistered
)

// errNoNode says that the container manager does not know a host.
var errNoNode = errors.New("it has no node of that name or address")

// cluster is a container manager of type kubernetes or openshift. To both a host
// is a node of the API v1, which OpenShift has as Kubernetes has it, so that
// there is no difference here.
//
// The node of a host is the one that has its address for a name (an IPv6 address
// is written out, with - for :). If there is none, or none that a kubelet has
// reported yet, it is the one that has the host's address among its
// status.addresses; several are refused.
type cluster struct {
	config     Config
	definition event.ContainerManagerDefined

	mu         sync.Mutex
	connection *connection // nil: there is none yet
}

// call asks the API server for something, within the time limit of a call.
func (c *cluster) call(ctx context.Context, f func(ctx context.Context, api *server) error) error {
	limited, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	to, err := c.connect(limited)
	if err == nil {
		err = f(limited, to.api)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, commands.ErrUnavailable): // the store of the token, which says nothing of the container manager
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errors.New("it did not answer in time")
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil, timedOut(err):
		return fmt.Errorf("it did not answer within %s", c.config.Timeout)
	}
	return said(err)
}

func timedOut(err error) bool {
	late, ok := errors.AsType[net.Error](err)
	return ok && late.Timeout()
}

// said is an error as a person may be told: what an API server sends is text of a
// stranger.
func said(err error) error {
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(err.Error(), "?"))
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "…"
	}
	return errors.New(text)
}

// Register makes a node, unless there is one.
func (c *cluster) Register(ctx context.Context, host domain.Address) error {
	return c.call(ctx, func(ctx context.Context, api *server) error {
		_, err := find(ctx, api, host)
		if !errors.Is(err, errNoNode) {
			return err
		}
		kind := corev1.NodeHostName
		if _, isIP := host.IP(); isIP {
			kind = corev1.NodeInternalIP
		}
		_, err = api.core.Nodes().Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: nodeName(host)},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: kind, Address: string(host)}}},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// Unregister deletes the node, and one that Register made before a kubelet came
// with another name.
func (c *cluster) Unregister(ctx context.Context, host domain.Address) error {
	return c.call(ctx, func(ctx context.Context, api *server) error {
		for range maxNodes {
			node, err := find(ctx, api, host)
			if errors.Is(err, errNoNode) {
				return nil
			}
			if err != nil {
				return err
			}
			err = api.core.Nodes().Delete(ctx, node.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(node.UID))})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return errors.New("its node is made again as often as it is deleted")
	})
}

// NodeStatus is the node object, as the API server has it.
func (c *cluster) NodeStatus(ctx context.Context, host domain.Address) (status json.RawMessage, err error) {
	err = c.call(ctx, func(ctx context.Context, api *server) error {
		node, err := find(ctx, api, host)
		if err != nil {
			return err
		}
		status, err = api.core.RESTClient().Get().Resource("nodes").Name(node.Name).Do(ctx).Raw()
		if err != nil {
			return err
		}
		if status = bytes.TrimSpace(status); len(status) > maxNode || !json.Valid(status) || status[0] != '{' {
			return fmt.Errorf("node %s is not a JSON object of at most %d bytes", node.Name, maxNode)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("describe host %s: %w", host, err)
	}
	return status, nil
}

// Ready looks at the node's condition Ready. One that was reported in another
// boot does not count, where the node says which boot it was.
func (c *cluster) Ready(ctx context.Context, host domain.Address, bootID string) (ready bool, why string, err error) {
	err = c.call(ctx, func(ctx context.Context, api *server) error {
		node, err := find(ctx, api, host)
		if errors.Is(err, errNoNode) {
			why = err.Error()
			return nil
		}
		if err != nil {
			return err
		}
		if of := node.Status.NodeInfo.BootID; of != "" && bootID != "" && of != bootID {
			why = "the node has not reported since the host was booted"
			return nil
		}
		why = "the node has not reported yet"
		for _, condition := range node.Status.Conditions {
			if condition.Type != corev1.NodeReady {
				continue
			}
			if ready = condition.Status == corev1.ConditionTrue; ready {
				why = ""
				return nil
			}
			why = said(fmt.Errorf("the node is not ready: %s: %s", condition.Reason, condition.Message)).Error()
		}
		return nil
	})
	return ready, why, err
}

// Cordoned tells whether the node is unschedulable.
func (c *cluster) Cordoned(ctx context.Context, host domain.Address) (cordoned bool, err error) {
	err = c.call(ctx, func(ctx context.Context, api *server) error {
		node, err := find(ctx, api, host)
		if err == nil {
			cordoned = node.Spec.Unschedulable
		}
		return err
	})
	return cordoned, err
}

// Cordon makes the node unschedulable.
func (c *cluster) Cordon(ctx context.Context, host domain.Address) error {
	return c.call(ctx, func(ctx context.Context, api *server) error { return cordon(ctx, api, host, true) })
}

// Uncordon makes the node schedulable. One that is gone is not cordoned.
func (c *cluster) Uncordon(ctx context.Context, host domain.Address) error {
	return c.call(ctx, func(ctx context.Context, api *server) error {
		if err := cordon(ctx, api, host, false); !errors.Is(err, errNoNode) && !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	})
}

func cordon(ctx context.Context, api *server, host domain.Address, wanted bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := find(ctx, api, host)
		if err != nil {
			return err
		}
		if node.Spec.Unschedulable == wanted {
			return nil
		}
		patch := `{"spec":{"unschedulable":true}}`
		if !wanted {
			patch = `{"spec":{"unschedulable":null}}`
		}
		_, err = api.core.Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	})
}

// find is the node of a host; errNoNode where there is none.
func find(ctx context.Context, api *server, host domain.Address) (*corev1.Node, error) {
	named, err := api.core.Nodes().Get(ctx, nodeName(host), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		named = nil
	case err != nil:
		return nil, err
	case reported(named):
		return named, nil
	}
	found := named
	for options := (metav1.ListOptions{Limit: page}); ; {
		list, err := api.core.Nodes().List(ctx, options)
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			node := &list.Items[i]
			if named != nil && (node.Name == named.Name || !reported(node)) || !hasAddress(node, host) {
				continue
			}
			if found != named {
				return nil, fmt.Errorf("nodes %s and %s both have the address %s", found.Name, node.Name, host)
			}
			found = node
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	if found == nil {
		return nil, errNoNode
	}
	return found, nil
}

// reported tells whether a kubelet stands behind the node. A condition does not say
// so: a controller adds them to a node that no kubelet reports within a minute.
func reported(node *corev1.Node) bool { return node.Status.NodeInfo.KubeletVersion != "" }

func hasAddress(node *corev1.Node, host domain.Address) bool {
	ip, isIP := host.IP()
	for _, address := range node.Status.Addresses {
		if isIP {
			if of, err := netip.ParseAddr(address.Address); err == nil && of.Unmap() == ip.Unmap() {
				return true
			}
		} else if strings.EqualFold(strings.TrimSuffix(address.Address, "."), string(host)) {
			return true
		}
	}
	return false
}

// nodeName is the name of a host's node; colons may not be in one.
func nodeName(host domain.Address) string {
	if ip, ok := host.IP(); ok && ip.Is6() {
		return strings.ReplaceAll(ip.WithZone("").StringExpanded(), ":", "-")
	}
	return string(host)
}
