package ssh

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// KnownHosts is a known_hosts file as OpenSSH has it: patterns, hashed names,
// [host]:port, @cert-authority and @revoked. It is read again when it changes;
// one that cannot be read is logged, and what was read before stays in force.
//
// It decides on the key of a host that has none pinned and none given: one that
// the file does not have is refused. A certificate of an @cert-authority of the
// host is accepted also when another key is pinned, so that certificates may be
// issued anew. What is @revoked is refused always.
type KnownHosts struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	file   knownFile
	info   fs.FileInfo // of the file as it was read
	readAt time.Time
	failed string // why it could not be read again, as it was logged
}

// OpenKnownHosts reads the file at path.
func OpenKnownHosts(path string, log *slog.Logger) (*KnownHosts, error) {
	k := &KnownHosts{path: path, log: log}
	if err := k.read(); err != nil {
		return nil, fmt.Errorf("read the known hosts: %w", err)
	}
	return k, nil
}

// read reads the file if it is not the one that was read last. A file that was
// changed within a second before it was read may have been changed after, too.
func (k *KnownHosts) read() error {
	info, err := os.Stat(k.path)
	if err != nil {
		return err
	}
	if k.info != nil && os.SameFile(info, k.info) && info.Size() == k.info.Size() &&
		info.ModTime().Equal(k.info.ModTime()) && k.readAt.Sub(info.ModTime()) > time.Second {
		return nil
	}
	now := time.Now()
	text, err := os.ReadFile(k.path)
	if err != nil {
		return err
	}
	check, err := knownhosts.New(k.path)
	if err != nil {
		return err
	}
	file := knownFile{check: check, authorities: map[int]bool{}}
	for i, line := range bytes.Split(text, []byte("\n")) {
		file.authorities[i+1] = bytes.HasPrefix(bytes.TrimSpace(line), []byte("@cert-authority"))
	}
	k.file, k.info, k.readAt = file, info, now
	return nil
}

// current is the file as it is now.
func (k *KnownHosts) current() knownFile {
	k.mu.Lock()
	defer k.mu.Unlock()
	failed := ""
	if err := k.read(); err != nil {
		failed = err.Error()
	}
	if failed != k.failed {
		k.failed = failed
		if failed != "" {
			k.log.Error("The known hosts could not be read again; what was read before stays in force", slog.String("error", failed))
		}
	}
	return k.file
}

// knownFile is what a known_hosts file says.
type knownFile struct {
	check       xssh.HostKeyCallback
	authorities map[int]bool // by number of line
}

// noKey is a key that nobody has: asking for it gives the keys that there are.
type noKey struct{}

func (noKey) Type() string                         { return "none" }
func (noKey) Marshal() []byte                      { return nil }
func (noKey) Verify([]byte, *xssh.Signature) error { return errors.New("it signs nothing") }

// of are the keys of a host and of the authorities for it. As with OpenSSH, what
// is said of a host without a port holds where nothing is said of it with one.
func (f knownFile) of(host domain.Address, port int) (keys, authorities []xssh.PublicKey) {
	for _, port := range []int{port, 22} {
		err := f.check(net.JoinHostPort(string(host), strconv.Itoa(port)), &net.TCPAddr{}, noKey{})
		other, ok := errors.AsType[*knownhosts.KeyError](err)
		if !ok || len(other.Want) == 0 {
			continue
		}
		for _, known := range other.Want {
			if f.authorities[known.Line] {
				authorities = append(authorities, known.Key)
			} else {
				keys = append(keys, known.Key)
			}
		}
		break
	}
	return keys, authorities
}

func (f knownFile) revoked(key xssh.PublicKey) bool {
	_, revoked := errors.AsType[*knownhosts.RevokedError](f.check("", &net.TCPAddr{}, key))
	return revoked
}

// trust decides whether the key that a host shows is the host's.
type trust struct {
	host   domain.Address
	pinned *process.HostKey

	path              string // of the known hosts; "": there are none
	file              knownFile
	keys, authorities []xssh.PublicKey // of the host in the file

	shown process.HostKey // after check: what it showed
}

