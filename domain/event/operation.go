package event

import (
	"time"

	"commissaire/domain"
)

// OperationEvent is a fact about one operation: the turns of its hosts.
//
//sumtype:decl
type OperationEvent interface {
	Event
	operationEvent() Subjects
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

// HostStaged says that a host has downloaded what its turn will apply.
type HostStaged struct{ Turn }

// HostTurnCordoned says that work is kept away from the host's node from now on:
// by this turn, or by somebody before it.
type HostTurnCordoned struct {
	Turn
	Before bool `json:"before,omitempty"`
}

// HostTurnExamined says how the host was found, before anything was changed on it.
type HostTurnExamined struct {
	Turn
	BootID    string `json:"boot_id"`
	Version   string `json:"version"`
	Pending   string `json:"pending,omitempty"` // what waits for a boot
	OSTree    bool   `json:"ostree,omitempty"`
	BootedID  string `json:"booted_id,omitempty"` // as in Facts
	PendingID string `json:"pending_id,omitempty"`
	Locked    bool   `json:"pending_locked,omitempty"` // the next boot does not bring it yet
}

// HostTurnWorked says that the command ended well, and how the host is now.
// A reboot and the health gate may follow.
type HostTurnWorked struct {
	Turn
	BootID       string `json:"boot_id"`
	Version      string `json:"version"`
	Pending      string `json:"pending,omitempty"` // what waits for a boot
	Reboot       bool   `json:"reboot,omitempty"`  // the host is to be rebooted
	Output       Output `json:"output,omitzero"`
	BootedID     string `json:"booted_id,omitempty"` // as in Facts
	PendingID    string `json:"pending_id,omitempty"`
	Locked       bool   `json:"pending_locked,omitempty"` // the next boot does not bring it yet
	RebootNeeded string `json:"reboot_needed,omitempty"`  // why, where it is asked for if it is needed only

	Warnings []string `json:"warnings,omitempty"` // lines of the output: what was left out, or failed, all the same
}

// HostTurnRebootOrdered says that the host is told to reboot, and until when it
// must be back. The order was not sent before.
type HostTurnRebootOrdered struct {
	Turn
	BootID string    `json:"boot_id"` // from which it is to reboot
	Until  time.Time `json:"until"`   // UTC
}

// HostTurnWaiting says what a turn waits for from now on, and until when it does
// at most; with no reason, that it no longer does.
type HostTurnWaiting struct {
	Turn
	Why   string    `json:"why,omitempty"`
	Until time.Time `json:"until,omitzero"` // UTC
}

// HostTurnGated says whether the host is healthy after its work: at first, and
// when that changes.
type HostTurnGated struct {
	Turn
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"` // why it is not
}

// HostTurnSucceeded says that the host has what the operation wanted for it.
type HostTurnSucceeded struct {
	Turn
	Version   string `json:"version"`           // what it runs now
	Pending   string `json:"pending,omitempty"` // what waits for a boot
	OSTree    bool   `json:"ostree,omitempty"`
	BootID    string `json:"boot_id"`
	Output    Output `json:"output,omitzero"`
	BootedID  string `json:"booted_id,omitempty"` // as in Facts
	PendingID string `json:"pending_id,omitempty"`

	Warnings []string `json:"warnings,omitempty"` // as in HostTurnWorked
}

// HostTurnFailed says why the host has not.
type HostTurnFailed struct {
	Turn
	Reason  string `json:"reason"`
	Exit    *int   `json:"exit_status,omitempty"` // of the command, where it ended by itself
	Version string `json:"version,omitempty"`     // what it runs now, where it came back on another than was wanted
	Output  Output `json:"output,omitzero"`
}

// HostTurnSkipped says that there was nothing to do, or nobody to do it to.
type HostTurnSkipped struct {
	Turn
	Reason string `json:"reason"`
}

// HostCleanedUp says that a deployment which the operation had made, and which
// nobody had booted, was dropped because the operation was cancelled, or why it
// could not be.
type HostCleanedUp struct {
	Turn
	Version string `json:"version"`
	Failure string `json:"failure,omitempty"`
}

// OperationTakenUp says that the leader of a term carries the operation out from
// here on; nothing is begun in an earlier term any more.
type OperationTakenUp struct {
	Operation domain.OperationID `json:"operation"`
	Term      domain.Term        `json:"term"`
}

// OperationWaiting says that no host is begun until a time, and why.
type OperationWaiting struct {
	Operation domain.OperationID `json:"operation"`
	Why       string             `json:"why"`
	Until     time.Time          `json:"until"` // UTC
}

// OperationPaused says that no further host is begun until it is resumed.
type OperationPaused struct {
	Operation domain.OperationID `json:"operation"`
	ByPolicy  bool               `json:"by_policy,omitempty"` // as its policy asked for
}

// OperationResumed says that hosts are begun again.
type OperationResumed struct {
	Operation domain.OperationID `json:"operation"`
}

// OperationCancelled says that no further host is begun, for good.
type OperationCancelled struct {
	Operation domain.OperationID `json:"operation"`
	Cause     string             `json:"cause"` // by whom and why
}

// OperationAbandoned says that a person gave an operation up while hosts were in
// hand: their turns are over, whatever goes on there.
type OperationAbandoned struct {
	Operation domain.OperationID `json:"operation"`
	Cause     string             `json:"cause"` // by whom and why
}

// Output describes what a command printed; the text itself is kept beside the log.
type Output struct {
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hexadecimal
}

func (e Turn) operationEvent() Subjects               { return Subjects{Host: e.Host, Operation: e.Operation} }
func (e OperationWaiting) operationEvent() Subjects   { return Subjects{Operation: e.Operation} }
func (e OperationTakenUp) operationEvent() Subjects   { return Subjects{Operation: e.Operation} }
func (e OperationPaused) operationEvent() Subjects    { return Subjects{Operation: e.Operation} }
func (e OperationResumed) operationEvent() Subjects   { return Subjects{Operation: e.Operation} }
func (e OperationCancelled) operationEvent() Subjects { return Subjects{Operation: e.Operation} }
func (e OperationAbandoned) operationEvent() Subjects { return Subjects{Operation: e.Operation} }

func (HostStaged) EventType() string            { return "HostStaged" }
func (HostTurnBegun) EventType() string         { return "HostTurnBegun" }
func (HostTurnCordoned) EventType() string      { return "HostTurnCordoned" }
func (HostTurnExamined) EventType() string      { return "HostTurnExamined" }
func (HostTurnWorked) EventType() string        { return "HostTurnWorked" }
func (HostTurnWaiting) EventType() string       { return "HostTurnWaiting" }
func (HostTurnRebootOrdered) EventType() string { return "HostTurnRebootOrdered" }
func (HostTurnGated) EventType() string         { return "HostTurnGated" }
func (HostTurnSucceeded) EventType() string     { return "HostTurnSucceeded" }
func (HostTurnFailed) EventType() string        { return "HostTurnFailed" }
func (HostTurnSkipped) EventType() string       { return "HostTurnSkipped" }
func (HostCleanedUp) EventType() string         { return "HostCleanedUp" }
func (OperationWaiting) EventType() string      { return "OperationWaiting" }
func (OperationTakenUp) EventType() string      { return "OperationTakenUp" }
func (OperationPaused) EventType() string       { return "OperationPaused" }
func (OperationResumed) EventType() string      { return "OperationResumed" }
func (OperationCancelled) EventType() string    { return "OperationCancelled" }
func (OperationAbandoned) EventType() string    { return "OperationAbandoned" }
