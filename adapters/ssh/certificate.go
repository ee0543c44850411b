package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"commissaire/commands"

	xssh "golang.org/x/crypto/ssh"
)

// maxCertificate is the most that the text of a certificate may have, in bytes.
const maxCertificate = 16 << 10

// ParseCertificate checks that text is one user certificate, in the line form
// of authorized_keys and of ssh-keygen's -cert.pub files, that it is for the key
// of the given fingerprint and that it has not expired at now. It gives the line
// without its comment. Who signed it, and for whom, is for the hosts to judge.
// Its errors are sentences for whoever sent it.
func ParseCertificate(text, fingerprint string, now time.Time) (string, error) {
	if len(text) > maxCertificate {
		return "", fmt.Errorf("it has more than %d bytes", maxCertificate)
	}
	certificate, err := parseCertificate(text)
	switch {
	case err != nil:
		return "", err
	case certificate.CertType != xssh.UserCert:
		return "", errors.New("it is the certificate of a host; that of a user is wanted (ssh-keygen -s without -h)")
	case xssh.FingerprintSHA256(certificate.Key) != fingerprint:
		return "", fmt.Errorf("it is for the key %s, and the private key given is %s", xssh.FingerprintSHA256(certificate.Key), fingerprint)
	case expired(certificate, now):
		return "", fmt.Errorf("it expired at %s", expiry(certificate))
	}
	return string(bytes.TrimSpace(xssh.MarshalAuthorizedKey(certificate))), nil
}

func parseCertificate(text string) (*xssh.Certificate, error) {
	key, _, options, rest, err := xssh.ParseAuthorizedKey([]byte(strings.TrimSpace(text)))
	certificate, ok := key.(*xssh.Certificate)
	if err != nil || !ok || len(options) > 0 || len(rest) > 0 {
		return nil, errors.New("this is no SSH certificate: one line such as `ssh-ed25519-cert-v01@openssh.com AAAA…` is wanted, as ssh-keygen -s writes it")
	}
	return certificate, nil
}

func expired(certificate *xssh.Certificate, now time.Time) bool {
	return certificate.ValidBefore != xssh.CertTimeInfinity && now.Unix() >= 0 && uint64(now.Unix()) >= certificate.ValidBefore
}

// expiry is when the certificate expires, which it must.
func expiry(certificate *xssh.Certificate) string {
	return time.Unix(int64(min(certificate.ValidBefore, 1<<40)), 0).UTC().Format(time.RFC3339) //nolint:gosec // it fits
}

// login is how this service proves to a host who it is.
type login struct {
	key         xssh.Signer
	certificate *xssh.Certificate // of the key; nil: none
	expired     bool              // the certificate, which is not shown then
	old         xssh.Signer       // the key, signing with SHA-1; nil: it may not, or is none that could
}

// parseLogin makes a login of a private key and the line of a certificate, "" if
// there is none.
func (a Algorithms) parseLogin(key commands.Secret, certificate string) (login, error) {
	signer, err := a.parseKey(key)
	if err != nil {
		return login{}, err
	}
	l := login{key: signer, old: a.outdated(signer)}
	if certificate == "" {
		return l, nil
	}
	if l.certificate, err = parseCertificate(certificate); err != nil {
		return login{}, err
	}
	l.expired = expired(l.certificate, time.Now())
	return l, nil
}

// signers are what to try, in that order.
func (l login) signers() (signers []xssh.Signer) {
	if l.certificate != nil && !l.expired {
		if signer, err := xssh.NewCertSigner(l.certificate, l.key); err == nil {
			signers = append(signers, signer)
		}
	}
	if signers = append(signers, l.key); l.old != nil {
		signers = append(signers, l.old)
	}
	return signers
}

// refused says what a host did not take, and what to do about it.
func (l login) refused() string {
	fingerprint := xssh.FingerprintSHA256(l.key.PublicKey())
	switch {
	case l.certificate == nil:
		reason := fmt.Sprintf("the key %s: add its public half to authorized_keys there, or give another key", fingerprint)
		if l.key.PublicKey().Type() == xssh.KeyAlgoRSA && l.old == nil {
			reason += " (one that is not RSA, or set ssh.algorithms to compatible, if it knows RSA only with SHA-1)"
		}
		return reason
	case l.expired:
		return fmt.Sprintf("the key %s, and its certificate expired at %s: remove the host and add it with a new one", fingerprint, expiry(l.certificate))
	}
	return fmt.Sprintf("the key %s or its certificate %q (of the authority %s, for %q): see that the host trusts the authority for this user, or give another one",
		fingerprint, clip(l.certificate.KeyId, 64), xssh.FingerprintSHA256(l.certificate.SignatureKey), l.certificate.ValidPrincipals)
}
