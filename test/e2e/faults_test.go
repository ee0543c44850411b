package e2e

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"commissaire/test/fleet"
)

// TestFaultsOfAHost has one host of three misbehave, each time in another way.
// What the API says of it must be a sentence that an operator can act on, and
// the others must not be disturbed: an operation that stops at the second host
// has done the first and not touched the third.
func TestFaultsOfAHost(t *testing.T) {
	upgraded, rebooted := []string{"dnf -y upgrade --setopt=*.skip_if_unavailable=False"}, []string{"rpm-ostree upgrade", "systemctl reboot"}

	t.Run("refuses the key", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.bad.SetFaults(fleet.Faults{RefuseKey: true})
		r.add("failed")
		private, _ := base64.StdEncoding.DecodeString(r.body()["ssh_priv_key"].(string))
		key, err := ssh.ParsePrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		why := fmt.Sprintf("%s does not let root in with the key %s: add its public half to authorized_keys there, or give another key",
			r.address(), ssh.FingerprintSHA256(key.PublicKey()))
		r.tells("HostInvestigationFailed", "reason", why)
		r.fails("upgrade", why)
		r.undisturbed("failed", upgraded, nil)
	})
	t.Run("changes its host key", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		if err := r.bad.ChangeHostKey(); err != nil {
			t.Fatal(err)
		}
		r.bad.DropConnections()
		shown := fingerprint(r.bad)
		r.fails("upgrade", "the host key changed to ssh-ed25519 "+shown+": nothing is sent there until the pinned one is shown again, or PUT /host/"+r.bad.Address()+"/hostkey accepts it")
		r.tells("HostKeyChanged", "fingerprint", shown)
		r.undisturbed("failed", upgraded, nil)
	})
	t.Run("hangs in the handshake", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, map[string]any{"ssh.handshake-timeout": "1500ms"})
		r.add("disassociated")
		r.bad.SetFaults(fleet.Faults{HangHandshake: true})
		r.bad.DropConnections()
		why := r.address() + " took the connection, but SSH was not ready within 1.5s: is it sshd that listens there, and is the host overloaded?"
		r.fails("upgrade", why)
		r.tells("HostWentSilent", "reason", why)
		r.undisturbed("failed", upgraded, nil)
	})
	t.Run("does not listen", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		r.bad.Down()
		why := "nothing listens on " + r.address() + ": is the host up, and sshd running?"
		r.fails("upgrade", why)
		r.tells("HostWentSilent", "reason", why)
		r.undisturbed("failed", upgraded, nil)
	})
	t.Run("drops the connection in the middle of a command", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		r.bad.SetFaults(fleet.Faults{DropDuring: "dnf -y upgrade"})
		o := r.run("upgrade", "finished")
		if turn := turnOf(o, 1); turn["state"] != "succeeded" || turn["exit_status"] != 0.0 || turn["reason"] != "" {
			t.Errorf("its turn: %v", turn)
		}
		if n := commands(r.bad, "dnf -y upgrade"); n != 1 {
			t.Errorf("it was upgraded %d times", n)
		}
		r.undisturbed("disassociated", upgraded, upgraded)
	})
	t.Run("a command fails", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		r.bad.FailNext("dnf -y upgrade", 3)
		turn := r.fails("upgrade", "the upgrade ended with exit status 3: dnf: failed, as it was told to")
		if turn["exit_status"] != 3.0 {
			t.Errorf("its turn: %v", turn)
		}
		r.undisturbed("disassociated", upgraded, nil)
	})
	t.Run("a step of the bootstrap fails", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, map[string]any{"bootstrap.profile": "flannel-docker"})
		r.bad.FailNext("dnf install -y flannel", 1)
		r.add("failed")
		r.tells("HostBootstrapFailed", "reason", "install flannel: exit status 1: dnf: failed, as it was told to")
		fit := r.others()[0].Commands()
		if last := fit[len(fit)-1]; last.Line != "systemctl restart docker" || last.Exit != 0 {
			t.Errorf("the last command on another host is %+v", last)
		}
		r.undisturbed("failed", lines(fit), lines(fit))
	})
	t.Run("prints 10 MB", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		r.bad.SetFaults(fleet.Faults{Prints: strings.Repeat(strings.Repeat("#", 1023)+"\n", 10<<10)})
		o := r.run("upgrade", "finished")
		if turn := turnOf(o, 1); turn["state"] != "succeeded" {
			t.Errorf("its turn: %v", turn)
		}
		ends := r.events("/operation/"+sprint(o["id"])+"/history", "HostTurnSucceeded")
		size := func(i int) float64 { return ends[i]["output"].(map[string]any)["size"].(float64) }
		if len(ends) != 3 || size(1) < 10<<20 || size(0) > 1<<10 || size(2) > 1<<10 {
			t.Errorf("the ends of the turns: %v", ends)
		}
		r.undisturbed("disassociated", upgraded, upgraded)
	})
	t.Run("prints 10 MB and fails", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		r.bad.SetFaults(fleet.Faults{Prints: strings.Repeat("#", 10<<20)}) // all in one line, the last
		r.bad.FailNext("dnf -y upgrade", 3)
		turn := turnOf(r.run("upgrade", "failed"), 1)
		why := sprint(turn["reason"])
		if !strings.HasPrefix(why, "the upgrade ended with exit status 3: ###") || !strings.HasSuffix(why, "###dnf: failed, as it was told to") || len(why) > 1100 {
			t.Errorf("the reason, of %d bytes: %s", len(why), why)
		}
		r.undisturbed("disassociated", upgraded, nil)
	})
	t.Run("prints 10 MB at login", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.bad.SetFaults(fleet.Faults{Noise: strings.Repeat("#", 10<<20)})
		r.add("failed")
		r.tells("HostInvestigationFailed", "reason", "it printed more than 4194304 bytes where an answer was expected: see what its user's shell prints at login")
		r.undisturbed("failed", nil, nil)
	})
	t.Run("prints binary", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		binary := "\xff\xfe\x00\x1b[2J\x1b]0;owned\x07"
		r.bad.SetFaults(fleet.Faults{Prints: binary, Noise: binary})
		r.add("disassociated") // what a login shell prints is of no interest
		r.bad.FailNext("dnf -y upgrade", 3)
		o := r.run("upgrade", "failed")
		if why := turnOf(o, 1)["reason"]; why != "the upgrade ended with exit status 3: \uFFFDdnf: failed, as it was told to" {
			t.Errorf("the reason: %q", why)
		}
		for _, path := range []string{"/operation/" + sprint(o["id"]), "/operation/" + sprint(o["id"]) + "/history", "/host/" + r.bad.Address() + "/history"} {
			body := r.get(path).is(200).body
			if !utf8.Valid(body) || strings.ContainsFunc(string(body), func(c rune) bool { return unicode.IsControl(c) && c != '\n' }) || strings.Contains(string(body), `\u001b`) {
				t.Errorf("GET %s: %q", path, body)
			}
		}
		r.undisturbed("disassociated", upgraded, nil)
	})
	t.Run("is slow", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		r.bad.Slow("dnf -y upgrade", 2*time.Second)
		release := r.bad.Hold("dnf -y upgrade") // while it is looked at
		location := r.operate("upgrade", nil)
		awaitCommand(t, r.bad, "dnf -y upgrade")
		o := r.get(location).is(200).object()
		if states := []any{turnOf(o, 0)["state"], turnOf(o, 1)["state"], turnOf(o, 2)["state"]}; sprint(states) != "[succeeded begun waiting]" || o["status"] != "in_process" {
			t.Errorf("while it is slow: %v, %v", o["status"], states)
		}
		release()
		r.until(location, status("finished"))
		if took := r.fleet.InHand()[1]; took.Host != r.bad.Address() || took.Until.Sub(took.Time) < 2*time.Second {
			t.Errorf("second in hand: %+v", took)
		}
		r.undisturbed("disassociated", upgraded, upgraded)
	})
	t.Run("comes back with the old version", func(t *testing.T) {
		r := newTrial(t, fleet.Atomic, nil)
		r.add("disassociated")
		r.run("upgrade", "finished")
		r.bad.SetFaults(fleet.Faults{KeepVersion: true})
		r.fails("restart", "it came back on 41.1, wanted 41.2: see rpm-ostree status on the host")
		if first, third := r.others()[0], r.others()[1]; first.Version() != "41.2" || third.Version() != "41.1" || third.Pending() != "41.2" {
			t.Errorf("the others run %s and %s, then %s", first.Version(), third.Version(), third.Pending())
		}
		r.undisturbed("disassociated", rebooted, rebooted[:1])
	})
	t.Run("never comes back", func(t *testing.T) {
		r := newTrial(t, fleet.Atomic, map[string]any{"operations.reboot-timeout": "5s"})
		r.add("disassociated")
		r.bad.SetFaults(fleet.Faults{StayDown: true})
		r.fails("restart", "the host was not back within 5s of its reboot, look at its console: nothing listens on "+r.address()+": is the host up, and sshd running?")
		r.tells("HostWentSilent", "reason", "nothing listens on "+r.address()+": is the host up, and sshd running?")
		r.undisturbed("failed", rebooted[1:], nil)
	})
	t.Run("reboots by itself", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		before := r.bad.BootID()
		r.bad.Reboot()
		if err := r.bad.Await(t.Context(), func(h *fleet.Host) bool { return h.BootID() != before && h.Listening() }); err != nil {
			t.Fatal(err)
		}
		r.tells("HostRebooted", "boot_id", r.bad.BootID())
		r.tells("HostRebooted", "boot_id_before", before)
		r.undisturbed("disassociated", nil, nil)
	})
	t.Run("reboots by itself in the middle of a command", func(t *testing.T) {
		r := newTrial(t, fleet.Fedora, nil)
		r.add("disassociated")
		r.bad.Slow("dnf -y upgrade", time.Hour)
		location := r.operate("upgrade", nil)
		awaitCommand(t, r.bad, "dnf -y upgrade")
		r.bad.Reboot()
		turn := turnOf(r.until(location, status("failed")), 1)
		if want := "the upgrade was interrupted by a reboot: see on the host how far it got, then start it again"; turn["reason"] != want {
			t.Errorf("the reason: %v, want %s", turn["reason"], want)
		}
		if n := commands(r.bad, "dnf -y upgrade"); n != 1 {
			t.Errorf("it was upgraded %d times", n)
		}
		r.undisturbed("disassociated", upgraded, nil)
	})
}

