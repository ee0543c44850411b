package ssh

import (
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

func TestCertificatesThatAreTakenAndThatAreNot(t *testing.T) {
	authority, key := newKey(t), newKey(t)
	now := time.Now()
	user := func(change func(*xssh.Certificate)) string {
		return publicLine(certified(t, authority, key, func(c *xssh.Certificate) {
			c.CertType, c.KeyId, c.ValidPrincipals = xssh.UserCert, "commissaire", []string{"root"}
			if change != nil {
				change(c)
			}
		}))
	}
	good := user(nil)
	for name, c := range map[string]struct {
		text string
		why  string // "": it is taken
	}{
		"a line":                 {text: good},
		"with a comment":         {text: good + " root@somewhere\n"},
		"in spaces":              {text: "\n  " + good + "\r\n"},
		"for ever":               {text: user(func(c *xssh.Certificate) { c.ValidBefore = xssh.CertTimeInfinity })},
		"from tomorrow on":       {text: user(func(c *xssh.Certificate) { c.ValidAfter = c.ValidBefore - 1 })},
		"expired":                {text: user(func(c *xssh.Certificate) { c.ValidBefore = uint64(now.Add(-time.Minute).Unix()) }), why: "it expired at 20"},
		"expired long since":     {text: user(func(c *xssh.Certificate) { c.ValidBefore = 0 }), why: "it expired at 1970"},
		"of a host":              {text: publicLine(certified(t, authority, key, nil)), why: "certificate of a host"},
		"for another key":        {text: publicLine(certified(t, authority, newKey(t), func(c *xssh.Certificate) { c.CertType = xssh.UserCert })), why: "it is for the key SHA256:"},
		"a key":                  {text: publicLine(key), why: "no SSH certificate"},
		"nothing":                {text: " ", why: "no SSH certificate"},
		"two":                    {text: good + "\n" + good, why: "no SSH certificate"},
		"with options":           {text: "no-pty " + good, why: "no SSH certificate"},
		"broken off":             {text: good[:len(good)/2], why: "no SSH certificate"},
		"too long":               {text: good + " " + strings.Repeat("x", maxCertificate), why: "more than 16384 bytes"},
		"the base64 of the line": {text: "c3NoLWVkMjU1MTktY2VydC12MDE=", why: "no SSH certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := ParseCertificate(c.text, xssh.FingerprintSHA256(key.PublicKey()), now)
			if c.why != "" {
				if err == nil || !strings.Contains(err.Error(), c.why) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || len(strings.Fields(line)) != 2 || !strings.HasPrefix(strings.TrimSpace(c.text), line) {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
}
