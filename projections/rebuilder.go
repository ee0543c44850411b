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

// The states of a rebuild.
const (
	Folding   = "folding"
	Done      = "done"
	Cancelled = "cancelled"
	Broken    = "failed"
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

// RebuildsConfig is what Rebuilds needs.
type RebuildsConfig struct {
	Views  *Views
	Read   Read
	Kept   func(*Snapshot) // told what is served after a rebuild
	Now    func() time.Time
	Logger *slog.Logger
}

// Rebuilds folds the log afresh while the views are served, one time after the
// other. All methods may be called at once from any goroutine.
type Rebuilds struct {
	config  RebuildsConfig
	slot    chan struct{} // held by the one that runs
	running sync.WaitGroup

	mu     sync.Mutex
	last   *rebuilding // the one that runs, or ran last; nil: none did
	closed bool
}

// NewRebuilds is none yet.
func NewRebuilds(config RebuildsConfig) *Rebuilds {
	return &Rebuilds{config: config, slot: make(chan struct{}, 1)}
}

type rebuilding struct {
	Rebuild
	cancel    context.CancelFunc // nil: it has to come to its end
	cancelled bool
	folded    atomic.Uint64
	joined    atomic.Pointer[time.Time] // when all was folded; what follows is the comparison
	ended     chan struct{}             // closed when it has
}

// Last is the one that runs, or ran last; nil where none did since the start.
func (r *Rebuilds) Last() *Rebuild {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.show()
}

func (r *Rebuilds) show() *Rebuild {
	if r.last == nil {
		return nil
	}
	shown := r.last.Rebuild
	shown.Events = r.last.folded.Load()
	until := r.config.Now()
	if shown.FinishedAt != nil {
		until = shown.FinishedAt.Time
	}
	if joined := r.last.joined.Load(); joined != nil {
		until = *joined
	}
	if took := until.Sub(shown.StartedAt.Time).Seconds(); took > 0 && shown.Events > 0 {
		shown.PerSecond = float64(shown.Events) / took
		if shown.State == Folding && shown.Of > shown.Events {
			shown.Left = int(float64(shown.Of-shown.Events)/shown.PerSecond) + 1
		}
	}
	return &shown
}

// Start begins one, and returns at once; where one runs it returns that one, and
// begun is false. After Close none is begun.
func (r *Rebuilds) Start(kind, actor string) (shown *Rebuild, begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.show(), false
	}
	select {
	case r.slot <- struct{}{}:
	default:
		return r.show(), false
	}
	ctx, cancel := context.WithCancel(context.Background())
	now := r.begin(kind, actor, cancel)
	r.running.Go(func() {
		defer cancel()
		_ = r.fold(ctx, now, Refold{Read: r.config.Read, Keep: kind == KindRebuild}) // it is shown, and logged
	})
	return r.show(), true
}

// Run does one that has to come to its end, in the name of the service, and waits
// for it.
func (r *Rebuilds) Run(ctx context.Context, folded func([]event.Recorded), joined func()) error {
	select {
	case r.slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	now := r.begin(KindRebuild, "commissaire", nil)
	r.mu.Unlock()
	return r.fold(ctx, now, Refold{Read: r.config.Read, Keep: true, Folded: folded, Joined: joined})
}

// begin is called with the lock and the slot.
func (r *Rebuilds) begin(kind, actor string, cancel context.CancelFunc) *rebuilding {
	r.last = &rebuilding{
		Rebuild: Rebuild{State: Folding, Kind: kind, Actor: actor, StartedAt: Time{r.config.Now()}, Of: r.config.Views.Snapshot().Events},
		cancel:  cancel,
		ended:   make(chan struct{}),
	}
	return r.last
}

// fold is called with the slot, and gives it back.
func (r *Rebuilds) fold(ctx context.Context, now *rebuilding, how Refold) error {
	folded, joined := how.Folded, how.Joined
	how.Joined = func() {
		when := r.config.Now()
		now.joined.Store(&when)
		if joined != nil {
			joined()
		}
	}
	how.Folded = func(batch []event.Recorded) {
		now.folded.Add(uint64(len(batch)))
		if folded != nil {
			folded(batch)
		}
	}
	different, err := r.config.Views.Refold(ctx, how)
	r.end(ctx, now, different, err)
	if err == nil && how.Keep {
		r.config.Kept(r.config.Views.Snapshot())
	}
	return err
}

func (r *Rebuilds) end(ctx context.Context, now *rebuilding, different string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	<-r.slot
	close(now.ended)
	now.State, now.Different, now.FinishedAt = Done, different, &Time{r.config.Now()}
	switch {
	case err != nil && (now.cancelled || ctx.Err() != nil):
		now.State = Cancelled
	case err != nil:
		now.State, now.Error = Broken, err.Error()
	}
	shown := r.show()
	logger := r.config.Logger.With("kind", shown.Kind, "actor", shown.Actor, "state", shown.State, "events", shown.Events, "took", shown.FinishedAt.Sub(shown.StartedAt.Time))
	switch {
	case now.State == Broken:
		logger.Error("folding the log afresh failed; what is served stays", "error", err)
	case different != "":
		logger.Error("what was served was not what history says", "different", different)
	default:
		logger.Info("folded the log afresh")
	}
}

// Cancel ends the one that runs, waits for its end, and returns it; what is served
// stays, unless it was too late. Where none runs it does nothing. One that has to
// come to its end is not cancelled.
func (r *Rebuilds) Cancel(ctx context.Context) (*Rebuild, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.last
	if now == nil || now.State != Folding {
		return r.show(), nil
	}
	if now.cancel == nil {
		return nil, ErrRebuilding.With("this one belongs to the start of the service, which acts when it has come to its end")
	}
	r.stop()
	r.mu.Unlock()
	select {
	case <-now.ended:
	case <-ctx.Done():
	}
	r.mu.Lock()
	return r.show(), nil
}

// stop is called with the lock.
func (r *Rebuilds) stop() {
	if r.last != nil && r.last.State == Folding && r.last.cancel != nil {
		r.last.cancelled = true
		r.last.cancel()
	}
}

// Close ends the one that runs, waits for its end, and begins none any more.
func (r *Rebuilds) Close() {
	r.mu.Lock()
	r.closed = true
	r.stop()
	r.mu.Unlock()
	r.running.Wait()
}
