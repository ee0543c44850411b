// Package policy decides what the policy of an operation may ask for, and when its
// window is open. How a client writes a policy is the API's business, and when hosts
// are begun by one is the operation's.
package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// Policy is the policy of an operation. It is recorded as it is, and has this name
// for those who know no events.
type Policy = event.Policy

// Default is one host after the other, stopping at the first that fails.
func Default() Policy { return event.DefaultPolicy() }

// DefaultHealth is the health gate before anything is said of it.
func DefaultHealth() *event.Health { return &event.Health{Timeout: 300} }

// Bounds of what a policy may ask for.
const (
	maxSeconds = 7 * 24 * 60 * 60
	maxCommand = 4096 // bytes
	maxURL     = 2048 // bytes
	maxBatches = 100
	maxHosts   = 1_000_000
)

// rule is what a field of a policy must be.
type rule struct {
	must  string             // in a sentence, for a value that cannot be read
	check func(Policy) error // of a value that was; nil: all are allowed
}

// rules are those of each field, by its name in JSON.
var rules = map[string]rule{
	"max_unavailable": amount(1, func(p Policy) event.Amount { return p.MaxUnavailable }),
	"max_failures":    amount(0, func(p Policy) event.Amount { return p.MaxFailures }),
	"batches":         batches(),
	"pause_after":     whole(1, maxHosts, func(p Policy) int { return p.PauseAfter }),
	"delay":           whole(0, maxSeconds, func(p Policy) int { return p.Delay }),
	"timeout":         whole(1, maxSeconds, func(p Policy) int { return p.Timeout }),
	"health":          {"must be an object with one of command, tcp, http and node_ready, and timeout and stable_for in seconds", checkHealth},
	"drain":           {`must be true, false, or an object with timeout and grace in seconds and on_timeout "fail" or "continue"`, checkDrain},
	"order":           {`must be "address", "random", or a list of addresses that go first`, nil},
	"only":            only(),
	"window":          {`must be an object: {"days": ["sat", "sun"], "from": "22:00", "to": "04:30", "zone": "Europe/Berlin"}`, checkWindow},
	"reboot":          {`must be false, true or "if-needed"`, nil},
	"stage":           {"must be true or false", nil},
	"bypass_driver":   {"must be true or false", nil},
}

// Fields are the fields that a policy of that kind of operation has, sorted, by
// their names in JSON.
func Fields(kind domain.OperationKind) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(rules)), func(name string) bool {
		return kind == domain.Restart && (name == "reboot" || name == "stage" || name == "bypass_driver")
	})
}

// Must says, for a person, what the value of a field must be: "must be …".
func Must(field string) string { return rules[field].must }

// Check says what is wrong with the value of a field that was asked for, or nil.
// Whether there is a time zone of that name it does not look up.
func Check(field string, p Policy) error {
	if check := rules[field].check; check != nil {
		return check(p)
	}
	return nil
}

// valid is a rule with one sentence, whatever is wrong.
func valid(must string, ok func(Policy) bool) rule {
	return rule{must, func(p Policy) error {
		if !ok(p) {
			return errors.New(must)
		}
		return nil
	}}
}

func whole(least, most int, value func(Policy) int) rule {
	return valid(fmt.Sprintf("must be a whole number from %d to %d", least, most), func(p Policy) bool {
		return value(p) >= least && value(p) <= most
	})
}

func amount(least int, value func(Policy) event.Amount) rule {
	return valid(fmt.Sprintf(`must be a whole number from %d on, or a percentage such as "25%%"`, least), func(p Policy) bool {
		return isAmount(value(p), least)
	})
}

func isAmount(a event.Amount, least int) bool { return a.N >= least && (!a.Percent || a.N <= 100) }

func batches() rule {
	return valid(fmt.Sprintf(`must be a list of 1 to %d sizes, each a number from 1 on or a percentage: [1, 5, "20%%"]`, maxBatches), func(p Policy) bool {
		wrong := slices.ContainsFunc(p.Batches, func(size event.Amount) bool { return !isAmount(size, 1) })
		return !wrong && len(p.Batches) > 0 && len(p.Batches) <= maxBatches
	})
}

func only() rule {
	return valid(`must be "failed", or a list of addresses of members`, func(p Policy) bool {
		return p.Only.Failed || len(p.Only.Hosts) > 0
	})
}

func checkHealth(p Policy) error {
	h, gates := p.Health, 0
	for _, given := range []bool{h.Command != "", h.TCP != 0, h.HTTP != "", h.NodeReady} {
		if given {
			gates++
		}
	}
	switch {
	case gates != 1:
		return errors.New("must have exactly one of command, tcp, http and node_ready")
	case len(h.Command) > maxCommand || strings.ContainsRune(h.Command, 0):
		return fmt.Errorf("command must be at most %d bytes of text", maxCommand)
	case h.TCP < 0 || h.TCP > 65535:
		return errors.New("tcp must be a port from 1 to 65535")
	case h.Timeout < 1 || h.Timeout > maxSeconds:
		return fmt.Errorf("timeout must be from 1 to %d seconds", maxSeconds)
	case h.StableFor < 0 || h.StableFor >= h.Timeout:
		return errors.New("stable_for must be from 0 to less than timeout, in seconds")
	case h.HTTP != "":
		return checkURL(h.HTTP)
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case len(text) > maxURL:
		return fmt.Errorf("http must be at most %d bytes", maxURL)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() != "" || u.User != nil || u.Opaque != "":
		return errors.New("http must be a URL without a host, which is the host's own: http://:8080/healthz")
	}
	return nil
}

func checkDrain(p Policy) error {
	d := p.Drain
	if !d.Off && (d.Timeout < 1 || d.Timeout > maxSeconds || d.Grace < -1 || d.Grace > maxSeconds) {
		return fmt.Errorf("timeout must be from 1, grace from -1 (as the pods say), both to %d seconds", maxSeconds)
	}
	return nil
}

func checkWindow(p Policy) error {
	w := p.Window
	for i, day := range w.Days {
		if !slices.Contains(weekdays, day) || slices.Contains(w.Days[:i], day) {
			return fmt.Errorf("days must be of %s, each once", strings.Join(weekdays, ", "))
		}
	}
	from, fromErr := time.Parse("15:04", w.From)
	to, toErr := time.Parse("15:04", w.To)
	if fromErr != nil || toErr != nil || from.Equal(to) {
		return errors.New("from and to must be two different times of day, such as 22:00")
	}
	return nil
}
