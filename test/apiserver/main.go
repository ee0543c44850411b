// Command apiserver is a Kubernetes for tests: the real API server and controllers, as
// children of itself, and the etcd that they keep everything in. There is no scheduler
// and no kubelet. It listens on loopback only, runs a command, which finds it in
// COMMISSAIRE_TEST_KUBECONFIG, and ends with it:
//
//	apiserver go test ./...
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

const (
	kubeconfigVariable = "COMMISSAIRE_TEST_KUBECONFIG"
	startWithin        = 2 * time.Minute
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: apiserver COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "kube-apiserver":
		os.Args = os.Args[1:]
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Args = os.Args[1:]
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		os.Exit(ended.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command []string) (err error) {
	dir, err := os.MkdirTemp("", "apiserver-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	etcd, err := startEtcd(dir)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer etcd.Close()
	kubeconfig, stop, err := startKubernetes(ctx, dir, etcd.Clients[0].Addr().String())
	if err != nil {
		return err
	}
	defer stop()
	tests := exec.CommandContext(ctx, command[0], command[1:]...)
	tests.Env = append(os.Environ(), kubeconfigVariable+"="+kubeconfig)
	tests.Stdin, tests.Stdout, tests.Stderr = os.Stdin, os.Stdout, os.Stderr
	tests.Cancel = func() error { return tests.Process.Signal(syscall.SIGTERM) }
	return tests.Run()
}

func startEtcd(dir string) (*embed.Etcd, error) {
	local := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.UnsafeNoFsync = filepath.Join(dir, "etcd"), "fatal", true // it also logs that it was told to end
	config.ListenClientUrls, config.ListenPeerUrls = local, local
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case err = <-etcd.Err():
	case <-time.After(startWithin):
		err = errors.New("it is not ready in time")
	}
	etcd.Close()
	return nil, err
}

// startKubernetes starts the API server and the controllers, and returns when they
// answer. The one user is an administrator, by a token.
func startKubernetes(ctx context.Context, dir, etcd string) (kubeconfig string, stop func(), err error) {
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
	key, token := filepath.Join(dir, "accounts.key"), rand.Text()
	if err := writeKey(key); err != nil {
		return "", nil, err
	}
	tokens := filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(token+",admin,admin,system:masters\n"), 0o600); err != nil {
		return "", nil, err
	}
	server, err := start("kube-apiserver",
		"--etcd-servers=http://"+etcd, "--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(port),
		"--cert-dir="+dir, "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC", "--token-auth-file="+tokens,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
	)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			server()
		}
	}()
	endpoint := "https://127.0.0.1:" + strconv.Itoa(port)
	ca, err := await(ctx, "the certificate of the API server", func() ([]byte, error) { return os.ReadFile(filepath.Join(dir, "apiserver.crt")) })
	if err != nil {
		return "", nil, err
	}
	kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: endpoint, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"admin": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "admin"}},
		CurrentContext: "c",
	}, kubeconfig); err != nil {
		return "", nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return "", nil, err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", nil, err
	}
	if _, err = await(ctx, "the API server", func() ([]byte, error) {
		return api.RESTClient().Get().AbsPath("/readyz").Do(ctx).Raw()
	}); err != nil {
		return "", nil, err
	}
	manager, err := start("kube-controller-manager",
		"--kubeconfig="+kubeconfig, "--bind-address=127.0.0.1", "--secure-port=0", "--cert-dir="+dir, "--leader-elect=false",
		"--use-service-account-credentials", "--service-account-private-key-file="+key,
	)
	if err != nil {
		return "", nil, err
	}
	if _, err = await(ctx, "the controllers", func() ([]byte, error) { // they make it
		_, err := api.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return nil, err
	}); err != nil {
		manager()
		return "", nil, err
	}
	return kubeconfig, func() { manager(); server() }, nil
}

// start starts a component, which ends with stop or with this process. What it says is
// shown only if it ends by itself.
func start(component string, arguments ...string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd := exec.Command(self, append([]string{component}, arguments...)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended, stopping := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		err := cmd.Wait()
		select {
		case <-stopping:
		default:
			fmt.Fprintf(os.Stderr, "%s ended: %v\n%s", component, err, said.String())
		}
	}()
	return func() {
		close(stopping)
		_ = cmd.Process.Kill()
		<-ended
	}, nil
}

// await tries until it succeeds.
func await(ctx context.Context, what string, try func() ([]byte, error)) ([]byte, error) {
	for deadline := time.After(startWithin); ; {
		got, err := try()
		if err == nil {
			return got, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline:
			return nil, fmt.Errorf("%s did not come up within %s: %w", what, startWithin, err)
		}
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// writeKey makes the key that tokens of service accounts are signed with.
func writeKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600)
}
