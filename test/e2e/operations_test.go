package e2e

import (
	"fmt"
	"slices"
	"strings"
)

func status(want ...string) func(map[string]any) bool {
	return func(o map[string]any) bool { return slices.Contains(want, fmt.Sprint(o["status"])) }
}

// roll starts an operation and returns where it is.
func (s *service) roll(kind, policy string) string {
	s.t.Helper()
	a := s.put("/cluster/c/"+kind, policy).is(201)
	return strings.TrimPrefix(a.header.Get("Location"), "/api/v0")
}

func state(want string) func(map[string]any) bool {
	return func(o map[string]any) bool { return o["state"] == want }
}

func (s *service) turns(at string) string {
	var all []string
	for _, turn := range s.get(at).is(200).object()["hosts"].([]any) {
		all = append(all, sprint(turn.(map[string]any)["state"]))
	}
	return strings.Join(all, " ")
}

// operate starts an operation and returns where it is.
func (s *service) operate(cluster, kind string, body any) string {
	s.t.Helper()
	return strings.TrimPrefix(s.put("/cluster/"+cluster+"/"+kind, body).is(201).header.Get("Location"), "/api/v0")
}

// states checks how the turns of an operation that has ended ended.
func (s *service) states(at string, want ...string) {
	s.t.Helper()
	o := s.get(at).is(200)
	var got []string
	for _, turn := range list(o.object()["hosts"]) {
		got = append(got, sprint(turn["state"]))
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("turns %v, not %v: %s", got, want, o.body)
	}
}

func turnOf(o map[string]any, host int) map[string]any {
	return o["hosts"].([]any)[host].(map[string]any)
}
