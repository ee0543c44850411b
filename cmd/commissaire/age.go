package main

import (
	"context"
	"sync"
	"time"

	"commissaire/domain/event"
)

const (
	lookAtHead  = time.Second     // between two looks at the end of a shared log
	answersHead = 4 * time.Second // how long the store may take to say where that is
	// lateAfter is when views are called old that have not been seen to have all
	// there is. Above the time between two looks, below what a reader should not know.
	lateAfter = 3 * time.Second
)

// age knows how old what is served may be. A log that several write may have
// more than was delivered, though nothing failed: so its end is looked at again
// and again, and what is served is as old as the last look of which the views
// have all. Its methods may be called at once.
type age struct {
	served func() event.Position                         // how far the views are
	head   func(context.Context) (event.Position, error) // of the log; nil: this program alone writes it

	mu     sync.Mutex
	cutOff time.Time // since when the log cannot be followed; zero: it can
	whole  time.Time // the last look that the views are known to have all of
	looked time.Time // a later look that they did not have all of yet; zero: there is none
	end    event.Position
}

// heard notes since when the log cannot be followed.
func (a *age) heard(ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case ok:
		a.cutOff = time.Time{}
	case a.cutOff.IsZero():
		a.cutOff = time.Now()
	}
}

// watch looks at the end of the log until ctx ends. It begins with views that
// have all there is.
func (a *age) watch(ctx context.Context) {
	if a.head == nil {
		return
	}
	tick := time.NewTicker(lookAtHead)
	defer tick.Stop()
	for {
		if !a.waits() {
			looked := time.Now()
			asking, cancel := context.WithTimeout(ctx, answersHead)
			end, err := a.head(asking)
			cancel()
			if err == nil { // else age tells, and who follows the log says why
				a.mu.Lock()
				a.looked, a.end = looked, end
				a.mu.Unlock()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// waits tells whether the views have yet to come to where the log ended when it
// was looked at last.
func (a *age) waits() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.looked.IsZero() && a.served() >= a.end {
		a.whole, a.looked = a.looked, time.Time{}
	}
	return !a.looked.IsZero()
}

// now is how old what is served may be; 0 while nothing says that it is old.
func (a *age) now() time.Duration {
	a.waits()
	a.mu.Lock()
	defer a.mu.Unlock()
	var old time.Duration
	if !a.cutOff.IsZero() {
		old = time.Since(a.cutOff)
	}
	if a.head != nil && time.Since(a.whole) > lateAfter {
		old = max(old, time.Since(a.whole))
	}
	return old
}
