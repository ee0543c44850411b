package service

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/api"
	"commissaire/cmd/internal/audit"
	"commissaire/cmd/internal/config"
	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/commands/sleep"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

// retryAfter is the pause before something that failed is done again.
const retryAfter = time.Second

// follower brings the views and the process up to the log and keeps them there. Three
// feeds do that, one after the other:
//
//   - catchUp folds up to the head, from the latest snapshot of the views where there is
//     one, else from the beginning;
//   - follow goes on from there with each event as it comes;
//   - completeProcess reads the log from its beginning where the views came from a
//     snapshot, because the process is in none.
type follower struct {
	log       *eventlog.Log
	feed      eventlog.Store // of the log
	views     *projections.Views
	process   *process.Process
	events    *api.Events
	rebuilds  *projections.Rebuilder
	snapshots *snapshotKeeper
	freshness *freshness
	logger    *slog.Logger

	resumed  bool                  // the views began with a snapshot
	complete chan struct{}         // closed when the process has all that the views have
	failure  atomic.Pointer[error] // why the views stopped
}

func newFollower(log *eventlog.Log, feed eventlog.Store, p *process.Process, snapshots *snapshotKeeper, logger *slog.Logger) *follower {
	return &follower{
		log: log, feed: feed, views: projections.New(), process: p, snapshots: snapshots, logger: logger, complete: make(chan struct{}),
	}
}

// position is how far the views are.
func (f *follower) position() event.Position { return f.views.Snapshot().Position }

// catchUp folds straight from the feed, in batches, until the head. When it failed it may
// be called again, and goes on from the position it reached.
func (f *follower) catchUp(ctx context.Context) error {
	if err := f.resume(ctx); err != nil {
		return err
	}
	defer projections.Hurry()()
	for batch, err := range eventlog.UpToHead(ctx, f.log.Follow(ctx, f.position())) {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("read the event log: %w", err)
		}
		if err != nil {
			return err
		}
		for _, r := range batch {
			f.views.Apply(r)
			if !f.resumed {
				f.process.Apply(r)
			}
		}
	}
	return nil
}

// resume takes the views from the latest snapshot, where there is one.
func (f *follower) resume(ctx context.Context) (err error) {
	if f.resumed || f.position() > 0 {
		return nil
	}
	f.resumed, err = f.snapshots.load(readViews(ctx, f.feed, &f.views))
	return err
}

// begin makes what needs views that have caught up.
func (f *follower) begin(c config.Events, shared bool) {
	f.snapshots.begin(f.views.Snapshot(), f.resumed)
	if !f.resumed {
		close(f.complete)
	}
	f.rebuilds = projections.NewRebuilder(projections.RebuilderConfig{
		Views: f.views, Read: f.log.Follow, Rebuilt: f.snapshots.save, Now: time.Now, Logger: f.logger,
	})
	f.freshness = &freshness{served: f.position, currentSince: time.Now()}
	if shared {
		f.freshness.head = f.log.Head
	}
	f.events = api.NewEvents(api.EventsConfig{
		After: f.position(), Heartbeat: time.Duration(c.Heartbeat), Readers: c.Readers,
	})
}

// follow keeps views and process up to date from the head on, until ctx ends. An event
// that cannot be read stops them: to leave it out would be to answer wrongly.
func (f *follower) follow(ctx context.Context) error {
	quiet := watermill.NewSlogLoggerWithLevelMapping(f.logger, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, quiet)
	if err != nil {
		return fmt.Errorf("follow the log: %w", err)
	}
	router.AddMiddleware(middleware.Recoverer)
	subscriber := eventlog.NewSubscriber(f.feed, f.position, retryAfter, f.freshness.setConnected, f.logger)
	router.AddConsumerHandler("views and process", eventlog.Topic, subscriber, f.receive)
	if err := router.Run(ctx); err != nil {
		return fmt.Errorf("follow the log: %w", err)
	}
	return nil
}

// receive applies one event that was recorded since the start.
func (f *follower) receive(m *message.Message) error {
	r, err := eventlog.FromMessage(m)
	if err != nil {
		err = fmt.Errorf("views stand at position %d: %w", f.position(), err)
		f.failure.Store(&err)
		f.logger.Error("an event cannot be read; what is served and what is done stay at what is before it", "error", err)
		<-m.Context().Done() // delivered again it would say the same
		return err
	}
	f.views.Apply(r)
	f.events.Publish(audit.Line(eventlog.Entry{Recorded: r, Type: m.Metadata.Get("name"), Data: json.RawMessage(m.Payload)}))
	if f.isComplete() { // else completeProcess hands it over
		f.process.Apply(r)
	}
	f.snapshots.count()
	return nil
}

// completeProcess brings the process up to the views, where these began with a snapshot,
// and rebuilds the views on the way. It tries again until it succeeds or ctx ends.
func (f *follower) completeProcess(ctx context.Context) {
	for pause := retryAfter; !f.isComplete(); pause = min(2*pause, time.Minute) { // what cannot be read stays so for long
		err := f.rebuilds.Run(ctx, func(batch []event.Recorded) {
			for _, r := range batch {
				f.process.Apply(r)
			}
		}, func() { close(f.complete) })
		if err == nil || ctx.Err() != nil {
			return
		}
		_ = sleep.For(ctx, pause) // the loop asks whether ctx has ended
	}
}

// isComplete tells whether the process has all that the views have.
func (f *follower) isComplete() bool {
	select {
	case <-f.complete:
		return true
	default:
		return false
	}
}

// keepSnapshots writes snapshots of the views until ctx ends, and then a last one.
func (f *follower) keepSnapshots(ctx context.Context) { f.snapshots.run(ctx, f.views.Snapshot) }

// ready says why the views stopped.
func (f *follower) ready(context.Context) error {
	if err := f.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// errFolding says what a service that began with a snapshot cannot do yet.
var errFolding = fmt.Errorf("the log is still being folded; try again: %w", commands.ErrUnavailable)

// nodeStatus asks the container manager of a name about a host.
func (f *follower) nodeStatus(ctx context.Context, name domain.ManagerName, host domain.Address) (json.RawMessage, error) {
	if !f.isComplete() {
		return nil, errFolding
	}
	manager, err := f.process.Manager(name)
	if err != nil {
		return nil, err
	}
	return manager.NodeStatus(ctx, host)
}
