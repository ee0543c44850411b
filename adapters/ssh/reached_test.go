package ssh_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"commissaire/adapters/ssh"
	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/test/fleet"
	"commissaire/test/keys"
	"commissaire/test/sshd"
	"commissaire/test/vault"

	xssh "golang.org/x/crypto/ssh"
)

// configure gives a host files in /etc/ssh and lines of sshd_config, and starts
// it again.
func configure(t *testing.T, s *sshd.Server, files map[string]string, lines ...string) {
	t.Helper()
	var script strings.Builder
	for name, text := range files {
		fmt.Fprintf(&script, "umask 077; cat >/etc/ssh/%s <<'EOT'\n%s\nEOT\n", name, strings.TrimSpace(text))
	}
	for _, l := range lines {
		fmt.Fprintf(&script, "echo '%s' >>/etc/ssh/sshd_config\n", l)
	}
	if _, err := s.Exec(t.Context(), script.String()); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Start()
}

func knownHosts(t *testing.T, text string) *ssh.KnownHosts {
	t.Helper()
	path := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := ssh.OpenKnownHosts(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return known
}

func newRemote(config ssh.Config, secret commands.Secret) *ssh.Remote {
	config.Reach.Loopback = true
	return ssh.New(config, vault.Of("", secret), slog.New(slog.DiscardHandler))
}

// bootID dials and asks for a sign of life.
func bootID(t *testing.T, remote *ssh.Remote, target process.Target) (string, process.HostKey, error) {
	t.Helper()
	session, err := remote.Dial(t.Context(), target)
	if err != nil {
		return "", process.HostKey{}, err
	}
	defer session.Close()
	id, err := session.BootID(t.Context())
	return id, session.HostKey(), err
}

func refusal(t *testing.T, err error) string {
	t.Helper()
	refused, ok := errors.AsType[*process.Refused](err)
	if !ok {
		t.Fatalf("not refused: %v", err)
	}
	return refused.Reason
}

func unreachable(t *testing.T, err error) string {
	t.Helper()
	away, ok := errors.AsType[*process.Unreachable](err)
	if !ok {
		t.Fatalf("not unreachable: %v", err)
	}
	return away.Reason
}

func TestOpenSSHShowsACertificateAndAReissuedOneIsNoChangedKey(t *testing.T) {
	s := sshd.Start(t, sshd.Host{Address: "127.0.3.1"})
	_, authority := keys.New(t)
	target := process.Target{Host: "127.0.3.1", Port: s.Port, User: domain.Root, Leader: process.Leader{Log: "log", Term: 1}}
	known := knownHosts(t, "@cert-authority 127.0.3.* "+keys.Line(authority.PublicKey()))
	remote := newRemote(ssh.Config{KnownHosts: known}, s.PrivateKey())
	hour := time.Now().Add(time.Hour)

	_, _, err := bootID(t, remote, target)
	if why := refusal(t, err); !strings.Contains(why, "without a certificate") {
		t.Error(why)
	}
	configure(t, s, map[string]string{"host_key-cert.pub": keys.Certificate(t, authority, xssh.HostCert, s.HostKey(), "127.0.3.1", hour)},
		"HostCertificate /etc/ssh/host_key-cert.pub")
	id, first, err := bootID(t, remote, target)
	want := process.HostKey{Type: "ssh-ed25519", Fingerprint: s.HostKeyFingerprint(), Authority: xssh.FingerprintSHA256(authority.PublicKey())}
	if err != nil || id != s.BootID() || first != want {
		t.Fatalf("%q, %+v, %v", id, first, err)
	}

	secret, other := keys.New(t)
	configure(t, s, map[string]string{
		"host_key": string(secret), "host_key-cert.pub": keys.Certificate(t, authority, xssh.HostCert, other.PublicKey(), "127.0.3.1", hour),
	})
	target.Pinned = &first
	_, second, err := bootID(t, remote, target)
	if want.Fingerprint = xssh.FingerprintSHA256(other.PublicKey()); err != nil || second != want {
		t.Fatalf("%+v, %v", second, err)
	}
	_, _, err = bootID(t, newRemote(ssh.Config{}, s.PrivateKey()), target)
	if changed, ok := errors.AsType[*process.KeyChanged](err); !ok || changed.Shown.Fingerprint != want.Fingerprint {
		t.Errorf("without an authority: %v", err)
	}

	configure(t, s, map[string]string{"host_key-cert.pub": keys.Certificate(t, authority, xssh.HostCert, other.PublicKey(), "127.0.3.1", time.Now().Add(-time.Minute))})
	target.Pinned = nil
	_, _, err = bootID(t, remote, target)
	if why := refusal(t, err); !strings.Contains(why, "expired") {
		t.Error(why)
	}
}

func TestOpenSSHLetsAUserCertificateIn(t *testing.T) {
	s := sshd.Start(t, sshd.Host{Address: "127.0.3.2", User: "core"})
	_, authority := keys.New(t)
	user, err := xssh.ParsePrivateKey(s.PrivateKey())
	if err != nil {
		t.Fatal(err)
	}
	target := process.Target{Host: "127.0.3.2", Port: s.Port, User: "core", Leader: process.Leader{Log: "log", Term: 1}}
	remote := newRemote(ssh.Config{}, s.PrivateKey())
	hour := time.Now().Add(time.Hour)
	good := keys.Certificate(t, authority, xssh.UserCert, user.PublicKey(), "core", hour)

	target.Certificate = good // which the host does not trust, but the key
	if _, _, err := bootID(t, remote, target); err != nil {
		t.Error(err)
	}
	configure(t, s, map[string]string{"user_ca.pub": keys.Line(authority.PublicKey()), "authorized_keys": "# nobody"}, "TrustedUserCAKeys /etc/ssh/user_ca.pub")
	if _, err := s.Exec(t.Context(), "chmod 644 /etc/ssh/user_ca.pub /etc/ssh/authorized_keys"); err != nil {
		t.Fatal(err)
	}
	if id, _, err := bootID(t, remote, target); err != nil || id != s.BootID() {
		t.Errorf("with a certificate: %q, %v", id, err)
	}
	for _, c := range []struct{ certificate, why string }{
		{"", "add its public half to authorized_keys"},
		{keys.Certificate(t, authority, xssh.UserCert, user.PublicKey(), "core", time.Now().Add(-time.Minute)), "its certificate expired at 20"},
		{keys.Certificate(t, authority, xssh.UserCert, user.PublicKey(), "root", hour), `for ["root"]`},
	} {
		target.Certificate = c.certificate
		_, _, err := bootID(t, remote, target)
		if why := refusal(t, err); !strings.Contains(why, c.why) || !strings.Contains(why, "core") {
			t.Error(why)
		}
	}
}

func TestAHostMayAllowOneSessionAtATime(t *testing.T) {
	s := sshd.Start(t, sshd.Host{Address: "127.0.3.12", User: "core"})
	configure(t, s, nil, "MaxSessions 1")
	session, err := newRemote(ssh.Config{}, s.PrivateKey()).Dial(t.Context(), process.Target{Host: "127.0.3.12", Port: s.Port, User: "core", Leader: process.Leader{Log: "log", Term: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.BootID(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := session.Facts(t.Context()); err != nil { // which takes sudo
		t.Error(err)
	}
}

func TestHostsAreReachedByWayOfOpenSSH(t *testing.T) {
	behind := sshd.Start(t, sshd.Host{Address: "127.0.3.3"})
	jump := sshd.Start(t, sshd.Host{Address: "127.0.3.4", User: "jumper"})
	config := ssh.Config{Jump: &ssh.Jump{
		Host: "127.0.3.4", Port: jump.Port, User: "jumper", Key: jump.PrivateKey(), HostKey: jump.HostKeyFingerprint(),
	}}
	remote := newRemote(config, behind.PrivateKey())
	target := process.Target{Host: "127.0.3.3", Port: behind.Port, User: domain.Root, Leader: process.Leader{Log: "log", Term: 1}}
	id, shown, err := bootID(t, remote, target)
	if err != nil || id != behind.BootID() || shown.Fingerprint != behind.HostKeyFingerprint() {
		t.Fatalf("%q, %+v, %v", id, shown, err)
	}

	// The connection breaks, and is made again.
	jump.DropConnections()
	if _, _, err := bootID(t, remote, target); err != nil {
		t.Errorf("after the connection broke: %v", err)
	}

	// Behind it, nothing listens there.
	nowhere := target
	nowhere.Host = "127.0.3.5"
	_, _, err = bootID(t, remote, nowhere)
	if why := unreachable(t, err); !strings.HasPrefix(why, "the jump host 127.0.3.4 has no connection to 127.0.3.5:") || !strings.Contains(why, "refused") {
		t.Error(why)
	}

	configure(t, jump, nil, "PermitOpen 127.0.3.9:22")
	_, _, err = bootID(t, remote, target)
	if why := refusal(t, err); !strings.HasPrefix(why, "the jump host 127.0.3.4 does not allow a connection to 127.0.3.3:") {
		t.Error(why)
	}

	jump.Stop()
	_, _, err = bootID(t, remote, target)
	if why := unreachable(t, err); !strings.HasPrefix(why, "the jump host 127.0.3.4 is out of reach: nothing listens") {
		t.Error(why)
	}
}

func TestHostsAreReachedByWayOfAJumpHost(t *testing.T) {
	secret, public, err := fleet.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	jumpSecret, jumpKey := keys.New(t)
	f, err := fleet.Start(fleet.Config{Hosts: fleet.Mixed(12), User: "core", Authorized: []xssh.PublicKey{public, jumpKey.PublicKey()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	hosts := f.Hosts()
	via, hosts := hosts[0], hosts[1:]
	jump := ssh.Jump{
		Host: domain.Address(via.Address()), Port: f.Port(), User: "core", Key: jumpSecret, HostKey: xssh.FingerprintSHA256(via.HostKey()),
	}
	config := ssh.Config{Jump: &jump, Reach: ssh.Reach{Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	remote := newRemote(config, commands.Secret(secret))
	target := func(h *fleet.Host) process.Target {
		return process.Target{Host: domain.Address(h.Address()), Port: f.Port(), User: "core", Pinned: &process.HostKey{
			Type: h.HostKey().Type(), Fingerprint: xssh.FingerprintSHA256(h.HostKey()),
		}, Leader: process.Leader{Log: "log", Term: 1}}
	}

	t.Run("all at once, again after it went down", func(t *testing.T) {
		for range 2 {
			var all sync.WaitGroup
			for _, h := range hosts {
				all.Go(func() {
					if id, _, err := bootID(t, remote, target(h)); err != nil || id != h.BootID() {
						t.Errorf("%s: %q, %v", h.Address(), id, err)
					}
				})
			}
			all.Wait()
			via.Down()
			_, _, err := bootID(t, remote, target(hosts[0]))
			if why := unreachable(t, err); !strings.Contains(why, "the jump host "+via.Address()+" is out of reach: nothing listens") {
				t.Error(why)
			}
			if err := via.Up(); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("a host behind it is down", func(t *testing.T) {
		hosts[0].Down()
		_, _, err := bootID(t, remote, target(hosts[0]))
		if why := unreachable(t, err); !strings.Contains(why, "has no connection to "+hosts[0].Address()) {
			t.Error(why)
		}
	})
	t.Run("what may not be reached", func(t *testing.T) {
		denied := target(hosts[1])
		denied.Host = "10.1.2.3"
		_, _, err := bootID(t, remote, denied)
		if why := refusal(t, err); !strings.Contains(why, "10.1.2.3 is in a range") {
			t.Error(why)
		}
		denied.Host = "192.0.2.1" // the fleet forwards to its own hosts only
		_, _, err = bootID(t, remote, denied)
		if why := refusal(t, err); !strings.Contains(why, "does not allow a connection to 192.0.2.1") {
			t.Error(why)
		}
	})
	t.Run("a key behind it that changed", func(t *testing.T) {
		changed := target(hosts[1])
		changed.Pinned.Fingerprint = "SHA256:other"
		_, _, err := bootID(t, remote, changed)
		if _, ok := errors.AsType[*process.KeyChanged](err); !ok {
			t.Errorf("not noticed: %v", err)
		}
	})
	t.Run("the jump host shows another key", func(t *testing.T) {
		config, other := config, jump
		other.HostKey = "SHA256:other"
		config.Jump = &other
		_, _, err := bootID(t, newRemote(config, commands.Secret(secret)), target(hosts[1]))
		if why := refusal(t, err); !strings.Contains(why, "ssh.jump.host-key is SHA256:other") {
			t.Error(why)
		}
	})
	t.Run("the jump host takes another key", func(t *testing.T) {
		config, other := config, jump
		other.Key, _ = keys.New(t)
		config.Jump = &other
		_, _, err := bootID(t, newRemote(config, commands.Secret(secret)), target(hosts[1]))
		if why := refusal(t, err); !strings.Contains(why, "the jump host") || !strings.Contains(why, "does not let core in") {
			t.Error(why)
		}
	})
}

func TestAJumpHostIsNotWaitedForLongerThanTheCallerDoes(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes the connection, nobody speaks
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	number, _ := strconv.Atoi(port)
	secret, _ := keys.New(t)
	config := ssh.Config{Handshake: 300 * time.Millisecond, Jump: &ssh.Jump{Host: "127.0.0.1", Port: number, User: "core", Key: secret, HostKey: "SHA256:x"}}
	remote := newRemote(config, secret)
	target := process.Target{Host: "127.0.0.2", User: domain.Root, Leader: process.Leader{Log: "log", Term: 1}}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := remote.Dial(ctx, target); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller had given up: %v", err)
	}
	_, _, err = bootID(t, remote, target)
	if why := unreachable(t, err); !strings.Contains(why, "the jump host 127.0.0.1 is out of reach") || !strings.Contains(why, "within 300ms") {
		t.Error(why)
	}
}
