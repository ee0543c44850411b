package projections

import (
	"fmt"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// Inventory is what there is to know of a host.
type Inventory struct {
	Host
	Cluster    domain.ClusterName `json:"cluster"` // "": it is in none
	Reason     string             `json:"reason"`  // why it is failed, or is not yet what it is to be; "": nothing is wrong
	Since      Time               `json:"since"`   // when the status became what it is
	OSRelease  string             `json:"os_release"`
	Version    string             `json:"version"`
	Pending    string             `json:"pending"` // what the next boot brings
	Port       int                `json:"ssh_port"`
	RemoteUser domain.RemoteUser  `json:"remote_user"`
	HostKey    *HostKey           `json:"host_key"` // nil: it has shown none, and none was given
	Facts      *event.Facts       `json:"facts"`    // nil: it was not investigated yet
}

// HostKey is the key that is a host's, and why.
type HostKey struct {
	Type        string    `json:"type"` // "": of one that was given and not shown yet
	Fingerprint string    `json:"fingerprint"`
	PinnedAt    Time      `json:"pinned_at"`
	PinnedBy    string    `json:"pinned_by"` // who added the host, or accepted the key
	Authority   string    `json:"authority"` // that vouches for it; "": none does
	Shown       *ShownKey `json:"shown"`     // another one that the host shows; nil: it shows this
}

// ShownKey is a host key that a host shows and that is not its own.
type ShownKey struct {
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	Since       Time   `json:"since"`
}

// hostKeys are the host key that is pinned and the other one that is shown.
type hostKeys struct {
	Type        string    `json:"type,omitzero"`
	Fingerprint string    `json:"fingerprint,omitzero"`
	At          time.Time `json:"at,omitzero"`
	By          string    `json:"by,omitzero"`
	Authority   string    `json:"authority,omitzero"`

	OtherType        string    `json:"other_type,omitzero"`
	OtherFingerprint string    `json:"other_fingerprint,omitzero"`
	OtherAt          time.Time `json:"other_at,omitzero"`
}

// Inventory is what there is to know of the host that is known under an address.
func (s *Snapshot) Inventory(address domain.Address) (Inventory, bool) {
	host, ok := s.host(address)
	if !ok {
		return Inventory{}, false
	}
	i := Inventory{
		Host: s.describe(host), Reason: host.reason(), Since: Time{host.Since}, OSRelease: host.Facts.OSRelease, Version: host.Facts.Version,
		Pending: host.Facts.Pending, Port: host.Port, RemoteUser: host.RemoteUser, HostKey: host.hostKey(),
	}
	if c, ok := s.cluster(host.Cluster); ok {
		i.Cluster = c.Name
	}
	if host.Investigated {
		facts := host.Facts
		i.Facts = &facts
	}
	return i, true
}

// reason is why a host is failed; else why a container manager is not as it should be.
func (h *hostState) reason() string {
	switch {
	case h.Changed:
		return fmt.Sprintf("it shows the host key %s, and its own is %s; if that is right, PUT /host/%s/hostkey accepts it",
			h.Keys.OtherFingerprint, h.Keys.Fingerprint, h.Address)
	case h.Silent:
		return h.Silence
	case h.Failed:
		return h.Failure
	case h.Registration != "":
		return h.Registration
	}
	return h.Uncordon
}

func (h *hostState) hostKey() *HostKey {
	k := h.Keys
	if k.Fingerprint == "" {
		return nil
	}
	key := &HostKey{Type: k.Type, Fingerprint: k.Fingerprint, PinnedAt: Time{k.At}, PinnedBy: k.By, Authority: k.Authority}
	if h.Changed {
		key.Shown = &ShownKey{k.OtherType, k.OtherFingerprint, Time{k.OtherAt}}
	}
	return key
}
