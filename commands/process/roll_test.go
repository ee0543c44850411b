package process

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/google/uuid"
)

// fakeHost is one that does what a test says, and else all at once and well.
type fakeHost struct {
	dial   func() error
	run    func(context.Context) error
	asked  func(Work)
	reboot func() error
	check  func() error
	facts  func() error
	bootID func() error
	boot   int
	dials  int
	work   []Work // that it was asked to do
	warns  []string
}

var (
	_ Remote  = (*fakeHost)(nil)
	_ Session = (*fakeHost)(nil)
)

func (h *fakeHost) Dial(_ context.Context, to Target) (Session, error) {
	h.dials++
	if h.dial != nil {
		if err := h.dial(); err != nil {
			return nil, err
		}
	}
	if to.HostID == "1" {
		return h, nil
	}
	return otherHost{h, HostKey{Type: "ssh-ed25519", Fingerprint: "SHA256:" + string(to.HostID)}}, nil
}

// otherHost is a host that does the same and is another machine.
type otherHost struct {
	*fakeHost
	key HostKey
}

func (h otherHost) HostKey() HostKey { return h.key }

func (h *fakeHost) HostKey() HostKey { return HostKey{Type: "ssh-ed25519", Fingerprint: "SHA256:x"} }

func (h *fakeHost) BootID(context.Context) (string, error) {
	if h.bootID != nil {
		if err := h.bootID(); err != nil {
			return "", err
		}
	}
	return fmt.Sprint("boot ", h.boot), nil
}

func (h *fakeHost) Facts(context.Context) (event.Facts, error) {
	if h.facts != nil {
		if err := h.facts(); err != nil {
			return event.Facts{}, err
		}
	}
	return event.Facts{OS: "fedora", Version: "41", BootID: fmt.Sprint("boot ", h.boot)}, nil
}

func (h *fakeHost) TakeOver(context.Context) error { return nil }

func (h *fakeHost) Bootstrap(context.Context, WorkID, Bootstrap) error { return nil }

func (h *fakeHost) Run(ctx context.Context, _ WorkID, work Work) (Result, error) {
	h.work = append(h.work, work)
	if h.asked != nil {
		h.asked(work)
	}
	if h.run != nil {
		if err := h.run(ctx); err != nil {
			return Result{}, err
		}
	}
	return Result{Exit: new(int), Warnings: h.warns}, nil
}

func (h *fakeHost) Reboot(context.Context, WorkID, string) error {
	if h.reboot != nil {
		return h.reboot()
	}
	h.boot++
	return nil
}

func (h *fakeHost) RebootNeeded(context.Context) (string, error) { return "", nil }

func (h *fakeHost) Plan(domain.OperationKind, string, event.Policy, event.Facts) (commands []string, skip, problem string) {
	return nil, "", ""
}

func (h *fakeHost) Check(context.Context, string) (int, string, error) {
	if h.check != nil {
		return 0, "", h.check()
	}
	return 0, "", nil
}

func (h *fakeHost) Close() error { return nil }

// roll is an operation over the hosts 1 to n, which are all the same host.
type roll struct {
	*Process
	t       *testing.T
	log     *eventlog.Log
	started event.Started
}

func newRoll(t *testing.T, remote Remote, start func(event.Started) event.RosterEvent, n int, change func(*event.Policy)) *roll {
	t.Helper()
	log := eventlog.NewLog(memory.New())
	r := &roll{t: t, log: log, Process: New(Config{
		Commands:   commands.New(commands.Config{Log: log, Now: time.Now, NewID: uuid.New, Shared: true}),
		Remote:     remote,
		RetryDelay: time.Second, Attempts: 3, RebootFirstLook: time.Second, RebootTimeout: time.Minute, HealthInterval: time.Second,
		NewID: uuid.New, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})}
	r.term = 1
	r.started = event.Started{Operation: "o", ClusterID: "i", Cluster: "c", Policy: event.DefaultPolicy()}
	change(&r.started.Policy)
	facts := []event.Event{event.TermBegun{Term: 1}, event.ClusterCreated{ClusterID: "i", Cluster: "c"}}
	for i := range n {
		m := event.Member{HostID: domain.HostID(fmt.Sprint(i + 1)), Host: domain.Address(fmt.Sprintf("10.0.0.%d", i+1))}
		r.started.Hosts = append(r.started.Hosts, m)
		facts = append(facts, event.HostAdded{HostID: m.HostID, Host: m.Host}, event.HostJoined{HostID: m.HostID, Host: m.Host, ClusterID: "i", Cluster: "c"})
		r.record(event.HostStream(m.HostID), event.HostInvestigated{Host: m.Host}, event.HostBootstrapped{Host: m.Host})
	}
	r.record(event.RosterStream, append(facts, start(r.started))...)
	r.applied()
	return r
}

