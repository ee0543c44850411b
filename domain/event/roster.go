package event

import (
	"encoding/json"

	"commissaire/domain"
)

// RosterEvent is a fact of the roster: all that refers to something else, so
// that decisions which need each other are made in one stream.
//
//sumtype:decl
type RosterEvent interface {
	Event
	rosterEvent() Subjects
}

// HostAdded says that a host became known to the service.
type HostAdded struct {
	HostID      domain.HostID       `json:"host_id"`
	Host        domain.Address      `json:"host"`
	RemoteUser  domain.RemoteUser   `json:"remote_user"`
	Credential  domain.CredentialID `json:"credential"`
	Fingerprint string              `json:"fingerprint"`        // SHA-256 of the public half of the host's key
	Port        int                 `json:"ssh_port,omitempty"` // 0: 22
	HostKey     string              `json:"ssh_host_key,omitempty"`
	Certificate string              `json:"ssh_certificate,omitempty"` // of the key, as one line; it is public and opens nothing by itself

	// TakeOver says that the host is to be taken over, at first contact, from whoever
	// managed it.
	TakeOver bool `json:"take_over,omitempty"`
}

// HostRemoved says that a host is no longer known to the service.
type HostRemoved struct {
	HostID domain.HostID  `json:"host_id"`
	Host   domain.Address `json:"host"`
}

// ClusterCreated says that there is a cluster, without members.
type ClusterCreated struct {
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
	Network   domain.NetworkName `json:"network"`
	ManagerID domain.ManagerID   `json:"container_manager_id,omitempty"` // "": unmanaged
	Manager   domain.ManagerName `json:"container_manager,omitempty"`
}

// ClusterReconfigured says that a cluster has another network or container manager.
type ClusterReconfigured struct {
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
	Network   domain.NetworkName `json:"network"`
	ManagerID domain.ManagerID   `json:"container_manager_id,omitempty"`
	Manager   domain.ManagerName `json:"container_manager,omitempty"`
}

// ClusterDeleted says that a cluster is gone. Its members left before.
type ClusterDeleted struct {
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
}

// HostJoined says that a host became a member of a cluster.
type HostJoined struct {
	HostID    domain.HostID      `json:"host_id"`
	Host      domain.Address     `json:"host"`
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
}

// HostLeft says that a host is no longer a member of the cluster.
type HostLeft struct {
	HostID    domain.HostID      `json:"host_id"`
	Host      domain.Address     `json:"host"`
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
}

// NetworkDefined says that there is a network.
type NetworkDefined struct {
	Network domain.NetworkName `json:"network"`
	Type    string             `json:"type"`
	Options json.RawMessage    `json:"options"`
}

// NetworkRemoved says that a network is gone.
type NetworkRemoved struct {
	Network domain.NetworkName `json:"network"`
}

// ContainerManagerDefined says that there is a container manager.
type ContainerManagerDefined struct {
	ManagerID   domain.ManagerID    `json:"container_manager_id"`
	Manager     domain.ManagerName  `json:"container_manager"`
	Type        string              `json:"type"`
	Options     json.RawMessage     `json:"options"`                // without the token
	Credential  domain.CredentialID `json:"credential,omitempty"`   // of the token
	TokenDigest string              `json:"token_digest,omitempty"` // keyed, to tell whether another is the same
}

// ContainerManagerRemoved says that a container manager is gone.
type ContainerManagerRemoved struct {
	ManagerID domain.ManagerID   `json:"container_manager_id"`
	Manager   domain.ManagerName `json:"container_manager"`
}

// HostTaken says that a host is being worked on; nobody else works on it until
// it is released.
type HostTaken struct {
	HostID    domain.HostID      `json:"host_id"`
	Host      domain.Address     `json:"host"`
	Claim     domain.ClaimID     `json:"claim"`
	Operation domain.OperationID `json:"operation,omitempty"` // "": the host's own upkeep
	Term      domain.Term        `json:"term"`
}

// HostReleased says that the work on a host ended, one way or the other.
type HostReleased struct {
	HostID domain.HostID  `json:"host_id"`
	Host   domain.Address `json:"host"`
	Claim  domain.ClaimID `json:"claim"`
}

// TermBegun says that an instance of the service leads: from here on it alone
// works on hosts, and what is claimed in an earlier term is refused. Log is the
// log's identity: the first that is recorded is, for ever, and since it is in the
// log every copy has it.
type TermBegun struct {
	Term     domain.Term  `json:"term"`
	Instance string       `json:"instance"`
	Log      domain.LogID `json:"log,omitempty"`
}

// Started is what every start of an operation says. Hosts are the members at
// that moment, in the order in which their turns come.
type Started struct {
	Operation domain.OperationID `json:"operation"`
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
	Hosts     []Member           `json:"hosts"`
	Policy    Policy             `json:"policy"`
	Seed      uint64             `json:"seed,omitempty"` // of a random order
}

// Member is a host as an operation knows it.
type Member struct {
	HostID domain.HostID  `json:"host_id"`
	Host   domain.Address `json:"host"`
}