// A trial is three hosts and a service. The second host is the one that
// misbehaves.
type trial struct {
	*service
	fleet *fleet.Fleet
	body  func() map[string]any
	bad   *fleet.Host
}

func newTrial(t *testing.T, os fleet.OS, settings map[string]any) trial {
	t.Helper()
	t.Parallel()
	specs := make([]fleet.Spec, 3)
	for i := range specs {
		specs[i] = fleet.Spec{Address: fmt.Sprintf("127.0.15.%d", 1+i), OS: os, Version: "41.1", Next: "41.2"}
	}
	f, body := hosts(t, specs...)
	quick := map[string]any{"bootstrap.profile": "none", "ssh.attempts": 2, "watch.interval": "300ms"}
	return trial{newService(t, quick, settings), f, body, f.Hosts()[1]}
}

// address is where the misbehaving host listens.
func (r trial) address() string { return fmt.Sprintf("%s:%d", r.bad.Address(), r.fleet.Port()) }

func (r trial) others() []*fleet.Host { return []*fleet.Host{r.fleet.Hosts()[0], r.fleet.Hosts()[2]} }

// add makes the hosts members of the cluster c, and waits until the one that
// misbehaves has a status and the others are ready.
func (r trial) add(bad string) {
	r.t.Helper()
	r.put("/cluster/c", nil).is(201)
	r.addHosts("c", r.body, addresses(r.fleet.Hosts())...)
	r.until("/host/"+r.bad.Address(), status(bad))
	r.ready(addresses(r.others())...)
}

