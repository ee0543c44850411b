package roster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
)

// many is as many addresses as a body of a mebibyte holds.
const many = 90_000

// crowded is a cluster of n members, and their addresses in another order than
// that of their turns.
func crowded(n int) (*Roster, []domain.Address) {
	r := New()
	r.Evolve(created)
	addresses := make([]domain.Address, n)
	for i := range n {
		address := domain.Address(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		h := event.HostAdded{HostID: domain.HostID(address), Host: address}
		r.Evolve(h)
		r.Evolve(joined(h))
		addresses[n-1-i] = address
	}
	return r, addresses
}

func upgradeOf(policy event.Policy) Request {
	return Request{ID: "op", Kind: domain.Upgrade, Cluster: "c", Policy: policy}
}

func TestLongListsOfAPolicyAreTaken(t *testing.T) {
	r, all := crowded(many)
	half := all[:many/2]
	policy := event.DefaultPolicy()
	policy.Only, policy.Order = &event.Only{Hosts: half}, &event.Order{First: half}
	events, err := r.Start(upgradeOf(policy), Known{})
	if err != nil {
		t.Fatal(err)
	}
	started := events[0].(event.UpgradeStarted)
	if !slices.Equal(hostsOf(started.Hosts), half) {
		t.Errorf("%d hosts, and not in the order asked for", len(started.Hosts))
	}
	r.Evolve(started)
	again := policy
	again.Only = &event.Only{Hosts: slices.Clone(half)}
	same := upgradeOf(again)
	same.ID = "another"
	if events, err := r.Start(same, Known{}); err != nil || len(events) > 0 || r.Meant(same) != "op" {
		t.Errorf("the same again: %s, %d events, %v", r.Meant(same), len(events), err)
	}
	r.Evolve(event.OperationCompleted{Operation: "op", ClusterID: "C"})
	failed := event.DefaultPolicy()
	failed.Only = &event.Only{Failed: true}
	q := upgradeOf(failed)
	q.ID = "again"
	done := Known{Done: map[domain.OperationID]map[domain.HostID]bool{"op": {domain.HostID(half[0]): true}}}
	if plan, err := r.Plan(q, done); err != nil || len(plan.Hosts) != len(half)-1 {
		t.Errorf("those that failed: %d, %v", len(plan.Hosts), err)
	}
	policy.Only, policy.Order = nil, &event.Order{First: append(slices.Clone(all[:many-1]), "10.99.0.1")}
	if _, err := r.Plan(upgradeOf(policy), Known{}); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), "10.99.0.1") {
		t.Errorf("one that is no member: %v", err)
	}
}

func TestAllMembersOfALargeClusterAreReplaced(t *testing.T) {
	r, all := crowded(many)
	half := all[:many/2]
	events, err := r.PutMembers("c", append(all, all...), append(slices.Clone(half), half...), ready(r))
	if err != nil || len(events) != many-len(half) {
		t.Fatalf("%d leave, %v", len(events), err)
	}
	for _, e := range events {
		r.Evolve(e)
	}
	if events, err = r.PutMembers("c", half, all, ready(r)); err != nil || len(events) != many-len(half) {
		t.Fatalf("%d join, %v", len(events), err)
	}
	_, err = r.PutMembers("c", all, half, ready(r))
	if !errors.Is(err, ErrMembersChanged) || len(err.Error()) > 500 || !strings.Contains(err.Error(), "and 44995 more") {
		t.Errorf("%.1000s", err)
	}
}

func BenchmarkLongLists(b *testing.B) {
	for _, n := range []int{10_000, many} {
		r, all := crowded(n)
		policy := event.DefaultPolicy()
		policy.Only, policy.Order = &event.Only{Hosts: all}, &event.Order{First: all}
		b.Run(fmt.Sprint("policy/", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.Plan(upgradeOf(policy), Known{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("members/", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.PutMembers("c", all, all[:n/2], ready(r)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
