package event

import "commissaire/domain"

// HostEvent is a fact about one host: what was learnt of it and done there.
//
//sumtype:decl
type HostEvent interface {
	Event
	hostEvent() domain.Address
}

// HostOf is the address of the host that an event is about.
func HostOf(e HostEvent) domain.Address { return e.hostEvent() }

// Facts are what a host says of itself. They are the host's word: bounded and
// valid UTF-8, nothing more is certain of them.
type Facts struct {
	OS        string `json:"os"`                // atomic, fedora, rhel, centos, debian, ubuntu, or the ID of os-release
	OSRelease string `json:"os_release"`        // ID and VERSION_ID of /etc/os-release, e.g. "fedora 41"
	OSTree    bool   `json:"ostree"`            // /run/ostree-booted exists
	Version   string `json:"version"`           // what it runs: the booted deployment, else VERSION_ID and kernel
	CPUs      int    `json:"cpus"`              // logical processors
	Memory    int64  `json:"memory"`            // kilobytes
	Space     int64  `json:"space"`             // kilobytes, each local block device once
	Arch      string `json:"arch"`              // uname -m
	BootID    string `json:"boot_id"`           // changes with every boot
	Pending   string `json:"pending,omitempty"` // ostree: the deployment the next boot brings
	SSH       SSH    `json:"ssh,omitzero"`
}

// SSH is what a host and the service agreed on for the connection over which the
// facts came.
type SSH struct {
	KeyExchange string `json:"key_exchange"`
	HostKey     string `json:"host_key"` // how the host signed with it, e.g. rsa-sha2-512
	Cipher      string `json:"cipher"`
	MAC         string `json:"mac,omitempty"` // "": the cipher has it in it
}

// HostInvestigated says what a host is.
type HostInvestigated struct {
	Host  domain.Address `json:"host"`
	Facts Facts          `json:"facts"`
}

// HostInvestigationFailed says why a host's facts are not known.
type HostInvestigationFailed struct {
	Host   domain.Address `json:"host"`
	Reason string         `json:"reason"`
}

// HostBootstrapped says that a host was made fit.
type HostBootstrapped struct {
	Host    domain.Address `json:"host"`
	Profile string         `json:"profile"`
}

// HostBootstrapFailed says why a host could not be made fit.
type HostBootstrapFailed struct {
	Host   domain.Address `json:"host"`
	Reason string         `json:"reason"`
}

// HostRegistered says that a container manager knows the host.
type HostRegistered struct {
	Host      domain.Address     `json:"host"`
	ManagerID domain.ManagerID   `json:"container_manager_id"`
	Manager   domain.ManagerName `json:"container_manager"`
}

// HostUnregistered says that a container manager no longer knows the host.
type HostUnregistered struct {
	Host      domain.Address     `json:"host"`
	ManagerID domain.ManagerID   `json:"container_manager_id"`
	Manager   domain.ManagerName `json:"container_manager"`
}

// HostRegistrationFailed says why a container manager does not know the host
// yet, or still does.
type HostRegistrationFailed struct {
	Host      domain.Address     `json:"host"`
	ManagerID domain.ManagerID   `json:"container_manager_id"`
	Manager   domain.ManagerName `json:"container_manager"`
	Reason    string             `json:"reason"`
}

// HostUncordonFailed says why a host's node is still cordoned though the turn that
// cordoned it has ended. It is tried again.
type HostUncordonFailed struct {
	Host      domain.Address     `json:"host"`
	ManagerID domain.ManagerID   `json:"container_manager_id"`
	Manager   domain.ManagerName `json:"container_manager"`
	Reason    string             `json:"reason"`
}

// HostUncordoned says that the node which a turn had left cordoned no longer is.
type HostUncordoned struct {
	Host      domain.Address     `json:"host"`
	ManagerID domain.ManagerID   `json:"container_manager_id"`
	Manager   domain.ManagerName `json:"container_manager"`
}

// HostKeyPinned says which host key is the host's from now on: the first one it
// showed, or one that a certificate authority vouches for.
type HostKeyPinned struct {
	Host        domain.Address `json:"host"`
	Type        string         `json:"type"`
	Fingerprint string         `json:"fingerprint"`
	AddedBy     string         `json:"added_by"`            // who added the host, and so trusted its first answer
	Authority   string         `json:"authority,omitempty"` // fingerprint of the authority that vouches for the key
}

