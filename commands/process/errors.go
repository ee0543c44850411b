package process

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"commissaire/commands"
	"commissaire/domain"
)

// Unreachable says that no connection could be made, or that it broke. Trying
// again may help.
type Unreachable struct{ Reason string }

func (e *Unreachable) Error() string { return e.Reason }

// Refused says that the host was reached and will not, or cannot, do it.
type Refused struct{ Reason string }

func (e *Refused) Error() string { return e.Reason }

// KeyChanged says that the host showed another key than the pinned one.
type KeyChanged struct {
	Host  domain.Address
	Shown HostKey
}

func (e *KeyChanged) Error() string {
	return fmt.Sprintf("the host key changed to %s %s: nothing is sent there until the pinned one is shown again, or PUT /host/%s/hostkey accepts it", e.Shown.Type, e.Shown.Fingerprint, e.Host)
}

// Fenced says that the host has seen a later leader of the same log. That is the
// word of one host: whether this leader was overtaken, the log says.
type Fenced struct {
	Host domain.Address
	Seen domain.Term // 0: it did not say
	Ours domain.Term
}

func (e *Fenced) Error() string {
	seen := "a term"
	if e.Seen > 0 {
		seen = fmt.Sprintf("term %d", e.Seen)
	}
	return fmt.Sprintf("the host has seen %s of this log that is later than ours, %d: if a copy of this service is at work there, stop it; then PUT /host/%s/takeover", seen, e.Ours, e.Host)
}

// Foreign says that another installation of this service manages the host. What is
// not known of it is zero.
type Foreign struct {
	Host  domain.Address
	Owner domain.LogID
	Since time.Time // by the host's clock
	Term  domain.Term
}

func (e *Foreign) Error() string {
	owner, since := "", ""
	if e.Owner != "" {
		owner = fmt.Sprintf(" (log %s)", e.Owner)
	}
	if !e.Since.IsZero() {
		since = " since " + e.Since.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("another installation of this service%s manages this host%s: remove the host there, then take it over here: PUT /host/%s/takeover", owner, since, e.Host)
}

// nodeError is what a container manager said no to, as it is told people.
type nodeError struct {
	what string
	err  error
}

func (e *nodeError) Error() string { return e.what + ": " + e.err.Error() }
func (e *nodeError) Unwrap() error { return e.err }

// What is no outcome of a turn.
var (
	// errNotBegun says that the operation was paused or cancelled meanwhile, or that
	// too many hosts have failed.
	errNotBegun = errors.New("the turn was not begun")
	// errOver says that the turn was given up meanwhile.
	errOver = errors.New("the turn is over")
	// errOvertaken says that a later leader carries the operation out.
	errOvertaken = errors.New("a later leader carries the operation out")
)

// errStillUp says that the host runs as before its reboot was ordered.
var errStillUp = errors.New("it still runs as before the reboot was asked for")

// A subject is whom an error is about.
type subject int

const (
	thisService  subject = iota // it stops, was overtaken, or is at fault
	theStore                    // of events or of credentials: that says nothing about a host
	anotherOwner                // the host works for somebody else, or says so
	theHostKey                  // it is not the pinned one
	theHost                     // what it answered, or that it did not
	theNode                     // what the container manager said no to
)

// about tells whom an error is about. Of several that are joined it is the one that
// comes first here.
func about(err error) subject {
	switch {
	case errors.Is(err, commands.ErrUnavailable), errors.Is(err, commands.ErrOutcomeUnknown):
		return theStore
	case errors.As(err, new(*Fenced)), errors.As(err, new(*Foreign)):
		return anotherOwner
	case errors.As(err, new(*KeyChanged)):
		return theHostKey
	case errors.As(err, new(*Unreachable)), errors.As(err, new(*Refused)), errors.Is(err, errStillUp):
		return theHost
	case errors.As(err, new(*nodeError)):
		return theNode
	}
	return thisService
}

// fromHost tells whether an error is what a host answered to a login or to a
// question, or that it did not.
func fromHost(err error) bool {
	subject := about(err)
	return subject == theHost || subject == theHostKey
}

func isUnreachable(err error) bool { return errors.As(err, new(*Unreachable)) }

// reason is an error as a person reads it.
func reason(err error) string { return cmp.Or(readable(err.Error()), "nobody said why") }

// readable is a text, which others may have written a part of, as it is recorded: in
// at most 1024 bytes, printable, on one line and not left open at its end.
func readable(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) > 1024 {
		text = strings.ToValidUTF8(text[:1024], "") // it may end within a rune
	}
	return strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, text), ": ")
}
