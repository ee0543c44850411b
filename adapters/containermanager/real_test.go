package containermanager

import (
	"context"
	"os"
	"testing"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/kube"
	"commissaire/test/vault"

	"github.com/google/uuid"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// All tests here are of a real API server when one is given; this one asks it itself,
// with nothing in between.
func TestARealAPIServerIsAskedAsItIs(t *testing.T) {
	path := os.Getenv(kube.KubeconfigVariable)
	if path == "" {
		t.Skip(kube.KubeconfigVariable + " is not set: no real API server is asked")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err == nil {
		err = rest.LoadTLSFiles(config)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &setting{dir: t.TempDir(), options: map[string]string{"server_url": config.Host}}
	s.definition = event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Type: domain.Kubernetes}
	s.config = Config{Credentials: vault.Of("C", commands.Secret(config.BearerToken)), CertificateDir: s.dir, Timeout: 10 * time.Second}
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
	do("drain", m.Drain(t.Context(), host, 0))
	do("uncordon", m.Uncordon(t.Context(), host))
	do("unregister", m.Unregister(t.Context(), host))
	do("unregister again", m.Unregister(t.Context(), host))
}
