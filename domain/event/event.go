// Package event holds every fact that was ever recorded, as data: what
// happened, never what it means for a status. Who decided it is not known here.
//
// Names of types and of JSON fields are storage. Optional fields may be added;
// none is renamed, retyped or removed. A new meaning is a new type.
//
// No secret is ever part of an event: credentials are named by id and
// fingerprint.
//
// An event that starts an operation is an OperationStarted, whatever its kind. That
// is an interface, and not a function that tells whether an event is one, so that a
// fold has one case for the three and the linter still sees whether it has all.
package event

import (
	"strings"
	"time"

	"commissaire/domain"

	"github.com/google/uuid"
)

// Event is a fact of any family.
type Event interface {
	// EventType is the name under which the fact is stored.
	EventType() string
}

// Subjects are the things that an event is about, and so belongs to the history
// of; "" is none.
type Subjects struct {
	Host      domain.Address
	Cluster   domain.ClusterName
	Operation domain.OperationID
}

// SubjectsOf is what an event names as its subjects; the cluster of an operation is
// not among them where only the operation is named. Each family requires it of its
// members, so that no event can leave it out.
func SubjectsOf(e Event) Subjects {
	switch e := e.(type) {
	case RosterEvent:
		return e.rosterEvent()
	case HostEvent:
		return Subjects{Host: e.hostEvent()}
	case OperationEvent:
		return e.operationEvent()
	}
	return Subjects{} // of the watch, which is over all hosts
}

// Position is the place of an event in the whole log: ordered, opaque, not
// dense. 0 is before the first event.
type Position uint64

// Revision is the place of an event in its stream, counted from 0.
type Revision int64

// NoRevision is the revision of a stream that has no event.
const NoRevision Revision = -1

// Stream names one history.
type Stream string

// The streams that exist once.
const (
	RosterStream Stream = "roster"
	WatchStream  Stream = "watch"
)

// The families of streams that exist once a host and once an operation.
const (
	hostPrefix      = "host-"
	operationPrefix = "operation-"
)

// HostStream holds what was learnt of a host and done there.
func HostStream(id domain.HostID) Stream { return Stream(hostPrefix + string(id)) }

// OperationStream holds the turns of an operation.
func OperationStream(id domain.OperationID) Stream { return Stream(operationPrefix + string(id)) }

// Host is the host whose stream s is.
func (s Stream) Host() (domain.HostID, bool) {
	id, ok := strings.CutPrefix(string(s), hostPrefix)
	return domain.HostID(id), ok
}

// Operation is the operation whose stream s is.
func (s Stream) Operation() (domain.OperationID, bool) {
	id, ok := strings.CutPrefix(string(s), operationPrefix)
	return domain.OperationID(id), ok
}

// Meta says who, when and why. It is stored beside every event.
type Meta struct {
	Correlation string    `json:"$correlationId"`           // the request or process run all this belongs to
	Causation   string    `json:"$causationId"`             // the request or event that led to it
	Time        time.Time `json:"time"`                     // when it was decided, UTC
	Actor       string    `json:"actor"`                    // an authenticated name, or "commissaire"
	Reason      string    `json:"reason,omitempty"`         // as the client gave it
	RequestID   string    `json:"request_id,omitempty"`     // X-Request-Id
	Remote      string    `json:"remote_address,omitempty"` // where the request came from
	Instance    string    `json:"instance,omitempty"`       // which instance decided
	Schema      int       `json:"schema"`                   // version of the event's form, from 1
}

// Recorded is an event with its place in history.
type Recorded struct {
	Position Position
	Stream   Stream
	Revision Revision
	ID       uuid.UUID
	Meta     Meta
	Event    Event
}

// Decided is an event that is about to be recorded. The id is given once, when
// it is decided, so that a repeated append is recognised.
type Decided struct {
	ID    uuid.UUID
	Meta  Meta
	Event Event
}
