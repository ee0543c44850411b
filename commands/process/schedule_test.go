package process

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

func TestWorkIsInFlightUntilItsOutcomeIsApplied(t *testing.T) {
	for name, c := range map[string]struct {
		ended   bool
		outcome event.Position
		applied event.Position
		busy    bool
	}{
		"it goes on":                    {applied: 9, busy: true},
		"its outcome is not applied":    {ended: true, outcome: 7, applied: 6, busy: true},
		"its outcome is applied":        {ended: true, outcome: 7, applied: 7},
		"more than that is applied":     {ended: true, outcome: 7, applied: 9},
		"it came to nothing":            {ended: true, outcome: 0, applied: 0},
		"its outcome is the very first": {ended: true, outcome: 1, applied: 0, busy: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := inflight[domain.HostID]{"this": &job{}, "other": &job{}}
			if c.ended {
				f.end("this", c.outcome)
			}
			settled := f.applied(c.applied)
			if got := slices.Contains(settled, "this"); got == c.busy || f.busy("this") != c.busy {
				t.Errorf("settled: %v, busy: %v", settled, f.busy("this"))
			}
			if !f.busy("other") || len(settled) > 1 {
				t.Errorf("other work is over too: %v", settled)
			}
			if again := f.applied(c.applied); len(again) > 0 {
				t.Errorf("settled again: %v", again)
			}
		})
	}
}

func TestTheEndOfWhatIsNotUnderWayIsNothing(t *testing.T) {
	f := inflight[domain.HostID]{}
	f.end("this", 7)
	if f.busy("this") || len(f.applied(9)) > 0 {
		t.Errorf("under way is %v", f)
	}
}

// TestUpkeepThatFailsIsTriedAgainMoreAndMoreSeldom has it fail again and again, each
// time when it is due, and looks how long it waits then.
func TestUpkeepThatFailsIsTriedAgainMoreAndMoreSeldom(t *testing.T) {
	const none = -1
	host := &Unreachable{Reason: "connection refused"}
	store := errors.Join(host, commands.ErrUnavailable)
	now := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		ends  []error
		waits []time.Duration // none: it is not tried again
	}{
		"it succeeds": {[]error{nil}, []time.Duration{none}},
		"it fails on": {
			[]error{host, host, host, host, host, host, host, host},
			[]time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour},
		},
		"the store is away":                 {[]error{store, store, store}, []time.Duration{storeRetry, storeRetry, storeRetry}},
		"the store is away in between":      {[]error{host, host, store, host}, []time.Duration{time.Minute, 2 * time.Minute, storeRetry, 4 * time.Minute}},
		"it succeeds in between":            {[]error{host, host, nil, host}, []time.Duration{time.Minute, 2 * time.Minute, none, time.Minute}},
		"it changes nothing, which is odd":  {[]error{errNoProgress, errNoProgress}, []time.Duration{time.Minute, 2 * time.Minute}},
		"the host key is another one":       {[]error{&KeyChanged{}}, []time.Duration{time.Minute}},
		"a later leader has overtaken this": {[]error{errOvertaken}, []time.Duration{time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSchedule()
			for i, err := range c.ends {
				s.retries["h"] = retry{delay: s.retries["h"].delay} // as it begins
				s.retryAfter("h", err, now)
				r, again := s.retries["h"]
				wait := time.Duration(none)
				if again {
					wait = r.due.Sub(now)
				}
				if wait != c.waits[i] {
					t.Errorf("the end of number %d, %v: it waits %s, want %s", i+1, err, wait, c.waits[i])
				}
				now = now.Add(wait)
			}
		})
	}
}

