package domain

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Kind says what sort of no a Refusal is. It decides how the caller is
// answered; a new rule picks one of these and needs no change elsewhere.
type Kind int

// The kinds of refusal.
const (
	Invalid  Kind = iota + 1 // the request cannot be meant
	NotFound                 // what it names does not exist
	NotReady                 // what it names is in no state for it
	Conflict                 // it contradicts what is
)

// Refusal is a rule saying no. Nothing was recorded because of it. How a client
// may go on, who serves the client knows, and adds that by Code and About.
type Refusal struct {
	Kind   Kind
	Code   string // stable and public, e.g. "operation-running"
	Detail string // a sentence for a person: what is wrong

	// About names what the case at hand is about: a host by its address, an operation
	// by its id, a cluster or a manager by its name. It may lack any of them.
	About map[string]string

	// Fields names what is wrong in the request, where the request is at fault.
	Fields []FieldError
}

// FieldError says what is wrong with one field of a request.
type FieldError struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Bounds of what a refusal repeats, in bytes: a client may send a mebibyte of a
// name, and gets the beginning of it back.
const (
	longestWord     = 256
	longestSentence = 4 << 10
)

// sentence is what fmt.Sprintf makes of it, bounded as a whole and in each string
// that it repeats.
func sentence(format string, args []any) string {
	bounded := make([]any, len(args))
	for i, arg := range args {
		if v := reflect.ValueOf(arg); v.Kind() == reflect.String {
			arg = clip(v.String(), longestWord)
		}
		bounded[i] = arg
	}
	return clip(fmt.Sprintf(format, bounded...), longestSentence)
}

// declared has the code of every rule of this program.
var declared = map[string]struct{}{}

// Refuse declares a rule that can say no, for a variable of a package. Its code is
// public and names one condition, whoever finds that it holds: another rule of the
// same code panics.
func Refuse(kind Kind, code string) *Refusal {
	if _, twice := declared[code]; twice {
		panic("two rules refuse as " + code)
	}
	declared[code] = struct{}{}
	return &Refusal{Kind: kind, Code: code, Detail: code}
}

// Codes are those of all rules of this program, sorted.
func Codes() []string { return slices.Sorted(maps.Keys(declared)) }

// With is the refusal in the case at hand. Text of a client may be given as it is:
// the sentence is bounded.
func (r *Refusal) With(format string, args ...any) *Refusal {
	said := *r
	said.Detail = sentence(format, args)
	return &said
}

// At is the refusal of one field of a request, bounded as With is.
func (r *Refusal) At(field, format string, args ...any) *Refusal {
	field, reason := clip(field, longestWord), sentence(format, args)
	said := *r
	said.Detail = field + ": " + reason
	said.Fields = []FieldError{{Field: field, Reason: reason}}
	return &said
}

// Naming is the refusal which says that the case at hand is about what has that
// name, in About, under a key such as "host".
func (r *Refusal) Naming(key, name string) *Refusal {
	naming := *r
	naming.About = maps.Clone(r.About)
	if naming.About == nil {
		naming.About = map[string]string{}
	}
	naming.About[key] = clip(name, longestWord)
	return &naming
}

// Error is the sentence for a person.
func (r *Refusal) Error() string { return r.Detail }

// Is reports whether target is the same rule, whatever the case at hand.
func (r *Refusal) Is(target error) bool {
	other, ok := target.(*Refusal)
	return ok && other.Code == r.Code
}

// ErrInvalid refuses a request that cannot be meant.
var ErrInvalid = Refuse(Invalid, "invalid")

// What refuses a name or an id that nothing has, to who reads and to who changes.
var (
	ErrNoCluster   = Refuse(NotFound, "no-such-cluster")
	ErrNoHost      = Refuse(NotFound, "no-such-host")
	ErrNoManager   = Refuse(NotFound, "no-such-container-manager")
	ErrNoNetwork   = Refuse(NotFound, "no-such-network")
	ErrNoOperation = Refuse(NotFound, "no-such-operation")
)
