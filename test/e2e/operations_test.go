package e2e

import (
	"fmt"
	"slices"
	"strings"
)

// operate starts an operation on the cluster c and returns where it is shown. The
// policy is as the body of a request.
func (s *service) operate(kind string, policy any) string {
	s.t.Helper()
	return s.put("/cluster/c/"+kind, policy).is(201).location()
}

// status is a condition for until: what is shown has one of these.
func status(want ...string) func(map[string]any) bool {
	return func(o map[string]any) bool { return slices.Contains(want, fmt.Sprint(o["status"])) }
}

// state is a condition for until: the operation is in it.
func state(want string) func(map[string]any) bool {
	return func(o map[string]any) bool { return o["state"] == want }
}

// turns are the states of an operation's turns, in their order.
func (s *service) turns(path string) string {
	s.t.Helper()
	var all []string
	for _, turn := range list(s.get(path).is(200).object()["hosts"]) {
		all = append(all, sprint(turn["state"]))
	}
	return strings.Join(all, " ")
}

// checkTurns checks the states of an operation's turns.
func (s *service) checkTurns(path, want string) {
	s.t.Helper()
	if got := s.turns(path); got != want {
		s.t.Errorf("the turns are %q, want %q: %s", got, want, s.get(path).body)
	}
}

// turnOf is the turn of the host at a place of an operation's order.
func turnOf(o map[string]any, host int) map[string]any {
	return o["hosts"].([]any)[host].(map[string]any)
}
