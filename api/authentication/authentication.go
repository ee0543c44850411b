// Package authentication says who asks, from an HTTP request, and what each
// role may do. Plugins stack: the first that knows the caller wins.
package authentication

import (
	"errors"
	"net/http"
	"slices"
	"time"
)

// Role is what a person or program may do, in one word.
type Role string

// The roles.
const (
	Viewer   Role = "viewer"
	Operator Role = "operator"
	Auditor  Role = "auditor"
	Admin    Role = "admin"
	Join     Role = "join"
)

// Permission is what a route asks for.
type Permission int

// The permissions.
const (
	Read       Permission = iota // GET of records
	ReadAudit                    // history and events
	ReadOutput                   // what hosts printed
	ReadLog                      // checkpoints of the log, and proofs
	Operate                      // operations and membership
	Administer                   // PUT and DELETE of hosts, clusters, networks, container managers; credentials; host keys
	AddSelf                      // PUT /host
)

var grants = map[Role][]Permission{
	Viewer:   {Read},
	Operator: {Read, ReadAudit, ReadOutput, Operate},
	Auditor:  {Read, ReadAudit, ReadLog},
	Admin:    {Read, ReadAudit, ReadOutput, ReadLog, Operate, Administer, AddSelf},
	Join:     {AddSelf},
}

// KnownRole tells whether there is such a role.
func KnownRole(r Role) bool { return grants[r] != nil }

// Identity is an authenticated caller.
type Identity struct {
	Name  string
	Roles []Role
}

// May tells whether the caller has a permission.
func (i Identity) May(p Permission) bool {
	return slices.ContainsFunc(i.Roles, func(r Role) bool { return slices.Contains(grants[r], p) })
}

// ErrDenied says that the request has no credentials that a plugin knows.
var ErrDenied = errors.New("no valid credentials")

// Delayed says that there were too many wrong passwords; none is checked before
// RetryAfter has passed.
type Delayed struct{ RetryAfter time.Duration }

func (*Delayed) Error() string { return "too many wrong passwords" }

// Plugin knows callers. It fails with ErrDenied or *Delayed.
type Plugin interface {
	Authenticate(r *http.Request) (Identity, error)
}

// Stack is plugins of which the first that knows the caller wins.
type Stack []Plugin

// Authenticate implements Plugin.
func (s Stack) Authenticate(r *http.Request) (Identity, error) {
	denied := ErrDenied
	for _, plugin := range s {
		identity, err := plugin.Authenticate(r)
		if err == nil {
			return identity, nil
		}
		if delayed := (*Delayed)(nil); errors.As(err, &delayed) {
			denied = err
		}
	}
	return Identity{}, denied
}
