package containermanager

import (
	"net/http"

	appsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	policyv1 "k8s.io/client-go/kubernetes/typed/policy/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// server are the parts of an API server that are asked. A client of all parts would
// make the program some megabytes larger.
type server struct {
	core   corev1.CoreV1Interface
	apps   appsv1.AppsV1Interface
	policy policyv1.PolicyV1Interface
}

// newServer is a server whose parts share one limit of requests.
func newServer(settings rest.Config, client *http.Client) (*server, error) {
	settings.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(settings.QPS, settings.Burst)
	core, err := corev1.NewForConfigAndClient(&settings, client)
	if err != nil {
		return nil, err
	}
	apps, err := appsv1.NewForConfigAndClient(&settings, client)
	if err != nil {
		return nil, err
	}
	policy, err := policyv1.NewForConfigAndClient(&settings, client)
	if err != nil {
		return nil, err
	}
	return &server{core: core, apps: apps, policy: policy}, nil
}
