package commands_test

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// slowHosts is a log in which reading a host's stream takes a while.
type slowHosts struct {
	commands.Log
	wait  func()
	reads atomic.Int64
}

func (l *slowHosts) ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[event.Recorded, error] {
	if _, ok := stream.Host(); ok {
		l.reads.Add(1)
		l.wait()
	}
	return l.Log.ReadStream(ctx, stream, from)
}

const many = 100 // hosts

// withHosts is a log in which as many hosts are known that may join a cluster.
func withHosts(t testing.TB) (log commands.Log, addresses []domain.Address) {
	t.Helper()
	f := newFixture(t)
	var added []event.Event
	for i := range many {
		address := domain.Address(fmt.Sprintf("10.0.0.%d", i))
		id := domain.HostID(fmt.Sprintf("host%d", i))
		addresses = append(addresses, address)
		added = append(added, event.HostAdded{HostID: id, Host: address, RemoteUser: "root"})
		f.record(event.HostStream(id),
			event.HostInvestigated{Host: address, Facts: event.Facts{OS: "debian", BootID: "b"}}, event.HostBootstrapped{Host: address})
	}
	f.record(event.RosterStream, added...)
	return f.log.Log, addresses
}

func TestNobodyWaitsForHostsThatAreAskedWhetherTheyMayJoin(t *testing.T) {
	log, addresses := withHosts(t)
	synctest.Test(t, func(t *testing.T) {
		slow := &slowHosts{Log: log, wait: func() { time.Sleep(time.Hour) }}
		h := commands.New(commands.Config{Log: slow, Now: time.Now, NewID: uuid.New})
		if _, err := h.PutCluster(t.Context(), ann, commands.PutCluster{Name: "c"}); err != nil {
			t.Fatal(err)
		}
		joined := make(chan error, 1)
		go func() {
			_, err := h.PutMembers(t.Context(), ann, commands.PutMembers{Cluster: "c", New: addresses})
			joined <- err
		}()
		synctest.Wait()
		began := time.Now()
		if _, err := h.PutCluster(t.Context(), ann, commands.PutCluster{Name: "another"}); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("another cluster waited for %s", waited)
		}
		if err := <-joined; err != nil {
			t.Fatal(err)
		}
		if n := slow.reads.Load(); n != many {
			t.Errorf("%d reads of %d hosts", n, many)
		}
	})
}

// BenchmarkAnotherClusterWhileHostsJoin creates clusters while hosts whose streams
// take 10 ms each to read join one.
func BenchmarkAnotherClusterWhileHostsJoin(b *testing.B) {
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		log, addresses := withHosts(b)
		reading := make(chan struct{}, many)
		h := commands.New(commands.Config{
			Log: &slowHosts{Log: log, wait: func() {
				reading <- struct{}{}
				time.Sleep(10 * time.Millisecond)
			}}, Now: time.Now, NewID: uuid.New,
		})
		if _, err := h.PutCluster(b.Context(), ann, commands.PutCluster{Name: "c"}); err != nil {
			b.Fatal(err)
		}
		joined := make(chan error, 1)
		go func() {
			_, err := h.PutMembers(b.Context(), ann, commands.PutMembers{Cluster: "c", New: addresses})
			joined <- err
		}()
		<-reading
		b.StartTimer()
		if _, err := h.PutCluster(b.Context(), ann, commands.PutCluster{Name: "another"}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := <-joined; err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
