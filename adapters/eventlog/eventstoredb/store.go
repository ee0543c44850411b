// Package eventstoredb keeps the log in EventStoreDB, for several instances of
// the service. README.md is for those who run it.
//
// Decisions:
//
//   - Streams are named with a prefix in front, so that several services share one
//     EventStoreDB. A prefix ends with its only hyphen: none begins with another.
//     What is not ours, and what the server records for itself, is left out; the
//     server filters what is followed.
//   - Every call asks for the leader, in its own metadata: the client's option of
//     that name is never sent. So no read is older than an append that was
//     acknowledged, and the client moves when the leader does.
//   - The client's calls wait without heed of their context while it looks for a
//     server, and leak the connection on which a server said that it was not
//     available. So a client connects before calls are made with it, callers wait
//     outside, not too many and not long, and it is given up with its connection
//     at the first such answer; a circuit breaker spaces the attempts. See link.
//   - An append is tried again with the same event ids, which the server
//     recognises, until its outcome is known or its time is over, and then looked
//     for in the stream: the client hides what the server said when it said it
//     early, and a broken connection says nothing.
//   - A position is the commit position, which is sparse.
//   - The server has to be of version 23.10 or later: older ones do not say when
//     a subscription has caught up. Gossip has to be open to everybody: the client
//     asks for it without credentials.
package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// Options are what a connection string does not say. The zero value is fine.
type Options struct {
	// Prefix is put in front of the name of every stream: letters, digits, dots
	// and underscores, and a hyphen at the end. "commissaire-" where empty.
	Prefix string
	// Instance names this instance to others where it leads. Made up where empty.
	Instance string
	// Lease is how long an instance leads without saying so again; others may
	// have another. 10 s where zero.
	Lease time.Duration
}

// times are how long things may take.
type times struct {
	append  time.Duration // an append, until its outcome is said to be unknown
	attempt time.Duration // one try of it, and the next message of a read
	settle  time.Duration // looking for what an append of unknown outcome recorded
	connect time.Duration // a caller waits while there is no connection
	open    time.Duration // no calls are made after several were not answered

	discover time.Duration // between two times that a server is looked for
}

var defaultTimes = times{
	append: 10 * time.Second, attempt: 3 * time.Second, settle: 2 * time.Second,
	connect: 2 * time.Second, open: time.Second, discover: 250 * time.Millisecond,
}

var errClosed = errors.New("the event log is closed")

// Store is an event log in EventStoreDB.
type Store struct {
	prefix string
	links  *links
	times  times
	logger *slog.Logger
	lease  lease
	seen   seen

	ending context.Context // ends with Close
	end    context.CancelFunc
	mu     sync.Mutex
	closed bool
	busy   sync.WaitGroup // appends under way
}

var _ eventlog.Store = (*Store)(nil)

var prefixes = regexp.MustCompile(`^[A-Za-z0-9._]+-$`)

// Open makes a store of an esdb:// connection string. It refuses one that it
// does not understand, without repeating it, and does not connect yet.
func Open(connection string, logger *slog.Logger, options Options) (*Store, error) {
	return open(connection, logger, options, defaultTimes)
}

func open(connection string, logger *slog.Logger, options Options, times times) (*Store, error) {
	if options.Prefix == "" {
		options.Prefix = "commissaire-"
	}
	if !prefixes.MatchString(options.Prefix) {
		return nil, fmt.Errorf("open the event log: prefix %q is not letters, digits, dots and underscores with a hyphen at the end", options.Prefix)
	}
	if options.Instance == "" {
		options.Instance = uuid.NewString()
	}
	if options.Lease == 0 {
		options.Lease = 10 * time.Second
	}
	configuration, err := configure(connection, logger)
	if err != nil {
		return nil, fmt.Errorf("open the event log: %w", err)
	}
	ending, end := context.WithCancel(context.Background())
	return &Store{
		prefix: options.Prefix, times: times, logger: logger, ending: ending, end: end,
		links: newLinks(configuration, times, ending.Done(), logger),
		lease: lease{instance: options.Instance, length: options.Lease, last: sighting{revision: event.NoRevision}, mine: event.NoRevision},
	}, nil
}

// settings are what may stand in a connection string.
var settings = []string{
	"tls", "tlsVerifyCert", "tlsCaFile", "userCertFile", "userKeyFile", "nodePreference", "discoveryInterval",
	"gossipTimeout", "maxDiscoverAttempts", "keepAliveInterval", "keepAliveTimeout", "defaultDeadline",
}

// configure reads a connection string. It may hold a password: neither it nor an
// error of its parser is repeated.
func configure(connection string, logger *slog.Logger) (*esdb.Configuration, error) {
	unknown := errors.New("the EventStoreDB connection string is not understood; it is like esdb://user:password@host:2113?tls=true")
	_, query, _ := strings.Cut(connection, "?")
	asked, err := url.ParseQuery(query)
	if err != nil {
		return nil, unknown // the error may repeat it
	}
	for name := range asked { // the parser logs what it does not know
		if !slices.ContainsFunc(settings, func(s string) bool { return strings.EqualFold(s, name) }) {
			return nil, fmt.Errorf("the EventStoreDB connection string has a setting that is none of %s", strings.Join(settings, ", "))
		}
	}
	configuration, err := esdb.ParseConnectionString(connection)
	if err != nil {
		return nil, unknown
	}
	if configuration.GossipTimeout <= 0 {
		return nil, errors.New("the EventStoreDB connection string has a gossipTimeout with which nothing can connect")
	}
	if configuration.DisableTLS && configuration.Username != "" {
		logger.Warn("EventStoreDB gets no credentials: without TLS they are not sent")
	}
	return configuration, configuration.Validate()
}

// bindToStore returns a context that ends with ctx and with the store.
func (s *Store) bindToStore(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ending, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// decode returns a recorded event as the log knows it; ok is false for what others and
// the server recorded.
func (s *Store) decode(resolved *esdb.ResolvedEvent) (_ eventlog.Raw, ok bool) {
	e := resolved.OriginalEvent()
	if e == nil || strings.HasPrefix(e.EventType, "$") {
		return eventlog.Raw{}, false
	}
	stream, ours := strings.CutPrefix(e.StreamID, s.prefix)
	if !ours || stream == leaseStream {
		return eventlog.Raw{}, false
	}
	return eventlog.Raw{
		Position: event.Position(e.Position.Commit), Stream: event.Stream(stream), Revision: event.Revision(e.EventNumber),
		ID: e.EventID, Type: e.EventType, Data: e.Data, Meta: e.UserMetadata,
	}, true
}

// begin lets something begin that Close waits for. It ends with s.busy.Done.
func (s *Store) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.busy.Add(1)
	return nil
}

// Close implements eventlog.Store. It gives up the lease where this instance
// leads, once appends have ended. A client that does not end its calls is left
// alone: closing it would end the process.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.busy.Wait() // an append ends by itself
	s.resign()
	s.links.close()
	return nil
}
