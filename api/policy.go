package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	strict "github.com/go-json-experiment/json"

	"commissaire/domain"
	"commissaire/domain/policy"
)

// parsePolicy reads the policy in the body of a request: what is absent is as in
// policy.Default. Every field that is wrong is named. Keys that are no fields of a
// policy are not looked at.
func parsePolicy(kind domain.OperationKind, b body) (policy.Policy, error) {
	p := policy.Default()
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
	batched := false
	for _, name := range policy.Fields(kind) {
		raw, given := b[name]
		if !given {
			continue
		}
		err := readPolicyField(&p, name, raw)
		if err != nil {
			refuse(name, err)
		}
		batched = batched || name == "batches" && err == nil
	}
	if _, given := b["max_unavailable"]; given && batched {
		refuse("batches", errors.New("max_unavailable says how many at once already; give one of them"))
	}
	if len(refusal.Fields) > 0 {
		return policy.Policy{}, refusal
	}
	return p, nil
}

// readPolicyField reads one field, strictly, and checks it.
func readPolicyField(p *policy.Policy, name string, raw json.RawMessage) error {
	if name == "health" {
		p.Health = policy.DefaultHealth()
	}
	member := fmt.Appendf(nil, "{%q:%s}", name, raw)
	if string(raw) == "null" || name == "drain" && !isDrain(raw) || readStrictly(member, p) != nil {
		return errors.New(policy.Must(name))
	}
	if err := oneForm(p, name); err != nil {
		return err
	}
	if err := policy.Check(name, *p); err != nil || name != "window" {
		return err
	}
	return checkZone(p.Window.Zone)
}

// readStrictly refuses keys that are not known, and knows them in their own case only.
func readStrictly(raw []byte, value any) error {
	return strict.Unmarshal(raw, value, strict.RejectUnknownMembers(true))
}

// isDrain tells whether an object has the keys of a drain only: the drain's own
// reading, which is that of history, lets others pass.
func isDrain(raw json.RawMessage) bool {
	var known struct {
		Timeout   int    `json:"timeout"`
		Grace     int    `json:"grace"`
		OnTimeout string `json:"on_timeout"`
	}
	return raw[0] != '{' || readStrictly(raw, &known) == nil
}

// oneForm brings a field that was read to the form in which it is recorded, compared
// and read from history.
func oneForm(p *policy.Policy, name string) (err error) {
	switch name {
	case "order":
		p.Order.First, err = distinct(p.Order.First)
		if err == nil && !p.Order.Random && len(p.Order.First) == 0 {
			p.Order = nil // it is the default
		}
	case "only":
		p.Only.Hosts, err = distinct(p.Only.Hosts)
	case "window":
		if len(p.Window.Days) == 0 {
			p.Window.Days = nil
		}
	}
	return err
}

// distinct brings addresses to their one form, each once.
func distinct(given []domain.Address) ([]domain.Address, error) {
	var all []domain.Address
	seen := make(map[domain.Address]struct{}, len(given))
	for _, text := range given {
		a, err := domain.ParseAddress(string(text))
		if err != nil {
			return nil, err
		}
		if _, twice := seen[a]; !twice {
			seen[a] = struct{}{}
			all = append(all, a)
		}
	}
	return all, nil
}

// checkZone refuses a zone that no clock can be set by.
func checkZone(name string) error {
	if _, err := time.LoadLocation(name); err != nil || name == "" || name == "Local" {
		return errors.New("zone must be a time zone of the IANA database, such as Europe/Berlin or UTC")
	}
	return nil
}
