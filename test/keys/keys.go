// Package keys makes the SSH keys and certificates that tests log in and vouch with.
package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// New is a new Ed25519 key, and its private half as an OpenSSH private key in PEM,
// without a passphrase.
func New(t testing.TB) (private []byte, key ssh.Signer) {
	t.Helper()
	_, made, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(made, "")
	if err != nil {
		t.Fatal(err)
	}
	if key, err = ssh.NewSignerFromKey(made); err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), key
}

// Line is a public key or a certificate as a line of authorized_keys, without a
// comment and a line break.
func Line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

// Certificate is the line of a certificate of a key: of a host or a user (kind) that is
// the principal, valid until a time.
func Certificate(t testing.TB, authority ssh.Signer, kind uint32, of ssh.PublicKey, principal string, until time.Time) string {
	t.Helper()
	c := &ssh.Certificate{Key: of, CertType: kind, KeyId: "for a test", ValidPrincipals: []string{principal}, ValidBefore: uint64(until.Unix())}
	if kind == ssh.UserCert {
		c.Extensions = map[string]string{"permit-pty": ""}
	}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return Line(c)
}
