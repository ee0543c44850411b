package event

import (
	"time"

	"commissaire/domain"
)

// WatchEvent is a fact about watching all hosts.
//
//sumtype:decl
type WatchEvent interface {
	Event
	watchEvent()
}

// SweepFinished says that every host that was known and not in hand when the
// sweep started was looked at, but for those that are looked at more seldom. Only
// changes are named.
type SweepFinished struct {
	Started  time.Time       `json:"started"`
	Missed   []domain.HostID `json:"missed,omitempty"`   // did not answer, and did at the sweep before
	Answered []domain.HostID `json:"answered,omitempty"` // answered, and did not at the sweep before
	Left     []domain.HostID `json:"left,omitempty"`     // left alone, and not at the sweep before
	Looked   []domain.HostID `json:"looked,omitempty"`   // looked at, and left alone at the sweep before
}

func (SweepFinished) watchEvent() {}

func (SweepFinished) EventType() string { return "SweepFinished" }
