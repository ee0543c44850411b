package ssh

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// door is an SSH server on loopback that lets everybody in and does nothing.
func door(t *testing.T, hostKeys ...xssh.Signer) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	config := &xssh.ServerConfig{NoClientAuth: true}
	for _, key := range hostKeys {
		config.AddHostKey(key)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, channels, requests, err := xssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				go xssh.DiscardRequests(requests)
				for offered := range channels {
					offered.Reject(xssh.Prohibited, "this is only a door")
				}
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

// certified is key with a certificate of authority; change may spoil it before
// it is signed.
func certified(t *testing.T, authority, key xssh.Signer, change func(*xssh.Certificate)) xssh.Signer {
	t.Helper()
	certificate := &xssh.Certificate{
		Key: key.PublicKey(), CertType: xssh.HostCert, KeyId: "a host", ValidPrincipals: []string{"127.0.0.1"},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	if change != nil {
		change(certificate)
	}
	if err := certificate.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	signer, err := xssh.NewCertSigner(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func publicLine(key xssh.Signer) string {
	return strings.TrimSpace(string(xssh.MarshalAuthorizedKey(key.PublicKey())))
}

// knowing is a Remote with a known_hosts file, and the file's path.
func knowing(t *testing.T, text string, log *slog.Logger) (*Remote, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := OpenKnownHosts(path, log)
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := newLogin(t)
	return New(Config{Reach: Reach{Loopback: true}, KnownHosts: known}, keys{"key": secret}, log), path
}

func TestAKnownHostsFileDecidesOnTheFirstKey(t *testing.T) {
	key, other, authority := newKey(t), newKey(t), newKey(t)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := xssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	good := certified(t, authority, key, nil)
	expired := certified(t, authority, key, func(c *xssh.Certificate) { c.ValidBefore = c.ValidAfter + 1 })
	vouched := hostKey(key.PublicKey())
	vouched.Authority = xssh.FingerprintSHA256(authority.PublicKey())
	pin := func(key xssh.Signer) *process.HostKey { k := hostKey(key.PublicKey()); return &k }
	given := func(key xssh.Signer) *process.HostKey {
		return &process.HostKey{Fingerprint: xssh.FingerprintSHA256(key.PublicKey())}
	}
	const here = "[127.0.0.1]:PORT "
	ours := "@cert-authority " + here + publicLine(authority)

	for name, c := range map[string]struct {
		file    string
		has     []xssh.Signer
		pinned  *process.HostKey
		shown   process.HostKey // none: it is refused
		changed bool
		why     string
	}{
		"listed with its port":       {file: here + publicLine(key), has: []xssh.Signer{key}, shown: *pin(key)},
		"listed among others":        {file: "# ours\nx.example.com " + publicLine(other) + "\n10.0.0.1,[127.0.0.1]:PORT " + publicLine(key), has: []xssh.Signer{key}, shown: *pin(key)},
		"listed by its hash":         {file: "HASH " + publicLine(key), has: []xssh.Signer{key}, shown: *pin(key)},
		"listed without a port":      {file: "127.0.0.* " + publicLine(key), has: []xssh.Signer{key}, shown: *pin(key)},
		"with its port another key":  {file: "127.0.0.1 " + publicLine(key) + "\n" + here + publicLine(other), has: []xssh.Signer{key}, why: "not the one"},
		"at another port":            {file: "[127.0.0.1]:1 " + publicLine(key), has: []xssh.Signer{key}, why: "is not in"},
		"not listed":                 {has: []xssh.Signer{key}, why: "give ssh_host_key"},
		"excepted":                   {file: "*,!127.0.0.1 " + publicLine(key), has: []xssh.Signer{key}, why: "is not in"},
		"one key of several":         {file: here + publicLine(rsaKey), has: []xssh.Signer{key, rsaKey}, shown: *pin(rsaKey)},
		"a certificate":              {file: ours, has: []xssh.Signer{good}, shown: vouched},
		"a certificate and its key":  {file: ours, has: []xssh.Signer{key, good}, shown: vouched},
		"a certificate by any port":  {file: "@cert-authority * " + publicLine(authority), has: []xssh.Signer{good}, shown: vouched},
		"an RSA certificate":         {file: ours, has: []xssh.Signer{certified(t, authority, rsaKey, nil)}, shown: process.HostKey{Type: "ssh-rsa", Fingerprint: pin(rsaKey).Fingerprint, Authority: vouched.Authority}},
		"an authority, only a key":   {file: ours, has: []xssh.Signer{key}, why: "without a certificate"},
		"the authority's own key":    {file: ours, has: []xssh.Signer{authority}, why: "without a certificate"},
		"not the host's authority":   {file: "@cert-authority *.example.com " + publicLine(authority), has: []xssh.Signer{key, good}, why: "is not in"},
		"of another authority":       {file: ours, has: []xssh.Signer{certified(t, other, key, nil)}, why: "no authorities for hostname"},
		"of another, but listed":     {file: ours + "\n" + here + publicLine(key), has: []xssh.Signer{certified(t, other, key, nil)}, shown: *pin(key)},
		"an expired certificate":     {file: ours, has: []xssh.Signer{expired}, why: "expired"},
		"a certificate of tomorrow":  {file: ours, has: []xssh.Signer{certified(t, authority, key, func(c *xssh.Certificate) { c.ValidAfter = c.ValidBefore - 1 })}, why: "not yet valid"},
		"a certificate for another":  {file: ours, has: []xssh.Signer{certified(t, authority, key, func(c *xssh.Certificate) { c.ValidPrincipals = []string{"10.0.0.1"} })}, why: "principal"},
		"a certificate of a user":    {file: ours, has: []xssh.Signer{certified(t, authority, key, func(c *xssh.Certificate) { c.CertType = xssh.UserCert })}, why: "presented as a host key"},
		"revoked":                    {file: here + publicLine(key) + "\n@revoked * " + publicLine(key), has: []xssh.Signer{key}, why: "revoked"},
		"a certificate of a revoked": {file: ours + "\n@revoked * " + publicLine(key), has: []xssh.Signer{good}, why: "revoked"},
		"of a revoked authority":     {file: ours + "\n@revoked * " + publicLine(authority), has: []xssh.Signer{good}, why: "authority"},

		"pinned, not listed":                {has: []xssh.Signer{key}, pinned: pin(key), shown: *pin(key)},
		"pinned, another listed":            {file: here + publicLine(other), has: []xssh.Signer{key}, pinned: pin(key), shown: *pin(key)},
		"pinned another, listed":            {file: here + publicLine(key), has: []xssh.Signer{key}, pinned: pin(other), changed: true},
		"pinned another, a certificate":     {file: ours, has: []xssh.Signer{good}, pinned: pin(other), shown: vouched},
		"pinned another, expired":           {file: ours, has: []xssh.Signer{expired}, pinned: pin(other), changed: true},
		"pinned, expired":                   {file: ours, has: []xssh.Signer{expired}, pinned: pin(key), shown: *pin(key)},
		"pinned, revoked":                   {file: "@revoked * " + publicLine(key), has: []xssh.Signer{key}, pinned: pin(key), why: "revoked"},
		"given, not listed":                 {has: []xssh.Signer{key}, pinned: given(key), shown: *pin(key)},
		"given another, though certified":   {file: ours, has: []xssh.Signer{key, good}, pinned: given(other), changed: true},
		"given, revoked":                    {file: "@revoked * " + publicLine(key), has: []xssh.Signer{key}, pinned: given(key), why: "revoked"},
		"pinned one of the two that it has": {file: ours, has: []xssh.Signer{key, rsaKey, certified(t, authority, rsaKey, nil)}, pinned: pin(rsaKey), shown: *pin(rsaKey)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := door(t, c.has...)
			text := strings.ReplaceAll(c.file, "PORT", strconv.Itoa(port))
			text = strings.ReplaceAll(text, "HASH", knownhosts.HashHostname(fmt.Sprintf("[127.0.0.1]:%d", port)))
			remote, path := knowing(t, text+"\n", slog.New(slog.DiscardHandler))
			session, err := remote.Dial(t.Context(), process.Target{Host: "127.0.0.1", Port: port, User: domain.Root, Credential: "key", Pinned: c.pinned, Leader: process.Leader{Log: "log", Term: 1}})
			if err == nil {
				defer session.Close()
			}
			switch {
			case c.changed:
				if _, ok := errors.AsType[*process.KeyChanged](err); !ok {
					t.Errorf("not noticed: %v", err)
				}
			case c.why != "":
				if why := refusal(t, err); !strings.Contains(why, c.why) || !strings.Contains(why, "127.0.0.1") || strings.Contains(why, "%!") {
					t.Errorf("%s (%s)", why, path)
				}
			case err != nil:
				t.Error(err)
			case session.HostKey() != c.shown:
				t.Errorf("shown %+v, want %+v", session.HostKey(), c.shown)
			}
		})
	}
}

func TestAKnownHostsFileIsReadAgainWhenItChanges(t *testing.T) {
	var log bytes.Buffer
	key := newKey(t)
	port := door(t, key)
	remote, path := knowing(t, "", slog.New(slog.NewTextHandler(&log, nil)))
	allowed := func() bool {
		session, err := remote.Dial(t.Context(), process.Target{Host: "127.0.0.1", Port: port, User: domain.Root, Credential: "key", Leader: process.Leader{Log: "log", Term: 1}})
		if err == nil {
			session.Close()
		} else {
			refusal(t, err)
		}
		return err == nil
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if allowed() {
		t.Fatal("a host that is not in the file is let in")
	}
	good := fmt.Sprintf("[127.0.0.1]:%d %s\n", port, publicLine(key))
	write(good)
	if !allowed() {
		t.Error("a line that was added is not seen")
	}
	write(strings.Replace(good, publicLine(key), publicLine(newKey(t)), 1)) // of the same length
	if allowed() {
		t.Error("a line that was changed is not seen")
	}
	write(good)
	if !allowed() {
		t.Error("a line that was changed back is not seen")
	}
	write("what is no known_hosts file\n")
	for range 2 {
		if !allowed() {
			t.Error("what was read before is forgotten")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !allowed() {
		t.Error("what was read before is forgotten")
	}
	if n := strings.Count(log.String(), "could not be read again"); n != 2 {
		t.Errorf("two changes for the worse were logged %d times: %s", n, log.String())
	}

	if _, err := OpenKnownHosts(path, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that is not there is opened")
	}
	write("x ssh-ed25519 AAAA\n")
	if _, err := OpenKnownHosts(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path+":1") {
		t.Errorf("a file with a broken line: %v", err)
	}
}
