package authentication_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"commissaire/api/authentication"
)

func TestWhatEachRoleMay(t *testing.T) {
	permissions := []authentication.Permission{
		authentication.Read, authentication.ReadAudit, authentication.ReadOutput,
		authentication.Operate, authentication.Administer, authentication.AddSelf,
	}
	for role, want := range map[authentication.Role]string{ // y: may, in the order above
		authentication.Viewer:   "ynnnnn",
		authentication.Auditor:  "yynnnn",
		authentication.Operator: "yyyynn",
		authentication.Admin:    "yyyyyy",
		authentication.Join:     "nnnnny",
		"unheard-of":            "nnnnnn",
		"":                      "nnnnnn",
	} {
		for i, permission := range permissions {
			if got := (authentication.Identity{Roles: []authentication.Role{role}}).May(permission); got != (want[i] == 'y') {
				t.Errorf("role %q, permission %d: %v", role, permission, got)
			}
		}
	}
	both := authentication.Identity{Roles: []authentication.Role{authentication.Viewer, authentication.Join}}
	if !both.May(authentication.Read) || !both.May(authentication.AddSelf) || both.May(authentication.Operate) {
		t.Error("several roles may not what they may together")
	}
	if (authentication.Identity{}).May(authentication.Read) {
		t.Error("nobody may read")
	}
}

// fixed is a plugin that always says the same.
type fixed struct {
	identity authentication.Identity
	err      error
}

func (f fixed) Authenticate(*http.Request) (authentication.Identity, error) { return f.identity, f.err }

func TestTheFirstPluginThatKnowsTheCallerWins(t *testing.T) {
	denies := fixed{err: authentication.ErrDenied}
	delays := fixed{err: &authentication.Delayed{RetryAfter: time.Second}}
	one := fixed{identity: authentication.Identity{Name: "one"}}
	two := fixed{identity: authentication.Identity{Name: "two"}}
	for _, c := range []struct {
		stack   authentication.Stack
		name    string
		delayed bool
	}{
		{stack: nil},
		{stack: authentication.Stack{denies}},
		{stack: authentication.Stack{denies, one, two}, name: "one"},
		{stack: authentication.Stack{delays, two}, name: "two"},
		{stack: authentication.Stack{delays, denies}, delayed: true},
		{stack: authentication.Stack{denies, delays}, delayed: true},
	} {
		identity, err := c.stack.Authenticate(&http.Request{})
		var delayed *authentication.Delayed
		switch {
		case identity.Name != c.name, (err == nil) != (c.name != ""):
			t.Errorf("%v: %q, %v", c.stack, identity.Name, err)
		case errors.As(err, &delayed) != c.delayed, err != nil && errors.Is(err, authentication.ErrDenied) == c.delayed:
			t.Errorf("%v: %v", c.stack, err)
		}
	}
}
