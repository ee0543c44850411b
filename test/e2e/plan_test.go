package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"commissaire/test/fleet"
)

// plan is what a dry run answers.
type plan struct {
	Seed    uint64
	Batches [][]string
	Hosts   []struct {
		Address  string
		Commands []string
		Skip     string
		Problem  string
	}
}

// TestADryRunSaysWhatTheRunDoes plans operations of all kinds over hosts of all
// families, has them carried out, and holds what the hosts ran against the plan.
func TestADryRunSaysWhatTheRunDoes(t *testing.T) {
	specs := fleet.Mixed(8) // by address 127.0.1.1 and upward
	specs[7].Address, specs[7].OS, specs[7].Version = "127.0.1.20", fleet.Ubuntu, "6.8.0-50-generic"
	specs[1].Next = "" // there is nothing new for this one, ever
	specs[6].OS, specs[6].Version = fleet.Atomic, "41.20250101.0"
	f, body := startFleet(t, fleet.Config{Hosts: specs, Second: 50 * time.Millisecond})
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	for i, c := range []struct {
		kind   string
		policy map[string]any
		atOnce int // hosts; 0: batches
	}{
		{"upgrade", map[string]any{}, 1},
		{"upgrade", map[string]any{"order": "random", "batches": []any{1, "40%"}, "reboot": "if-needed"}, 0},
		{"upgrade", map[string]any{"order": "random", "seed": 7, "max_unavailable": "50%", "stage": true}, 4},
		{"deploy", map[string]any{"version": "41.20270101.0", "stage": true, "reboot": true, "order": []any{"127.0.1.7", "127.0.1.3"}}, 1},
		{"deploy", map[string]any{"version": "41.20270102.0", "order": "random"}, 1},
		{"restart", map[string]any{"only": []any{"127.0.1.20", "127.0.1.6", "127.0.1.5"}, "batches": []any{2}}, 0},
	} {
		t.Run(fmt.Sprint(c.kind, c.policy), func(t *testing.T) {
			s := on(t, s)
			for _, h := range f.Hosts() {
				if h.Spec().Next != "" {
					h.Release(fmt.Sprintf("%s.%d", h.Spec().Version, i))
				}
			}
			from := time.Now()
			path := "/cluster/c/" + c.kind
			c.policy["dry_run"] = true
			planned := s.planned(path, c.policy)
			if planned.Seed != 0 {
				c.policy["seed"] = planned.Seed
			}
			delete(c.policy, "dry_run")
			at := s.put(path, c.policy).is(201).location()
			c.policy["dry_run"] = true
			if again := s.planned(path, c.policy); fmt.Sprint(again) != fmt.Sprint(planned) {
				t.Errorf("planned while it runs: %v, and before: %v", again, planned)
			}
			s.until(at, status("finished", "failed"))
			if got := s.get(at).object()["status"]; got != "finished" {
				t.Fatalf("it %s: %s", got, s.get(at).body)
			}
			planned.check(t, f, from, c.atOnce)
		})
	}
	for _, r := range s.recorded().events {
		if strings.HasPrefix(r.Meta.RequestID, "dry-run") {
			t.Errorf("a dry run recorded %s", r.Event.EventType())
		}
	}
}

