package containermanager

import (
	"context"
	"os"
	"testing"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// TestARealAPIServer makes a node of its own, which no kubelet stands behind, puts
// a pod on it that a disruption budget keeps, and takes all of it away again.
func TestARealAPIServer(t *testing.T) {
	path := os.Getenv("COMMISSAIRE_TEST_KUBECONFIG")
	if path == "" {
		t.Skip("COMMISSAIRE_TEST_KUBECONFIG is not set: no real API server is asked")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err == nil {
		err = rest.LoadTLSFiles(config)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &setting{dir: t.TempDir(), options: map[string]string{"server_url": config.Host}}
	s.definition = event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Type: roster.Kubernetes}
	s.config = Config{Credentials: kept{"C": commands.Secret(config.BearerToken)}, CertificateDir: s.dir, Timeout: 10 * time.Second}
	if config.BearerToken != "" {
		s.definition.Credential = "C"
	}
	if len(config.CAData) > 0 {
		s.options["ca_path"] = s.write(t, "ca.crt", config.CAData)
	}
	if len(config.CertData) > 0 {
		s.options["certificate_path"] = s.write(t, "client.crt", config.CertData)
		s.options["certificate_key_path"] = s.write(t, "client.key", config.KeyData)
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	m, name := s.manager(t), "commissaire-test-"+uuid.NewString()[:8]
	host := domain.Address(name)
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	t.Cleanup(func() {
		if err := m.Unregister(context.WithoutCancel(t.Context()), host); err != nil {
			t.Errorf("unregister: %v", err)
		}
	})
	do("register", m.Register(t.Context(), host))
	do("register again", m.Register(t.Context(), host))
	if ready, why, err := m.Ready(t.Context(), host, ""); ready || why == "" || err != nil {
		t.Errorf("ready: %t, %q, %v", ready, why, err)
	}
	if status, err := m.NodeStatus(t.Context(), host); err != nil || len(status) == 0 {
		t.Errorf("status: %s, %v", status, err)
	}
	do("cordon", m.Cordon(t.Context(), host))
	if is, err := m.Cordoned(t.Context(), host); !is || err != nil {
		t.Errorf("cordoned: %t, %v", is, err)
	}

	space, err := api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	do("make a namespace", err)
	t.Cleanup(func() {
		_ = api.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}) // all that is in it goes too
	})
	owner, err := api.CoreV1().ConfigMaps(space.Name).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	do("make an owner", err)
	labels := map[string]string{"of": name}
	one := intstr.FromInt32(1)
	_, err = api.PolicyV1().PodDisruptionBudgets(space.Name).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}},
	}, metav1.CreateOptions{})
	do("make a budget", err)
	yes, no := true, false
	_, err = api.CoreV1().Pods(space.Name).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "pod", Labels: labels,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, Controller: &yes}},
		},
		Spec: corev1.PodSpec{NodeName: name, AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{})
	do("make a pod", err)
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	fails(t, m.Drain(short, host, 0), "1 pods are left: "+name+"/pod")
	do("drop the budget", api.PolicyV1().PodDisruptionBudgets(space.Name).Delete(t.Context(), "all", metav1.DeleteOptions{}))
	do("drain", m.Drain(t.Context(), host, 0))
	do("uncordon", m.Uncordon(t.Context(), host))
	do("unregister", m.Unregister(t.Context(), host))
	do("unregister again", m.Unregister(t.Context(), host))
}