// newTrust is the trust in the host of target. known may be nil.
func newTrust(known *KnownHosts, target process.Target) *trust {
	t := &trust{host: target.Host, pinned: target.Pinned}
	if known == nil {
		return t
	}
	t.path, t.file = known.path, known.current()
	t.keys, t.authorities = t.file.of(target.Host, cmp.Or(target.Port, 22))
	if t.bare() {
		t.authorities = nil
	}
	return t
}

// bare tells that of the pinned key only the fingerprint is known: it was given,
// and nothing else decides.
func (t *trust) bare() bool { return t.pinned != nil && t.pinned.Type == "" }

// algorithms are what to ask the host for: what can be trusted comes first.
func (t *trust) algorithms() []string {
	var first []string
	if t.pinned != nil {
		first = append(first, t.pinned.Type)
	}
	for _, key := range t.keys {
		first = append(first, key.Type())
	}
	plain := hostKeyAlgorithms(first...)
	if len(t.authorities) == 0 {
		return plain
	}
	return append(certificateAlgorithms(plain), plain...)
}

// check fits xssh.ClientConfig. It fails with *process.KeyChanged and
// *process.Refused.
func (t *trust) check(_ string, _ net.Addr, key xssh.PublicKey) error {
	certificate, certified := key.(*xssh.Certificate)
	if certified {
		key = certificate.Key
	}
	t.shown = hostKey(key)
	if t.path != "" {
		switch {
		case t.file.revoked(key):
			return refusedKey("%s shows the host key %s, which is revoked in %s", t.host, t.shown.Fingerprint, t.path)
		case certified && t.file.revoked(certificate.SignatureKey):
			return refusedKey("%s shows a certificate of the authority %s, which is revoked in %s",
				t.host, xssh.FingerprintSHA256(certificate.SignatureKey), t.path)
		}
	}
	if t.pinned != nil && t.pinned.Fingerprint == t.shown.Fingerprint {
		return nil
	}
	var invalid error
	if certified && len(t.authorities) > 0 {
		if invalid = t.vouched(certificate); invalid == nil {
			t.shown.Authority = xssh.FingerprintSHA256(certificate.SignatureKey)
			return nil
		}
	}
	switch {
	case t.pinned != nil:
		return &process.KeyChanged{Host: t.host, Shown: t.shown}
	case t.path == "", contains(t.keys, key):
		return nil
	case invalid != nil:
		return refusedKey("the certificate of the host key of %s is not valid: %s", t.host, line(invalid.Error(), maxReason))
	case len(t.keys) > 0:
		return refusedKey("%s shows the host key %s, which is not the one that %s has of it", t.host, t.shown.Fingerprint, t.path)
	case len(t.authorities) > 0:
		return refusedKey("%s shows the host key %s without a certificate, and %s has only authorities for it", t.host, t.shown.Fingerprint, t.path)
	}
	return refusedKey("%s is not in %s, so its host key %s is not trusted: add it there, or give ssh_host_key when adding the host",
		t.host, t.path, t.shown.Fingerprint)
}

// vouched says why a certificate does not prove that its key is the host's.
func (t *trust) vouched(certificate *xssh.Certificate) error {
	if certificate.Signature != nil && certificate.Signature.Format == xssh.KeyAlgoRSA {
		return errors.New("it is signed with SHA-1")
	}
	checker := xssh.CertChecker{IsHostAuthority: func(key xssh.PublicKey, _ string) bool { return contains(t.authorities, key) }}
	err := checker.CheckHostKey(net.JoinHostPort(string(t.host), "22"), nil, certificate)
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "ssh: "))
	}
	return nil
}

func contains(keys []xssh.PublicKey, key xssh.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k xssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) })
}

func refusedKey(format string, arguments ...any) error {
	return &process.Refused{Reason: fmt.Sprintf(format, arguments...)}
}