// HostKeyChanged says that a host showed another key than the pinned one.
// Nothing is sent to it until it shows the pinned one again, or the new one is
// accepted.
type HostKeyChanged struct {
	Host        domain.Address `json:"host"`
	Type        string         `json:"type"`
	Fingerprint string         `json:"fingerprint"`
}

// HostKeyShownAgain says that a host which had shown another key shows the pinned
// one again.
type HostKeyShownAgain struct {
	Host        domain.Address `json:"host"`
	Type        string         `json:"type"`
	Fingerprint string         `json:"fingerprint"`
}

// HostKeyAccepted says that a person accepted a changed host key.
type HostKeyAccepted struct {
	Host        domain.Address `json:"host"`
	Type        string         `json:"type"`
	Fingerprint string         `json:"fingerprint"`
}

// HostWentSilent says that a host no longer answers.
type HostWentSilent struct {
	Host   domain.Address `json:"host"`
	Reason string         `json:"reason"`
}

// HostAnswered says that a silent host answers again.
type HostAnswered struct {
	Host domain.Address `json:"host"`
}

// HostRebooted says that a host was found with another boot id than before,
// outside an operation.
type HostRebooted struct {
	Host   domain.Address `json:"host"`
	Before string         `json:"boot_id_before"`
	BootID string         `json:"boot_id"`
}

// HostCredentialsRead says that somebody read the host's private key.
type HostCredentialsRead struct {
	Host domain.Address `json:"host"`
}

func (e HostInvestigated) hostEvent() domain.Address        { return e.Host }
func (e HostInvestigationFailed) hostEvent() domain.Address { return e.Host }
func (e HostBootstrapped) hostEvent() domain.Address        { return e.Host }
func (e HostBootstrapFailed) hostEvent() domain.Address     { return e.Host }
func (e HostRegistered) hostEvent() domain.Address          { return e.Host }
func (e HostUnregistered) hostEvent() domain.Address        { return e.Host }
func (e HostRegistrationFailed) hostEvent() domain.Address  { return e.Host }
func (e HostUncordonFailed) hostEvent() domain.Address      { return e.Host }
func (e HostUncordoned) hostEvent() domain.Address          { return e.Host }
func (e HostKeyPinned) hostEvent() domain.Address           { return e.Host }
func (e HostKeyChanged) hostEvent() domain.Address          { return e.Host }
func (e HostKeyShownAgain) hostEvent() domain.Address       { return e.Host }
func (e HostKeyAccepted) hostEvent() domain.Address         { return e.Host }
func (e HostWentSilent) hostEvent() domain.Address          { return e.Host }
func (e HostAnswered) hostEvent() domain.Address            { return e.Host }
func (e HostRebooted) hostEvent() domain.Address            { return e.Host }
func (e HostCredentialsRead) hostEvent() domain.Address     { return e.Host }

func (HostInvestigated) EventType() string        { return "HostInvestigated" }
func (HostInvestigationFailed) EventType() string { return "HostInvestigationFailed" }
func (HostBootstrapped) EventType() string        { return "HostBootstrapped" }
func (HostBootstrapFailed) EventType() string     { return "HostBootstrapFailed" }
func (HostRegistered) EventType() string          { return "HostRegistered" }
func (HostUnregistered) EventType() string        { return "HostUnregistered" }
func (HostRegistrationFailed) EventType() string  { return "HostRegistrationFailed" }
func (HostUncordonFailed) EventType() string      { return "HostUncordonFailed" }
func (HostUncordoned) EventType() string          { return "HostUncordoned" }
func (HostKeyPinned) EventType() string           { return "HostKeyPinned" }
func (HostKeyChanged) EventType() string          { return "HostKeyChanged" }
func (HostKeyShownAgain) EventType() string       { return "HostKeyShownAgain" }
func (HostKeyAccepted) EventType() string         { return "HostKeyAccepted" }
func (HostWentSilent) EventType() string          { return "HostWentSilent" }
func (HostAnswered) EventType() string            { return "HostAnswered" }
func (HostRebooted) EventType() string            { return "HostRebooted" }
func (HostCredentialsRead) EventType() string     { return "HostCredentialsRead" }
