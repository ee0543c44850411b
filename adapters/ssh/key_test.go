package ssh

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
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

// encoded is a key in PEM, with a label.
func encoded(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

func mustDER[K any](t *testing.T, marshal func(K) ([]byte, error), key K) []byte {
	t.Helper()
	der, err := marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestTheFirstBlockThatIsAPrivateKeyIsTaken(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1 := encoded("EC PRIVATE KEY", mustDER(t, x509.MarshalECPrivateKey, ec))
	pkcs8 := encoded("PRIVATE KEY", mustDER(t, x509.MarshalPKCS8PrivateKey, any(ec)))
	other := encoded("PRIVATE KEY", mustDER(t, x509.MarshalPKCS8PrivateKey, any(ed)))
	parameters := encoded("EC PARAMETERS", []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})
	certificate := encoded("CERTIFICATE", []byte("a certificate"))
	bag := "Bag Attributes\n    friendlyName: a key\n    localKeyID: 01 02\nKey Attributes: <No Attributes>\n"
	for name, text := range map[string]string{
		"EC PARAMETERS before it":             parameters + sec1,
		"a certificate before it":             certificate + pkcs8,
		"a chain before and after it":         certificate + certificate + sec1 + certificate,
		"text around":                         bag + pkcs8 + "# the end\n" + bag,
		"text with dashes":                    "-----\n---- what ----\n" + pkcs8,
		"another key after it":                pkcs8 + other,
		"public half before it":               encoded("PUBLIC KEY", mustDER(t, x509.MarshalPKIXPublicKey, any(ec.Public()))) + pkcs8,
		"CRLF":                                strings.ReplaceAll(parameters+sec1, "\n", "\r\n"),
		"a byte order mark":                   "\ufeff" + pkcs8,
		"PKCS#8 with the label of SEC 1":      encoded("EC PRIVATE KEY", mustDER(t, x509.MarshalPKCS8PrivateKey, any(ec))),
		"SEC 1 with the label of PKCS#8":      encoded("PRIVATE KEY", mustDER(t, x509.MarshalECPrivateKey, ec)),
		"a certificate and EC PARAMETERS":     certificate + parameters + sec1,
		"the text that openssl puts before":   "Private-Key: (256 bit)\npriv:\n    00:11\n" + sec1,
		"blanks at the ends of lines (CR LF)": strings.ReplaceAll(pkcs8, "\n", " \r\n"),
	} {
		public, err := xssh.NewPublicKey(ec.Public())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParsePrivateKey([]byte(text)); err != nil || got != xssh.FingerprintSHA256(public) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	public, err := xssh.NewPublicKey(rs.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		encoded("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs)), encoded("RSA PRIVATE KEY", mustDER(t, x509.MarshalPKCS8PrivateKey, any(rs))),
		encoded("PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs)), encoded("ANY PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs)),
	} {
		if got, err := ParsePrivateKey([]byte(text)); err != nil || got != xssh.FingerprintSHA256(public) {
			t.Errorf("RSA: %s, %v", got, err)
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
	block, err := xssh.MarshalPrivateKey(ed, "")
	if err != nil {
		t.Fatal(err)
	}
	plain := string(pem.EncodeToMemory(block))
	der := mustDER(t, x509.MarshalPKCS8PrivateKey, any(ed))
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line := string(xssh.MarshalAuthorizedKey(public))
	openssh := func(kind, cipher string) string {
		return encoded("OPENSSH PRIVATE KEY", append([]byte("openssh-key-v1\x00"), xssh.Marshal(struct {
			Cipher, KDF, Options string
			Keys                 uint32
			Public, Private      []byte
		}{cipher, "none", "", 1, xssh.Marshal(struct{ Type, Key string }{kind, "x"}), []byte("x")})...))
	}
	pkcs8 := func(oid ...int) string {
		return encoded("PRIVATE KEY", mustDER(t, asn1.Marshal, any(struct {
			Version   int
			Algorithm struct{ OID asn1.ObjectIdentifier }
			Key       []byte
		}{0, struct{ OID asn1.ObjectIdentifier }{oid}, []byte("x")})))
	}
	b64 := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for text, want := range map[string]error{
		string(pem.EncodeToMemory(locked)):                                                  errPassphrase,
		openssh(xssh.KeyAlgoRSA, "aes256-ctr"):                                              errPassphrase,
		encoded("ENCRYPTED PRIVATE KEY", []byte{}):                                          errPassphrase,
		encoded("CERTIFICATE", []byte("x")) + encoded("ENCRYPTED PRIVATE KEY", []byte("x")): errPassphrase,
		"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n-----END RSA PRIVATE KEY-----\n": errPassphrase,
		encoded("ENCRYPTED PRIVATE KEY", []byte("x")) + plain: errPassphrase, // the first one is the one

		encoded("DSA PRIVATE KEY", []byte("x")):                                      errDSA,
		openssh("ssh-dss", "none"):                                                   errDSA,
		openssh("ssh-dss", "aes256-ctr"):                                             errDSA,
		pkcs8(1, 2, 840, 10040, 4, 1):                                                errDSA,
		openssh("sk-ssh-ed25519@openssh.com", "none"):                                errToken,
		openssh("ssh-ed448", "none"):                                                 errSort,
		pkcs8(1, 3, 101, 113):                                                        errSort, // Ed448
		pkcs8(1, 2, 840, 113549, 1, 1, 10):                                           errSort, // RSA-PSS
		encoded("EC PRIVATE KEY", mustDER(t, x509.MarshalECPrivateKey, p224)):        errSort,
		encoded("PRIVATE KEY", mustDER(t, x509.MarshalPKCS8PrivateKey, any(x25519))): errSort,
		"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x\n":         errPuTTY,
		b64("PuTTY-User-Key-File-2: ssh-rsa\r\nEncryption: aes256-cbc\r\n"):          errPuTTY,
		"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nComment: x\nP2/5\n":             errSSH2,
		"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n":                            errPGP,
		string(der):                            errBinary,
		line:                                   errPublicKey,
		"-----BEGIN PUBLIC KEY-----\nAAAA\n":   errPublicKey,
		encoded("RSA PUBLIC KEY", []byte("x")): errPublicKey,
		"---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n":           errPublicKey,
		encoded("CERTIFICATE", []byte("x")):                 errCertificate,
		publicLine(certified(t, newKey(t), newKey(t), nil)): errCertificate,

		b64(plain):      errEncoded,
		b64(b64(plain)): errEncoded,
		b64(line):       errPublicKey,
		b64(""):         errNothing,
		" \r\n\t":       errNothing,
		"":              errNothing,

		plain[:len(plain)/2]:                                             errDamaged,
		strings.Replace(plain, "\n", "\n*", 2):                           errDamaged,
		encoded("OPENSSH PRIVATE KEY", block.Bytes[:len(block.Bytes)/2]): errDamaged,
		encoded("PRIVATE KEY", der[:20]):                                 errDamaged,
		encoded("RSA PRIVATE KEY", nil):                                  errDamaged,
		strings.ReplaceAll(plain, "\n", " "):                             errLineBreaks,
		strings.ReplaceAll(plain, "\n", `\n`):                            errLineBreaks,
		strings.ReplaceAll(plain, "\n", ""):                              errLineBreaks,
		"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA":                      errDamaged,
		strings.Repeat("\x00\xff", 10_000):                               errNoKey,
		"password: hunter2, which must not be shown":                     errNoKey,
		b64("password: hunter2, which must not be shown"):                errNoKey,
	} {
		fingerprint, err := ParsePrivateKey([]byte(text))
		if !errors.Is(err, want) || fingerprint != "" {
			t.Errorf("%.60q: %v; want %v", text, err, want)
		} else if err.Error() != want.Error() {
			t.Errorf("%.60q: more is said than %v: %v", text, want, err)
		}
	}
}

func TestShortRSAKeysAreTakenOnlyIfConfigured(t *testing.T) {
	for bits, taken := range map[int][2]bool{1024: {false, true}, 2040: {false, true}, 2048: {true, true}} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		text := []byte(encoded("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)))
		for i, a := range []Algorithms{Modern, Compatible} {
			if _, err := a.ParsePrivateKey(text); (err == nil) != taken[i] {
				t.Errorf("%d bits, %s: %v", bits, a, err)
			} else if err != nil && (!strings.Contains(err.Error(), fmt.Sprint(bits)) || !strings.Contains(err.Error(), "ssh.algorithms")) {
				t.Error(err)
			}
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
