package roster

import (
	"fmt"

	"commissaire/domain"
)

// Known is what other streams than the roster's say, as far as they were asked. A
// decision that depends on more than is in it fails with Unknown.
type Known struct {
	Hosts map[domain.HostID]KnownHost

	// Done has, of operations that have ended, the hosts that have what the
	// operation wanted.
	Done map[domain.OperationID]map[domain.HostID]bool
}

// KnownHost is what a host's own stream says of it.
type KnownHost struct {
	Ready  bool   // it may join a cluster
	Pinned string // fingerprint of its host key; "": it has none yet
}

// Unknown names what must be known for a decision and is not. It is no refusal: ask
// these streams, and decide again.
type Unknown struct {
	Hosts      []domain.HostID
	Operations []domain.OperationID
}

// Error counts what is missing.
func (u *Unknown) Error() string {
	return fmt.Sprintf("%d hosts and %d operations are to be asked before", len(u.Hosts), len(u.Operations))
}

// missing is why a decision about these hosts cannot be made; nil: it can.
func (k Known) missing(hosts ...Host) error {
	var unknown Unknown
	for _, h := range hosts {
		if _, ok := k.Hosts[h.HostID]; !ok {
			unknown.Hosts = append(unknown.Hosts, h.HostID)
		}
	}
	if unknown.Hosts == nil {
		return nil
	}
	return &unknown
}
