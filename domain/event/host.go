package event

import (
	"slices"
	"strings"

	"commissaire/domain"
)

// HostEvent is a fact about one host: what was learnt of it and done there.
//
//sumtype:decl
type HostEvent interface {
	Event
	hostEvent() domain.Address
}

// Facts are what a host says of itself. They are the host's word: bounded and
// valid UTF-8, nothing more is certain of them.
type Facts struct {
	OS        string `json:"os"`                   // atomic, fedora, rhel, centos, debian, ubuntu, or the ID of os-release
	OSRelease string `json:"os_release"`           // ID and VERSION_ID of /etc/os-release, e.g. "fedora 41"
	OSTree    bool   `json:"ostree"`               // /run/ostree-booted exists
	Version   string `json:"version"`              // what it runs, for people: the booted deployment, else VERSION_ID and kernel
	CPUs      int    `json:"cpus"`                 // logical processors
	Memory    int64  `json:"memory"`               // kilobytes
	Space     int64  `json:"space"`                // kilobytes, each local block device once
	Arch      string `json:"arch"`                 // uname -m
	BootID    string `json:"boot_id"`              // changes with every boot
	MachineID string `json:"machine_id,omitempty"` // of /etc/machine-id: 32 hexadecimal digits; "": it has none
	Pending   string `json:"pending,omitempty"`    // what waits for a boot, for people; "" is nothing new

	// What tells what it runs, and what waits for a boot, from others of the same
	// name: a deployment's checksum, else the kernel. Base is the checksum of the
	// tree under packages that were layered on it, where there are any. What is
	// locked waits for a boot, but the next one does not bring it yet.
	BootedID    string `json:"booted_id,omitempty"`
	BootedBase  string `json:"booted_base,omitempty"`
	PendingID   string `json:"pending_id,omitempty"`
	PendingBase string `json:"pending_base,omitempty"`
	Locked      bool   `json:"pending_locked,omitempty"`

	Like         string `json:"os_like,omitempty"`       // ID_LIKE: the systems it says it is like, the nearest first
	Programs     string `json:"programs,omitempty"`      // those that matter here and that it has, with blanks between; "": not known
	UpdateDriver string `json:"update_driver,omitempty"` // ostree: what rpm-ostree leaves upgrades to, e.g. Zincati
	RebootNeeded string `json:"reboot_needed,omitempty"` // why, by what the distribution says; "": it is not

	SSH SSH `json:"ssh,omitzero"`

	// CloneOf is another host that says it has the same machine id and has another
	// host key: both were made from one image, which should not have had any.
	CloneOf domain.Address `json:"clone_of,omitempty"`
}

// Has tells whether the host has one of the programs that matter; of one whose
// programs are not known that is taken for granted.
func (f Facts) Has(program string) bool {
	return f.Programs == "" || slices.Contains(strings.Fields(f.Programs), program)
}

// Booted is what the host runs.
func (f Facts) Booted() System { return System{f.Version, f.BootedID} }

// Waiting is what waits for a boot; the zero System is nothing new.
func (f Facts) Waiting() System { return System{f.Pending, f.PendingID} }

// System is what a host runs or will run: a deployment, or a kernel. ID tells it
// from another of the same name; recordings from before it was asked for have none.
type System struct{ Name, ID string }

// Is tells whether both are the same.
func (s System) Is(other System) bool {
	if s.ID != "" && other.ID != "" {
		return s.ID == other.ID
	}
	return s.Name == other.Name
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

// HostTakeoverOrdered says that the host is to be taken over from the installation
// that manages it. It is by when the host is investigated next.
type HostTakeoverOrdered struct {
	Host domain.Address `json:"host"`
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

// HostRegistrationBegun says that a container manager is about to be told of the
// host. Until it is recorded how that ended, it may know the host.
type HostRegistrationBegun struct {
	Host      domain.Address     `json:"host"`
	ManagerID domain.ManagerID   `json:"container_manager_id"`
	Manager   domain.ManagerName `json:"container_manager"`
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
func (e HostTakeoverOrdered) hostEvent() domain.Address     { return e.Host }
func (e HostBootstrapped) hostEvent() domain.Address        { return e.Host }
func (e HostBootstrapFailed) hostEvent() domain.Address     { return e.Host }
func (e HostRegistrationBegun) hostEvent() domain.Address   { return e.Host }
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
func (HostTakeoverOrdered) EventType() string     { return "HostTakeoverOrdered" }
func (HostBootstrapped) EventType() string        { return "HostBootstrapped" }
func (HostBootstrapFailed) EventType() string     { return "HostBootstrapFailed" }
func (HostRegistrationBegun) EventType() string   { return "HostRegistrationBegun" }
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
