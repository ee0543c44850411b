package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"

	xssh "golang.org/x/crypto/ssh"
)

// sshd puts OpenSSH's own server in front of m.
func (m *machine) sshd(t *testing.T) (port int, key process.HostKey) {
	t.Helper()
	program, err := exec.LookPath("sshd")
	if err != nil {
		t.Skip("no sshd: OpenSSH's server is not tried")
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := xssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := xssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = listener.Addr().(*net.TCPAddr).Port
	listener.Close()

	m.put(t, "etc/passwd", "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n")
	m.put(t, "etc/shadow", "root:*:20000::::::\nsshd:*:20000::::::\n")
	m.put(t, "etc/host_key", string(pem.EncodeToMemory(block)))
	m.put(t, "etc/authorized_keys", string(xssh.MarshalAuthorizedKey(m.key.PublicKey())))
	m.put(t, "etc/sshd_config", fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey /etc/host_key
AuthorizedKeysFile /etc/authorized_keys
PermitRootLogin yes
UsePAM no
PidFile none
`, port))
	for _, name := range []string{"etc/host_key", "etc/authorized_keys"} {
		if err := os.Chmod(filepath.Join(m.dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(m.dir, "run/sshd"), 0o755); err != nil {
		t.Fatal(err)
	}
	server := m.command(t.Context(), program, "-D", "-e", "-f", "/etc/sshd_config")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	return port, hostKey(signer.PublicKey())
}

func TestAgainstOpenSSH(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/do-dnf", "echo upgraded; exit 4")
	port, key := s.sshd(t)
	s.target.Port, s.target.Pinned = port, &key

	var session process.Session
	within(t, 10*time.Second, "sshd listens", func() bool {
		var err error
		session, err = s.remote.Dial(t.Context(), s.target)
		var unreachable *process.Unreachable
		if err != nil && !errors.As(err, &unreachable) {
			t.Fatal(err)
		}
		return err == nil
	})
	defer session.Close()

	facts, err := session.Facts(t.Context())
	if err != nil || facts.OS != "fedora" || facts.BootID != firstBoot {
		t.Fatalf("%+v, %v", facts, err)
	}
	for range 2 {
		result, err := session.Run(t.Context(), process.Turn{Name: "turn"}, process.Work{Kind: domain.Upgrade, Facts: facts})
		if err != nil || result.Exit == nil || *result.Exit != 4 || result.Tail != "upgraded\n" {
			t.Errorf("%+v, %v", result, err)
		}
	}
	if err := session.Bootstrap(t.Context(), process.Turn{Name: "fit"}, process.Bootstrap{Facts: event.Facts{OS: "atomic", OSTree: true}}); err != nil {
		t.Error(err)
	}
	if s.get("etc/sysconfig/docker") == "" {
		t.Error("nothing was configured")
	}
	var fenced *process.Fenced
	s.target.Leader.Term--
	late, err := s.remote.Dial(t.Context(), s.target)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if err := late.Reboot(t.Context(), process.Turn{Name: "late"}, firstBoot); !errors.As(err, &fenced) {
		t.Errorf("%v", err)
	}

	other, _ := newLogin(t)
	s.remote.credentials = keys{"key": other}
	if _, err := s.remote.Dial(t.Context(), s.target); err == nil {
		t.Error("another key lets in")
	} else {
		refusal(t, err)
	}
}
