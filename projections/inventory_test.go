package projections

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/domain/event"
)

// viewsAfter are views of what happened to host 10.0.0.1, one event a minute.
func viewsAfter(t *testing.T, events ...event.Event) *Views {
	t.Helper()
	v := New()
	for i, e := range append([]event.Event{event.HostAdded{HostID: "h", Host: "10.0.0.1", RemoteUser: "core", Port: 2222, HostKey: "SHA256:given"}}, events...) {
		stream := event.RosterStream
		if _, ok := e.(event.HostEvent); ok {
			stream = event.HostStream("h")
		}
		r := event.Recorded{
			Position: event.Position(i + 1), Stream: stream, ID: uuid.New(), Event: e,
			Meta: event.Meta{Time: time.Date(2026, 1, 2, 3, i, 0, 0, time.UTC), Actor: "ann"},
		}
		v.Apply(r)
		v.Apply(r)
	}
	return v
}

func TestAnInventorySaysWhyAHostIsFailedAndSinceWhen(t *testing.T) {
	const host = "10.0.0.1"
	facts := event.HostInvestigated{Host: host, Facts: event.Facts{OS: "fedora", OSRelease: "fedora 41", Version: "41.2", Pending: "41.3"}}
	ready := []event.Event{facts, event.HostBootstrapped{Host: host}} // since minute 2
	pinned := event.HostKeyPinned{Host: host, Type: "ssh-ed25519", Fingerprint: "SHA256:a", AddedBy: "ann"}
	changed := event.HostKeyChanged{Host: host, Type: "ssh-rsa", Fingerprint: "SHA256:b"}
	for name, c := range map[string]struct {
		events []event.Event
		reason string // a part of it; "": there is none
		minute int
	}{
		"new":              {nil, "", 0},
		"not reached":      {[]event.Event{event.HostInvestigationFailed{Host: host, Reason: "no route"}}, "no route", 1},
		"for longer":       {[]event.Event{event.HostInvestigationFailed{Host: host, Reason: "no route"}, event.HostInvestigationFailed{Host: host, Reason: "refused"}}, "refused", 1},
		"ready":            {ready, "", 2},
		"not bootstrapped": {[]event.Event{facts, event.HostBootstrapFailed{Host: host, Reason: "no flannel"}}, "no flannel", 2},
		"silent":           {append(ready, event.HostWentSilent{Host: host, Reason: "no answer"}), "no answer", 3},
		"there again":      {append(ready, event.HostWentSilent{Host: host, Reason: "no answer"}, event.HostAnswered{Host: host}), "", 4},
		"another key":      {append(ready, pinned, changed), "SHA256:b, and its own is SHA256:a; if that is right, PUT /host/10.0.0.1/hostkey", 4},
		"not registered":   {append(ready, event.HostRegistrationFailed{Host: host, Reason: "no token"}), "no token", 2},
	} {
		v := viewsAfter(t, c.events...)
		i, ok := v.Snapshot().Inventory(host)
		if !ok || !strings.Contains(i.Reason, c.reason) || (i.Reason == "") != (c.reason == "") || i.Since.Minute() != c.minute {
			t.Errorf("%s: %q since %s, want %q since minute %d", name, i.Reason, i.Since, c.reason, c.minute)
		}
		var saved bytes.Buffer
		if err := v.Snapshot().Write(&saved); err != nil {
			t.Fatal(err)
		}
		read, err := ReadViews(&saved)
		if err != nil {
			t.Fatal(err)
		}
		was, _ := NewAnswer(i).JSON()
		again, _ := read.Snapshot().Inventory(host)
		if is, _ := NewAnswer(again).JSON(); !bytes.Equal(is, was) {
			t.Errorf("%s: from a snapshot %s, and it was %s", name, is, was)
		}
	}
}

func TestAnInventoryHasTheHostKey(t *testing.T) {
	const host = "10.0.0.1"
	pinned := event.HostKeyPinned{Host: host, Type: "ssh-ed25519", Fingerprint: "SHA256:a", AddedBy: "bob", Authority: "SHA256:ca"}
	changed := event.HostKeyChanged{Host: host, Type: "ssh-rsa", Fingerprint: "SHA256:b"}
	const hour = `"2026-01-02T03:0`
	for want, events := range map[string][]event.Event{
		`{"type":"","fingerprint":"SHA256:given","pinned_at":` + hour + `0:00.000000","pinned_by":"ann","authority":"","shown":null}`:                                                                                         nil,
		`{"type":"ssh-ed25519","fingerprint":"SHA256:a","pinned_at":` + hour + `1:00.000000","pinned_by":"bob","authority":"SHA256:ca","shown":null}`:                                                                         {pinned},
		`{"type":"ssh-ed25519","fingerprint":"SHA256:a","pinned_at":` + hour + `1:00.000000","pinned_by":"bob","authority":"SHA256:ca","shown":{"type":"ssh-rsa","fingerprint":"SHA256:b","since":` + hour + `2:00.000000"}}`: {pinned, changed},
		`{"type":"ssh-rsa","fingerprint":"SHA256:b","pinned_at":` + hour + `3:00.000000","pinned_by":"ann","authority":"","shown":null}`:                                                                                      {pinned, changed, event.HostKeyAccepted{Host: host, Type: "ssh-rsa", Fingerprint: "SHA256:b"}},
		`{"type":"ssh-ed25519","fingerprint":"SHA256:a","pinned_at":` + hour + `1:00.000000","pinned_by":"bob","authority":"SHA256:ca","shown":null} again`: {
			pinned, changed, event.HostKeyShownAgain{Host: host, Type: "ssh-ed25519", Fingerprint: "SHA256:a"},
		},
	} {
		i, _ := viewsAfter(t, events...).Snapshot().Inventory(host)
		if text, err := json.Marshal(i.HostKey); err != nil || string(text) != strings.TrimSuffix(want, " again") {
			t.Errorf("%s, want %s, %v", text, want, err)
		}
	}
	if i, _ := viewsAfter(t).Snapshot().Inventory(host); i.Facts != nil || i.Port != 2222 || i.RemoteUser != "core" || i.Cluster != "" {
		t.Errorf("before it was reached: %+v", i)
	}
	if _, ok := viewsAfter(t).Snapshot().Inventory("10.0.0.2"); ok {
		t.Error("there is an inventory of a host that is not known")
	}
}
