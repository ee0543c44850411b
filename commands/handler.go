// Package commands carries out what is asked for: it loads a history, lets the
// domain decide on it and records what was decided. A command's answer is the
// position of what it recorded; nothing is answered before that is durable.
//
// Decisions are made on streams, never on views, which may lag. DESIGN.md says
// why, which stream holds what, and what was dismissed.
package commands

import (
	"context"
	"errors"
	"strings"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
	"commissaire/domain/roster"

	"github.com/google/uuid"
)

// Config is what a Handler needs.
type Config struct {
	Log         Log
	Credentials Credentials

	// KeyFingerprint is the fingerprint of the public half of an unencrypted
	// private key, or says why the text is none.
	KeyFingerprint func(text []byte) (string, error)
	// Certificate checks the text of an SSH user certificate for the key of the
	// fingerprint and gives the form to keep, or says what is wrong with it.
	Certificate func(text, fingerprint string, now time.Time) (string, error)
	// TokenDigest tells tokens apart without giving them away.
	TokenDigest func(Secret) string
	// Denied refuses addresses that may not be reached; only literal ones are
	// looked at.
	Denied func(domain.Address) error
	// CertificateDir is where the paths of a container manager must lie; "": nowhere.
	CertificateDir string

	// Shared says that other instances append to the log too.
	Shared bool

	Now      func() time.Time
	NewID    func() uuid.UUID
	Random   func() uint64 // the seed of a random order
	Instance string
}

// Handler carries out commands. Its methods may be called at once.
type Handler struct {
	config     Config
	roster     *history[*roster.Roster, event.RosterEvent]
	hosts      histories[*host.Host, event.HostEvent]
	operations histories[*operation.Progress, event.OperationEvent]
	watch      *history[struct{}, event.WatchEvent]
}

// New is a Handler over a log. It reads what it needs when it is first asked.
func New(config Config) *Handler {
	return &Handler{
		config: config,
		roster: newHistory(config, event.RosterStream, fold[*roster.Roster, event.RosterEvent]{
			zero: roster.New, clone: (*roster.Roster).Clone,
			evolve: func(r *roster.Roster, e event.RosterEvent, _ time.Time) { r.Evolve(e) },
		}),
		hosts: histories[*host.Host, event.HostEvent]{config: config, fold: fold[*host.Host, event.HostEvent]{
			zero:   func() *host.Host { return &host.Host{} },
			clone:  func(h *host.Host) *host.Host { c := *h; return &c },
			evolve: func(h *host.Host, e event.HostEvent, _ time.Time) { h.Evolve(e) },
		}},
		operations: histories[*operation.Progress, event.OperationEvent]{config: config, fold: fold[*operation.Progress, event.OperationEvent]{
			zero:  func() *operation.Progress { return &operation.Progress{} },
			clone: (*operation.Progress).Clone, evolve: (*operation.Progress).Evolve,
		}},
		watch: newHistory(config, event.WatchStream, fold[struct{}, event.WatchEvent]{
			zero: func() struct{} { return struct{}{} }, clone: func(s struct{}) struct{} { return s }, evolve: func(struct{}, event.WatchEvent, time.Time) {},
		}),
	}
}

// Who says who asks, and why. It is recorded with every event.
type Who struct {
	Actor     string
	Reason    string
	RequestID string
	Remote    string
}

// Service is the actor of all that is done without being asked for.
const Service = "commissaire"

// Receipt says where in the log the outcome of a command is.
type Receipt struct {
	// Position is that of the last event of the request; where nothing changed,
	// that of the last event of the stream that was decided on.
	Position event.Position
}

// recordBy gives events their id and metadata.
func recordBy[E event.Event](h *Handler, who Who) func(E) event.Decided {
	correlation := who.RequestID
	if correlation == "" {
		correlation = h.config.NewID().String()
	}
	return func(e E) event.Decided {
		return event.Decided{ID: h.config.NewID(), Event: e, Meta: event.Meta{
			Correlation: correlation, Causation: correlation,
			Time:  h.config.Now().UTC().Truncate(time.Microsecond), // as it is shown, so that ?at= of that has the event
			Actor: who.Actor, Reason: who.Reason, RequestID: who.RequestID, Remote: who.Remote,
			Instance: h.config.Instance, Schema: 1,
		}}
	}
}

func (h *Handler) onRoster(ctx context.Context, who Who, f func(*roster.Roster) ([]event.RosterEvent, error)) (Receipt, error) {
	return record(ctx, h.roster, recordBy[event.RosterEvent](h, who), f)
}

func (h *Handler) onHost(ctx context.Context, who Who, id domain.HostID, f func(*host.Host) ([]event.HostEvent, error)) (Receipt, error) {
	return record(ctx, h.host(id), recordBy[event.HostEvent](h, who), f)
}

func (h *Handler) onOperation(ctx context.Context, who Who, id domain.OperationID, f func(*operation.Progress) ([]event.OperationEvent, error)) (Receipt, error) {
	return record(ctx, h.operation(id), recordBy[event.OperationEvent](h, who), f)
}

// record is decide for who wants to know no more than where it was recorded.
func record[S any, E event.Event](ctx context.Context, h *history[S, E], by func(E) event.Decided, f func(S) ([]E, error)) (Receipt, error) {
	_, position, err := decide(ctx, h, by, f, anyRecorded)
	return Receipt{position}, err
}

// anyRecorded tells whether a decision recorded anything.
func anyRecorded[S any](_ S, recorded []event.Decided) bool { return len(recorded) > 0 }

// hostAt finds the host that is known under an address.
func (h *Handler) hostAt(ctx context.Context, address domain.Address) (roster.Host, error) {
	found, _, err := query(ctx, h.roster, func(r *roster.Roster) roster.Host {
		found, _ := r.HostAt(address)
		return found
	})
	if err == nil && found.HostID == "" {
		err = roster.ErrNoHost.With("there is no host %s", address)
	}
	return found, err
}

// unrecorded tells whether an error says that nothing was recorded, for certain.
func unrecorded(err error) bool {
	_, refused := errors.AsType[*domain.Refusal](err)
	_, undecided := errors.AsType[*roster.Unknown](err)
	return refused || undecided || errors.Is(err, ErrUnavailable)
}

func newID[I ~string](h *Handler) I { return I(h.config.NewID().String()) }

// operationNamed is the operation that an idempotency key names.
func operationNamed(cluster domain.ClusterName, key string) domain.OperationID {
	space := uuid.NewSHA1(uuid.NameSpaceURL, []byte("commissaire:operation"))
	return domain.OperationID(uuid.NewSHA1(space, []byte(strings.Join([]string{string(cluster), key}, "\n"))).String())
}