func (s *service) planned(path string, policy map[string]any) (p plan) {
	s.t.Helper()
	if err := json.Unmarshal(s.put(path, policy, "X-Request-Id", "dry-run").is(200).body, &p); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// check holds what hosts ran from a time on against the plan. Without batches so
// many were to be in hand at once.
func (p plan) check(t *testing.T, f *fleet.Fleet, from time.Time, atOnce int) {
	t.Helper()
	planned := map[string][]string{}
	var order []string
	for _, h := range p.Hosts {
		planned[h.Address] = h.Commands
		order = append(order, h.Address)
	}
	if all := slices.Concat(p.Batches...); !slices.Equal(all, order) {
		t.Errorf("the batches %v are not the hosts %v", p.Batches, order)
	}
	if atOnce > 0 && len(p.Batches) != 1 {
		t.Errorf("%d batches are planned", len(p.Batches))
	}
	r := run{inHand: map[string]span{}}
	for _, h := range f.Hosts() {
		ran := r.add(h, from)
		if want := expected(planned[h.Address()], h.Spec().Next != ""); !slices.Equal(ran, want) {
			t.Errorf("host %s ran %q, planned was %q", h.Address(), ran, planned[h.Address()])
		}
	}
	if r.first.Before(r.downloaded) {
		t.Error("a host was in hand before all had downloaded")
	}
	r.checkBatches(t, p.Batches, atOnce)
}

// expected are the commands of a plan that a host tells of, as they are after the
// shell. Those under a condition are run where there is something new.
func expected(planned []string, isNew bool) (commands []string) {
	for _, line := range planned {
		command, condition, _ := strings.Cut(strings.ReplaceAll(line, "'", ""), " # ")
		if !strings.HasPrefix(command, "dpkg ") && (condition == "" || isNew) {
			commands = append(commands, command)
		}
	}
	return commands
}

type span struct{ from, until time.Time }

// run is when hosts did what.
type run struct {
	downloaded time.Time // until when
	first      time.Time // when the first host was taken in hand
	inHand     map[string]span
}

// add adds what a host ran from a time on, and gives it.
func (r *run) add(h *fleet.Host, from time.Time) (ran []string) {
	for _, c := range h.Commands() {
		if c.Time.Before(from) {
			continue
		}
		ran = append(ran, c.Line)
		if !c.TakesInHand() {
			if strings.Contains(c.Line, "--download-only") && c.Until.After(r.downloaded) {
				r.downloaded = c.Until
			}
			continue
		}
		hand, before := r.inHand[c.Host]
		if !before {
			hand.from = c.Time
		}
		hand.until = c.Until
		r.inHand[c.Host] = hand
		if r.first.IsZero() || c.Time.Before(r.first) {
			r.first = c.Time
		}
	}
	return ran
}

// checkBatches checks that hosts were taken in hand in their order, and those of a
// batch after all of the one before.
func (r *run) checkBatches(t *testing.T, batches [][]string, atOnce int) {
	t.Helper()
	var ended time.Time // of the batch before
	for _, batch := range batches {
		last := ended
		for i, host := range batch {
			hand, ran := r.inHand[host]
			if !ran {
				continue
			}
			over := 0
			for _, before := range batch[:i] {
				if !r.inHand[before].until.After(hand.from) {
					over++
				}
			}
			if hand.from.Before(ended) || atOnce > 0 && over < i-(atOnce-1) {
				t.Errorf("host %s was not begun in its place: %v", host, batches)
			}
			if hand.until.After(last) {
				last = hand.until
			}
		}
		ended = last
	}
}

// TestAPlanSaysForWhichHostsItFails plans for hosts of which some cannot do what is
// asked, has it carried out, and holds how their turns ended against the plan.
func TestAPlanSaysForWhichHostsItFails(t *testing.T) {
	var specs []fleet.Spec
	for i, spec := range []fleet.Spec{
		{OS: fleet.Rocky, Version: "5.14.0-427.el9.x86_64", Next: "5.14.0-503.el9.x86_64"},
		{OS: fleet.Raspbian, Version: "6.6.51+rpt-rpi-v8", Next: "6.6.74+rpt-rpi-v8"},
		{OS: fleet.CoreOS, Version: "41.1", Next: "41.2"},
		{OS: fleet.Bootc, Version: "6.11.4-301.fc41.x86_64"},
		{OS: fleet.Arch},
	} {
		spec.Address = fmt.Sprintf("127.0.1.%d", i+1)
		specs = append(specs, spec)
	}
	f, body := startFleet(t, fleet.Config{Hosts: specs, Second: 50 * time.Millisecond})
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	for _, kind := range []string{"upgrade", "deploy", "restart"} {
		for _, bypass := range []bool{false, true} {
			for _, stage := range []bool{false, true} {
				policy := map[string]any{"max_failures": "100%", "max_unavailable": 5, "dry_run": true}
				if kind == "deploy" {
					policy["version"] = fmt.Sprintf("41.%v.%v", bypass, stage)
				}
				if kind != "restart" {
					policy["bypass_driver"], policy["stage"], policy["reboot"] = bypass, stage, "if-needed"
				} else if bypass || stage {
					continue
				}
				from := time.Now()
				planned := s.planned("/cluster/c/"+kind, policy)
				delete(policy, "dry_run")
				path := s.operate(kind, policy)
				s.until(path, status("finished", "failed"))
				for i, h := range planned.Hosts {
					turn := turnOf(s.get(path).object(), i)
					want, reason := "succeeded", ""
					switch {
					case h.Problem != "":
						want, reason = "failed", h.Problem
					case h.Skip != "":
						want, reason = "skipped", h.Skip
					}
					if turn["state"] != want || turn["reason"] != reason {
						t.Errorf("%s %v: host %s %v: %v, planned was %+v", kind, policy, h.Address, turn["state"], turn["reason"], h)
					}
					ran := slices.ContainsFunc(f.Host(h.Address).Commands(), func(c fleet.Command) bool { return c.Time.After(from) })
					if ran != (len(h.Commands) > 0) {
						t.Errorf("%s %v: host %s ran something: %v, planned was %q", kind, policy, h.Address, ran, h.Commands)
					}
				}
			}
		}
	}
	if h := f.Host("127.0.1.2"); h.Version() != "6.6.74+rpt-rpi-v8" || commands(h, "systemctl reboot") != 2 {
		t.Errorf("the host with two flavours of its kernel runs %s, after %v", h.Version(), lines(h.Commands()))
	}
}
