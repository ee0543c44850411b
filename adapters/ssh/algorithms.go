package ssh

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"

	xssh "golang.org/x/crypto/ssh"
)

// Algorithms says what this service and a host may agree on.
type Algorithms string

// The choices there are.
const (
	// Modern is all that the library has and that is safe.
	Modern Algorithms = "modern"

	// Compatible is, after that, what older hosts have: SHA-1, and RSA keys of 1024
	// bits and more. It never adds what anybody can break: DSA, RC4, CBC.
	Compatible Algorithms = "compatible"
)

// keyTypes are the types of key that hosts and users may have, best first.
var keyTypes = []string{
	xssh.KeyAlgoED25519,
	xssh.KeyAlgoECDSA256, xssh.KeyAlgoECDSA384, xssh.KeyAlgoECDSA521,
	xssh.KeyAlgoRSA,
}

// offer is what to offer a host besides algorithms of host keys, best first.
func (a Algorithms) offer() xssh.Config {
	all, old := xssh.SupportedAlgorithms(), xssh.InsecureAlgorithms()
	weak := func(algorithm string) bool { return strings.Contains(algorithm, "sha1") }
	c := xssh.Config{
		KeyExchanges: slices.DeleteFunc(all.KeyExchanges, weak),
		Ciphers:      all.Ciphers,
		MACs:         slices.DeleteFunc(slices.Clone(all.MACs), weak),
	}
	if a == Compatible {
		c.KeyExchanges = append(c.KeyExchanges, xssh.InsecureKeyExchangeDHGEXSHA1, xssh.InsecureKeyExchangeDH14SHA1, xssh.InsecureKeyExchangeDH1SHA1)
		c.MACs = append(c.MACs, xssh.HMACSHA1)
		c.MACs = append(c.MACs, old.MACs...)
	}
	return c
}

// signatures are the algorithms of signatures with a key of a type, best first.
func (a Algorithms) signatures(keyType string) []string {
	switch {
	case keyType != xssh.KeyAlgoRSA:
		return []string{keyType}
	case a == Compatible:
		return []string{xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256, xssh.KeyAlgoRSA}
	}
	return []string{xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256}
}

// hostKeys asks for a key of one of the given types, in that order, if the host
// has one. The others come after them: a host that has only those shows one, and
// is told apart by it, instead of failing to agree on an algorithm.
func (a Algorithms) hostKeys(first ...string) []string {
	types := slices.Clone(keyTypes)
	for _, kind := range slices.Backward(first) {
		if i := slices.Index(types, kind); i >= 0 {
			types = slices.Concat(types[i:i+1], types[:i], types[i+1:])
		}
	}
	var algorithms []string
	for _, kind := range types {
		algorithms = append(algorithms, a.signatures(kind)...)
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

// short says why a key is not taken for its size; nil where it is. It follows
// "is an", "shows an" and the like.
func (a Algorithms) short(key xssh.PublicKey) error {
	public, ok := key.(xssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	of, ok := public.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return nil
	}
	switch bits := of.N.BitLen(); {
	case bits < 1024:
		return fmt.Errorf("RSA key of %d bits, which can be broken: use Ed25519, ECDSA or RSA with at least 2048", bits)
	case bits < 2048 && a != Compatible:
		return fmt.Errorf("RSA key of %d bits: use Ed25519, ECDSA or RSA with at least 2048, or set ssh.algorithms to compatible", bits)
	}
	return nil
}

// restricted is key, signing with these algorithms only.
func (a Algorithms) restricted(key xssh.Signer) (xssh.Signer, error) {
	signer, ok := key.(xssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("this key cannot choose how to sign")
	}
	return xssh.NewSignerWithAlgorithms(signer, a.signatures(key.PublicKey().Type()))
}

// outdated is an RSA key that signs with SHA-1 alone, where that is allowed, else
// nil. Servers may say that they know better ways and not take them.
func (a Algorithms) outdated(key xssh.Signer) xssh.Signer {
	signer, ok := key.(xssh.AlgorithmSigner)
	if !ok || a != Compatible || key.PublicKey().Type() != xssh.KeyAlgoRSA {
		return nil
	}
	old, err := xssh.NewSignerWithAlgorithms(signer, []string{xssh.KeyAlgoRSA})
	if err != nil {
		return nil
	}
	return old
}

// hostKeyAlgorithm is what the library says it is where there is no common one.
const hostKeyAlgorithm = "host key"

// disagreement says what a host and this service do not have in common, and, where
// Compatible has it, how to reach the host all the same.
func (a Algorithms) disagreement(none *xssh.AlgorithmNegotiationError) string {
	offered := slices.DeleteFunc(slices.Clone(none.RequestedAlgorithms), func(algorithm string) bool { // these are no algorithms
		return strings.HasPrefix(algorithm, "ext-info-") || strings.HasPrefix(algorithm, "kex-strict-")
	})
	reason := fmt.Sprintf("as %s it offers only %s", clip(none.What, 64), line(strings.Join(offered, ", "), maxReason))
	offer := Compatible.offer()
	old := slices.Concat(offer.KeyExchanges, offer.MACs, Compatible.hostKeys(), certificateAlgorithms(Compatible.hostKeys()))
	if a != Compatible && slices.ContainsFunc(offered, func(algorithm string) bool { return slices.Contains(old, algorithm) }) {
		reason += ": update it, or set ssh.algorithms to compatible"
	}
	return reason
}
