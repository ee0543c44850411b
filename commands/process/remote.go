package process

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// Remote reaches hosts. What it sends is fixed text; nothing of a request is
// ever interpolated into it.
type Remote interface {
	// Dial connects and authenticates. It fails with *Unreachable, *Refused or
	// *KeyChanged; in all three nothing was done on the host. A key other than
	// the pinned one is taken only where an authority vouches for it.
	Dial(ctx context.Context, target Target) (Session, error)

	// Plan is what an operation has a host with these facts do, for people; or why
	// there is nothing to do there, or why it cannot be done. It reaches no host.
	Plan(kind domain.OperationKind, version string, policy event.Policy, facts event.Facts) (commands []string, skip, problem string)
}

// Target is all that is needed to reach a host.
type Target struct {
	HostID     domain.HostID
	Host       domain.Address
	Port       int // 0: 22
	User       domain.RemoteUser
	Credential domain.CredentialID

	Certificate string   // of the credential's key, as event.HostAdded has it; "": none
	Pinned      *HostKey // nil: first contact

	Leader Leader // for whom it is reached
}

// Leader is for whom a host is worked on. A host keeps whose it is, and does
// nothing for another log, nor for an earlier leader of the same one.
type Leader struct {
	Log  domain.LogID // [A-Za-z0-9-]{1,64}
	Term domain.Term
}

// HostKey is how a host proves that it is the same as before.
type HostKey struct {
	Type        string // e.g. ssh-ed25519; "" where only the fingerprint was given
	Fingerprint string // SHA256:…, as ssh-keygen -l prints it

	// Authority is the fingerprint of the certificate authority that vouches for
	// the key, where that is why it was taken; it may be another than the pinned
	// one then.
	Authority string
}

// Session is a connection to a host. Its methods fail with *Unreachable when
// the connection breaks (what was begun on the host goes on), *Refused when the
// host will not, *Foreign when it is another installation's, and *Fenced when a
// later leader was there.
type Session interface {
	HostKey() HostKey

	// BootID reads the host's boot id: the smallest sign of life, which any host
	// gives to anybody.
	BootID(ctx context.Context) (string, error)

	// TakeOver makes the host this installation's, whosever it was, and forgets
	// which terms it has seen. It may be repeated.
	TakeOver(ctx context.Context) error

	// Facts reads all that is known of a host, in one round trip. A host that nobody
	// manages yet is this installation's from then on.
	Facts(ctx context.Context) (event.Facts, error)

	// Bootstrap makes the host fit. It may be repeated.
	Bootstrap(ctx context.Context, id WorkID, b Bootstrap) error

	// Run does the work of an id once, whoever asks and however often: the second
	// and later calls wait for, and answer with, the end of the first. The work
	// outlives the connection. The host ends the command shortly before ctx's
	// deadline. What it printed was given to work's Output when Run returns a result.
	Run(ctx context.Context, id WorkID, work Work) (Result, error)

	// Reboot makes the host reboot, once an id, and only if its boot id still
	// is bootID. It returns as soon as the host has taken note.
	Reboot(ctx context.Context, id WorkID, bootID string) error

	// RebootNeeded says why the host's distribution wants it to be rebooted; "" where
	// it does not, or cannot say. That may take the host some seconds.
	RebootNeeded(ctx context.Context) (why string, err error)

	// Check runs a health command, as often as it is asked to, and returns its
	// exit status and what it said, as Result has it.
	Check(ctx context.Context, command string) (exit int, said string, err error)

	Close() error
}

// Reused is what a Session also has where connections may be kept: it tells whether
// the host was not logged in to for it.
type Reused interface{ Reused() bool }

// WorkID names a piece of work to the host, which keeps a record of it, so that
// it is done once: [A-Za-z0-9-]{1,64}.
type WorkID string

// Bootstrap is what making a host fit depends on.
type Bootstrap struct {
	Facts          event.Facts
	NetworkType    string
	NetworkOptions json.RawMessage
}

// Act is what Run does of an operation.
type Act int

// The acts. All but Apply are for ostree hosts.
const (
	Apply       Act = iota
	Stage           // only download
	ApplyStaged     // apply what was downloaded
	CleanUp         // drop the deployment that waits for a boot
)

// Work is what Run does.
type Work struct {
	Act     Act
	Kind    domain.OperationKind // Upgrade or Deploy
	Version string               // Deploy: to which
	Facts   event.Facts          // CleanUp: what waits for a boot there is what is dropped

	BypassDriver bool // also where another program drives the host's updates

	// BootID is that of the boot in which the work was, or is to be, begun; "": any.
	// In another one it is not begun, but answered as interrupted by a reboot.
	BootID string

	// Limit is how long the host lets it take, waiting included; 0: as Run says.
	Limit time.Duration

	// Waiting, unless it is nil, is told what the work waits for on the host, in its
	// words: at first, whenever that changes, and "" when it waits no more.
	Waiting func(why string)

	// Output, unless it is nil, is told the command, as people know it, before it
	// is run or waited for, and gives what takes what it prints, or nil.
	Output func(command string) Output
}

// Result is how a command ended.
type Result struct {
	// Exit is the command's exit status; nil where it has none, and then
	// Interrupted says why.
	Exit        *int
	Interrupted string

	Output event.Output

	// Said is, of the output, what tells why the command ended so: one line of
	// printable text, of at most 300 bytes; "" where it printed nothing.
	Said string

	// Warnings are lines of the output about what went wrong though the command may
	// have succeeded: at most 20, of 200 bytes each.
	Warnings []string
}

// Failed tells how a command ended that failed, as in "the upgrade …".
func (r Result) Failed() (how string, failed bool) {
	if r.Exit == nil {
		return "was " + r.Interrupted, true
	}
	return ended(*r.Exit, r.Said), *r.Exit != 0
}

// ended is how something ended that printed what it said.
func ended(exit int, said string) string {
	return fmt.Sprintf("ended with exit status %d: %s", exit, cmp.Or(said, "it printed nothing"))
}
