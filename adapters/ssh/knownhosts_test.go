package ssh

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/test/keys"
	"commissaire/test/vault"

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
	secret, _ := keys.New(t)
	return New(Config{Reach: Reach{Loopback: true}, KnownHosts: known}, vault.Of("key", secret), log), path
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
		"excepted":                   {file: "*,![127.0.0.1]:PORT,!127.0.0.1 " + publicLine(key), has: []xssh.Signer{key}, why: "is not in"},
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
	write("@revoked what cannot be read\n")
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
	write("# ours\n@revoked x ssh-ed25519 AAAA\n")
	if _, err := OpenKnownHosts(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path+":2") {
		t.Errorf("a file with a broken @revoked line: %v", err)
	}
}

func TestLinesThatCannotBeReadAreLeftOutWithOneWarning(t *testing.T) {
	var log bytes.Buffer
	key := newKey(t)
	port := door(t, key)
	edDSA448 := xssh.Marshal(struct{ Type, Key string }{"ssh-ed448", strings.Repeat("k", 57)})
	mlDSA := xssh.Marshal(struct{ Type, Key string }{"ssh-mldsa65-ed25519@openssh.com", strings.Repeat("k", 1984)})
	dsa2048 := xssh.Marshal(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", new(big.Int).Lsh(big.NewInt(1), 2047), new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(2), big.NewInt(3)})
	text := func(blob []byte) string { return base64.StdEncoding.EncodeToString(blob) }
	unknown := []string{
		"h ssh-ed448 " + text(edDSA448),
		"h ssh-mldsa65-ed25519@openssh.com " + text(mlDSA),
		"h ssh-dss " + text(dsa2048),
		"h 1024 35 142851", // SSH-1
		"h 1024 65537 142851 root@h",
		"h",
		"h ssh-ed25519",
		"h ssh-ed25519 AAAA",
		"h ssh-ed25519 ?",
		"h ssh-rsa " + strings.Fields(publicLine(key))[1],
		"|1|AAAA|BBBB " + publicLine(key),
		"|2|AAAAAAAAAAAAAAAAAAAAAAAAAAA=|AAAAAAAAAAAAAAAAAAAAAAAAAAA= " + publicLine(key),
		"@what h " + publicLine(key),
		"@cert-authority @what h " + publicLine(key),
		"@cert-authority",
		"\x00\xff\xfe " + strings.Repeat("x", 200_000),
		"<<<<<<< HEAD",
	}
	good := fmt.Sprintf("[127.0.0.1]:%d %s\n", port, publicLine(key))
	remote, path := knowing(t, "# all\n"+strings.Join(unknown, "\n")+"\n"+good, slog.New(slog.NewTextHandler(&log, nil)))
	target := process.Target{Host: "127.0.0.1", Port: port, User: domain.Root, Credential: "key"}
	enter := func() {
		t.Helper()
		session, err := remote.Dial(t.Context(), target)
		if err != nil {
			t.Error(err)
		} else {
			session.Close()
		}
	}
	warnings := func(want int) string {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != want || strings.Count(log.String(), "level=WARN") != want {
			t.Errorf("logged %d times, want %d: %.2000s", len(lines), want, log.String())
		}
		return lines[len(lines)-1]
	}
	enter()
	enter()
	said := warnings(1)
	for i := range unknown {
		if !strings.Contains(said, fmt.Sprintf("%d (", i+2)) {
			t.Errorf("line %d is not named: %s", i+2, said)
		}
	}
	if len(said) > 4096 {
		t.Errorf("a warning of %d bytes", len(said))
	}

	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		enter()
	}
	write(good + "h ssh-ed448 " + text(edDSA448) + "\n")
	if said := warnings(2); !strings.Contains(said, `2 (a key of type`) {
		t.Error(said)
	}
	write(good + "h ssh-ed448 " + text(edDSA448)) // the same lines
	warnings(2)
	write(good + strings.Repeat("h ssh-ed448 AAAA\n", 1000))
	if said := warnings(3); !strings.Contains(said, "and 980 more") || len(said) > 4096 {
		t.Error(said)
	}

	for _, line := range unknown[:10] {
		for _, marker := range []string{"@revoked ", "  @revoked\t", "@cert-authority @revoked ", "@Revoked "} {
			if err := os.WriteFile(path, []byte(good+marker+line+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenKnownHosts(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path+":2: ") {
				t.Errorf("%s%.40s: %v", marker, line, err)
			}
		}
	}
}

// knownTrials are known_hosts files and the hosts that are looked for in them. KEY
// is the host's own key, OTHER and DSA are others.
var knownTrials = []struct{ file, host string }{
	{"h KEY", "h"},
	{"h KEY", "x"},
	{"H KEY", "h"},
	{"h KEY", "H"},
	{"Host.Example.COM KEY", "host.example.com"},
	{"h KEY a comment here", "h"},
	{"h KEY\r\n", "h"},
	{"h KEY a comment\r\n", "h"},
	{"\r\n# x\r\n  \r\nh KEY\r\n", "h"},
	{"h\tKEYTAB", "h"},
	{" \th \t KEY", "h"},
	{"#h KEY", "h"},
	{"h #KEY", "h"},
	{"h # KEY", "h"},
	{"x,h KEY", "h"},
	{"h,x KEY", "h"},
	{",h KEY", "h"},
	{"h, KEY", "h"},
	{"x, h KEY", "h"},
	{"* KEY", "h"},
	{"? KEY", "h"},
	{"? KEY", "hh"},
	{"h?st KEY", "host"},
	{"H?ST KEY", "host"},
	{"*.example.com KEY", "a.example.com"},
	{"*.EXAMPLE.com KEY", "a.example.com"},
	{"*.example.com KEY", "example.com"},
	{"*.example.com KEY", "a.b.example.com"},
	{"h* KEY", "h"},
	{"*h KEY", "h"},
	{"h** KEY", "h"},
	{"*a*b*c KEY", "xaxbxcxbxc"},
	{"*a*b*c KEY", "xaxbx"},
	{"10.0.0.* KEY", "10.0.0.9"},
	{"10.0.0.? KEY", "10.0.0.10"},
	{"10.0.0.0/24 KEY", "10.0.0.9"},
	{"[a-z] KEY", "h"},
	{"h\\ KEY", "h"},
	{"*,!h KEY", "h"},
	{"*,!H KEY", "h"},
	{"!h,* KEY", "h"},
	{"!x,h KEY", "h"},
	{"!x KEY", "h"},
	{"h,!h KEY", "h"},
	{"!*.EXAMPLE.com,* KEY", "a.example.com"},
	{"! KEY", "h"},
	{"h,! KEY", "h"},
	{"!!h,* KEY", "h"},
	{"*,!h KEY\nh KEY", "h"},
	{"[h]:2222 KEY", "[h]:2222"},
	{"[H]:2222 KEY", "[h]:2222"},
	{"[h]:2222 KEY", "h"},
	{"[h]:2222 KEY", "[h]:2223"},
	{"h KEY", "[h]:2222"},
	{"[h]:22 KEY", "h"},
	{"[h] KEY", "h"},
	{"h:2222 KEY", "[h]:2222"},
	{"[h]:* KEY", "[h]:2222"},
	{"[h]:* KEY", "h"},
	{"[*]:2222 KEY", "[h]:2222"},
	{"[?]:2??2 KEY", "[h]:2222"},
	{"* KEY", "[h]:2222"},
	{"*,!h KEY", "[h]:2222"},
	{"*,![h]:2222 KEY", "[h]:2222"},
	{"*,![H]:* KEY", "[h]:2222"},
	{"*:2222 KEY", "[h]:2222"},
	{"h KEY\n[h]:2222 OTHER", "[h]:2222"},
	{"h OTHER\n[h]:2222 KEY", "[h]:2222"},
	{"h KEY\n[h]:2222 DSA", "[h]:2222"},
	{"h KEY\n[h]:2222 ssh-new AAAA", "[h]:2222"},
	{"h KEY\n@cert-authority [h]:2222 OTHER", "[h]:2222"},
	{"@cert-authority h KEY", "h"},
	{"@cert-authority h OTHER\nh KEY", "h"},
	{"h OTHER\nh KEY", "h"},
	{"h KEY\nh OTHER", "h"},
	{"h OTHER", "h"},
	{"h DSA\nh KEY", "h"},
	{"h OTHER\n\n\nx KEY", "h"},
	{"HASH(h) KEY", "h"},
	{"HASH(h) KEY", "x"},
	{"HASH(h) KEY", "H"},
	{"HASH([h]:2222) KEY", "[h]:2222"},
	{"HASH([h]:2222) KEY", "h"},
	{"HASH(h) KEY", "[h]:2222"},
	{"HASH([h]:22) KEY", "h"},
	{"HASH(2001:db8::1) KEY", "2001:db8::1"},
	{"HASH([2001:db8::1]:2222) KEY", "[2001:db8::1]:2222"},
	{"HASH(h),x KEY", "h"},
	{"x,HASH(h) KEY", "h"},
	{"|1|AAAA|AAAA KEY\nh KEY", "h"},
	{"|3|x|y KEY\nh KEY", "h"},
	{"2001:db8::1 KEY", "2001:db8::1"},
	{"2001:DB8::1 KEY", "2001:db8::1"},
	{"[2001:db8::1]:2222 KEY", "[2001:db8::1]:2222"},
	{"2001:db8::1 KEY", "[2001:db8::1]:2222"},
	{"2001:db8::* KEY", "2001:db8::1"},
	{"[2001:db8::1] KEY", "2001:db8::1"},
	{"@revoked * KEY\nh KEY", "h"},
	{"h KEY\n@revoked h KEY", "h"},
	{"h KEY\n@revoked x KEY", "h"},
	{"h KEY\n@revoked *,!h KEY", "h"},
	{"h KEY\n@revoked H KEY", "h"},
	{"h KEY\n@revoked HASH(h) KEY", "h"},
	{"h KEY\n@revoked * OTHER", "h"},
	{"[h]:2222 KEY\n@revoked [h]:2222 KEY", "[h]:2222"},
	{"h KEY\n@revoked h KEY", "[h]:2222"},
	{"[h]:2222 KEY\n@revoked h KEY", "[h]:2222"},
	{"h KEY\n@revoked\th KEY", "h"},
	{"@revoked\t*\tKEYTAB\nh KEYTAB", "h"},
	{"@what h KEY", "h"},
	{"@what * KEY\nh KEY", "h"},
	{"h ssh-new AAAA\nh KEY", "h"},
	{"h 1024 35 123456\nh KEY", "h"},
	{"h ssh-ed25519 AAAA\nh KEY", "h"},
	{"h ssh-ed25519 A?\nh KEY", "h"},
	{"junk\nh KEY", "h"},
	{"h\nh KEY", "h"},
	{"h ED25519 BLOB", "h"},
	{"h ssh-rsa BLOB", "h"},
	{"h ssh-ed25519 BLOB#", "h"},
	{"h ssh-ed25519 BLOB=", "h"},
	{"LONG KEY", "h"},
	{"h,LONG KEY", "h"},
	{"LONGLINE KEY", "h"},
}

func (known knownFile) names(name string) bool {
	return slices.ContainsFunc(known, func(l knownLine) bool { return l.hosts.match(strings.ToLower(name)) })
}

// TestKnownHostsAreFoundAsOpenSSHFindsThem asks ssh-keygen and a client of OpenSSH
// about the same files.
func TestKnownHostsAreFoundAsOpenSSHFindsThem(t *testing.T) {
	client, err := exec.LookPath("ssh")
	keygen, keygenErr := exec.LookPath("ssh-keygen")
	if err != nil || keygenErr != nil {
		t.Skip("no ssh or ssh-keygen: OpenSSH's reading of known_hosts is not compared")
	}
	key, other := newKey(t), newKey(t)
	port := door(t, key)
	dsa := "ssh-dss " + base64.StdEncoding.EncodeToString(xssh.Marshal(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", new(big.Int).SetBit(big.NewInt(1), 1023, 1), new(big.Int).SetBit(big.NewInt(1), 159, 1), big.NewInt(2), big.NewInt(3)}))
	blob := strings.Fields(publicLine(key))[1]
	expand := strings.NewReplacer("KEYTAB", strings.ReplaceAll(publicLine(key), " ", "\t"), "KEY", publicLine(key), "OTHER", publicLine(other), "DSA", dsa, "BLOB", blob,
		"LONGLINE", strings.Repeat("x,", 50_000)+"h", "LONG", strings.Repeat("*", 1100))
	hashed := regexp.MustCompile(`HASH\((.*?)\)`)
	for i, trial := range knownTrials {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			text := hashed.ReplaceAllStringFunc(trial.file, func(s string) string { return knownhosts.HashHostname(s[5 : len(s)-1]) })
			text = expand.Replace(text)
			path := filepath.Join(t.TempDir(), "known_hosts")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			known, err := OpenKnownHosts(path, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}

			name, at := trial.host, 22
			if host, text, err := net.SplitHostPort(trial.host); err == nil && strings.HasPrefix(trial.host, "[") {
				name = host
				if at, err = strconv.Atoi(text); err != nil {
					t.Fatal(err)
				}
			}
			trust := newTrust(known, process.Target{Host: domain.Address(name), Port: at}, Modern)
			ours := trust.check("", nil, key.PublicKey())

			ssh := exec.CommandContext(t.Context(), client, "-v", "-F", "none", "-p", strconv.Itoa(at), "-l", "root",
				"-o", "UserKnownHostsFile="+path, "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
				"-o", fmt.Sprintf("ProxyCommand=%s -test.run=^TestPipe$", os.Args[0]), name, "true")
			ssh.Env = append(os.Environ(), "TEST_PIPE_TO="+net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			said, _ := ssh.CombinedOutput() // the door lets nobody do anything
			theirs := strings.Contains(string(said), "Authenticated to")
			if !theirs && !strings.Contains(string(said), "Host key verification failed") {
				t.Fatalf("ssh: %s", said)
			}
			if theirs != (ours == nil) != stricter[trial] {
				t.Errorf("%.80q, looking for %s: ssh lets it in: %t; here: %v\n%s", trial.file, trial.host, theirs, ours, said)
			}

			if trial.host != strings.ToLower(trial.host) {
				return // ssh-keygen takes a hashed name as it is written, ssh in lower case
			}
			found, _ := exec.CommandContext(t.Context(), keygen, "-F", trial.host, "-f", path).Output() // it fails where it finds nothing
			if there := len(found) > 0; there != known.current().names(trial.host) && !strings.Contains(trial.file, "AAAA") && !strings.Contains(trial.file, "BLOB") {
				t.Errorf("%.80q, looking for %s: found by ssh-keygen: %t", trial.file, trial.host, there)
			}
		})
	}
}

// stricter are the trials in which ssh lets in what is revoked here: a key that is
// revoked for a host is so on all its ports, and with a tab after the marker.
var stricter = map[struct{ file, host string }]bool{
	{"[h]:2222 KEY\n@revoked h KEY", "[h]:2222"}: true,
	{"h KEY\n@revoked\th KEY", "h"}:              true,
}

// TestPipe is no test: it connects standard input and output to an address, for ssh.
func TestPipe(t *testing.T) {
	to := os.Getenv("TEST_PIPE_TO")
	if to == "" {
		t.Skip("it is run by another test")
	}
	conn, err := net.Dial("tcp", to)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(os.Stdout, conn)
	os.Exit(0)
}
