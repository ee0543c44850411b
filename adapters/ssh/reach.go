package ssh

import (
	"fmt"
	"net/netip"
	"syscall"
)

// Reach says which addresses may be connected to. The zero value allows all but
// those that no host can have: unspecified, multicast, link-local, broadcast
// and loopback. By way of a Jump, addresses that names turn out to have are not
// looked at.
type Reach struct {
	Loopback bool           // allow loopback: development and tests
	Deny     []netip.Prefix // further ranges
}

var nobody = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("255.255.255.255/32"),
}

// Denied reports whether ip may not be connected to. An IPv4 address within an
// IPv6 one is judged as itself.
func (r Reach) Denied(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	switch {
	case !ip.IsValid(), ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
		return true
	case ip.IsLoopback() && !r.Loopback:
		return true
	}
	for _, ranges := range [][]netip.Prefix{nobody, r.Deny} {
		for _, prefix := range ranges {
			if prefix.Contains(ip) {
				return true
			}
		}
	}
	return false
}

type deniedError struct{ ip netip.Addr }

func (e *deniedError) Error() string {
	return fmt.Sprintf("%s is in a range that this service may not connect to", e.ip)
}

// Control refuses denied addresses where a connection is about to be made, when
// names are resolved already. It fits net.Dialer.
func (r Reach) Control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("check %s against the denied ranges: %w", address, err)
	}
	if r.Denied(to.Addr()) {
		return &deniedError{to.Addr()}
	}
	return nil
}
