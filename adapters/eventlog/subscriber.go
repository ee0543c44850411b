package eventlog

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"commissaire/commands/sleep"
	"commissaire/domain/event"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
)

// Topic is the one topic there is: all events.
const Topic = "events"

// Subscriber delivers the log as Watermill messages: in order, each at least
// once, the next only after the one before was acknowledged; one that is not
// acknowledged is delivered again. Payload and metadata are the event's own
// JSON, so there is no envelope.
type Subscriber struct {
	store   Store
	after   func() event.Position
	backoff time.Duration
	report  func(bool)
	logger  *slog.Logger

	closing chan struct{}
	once    sync.Once
	running sync.WaitGroup
}

// NewSubscriber delivers what comes after the position that after gives: the
// checkpoint, asked for at every start and after every failure of the store.
// It waits for backoff before it delivers again or asks the store again. It reports
// with each batch that the store can be followed, and when it cannot.
func NewSubscriber(store Store, after func() event.Position, backoff time.Duration, report func(bool), logger *slog.Logger) *Subscriber {
	return &Subscriber{store: store, after: after, backoff: backoff, report: report, logger: logger, closing: make(chan struct{})}
}

// Subscribe implements message.Subscriber. The channel ends with ctx or Close.
func (s *Subscriber) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	ctx, cancel := context.WithCancel(ctx)
	s.running.Go(func() {
		defer close(out)
		defer cancel()
		go func() {
			select {
			case <-s.closing:
				cancel()
			case <-ctx.Done():
			}
		}()
		for ctx.Err() == nil {
			s.deliver(ctx, out)
			_ = sleep.For(ctx, s.backoff) // the loop asks whether ctx has ended
		}
	})
	return out, nil
}

func (s *Subscriber) deliver(ctx context.Context, out chan<- *message.Message) {
	for batch, err := range s.store.Follow(ctx, s.after()) {
		if err != nil {
			s.logger.Error("reading the event log failed; trying again", "error", err)
			s.report(false)
			return
		}
		s.report(true)
		for _, raw := range batch {
			for !s.deliverOne(ctx, out, raw) {
				if sleep.For(ctx, s.backoff) != nil {
					return
				}
			}
		}
	}
}

// deliverOne delivers an event once, and tells whether that was acknowledged.
func (s *Subscriber) deliverOne(ctx context.Context, out chan<- *message.Message, raw Raw) bool {
	m := message.NewMessage(raw.ID.String(), raw.Data)
	m.Metadata = message.Metadata{
		"name": raw.Type, "stream": string(raw.Stream), "meta": string(raw.Meta),
		"revision": strconv.FormatInt(int64(raw.Revision), 10),
		"position": strconv.FormatUint(uint64(raw.Position), 10),
	}
	mctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.SetContext(mctx)
	select {
	case out <- m:
	case <-ctx.Done():
		return false
	}
	select {
	case <-m.Acked():
		return true
	case <-m.Nacked():
		return false
	case <-ctx.Done():
		return false
	}
}

// Close implements message.Subscriber. It waits for nobody who holds a message.
func (s *Subscriber) Close() error {
	s.once.Do(func() { close(s.closing) })
	s.running.Wait()
	return nil
}

// FromMessage is the event that a message carries.
func FromMessage(m *message.Message) (event.Recorded, error) {
	position, err := strconv.ParseUint(m.Metadata.Get("position"), 10, 64)
	if err != nil {
		return event.Recorded{}, err
	}
	revision, err := strconv.ParseInt(m.Metadata.Get("revision"), 10, 64)
	if err != nil {
		return event.Recorded{}, err
	}
	id, err := uuid.Parse(m.UUID)
	if err != nil {
		return event.Recorded{}, err
	}
	return Decode(Raw{
		Position: event.Position(position), Revision: event.Revision(revision), ID: id,
		Stream: event.Stream(m.Metadata.Get("stream")), Type: m.Metadata.Get("name"),
		Data: json.RawMessage(m.Payload), Meta: []byte(m.Metadata.Get("meta")),
	})
}
