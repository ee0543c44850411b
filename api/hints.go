package api

import (
	"regexp"
	"slices"
	"strings"

	"commissaire/domain"
)

// hints say how a client may go on that is refused, by the code of the refusal; for
// a code that refuses one field of several, by code and field. They continue the
// sentence of the refusal. {host} and the like are what that is about; of several
// hints the first is given of which all is known.
//
// The rules of the domain know no routes, and here is the one place where their
// refusals get them.
var hints = map[string][]string{
	"already-defined":                      {"; DELETE it before defining it anew"},
	"host-has-another-key":                 {"; DELETE it first to add it with a new one"},
	"host-in-another-cluster":              {"; use /cluster/{cluster}/hosts/{host}"},
	"host-in-hand":                         {", or, as a last resort, PUT /operation/{operation}/abandon"},
	"host-key-not-shown":                   {"; GET /host/{host}/history says which it showed"},
	"host-known-otherwise remote_user":     {"; DELETE it first to add it with that"},
	"host-known-otherwise ssh_certificate": {"; DELETE it first to add it with this one"},
	"host-known-otherwise ssh_host_key": {
		"; PUT /host/{host}/hostkey accepts another one that it shows",
		"; DELETE it first to add it with that", // of a host without a key
	},
	"host-known-otherwise ssh_port":  {"; DELETE it first to add it with that"},
	"host-known-otherwise take_over": {"; PUT /host/{host}/takeover takes it over"},
	"host-not-ready":                 {"; GET /host/{host} says how far it is"},
	"members-changed":                {"; GET /cluster/{cluster}/hosts and try again"},
	"no-such-host":                   {"; PUT /host/{host} first"}, // where it is to become a member
	"unknown-container-manager":      {"; PUT /containermanager/{manager} first"},
}

// blank is what a hint leaves to be filled in.
var blank = regexp.MustCompile(`\{[a-z]+\}`)

// hinted is a refusal with the hint on how to go on, in its sentence and, where one
// field is refused, in the reason of that.
func hinted(refusal *domain.Refusal) *domain.Refusal {
	key := refusal.Code
	if len(refusal.Fields) == 1 {
		key += " " + refusal.Fields[0].Field
	}
	for _, hint := range hints[key] {
		known := true
		hint = blank.ReplaceAllStringFunc(hint, func(name string) string {
			value, ok := refusal.About[strings.Trim(name, "{}")]
			known = known && ok
			return value
		})
		if !known {
			continue
		}
		with := *refusal
		with.Detail += hint
		with.Fields = slices.Clone(refusal.Fields)
		for i := range with.Fields {
			with.Fields[i].Reason += hint
		}
		return &with
	}
	return refusal
}
