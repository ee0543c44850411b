package e2e

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"commissaire/test/fleet"
)

// hosts starts simulated hosts and returns how they are added.
func hosts(t *testing.T, specs ...fleet.Spec) (*fleet.Fleet, func() map[string]any) {
	t.Helper()
	return startFleet(t, fleet.Config{Hosts: specs})
}

// startFleet starts simulated hosts that one key opens.
func startFleet(t *testing.T, config fleet.Config) (*fleet.Fleet, func() map[string]any) {
	t.Helper()
	private, public, err := fleet.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	config.Authorized = []ssh.PublicKey{public}
	f, err := fleet.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, func() map[string]any {
		return map[string]any{"ssh_priv_key": base64.StdEncoding.EncodeToString(private), "ssh_port": f.Port()}
	}
}

func fingerprint(h *fleet.Host) string { return ssh.FingerprintSHA256(h.HostKey()) }

// atomics are n ostree hosts with an upgrade waiting, at 127.0.NET.1 and upward.
func atomics(net, n int) []fleet.Spec {
	specs := make([]fleet.Spec, n)
	for i := range specs {
		specs[i] = fleet.Spec{Address: fmt.Sprintf("127.0.%d.%d", net, i+1), OS: fleet.Atomic, Version: "41.1", Next: "41.2"}
	}
	return specs
}

// rolled is a cluster of ostree hosts at 127.0.NET.1 and upward, ready to be
// rolled over.
func rolled(t *testing.T, net, n int, speed fleet.Speed) (*service, *fleet.Fleet) {
	t.Helper()
	specs := atomics(net, n)
	for i := range specs {
		specs[i].Speed = speed
	}
	f, body := hosts(t, specs...)
	s := newService(t, map[string]any{"bootstrap.profile": "none", "operations.health-interval": "20ms"})
	s.join(f, body)
	return s, f
}

// upgrades is how often each host of a fleet was upgraded, in their order.
func upgrades(f *fleet.Fleet) (n []int) {
	for _, h := range f.Hosts() {
		n = append(n, commands(h, "rpm-ostree upgrade"))
	}
	return n
}

func checkUpgrades(t *testing.T, f *fleet.Fleet, want ...int) {
	t.Helper()
	if got := upgrades(f); !slices.Equal(got, want) {
		t.Errorf("the hosts were upgraded %v times, want %v", got, want)
	}
}

// inHand is when a host was in hand first, and until when.
func inHand(t *testing.T, f *fleet.Fleet, host int) (from, until time.Time) {
	t.Helper()
	address := f.Hosts()[host].Address()
	for _, c := range f.InHand() {
		if c.Host != address {
			continue
		}
		if from.IsZero() {
			from = c.Time
		}
		until = c.Until
	}
	if from.IsZero() || until.IsZero() {
		t.Fatalf("host %s was in hand from %s to %s", address, from, until)
	}
	return from, until
}

func commands(h *fleet.Host, begin string) (n int) {
	for _, c := range h.Commands() {
		if strings.HasPrefix(c.Line, begin) {
			n++
		}
	}
	return n
}

// awaitCommand waits until a host has a command that begins so.
func awaitCommand(t *testing.T, h *fleet.Host, begin string) {
	t.Helper()
	if err := h.Await(t.Context(), func(h *fleet.Host) bool { return commands(h, begin) > 0 }); err != nil {
		t.Fatal(err)
	}
}

// addresses are those of hosts, in their order.
func addresses(hosts []*fleet.Host) (all []string) {
	for _, h := range hosts {
		all = append(all, h.Address())
	}
	return all
}

// addHosts adds hosts as members of a cluster; "": of none.
func (s *service) addHosts(cluster string, body func() map[string]any, addresses ...string) {
	s.t.Helper()
	for _, address := range addresses {
		b := body()
		if cluster != "" {
			b["cluster"] = cluster
		}
		s.put("/host/"+address, b).is(201)
	}
}

// ready waits until hosts are ready to be worked on.
func (s *service) ready(addresses ...string) {
	s.t.Helper()
	for _, address := range addresses {
		s.until("/host/"+address, status("disassociated"))
	}
}

// join makes a fleet's hosts the members of the cluster c and waits until they
// are ready.
func (s *service) join(f *fleet.Fleet, body func() map[string]any) {
	s.t.Helper()
	s.put("/cluster/c", nil).is(201)
	s.addHosts("c", body, addresses(f.Hosts())...)
	s.ready(addresses(f.Hosts())...)
}

// failedFor waits until a host has failed, for a reason that has all these parts.
func (s *service) failedFor(address string, parts ...string) {
	s.t.Helper()
	s.until("/host/"+address, status("failed"))
	path := "/host/" + address + "/history"
	var reason string
	s.await(func() bool {
		failed := s.events(path, "HostInvestigationFailed")
		if len(failed) == 0 {
			return false
		}
		reason = sprint(failed[len(failed)-1]["reason"])
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(reason, part) })
	}, path)
	s.t.Logf("host %s failed: %s", address, reason)
}

func lines(commands []fleet.Command) (lines []string) {
	for _, c := range commands {
		lines = append(lines, c.Line)
	}
	return lines
}
