package commands_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

var ann = commands.Who{Actor: "ann", Reason: "why not"}

// fixture is a Handler with the log and the secrets that it uses.
type fixture struct {
	*commands.Handler
	t       testing.TB
	log     *faultyLog
	secrets *vault
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	log, secrets := &faultyLog{Log: eventlog.NewLog(memory.New())}, &vault{held: map[domain.CredentialID]string{}}
	return &fixture{t: t, log: log, secrets: secrets, Handler: newHandler(log, secrets)}
}

// otherInstance is one more Handler on the same log, to which no fault happens.
func (f *fixture) otherInstance() *commands.Handler { return newHandler(f.log.Log, f.secrets) }

var errDenied = domain.ErrInvalid.With("its range is denied")

func newHandler(log commands.Log, secrets commands.Credentials) *commands.Handler {
	return commands.New(commands.Config{
		Log: log, Credentials: secrets, Shared: true,
		KeyFingerprint: func(text []byte) (string, error) {
			if strings.Contains(string(text), "not a key") {
				return "", errors.New("no PEM")
			}
			return "SHA256:" + string(text), nil
		},
		Certificate: func(text, _ string, _ time.Time) (string, error) {
			if strings.Contains(text, "expired") {
				return "", errors.New("it has expired")
			}
			return text, nil
		},
		TokenDigest: func(token commands.Secret) string { return "digest of " + string(token) },
		Denied: func(address domain.Address) error {
			if address == "169.254.169.254" {
				return errDenied
			}
			return nil
		},
		CertificateDir: "/etc/certificates",
		Now:            time.Now, NewID: uuid.New, Random: func() uint64 { return 1 },
	})
}

// record records what happened before.
func (f *fixture) record(stream event.Stream, facts ...event.Event) {
	f.t.Helper()
	decided := make([]event.Decided, len(facts))
	for i, fact := range facts {
		decided[i] = event.Decided{ID: uuid.New(), Event: fact, Meta: event.Meta{Time: time.Now().UTC(), Schema: 1}}
	}
	last := event.NoRevision
	for _, r := range f.history(stream) {
		last = r.Revision
	}
	if _, err := f.log.Log.Append(f.t.Context(), stream, last, decided); err != nil {
		f.t.Fatal(err)
	}
}

// history is what is recorded on a stream.
func (f *fixture) history(stream event.Stream) (all []event.Recorded) {
	f.t.Helper()
	for r, err := range f.log.ReadStream(f.t.Context(), stream, 0) {
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// types are the types of what is recorded on a stream, as words.
func (f *fixture) types(stream event.Stream) string {
	f.t.Helper()
	var all []string
	for _, r := range f.history(stream) {
		all = append(all, r.Event.EventType())
	}
	return strings.Join(all, " ")
}

// faultyLog is a log in memory whose appends fail where a test says so.
type faultyLog struct {
	commands.Log
	fault fault // nil: none
}

// fault happens to an append, which it makes or not, and says how that ended.
type fault func(append func() error) error

func (l *faultyLog) Append(ctx context.Context, stream event.Stream, expected event.Revision, events []event.Decided) (position event.Position, err error) {
	record := func() error {
		position, err = l.Log.Append(ctx, stream, expected, events)
		return err
	}
	fault := l.fault
	if fault == nil {
		fault = func(record func() error) error { return record() }
	}
	if err := fault(record); err != nil {
		return 0, err
	}
	return position, nil
}

// unavailable is a fault of a store that takes no events.
func unavailable(func() error) error { return commands.ErrUnavailable }

// lost is a fault of a connection, of which the events were lost.
func lost(func() error) error { return commands.ErrOutcomeUnknown }

// unanswered is a fault of a connection, of which the answer was lost.
func unanswered(record func() error) error { return errors.Join(record(), commands.ErrOutcomeUnknown) }

// after is a fault of the append that comes after so many, and of all later ones.
func after(appends int, f fault) fault {
	return func(record func() error) error {
		if appends--; appends >= 0 {
			return record()
		}
		return f(record)
	}
}

// vault keeps secrets in memory. It fails where a test says so.
type vault struct {
	store   func() error // is called before a secret is stored; nil: nothing
	read    func() error // likewise, before one is read
	destroy error        // with which destroying fails

	mu                sync.Mutex
	held              map[domain.CredentialID]string
	stored, destroyed int
}

var _ commands.Credentials = (*vault)(nil)

func (v *vault) Store(_ context.Context, id domain.CredentialID, secret commands.Secret) error {
	if v.store != nil {
		if err := v.store(); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stored++
	v.held[id] = string(secret)
	return nil
}

func (v *vault) Read(_ context.Context, id domain.CredentialID) (commands.Secret, error) {
	if v.read != nil {
		if err := v.read(); err != nil {
			return nil, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	text, ok := v.held[id]
	if !ok {
		return nil, commands.ErrNoCredential
	}
	return commands.Secret(text), nil
}

func (v *vault) Destroy(_ context.Context, id domain.CredentialID) error {
	if v.destroy != nil {
		return v.destroy
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.destroyed++
	delete(v.held, id)
	return nil
}

func (v *vault) List(context.Context) (map[domain.CredentialID]time.Time, error) {
	return nil, errors.New("no command asks for a list")
}

// texts are the secrets that are kept, sorted.
func (v *vault) texts() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Values(v.held))
}

// named are the credentials that the roster names.
func (f *fixture) named() (all []domain.CredentialID) {
	f.t.Helper()
	for _, r := range f.history(event.RosterStream) {
		switch e := r.Event.(type) {
		case event.HostAdded:
			all = append(all, e.Credential)
		case event.ContainerManagerDefined:
			if e.Credential != "" {
				all = append(all, e.Credential)
			}
		}
	}
	return all
}
