package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cenkalti/backoff/v5"
	"github.com/sony/gobreaker"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"commissaire/commands/sleep"
)

const (
	maxWaiting = 512         // callers that wait for a connection
	maxFailed  = 5           // calls in a row that were not answered, before none are made for a while
	grace      = time.Second // for a call to end after its context did
)

// These are the failures of a call that was not made.
var (
	errNoServer = errors.New("EventStoreDB is not available")
	errNoTime   = errors.New("there was no time to ask EventStoreDB")
)

// links is the client that calls are made with, and what became of the ones
// before it.
type links struct {
	configuration esdb.Configuration
	breaker       *gobreaker.TwoStepCircuitBreaker
	waiting       chan struct{}
	patience      time.Duration
	ending        <-chan struct{}
	logger        *slog.Logger

	mu      sync.Mutex
	current *link
	closed  bool
}

// link is a client of EventStoreDB and the calls that use it. It is retired at
// the first sign that its server is not available, and closed when its last call
// has ended, as closing it earlier would end the process.
//
// The client forgets its connection, without closing it, when a call was told
// that the server is not available and another asks it for a connection after
// that. It logs the first before it forgets: there the link is retired, and held
// up until all calls that have begun have their connection.
type link struct {
	client      *esdb.Client
	began       time.Time
	ready       chan struct{} // closed when it is connected
	gone        context.Context
	leave       context.CancelFunc     // ends gone
	starting    sync.WaitGroup         // calls that have no connection yet; none is added to a retired link
	lastWarning atomic.Pointer[string] // what the client warned of last
	of          *links

	// Guarded by links.mu.
	calls   int
	retired bool
}

func newLinks(configuration *esdb.Configuration, times times, ending <-chan struct{}, logger *slog.Logger) *links {
	l := &links{configuration: *configuration, waiting: make(chan struct{}, maxWaiting), patience: times.connect, ending: ending, logger: logger}
	// A client whose discovery gave up is dead for good, and so are callers.
	l.configuration.MaxDiscoverAttempts = math.MaxInt32
	l.configuration.DiscoveryInterval = int(times.discover.Milliseconds())
	l.breaker = gobreaker.NewTwoStepCircuitBreaker(gobreaker.Settings{
		Timeout:     times.open,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= maxFailed },
	})
	return l
}

// use gives the link that calls are made with now. Where there is none it makes
// one, which begins to connect.
func (l *links) use() (*link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	if l.current != nil {
		return l.current, nil
	}
	made := &link{began: time.Now(), ready: make(chan struct{}), calls: 1, of: l}
	made.gone, made.leave = context.WithCancel(context.Background())
	configuration := l.configuration
	configuration.Logger = func(level esdb.LogLevel, format string, arguments ...any) {
		if strings.HasPrefix(format, "unexpected exception") && slices.ContainsFunc(arguments, isUnavailable) {
			made.retire()
			made.starting.Wait()
		}
		message := fmt.Sprintf(format, arguments...)
		l.logger.Debug("EventStoreDB client", "level", level, "message", message)
		if level == esdb.LogWarn || level == esdb.LogError {
			made.lastWarning.Store(&message)
		}
	}
	client, err := esdb.NewClient(&configuration)
	if err != nil {
		return nil, err
	}
	made.client = client
	l.current = made
	go func() {
		// All that this does is to connect, which takes as long as there is no server.
		if _, err := client.GetServerVersion(); err == nil {
			close(made.ready)
		}
		made.release()
	}()
	return made, nil
}

// acquire keeps the link from being closed until release, unless it is retired.
func (k *link) acquire() bool {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	if k.retired {
		return false
	}
	k.calls++
	k.starting.Add(1)
	return true
}

func (k *link) release() {
	k.of.mu.Lock()
	k.calls--
	last := k.calls == 0 && k.retired
	k.of.mu.Unlock()
	if last {
		_ = k.client.Close() // it returns no error
	}
}

// retire has new calls made with another link, and ends subscriptions.
func (k *link) retire() {
	k.of.mu.Lock()
	first, idle := !k.retired, k.calls == 0
	k.retired = true
	if k.of.current == k {
		k.of.current = nil
	}
	k.of.mu.Unlock()
	if first {
		k.leave()
		if idle {
			_ = k.client.Close() // it returns no error
		}
	}
}

// waitConnected waits until the link is connected, but not long after it began to
// connect, nor when too many wait: then it fails with errNoServer.
func (k *link) waitConnected(ctx context.Context) error {
	select {
	case <-k.ready:
		return nil
	default:
	}
	why := func() string {
		if warning := k.lastWarning.Load(); warning != nil {
			return *warning
		}
		return "the server does not answer"
	}
	left := time.Until(k.began.Add(k.of.patience))
	if left <= 0 {
		return fmt.Errorf("%w: no connection: %s", errNoServer, why())
	}
	select {
	case k.of.waiting <- struct{}{}:
		defer func() { <-k.of.waiting }()
	default:
		return fmt.Errorf("%w: too many callers wait for a connection", errNoServer)
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-k.ready:
		return nil
	case <-k.gone.Done():
		return nil // another is used
	case <-timer.C:
		return fmt.Errorf("%w: no connection: %s", errNoServer, why())
	case <-k.of.ending:
		return errClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errNoTime, ctx.Err())
	}
}

// visit is a call that may be made with a link.
type visit struct {
	*link
	started func() // says that the call has its connection
	done    func(success bool)
	once    sync.Once
}

// toLeader is the context that the client is given for a visit.
func (v *visit) toLeader(ctx context.Context) context.Context {
	return noticingContext{metadata.AppendToOutgoingContext(ctx, "requires-leader", "true"), v.started}
}

