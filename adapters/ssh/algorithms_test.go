package ssh

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/test/vault"

	xssh "golang.org/x/crypto/ssh"
)

func TestAllThatIsSafeIsOffered(t *testing.T) {
	all := xssh.SupportedAlgorithms()
	for _, a := range []Algorithms{Modern, Compatible} {
		offer := a.offer()
		for _, c := range []struct{ have, offered []string }{
			{all.KeyExchanges, offer.KeyExchanges},
			{all.Ciphers, offer.Ciphers},
			{all.MACs, offer.MACs},
			{all.HostKeys, slices.Concat(certificateAlgorithms(a.hostKeys()), a.hostKeys())},
		} {
			for _, algorithm := range c.have {
				if !slices.Contains(c.offered, algorithm) && !strings.Contains(algorithm, "sha1") {
					t.Errorf("%s: %s is not offered", a, algorithm)
				}
			}
			if first := c.offered[0]; strings.Contains(first, "sha1") {
				t.Errorf("%s: %s comes first", a, first)
			}
		}
		for _, algorithm := range slices.Concat(offer.KeyExchanges, offer.Ciphers, offer.MACs, a.hostKeys()) {
			weak := strings.Contains(algorithm, "sha1") || algorithm == xssh.KeyAlgoRSA
			if weak && a != Compatible || strings.Contains(algorithm, "cbc") || strings.Contains(algorithm, "arcfour") || strings.Contains(algorithm, "dss") {
				t.Errorf("%s: %s is offered", a, algorithm)
			}
		}
	}
	for _, algorithm := range []string{xssh.KeyExchangeDH16SHA512, xssh.KeyExchangeDHGEXSHA256, xssh.KeyExchangeMLKEM768X25519} {
		if !slices.Contains(Modern.offer().KeyExchanges, algorithm) {
			t.Errorf("%s is not offered", algorithm)
		}
	}
}

func rsaKey(t *testing.T, bits int) (text []byte, signer xssh.Signer) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = xssh.NewSignerFromKey(key); err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), signer
}

// TestHostsAreReachedByWhatTheyOffer asks servers of OpenSSH that offer little.
func TestHostsAreReachedByWhatTheyOffer(t *testing.T) {
	const compatible, both = string(Compatible), "both"
	rsa2048, signer := rsaKey(t, 2048)
	rsa1024, short := rsaKey(t, 1024)
	for name, c := range map[string]struct {
		settings []string
		login    []byte      // nil: Ed25519
		signer   xssh.Signer // of login
		hostKey  []byte      // nil: Ed25519
		reached  string      // with which choice; "": with none
		why      string      // it is not reached with Modern
	}{
		"group 16 only":              {settings: []string{"KexAlgorithms diffie-hellman-group16-sha512"}, reached: both},
		"group exchange only":        {settings: []string{"KexAlgorithms diffie-hellman-group-exchange-sha256"}, reached: both},
		"group 14 with SHA-256 only": {settings: []string{"KexAlgorithms diffie-hellman-group14-sha256"}, reached: both},
		"NIST curves only":           {settings: []string{"KexAlgorithms ecdh-sha2-nistp521"}, reached: both},
		"CTR and HMAC-SHA-512 only":  {settings: []string{"Ciphers aes192-ctr", "MACs hmac-sha2-512"}, reached: both},
		"ChaCha20 only":              {settings: []string{"Ciphers chacha20-poly1305@openssh.com"}, reached: both},
		"group 14 with SHA-1":        {settings: []string{"KexAlgorithms diffie-hellman-group14-sha1"}, reached: compatible, why: "as key exchange it offers only diffie-hellman-group14-sha1"},
		"group 1":                    {settings: []string{"KexAlgorithms diffie-hellman-group1-sha1"}, reached: compatible, why: "key exchange"},
		"group exchange with SHA-1":  {settings: []string{"KexAlgorithms diffie-hellman-group-exchange-sha1"}, reached: compatible, why: "key exchange"},
		"HMAC-SHA-1":                 {settings: []string{"Ciphers aes128-ctr", "MACs hmac-sha1"}, reached: compatible, why: "hmac-sha1"},
		"host key that signs SHA-1":  {settings: []string{"HostKeyAlgorithms ssh-rsa"}, hostKey: rsa2048, reached: compatible, why: "as host key it offers only ssh-rsa"},
		"login that signs SHA-1":     {settings: []string{"PubkeyAcceptedAlgorithms ssh-rsa"}, login: rsa2048, signer: signer, reached: compatible, why: "if it knows RSA only with SHA-1"},
		"RSA host key of 2048 bits":  {hostKey: rsa2048, reached: both},
		"RSA host key of 1024 bits":  {settings: []string{"RequiredRSASize 1024"}, hostKey: rsa1024, reached: compatible, why: "RSA key of 1024 bits"},
		"RSA login of 2048 bits":     {login: rsa2048, signer: signer, reached: both},
		"RSA login of 1024 bits":     {settings: []string{"RequiredRSASize 1024"}, login: rsa1024, signer: short, reached: compatible, why: "RSA key of 1024 bits"},
		"CBC only":                   {settings: []string{"Ciphers aes128-cbc"}, why: "cipher"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{})
			if c.login != nil {
				s.remote.credentials = vault.Of("key", c.login)
				s.key = c.signer
			}
			if c.hostKey != nil {
				s.put(t, "etc/host_key", string(c.hostKey))
			}
			port, key := s.sshd(t, c.settings...)
			s.target.Port, s.target.Pinned = port, &key
			dial := func(a Algorithms, target process.Target) (session process.Session, err error) {
				config := s.remote.config
				config.Algorithms = a
				remote := New(config, s.remote.credentials, s.remote.log)
				within(t, 10*time.Second, "sshd listens", func() bool {
					session, err = remote.Dial(t.Context(), target)
					_, away := errors.AsType[*process.Unreachable](err)
					return !away
				})
				return session, err
			}
			given := s.target
			given.Pinned = &process.HostKey{Fingerprint: s.target.Pinned.Fingerprint}
			for _, target := range []process.Target{s.target, given} {
				for _, a := range []Algorithms{Modern, Compatible} {
					session, err := dial(a, target)
					if err != nil {
						why := refusal(t, err)
						if c.reached == both || c.reached == string(a) {
							t.Errorf("%s: %s", a, why)
						} else if c.why != "" && !strings.Contains(why, c.why) || (c.reached == compatible) != strings.Contains(why, "ssh.algorithms") {
							t.Errorf("%s: the reason is: %s", a, why)
						}
						continue
					}
					if c.reached != both && c.reached != string(a) {
						t.Errorf("%s: it is reached", a)
					}
					facts, err := session.Facts(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					for _, setting := range c.settings {
						word, value, _ := strings.Cut(setting, " ")
						shown := map[string]string{"KexAlgorithms": facts.SSH.KeyExchange, "Ciphers": facts.SSH.Cipher, "MACs": facts.SSH.MAC, "HostKeyAlgorithms": facts.SSH.HostKey}
						if got, ok := shown[word]; ok && got != value {
							t.Errorf("%s: shown is %s as %s", setting, got, word)
						}
					}
					if facts.SSH.KeyExchange == "" || facts.SSH.HostKey == "" || facts.SSH.Cipher == "" {
						t.Errorf("shown is %+v", facts.SSH)
					}
					session.Close()
				}
			}
		})
	}
}
