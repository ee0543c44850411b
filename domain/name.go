// Package domain holds the words everything else is said in: names and ids,
// parsed once where they enter, and Refusal, the way a rule says no.
//
// Nothing below domain does I/O, reads a clock or draws a random number.
// README.md is the glossary.
package domain

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The names people give. Each is 1 to 128 of A-Z a-z 0-9 _ -.
type (
	// ClusterName names a cluster.
	ClusterName string
	// NetworkName names a network.
	NetworkName string
	// ManagerName names a container manager.
	ManagerName string
)

var (
	// ErrBadName refuses a name that nothing can have: a path with it leads nowhere.
	ErrBadName = Refuse(NotFound, "bad-name")
	// ErrBadAddress refuses what is no IPv4 or IPv6 address and no DNS name.
	ErrBadAddress = Refuse(NotFound, "bad-address")
)

var (
	nameForm  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	labelForm = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	userForm  = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)

	versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:+~-]{0,127}$`)
)

// ParseName checks a name of any sort.
func ParseName[N ~string](s string) (N, error) {
	if !nameForm.MatchString(s) {
		return "", ErrBadName.With("%q is no name: use 1 to 128 of A-Z, a-z, 0-9, _ and -", clip(s, 64))
	}
	return N(s), nil
}

// Address is where a host is reached: an IPv4 or IPv6 address or a DNS name,
// in the one form in which it is stored and compared.
type Address string

// ParseAddress reads an address and brings it to its one form: IP addresses as
// RFC 5952 writes them, IPv4-mapped ones as IPv4, names in lower case without
// the final dot. A zone or a port is refused.
func ParseAddress(s string) (Address, error) {
	ip, err := netip.ParseAddr(s)
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	switch {
	case err == nil && ip.Zone() == "":
		return Address(ip.Unmap().String()), nil
	case err == nil, !isName(name):
		return "", ErrBadAddress.With("%q is neither an IP address nor a DNS name", clip(s, 64))
	}
	return Address(name), nil
}

func isName(name string) bool {
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if !labelForm.MatchString(label) {
			return false
		}
	}
	last := labels[len(labels)-1] // 10.0.0.256 is a mistyped address, not a name
	return len(name) <= 253 && strings.Trim(last, "0123456789") != ""
}

// IP is the address as an IP address; false for a DNS name.
func (a Address) IP() (netip.Addr, bool) {
	ip, err := netip.ParseAddr(string(a))
	return ip, err == nil
}

// Less orders addresses for people: IP addresses by value, before names.
func (a Address) Less(b Address) bool {
	x, xIP := a.IP()
	y, yIP := b.IP()
	switch {
	case xIP && yIP:
		return x.Less(y)
	case xIP != yIP:
		return xIP
	}
	return a < b
}

// Compare is negative where a comes before b, and 0 where they are the same.
func (a Address) Compare(b Address) int {
	switch {
	case a == b:
		return 0
	case a.Less(b):
		return -1
	}
	return 1
}

// RemoteUser is the account used on a host.
type RemoteUser string

// Root needs no sudo.
const Root RemoteUser = "root"

// ParseRemoteUser reads an account name; "" is root.
func ParseRemoteUser(s string) (RemoteUser, error) {
	if s == "" {
		return Root, nil
	}
	if !userForm.MatchString(s) {
		return "", ErrInvalid.At("remote_user", "%q is no account name: a lower-case letter or _, then up to 31 of a-z 0-9 _ . -", clip(s, 64))
	}
	return RemoteUser(s), nil
}

// ParseVersion reads the version that a deploy asks for: 1 to 128 of A-Z a-z 0-9
// . _ : + ~ -, the first a letter or digit. It is required.
func ParseVersion(s string) (string, error) {
	if !versionForm.MatchString(s) {
		return "", ErrInvalid.At("version", "is required: a letter or digit, then up to 127 of A-Z a-z 0-9 . _ : + ~ -")
	}
	return s, nil
}

// The ids things get when they are made. A host that is removed and added again
// is another host, so nothing that was under way for the first reaches the second.
type (
	// HostID is a host's.
	HostID string
	// ClusterID is a cluster's.
	ClusterID string
	// ManagerID is a container manager's.
	ManagerID string
	// OperationID is an operation's.
	OperationID string
	// CredentialID is a secret's in the credential store.
	CredentialID string
	// ClaimID is that of one stretch of work on one host.
	ClaimID string
	// LogID is a log's, and of all copies of it.
	LogID string
)

// ParseID reads an id from a request.
func ParseID[I ~string](s string) (I, error) {
	id, err := uuid.Parse(s)
	if err != nil || id.String() != s {
		return "", ErrBadName.With("%q is no id", clip(s, 64))
	}
	return I(s), nil
}

// Term counts the leaders there have been. Work begun in one term is refused in
// a later one.
type Term uint64

// clip is the text as far as it has no more than so many bytes.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for !utf8.RuneStart(s[most]) && most > 0 {
		most--
	}
	return s[:most] + "…"
}