// noticingContext is a context that says when it is looked at, which the client does as
// soon as it has a connection.
type noticingContext struct {
	context.Context
	notice func()
}

// Deadline implements context.Context.
func (b noticingContext) Deadline() (time.Time, bool) {
	b.notice()
	return b.Context.Deadline()
}

// enter lets a call begin. It fails with errNoServer where there is
// no server to call, and with the error of a context that ends.
func (l *links) enter(ctx context.Context) (*visit, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoTime, err)
		}
		k, err := l.use()
		if err != nil {
			return nil, err
		}
		if err := k.waitConnected(ctx); err != nil {
			return nil, err
		}
		done, err := l.breaker.Allow()
		if err != nil {
			return nil, fmt.Errorf("%w: it was not just now", errNoServer)
		}
		if k.acquire() {
			return &visit{link: k, done: done, started: sync.OnceFunc(k.starting.Done)}, nil
		}
		done(l.breaker.State() != gobreaker.StateHalfOpen) // nothing was asked
	}
}

// recordOutcome records how a call ended; only the first counts.
func (v *visit) recordOutcome(ctx context.Context, err error) {
	v.once.Do(func() {
		late := hasCode(err, esdb.ErrorCodeDeadlineExceeded)
		switch {
		case isUnavailable(err), hasCode(err, esdb.ErrorAborted), late && (!hasEnded(ctx) || errors.Is(context.Cause(ctx), errNoAnswer)):
			v.done(false)
		case ctx.Err() != nil: // its caller left: that opens and closes no breaker
			v.done(v.of.breaker.State() != gobreaker.StateHalfOpen)
		default:
			v.done(true)
		}
	})
	if isUnavailable(err) {
		v.retire()
	}
}

// hasEnded tells whether a context has ended. The server knows when its time is over,
// and may be the first to say so.
func hasEnded(ctx context.Context) bool {
	if until, ok := ctx.Deadline(); ok && time.Until(until) < 100*time.Millisecond {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

// recordSilence records that a call was not answered.
func (v *visit) recordSilence() { v.once.Do(func() { v.done(false) }) }

func (l *links) close() {
	l.mu.Lock()
	l.closed = true
	last := l.current
	l.mu.Unlock()
	if last != nil {
		last.retire()
	}
}

// call does something with a client beside the caller, who leaves when ctx ends.
func call[T any](ctx context.Context, l *links, do func(context.Context, *link) (T, error)) (T, error) {
	var none T
	v, err := l.enter(ctx)
	if err != nil {
		return none, err
	}
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	v.run(ctx, func() {
		value, err := do(v.toLeader(ctx), v.link)
		v.recordOutcome(ctx, err)
		done <- outcome{value, err}
	})
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// run does something with the client in a goroutine of its own. Where it does
// not end with ctx, the client is looking for a server in the middle of a call,
// with all who call it waiting: then it is given up.
func (v *visit) run(ctx context.Context, do func()) {
	finished := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-finished:
		case <-time.After(grace):
			v.recordSilence()
			v.retire()
		}
	})
	go func() {
		defer v.release()
		defer v.started()
		defer stop()
		defer close(finished)
		do()
	}()
}

// isUnavailable tells whether something is an error that says that the server is
// not available. Of a read that cannot begin it is not of the client's own type.
func isUnavailable(said any) bool {
	err, ok := said.(error)
	return ok && statusOf(err).Code() == codes.Unavailable
}

// hasCode tells whether the client failed with one of these codes.
func hasCode(err error, codes ...esdb.ErrorCode) bool {
	var failed *esdb.Error
	if !errors.As(err, &failed) {
		return false
	}
	for _, code := range codes {
		if failed.Code() == code {
			return true
		}
	}
	return false
}

// Refused tells whether a failure is that the server said no, which it will say
// again: to who calls, or to what is called for.
func Refused(err error) bool { return isFinal(err) }

// isFinal tells whether trying again is of no use: the server has said no.
func isFinal(err error) bool {
	return hasCode(err, esdb.ErrorCodeAccessDenied, esdb.ErrorCodeUnauthenticated, esdb.ErrorCodeStreamDeleted, esdb.ErrorCodeUnsupportedFeature) ||
		statusOf(err).Code() == codes.InvalidArgument
}

// isUnrecorded tells whether a call cannot have recorded anything: it was not
// sent, it was refused, or the server ended it before it had all of it, which
// shows as an end of file.
func isUnrecorded(err error) bool {
	if isFinal(err) || hasCode(err, esdb.ErrorCodeNotLeader) || errors.Is(err, io.EOF) ||
		errors.Is(err, errNoServer) || errors.Is(err, errNoTime) || errors.Is(err, errClosed) {
		return true
	}
	said := statusOf(err)
	return said.Code() == codes.Unavailable &&
		(strings.HasPrefix(said.Message(), "Server Is ") || strings.Contains(said.Message(), "Error while dialing"))
}

// statusOf is what the server, or gRPC in its place, said.
func statusOf(err error) *status.Status {
	var said interface{ GRPCStatus() *status.Status }
	if errors.As(err, &said) {
		return said.GRPCStatus()
	}
	return status.New(codes.Unknown, "")
}

// newPauses gives how long to wait between tries.
func newPauses() *backoff.ExponentialBackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval, p.MaxInterval = 50*time.Millisecond, time.Second
	p.Reset()
	return p
}

// wait waits, or fails when ctx or the store ends.
func (s *Store) wait(ctx context.Context, d time.Duration) error {
	ctx, done := s.bindToStore(ctx)
	defer done()
	err := sleep.For(ctx, d)
	if err != nil && s.ending.Err() != nil {
		return errClosed
	}
	return err
}
