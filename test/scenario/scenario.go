// Package scenario tests decisions: given events, when something is decided,
// then these events follow, or a refusal.
package scenario

import (
	"errors"
	"reflect"
	"testing"

	"commissaire/domain"
)

// Scenario is a history that something is decided on.
type Scenario[S, E any] struct {
	t      *testing.T
	state  S
	evolve func(S, E)
}

// Given is the state that events come to.
func Given[S, E any](t *testing.T, state S, evolve func(S, E), events ...E) *Scenario[S, E] {
	t.Helper()
	for _, e := range events {
		evolve(state, e)
	}
	return &Scenario[S, E]{t, state, evolve}
}

// Decided is what came of a decision.
type Decided[E any] struct {
	t      *testing.T
	events []E
	err    error
}

// When decides twice: once decided, a repeat must decide nothing.
func (s *Scenario[S, E]) When(decide func(S) ([]E, error)) Decided[E] {
	s.t.Helper()
	d := s.Once(decide)
	if again, err := decide(s.state); d.err == nil && (err != nil || len(again) > 0) {
		s.t.Errorf("decided again it gives %+v, %v", again, err)
	}
	return d
}

// Once decides what may not be repeated.
func (s *Scenario[S, E]) Once(decide func(S) ([]E, error)) Decided[E] {
	s.t.Helper()
	events, err := decide(s.state)
	for _, e := range events {
		s.evolve(s.state, e)
	}
	return Decided[E]{s.t, events, err}
}

// Then expects exactly these events.
func (d Decided[E]) Then(want ...E) {
	d.t.Helper()
	if d.err != nil {
		d.t.Fatalf("refused: %v", d.err)
	}
	if len(d.events) != len(want) {
		d.t.Fatalf("decided %+v, want %+v", d.events, want)
	}
	for i := range want {
		if !reflect.DeepEqual(d.events[i], want[i]) {
			d.t.Errorf("event %d is\n%+v, want\n%+v", i, d.events[i], want[i])
		}
	}
}

// ThenRefused expects a refusal, and no event.
func (d Decided[E]) ThenRefused(want *domain.Refusal) {
	d.t.Helper()
	if !errors.Is(d.err, want) || len(d.events) > 0 {
		d.t.Fatalf("got %+v and %v, want the refusal %s", d.events, d.err, want.Code)
	}
}
