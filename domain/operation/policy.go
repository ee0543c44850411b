package operation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	strict "github.com/go-json-experiment/json"

	"commissaire/domain"
	"commissaire/domain/event"
)

// Bounds of what a policy may ask for.
const (
	maxSeconds = 7 * 24 * 60 * 60
	maxCommand = 4096 // bytes
	maxURL     = 2048 // bytes
	maxBatches = 100
)

// fields says how each field of a policy is read and checked.
var fields = map[string]func(*event.Policy, json.RawMessage) error{
	"max_unavailable": func(p *event.Policy, raw json.RawMessage) error { return amount(&p.MaxUnavailable, raw, 1) },
	"max_failures":    func(p *event.Policy, raw json.RawMessage) error { return amount(&p.MaxFailures, raw, 0) },
	"batches":         batches,
	"pause_after":     func(p *event.Policy, raw json.RawMessage) error { return whole(&p.PauseAfter, raw, 1, 1_000_000) },
	"delay":           func(p *event.Policy, raw json.RawMessage) error { return whole(&p.Delay, raw, 0, maxSeconds) },
	"timeout":         func(p *event.Policy, raw json.RawMessage) error { return whole(&p.Timeout, raw, 1, maxSeconds) },
	"health":          health,
	"drain":           drain,
	"order":           order,
	"only":            only,
	"window":          window,
	"reboot": func(p *event.Policy, raw json.RawMessage) error {
		return as(&p.Reboot, raw, `must be false, true or "if-needed"`)
	},
	"stage": func(p *event.Policy, raw json.RawMessage) error { return as(&p.Stage, raw, "must be true or false") },
	"bypass_driver": func(p *event.Policy, raw json.RawMessage) error {
		return as(&p.BypassDriver, raw, "must be true or false")
	},
}

// PolicyFields are the fields that a policy of that kind of operation has.
func PolicyFields(kind domain.OperationKind) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(fields)), func(name string) bool {
		return kind == domain.Restart && (name == "reboot" || name == "stage" || name == "bypass_driver")
	})
}

// ParsePolicy reads the policy in the body of a request: what is absent is as in
// event.DefaultPolicy. Every field that is wrong is named. Keys that are no
// fields of a policy are not looked at.
func ParsePolicy(kind domain.OperationKind, body map[string]json.RawMessage) (event.Policy, error) {
	policy := event.DefaultPolicy()
	refusal := domain.ErrInvalid
	refuse := func(field string, err error) {
		wrong := domain.ErrInvalid.At(field, "%s", err)
		if len(refusal.Fields) == 0 {
			refusal = wrong
			return
		}
		refusal.Fields = append(refusal.Fields, wrong.Fields...)
		refusal.Detail += "; " + wrong.Detail
	}
	for _, name := range PolicyFields(kind) {
		if raw, given := body[name]; given {
			if err := fields[name](&policy, raw); err != nil {
				refuse(name, err)
			}
		}
	}
	if _, both := body["max_unavailable"]; both && len(policy.Batches) > 0 {
		refuse("batches", errors.New("max_unavailable says how many at once already; give one of them"))
	}
	if len(refusal.Fields) > 0 {
		return event.Policy{}, refusal
	}
	return policy, nil
}

// as reads a value, strictly, and says in one sentence what it must be. Keys are
// known in their own case only.
func as(value any, raw json.RawMessage, must string) error {
	if string(raw) == "null" || strict.Unmarshal(raw, value, strict.RejectUnknownMembers(true)) != nil {
		return errors.New(must)
	}
	return nil
}

func whole(n *int, raw json.RawMessage, least, most int) error {
	must := fmt.Sprintf("must be a whole number from %d to %d", least, most)
	if err := as(n, raw, must); err != nil || *n < least || *n > most {
		return errors.New(must)
	}
	return nil
}

func amount(a *event.Amount, raw json.RawMessage, least int) error {
	must := fmt.Sprintf(`must be a whole number from %d on, or a percentage such as "25%%"`, least)
	if err := as(a, raw, must); err != nil || a.N < least || a.Percent && a.N > 100 {
		return errors.New(must)
	}
	return nil
}

func batches(p *event.Policy, raw json.RawMessage) error {
	must := fmt.Errorf(`must be a list of 1 to %d sizes, each a number from 1 on or a percentage: [1, 5, "20%%"]`, maxBatches)
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 || len(list) > maxBatches {
		return must
	}
	for _, one := range list {
		var size event.Amount
		if amount(&size, one, 1) != nil {
			return must
		}
		p.Batches = append(p.Batches, size)
	}
	return nil
}

