package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/esdb"
)

const length = 9 * time.Second

// leader is an instance that leads, in a term.
type leader struct {
	Instance string
	Term     domain.Term
}

// leader is who leads, as far as this sighting tells.
func (s sighting) leader(now time.Time) leader {
	if s.isVacant(now) {
		return leader{}
	}
	return leader{Instance: s.Instance, Term: s.Term}
}

// leader is who leads as far as this instance knows; the zero leader where nobody
// is known to.
func (s *Store) leader() leader {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	if s.lease.last.revision == s.lease.mine && (s.lease.leading == nil || s.lease.leading.Err() != nil) {
		return leader{}
	}
	return s.lease.last.leader(time.Now())
}

func TestALeaseIsVacantWhenItWasSeenUnchangedForAllItsTime(t *testing.T) {
	start := time.Now()
	nobody := sighting{revision: event.NoRevision}
	taken := entry{Instance: "a", Term: 4, Length: length.Milliseconds()}
	released := taken
	released.Released = true
	for _, test := range []struct {
		name   string
		last   sighting
		after  time.Duration
		vacant bool
	}{
		{"nobody has led", nobody, 0, true},
		{"just seen", nobody.update(taken, 0, start), 0, false},
		{"not long enough", nobody.update(taken, 0, start), length - time.Nanosecond, false},
		{"long enough", nobody.update(taken, 0, start), length, true},
		{"seen again at the same revision", nobody.update(taken, 0, start).update(taken, 0, start.Add(length-1)), length, true},
		{"renewed", nobody.update(taken, 0, start).update(taken, 1, start.Add(length-1)), length, false},
		{"given up", nobody.update(taken, 0, start).update(released, 1, start), 0, true},
	} {
		now := start.Add(test.after)
		if got := test.last.isVacant(now); got != test.vacant {
			t.Errorf("%s: vacant is %v", test.name, got)
		}
		want := leader{Instance: "a", Term: 4}
		if test.vacant {
			want = leader{}
		}
		if got := test.last.leader(now); got != want {
			t.Errorf("%s: the leader is %v, want %v", test.name, got, want)
		}
	}
}

func TestTermsRiseOverEveryTaking(t *testing.T) {
	last, seen := sighting{revision: event.NoRevision}, map[domain.Term]bool{}
	var highest domain.Term
	for i, after := range []domain.Term{0, 0, 9, 3, 0} {
		next := last.next(fmt.Sprint("i", i), length, after)
		if next.Term <= max(highest, after) || seen[next.Term] || next.Released {
			t.Errorf("the entry after term %d is %v", highest, next)
		}
		highest, seen[next.Term] = next.Term, true
		next.Released = i%2 == 0
		last = last.update(next, event.Revision(i), time.Now())
	}
}

// Whatever the time an entry takes to be written, read or noticed: who holds the
// lease has stopped before another may take it.
func TestTheHolderStopsBeforeAnotherMayBegin(t *testing.T) {
	wrote := time.Now()
	for _, reached := range []time.Duration{0, time.Millisecond, time.Second, time.Minute} {
		seen := sighting{revision: event.NoRevision}.update(entry{Instance: "a", Term: 1, Length: length.Milliseconds()}, 0, wrote.Add(reached))
		stopped := leadsUntil(wrote, length)
		if seen.isVacant(stopped) {
			t.Errorf("an entry that was seen after %v is vacant when its holder stops", reached)
		}
		if again := renewsAt(wrote, length); !again.Before(stopped) {
			t.Errorf("it is renewed at %v, and over at %v", again, stopped)
		}
	}
}

func TestLeadingEndsWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		led := newLeading(t.Context(), time.Now().Add(length))
		time.Sleep(length - time.Second)
		if err := led.Err(); err != nil {
			t.Fatalf("before its time was over: %v", err)
		}
		if !led.renew(time.Now().Add(length)) {
			t.Fatal("it cannot be renewed in time")
		}
		time.Sleep(length - 1)
		if err := led.Err(); err != nil {
			t.Fatalf("before its renewed time was over: %v", err)
		}
		<-led.Done()
		if !errors.Is(context.Cause(led), errLeaseOver) {
			t.Errorf("it ended because %v", context.Cause(led))
		}
		if led.renew(time.Now().Add(length)) {
			t.Error("it was renewed when it was over")
		}
	})
}

