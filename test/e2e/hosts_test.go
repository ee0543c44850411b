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

// join makes a fleet's hosts the members of the cluster c and waits until they
// are ready.
func (s *service) join(f *fleet.Fleet, body func() map[string]any) {
	s.t.Helper()
	s.put("/cluster/c", nil).is(201)
	for _, h := range f.Hosts() {
		b := body()
		b["cluster"] = "c"
		s.put("/host/"+h.Address(), b).is(201)
		s.until("/host/"+h.Address(), status("disassociated"))
	}
}

func lines(commands []fleet.Command) (lines []string) {
	for _, c := range commands {
		lines = append(lines, c.Line)
	}
	return lines
}
