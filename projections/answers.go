package projections

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// Answer is a record as GET serves it. Its JSON is made once, when it is first
// asked for.
type Answer struct {
	make func() []byte
	once sync.Once
	body []byte
	etag string
}

// NewAnswer is the answer that a value makes. The value must not change any more.
func NewAnswer(value any) *Answer {
	return &Answer{make: func() []byte {
		body, err := json.Marshal(value)
		if err != nil { // the records below hold nothing that has no JSON
			panic(err)
		}
		return append(body, '\n')
	}}
}

// listAnswer is the answer that lists others.
func listAnswer(all []*Answer) *Answer {
	return &Answer{make: func() []byte {
		body := []byte("[")
		for i, answer := range all {
			if i > 0 {
				body = append(body, ',')
			}
			text, _ := answer.JSON()
			body = append(body, bytes.TrimSuffix(text, []byte("\n"))...)
		}
		return append(body, "]\n"...)
	}}
}

// JSON is the answer's body and its strong entity tag, with its quotes.
func (a *Answer) JSON() (body []byte, etag string) {
	a.once.Do(func() {
		a.body = a.make()
		sum := sha256.Sum256(a.body)
		a.make, a.etag = nil, `"`+hex.EncodeToString(sum[:16])+`"`
	})
	return a.body, a.etag
}

// Time is a time as the API writes it: UTC, six digits of a second, no zone.
type Time struct{ time.Time }

// MarshalJSON writes 2015-12-17T15:48:18.710454; the zero time is "".
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte(`""`), nil
	}
	return json.Marshal(t.UTC().Format("2006-01-02T15:04:05.000000"))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "" || text == "null" {
		*t = Time{}
		return nil
	}
	parsed, err := time.Parse("2006-01-02T15:04:05.000000", text)
	*t = Time{parsed}
	return err
}

// Host is a host, with exactly the keys that clients know.
type Host struct {
	Address   domain.Address `json:"address"`
	Status    string         `json:"status"`
	OS        string         `json:"os"`
	CPUs      int            `json:"cpus"`
	Memory    int64          `json:"memory"` // kilobytes
	Space     int64          `json:"space"`  // kilobytes
	LastCheck Time           `json:"last_check"`
	Source    string         `json:"source"` // always "": there are no storage plugins
}

// Cluster is a cluster, with exactly the keys that clients know.
type Cluster struct {
	Name    domain.ClusterName `json:"name"`
	Status  string             `json:"status"`
	Network domain.NetworkName `json:"network"`
	Manager domain.ManagerName `json:"container_manager"`
	Hosts   Counts             `json:"hosts"`
}

// Counts are the members of a cluster.
type Counts struct {
	Total       int `json:"total"`
	Available   int `json:"available"`
	Unavailable int `json:"unavailable"`
}

// Definition is a network or a container manager.
type Definition struct {
	Name    string          `json:"name"`
	Type    string          `json:"type"`
	Options json.RawMessage `json:"options"`
}

// Deploy is the latest deploy of a cluster.
type Deploy struct {
	Name       domain.ClusterName `json:"name"`
	Status     string             `json:"status"`
	Version    string             `json:"version"`
	Deployed   []Host             `json:"deployed"`
	InProcess  []Host             `json:"in_process"`
	StartedAt  Time               `json:"started_at"`
	FinishedAt *Time              `json:"finished_at"`
}

// Upgrade is the latest upgrade of a cluster.
type Upgrade struct {
	Name       domain.ClusterName `json:"name"`
	Status     string             `json:"status"`
	Upgraded   []Host             `json:"upgraded"`
	InProcess  []Host             `json:"in_process"`
	StartedAt  Time               `json:"started_at"`
	FinishedAt *Time              `json:"finished_at"`
}

// Restart is the latest restart of a cluster.
type Restart struct {
	Name       domain.ClusterName `json:"name"`
	Status     string             `json:"status"`
	Restarted  []Host             `json:"restarted"`
	InProcess  []Host             `json:"in_process"`
	StartedAt  Time               `json:"started_at"`
	FinishedAt *Time              `json:"finished_at"`
}

// Operation is all there is to know of an operation.
type Operation struct {
	ID         domain.OperationID   `json:"id"`
	Kind       domain.OperationKind `json:"kind"`
	Cluster    domain.ClusterName   `json:"cluster"`
	Version    string               `json:"version,omitempty"`
	Policy     event.Policy         `json:"policy"`
	Actor      string               `json:"actor"`
	Reason     string               `json:"reason"`
	Status     string               `json:"status"`
	State      string               `json:"state"`   // running, waiting, paused, cancelling, ended
	Waiting    *Wait                `json:"waiting"` // with the state waiting
	Cause      string               `json:"cause"`   // why it failed
	StartedAt  Time                 `json:"started_at"`
	FinishedAt *Time                `json:"finished_at"`
	Hosts      []Turn               `json:"hosts"`

	cluster    domain.ClusterID
	place      map[domain.HostID]int // in Hosts
	saved      *savedTurns           // of which Hosts are made; nil: they are there
	generation int
}

// Wait says what is waited for before a host is begun, or with one that was, since
// when, and until when at most.
type Wait struct {
	Why   string `json:"why"`
	Since Time   `json:"since"`
	Until Time   `json:"until"`
}

// Turn is a host's part in an operation.
type Turn struct {
	Address       domain.Address `json:"address"`
	State         string         `json:"state"`   // waiting, begun, succeeded, failed, skipped
	Doing         string         `json:"doing"`   // with the state begun: what, in a word
	Waiting       *Wait          `json:"waiting"` // for what, until it is over
	StartedAt     *Time          `json:"started_at"`
	FinishedAt    *Time          `json:"finished_at"`
	Attempts      int            `json:"attempts"`
	ExitStatus    *int           `json:"exit_status"`
	Reason        string         `json:"reason"`
	VersionBefore string         `json:"version_before"`
	VersionAfter  string         `json:"version_after"`
	Pending       string         `json:"version_pending"` // what the next boot brings
	Warnings      []string       `json:"warnings,omitempty"`
	Output        string         `json:"output"` // the last lines of what it printed; never in a view

	HostID  domain.HostID `json:"-"`
	Printed int64         `json:"-"` // bytes, by what is recorded
	limit   *Wait         // of what is being done, while something else is waited for
	claim   domain.ClaimID
	frozen  Host
}

// Record is the operation in the form that clients of its kind know.
func (o *Operation) Record() *Answer { return NewAnswer(o.record()) }

func (o *Operation) record() any {
	done, current := []Host{}, []Host{}
	for _, t := range o.Hosts {
		switch t.State {
		case begun:
			current = append(current, t.frozen)
		case succeeded, skipped:
			if t.frozen.Address != "" { // one that was removed before its turn has no record
				done = append(done, t.frozen)
			}
		}
	}
	switch o.Kind {
	case domain.Deploy:
		return Deploy{o.Cluster, o.Status, o.Version, done, current, o.StartedAt, o.FinishedAt}
	case domain.Upgrade:
		return Upgrade{o.Cluster, o.Status, done, current, o.StartedAt, o.FinishedAt}
	case domain.Restart:
	}
	return Restart{o.Cluster, o.Status, done, current, o.StartedAt, o.FinishedAt}
}