// A process that was stopped runs again before its timers do.
func TestLeadingIsOverWithoutItsTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, act := range map[string]func(*leading) bool{
			"asked":   func(l *leading) bool { return l.Err() == nil },
			"renewed": func(l *leading) bool { return l.renew(time.Now().Add(length)) },
		} {
			led := newLeading(t.Context(), time.Now().Add(length))
			led.timer.Stop()
			time.Sleep(2 * length)
			if act(led) {
				t.Errorf("it may go on when it is %s", name)
			}
			led.stop(nil)
		}
	})
}

func TestLeadingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	led := newLeading(ctx, time.Now().Add(time.Hour))
	cancel()
	<-led.Done()
	if led.renew(time.Now().Add(2*time.Hour)) || !errors.Is(led.Err(), context.Canceled) {
		t.Errorf("it ended with %v", led.Err())
	}
	led.stop(nil)
}

const short = 600 * time.Millisecond

func instance(t *testing.T, server *esdb.Server, name string, lease time.Duration) *Store {
	t.Helper()
	return opened(t, server.ConnectionString(), Options{Instance: name, Lease: lease}, quick)
}

func lead(t *testing.T, store *Store) (context.Context, domain.Term) {
	t.Helper()
	led, term, err := store.Lead(t.Context(), 0)
	if err != nil {
		t.Fatalf("Lead: %v", err)
	}
	return led, term
}

func TestALeaderLeadsOnAndItsStreamStaysShort(t *testing.T) {
	server := esdb.Start(t)
	a := instance(t, server, "a", short)
	led, term := lead(t, a)
	if term != 1 || a.leader() != (leader{"a", 1}) {
		t.Errorf("term %d, leader %v", term, a.leader())
	}
	last := func() event.Revision {
		a.lease.mu.Lock()
		defer a.lease.mu.Unlock()
		return a.lease.mine
	}
	eventually(t, "it was renewed for more than two leases", func() bool { return last() > 7 || led.Err() != nil })
	if err := led.Err(); err != nil {
		t.Fatalf("it leads no longer: %v", err)
	}
	n := 0
	for _, err := range a.read(t.Context(), a.streamFrom(a.prefix+leaseStream, 0, 100)) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("the stream of the lease shows %d events, want 1", n)
	}
	if raws := backlog(t, a, 0); len(raws) != 0 {
		t.Errorf("the log shows %d events of the lease", len(raws))
	}
	if head, err := a.Head(t.Context()); err != nil || head != 0 {
		t.Errorf("the head is %d, %v, want 0", head, err)
	}
	if _, err := a.Append(t.Context(), leaseStream, event.NoRevision, events(1)); err == nil {
		t.Error("something else was written into the stream of the lease")
	}
}