func restart(s event.Started) event.RosterEvent { return event.RestartStarted{Started: s} }

func upgrade(s event.Started) event.RosterEvent { return event.UpgradeStarted{Started: s} }

// record records what others did.
func (r *roll) record(stream event.Stream, facts ...event.Event) {
	r.t.Helper()
	revision := event.NoRevision
	for e, err := range r.log.ReadStream(r.t.Context(), stream, 0) {
		if err != nil {
			r.t.Fatal(err)
		}
		revision = e.Revision
	}
	var decided []event.Decided
	for _, e := range facts {
		decided = append(decided, event.Decided{ID: uuid.New(), Event: e, Meta: event.Meta{Time: time.Now().UTC(), Schema: 1}})
	}
	if _, err := r.log.Append(r.t.Context(), stream, revision, decided); err != nil {
		r.t.Fatal(err)
	}
}

// applied brings the process up to all that is recorded.
func (r *roll) applied() {
	r.t.Helper()
	head, err := r.log.Head(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for events, err := range r.log.Read(r.t.Context(), r.world.position) {
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range events {
			r.Apply(e)
		}
		if r.world.position >= head {
			return
		}
	}
}

// turn is that of a host.
func (r *roll) turn(i int) *turn {
	o := r.world.operations["o"]
	return newTurn(r.Process, o, o.Hosts[i-1])
}

// history is what is recorded on a stream.
func (r *roll) history(stream event.Stream) (all []event.Event) {
	r.t.Helper()
	for e, err := range r.log.ReadStream(r.t.Context(), stream, 0) {
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, e.Event)
	}
	return all
}

// failed is how the last turn of the operation that failed did so.
func (r *roll) failed() event.HostTurnFailed {
	r.t.Helper()
	return last[event.HostTurnFailed](r.t, r.history(event.OperationStream("o")))
}

// succeeded is how the last turn of the operation that succeeded did so.
func (r *roll) succeeded() event.HostTurnSucceeded {
	r.t.Helper()
	return last[event.HostTurnSucceeded](r.t, r.history(event.OperationStream("o")))
}

// check checks the types of all that is recorded on a stream.
func (r *roll) check(stream event.Stream, want string) {
	r.t.Helper()
	if got := types(r.history(stream)); got != want {
		r.t.Errorf("recorded on %s are %s, want %s", stream, got, want)
	}
}

// types are those of events, as words.
func types(events []event.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.EventType())
	}
	return strings.Join(all, " ")
}

// last is the last event of a type.
func last[E event.Event](t *testing.T, events []event.Event) E {
	t.Helper()
	for _, e := range slices.Backward(events) {
		if one, ok := e.(E); ok {
			return one
		}
	}
	var none E
	t.Fatalf("there is no %T in %s", none, types(events))
	return none
}

// upkept is a process over a log, with no operation.
func upkept(t *testing.T, manager Manager, credentials commands.Credentials) *roll {
	t.Helper()
	log := eventlog.NewLog(memory.New())
	return &roll{t: t, log: log, Process: New(Config{
		Commands: commands.New(commands.Config{Log: log, Now: time.Now, NewID: uuid.New, Shared: true}),
		Remote:   &fakeHost{}, Credentials: credentials, Outputs: noOutputs{},
		Managers:   func(event.ContainerManagerDefined) (Manager, error) { return manager, nil },
		RetryDelay: time.Second,
		Attempts:   1, AtOnce: 8,
		WatchInterval: time.Minute, WatchConcurrency: 1, WatchMisses: 3,
		NewID: uuid.New, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})}
}

// runFor does for a while what is outstanding, once a second.
func (r *roll) runFor(d time.Duration) {
	r.t.Helper()
	for range int(d / time.Second) {
		r.applied()
		r.act(r.t.Context())
		time.Sleep(time.Second)
		synctest.Wait()
	}
	r.applied()
}
