package ssh

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // names are hashed so in the file
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"

	xssh "golang.org/x/crypto/ssh"
)

// KnownHosts is a known_hosts file as OpenSSH has it: patterns, hashed names,
// [host]:port, @cert-authority and @revoked. It is read again when it changes;
// one that cannot be read is logged, and what was read before stays in force.
//
// It is read line by line. A line that cannot be read, as with a type of key that
// came later than this program, is left out, and the log says which. That is not
// so for @revoked: nobody can know what such a line revokes, so the file cannot be
// read.
//
// It decides on the key of a host that has none pinned and none given: one that
// the file does not have is refused. A certificate of an @cert-authority of the
// host is accepted also when another key is pinned, so that certificates may be
// issued anew. What is @revoked for a host is refused always.
type KnownHosts struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	file    knownFile
	info    fs.FileInfo // of the file as it was read
	readAt  time.Time
	leftOut string // lines, as they were logged
	failed  string // why it could not be read again, as it was logged
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
	file, leftOut, err := parseKnownHosts(string(text))
	if err != nil {
		return fmt.Errorf("%s:%w", k.path, err)
	}
	k.file, k.info, k.readAt = file, info, now
	if lines := listed(leftOut, maxLeftOut); lines != k.leftOut {
		k.leftOut = lines
		if lines != "" {
			k.log.Warn("Lines of the known hosts cannot be read and are left out; the others hold",
				slog.String("file", k.path), slog.String("lines", lines))
		}
	}
	return nil
}

const maxLeftOut = 20 // lines that are named with what is wrong with them

// listed is texts as one, of which the first most are told in full.
func listed(texts []string, most int) string {
	more := ""
	if n := len(texts) - most; n > 0 {
		texts, more = texts[:most], fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(texts, ", ") + more
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
type knownFile []knownLine

type knownLine struct {
	marker string // "", authorityMarker or revokedMarker
	hosts  hostPatterns
	key    xssh.PublicKey
}

const (
	authorityMarker = "@cert-authority"
	revokedMarker   = "@revoked"
)

// parseKnownHosts reads a known_hosts file. leftOut are the lines that cannot be
// read, by their numbers and with the reason. It fails where such a line revokes
// something.
func parseKnownHosts(text string) (file knownFile, leftOut []string, err error) {
	number := 0
	for row := range strings.Lines(text) {
		number++
		row = strings.TrimLeft(strings.TrimRight(row, "\r\n"), " \t")
		if row == "" || row[0] == '#' {
			continue
		}
		known, err := parseKnownLine(row)
		switch {
		case err == nil:
			file = append(file, known)
		case revokes(row):
			return nil, nil, fmt.Errorf("%d: what this line revokes cannot be known: %w", number, err)
		default:
			leftOut = append(leftOut, fmt.Sprintf("%d (%s)", number, err))
		}
	}
	return file, leftOut, nil
}

// revokes says whether a line was written to revoke something, even if it cannot
// be read.
func revokes(row string) bool {
	for {
		word, rest := nextWord(row)
		if word == "" || word[0] != '@' {
			return false
		}
		if strings.EqualFold(word, revokedMarker) {
			return true
		}
		row = rest
	}
}

// nextWord splits off the first word of a line.
func nextWord(row string) (word, rest string) {
	end := strings.IndexAny(row, " \t")
	if end < 0 {
		return row, ""
	}
	return row[:end], strings.TrimLeft(row[end:], " \t")
}

func parseKnownLine(row string) (knownLine, error) {
	var known knownLine
	names, rest := nextWord(row)
	if names == authorityMarker || names == revokedMarker {
		// To OpenSSH a marker ends with a blank, and with a tab where there is none.
		if known.marker = names; names == authorityMarker && row[len(names):] != "" && row[len(names)] == '\t' && strings.Contains(row, " ") {
			return knownLine{}, errors.New("a tab after its marker")
		}
		names, rest = nextWord(rest)
	}
	if strings.HasPrefix(names, "@") {
		return knownLine{}, errors.New("its marker is not known")
	}
	kind, rest := nextWord(rest)
	encoded, _ := nextWord(rest)
	if encoded == "" {
		return knownLine{}, errors.New("names, type and key are wanted")
	}
	var err error
	if known.hosts, err = parseHostPatterns(names); err != nil {
		return knownLine{}, err
	}
	blob, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return knownLine{}, errors.New("its key is not base64")
	}
	if known.key, err = xssh.ParsePublicKey(blob); err != nil {
		return knownLine{}, fmt.Errorf("a key of type %q cannot be read", clip(printable(kind), 64))
	}
	if certificate, ok := known.key.(*xssh.Certificate); ok && known.marker != "" {
		known.key = certificate.Key
	}
	if kind != known.key.Type() {
		return knownLine{}, errors.New("its key is of another type than it says")
	}
	return known, nil
}

// hostPatterns are the names of a line: patterns, or one name that is hashed.
type hostPatterns struct {
	patterns   []string // in lower case
	salt, hash []byte
}

func parseHostPatterns(names string) (hostPatterns, error) {
	if !strings.HasPrefix(names, "|") {
		return hostPatterns{patterns: strings.Split(asciiLower(names), ",")}, nil
	}
	salt, hash, found := strings.Cut(strings.TrimPrefix(names, "|1|"), "|")
	s, saltErr := base64.StdEncoding.DecodeString(salt)
	h, hashErr := base64.StdEncoding.DecodeString(hash)
	if !strings.HasPrefix(names, "|1|") || !found || saltErr != nil || hashErr != nil || len(s) != sha1.Size || len(h) != sha1.Size {
		return hostPatterns{}, errors.New("its hashed name cannot be read")
	}
	return hostPatterns{salt: s, hash: h}, nil
}

// asciiLower leaves other letters than A to Z as they are.
func asciiLower(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, text)
}

