package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// log applies events as they come, each twice: the second time changes nothing.
type log struct {
	t     *testing.T
	views *Views
	pos   event.Position
	clock time.Time
}

func newLog(t *testing.T) *log {
	return &log{t: t, views: New(), clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func (l *log) on(stream event.Stream, events ...event.Event) *log {
	for _, e := range events {
		l.pos++
		l.clock = l.clock.Add(time.Second)
		r := event.Recorded{Position: l.pos, Stream: stream, Event: e, Meta: event.Meta{Time: l.clock, Actor: "ann"}}
		l.views.Apply(r)
		before := l.all()
		l.views.Apply(r)
		if after := l.all(); after != before {
			l.t.Errorf("%s applied twice: %s, once: %s", e.EventType(), after, before)
		}
	}
	return l
}

func (l *log) roster(events ...event.Event) *log { return l.on(event.RosterStream, events...) }

func (l *log) host(events ...event.Event) *log { return l.on(event.HostStream("1"), events...) }

// all is everything that is served.
func (l *log) all() string {
	s := l.views.Snapshot()
	var text string
	for _, name := range s.Clusters() {
		c, _ := s.Cluster(name)
		members, _ := s.Members(name)
		text += fmt.Sprint(c, members, s.History(OfCluster, string(name)))
	}
	for pos, o := range s.Operations(0) {
		body, _ := NewAnswer(o).JSON()
		record, _ := o.Record().JSON()
		text += fmt.Sprint(pos, string(body), string(record))
	}
	body, _ := s.Hosts().JSON()
	return text + string(body) + fmt.Sprint(s.Networks(), s.Managers(), s.History(OfHost, "10.0.0.1"))
}

func (l *log) status(want string) *log {
	l.t.Helper()
	if h, _ := l.views.Snapshot().Host("10.0.0.1"); h.Status != want {
		l.t.Errorf("after %d events the host is %s, want %s", l.pos, h.Status, want)
	}
	return l
}

func (l *log) cluster(status string, total, available int) *log {
	l.t.Helper()
	c, ok := l.views.Snapshot().Cluster("c")
	if !ok || c.Status != status || c.Hosts != (Counts{total, available, total - available}) {
		l.t.Errorf("after %d events the cluster is %+v", l.pos, c)
	}
	return l
}

var (
	facts        = event.Facts{OS: "fedora", CPUs: 4, Memory: 11989228, Space: 487652, BootID: "b"}
	added        = event.HostAdded{HostID: "1", Host: "10.0.0.1"}
	created      = event.ClusterCreated{ClusterID: "C", Cluster: "c", Network: "default", ManagerID: "M", Manager: "m"}
	joined       = event.HostJoined{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"}
	investigated = event.HostInvestigated{Host: "10.0.0.1", Facts: facts}
	bootstrapped = event.HostBootstrapped{Host: "10.0.0.1"}
	registered   = event.HostRegistered{Host: "10.0.0.1", ManagerID: "M", Manager: "m"}
)

func TestAHostsWayToActive(t *testing.T) {
	l := newLog(t).roster(created).cluster(OK, 0, 0)
	l.roster(added).status(Investigating)
	l.roster(joined).cluster(Failed, 1, 0)
	l.host(investigated).status(Bootstrapping)
	l.host(bootstrapped).status(Disassociated).cluster(Failed, 1, 0)
	l.host(registered).status(Active).cluster(OK, 1, 1)
	l.host(event.HostWentSilent{Host: "10.0.0.1"}).status(Failed).cluster(Failed, 1, 0)
	l.host(event.HostAnswered{Host: "10.0.0.1"}).status(Active)
	l.host(event.HostKeyChanged{Host: "10.0.0.1"}).status(Failed)
	l.host(event.HostKeyAccepted{Host: "10.0.0.1"}).status(Active)
	l.roster(event.ClusterReconfigured{ClusterID: "C", Cluster: "c", Network: "default"}).status(Disassociated).cluster(OK, 1, 1)
	l.roster(event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"}).status(Disassociated).cluster(OK, 0, 0)
	l.roster(event.HostRemoved{HostID: "1", Host: "10.0.0.1"})
	if _, ok := l.views.Snapshot().Host("10.0.0.1"); ok {
		t.Error("a removed host is shown")
	}
	if len(l.views.Snapshot().History(OfHost, "10.0.0.1")) == 0 {
		t.Error("the history of a removed host is gone")
	}
}

func TestAHostIsShownWithTheKeysThatClientsKnow(t *testing.T) {
	l := newLog(t).roster(added).host(investigated)
	h, _ := l.views.Snapshot().Host("10.0.0.1")
	body, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"address":"10.0.0.1","status":"bootstrapping","os":"fedora","cpus":4,"memory":11989228,"space":487652,"last_check":"2026-01-02T03:04:07.000000","source":""}`
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}

func TestTheLastCheckIsTheSweepsStart(t *testing.T) {
	l := newLog(t).roster(added).host(investigated, bootstrapped)
	check := func(want time.Time) {
		t.Helper()
		if h, _ := l.views.Snapshot().Host("10.0.0.1"); !h.LastCheck.Equal(want) {
			t.Errorf("last check %s, want %s", h.LastCheck.Time, want)
		}
	}
	known := l.clock.Add(-time.Second)
	first := l.clock.Add(time.Minute)
	l.on(event.WatchStream, event.SweepFinished{Started: first})
	check(first)
	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(time.Minute), Missed: []domain.HostID{"1"}})
	check(known)
	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(2 * time.Minute), Answered: []domain.HostID{"1"}})
	check(first.Add(2 * time.Minute))

	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(3 * time.Minute), Left: []domain.HostID{"1"}})
	check(first.Add(2 * time.Minute)) // it was not looked at since
	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(4 * time.Minute)})
	check(first.Add(2 * time.Minute))
	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(5 * time.Minute), Looked: []domain.HostID{"1"}})
	check(first.Add(5 * time.Minute))
	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(6 * time.Minute), Left: []domain.HostID{"1"}})
	check(first.Add(5 * time.Minute))
	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(7 * time.Minute), Looked: []domain.HostID{"1"}, Missed: []domain.HostID{"1"}})
	check(first.Add(5 * time.Minute)) // it did not answer
	l.on(event.WatchStream, event.SweepFinished{Started: first.Add(8 * time.Minute), Answered: []domain.HostID{"1"}})
	check(first.Add(8 * time.Minute))
}

func TestAnOperationShowsHostsAsTheyWere(t *testing.T) {
	turn := event.Turn{Operation: "op", HostID: "1", Host: "10.0.0.1"}
	l := newLog(t).roster(created, added, joined).host(investigated, bootstrapped)
	l.roster(event.UpgradeStarted{Started: event.Started{
		Operation: "op", ClusterID: "C", Cluster: "c", Policy: event.DefaultPolicy(), Hosts: []event.Member{{HostID: "1", Host: "10.0.0.1"}},
	}})
	record := func() (u Upgrade) {
		if _, ok := l.views.Snapshot().Latest("c", domain.Upgrade); !ok {
			t.Fatal("there is no upgrade")
		}
		o, _ := l.views.Snapshot().Operation("op")
		return o.record().(Upgrade)
	}
	if u := record(); u.Status != InProcess || len(u.InProcess) != 0 || u.FinishedAt != nil {
		t.Errorf("at its start: %+v", u)
	}
	l.on(event.OperationStream("op"), event.HostTurnBegun{Turn: turn}, event.HostTurnExamined{Turn: turn, Version: "1"})
	if u := record(); len(u.InProcess) != 1 || u.InProcess[0].Status != Disassociated {
		t.Errorf("with a host in hand: %+v", u)
	}
	l.on(event.OperationStream("op"), event.HostTurnSucceeded{Turn: turn, Version: "2", Warnings: []string{"W: a"}})
	l.host(event.HostWentSilent{Host: "10.0.0.1"})
	l.roster(event.OperationCompleted{Operation: "op", ClusterID: "C", Cluster: "c"})
	if u := record(); u.Status != Finished || len(u.InProcess) != 0 || len(u.Upgraded) != 1 || u.Upgraded[0].Status != Disassociated || u.FinishedAt == nil {
		t.Errorf("at its end: %+v", u)
	}
	o, _ := l.views.Snapshot().Operation("op")
	if h := o.Hosts[0]; h.State != "succeeded" || h.VersionBefore != "1" || h.VersionAfter != "2" || h.Attempts != 1 || len(h.Warnings) != 1 {
		t.Errorf("the turn: %+v", h)
	}
	l.roster(event.ClusterDeleted{ClusterID: "C", Cluster: "c"})
	created := created
	created.ClusterID = "D"
	l.roster(created)
	if _, ok := l.views.Snapshot().Latest("c", domain.Upgrade); ok {
		t.Error("a new cluster has the operation of an old one of its name")
	}
}

func TestAHostThatFailedStaysSoWhenItIsCleanedUp(t *testing.T) {
	turn := event.Turn{Operation: "op", HostID: "1", Host: "10.0.0.1"}
	l := newLog(t).roster(created, added, joined, event.UpgradeStarted{Started: event.Started{
		Operation: "op", ClusterID: "C", Cluster: "c", Policy: event.DefaultPolicy(), Hosts: []event.Member{{HostID: "1", Host: "10.0.0.1"}},
	}})
	l.on(event.OperationStream("op"), event.HostTurnBegun{Turn: turn}, event.HostTurnWorked{Turn: turn, Pending: "2"},
		event.HostTurnFailed{Turn: turn, Reason: "it is ill"}, event.HostCleanedUp{Turn: turn, Version: "2"})
	o, _ := l.views.Snapshot().Operation("op")
	if h := o.Hosts[0]; h.State != "failed" || h.Reason != "it is ill; the pending deployment 2 was dropped: the operation was cancelled" || h.Pending != "" {
		t.Errorf("the turn: %+v", h)
	}
}

func TestASnapshotNeverChanges(t *testing.T) {
	l := newLog(t).roster(created, added, joined)
	before := l.views.Snapshot()
	l.host(investigated, bootstrapped, registered)
	l.roster(event.HostRemoved{HostID: "1", Host: "10.0.0.1"})
	if h, ok := before.Host("10.0.0.1"); !ok || h.Status != Investigating {
		t.Errorf("the host of an old snapshot: %+v", h)
	}
	if n := len(before.History(OfHost, "10.0.0.1")); n != 2 {
		t.Errorf("the history of an old snapshot has %d events", n)
	}
}

func TestWaitingEndsWithThePositionOrTheContext(t *testing.T) {
	l := newLog(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.views.WaitFor(ctx, 1); err == nil {
		t.Error("waited for a position that was not reached")
	}
	done := make(chan error)
	go func() { done <- l.views.WaitFor(t.Context(), 2) }()
	l.roster(created, added)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTheHistoryOfARemovedHostGoesOn(t *testing.T) {
	l := newLog(t).roster(created, added, joined).host(investigated, bootstrapped, registered)
	l.roster(event.HostLeft{HostID: "1", Host: "10.0.0.1", ClusterID: "C", Cluster: "c"}, event.HostRemoved{HostID: "1", Host: "10.0.0.1"})
	l.host(event.HostUnregistered{Host: "10.0.0.1", ManagerID: "M", Manager: "m"})
	if all := l.views.Snapshot().History(OfHost, "10.0.0.1"); all[len(all)-1] != l.pos {
		t.Errorf("that it was unregistered, at %d, is not in %d", l.pos, all)
	}
}

func TestAHostInHandIsShownAsItWasWhenItsTurnBegan(t *testing.T) {
	turn := event.Turn{Operation: "op", HostID: "1", Host: "10.0.0.1"}
	l := newLog(t).roster(created, added, joined).host(investigated, bootstrapped)
	l.roster(event.RestartStarted{Started: event.Started{
		Operation: "op", ClusterID: "C", Cluster: "c", Policy: event.DefaultPolicy(), Hosts: []event.Member{{HostID: "1", Host: "10.0.0.1"}},
	}})
	record := func() Restart {
		o, _ := l.views.Snapshot().Operation("op")
		return o.record().(Restart)
	}
	l.on(event.OperationStream("op"), event.HostTurnBegun{Turn: turn})
	began := record().InProcess[0]
	l.host(event.HostInvestigated{Host: "10.0.0.1", Facts: event.Facts{OS: "fedora", CPUs: 8}})
	l.on(event.OperationStream("op"), event.HostTurnWorked{Turn: turn})
	if current := record().InProcess[0]; current != began {
		t.Errorf("in hand: %+v, as its turn began: %+v", current, began)
	}
	l.on(event.OperationStream("op"), event.HostTurnSucceeded{Turn: turn})
	if ended := record().Restarted[0]; ended.CPUs != 8 {
		t.Errorf("as its turn ended: %+v", ended)
	}
}