// DeployStarted says that a version is being deployed to a cluster.
type DeployStarted struct {
	Started
	Version string `json:"version"`
}

// UpgradeStarted says that a cluster is being upgraded.
type UpgradeStarted struct{ Started }

// RestartStarted says that a cluster is being restarted.
type RestartStarted struct{ Started }

// Start is the start of an operation of any kind.
type Start struct {
	Started
	Kind    domain.OperationKind
	Version string // Deploy: to which; else ""
}

// Event is the fact that an operation of that kind was started; nil where there is
// no such kind.
func (s Start) Event() OperationStarted {
	switch s.Kind {
	case domain.Deploy:
		return DeployStarted{s.Started, s.Version}
	case domain.Upgrade:
		return UpgradeStarted{s.Started}
	case domain.Restart:
		return RestartStarted{s.Started}
	}
	return nil
}

// OperationStarted is the fact that an operation was started: one type for each
// kind.
type OperationStarted interface {
	RosterEvent
	Start() Start
}

// Start is the deploy that was started.
func (e DeployStarted) Start() Start { return Start{e.Started, domain.Deploy, e.Version} }

// Start is the upgrade that was started.
func (e UpgradeStarted) Start() Start { return Start{e.Started, domain.Upgrade, ""} }

// Start is the restart that was started.
func (e RestartStarted) Start() Start { return Start{e.Started, domain.Restart, ""} }

// OperationCompleted says that an operation came to the end of its hosts.
type OperationCompleted struct {
	Operation domain.OperationID `json:"operation"`
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
}

// OperationAborted says that an operation stopped before its end, and why.
type OperationAborted struct {
	Operation domain.OperationID `json:"operation"`
	ClusterID domain.ClusterID   `json:"cluster_id"`
	Cluster   domain.ClusterName `json:"cluster"`
	Cause     string             `json:"cause"`
}

func (e HostAdded) rosterEvent() Subjects           { return Subjects{Host: e.Host} }
func (e HostRemoved) rosterEvent() Subjects         { return Subjects{Host: e.Host} }
func (e ClusterCreated) rosterEvent() Subjects      { return Subjects{Cluster: e.Cluster} }
func (e ClusterReconfigured) rosterEvent() Subjects { return Subjects{Cluster: e.Cluster} }
func (e ClusterDeleted) rosterEvent() Subjects      { return Subjects{Cluster: e.Cluster} }
func (e HostJoined) rosterEvent() Subjects          { return Subjects{Host: e.Host, Cluster: e.Cluster} }

func (e HostLeft) rosterEvent() Subjects              { return Subjects{Host: e.Host, Cluster: e.Cluster} }
func (NetworkDefined) rosterEvent() Subjects          { return Subjects{} }
func (NetworkRemoved) rosterEvent() Subjects          { return Subjects{} }
func (ContainerManagerDefined) rosterEvent() Subjects { return Subjects{} }
func (ContainerManagerRemoved) rosterEvent() Subjects { return Subjects{} }
func (e HostTaken) rosterEvent() Subjects             { return Subjects{Host: e.Host, Operation: e.Operation} }
func (e HostReleased) rosterEvent() Subjects          { return Subjects{Host: e.Host} }
func (TermBegun) rosterEvent() Subjects               { return Subjects{} }
func (e Started) rosterEvent() Subjects               { return Subjects{Cluster: e.Cluster, Operation: e.Operation} }

func (e OperationCompleted) rosterEvent() Subjects {
	return Subjects{Cluster: e.Cluster, Operation: e.Operation}
}

func (e OperationAborted) rosterEvent() Subjects {
	return Subjects{Cluster: e.Cluster, Operation: e.Operation}
}

func (HostAdded) EventType() string               { return "HostAdded" }
func (HostRemoved) EventType() string             { return "HostRemoved" }
func (ClusterCreated) EventType() string          { return "ClusterCreated" }
func (ClusterReconfigured) EventType() string     { return "ClusterReconfigured" }
func (ClusterDeleted) EventType() string          { return "ClusterDeleted" }
func (HostJoined) EventType() string              { return "HostJoined" }
func (HostLeft) EventType() string                { return "HostLeft" }
func (NetworkDefined) EventType() string          { return "NetworkDefined" }
func (NetworkRemoved) EventType() string          { return "NetworkRemoved" }
func (ContainerManagerDefined) EventType() string { return "ContainerManagerDefined" }
func (ContainerManagerRemoved) EventType() string { return "ContainerManagerRemoved" }
func (HostTaken) EventType() string               { return "HostTaken" }
func (HostReleased) EventType() string            { return "HostReleased" }
func (TermBegun) EventType() string               { return "TermBegun" }
func (DeployStarted) EventType() string           { return "DeployStarted" }
func (UpgradeStarted) EventType() string          { return "UpgradeStarted" }
func (RestartStarted) EventType() string          { return "RestartStarted" }
func (OperationCompleted) EventType() string      { return "OperationCompleted" }
func (OperationAborted) EventType() string        { return "OperationAborted" }