func TestWhatIsOrderedMeanwhileIsNotWaitedFor(t *testing.T) {
	s := newSchedule()
	s.retries["h"] = retry{delay: time.Hour}
	s.order("h")
	if r := s.retries["h"]; !s.dirty["h"] || !r.due.IsZero() {
		t.Errorf("ordered: %+v, to be looked at: %v", r, s.dirty)
	}
	s.retryAfter("h", &Unreachable{}, time.Now())
	if r, ok := s.retries["h"]; ok {
		t.Errorf("it waits until %s", r.due)
	}
	s.retryAfter("h", &Unreachable{}, time.Now())
	if r := s.retries["h"]; r.delay != firstRetry {
		t.Errorf("then it waits %s", r.delay)
	}
}

func TestAScheduleFollowsWhatEventsCallFor(t *testing.T) {
	for name, c := range map[string]struct {
		consequences consequences
		dirty        []domain.HostID
		waits        []domain.HostID // for their next try, and it was not ordered
		stopped      []string
		destroys     []domain.CredentialID
	}{
		"nothing": {consequences{}, []domain.HostID{"1"}, []domain.HostID{"1", "2"}, nil, nil},
		"a host that changed waits on": {
			consequences{changed: []domain.HostID{"2"}}, []domain.HostID{"1", "2"}, []domain.HostID{"1", "2"}, nil, nil,
		},
		"of a host that is ordered something it does not": {
			consequences{ordered: []domain.HostID{"2"}}, []domain.HostID{"1", "2"}, []domain.HostID{"1"}, nil, nil,
		},
		"the upkeep of a host that is removed is stopped": {
			consequences{removed: &event.HostRemoved{HostID: "1", Host: "10.0.0.1"}},
			[]domain.HostID{"1"},
			[]domain.HostID{"1", "2"},
			[]string{"upkeep of 10.0.0.1"},
			nil,
		},
		"a host that is removed and not worked on": {
			consequences{removed: &event.HostRemoved{HostID: "9", Host: "10.0.0.9"}}, []domain.HostID{"1"}, []domain.HostID{"1", "2"}, nil, nil,
		},
		"of a host that is forgotten nothing is left": {consequences{forgotten: "1"}, nil, []domain.HostID{"2"}, nil, nil},
		"a credential that is not used is destroyed": {
			consequences{unused: "c"}, []domain.HostID{"1"}, []domain.HostID{"1", "2"}, nil, []domain.CredentialID{"c"},
		},
		"the turns of an operation that is abandoned are stopped": {
			consequences{abandoned: "o"}, []domain.HostID{"1"}, []domain.HostID{"1", "2"}, []string{"turn of 1 in o", "turn of 2 in o"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var stopped []string
			stop := func(what string) func() { return func() { stopped = append(stopped, what) } }
			s := newSchedule()
			s.dirty["1"] = true
			s.retries["1"], s.retries["2"] = retry{delay: time.Hour}, retry{delay: time.Hour}
			s.upkeeps["10.0.0.1"], s.upkeeps["10.0.0.2"] = stop("upkeep of 10.0.0.1"), stop("upkeep of 10.0.0.2")
			s.hosts["1"], s.hosts["2"] = &job{operation: "o", stop: stop("turn of 1 in o")}, &job{operation: "o", stop: stop("turn of 2 in o")}
			s.hosts["3"], s.hosts["4"] = &job{operation: "p", stop: stop("turn of 3 in p")}, &job{stop: stop("upkeep of 4")}

			s.follow(c.consequences)

			var waits []domain.HostID
			for id, r := range s.retries {
				if !r.ordered {
					waits = append(waits, id)
				}
			}
			slices.Sort(waits)
			slices.Sort(stopped)
			if dirty := slices.Sorted(maps.Keys(s.dirty)); !slices.Equal(dirty, c.dirty) {
				t.Errorf("to be looked at are %v, want %v", dirty, c.dirty)
			}
			if !slices.Equal(waits, c.waits) || !slices.Equal(stopped, c.stopped) || !slices.Equal(s.destroys, c.destroys) {
				t.Errorf("waiting are %v, stopped %v, to be destroyed %v", waits, stopped, s.destroys)
			}
		})
	}
}