func TestOneOfManyLeadsAtATime(t *testing.T) {
	server := esdb.Start(t)
	const instances, rounds = 4, 3
	var mu sync.Mutex
	leading, terms := 0, map[domain.Term]string{}
	var running sync.WaitGroup
	for i := range instances {
		name := fmt.Sprint("i", i)
		running.Go(func() {
			for range rounds {
				store, err := open(server.ConnectionString(), slog.New(slog.DiscardHandler), Options{Instance: name, Lease: time.Minute}, quick)
				if err != nil {
					t.Error(err)
					return
				}
				looking := make(chan struct{})
				go func() {
					defer close(looking)
					led, term, err := leadSoon(t.Context(), store)
					if err != nil {
						t.Errorf("Lead: %v", err)
						return
					}
					mu.Lock()
					if leading++; leading > 1 || led.Err() != nil {
						t.Errorf("%d lead in term %d, %v", leading, term, led.Err())
					}
					if other, ok := terms[term]; ok {
						t.Errorf("%s and %s lead in term %d", other, name, term)
					}
					terms[term] = name
					leading--
					mu.Unlock()
				}()
				<-looking
				if err := store.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
		})
	}
	running.Wait()
	if len(terms) != instances*rounds {
		t.Errorf("there were %d terms, want %d", len(terms), instances*rounds)
	}
}

// leadSoon looks more often than Lead.
func leadSoon(ctx context.Context, store *Store) (context.Context, domain.Term, error) {
	for {
		led, term, err := store.tryToLead(ctx, 0)
		if led != nil || err != nil {
			return led, term, err
		}
		if err := store.wait(ctx, 5*time.Millisecond); err != nil {
			return nil, 0, err
		}
	}
}

func TestAnotherTakesOverAtOnceFromALeaderThatCloses(t *testing.T) {
	server := esdb.Start(t)
	a, b := instance(t, server, "a", time.Minute), instance(t, server, "b", time.Minute)
	led, first := lead(t, a)
	if led2, _, err := b.tryToLead(t.Context(), 0); led2 != nil || err != nil {
		t.Fatalf("both lead: %v", err)
	}
	if b.leader() != (leader{"a", first}) {
		t.Errorf("b takes %v for the leader", b.leader())
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if led.Err() == nil {
		t.Error("a leads on when it is closed")
	}
	led, second, err := b.tryToLead(t.Context(), 0)
	if led == nil || err != nil || second <= first {
		t.Errorf("b does not lead at once: term %d after %d, %v", second, first, err)
	}
	if _, _, err := a.Lead(t.Context(), 0); !errors.Is(err, errClosed) {
		t.Errorf("Lead of a closed store: %v", err)
	}
}

func TestALeaderWithoutTheStoreStopsBeforeAnotherBegins(t *testing.T) {
	cluster := esdb.StartCluster(t, 1)
	server := cluster.Nodes[0]
	// The leader comes through a server that stops hearing it.
	a, b := instance(t, server, "a", short), instance(t, server, "b", short)
	led, first := lead(t, a)
	release := server.Stall()
	<-led.Done() // nothing else ends it
	if a.leader() != (leader{}) {
		t.Errorf("a still takes %v for the leader", a.leader())
	}
	release()
	_, second := lead(t, b)
	if second <= first {
		t.Errorf("term %d after %d", second, first)
	}
	// It leads again when the other has closed, in a term of its own.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, third := lead(t, a); third <= second {
		t.Errorf("term %d after %d", third, second)
	}
}

func TestARenewalOfUnknownOutcomeIsSettled(t *testing.T) {
	for name, fault := range map[string]esdb.Fault{
		"given up": esdb.Aborted, "recorded and given up": esdb.AbortedAfter,
		"recorded and cut off": esdb.DisconnectedAfter, "recorded and not recognised": esdb.ForgottenAfter,
		"recorded and not answered": esdb.SilentAfter,
	} {
		t.Run(name, func(t *testing.T) {
			server := esdb.Start(t)
			const lease = 3 * time.Second // each of these takes a third of it
			a := instance(t, server, "a", lease)
			led, _ := lead(t, a)
			server.FailAppends(fault)
			last := func() event.Revision {
				a.lease.mu.Lock()
				defer a.lease.mu.Unlock()
				return a.lease.mine
			}
			eventually(t, "it was renewed again", func() bool { return last() >= 2 || led.Err() != nil })
			if err := context.Cause(led); err != nil {
				t.Errorf("it leads no longer: %v", err)
			}
		})
	}
}

func TestALeaderOutlastsAShortOutage(t *testing.T) {
	server := esdb.Start(t)
	slow := quick
	slow.open = time.Second // so that trying to renew it fails for a while
	a := opened(t, server.ConnectionString(), Options{Instance: "a", Lease: 9 * time.Second}, slow)
	led, _ := lead(t, a)
	server.NotReady(true)
	asked := server.Calls()
	eventually(t, "renewing it fails", func() bool { return server.Calls() >= asked+maxFailed })
	server.NotReady(false)
	eventually(t, "it is renewed", func() bool {
		a.lease.mu.Lock()
		defer a.lease.mu.Unlock()
		return a.lease.mine >= 1 || led.Err() != nil
	})
	if err := context.Cause(led); err != nil {
		t.Errorf("it leads no longer: %v", err)
	}
}

func TestALeaderEndsWhenAnotherHasTheLease(t *testing.T) {
	server := esdb.Start(t)
	a, b := instance(t, server, "a", short), instance(t, server, "b", short)
	led, first := lead(t, a)
	// b takes it as if it had waited.
	eventually(t, "b takes the lease", func() bool {
		last, err := b.readLease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken, err := encodeEntry(last.next("b", time.Minute, 0))
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.append(t.Context(), b.prefix+leaseStream, last.revision, taken, short)
		return err == nil
	})
	<-led.Done()
	if _, err := a.readLease(t.Context()); err != nil || a.leader() != (leader{"b", first + 1}) {
		t.Errorf("a takes %v for the leader, %v", a.leader(), err)
	}
}

func TestTheEndOfItsContextEndsLeading(t *testing.T) {
	server := esdb.Start(t)
	a := instance(t, server, "a", time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	led, first, err := a.Lead(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-led.Done()
	if a.leader() != (leader{}) {
		t.Errorf("a takes %v for the leader", a.leader())
	}
	// What it has it may have again, at once.
	if _, second := lead(t, a); second <= first {
		t.Errorf("term %d after %d", second, first)
	}
	waiting, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := a.Lead(waiting, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Lead with a context that ended: %v", err)
	}
}
