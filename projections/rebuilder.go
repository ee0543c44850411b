package projections

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// The states of a rebuild, with Failed.
const (
	Folding   = "folding"
	Done      = "done"
	Cancelled = "cancelled"
)

// ErrRebuilding refuses to cancel what has to come to its end.
var ErrRebuilding = domain.Refuse(domain.Conflict, "rebuilding")

// Rebuild is how far the log was folded afresh, and what came of it.
type Rebuild struct {
	State      string  `json:"state"` // folding, done, cancelled, failed
	Kind       string  `json:"kind"`  // rebuild: what was folded is served from then on; verify: it is compared with what is served
	Actor      string  `json:"actor"` // who asked for it; commissaire: it belongs to the start of the service
	StartedAt  Time    `json:"started_at"`
	FinishedAt *Time   `json:"finished_at"`
	Events     uint64  `json:"events"` // that were folded
	Of         uint64  `json:"of"`     // that there were when it began
	PerSecond  float64 `json:"events_per_second"`
	Left       int     `json:"seconds_left"` // at that pace
	Different  string  `json:"different"`    // the first record that was not as history says; "": none
	Error      string  `json:"error"`        // with failed
}

// The kinds of a rebuild.
const (
	KindRebuild = "rebuild"
	KindVerify  = "verify"
)

// RebuilderConfig is what Rebuilder needs.
type RebuilderConfig struct {
	Views   *Views
	Read    Read
	Rebuilt func(*Snapshot) // called with what is served after a rebuild
	Now     func() time.Time
	Logger  *slog.Logger
}

// Rebuilder rebuilds views while they are served, one rebuild after the other. All
// methods may be called at once from any goroutine.
type Rebuilder struct {
	config  RebuilderConfig
	slot    chan struct{} // held by the rebuild that runs
	running sync.WaitGroup

	mu     sync.Mutex
	last   *run // the rebuild that runs, or ran last; nil: none did
	closed bool
}

// NewRebuilder has done no rebuild yet.
func NewRebuilder(config RebuilderConfig) *Rebuilder {
	return &Rebuilder{config: config, slot: make(chan struct{}, 1)}
}

// run is a rebuild as it runs.
type run struct {
	Rebuild
	cancel    context.CancelFunc // nil: it has to come to its end
	cancelled bool
	folded    atomic.Uint64
	joined    atomic.Pointer[time.Time] // when all was folded; what follows is the comparison
	ended     chan struct{}             // closed when it has
}

// Last is the rebuild that runs, or ran last; nil where none did since the start.
func (r *Rebuilder) Last() *Rebuild {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report()
}

func (r *Rebuilder) report() *Rebuild {
	if r.last == nil {
		return nil
	}
	report := r.last.Rebuild
	report.Events = r.last.folded.Load()
	until := r.config.Now()
	if report.FinishedAt != nil {
		until = report.FinishedAt.Time
	}
	if joined := r.last.joined.Load(); joined != nil {
		until = *joined
	}
	if took := until.Sub(report.StartedAt.Time).Seconds(); took > 0 && report.Events > 0 {
		report.PerSecond = float64(report.Events) / took
		if report.State == Folding && report.Of > report.Events {
			report.Left = int(float64(report.Of-report.Events)/report.PerSecond) + 1
		}
	}
	return &report
}

// Start begins a rebuild, and returns at once; where one runs already it returns that
// one, and begun is false. After Close none is begun.
func (r *Rebuilder) Start(kind, actor string) (report *Rebuild, begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.report(), false
	}
	select {
	case r.slot <- struct{}{}:
	default:
		return r.report(), false
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := r.begin(kind, actor, cancel)
	r.running.Go(func() {
		defer cancel()
		_ = r.fold(ctx, run, RebuildOptions{Read: r.config.Read, Serve: kind == KindRebuild}) // it is reported, and logged
	})
	return r.report(), true
}

// Run does a rebuild that cannot be cancelled, in the name of the service, and waits
// for its end.
func (r *Rebuilder) Run(ctx context.Context, folded func([]event.Recorded), joined func()) error {
	select {
	case r.slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	run := r.begin(KindRebuild, "commissaire", nil)
	r.mu.Unlock()
	return r.fold(ctx, run, RebuildOptions{Read: r.config.Read, Serve: true, Folded: folded, Joined: joined})
}

// begin is called with the lock and the slot.
func (r *Rebuilder) begin(kind, actor string, cancel context.CancelFunc) *run {
	r.last = &run{
		Rebuild: Rebuild{State: Folding, Kind: kind, Actor: actor, StartedAt: Time{r.config.Now()}, Of: r.config.Views.Snapshot().Events},
		cancel:  cancel,
		ended:   make(chan struct{}),
	}
	return r.last
}

// fold is called with the slot, and gives it back.
func (r *Rebuilder) fold(ctx context.Context, run *run, options RebuildOptions) error {
	folded, joined := options.Folded, options.Joined
	options.Joined = func() {
		when := r.config.Now()
		run.joined.Store(&when)
		if joined != nil {
			joined()
		}
	}
	options.Folded = func(batch []event.Recorded) {
		run.folded.Add(uint64(len(batch)))
		if folded != nil {
			folded(batch)
		}
	}
	different, err := r.config.Views.Rebuild(ctx, options)
	r.end(ctx, run, different, err)
	if err == nil && options.Serve {
		r.config.Rebuilt(r.config.Views.Snapshot())
	}
	return err
}

func (r *Rebuilder) end(ctx context.Context, run *run, different string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	<-r.slot
	close(run.ended)
	run.State, run.Different, run.FinishedAt = Done, different, &Time{r.config.Now()}
	switch {
	case err != nil && (run.cancelled || ctx.Err() != nil):
		run.State = Cancelled
	case err != nil:
		run.State, run.Error = Failed, err.Error()
	}
	report := r.report()
	logger := r.config.Logger.With("kind", report.Kind, "actor", report.Actor, "state", report.State, "events", report.Events, "took", report.FinishedAt.Sub(report.StartedAt.Time))
	switch {
	case run.State == Failed:
		logger.Error("folding the log afresh failed; what is served stays", "error", err)
	case different != "":
		logger.Error("what was served was not what history says", "different", different)
	default:
		logger.Info("folded the log afresh")
	}
}

// Cancel ends the rebuild that runs, waits for its end, and returns it; what is served
// stays, unless it was too late. Where none runs it does nothing. A rebuild of Run is
// not cancelled, but refused.
func (r *Rebuilder) Cancel(ctx context.Context) (*Rebuild, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.last
	if run == nil || run.State != Folding {
		return r.report(), nil
	}
	if run.cancel == nil {
		return nil, ErrRebuilding.With("this one belongs to the start of the service, which acts when it has come to its end")
	}
	r.stop()
	r.mu.Unlock()
	select {
	case <-run.ended:
	case <-ctx.Done():
	}
	r.mu.Lock()
	return r.report(), nil
}

// stop is called with the lock.
func (r *Rebuilder) stop() {
	if r.last != nil && r.last.State == Folding && r.last.cancel != nil {
		r.last.cancelled = true
		r.last.cancel()
	}
}

// Close ends the rebuild that runs, waits for its end, and begins none any more.
func (r *Rebuilder) Close() {
	r.mu.Lock()
	r.closed = true
	r.stop()
	r.mu.Unlock()
	r.running.Wait()
}
