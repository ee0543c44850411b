package event

import "commissaire/domain"

// OperationEvent is a fact about one operation: the turns of its hosts.
//
//sumtype:decl
type OperationEvent interface {
	Event
	operationEvent()
}

// Turn names a host's part in an operation.
type Turn struct {
	Operation domain.OperationID `json:"operation"`
	HostID    domain.HostID      `json:"host_id"`
	Host      domain.Address     `json:"host"`
	Claim     domain.ClaimID     `json:"claim,omitempty"` // under which it was worked on; also the turn's name on the host
}

// HostTurnBegun says that an operation took a host in hand. Nothing was sent to
// it before.
type HostTurnBegun struct {
	Turn
	Term domain.Term `json:"term"`
}

// HostTurnExamined says how the host was found, before anything was changed on it.
type HostTurnExamined struct {
	Turn
	BootID  string `json:"boot_id"`
	Version string `json:"version"`
	Pending string `json:"pending,omitempty"` // ostree: the deployment the next boot was to bring
}

// HostTurnSucceeded says that the host has what the operation wanted for it.
type HostTurnSucceeded struct {
	Turn
	Version string `json:"version"` // what it runs now
	Pending string `json:"pending,omitempty"`
	BootID  string `json:"boot_id"`
	Output  Output `json:"output,omitzero"`
}

// HostTurnFailed says why the host has not.
type HostTurnFailed struct {
	Turn
	Reason string `json:"reason"`
	Exit   *int   `json:"exit_status,omitempty"` // of the command, where it ended by itself
	Output Output `json:"output,omitzero"`
}

// HostTurnSkipped says that there was nothing to do, or nobody to do it to.
type HostTurnSkipped struct {
	Turn
	Reason string `json:"reason"`
}

// Output describes what a command printed; the text itself is kept beside the log.
type Output struct {
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hexadecimal
}

func (HostTurnBegun) operationEvent()     {}
func (HostTurnExamined) operationEvent()  {}
func (HostTurnSucceeded) operationEvent() {}
func (HostTurnFailed) operationEvent()    {}
func (HostTurnSkipped) operationEvent()   {}

func (HostTurnBegun) EventType() string     { return "HostTurnBegun" }
func (HostTurnExamined) EventType() string  { return "HostTurnExamined" }
func (HostTurnSucceeded) EventType() string { return "HostTurnSucceeded" }
func (HostTurnFailed) EventType() string    { return "HostTurnFailed" }
func (HostTurnSkipped) EventType() string   { return "HostTurnSkipped" }
