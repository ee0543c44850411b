package service

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/domain/event"
)

// state is what a freshness asks for: where the log ends, and how far the views are.
type state struct{ served, end, away atomic.Int64 }

func (l *state) freshness() *freshness {
	return &freshness{
		served:       func() event.Position { return event.Position(l.served.Load()) },
		currentSince: time.Now(),
		head: func(ctx context.Context) (event.Position, error) {
			switch l.away.Load() {
			case 1:
				return 0, errors.New("it is away")
			case 2:
				<-ctx.Done() // it says nothing
				return 0, ctx.Err()
			}
			return event.Position(l.end.Load()), nil
		},
	}
}

func TestWhatIsServedIsAsOldAsTheLastProbeThatItHasAllOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &state{}
		f := l.freshness()
		ctx, cancel := context.WithCancel(t.Context())
		go f.watch(ctx)
		after := func(d, least, most time.Duration) {
			t.Helper()
			<-time.After(d)
			synctest.Wait()
			if old := f.age(); old < least || old > most {
				t.Errorf("it is %s old, want %s to %s", old, least, most)
			}
		}
		after(time.Hour, 0, 0)

		// Events that are not delivered, though nothing fails.
		l.end.Store(5)
		after(10*time.Second, 9*time.Second, 12*time.Second)
		l.served.Store(4)
		after(10*time.Second, 19*time.Second, 22*time.Second)
		l.end.Store(9) // more than it was when it was looked at
		l.served.Store(5)
		after(0, 19*time.Second, 22*time.Second) // that look is as old by now
		after(3*time.Second, 22*time.Second, 25*time.Second)
		l.served.Store(9)
		after(2*time.Second, 0, 0)

		// A store that fails, and one that says nothing.
		for _, away := range []int64{1, 2} {
			l.away.Store(away)
			after(time.Second, 0, 0) // it may be a call that was lost
			after(time.Minute, time.Minute, time.Minute+3*time.Second)
			l.away.Store(0)
			after(6*time.Second, 0, 0)
		}

		// A log that cannot be followed, whatever the looks say.
		f.setConnected(false)
		after(time.Second, time.Second, time.Second)
		f.setConnected(false)
		after(time.Second, 2*time.Second, 2*time.Second)
		f.setConnected(true)
		after(0, 0, 0)
		cancel()
	})
}

func TestALogOfThisProgramAloneIsNotProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &freshness{served: func() event.Position { return 0 }}
		f.watch(t.Context()) // it returns
		<-time.After(time.Hour)
		if old := f.age(); old != 0 {
			t.Errorf("it is %s old", old)
		}
		f.setConnected(false)
		<-time.After(time.Second)
		if old := f.age(); old != time.Second {
			t.Errorf("it is %s old", old)
		}
	})
}
