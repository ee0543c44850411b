package commands_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

// TestAClientThatGoesAwayIsToldNothingOfADecisionUnderWay needs the race
// detector to fail where what is told is read while the decision is made.
func TestAClientThatGoesAwayIsToldNothingOfADecisionUnderWay(t *testing.T) {
	f := newFixture(t)
	f.record(event.RosterStream, event.HostAdded{HostID: "h", Host: "10.0.0.1", RemoteUser: "root"})
	h := commands.New(commands.Config{Log: f.log.Log, Now: time.Now, NewID: uuid.New})
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 50 {
		cluster, err := h.PutCluster(gone, ann, commands.PutCluster{Name: "c"})
		if err != nil && (!errors.Is(err, commands.ErrOutcomeUnknown) || cluster != commands.ClusterReceipt{}) {
			t.Errorf("%+v, %v", cluster, err)
		}
		if _, err := h.PutCluster(t.Context(), ann, commands.PutCluster{Name: "c"}); err != nil {
			t.Fatal(err)
		}
		started, err := h.StartOperation(gone, ann, commands.StartOperation{Kind: domain.Restart, Cluster: "c"})
		if err != nil && (!errors.Is(err, commands.ErrOutcomeUnknown) || started != commands.OperationReceipt{}) {
			t.Errorf("%+v, %v", started, err)
		}
		if _, err := h.JoinHost(gone, ann, "c", "10.0.0.1"); err == nil {
			t.Error("a host that is not ready joined")
		}
		if _, err := h.AcceptHostKey(gone, ann, "10.0.0.1", "SHA256:x"); err == nil {
			t.Error("a key was accepted that was never shown")
		}
	}
}

// TestInstancesSeeWhatTheOthersRecorded decides in turn on two instances, whose
// refusals and whose "nothing to change" no append confirms.
func TestInstancesSeeWhatTheOthersRecorded(t *testing.T) {
	f := newFixture(t)
	a, b := f.Handler, f.otherInstance()
	for range 3 {
		if _, err := b.DeleteCluster(t.Context(), ann, "c"); !errors.Is(err, roster.ErrNoCluster) {
			t.Fatalf("it is not there yet: %v", err)
		}
		if _, err := a.PutCluster(t.Context(), ann, commands.PutCluster{Name: "c"}); err != nil {
			t.Fatal(err)
		}
		again, err := b.PutCluster(t.Context(), ann, commands.PutCluster{Name: "c"})
		if err != nil {
			t.Fatal(err)
		}
		started, err := b.StartOperation(t.Context(), ann, commands.StartOperation{Kind: domain.Restart, Cluster: "c"})
		if err != nil || started.Position <= again.Position {
			t.Fatalf("the cluster is there: %+v, %v", started, err)
		}
		if _, err := a.DeleteCluster(t.Context(), ann, "c"); !errors.Is(err, roster.ErrRunning) {
			t.Fatalf("an operation runs: %v", err)
		}
		if _, err := b.EndOperation(t.Context(), started.ID, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := a.DeleteCluster(t.Context(), ann, "c"); err != nil {
			t.Fatalf("the operation has ended: %v", err)
		}
	}
	if _, err := a.BeginTerm(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := b.BeginTerm(t.Context(), 1); !errors.Is(err, roster.ErrOldTerm) {
		t.Errorf("a later term has begun: %v", err)
	}
}
