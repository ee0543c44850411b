package process

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// rack has a machine for each address.
type rack map[domain.Address]*rackMachine

type rackMachine struct {
	fakeHost
	key, id, boot string
}

func (r rack) Dial(_ context.Context, to Target) (Session, error) { return r[to.Host], nil }

func (r rack) Plan(kind domain.OperationKind, version string, policy event.Policy, facts event.Facts) (commands []string, skip, problem string) {
	return (&fakeHost{}).Plan(kind, version, policy, facts)
}

func (m *rackMachine) HostKey() HostKey { return HostKey{Type: "ssh-ed25519", Fingerprint: m.key} }

func (m *rackMachine) BootID(context.Context) (string, error) { return m.boot, nil }

func (m *rackMachine) Facts(context.Context) (event.Facts, error) {
	return event.Facts{OS: "fedora", Version: "41", BootID: m.boot, MachineID: m.id}, nil
}

// TestHostsAreTheMachinesTheyAre adds two hosts, one after the other or at once, and
// removes the first.
func TestHostsAreTheMachinesTheyAre(t *testing.T) {
	a := &rackMachine{key: "SHA256:a", id: strings.Repeat("a", 32), boot: "a"}
	for name, c := range map[string]struct {
		second *rackMachine
		twin   bool
		clone  bool
	}{
		"the same under another name":              {second: a, twin: true},
		"the same, without a machine id":           {second: &rackMachine{key: a.key, boot: a.boot}, twin: true},
		"another that was made from the image":     {second: &rackMachine{key: "SHA256:b", id: a.id, boot: "b"}, clone: true},
		"another with the host key of the image":   {second: &rackMachine{key: a.key, id: strings.Repeat("b", 32), boot: "b"}},
		"a container on the same kernel":           {second: &rackMachine{key: "SHA256:b", boot: a.boot}},
		"the same key, another boot, no id of its": {second: &rackMachine{key: a.key, boot: "b"}},
	} {
		for _, together := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := upkept(t, nil, &kept{})
					r.term = 1
					r.config.Remote = rack{"10.0.0.1": a, "10.0.0.2": c.second}
					r.record(event.RosterStream, event.TermBegun{Term: 1}, event.HostAdded{HostID: "1", Host: "10.0.0.1"})
					if !together {
						r.runFor(5 * time.Second)
					}
					r.record(event.RosterStream, event.HostAdded{HostID: "2", Host: "10.0.0.2"})
					r.runFor(5 * time.Minute)

					first, second := r.world.host("1"), r.world.host("2")
					lost, left := second, domain.HostID("1")
					if c.twin && together && second.Ready() { // whoever was looked at first has it
						lost, left = first, "2"
					}
					if got := lost.Ready(); got == c.twin {
						t.Fatalf("ready: %v, want %v", got, !c.twin)
					}
					facts, _ := second.Facts()
					other, _ := first.Facts()
					if (facts.CloneOf != "" || other.CloneOf != "") != c.clone {
						t.Errorf("a clone of %q and %q, want one: %v", facts.CloneOf, other.CloneOf, c.clone)
					}
					if !c.twin {
						return
					}
					why := ""
					for _, id := range []domain.HostID{"1", "2"} {
						for _, e := range r.history(event.HostStream(id)) {
							if failed, is := e.(event.HostInvestigationFailed); is {
								why = failed.Reason
							}
						}
					}
					if !strings.Contains(why, "same machine") {
						t.Errorf("the reason is %q", why)
					}
					gone, _ := r.world.roster.Host(left)
					r.record(event.RosterStream, event.HostRemoved{HostID: left, Host: gone.Host})
					r.runFor(3 * time.Second)
					if !lost.Ready() {
						t.Error("it does not recover when the other one is removed")
					}
				})
			})
		}
	}
}

// TestATurnOnAMachineThatIsAnotherHostsFails has an operation cross two hosts that
// were known before machines were told apart.
func TestATurnOnAMachineThatIsAnotherHostsFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &rackMachine{key: "SHA256:a", id: strings.Repeat("a", 32), boot: "a"}
		r := newRoll(t, rack{"10.0.0.1": m, "10.0.0.2": m}, upgrade, 2, func(p *event.Policy) { p.MaxFailures = event.Amount{N: 2} })
		for _, id := range []domain.HostID{"1", "2"} {
			r.record(event.HostStream(id), event.HostKeyPinned{Host: "h", Fingerprint: m.key})
		}
		r.applied()
		for i := range 2 {
			r.turn(i + 1).carryOut(t.Context())
		}
		if failed := r.failed(); failed.HostID != "2" || !strings.Contains(failed.Reason, "same machine as host 10.0.0.1") {
			t.Errorf("%+v", failed)
		}
		if done := r.succeeded(); done.HostID != "1" {
			t.Errorf("%+v", done)
		}
	})
}
