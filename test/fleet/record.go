package fleet

import (
	"slices"
	"strings"
	"time"
)

// What the hosts have seen, for tests that look from their side.

// Commands are the commands that ran on all hosts, by the time at which they
// began: the last 1,000 of each.
func (f *Fleet) Commands() []Command {
	var all []Command
	for _, h := range f.hosts {
		all = append(all, h.Commands()...)
	}
	slices.SortStableFunc(all, func(a, b Command) int { return a.Time.Compare(b.Time) })
	return all
}

// InHand are those of Commands that took a host in hand: each from its Time
// until its Until.
func (f *Fleet) InHand() []Command {
	return slices.DeleteFunc(f.Commands(), func(c Command) bool { return !c.TakesInHand() })
}

// TakesInHand says whether a command upgrades, deploys or reboots its host. One
// that only downloads does not.
func (c Command) TakesInHand() bool {
	words := strings.Fields(c.Line)
	verbs := []string{"upgrade", "update", "dist-upgrade", "deploy"}
	switch words[0] {
	case "reboot", "shutdown":
		return true
	case "systemctl":
		verbs = []string{"reboot"}
	case "subscription-manager":
		return false
	}
	return !slices.Contains(words, "--download-only") &&
		slices.ContainsFunc(words[1:], func(word string) bool { return slices.Contains(verbs, word) })
}

// MostInHand is the greatest number of hosts that were in hand at the same time,
// at any time from a time on (the zero time: ever).
func (f *Fleet) MostInHand(from time.Time) int { return most(f.InHand(), from) }

// most is the greatest number of hosts that commands ran on at the same time.
func most(commands []Command, from time.Time) (most int) {
	type moment struct {
		when time.Time
		host string
		by   int
	}
	var moments []moment
	for _, c := range commands {
		if c.Until.IsZero() {
			moments = append(moments, moment{c.Time, c.Host, 1})
		} else if c.Until.After(from) {
			moments = append(moments, moment{c.Time, c.Host, 1}, moment{c.Until, c.Host, -1})
		}
	}
	slices.SortFunc(moments, func(a, b moment) int { // ends before beginnings
		if order := a.when.Compare(b.when); order != 0 {
			return order
		}
		return a.by - b.by
	})
	running := map[string]int{}
	for _, m := range moments {
		if running[m.host] += m.by; running[m.host] == 0 {
			delete(running, m.host)
		}
		most = max(most, len(running))
	}
	return most
}
