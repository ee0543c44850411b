package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/keys"
	"commissaire/test/vault"

	xssh "golang.org/x/crypto/ssh"
)

// sshd puts OpenSSH's own server in front of m; of its settings, those given win.
func (m *machine) sshd(t *testing.T, settings ...string) (port int, key process.HostKey) {
	t.Helper()
	program, err := exec.LookPath("sshd")
	if err != nil {
		t.Skip("no sshd: OpenSSH's server is not tried")
	}
	if m.get("etc/host_key") == "" {
		private, _ := keys.New(t)
		m.put(t, "etc/host_key", string(private))
	}
	signer, err := xssh.ParsePrivateKey([]byte(m.get("etc/host_key")))
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
	m.put(t, "etc/authorized_keys", string(xssh.MarshalAuthorizedKey(m.key.PublicKey())))
	m.put(t, "etc/sshd_config", strings.Join(settings, "\n")+fmt.Sprintf(`
ListenAddress 127.0.0.1:%d
HostKey /etc/host_key
AuthorizedKeysFile /etc/authorized_keys
PermitRootLogin yes
UsePAM no
PidFile none
%s
`, port, strings.Join(settings, "\n")))
	for _, name := range []string{"etc/host_key", "etc/authorized_keys"} {
		if err := os.Chmod(filepath.Join(m.dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(m.dir, "run/sshd"), 0o755); err != nil {
		t.Fatal(err)
	}
	server := m.command(t.Context(), program, "-D", "-e", "-f", "/etc/sshd_config")
	var said bytes.Buffer
	server.Stderr = &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
		if t.Failed() {
			t.Logf("sshd says:\n%s", &said)
		}
	})
	return port, hostKey(signer.PublicKey())
}

func TestAgainstOpenSSH(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/do-dnf", "echo upgraded; exit 4")
	port, key := s.sshd(t)
	s.target.Port, s.target.Pinned = port, &key

	var session process.Session
	within(t, time.Minute, "sshd listens", func() bool {
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
		result, err := session.Run(t.Context(), "turn", process.Work{Kind: domain.Upgrade, Facts: facts})
		if err != nil || result.Exit == nil || *result.Exit != 4 || result.Said != "upgraded" {
			t.Errorf("%+v, %v", result, err)
		}
	}
	if err := session.Bootstrap(t.Context(), "fit", process.Bootstrap{Facts: event.Facts{OS: "atomic", OSTree: true}}); err != nil {
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
	if err := late.Reboot(t.Context(), "late", firstBoot); !errors.As(err, &fenced) {
		t.Errorf("%v", err)
	}

	other, _ := keys.New(t)
	s.remote.credentials = vault.Of("key", other)
	if _, err := s.remote.Dial(t.Context(), s.target); err == nil {
		t.Error("another key lets in")
	} else {
		refusal(t, err)
	}
}

// TestWhatOpenSSHSaysIsTold has hosts that let nobody in, or not to a shell.
func TestWhatOpenSSHSaysIsTold(t *testing.T) {
	ask := "auth requisite pam_echo.so a code was sent to your phone\nauth requisite pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
	for name, c := range map[string]struct {
		settings []string
		files    map[string]string
		options  string // of the key
		want     []string
	}{
		"a second factor": {
			settings: []string{"AuthenticationMethods publickey,keyboard-interactive", "UsePAM yes", "KbdInteractiveAuthentication yes"},
			files:    map[string]string{"etc/pam.d/sshd": ask, "etc/pam.d/other": "auth required pam_deny.so\n"},
			want:     []string{"takes the key SHA256:", "asks for more", "keyboard-interactive", "Password", "AuthenticationMethods"},
		},
		"a password after the key": {
			settings: []string{"AuthenticationMethods publickey,password"},
			want:     []string{"takes the key SHA256:", "asks for more", "(password)"},
		},
		"a forced command": {
			options: `command="echo 'Please login as the user \"ubuntu\" rather than the user \"root\".'; echo; exit 142" `,
			want:    []string{`it does not run /bin/sh -s: Please login as the user "ubuntu" rather than the user "root".`, "remote_user"},
		},
		"a forced command that says nothing": {
			options: `command="exit 3" `,
			want:    []string{"it does not run /bin/sh -s: it ended with exit status 3 and printed nothing"},
		},
		"no shell": {
			files: map[string]string{"etc/passwd": "root:x:0:0::/root:/usr/sbin/nologin\nsshd:x:100:65534::/run/sshd:/bin/false\n"},
			want:  []string{"This account is currently not available", "usermod -s /bin/sh root"},
		},
		"a banner": {
			settings: []string{"Banner /etc/issue.net", "AllowUsers nobody"},
			files:    map[string]string{"etc/issue.net": "*****\nThis machine is in maintenance until noon.\n*****\n"},
			want:     []string{"does not let root in with the key", "This machine is in maintenance until noon."},
		},
		"an account that has expired": {
			settings: []string{"UsePAM yes"},
			files: map[string]string{
				"etc/pam.d/sshd": "auth required pam_permit.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
				"etc/shadow":     "root:*:20000:::::10000:\nsshd:*:20000::::::\n",
			},
			want: []string{"account has expired", "chage -E -1 root"},
		},
		"a password that has expired": {
			settings: []string{"UsePAM yes"},
			files: map[string]string{
				"etc/pam.d/sshd": "auth required pam_permit.so\naccount required pam_unix.so\nsession required pam_permit.so\npassword required pam_permit.so\n",
				"etc/shadow":     "root:*:0:0:99999:7:::\nsshd:*:20000::::::\n",
			},
			want: []string{"assword", "chage -M -1 root"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{})
			for file, text := range c.files {
				s.put(t, file, text)
			}
			port, key := s.sshd(t, c.settings...)
			s.put(t, "etc/authorized_keys", c.options+string(xssh.MarshalAuthorizedKey(s.key.PublicKey())))
			for file, text := range c.files {
				s.put(t, file, text)
			}
			s.target.Port, s.target.Pinned = port, &key
			var err error
			within(t, time.Minute, "sshd listens", func() bool {
				var session process.Session
				if session, err = s.remote.Dial(t.Context(), s.target); err == nil {
					_, err = session.Facts(t.Context())
					session.Close()
				}
				return err == nil || !strings.Contains(err.Error(), "nothing listens")
			})
			if err == nil {
				t.Fatal("it let us in")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
		})
	}
}