func health(p *event.Policy, raw json.RawMessage) error {
	h := event.Health{Timeout: 300}
	if err := as(&h, raw, "must be an object with one of command, tcp, http and node_ready, and timeout and stable_for in seconds"); err != nil {
		return err
	}
	gates := 0
	for _, there := range []bool{h.Command != "", h.TCP != 0, h.HTTP != "", h.NodeReady} {
		if there {
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
	}
	if h.HTTP != "" {
		u, err := url.Parse(h.HTTP)
		if len(h.HTTP) > maxURL {
			return fmt.Errorf("http must be at most %d bytes", maxURL)
		}
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() != "" || u.User != nil || u.Opaque != "" {
			return errors.New("http must be a URL without a host, which is the host's own: http://:8080/healthz")
		}
	}
	p.Health = &h
	return nil
}

func drain(p *event.Policy, raw json.RawMessage) error {
	const must = `must be true, false, or an object with timeout and grace in seconds and on_timeout "fail" or "continue"`
	var d event.Drain
	if len(raw) > 0 && raw[0] == '{' { // the type's own reading lets unknown keys pass
		var known struct {
			Timeout   int    `json:"timeout"`
			Grace     int    `json:"grace"`
			OnTimeout string `json:"on_timeout"`
		}
		if err := as(&known, raw, must); err != nil {
			return err
		}
	}
	if err := as(&d, raw, must); err != nil {
		return err
	}
	if !d.Off && (d.Timeout < 1 || d.Timeout > maxSeconds || d.Grace < -1 || d.Grace > maxSeconds) {
		return fmt.Errorf("timeout must be from 1, grace from -1 (as the pods say), both to %d seconds", maxSeconds)
	}
	p.Drain = &d
	return nil
}

func order(p *event.Policy, raw json.RawMessage) error {
	const must = `must be "address", "random", or a list of addresses that go first`
	var o event.Order
	if err := as(&o, raw, must); err != nil {
		return err
	}
	first, err := addresses(o.First)
	if err != nil {
		return err
	}
	if o.First = first; o.Random || len(first) > 0 { // else it is the default
		p.Order = &o
	}
	return nil
}

func only(p *event.Policy, raw json.RawMessage) error {
	const must = `must be "failed", or a list of addresses of members`
	var o event.Only
	if err := as(&o, raw, must); err != nil {
		return err
	}
	hosts, err := addresses(o.Hosts)
	switch {
	case err != nil:
		return err
	case !o.Failed && len(hosts) == 0:
		return errors.New(must)
	}
	o.Hosts = hosts
	p.Only = &o
	return nil
}

// addresses brings addresses to their one form, each once.
func addresses(given []domain.Address) ([]domain.Address, error) {
	var all []domain.Address
	there := make(map[domain.Address]struct{}, len(given))
	for _, text := range given {
		a, err := domain.ParseAddress(string(text))
		if err != nil {
			return nil, err
		}
		if _, twice := there[a]; !twice {
			there[a] = struct{}{}
			all = append(all, a)
		}
	}
	return all, nil
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

func window(p *event.Policy, raw json.RawMessage) error {
	var w event.Window
	if err := as(&w, raw, `must be an object: {"days": ["sat", "sun"], "from": "22:00", "to": "04:30", "zone": "Europe/Berlin"}`); err != nil {
		return err
	}
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
	if _, err := time.LoadLocation(w.Zone); err != nil || w.Zone == "" || w.Zone == "Local" {
		return errors.New("zone must be a time zone of the IANA database, such as Europe/Berlin or UTC")
	}
	if len(w.Days) == 0 {
		w.Days = nil // as it is when it is read from history
	}
	p.Window = &w
	return nil
}

// opening tells whether the window is open, and if it is not, when it opens.
// A window that could not be read is never open.
func opening(w *event.Window, now time.Time) (open bool, opens time.Time) {
	if w == nil {
		return true, time.Time{}
	}
	zone, zoneErr := time.LoadLocation(w.Zone)
	from, fromErr := time.Parse("15:04", w.From)
	to, toErr := time.Parse("15:04", w.To)
	if zoneErr != nil || fromErr != nil || toErr != nil {
		return false, time.Time{}
	}
	today := now.In(zone)
	for day := -1; day <= 7; day++ { // one that began yesterday may still be open
		date := time.Date(today.Year(), today.Month(), today.Day()+day, 12, 0, 0, 0, zone)
		if len(w.Days) > 0 && !slices.Contains(w.Days, weekdays[date.Weekday()]) {
			continue
		}
		nights := 0
		if to.Before(from) {
			nights = 1
		}
		begins, ends := clock(date, from), clock(date.AddDate(0, 0, nights), to)
		switch {
		case !begins.Before(ends): // clocks skip all of it
		case now.Before(begins):
			return false, begins
		case now.Before(ends):
			return true, time.Time{}
		}
	}
	return false, time.Time{} // there is one a week at least
}

// clock is when clocks show a time of day on a date. One that they skip is when
// they are put forward.
func clock(date, day time.Time) time.Time {
	t := time.Date(date.Year(), date.Month(), date.Day(), day.Hour(), day.Minute(), 0, 0, date.Location())
	begins, ends := t.ZoneBounds()
	shown := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC) // it may be of the day before
	wanted := time.Date(date.Year(), date.Month(), date.Day(), day.Hour(), day.Minute(), 0, 0, time.UTC)
	switch {
	case shown.After(wanted):
		return begins
	case shown.Before(wanted):
		return ends
	}
	return t
}
