package ssh

import (
	"errors"
	"slices"
	"strings"

	"commissaire/commands/process"

	xssh "golang.org/x/crypto/ssh"
)

// What is wrong with a private key. None of these holds a part of it.
var (
	errPassphrase = errors.New("the private key is protected by a passphrase; give one without (ssh-keygen -p removes it)")
	errPublicKey  = errors.New("this is the public half of a key; the private one is wanted")
	errNoKey      = errors.New("this is no private key in OpenSSH or PEM form")
	errSort       = errors.New("this sort of private key is not supported; use Ed25519, ECDSA or RSA")
)

// ParsePrivateKey checks the text of an unencrypted OpenSSH or PEM private key
// and gives the SHA-256 fingerprint of its public half, as ssh-keygen -l prints
// it. Its errors are sentences for whoever sent the key, without any of it.
func ParsePrivateKey(text []byte) (fingerprint string, err error) {
	signer, err := parseKey(text)
	if err != nil {
		return "", err
	}
	return xssh.FingerprintSHA256(signer.PublicKey()), nil
}

func parseKey(text []byte) (xssh.Signer, error) {
	signer, err := xssh.ParsePrivateKey(text)
	if err != nil {
		if _, ok := errors.AsType[*xssh.PassphraseMissingError](err); ok {
			return nil, errPassphrase
		}
		if _, _, _, _, err := xssh.ParseAuthorizedKey(text); err == nil || strings.Contains(string(text), "-----BEGIN PUBLIC KEY-----") {
			return nil, errPublicKey
		}
		return nil, errNoKey
	}
	if !slices.Contains(keyTypes, signer.PublicKey().Type()) {
		return nil, errSort
	}
	return signer, nil
}

// keyTypes are the types of key that hosts and users may have, best first.
var keyTypes = []string{
	xssh.KeyAlgoED25519,
	xssh.KeyAlgoECDSA256, xssh.KeyAlgoECDSA384, xssh.KeyAlgoECDSA521,
	xssh.KeyAlgoRSA,
}

// hostKeyAlgorithms asks for a key of one of the given types, in that order, if
// the host has one. The others come after them: a host that has only those shows
// one, and is told apart by it, instead of failing to agree on an algorithm.
func hostKeyAlgorithms(first ...string) []string {
	types := slices.Clone(keyTypes)
	for _, kind := range slices.Backward(first) {
		if i := slices.Index(types, kind); i >= 0 {
			types = slices.Concat(types[i:i+1], types[:i], types[i+1:])
		}
	}
	var algorithms []string
	for _, kind := range types {
		if kind == xssh.KeyAlgoRSA {
			algorithms = append(algorithms, xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256)
		} else {
			algorithms = append(algorithms, kind)
		}
	}
	return algorithms
}

// certificateAlgorithms asks for certificates of the keys that algorithms ask for.
func certificateAlgorithms(algorithms []string) []string {
	certificates := make([]string, len(algorithms))
	for i, algorithm := range algorithms {
		certificates[i] = algorithm + "-cert-v01@openssh.com"
	}
	return certificates
}

func hostKey(key xssh.PublicKey) process.HostKey {
	return process.HostKey{Type: key.Type(), Fingerprint: xssh.FingerprintSHA256(key)}
}
