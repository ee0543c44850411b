package process

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// nodes is a container manager that is away at times.
type nodes struct {
	Manager

	mu    sync.Mutex
	away  bool
	known map[domain.Address]bool
}

func (n *nodes) tell(host domain.Address, known bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.away {
		return errors.New("it is away")
	}
	n.known[host] = known
	return nil
}

func (n *nodes) set(away bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = away
}

func (n *nodes) Register(_ context.Context, host domain.Address) error { return n.tell(host, true) }

func (n *nodes) Unregister(_ context.Context, host domain.Address) error { return n.tell(host, false) }

// kept are credentials that are kept since a time.
type kept struct {
	commands.Credentials

	mu  sync.Mutex
	all map[domain.CredentialID]time.Time
}

func (k *kept) List(context.Context) (map[domain.CredentialID]time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.all), nil
}

func (k *kept) Destroy(_ context.Context, id domain.CredentialID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.all, id)
	return nil
}

// noOutputs keeps none.
type noOutputs struct{ Outputs }

func (noOutputs) Sweep(func(domain.OperationID) bool) error { return nil }

func TestAHostThatIsAddedAgainStaysRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const address = "10.0.0.1"
		manager := &nodes{away: true, known: map[domain.Address]bool{address: true}}
		r := upkept(t, manager, &kept{})
		r.term = 1
		joins := func(id domain.HostID) {
			r.record(event.HostStream(id), event.HostInvestigated{Host: address}, event.HostBootstrapped{Host: address})
			r.record(event.RosterStream, event.HostAdded{HostID: id, Host: address}, event.HostJoined{HostID: id, Host: address, ClusterID: "i", Cluster: "c"})
		}
		r.record(event.RosterStream, event.TermBegun{Term: 1}, event.ContainerManagerDefined{ManagerID: "M", Manager: "m"},
			event.ClusterCreated{ClusterID: "i", Cluster: "c", ManagerID: "M", Manager: "m"})
		joins("1")
		r.record(event.HostStream("1"), event.HostRegistered{Host: address, ManagerID: "M", Manager: "m"})
		r.record(event.RosterStream, event.HostLeft{HostID: "1", Host: address, ClusterID: "i", Cluster: "c"}, event.HostRemoved{HostID: "1", Host: address})
		r.runFor(10 * time.Second) // it cannot be unregistered
		manager.set(false)
		joins("2")
		r.runFor(5 * time.Minute)
		if all := types(r.history(event.HostStream("2"))); all != "HostInvestigated HostBootstrapped HostRegistrationBegun HostRegistered" {
			t.Errorf("the second host: %s", all)
		}
		if all := r.history(event.HostStream("1")); all[len(all)-1].EventType() != "HostUnregistered" {
			t.Errorf("the first host: %s", types(all))
		}
		if !manager.known[address] {
			t.Error("the container manager does not know the host that it was registered with")
		}
	})
}

// TestAHostThatWasRemovedWhileItWasBeingRegisteredIsUnregistered is about a leader
// that died before it could record that a container manager knew the host.
func TestAHostThatWasRemovedWhileItWasBeingRegisteredIsUnregistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const address = "10.0.0.1"
		manager := &nodes{known: map[domain.Address]bool{address: true}}
		r := upkept(t, manager, &kept{})
		r.record(event.HostStream("1"), event.HostInvestigated{Host: address}, event.HostBootstrapped{Host: address},
			event.HostRegistrationBegun{Host: address, ManagerID: "M", Manager: "m"})
		r.record(event.RosterStream, event.TermBegun{Term: 1}, event.ContainerManagerDefined{ManagerID: "M", Manager: "m"},
			event.ClusterCreated{ClusterID: "i", Cluster: "c", ManagerID: "M", Manager: "m"},
			event.HostAdded{HostID: "1", Host: address}, event.HostJoined{HostID: "1", Host: address, ClusterID: "i", Cluster: "c"},
			event.HostTaken{HostID: "1", Host: address, Claim: "x", Term: 1},
			event.HostLeft{HostID: "1", Host: address, ClusterID: "i", Cluster: "c"}, event.HostRemoved{HostID: "1", Host: address}, event.TermBegun{Term: 2})
		r.term = 2
		r.runFor(5 * time.Second)
		if manager.known[address] {
			t.Error("the container manager still knows the host")
		}
		if all := r.history(event.HostStream("1")); all[len(all)-1].EventType() != "HostUnregistered" {
			t.Errorf("its history: %s", types(all))
		}
	})
}

func TestWhatTheLogNamesIsNotDestroyedWhereThatIsNotAppliedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		credentials := &kept{all: map[domain.CredentialID]time.Time{"named": time.Now(), "unnamed": time.Now()}}
		r := upkept(t, nil, credentials)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx, 1) }()
		synctest.Wait()
		r.applied() // the term has begun
		r.record(event.RosterStream, event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Credential: "named"})
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if all, _ := credentials.List(ctx); all["named"].IsZero() {
			t.Error("what the log names was destroyed")
		}
		r.applied()
		time.Sleep(time.Hour)
		synctest.Wait()
		if all, _ := credentials.List(ctx); all["named"].IsZero() || !all["unnamed"].IsZero() {
			t.Errorf("kept: %v", all)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
