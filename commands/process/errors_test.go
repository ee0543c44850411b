package process

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"commissaire/commands"
	"commissaire/domain/roster"
)

func TestWhomAnErrorIsAbout(t *testing.T) {
	var (
		store       = commands.ErrUnavailable
		unknown     = commands.ErrOutcomeUnknown
		unreachable = &Unreachable{Reason: "connection refused"}
		refused     = &Refused{Reason: "a password is required"}
		changed     = &KeyChanged{Host: "10.0.0.1"}
		fenced      = &Fenced{Host: "10.0.0.1"}
		foreign     = &Foreign{Host: "10.0.0.1"}
		node        = &nodeError{what: "cordon", err: errors.New("403 Forbidden")}
	)
	for name, c := range map[string]struct {
		err      error
		about    subject
		fromHost bool
	}{
		"the store is away":                     {store, theStore, false},
		"the store did not answer":              {unknown, theStore, false},
		"a key could not be read":               {fmt.Errorf("read the private key: %w", store), theStore, false},
		"a node's token could not be read":      {&nodeError{what: "drain", err: store}, theStore, false},
		"a later leader was there":              {fenced, anotherOwner, false},
		"another installation was there":        {foreign, anotherOwner, false},
		"another key is shown":                  {changed, theHostKey, true},
		"it does not answer":                    {unreachable, theHost, true},
		"it refuses":                            {refused, theHost, true},
		"it was not rebooted":                   {errStillUp, theHost, true},
		"the container manager says no":         {node, theNode, false},
		"a claim is refused":                    {roster.ErrTaken, thisService, false},
		"a later leader is on record":           {errOvertaken, thisService, false},
		"a turn was not begun":                  {errNotBegun, thisService, false},
		"a turn is over":                        {errOver, thisService, false},
		"this service stops":                    {context.Canceled, thisService, false},
		"something else":                        {errors.New("a bug"), thisService, false},
		"wrapped":                               {fmt.Errorf("read the facts: %w", unreachable), theHost, true},
		"the store, of a host out of reach":     {errors.Join(unreachable, store), theStore, false},
		"another owner, of another key":         {errors.Join(changed, fenced), anotherOwner, false},
		"another key, of a host out of reach":   {errors.Join(unreachable, changed), theHostKey, true},
		"a host out of reach, told by its node": {&nodeError{what: "drain", err: unreachable}, theHost, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := about(c.err); got != c.about {
				t.Errorf("it is about %d, want %d", got, c.about)
			}
			if got := fromHost(c.err); got != c.fromHost {
				t.Errorf("from the host: %v", got)
			}
		})
	}
}
