package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"
)

// until asks again until the condition holds.
func (s *service) until(path string, condition func(map[string]any) bool) (o map[string]any) {
	s.t.Helper()
	s.await(func() bool {
		a := s.get(path)
		if a.status == http.StatusOK {
			o = a.object()
		}
		return a.status == http.StatusOK && condition(o)
	}, path)
	return o
}

// await looks again and again whether a condition on what is at a path holds.
func (s *service) await(condition func() bool, path string) {
	s.t.Helper()
	patience := 60 * time.Second
	if *realDisk != "" {
		patience = 3 * time.Minute // real hosts boot and install
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("GET %s did not come to what was waited for: %s\n%s", path, s.get(path).body, s.logged())
		}
	}
}

// leads waits until the service acts.
func (s *service) leads() {
	s.t.Helper()
	s.until("/status", func(o map[string]any) bool {
		leader, ok := o["leader"].(map[string]any)
		return o["leads"] == true && ok && leader["instance"] == o["instance"]
	})
}

// within waits until something is so.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.After(60*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 60 s: %s", what)
		}
	}
}

// pause waits, or returns false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
