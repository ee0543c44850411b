package e2e

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"commissaire/test/fleet"
	"commissaire/test/keys"
	"commissaire/test/sshd"
)

func knownHosts(t *testing.T, lines ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "known_hosts")
	writeLines(t, path, lines...)
	t.Setenv("COMMISSAIRE_SSH_KNOWN_HOSTS", path)
	return path
}

func writeLines(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHostsBehindAJumpHostThatAKnownHostsFileHas(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.17.1", OS: fleet.Fedora}, fleet.Spec{Address: "127.0.17.2", OS: fleet.Fedora}, fleet.Spec{Address: "127.0.17.3", OS: fleet.Fedora})
	via, h := f.Host("127.0.17.1"), f.Host("127.0.17.2")
	private, err := base64.StdEncoding.DecodeString(sprint(body()["ssh_priv_key"]))
	if err != nil {
		t.Fatal(err)
	}
	known := knownHosts(t, "# none yet")
	for name, value := range map[string]string{
		"ADDRESS": via.Address(), "PORT": sprint(f.Port()), "USER": "root", "KEY": "env:TEST_JUMP_KEY", "HOST_KEY": fingerprint(via),
	} {
		t.Setenv("COMMISSAIRE_SSH_JUMP_"+name, value)
	}
	t.Setenv("TEST_JUMP_KEY", string(private))
	t.Setenv("COMMISSAIRE_SSH_ATTEMPTS", "1")
	s := newService(t)

	const path, other = "/host/127.0.17.2", "/host/127.0.17.3"
	s.put(path, body()).is(201)
	s.until(path, status("failed"))
	if s.mentions(path, "is not in "+known) != 1 || s.mentions(path, "HostKeyPinned") != 0 {
		t.Errorf("a host that is not known: %s", s.get(path+"/history").body)
	}
	writeLines(t, known, "127.0.17.2,127.0.17.3 "+keys.Line(h.HostKey()))
	s.delete(path).is(200)
	s.put(path, body()).is(201)
	s.until(path, status("disassociated"))

	s.put(other, body()).is(201)
	s.until(other, status("failed"))
	if s.mentions(other, "which is not the one that "+known) != 1 {
		t.Errorf("a host with another key: %s", s.get(other+"/history").body)
	}
	s.delete(other).is(200)
	given := body()
	given["ssh_host_key"] = fingerprint(f.Host("127.0.17.3"))
	s.put(other, given).is(201)
	s.until(other, status("disassociated"))

	via.Down()
	s.until(path, status("failed"))
	if s.mentions(path, "the jump host 127.0.17.1 is out of reach") == 0 {
		t.Errorf("without the jump host: %s", s.get(path+"/history").body)
	}
	if err := via.Up(); err != nil {
		t.Fatal(err)
	}
	s.until(path, status("disassociated"))
	if strings.Contains(s.logged(), "PRIVATE KEY") {
		t.Error("the log holds a key")
	}
}

func TestCertificatesOfHostAndUserWithOpenSSH(t *testing.T) {
	host := sshd.Start(t, sshd.Host{Address: "127.0.17.9", User: "core"})
	_, authority := keys.New(t)
	hour := time.Now().Add(time.Hour)
	knownHosts(t, "@cert-authority 127.0.17.* "+keys.Line(authority.PublicKey()))
	t.Setenv("COMMISSAIRE_BOOTSTRAP_PROFILE", "none")
	install := func(script, key string) {
		t.Helper()
		if _, err := host.Exec(t.Context(), script+"\necho '"+key+"' >/etc/ssh/host_key-cert.pub"); err != nil {
			t.Fatal(err)
		}
		host.Stop()
		host.Start()
	}
	install("echo '"+keys.Line(authority.PublicKey())+`' >/etc/ssh/user_ca.pub
: >/etc/ssh/authorized_keys
echo 'TrustedUserCAKeys /etc/ssh/user_ca.pub' >>/etc/ssh/sshd_config
echo 'HostCertificate /etc/ssh/host_key-cert.pub' >>/etc/ssh/sshd_config`,
		keys.Certificate(t, authority, ssh.HostCert, host.HostKey(), "127.0.17.9", hour))
	user, err := ssh.ParsePrivateKey(host.PrivateKey())
	if err != nil {
		t.Fatal(err)
	}
	s := newService(t)

	const path = "/host/127.0.17.9"
	body := map[string]any{"ssh_priv_key": base64.StdEncoding.EncodeToString(host.PrivateKey()), "ssh_port": host.Port, "remote_user": "core"}
	_, stranger := keys.New(t)
	for _, wrong := range []any{7, "no certificate", keys.Line(user.PublicKey()), keys.Certificate(t, authority, ssh.UserCert, stranger.PublicKey(), "core", hour)} {
		body["ssh_certificate"] = wrong
		if got := s.put(path, body).is(400).body; !strings.Contains(string(got), "ssh_certificate") {
			t.Errorf("%v: %s", wrong, got)
		}
	}
	body["ssh_certificate"] = keys.Certificate(t, authority, ssh.UserCert, user.PublicKey(), "core", hour)
	s.put(path, body).is(201).keys(hostKeys...)
	s.put(path, body).is(201)
	s.until(path, status("disassociated"))
	s.get(path+"/creds").is(200).keys("ssh_priv_key", "remote_user")
	vouched := `"authority":"` + ssh.FingerprintSHA256(authority.PublicKey())
	if s.mentions(path, vouched) != 1 || s.mentions(path, host.HostKeyFingerprint()) != 1 {
		t.Errorf("the key was not pinned: %s", s.get(path+"/history").body)
	}

	// Another key with a certificate is the host's from then on, also after a restart.
	private, key := keys.New(t)
	install("cat >/etc/ssh/host_key <<'EOT'\n"+string(private)+"EOT", keys.Certificate(t, authority, ssh.HostCert, key.PublicKey(), "127.0.17.9", hour))
	s.until(path, func(map[string]any) bool { return s.mentions(path, ssh.FingerprintSHA256(key.PublicKey())) == 1 })
	s.crash()
	s.until(path, status("disassociated"))
	if s.mentions(path, vouched) != 2 || s.mentions(path, "HostKeyChanged") != 0 {
		t.Errorf("a re-issued certificate: %s", s.get(path+"/history").body)
	}
}
