package service

import (
	"context"
	"sync"
	"time"

	"commissaire/domain/event"
)

const (
	probeEvery   = time.Second     // between two probes of the head of a shared log
	probeTimeout = 4 * time.Second // of one probe
	// lateAfter is when views count as old that are not known to have all there is:
	// later than the next probe, earlier than a reader should hear of it.
	lateAfter = 3 * time.Second
)

// freshness knows how old what is served may be. Where several programs write the log,
// there may be more in it than was delivered although nothing failed. So the head of
// the log is probed again and again, and what is served is as old as the last probe of
// which the views have everything. The methods may be called concurrently.
type freshness struct {
	served func() event.Position                         // how far the views are
	head   func(context.Context) (event.Position, error) // of the log; nil: this program alone writes it

	mu                sync.Mutex
	disconnectedSince time.Time // since when the log cannot be followed; zero: it can
	currentSince      time.Time // the last probe of which the views are known to have everything
	probed            time.Time // a later probe of which they did not have everything yet; zero: there is none
	probedHead        event.Position
}

// setConnected notes whether the log can be followed.
func (f *freshness) setConnected(connected bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case connected:
		f.disconnectedSince = time.Time{}
	case f.disconnectedSince.IsZero():
		f.disconnectedSince = time.Now()
	}
}

// watch probes the head of the log until ctx ends. The views must have everything when
// it begins.
func (f *freshness) watch(ctx context.Context) {
	if f.head == nil {
		return
	}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		if !f.isBehind() {
			f.probe(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// probe asks the log for its head. A failure needs no report: the age grows, and the
// follower logs why.
func (f *freshness) probe(ctx context.Context) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	head, err := f.head(ctx)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probed, f.probedHead = began, head
}

// isBehind tells whether the views have yet to reach the head of the last probe.
func (f *freshness) isBehind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.probed.IsZero() && f.served() >= f.probedHead {
		f.currentSince, f.probed = f.probed, time.Time{}
	}
	return !f.probed.IsZero()
}

// age is how old what is served may be; 0 while nothing says that it is old.
func (f *freshness) age() time.Duration {
	f.isBehind() // notes a head that was reached
	f.mu.Lock()
	defer f.mu.Unlock()
	var age time.Duration
	if !f.disconnectedSince.IsZero() {
		age = time.Since(f.disconnectedSince)
	}
	if f.head != nil && time.Since(f.currentSince) > lateAfter {
		age = max(age, time.Since(f.currentSince))
	}
	return age
}
