package fleet_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"commissaire/adapters/ssh"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/test/fleet"
	"commissaire/test/vault"
)

// TestCommissaireWorksOnTheFleet takes one host of each sort through what
// Commissaire does with a host, over its own SSH adapter.
func TestCommissaireWorksOnTheFleet(t *testing.T) {
	private, public, err := fleet.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Start(fleet.Config{Hosts: fleet.Mixed(5), User: "core", Authorized: []xssh.PublicKey{public}, Second: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	remote := ssh.New(ssh.Config{Reach: ssh.Reach{Loopback: true}}, vault.Of("", private), slog.New(slog.DiscardHandler))

	for _, h := range f.Hosts() {
		t.Run(string(h.Spec().OS), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context() // a limit would be one on hosts whose seconds pass faster
			dial := func() process.Session {
				session, err := remote.Dial(ctx, process.Target{
					Host: domain.Address(h.Address()), Port: f.Port(), User: "core",
					Pinned: &process.HostKey{Type: h.HostKey().Type(), Fingerprint: xssh.FingerprintSHA256(h.HostKey())},
					Leader: process.Leader{Log: "log", Term: 1},
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { session.Close() })
				return session
			}

			session := dial()
			facts, err := session.Facts(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if spec := h.Spec(); facts.OS != string(spec.OS) || facts.CPUs != spec.CPUs || facts.Memory != spec.Memory ||
				facts.Space != spec.Disk || facts.BootID != h.BootID() || facts.OSTree != spec.OSTree || !strings.HasSuffix(facts.Version, h.Version()) {
				t.Errorf("facts %+v of %+v", facts, spec)
			}

			err = session.Bootstrap(ctx, "bootstrap", process.Bootstrap{Facts: facts})
			var refused *process.Refused
			if debian := h.Spec().OS == fleet.Debian; debian != errors.As(err, &refused) || !debian && err != nil {
				t.Fatalf("bootstrap: %v", err)
			}

			work := process.Work{Kind: domain.Upgrade, Facts: facts}
			for range 2 {
				result, err := session.Run(ctx, "upgrade", work)
				if err != nil {
					t.Fatal(err)
				}
				if result.Exit == nil || *result.Exit != 0 {
					t.Fatalf("upgrade: %+v", result)
				}
			}
			if h.Pending() != h.Spec().Next {
				t.Errorf("pending is %q, want %q", h.Pending(), h.Spec().Next)
			}
			if err := session.Reboot(ctx, "reboot", facts.BootID); err != nil && !errors.As(err, new(*process.Unreachable)) { // it may go down before it answers
				t.Fatal(err)
			}
			if err := h.Await(ctx, func(h *fleet.Host) bool { return h.BootID() != facts.BootID && h.Listening() }); err != nil {
				t.Fatal(err)
			}
			after, err := dial().Facts(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if after.BootID != h.BootID() || !strings.HasSuffix(after.Version, h.Spec().Next) || after.Pending != "" {
				t.Errorf("after the reboot: %+v", after)
			}
			upgrades := 0
			for _, c := range h.Commands() {
				if strings.Contains(c.Line, "upgrade") || strings.HasPrefix(c.Line, "yum -y update") {
					upgrades++
				}
			}
			if upgrades != 1 {
				t.Errorf("upgraded %d times: %+v", upgrades, h.Commands())
			}
		})
	}
}

func TestAKeptConnectionDoesNotHideAReboot(t *testing.T) {
	private, public, err := fleet.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Start(fleet.Config{Hosts: fleet.Mixed(1), Authorized: []xssh.PublicKey{public}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	remote := ssh.New(ssh.Config{KeepOpen: 1, Reach: ssh.Reach{Loopback: true}}, vault.Of("", private), slog.New(slog.DiscardHandler))
	t.Cleanup(remote.Close)
	h := f.Hosts()[0]
	for range 3 {
		for range 2 {
			session, err := remote.Dial(t.Context(), process.Target{
				HostID: "host", Host: domain.Address(h.Address()), Port: f.Port(), User: "root",
				Pinned: &process.HostKey{Fingerprint: xssh.FingerprintSHA256(h.HostKey())},
				Leader: process.Leader{Log: "log", Term: 1},
			})
			if err != nil {
				t.Fatal(err)
			}
			if id, err := session.BootID(t.Context()); err != nil || id != h.BootID() {
				t.Errorf("boot id %q, %v; the host is in %q", id, err, h.BootID())
			}
			session.Close()
		}
		boot := h.BootID()
		h.Reboot()
		if err := h.Await(t.Context(), func(h *fleet.Host) bool { return h.BootID() != boot && h.Listening() }); err != nil {
			t.Fatal(err)
		}
	}
}