const maxPattern = 1022 // bytes; OpenSSH takes a line with a longer one to match nothing

// match tells whether the line is of a name, which is in lower case and has the
// port in it where that is not 22. To the patterns both are plain text: * is also
// any port.
func (h hostPatterns) match(name string) bool {
	if h.hash != nil {
		sum := hmac.New(sha1.New, h.salt)
		_, _ = io.WriteString(sum, name) // never fails
		return hmac.Equal(sum.Sum(nil), h.hash)
	}
	matched := false
	for _, pattern := range h.patterns {
		pattern, negated := strings.CutPrefix(pattern, "!")
		switch {
		case len(pattern) > maxPattern:
			return false
		case !wildcard(pattern, name):
		case negated:
			return false
		default:
			matched = true
		}
	}
	return matched
}

// wildcard matches text with a pattern, in which * is anything and ? one byte.
func wildcard(pattern, text string) bool {
	p, t := 0, 0
	star, from := -1, 0 // the last * that was met, and where what follows it is tried
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// hostNames are the names to look for, in that order: what is said of a host
// without a port holds where nothing is said of it with one.
func hostNames(host domain.Address, port int) []string {
	name := strings.ToLower(string(host))
	if port == 22 {
		return []string{name}
	}
	return []string{fmt.Sprintf("[%s]:%d", name, port), name}
}

// of are the keys of a host and of the authorities for it. An authority may be of
// any of the names.
func (f knownFile) of(names []string) (keys, authorities []xssh.PublicKey) {
	for _, name := range names {
		more := len(keys) == 0
		for _, known := range f {
			switch {
			case known.marker == revokedMarker || !known.hosts.match(name):
			case known.marker == authorityMarker:
				authorities = append(authorities, known.key)
			case more:
				keys = append(keys, known.key)
			}
		}
	}
	return keys, authorities
}

// revoked are the keys that are revoked for a host, by any of its names.
func (f knownFile) revoked(names []string) (keys []xssh.PublicKey) {
	for _, known := range f {
		if known.marker == revokedMarker && slices.ContainsFunc(names, known.hosts.match) {
			keys = append(keys, known.key)
		}
	}
	return keys
}

// trust decides whether the key that a host shows is the host's.
type trust struct {
	host   domain.Address
	pinned *process.HostKey
	accept Algorithms

	path                       string           // of the known hosts; "": there are none
	keys, authorities, revoked []xssh.PublicKey // of the host in the file

	shown process.HostKey // after check: what it showed
}

// newTrust is the trust in the host of target. known may be nil.
func newTrust(known *KnownHosts, target process.Target, accept Algorithms) *trust {
	t := &trust{host: target.Host, pinned: target.Pinned, accept: accept}
	if known == nil {
		return t
	}
	file, names := known.current(), hostNames(target.Host, cmp.Or(target.Port, 22))
	t.path, t.revoked = known.path, file.revoked(names)
	t.keys, t.authorities = file.of(names)
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
		if t.accept.short(key) == nil {
			first = append(first, key.Type())
		}
	}
	plain := t.accept.hostKeys(first...)
	if len(t.authorities) == 0 {
		return plain
	}
	return append(certificateAlgorithms(plain), plain...)
}

// check fits xssh.ClientConfig. It fails with *process.KeyChanged and
// *process.Refused.
func (t *trust) check(_ string, _ net.Addr, key xssh.PublicKey) error {
	if err := t.known(key); err != nil {
		return err
	}
	if certificate, ok := key.(*xssh.Certificate); ok {
		key = certificate.Key
	}
	if err := t.accept.short(key); err != nil {
		return refusedKey("%s shows an %w", t.host, err)
	}
	return nil
}

// known says why a key is not known to be the host's.
func (t *trust) known(key xssh.PublicKey) error {
	certificate, certified := key.(*xssh.Certificate)
	if certified {
		key = certificate.Key
	}
	t.shown = hostKey(key)
	switch {
	case contains(t.revoked, key):
		return refusedKey("%s shows the host key %s, which is revoked in %s", t.host, t.shown.Fingerprint, t.path)
	case certified && contains(t.revoked, certificate.SignatureKey):
		return refusedKey("%s shows a certificate of the authority %s, which is revoked in %s",
			t.host, xssh.FingerprintSHA256(certificate.SignatureKey), t.path)
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
	if err := t.accept.short(certificate.SignatureKey); err != nil {
		return fmt.Errorf("it is signed with an %w", err)
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
	return &process.Refused{Reason: fmt.Errorf(format, arguments...).Error()}
}