func (r trial) run(kind, end string) map[string]any {
	r.t.Helper()
	return r.until(r.operate(kind, nil), status(end))
}

// fails runs an operation that the misbehaving host fails for a reason, and
// returns the host's turn.
func (r trial) fails(kind, why string) map[string]any {
	r.t.Helper()
	o := r.run(kind, "failed")
	turn := turnOf(o, 1)
	if turn["state"] != "failed" || turn["reason"] != why {
		r.t.Errorf("its turn %v: %v\nwant: %s", turn["state"], turn["reason"], why)
	}
	if want := "host " + r.bad.Address() + ": " + why; o["cause"] != want {
		r.t.Errorf("the cause: %v\nwant: %s", o["cause"], want)
	}
	if states := []any{turnOf(o, 0)["state"], turnOf(o, 2)["state"]}; sprint(states) != "[succeeded waiting]" {
		r.t.Errorf("the turns of the others: %v", states)
	}
	return turn
}

// tells waits until the history of the misbehaving host has an event, and checks
// what it says.
func (r trial) tells(kind, key, want string) {
	r.t.Helper()
	path := "/host/" + r.bad.Address() + "/history"
	r.await(func() bool { return len(r.events(path, kind)) > 0 }, path)
	if got := r.events(path, kind)[0][key]; got != want {
		r.t.Errorf("%s: %s %v\nwant: %s", kind, key, got, want)
	}
}

// undisturbed waits for the status of the misbehaving host and checks that the
// others are as ready as they were, and that nothing but the given commands ran
// on them.
func (r trial) undisturbed(bad string, first, third []string) {
	r.t.Helper()
	r.until("/host/"+r.bad.Address(), status(bad))
	for i, want := range [][]string{first, third} {
		h := r.others()[i]
		if got := lines(h.Commands()); !slices.Equal(got, want) {
			r.t.Errorf("on %s ran %q, want %q", h.Address(), got, want)
		}
		for _, c := range h.Commands() {
			if !c.Done || c.TakesInHand() && c.Exit != 0 {
				r.t.Errorf("on %s: %+v", h.Address(), c)
			}
		}
		if got := r.get("/host/" + h.Address()).is(200).object()["status"]; got != "disassociated" {
			r.t.Errorf("%s is %v", h.Address(), got)
		}
		for _, kind := range []string{"HostInvestigationFailed", "HostBootstrapFailed", "HostKeyChanged", "HostWentSilent", "HostRebooted", "HostTurnFailed"} {
			if events := r.events("/host/"+h.Address()+"/history", kind); len(events) > 0 {
				r.t.Errorf("%s: %s %v", h.Address(), kind, events)
			}
		}
	}
	if n := r.fleet.MostInHand(time.Time{}); n > 1 {
		r.t.Errorf("%d hosts were in hand at once", n)
	}
}
