package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/domain/event"

	"github.com/google/uuid"
)

func appendN(t *testing.T, store eventlog.Store, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		raw, err := eventlog.Encode("roster", event.Decided{ID: uuid.New(), Event: event.NetworkRemoved{Network: "n"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Append(t.Context(), "roster", event.Revision(i-1), []eventlog.Raw{raw}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMessagesComeInOrderAndAgainUntilAcknowledged refuses every third message
// once: it comes again, and nothing comes before it.
func TestMessagesComeInOrderAndAgainUntilAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New()
		appendN(t, store, 0, 10)
		s := eventlog.NewSubscriber(store, func() event.Position { return 2 }, time.Second, func(bool) {}, slog.New(slog.DiscardHandler))
		messages, err := s.Subscribe(t.Context(), eventlog.Topic)
		if err != nil {
			t.Fatal(err)
		}
		var seen []event.Position
		for i := 0; len(seen) < 20; i++ {
			if len(seen) == 5 {
				appendN(t, store, 10, 12)
			}
			m := <-messages
			r, err := eventlog.FromMessage(m)
			if err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				m.Nack()
				continue
			}
			seen = append(seen, r.Position)
			m.Ack()
		}
		for i, pos := range seen {
			if pos != event.Position(i+3) {
				t.Fatalf("came in the order %v", seen)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if m, open := <-messages; open {
			t.Errorf("message %v after Close", fmt.Sprint(m))
		}
	})
}

// away is a store that cannot be followed for a while.
type away struct {
	eventlog.Store
	fails int
}

func (a *away) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	if a.fails--; a.fails >= 0 {
		return func(yield func([]eventlog.Raw, error) bool) { yield(nil, errors.New("away")) }
	}
	return a.Store.Follow(ctx, after)
}

func TestItIsToldWhetherTheStoreCanBeFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &away{memory.New(), 2}
		var told []bool
		s := eventlog.NewSubscriber(store, func() event.Position { return 0 }, time.Second, func(ok bool) { told = append(told, ok) }, slog.New(slog.DiscardHandler))
		if _, err := s.Subscribe(t.Context(), eventlog.Topic); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !slices.Equal(told, []bool{false, false, true}) {
			t.Errorf("told %v", told)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
