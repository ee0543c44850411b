package commands_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/test/esdb"
	"commissaire/test/linear"
)

var (
	linearClusters = [linear.Clusters]domain.ClusterName{"c0", "c1"}
	linearHosts    = [linear.Hosts]domain.Address{"10.0.0.1", "10.0.0.2", "10.0.0.3"}
)

func addresses(s linear.Set) (all []domain.Address) {
	for i, address := range linearHosts {
		if s.Has(i) {
			all = append(all, address)
		}
	}
	return all
}

// carryOut has an instance do what a client asks for.
func carryOut(ctx context.Context, h *commands.Handler, q linear.Request) linear.Reply {
	var err error
	var started commands.OperationReceipt
	who, name := commands.Who{Actor: "a"}, linearClusters[q.Cluster]
	switch q.Verb {
	case linear.Create:
		_, err = h.PutCluster(ctx, who, commands.PutCluster{Name: name})
	case linear.Delete:
		_, err = h.DeleteCluster(ctx, who, name)
	case linear.Join:
		_, err = h.JoinHost(ctx, who, name, linearHosts[q.Host])
	case linear.Leave:
		_, err = h.LeaveHost(ctx, who, name, linearHosts[q.Host])
	case linear.Swap:
		_, err = h.PutMembers(ctx, who, commands.PutMembers{Cluster: name, Old: addresses(q.Old), New: addresses(q.New)})
	case linear.Start:
		started, err = h.StartOperation(ctx, who, commands.StartOperation{Kind: domain.OperationKind(q.Kind), Cluster: name})
	case linear.End:
		_, err = h.EndOperation(ctx, domain.OperationID(q.Operation.ID), "")
	}
	reply := linear.Reply{Answer: linear.Unknown, ID: string(started.ID)}
	refusal, refused := errors.AsType[*domain.Refusal](err)
	switch {
	case err == nil:
		reply.Answer = linear.Done
	case refused && refusal.Kind == domain.NotFound:
		reply.Answer = linear.Missing
	case refused:
		reply.Answer = linear.Conflict
	case errors.Is(err, commands.ErrUnavailable):
		reply.Answer = linear.Nothing
	}
	return reply
}

// onTwoInstances records what clients of two instances on one store were
// answered, while appends go wrong and clients go away.
func onTwoInstances(t *testing.T, shared bool, faults ...esdb.Fault) *linear.History {
	t.Helper()
	server := esdb.Start(t)
	instance := func() *commands.Handler {
		store, err := eventstoredb.Open(server.ConnectionString(), slog.New(slog.DiscardHandler), eventstoredb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		log := eventlog.NewLog(store)
		return commands.New(commands.Config{Log: log, Now: time.Now, NewID: uuid.New, Random: rand.Uint64, Shared: shared})
	}
	instances := []*commands.Handler{instance(), instance()}
	store, err := eventstoredb.Open(server.ConnectionString(), slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	var added []event.Decided
	for _, address := range linearHosts {
		id := domain.HostID(address)
		added = append(added, event.Decided{ID: uuid.New(), Event: event.HostAdded{HostID: id, Host: address, RemoteUser: "root"}})
		if _, err := instances[0].RecordHost(t.Context(), id, func(one *host.Host) []event.HostEvent {
			return one.RecordFacts(address, event.Facts{OS: "fedora"})
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := instances[0].RecordHost(t.Context(), id, func(one *host.Host) []event.HostEvent {
			return one.RecordBootstrap(address, "none")
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := eventlog.NewLog(store).Append(t.Context(), event.RosterStream, event.NoRevision, added); err != nil {
		t.Fatal(err)
	}
	server.FailAppends(faults...)

	var h linear.History
	var clients sync.WaitGroup
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	one := rand.New(rand.NewPCG(seed, 6)) // goes from instance to instance
	h.Run(6, 100, one, func(q linear.Request) linear.Reply {
		return carryOut(t.Context(), instances[one.IntN(2)], q)
	})
	for client := range 6 {
		random := rand.New(rand.NewPCG(seed, uint64(client)))
		clients.Go(func() {
			h.Run(client, 60, random, func(q linear.Request) linear.Reply {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if random.IntN(40) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(3000))*time.Microsecond)
				}
				defer cancel()
				return carryOut(ctx, instances[client%2], q)
			})
		})
	}
	clients.Wait()
	t.Logf("%d done, %d missing, %d in conflict, %d not done, %d unknown",
		h.Count(linear.Done), h.Count(linear.Missing), h.Count(linear.Conflict), h.Count(linear.Nothing), h.Count(linear.Unknown))
	return &h
}

func TestChangesOnTwoInstancesAreAnsweredAsIfOneAfterTheOther(t *testing.T) {
	h := onTwoInstances(t, true,
		esdb.AbortedAfter, esdb.Busy, esdb.DisconnectedAfter, esdb.Aborted, esdb.ForgottenAfter, esdb.Denied, esdb.AbortedAfter)
	switch is, known := h.Linearizable(time.Minute); {
	case !known:
		t.Error("it was not found out in a minute whether there is such an order")
	case !is:
		t.Error("there is no such order")
	}
	if h.Count(linear.Done) < 50 || h.Count(linear.Conflict) == 0 {
		t.Error("too little happened to tell anything")
	}
}

// TestInstancesThatDoNotKnowOfEachOtherAreFoundOut shows that the check fails
// where instances take the log for their own.
func TestInstancesThatDoNotKnowOfEachOtherAreFoundOut(t *testing.T) {
	h := onTwoInstances(t, false)
	if is, known := h.Linearizable(time.Minute); is || !known {
		t.Errorf("in order: %v, known: %v", is, known)
	}
}
