package ssh

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"commissaire/commands/process"

	xssh "golang.org/x/crypto/ssh"
)

// What is wrong with a private key. None of these holds a part of it.
var (
	errPassphrase  = errors.New("the private key is protected by a passphrase; give one without (ssh-keygen -p removes it)")
	errPublicKey   = errors.New("this is the public half of a key; the private one is wanted")
	errCertificate = errors.New("this is a certificate; the private key that it is for is wanted")
	errNoKey       = errors.New("this is no private key in OpenSSH or PEM form")
	errNothing     = errors.New("it is empty")
	errPuTTY       = errors.New("this is a private key of PuTTY; give it in OpenSSH form (puttygen KEY.ppk -O private-openssh -o KEY)")
	errSSH2        = errors.New("this is a private key in the form of ssh.com; give it in OpenSSH form (ssh-keygen -i)")
	errPGP         = errors.New("this is a key of PGP; an SSH key is wanted")
	errBinary      = errors.New("this is a private key in binary form (DER); give it as PEM (openssl pkey -inform DER)")
	errDamaged     = errors.New("the private key is damaged: not all of what was between its BEGIN and END lines is there")
	errLineBreaks  = errors.New("the private key has lost its line breaks")
	errDSA         = errors.New("this is a DSA key, which is not safe any more; use Ed25519, ECDSA or RSA")
	errToken       = errors.New("this key is in a security token, and can be used only with that; use Ed25519, ECDSA or RSA")
	errSort        = errors.New("this sort of private key is not supported; use Ed25519, ECDSA (P-256, P-384, P-521) or RSA")
	errEncoded     = errors.New("this is the base64 of a private key, where the key itself is wanted: it was encoded once too often")
)

// ParsePrivateKey is that of Modern.
func ParsePrivateKey(text []byte) (fingerprint string, err error) {
	return Modern.ParsePrivateKey(text)
}

// ParsePrivateKey checks the text of an unencrypted OpenSSH or PEM private key
// and gives the SHA-256 fingerprint of its public half, as ssh-keygen -l prints
// it. The key may stand among other things: the first block that is a private key
// is the one. Its errors are sentences for whoever sent the key, without any of it.
func (a Algorithms) ParsePrivateKey(text []byte) (fingerprint string, err error) {
	signer, err := a.parseKey(text)
	if err != nil {
		return "", err
	}
	return xssh.FingerprintSHA256(signer.PublicKey()), nil
}

func (a Algorithms) parseKey(text []byte) (xssh.Signer, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	block := privateBlock(text)
	if block == nil {
		return nil, notPrivate(text)
	}
	signer, err := parseBlock(block)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(keyTypes, signer.PublicKey().Type()) {
		return nil, errSort
	}
	if err := a.short(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("this is an %w", err)
	}
	return a.restricted(signer)
}

const pemPrivate = "PRIVATE KEY"

// privateBlock is the first PEM block that is a private key; nil: there is none.
func privateBlock(text []byte) *pem.Block {
	for {
		block, rest := pem.Decode(text)
		if block == nil || strings.HasSuffix(block.Type, pemPrivate) {
			return block
		}
		text = rest
	}
}

// parseBlock reads the private key that a block has. Of DER it takes all forms
// there are, whichever the label says.
func parseBlock(block *pem.Block) (xssh.Signer, error) {
	switch {
	case block.Type == "ENCRYPTED "+pemPrivate || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, errPassphrase
	case block.Type == "DSA "+pemPrivate:
		return nil, errDSA
	case block.Type == "OPENSSH "+pemPrivate:
		return parseOpenSSH(block)
	}
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
	} {
		key, err := parse(block.Bytes)
		if err != nil {
			continue
		}
		signer, err := xssh.NewSignerFromKey(key)
		if err != nil {
			return nil, errSort
		}
		return signer, nil
	}
	var pkcs8 struct {
		Version   int
		Algorithm struct {
			OID        asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Key []byte
	}
	var whole asn1.RawValue
	switch _, err := asn1.Unmarshal(block.Bytes, &pkcs8); {
	case err == nil && pkcs8.Algorithm.OID.Equal(asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}):
		return nil, errDSA
	case err == nil:
		return nil, errSort
	}
	if rest, err := asn1.Unmarshal(block.Bytes, &whole); err != nil || len(rest) > 0 {
		return nil, errDamaged
	}
	return nil, errSort
}

// parseOpenSSH reads a key in OpenSSH's own form.
func parseOpenSSH(block *pem.Block) (xssh.Signer, error) {
	key, ok := bytes.CutPrefix(block.Bytes, []byte("openssh-key-v1\x00"))
	var outer struct {
		Cipher, KDF, KDFOptions string
		Keys                    uint32
		Public, Private         []byte
		Rest                    []byte `ssh:"rest"`
	}
	if !ok || xssh.Unmarshal(key, &outer) != nil {
		return nil, errDamaged
	}
	var public struct {
		Type string
		Rest []byte `ssh:"rest"`
	}
	if xssh.Unmarshal(outer.Public, &public) != nil {
		return nil, errDamaged
	}
	switch {
	case outer.Keys != 1:
		return nil, errors.New("these are several private keys in one; give one")
	case public.Type == "ssh-dss":
		return nil, errDSA
	case strings.HasPrefix(public.Type, "sk-"):
		return nil, errToken
	case !slices.Contains(keyTypes, public.Type):
		return nil, errSort
	case outer.Cipher != "none":
		return nil, errPassphrase
	}
	signer, err := xssh.ParsePrivateKey(pem.EncodeToMemory(block))
	if err != nil {
		return nil, errDamaged
	}
	return signer, nil
}

// notPrivate says what a text without a private key is.
func notPrivate(text []byte) error {
	said := string(text)
	has := func(part string) bool { return strings.Contains(said, part) }
	public, _, _, _, publicErr := xssh.ParseAuthorizedKey(text)
	_, certified := public.(*xssh.Certificate)
	certificate, _ := pem.Decode(text)
	var der asn1.RawValue
	_, derErr := asn1.Unmarshal(text, &der)
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return errNothing
	case has("PuTTY-User-Key-File-"):
		return errPuTTY
	case has("BEGIN SSH2 ENCRYPTED PRIVATE KEY"):
		return errSSH2
	case has("BEGIN PGP "):
		return errPGP
	case has("-----BEGIN ") && has(pemPrivate+"-----"):
		if has("-----END ") && strings.Count(strings.TrimSpace(said), "\n") < 2 {
			return errLineBreaks
		}
		return errDamaged
	case certified || certificate != nil && certificate.Type == "CERTIFICATE":
		return errCertificate
	case publicErr == nil, has("BEGIN PUBLIC KEY"), has("BEGIN RSA PUBLIC KEY"), has("BEGIN SSH2 PUBLIC KEY"):
		return errPublicKey
	case derErr == nil && der.IsCompound && der.Tag == asn1.TagSequence:
		return errBinary
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(said))
	if err != nil || len(decoded) >= len(text) {
		return errNoKey
	}
	if privateBlock(decoded) != nil {
		return errEncoded
	}
	if inner := notPrivate(decoded); inner != errNoKey { //nolint:errorlint // it is one of those above
		return inner
	}
	return errNoKey
}

func hostKey(key xssh.PublicKey) process.HostKey {
	return process.HostKey{Type: key.Type(), Fingerprint: xssh.FingerprintSHA256(key)}
}
