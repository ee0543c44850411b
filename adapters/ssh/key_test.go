package ssh

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

func TestPrivateKeysThatAreTaken(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{ed, ec, rs} {
		public, err := xssh.NewPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		openssh, err := xssh.MarshalPrivateKey(key, "a comment")
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range []*pem.Block{openssh, {Type: "PRIVATE KEY", Bytes: pkcs8}} {
			text := pem.EncodeToMemory(block)
			for _, form := range []string{string(text), strings.ReplaceAll(string(text), "\n", "\r\n"), "\n" + strings.TrimSpace(string(text))} {
				fingerprint, err := ParsePrivateKey([]byte(form))
				if err != nil || fingerprint != xssh.FingerprintSHA256(public) {
					t.Errorf("%T as %s: %q, %v", key, block.Type, fingerprint, err)
				}
			}
		}
	}
}

func TestPrivateKeysThatAreNotTaken(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := xssh.MarshalPrivateKeyWithPassphrase(ed, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := xssh.NewPublicKey(ed.Public())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := xssh.MarshalPrivateKey(ed, "")
	if err != nil {
		t.Fatal(err)
	}
	half := string(pem.EncodeToMemory(plain))
	half = half[:len(half)/2]
	for text, want := range map[string]error{
		string(pem.EncodeToMemory(locked)):        errPassphrase,
		string(xssh.MarshalAuthorizedKey(public)): errPublicKey,
		half: errNoKey,
		"":   errNoKey,
		"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA":  errNoKey,
		strings.Repeat("\x00\xff", 10_000):           errNoKey,
		"-----BEGIN PUBLIC KEY-----\nAAAA\n":         errPublicKey,
		"password: hunter2, which must not be shown": errNoKey,
	} {
		if _, err := ParsePrivateKey([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestAddressesThatMayNotBeReached(t *testing.T) {
	site := Reach{Deny: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("fd00::/8")}}
	development := Reach{Loopback: true}
	for ip, denied := range map[string][2]bool{ // by site, in development
		"10.2.0.2":           {false, false},
		"2001:db8::1":        {false, false},
		"10.9.1.1":           {true, false},
		"::ffff:10.9.1.1":    {true, false},
		"fd12::1":            {true, false},
		"127.0.0.9":          {true, false},
		"::1":                {true, false},
		"::ffff:127.0.0.1":   {true, false},
		"0.0.0.0":            {true, true},
		"0.1.2.3":            {true, true},
		"::":                 {true, true},
		"169.254.169.254":    {true, true},
		"::ffff:169.254.1.1": {true, true},
		"fe80::1%eth0":       {true, true},
		"224.0.0.1":          {true, true},
		"ff02::1":            {true, true},
		"255.255.255.255":    {true, true},
	} {
		addr := netip.MustParseAddr(ip)
		if got := [2]bool{site.Denied(addr), development.Denied(addr)}; got != denied {
			t.Errorf("%s: %v", ip, got)
		}
	}
	if !site.Denied(netip.Addr{}) {
		t.Error("no address at all is allowed")
	}
}
