// Package hostile_test has operations cross clusters of which one host answers as
// it should and the others at random from the protocol's grammar, or not at all.
// All of the service that touches a host is the real one; hosts and their network
// are in memory and time is not waited for, so hours of it cost nothing.
//
// What a host does follows from a seed. `go test ./test/hostile -args -sequences=2000`
// tries more of them than usual, -seed=N the one of that number again.
package hostile_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/adapters/ssh"
	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/vault"

	"github.com/google/uuid"
	xssh "golang.org/x/crypto/ssh"
)

var (
	sequences = flag.Int("sequences", 200, "how many sequences are tried")
	one       = flag.Uint64("seed", 0, "try only the sequence of this seed")
)

// What the service is configured to.
const (
	dialLimit      = 10 * time.Second
	handshakeLimit = 10 * time.Second
	answerLimit    = 2 * time.Minute
	commandLimit   = 5 * time.Minute
	retryDelay     = 5 * time.Second
	attempts       = 3
	rebootTimeout  = time.Minute
)

// Bounds of what one sequence may leave in the log.
const (
	mostEvents    = 400
	mostEventSize = 16 << 10
	mostLogged    = 64 << 10
)

func TestWhateverHostsAnswerEveryOperationEnds(t *testing.T) {
	login, keys := newKey(0), make([]xssh.Signer, 8)
	for i := range keys {
		keys[i] = newKey(byte(i + 1)).signer
	}
	seen := map[string]int{}
	var longest time.Duration
	var share float64
	events := 0
	try := func(seed uint64) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			late := time.AfterFunc(2*time.Minute, func() {
				panic(fmt.Sprintf("seed %d does not come to an end: something goes on and on without waiting", seed))
			})
			defer late.Stop()
			synctest.Test(t, func(t *testing.T) {
				s := newSequence(t, seed, login, keys)
				s.run()
				longest, events, share = max(longest, s.took), max(events, len(s.history)), max(share, s.took.Seconds()/s.allowed.Seconds())
				for _, h := range s.hosts {
					for what, n := range h.seen {
						seen[what] += n
					}
				}
			})
		})
	}
	if *one != 0 {
		try(*one)
		return
	}
	for seed := range uint64(*sequences) {
		try(seed + 1)
	}
	t.Logf("the longest operation took %s; of what was allowed at most %.2f; at most %d events were recorded", longest, share, events)
	if testing.Verbose() {
		for _, what := range slices.Sorted(func(yield func(string) bool) {
			for what := range seen {
				if !yield(what) {
					return
				}
			}
		}) {
			t.Logf("%6d %s", seen[what], what)
		}
	}
}

// sequence is a service, a cluster, and an operation over it.
type sequence struct {
	t       *testing.T
	random  *rand.Rand
	seed    uint64
	hosts   []*host // the first is good
	store   *memory.Store
	log     *eventlog.Log
	handle  *commands.Handler
	secrets *vault.Vault
	profile ssh.Profile
	keep    int // idle connections
	login   login
	logged  bytes.Buffer
	cluster domain.ClusterName

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something was recorded
	history []event.Recorded
	began   time.Time
	told    bool // what it was like

	took, allowed time.Duration // by the operation
}

type login struct {
	private []byte
	signer  xssh.Signer
}

func newKey(n byte) login {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	block, err := xssh.MarshalPrivateKey(private, "")
	if err != nil {
		panic(err)
	}
	signer, err := xssh.NewSignerFromKey(private)
	if err != nil {
		panic(err)
	}
	return login{pem.EncodeToMemory(block), signer}
}

func (s *sequence) pick(n int) int { return s.random.IntN(n) }

// wildness is mostly that of answers: behind it lies the rest.
func (s *sequence) wildness() wildness {
	of := func() float64 { return []float64{.02, .1, .3, .6, 1}[s.pick(5)] }
	switch s.pick(8) {
	case 0:
		return wildness{shell: of(), answer: of()}
	case 1:
		return wildness{dial: of(), login: of() / 2}
	case 2:
		return wildness{of() / 2, of() / 2, of() / 2, of()}
	}
	return wildness{answer: []float64{.3, .6, 1}[s.pick(3)]}
}

func newSequence(t *testing.T, seed uint64, login login, keys []xssh.Signer) *sequence {
	s := &sequence{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), store: memory.New(), login: login,
		cluster: "c", changed: make(chan struct{}), began: time.Now(),
	}
	s.log = eventlog.NewLog(s.store)
	systems := []string{"fedora", "debian", "atomic", "atomic"}
	for i := range 2 + s.pick(2) {
		h := &host{
			address: fmt.Sprintf("10.0.0.%d", i+1), keys: []xssh.Signer{keys[2*i], keys[2*i+1]}, user: login.signer.PublicKey(),
			system: systems[s.pick(len(systems))], random: rand.New(rand.NewPCG(seed, uint64(i+1))), boot: 1, version: 1,
			turns: map[string]*turn{}, seen: map[string]int{}, habit: map[string]string{}, lies: map[string]lie{}, gone: make(chan struct{}),
		}
		if i > 0 {
			h.habits = s.pick(2) == 0
			verbs := []string{"facts", "run", "run", "reboot", "reboot", "check", "bootid", "write", "needs-reboot"}
			for range s.pick(3) {
				h.only = append(h.only, verbs[s.pick(len(verbs))])
			}
			h.right = map[string]int{"facts": s.pick(4), "bootid": s.pick(3), "run": s.pick(6) / 5}
			h.wilder = s.wildness()
			if s.pick(3) == 0 {
				h.wild = h.wilder
			} else {
				h.from = time.Now().Add(time.Hour) // it is as it should until the operation begins
			}
		}
		s.hosts = append(s.hosts, h)
	}
	s.secrets = &vault.Vault{}
	s.handle = commands.New(commands.Config{
		Log: s.log, Credentials: s.secrets, KeyFingerprint: ssh.ParsePrivateKey, Certificate: ssh.ParseCertificate,
		TokenDigest: func(commands.Secret) string { return "" }, Denied: func(domain.Address) error { return nil },
		Now: time.Now, NewID: uuid.New, Random: s.random.Uint64, Instance: "one",
	})
	s.profile = ssh.NoProfile
	if s.pick(2) == 0 {
		s.profile = ssh.Profile{Name: "site", Steps: []ssh.Step{
			{Name: "a package", Packages: []string{"one", "two"}, SkipOSTree: true},
			{Name: "a file", File: &ssh.File{Path: "/etc/site", Mode: "0600", Content: "text\n"}},
			{Name: "a command", Command: "true"},
			{Name: "a service", Services: []string{"one"}},
		}}
	}
	s.keep = 8 * s.pick(2)
	return s
}

func (s *sequence) dial(ctx context.Context, address string) (net.Conn, error) {
	name, _, _ := strings.Cut(address, ":")
	for _, h := range s.hosts {
		if h.address == name {
			return h.dial(ctx)
		}
	}
	return nil, errors.New("there is no such host")
}

// failed says what went wrong, and how it can be seen again.
func (s *sequence) failed(format string, arguments ...any) {
	s.t.Helper()
	s.t.Errorf("seed %d: %s", s.seed, fmt.Sprintf(format, arguments...))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told {
		return
	}
	s.told = true
	for _, h := range s.hosts[1:] {
		s.t.Logf("host %s: wild %+v, then %+v, only %q, habits %v: %v", h.address, h.wild, h.wilder, h.only, h.habits, h.seen)
	}
	told := slices.DeleteFunc(slices.Clone(s.history), func(r event.Recorded) bool { return r.Stream == event.WatchStream })
	for _, r := range told[max(0, len(told)-30):] {
		s.t.Logf("%8s %s %.400s", r.Meta.Time.Sub(s.began.UTC()).Truncate(time.Millisecond), r.Event.EventType(), fmt.Sprintf("%+v", r.Event))
	}
}

// await waits until holds says so of what is recorded.
func (s *sequence) await(limit time.Duration, holds func([]event.Recorded) bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		s.mu.Lock()
		history, changed := s.history, s.changed
		s.mu.Unlock()
		if holds(history) {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

func (s *sequence) run() {
	stop := s.serve(1)
	ctx := s.t.Context()
	s.join(ctx)
	var steering sync.WaitGroup
	if s.pick(4) == 0 { // killed in the middle, and another one takes it up
		after := s.good().some() / 60
		steering.Go(func() {
			time.Sleep(after)
			stop()
			stop = s.serve(2)
		})
	}
	s.operate(ctx)
	steering.Wait()
	s.remove(ctx)
	time.Sleep(2 * time.Minute)
	stop()
	for _, h := range s.hosts {
		h.mu.Lock()
		pipes := h.pipes
		h.mu.Unlock()
		if i := slices.IndexFunc(pipes, func(p *pipe) bool { return !p.left() }); i >= 0 {
			s.failed("the connection %d to %s was left open", i, h.address)
		}
		h.end()
		close(h.gone)
	}
	s.check()
}

func (s *sequence) good() *host { return s.hosts[0] }

// serve has a service act as the leader of a term, until stop is called.
func (s *sequence) serve(term domain.Term) (stop func()) {
	logger := slog.New(slog.NewTextHandler(&s.logged, nil))
	remote := ssh.New(ssh.Config{
		Dial: dialLimit, Handshake: handshakeLimit, Answer: answerLimit, Command: commandLimit, KeepOpen: s.keep,
		Dialer: s.dial, Bootstrap: ssh.Bootstrap{Profile: s.profile},
	}, s.secrets, logger)
	p := process.New(process.Config{
		Commands: s.handle, Credentials: s.secrets, Remote: remote, Probe: prober{s}, Outputs: nowhere{},
		Managers: func(event.ContainerManagerDefined) (process.Manager, error) { return nil, errors.New("there is none") },
		Profile:  s.profile.Name, Attempts: attempts, RetryDelay: retryDelay, AtOnce: 16,
		RebootFirstLook: 5 * time.Second, RebootTimeout: rebootTimeout, HealthInterval: 5 * time.Second,
		WatchInterval: time.Minute, WatchConcurrency: 4, WatchMisses: 3,
		NewID: uuid.New, Now: time.Now, Logger: logger,
	})
	ctx, cancel := context.WithCancel(s.t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		for events, err := range s.log.Read(ctx, 0) {
			if err != nil && ctx.Err() == nil {
				s.failed("the log cannot be read: %v", err)
			}
			for _, r := range events {
				p.Apply(r)
				s.apply(r)
			}
		}
	})
	over := make(chan error, 1)
	go func() { over <- p.Run(ctx, term) }()
	return func() {
		cancel()
		select {
		case err := <-over:
			if err != nil {
				s.failed("the process ended with %v", err)
			}
		case <-time.After(time.Minute):
			s.failed("the process does not end")
			for _, h := range s.hosts {
				h.end()
			}
			<-over
		}
		following.Wait()
		remote.Close()
		time.Sleep(time.Minute)
	}
}

// apply takes note of what was recorded.
func (s *sequence) apply(r event.Recorded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(r.Position) <= len(s.history) {
		return
	}
	s.history = append(s.history, r)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Where only the fingerprint of a host's key is known it is asked for each of its keys.
const (
	once    = dialLimit + handshakeLimit
	bare    = 10 * once
	connect = attempts*bare + attempts*retryDelay
	asked   = attempts * (connect + answerLimit + retryDelay)
)

// join adds all hosts to a cluster, and waits until each was made fit, or failed.
func (s *sequence) join(ctx context.Context) {
	who := commands.Who{Actor: "alice"}
	if _, err := s.handle.PutCluster(ctx, who, commands.PutCluster{Name: s.cluster}); err != nil {
		s.t.Fatal(err)
	}
	for _, h := range s.hosts {
		put := commands.PutHost{
			Address: domain.Address(h.address), PrivateKey: s.login.private,
			RemoteUser: []domain.RemoteUser{domain.Root, "core"}[s.pick(2)], Cluster: &s.cluster,
		}
		if s.pick(3) == 0 {
			put.HostKey = xssh.FingerprintSHA256(h.keys[0].PublicKey())
		}
		if _, err := s.handle.PutHost(ctx, who, put); err != nil {
			s.t.Fatal(err)
		}
	}
	const steps = 4
	limit := 2*connect + answerLimit + steps*(commandLimit+time.Minute+2*answerLimit)
	settled := map[event.Stream]bool{}
	if !s.await(limit, func(history []event.Recorded) bool {
		for _, r := range history {
			switch r.Event.(type) {
			case event.HostBootstrapped, event.HostInvestigationFailed, event.HostBootstrapFailed, event.HostKeyChanged:
				settled[r.Stream] = true
			}
		}
		return len(settled) == len(s.hosts)
	}) {
		s.failed("hosts are still being made fit after %s", limit)
	}
}

func (s *sequence) policy() event.Policy {
	p := event.DefaultPolicy()
	p.MaxUnavailable = []event.Amount{{N: 1}, {N: 2}, {N: 100, Percent: true}}[s.pick(3)]
	p.MaxFailures = []event.Amount{{N: 0}, {N: 100, Percent: true}, {N: 100, Percent: true}}[s.pick(3)]
	p.Timeout = []int{10, 60, 120}[s.pick(3)] // the good host needs a few
	p.Reboot = []event.Reboot{event.NoReboot, event.AlwaysReboot, event.AlwaysReboot, event.RebootIfNeeded}[s.pick(4)]
	p.Stage = s.pick(3) == 0
	if s.pick(3) == 0 {
		p.Batches, p.Delay = []event.Amount{{N: 1}, {N: 2}}, s.pick(30)
	}
	if s.pick(2) == 0 {
		p.Order = &event.Order{Random: true}
	}
	switch s.pick(6) {
	case 0, 1, 2:
		p.Health = &event.Health{Command: "true"}
	case 3:
		p.Health = &event.Health{TCP: 80}
	case 4:
		p.Health = &event.Health{HTTP: "http://:8080/"}
	}
	if p.Health != nil {
		p.Health.Timeout, p.Health.StableFor = 30, []int{0, 10}[s.pick(2)]
	}
	return p
}

// operate has an operation cross the cluster, and waits for its end.
func (s *sequence) operate(ctx context.Context) {
	who := commands.Who{Actor: "alice"}
	command := commands.StartOperation{Kind: []domain.OperationKind{domain.Upgrade, domain.Deploy, domain.Restart}[s.pick(3)], Cluster: s.cluster, Policy: s.policy()}
	if command.Kind == domain.Deploy {
		command.Version = "41.2"
	}
	if command.Kind == domain.Restart {
		command.Policy.Reboot, command.Policy.Stage = event.NoReboot, false
	}
	for _, h := range s.hosts {
		h.mu.Lock()
		h.from = time.Time{}
		h.mu.Unlock()
	}
	started, err := s.handle.StartOperation(ctx, who, command)
	if err != nil {
		s.t.Fatal(err)
	}
	steering, done := context.WithCancel(ctx)
	defer done()
	switch s.pick(6) {
	case 0:
		go s.steer(steering, func() error { _, err := s.handle.CancelOperation(ctx, who, started.ID); return err })
	case 1:
		go s.steer(steering, func() error { _, err := s.handle.PauseOperation(ctx, who, started.ID); return err },
			func() error { _, err := s.handle.ResumeOperation(ctx, who, started.ID); return err })
	}

	limit := s.limit(command)
	begun := time.Now()
	defer func() { s.took, s.allowed = time.Since(begun), limit }()
	if !s.await(limit, func(history []event.Recorded) bool { return ended(history, started.ID) }) {
		s.failed("the %s with %+v has not ended after %s", command.Kind, command.Policy, limit)
		return
	}
	done()
	s.unharmed(started.ID, command)
}

// limit is how long an operation may take by what it and the service allow.
func (s *sequence) limit(command commands.StartOperation) time.Duration {
	p := command.Policy
	timeout := time.Duration(p.Timeout) * time.Second
	look := bare + 2*answerLimit      // at whether it is back
	turn := asked + timeout + asked + // examined, worked, and how it is then
		2*rebootTimeout + 2*look + asked + rebootTimeout // rebooted
	if p.Health != nil {
		turn += time.Duration(p.Health.Timeout)*time.Second + asked
	}
	if p.Stage {
		turn += asked + timeout + asked + timeout // downloaded, and dropped
	}
	return time.Duration(len(s.hosts))*(turn+time.Duration(p.Delay)*time.Second) + 30*time.Minute // of which a person pauses it for some
}

// steer does one thing after the other, at some time.
func (s *sequence) steer(ctx context.Context, all ...func() error) {
	for _, f := range all {
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.good().some() / 60):
		}
		var refusal *domain.Refusal
		if err := f(); err != nil && !errors.As(err, &refusal) {
			s.failed("steering: %v", err)
		}
	}
}

func ended(history []event.Recorded, id domain.OperationID) bool {
	return slices.ContainsFunc(history, func(r event.Recorded) bool {
		switch e := r.Event.(type) {
		case event.OperationCompleted:
			return e.Operation == id
		case event.OperationAborted:
			return e.Operation == id
		}
		return false
	})
}

// unharmed checks that the good host was worked on as if it were alone.
func (s *sequence) unharmed(id domain.OperationID, command commands.StartOperation) {
	good := s.good()
	var begun time.Time
	completed, over := false, false
	s.mu.Lock()
	history := s.history
	s.mu.Unlock()
	for _, r := range history {
		switch e := r.Event.(type) {
		case event.HostTurnBegun:
			if e.Host == domain.Address(good.address) {
				begun = r.Meta.Time
			}
		case event.HostTurnFailed:
			if e.Host == domain.Address(good.address) {
				s.failed("the good host failed: %s", e.Reason)
			}
		case event.OperationCompleted:
			completed = true
		case event.HostTurnSkipped:
			over = over || e.Host == domain.Address(good.address)
		case event.HostTurnSucceeded:
			over = over || e.Host == domain.Address(good.address)
			if took := r.Meta.Time.Sub(begun); e.Host == domain.Address(good.address) && took > 3*time.Minute {
				s.failed("the turn of the good host took %s", took)
			}
		case event.HostWentSilent, event.HostInvestigationFailed, event.HostBootstrapFailed, event.HostKeyChanged:
			if h, ok := e.(interface{ EventType() string }); ok && strings.Contains(fmt.Sprintf("%+v", h), "Host:"+good.address+" ") {
				s.failed("the good host: %s %+v", h.EventType(), h)
			}
		}
	}
	if completed && !over {
		s.failed("the operation came to its end without the good host")
	}
	if twice := good.twice(); len(twice) > 0 {
		s.failed("on the good host ran twice: %q", twice)
	}
}

// remove removes all hosts, which nothing may prevent.
func (s *sequence) remove(ctx context.Context) {
	for _, h := range s.hosts {
		if _, err := s.handle.DeleteHost(ctx, commands.Who{Actor: "alice"}, domain.Address(h.address)); err != nil {
			s.failed("host %s cannot be removed: %v", h.address, err)
		}
	}
	if _, err := s.handle.DeleteCluster(ctx, commands.Who{Actor: "alice"}, s.cluster); err != nil {
		s.failed("the cluster cannot be deleted: %v", err)
	}
}

// escaped are control characters, in JSON.
var escaped = regexp.MustCompile(`\\u00[01][0-9a-f]|\\u007f|\\[bfnrt]`)

// open are reasons that are empty, or end where something is to follow.
var open = regexp.MustCompile(`"(?:reason|failure|cause)":"(?:[^"]*: ?)?"`)

// check reads the log again.
func (s *sequence) check() {
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	head, err := s.store.Head(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if head > mostEvents {
		s.failed("%d events were recorded", head)
	}
	if n := s.logged.Len(); n > mostLogged || !utf8.Valid(s.logged.Bytes()) {
		s.failed("%d bytes were logged", n)
	}
	for raws, err := range eventlog.UpToHead(ctx, s.store.Follow(ctx, 0)) {
		if err != nil {
			s.failed("the log cannot be read: %v", err)
			return
		}
		for _, raw := range raws {
			read, err := eventlog.Decode(raw)
			if err != nil {
				s.failed("%v", err)
				return
			}
			again, err := eventlog.Encode(raw.Stream, event.Decided{ID: raw.ID, Event: read.Event, Meta: read.Meta})
			if err != nil || !bytes.Equal(again.Data, raw.Data) || !bytes.Equal(again.Meta, raw.Meta) {
				s.failed("%s is read as %s, %v", raw.Data, again.Data, err)
			}
			if open.Match(raw.Data) {
				s.failed("a reason says nothing: %s", raw.Data)
			}
			if len(raw.Data) > mostEventSize || !utf8.Valid(raw.Data) || escaped.Match(raw.Data) {
				s.failed("%s of %d bytes: %.300s", raw.Type, len(raw.Data), raw.Data)
			}
		}
		if raws[len(raws)-1].Position >= head {
			return
		}
	}
}

// prober asks the good host's services, which are well, and those of the others,
// which may be anything.
type prober struct{ *sequence }

func (p prober) TCP(ctx context.Context, address domain.Address, _ int) error {
	for _, h := range p.hosts[1:] {
		if h.address == string(address) && h.chance(h.wildness().answer) {
			if h.pick("probe", "fails", "hangs") == "fails" {
				return errors.New(h.value())
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}
	return nil
}

func (p prober) HTTP(ctx context.Context, address domain.Address, _ string) error {
	return p.TCP(ctx, address, 0)
}

// nowhere keeps nothing of what hosts print.
type nowhere struct{}

func (nowhere) Begin(domain.OperationID, domain.HostID, string, string) process.Output {
	return nowhere{}
}
func (nowhere) Sweep(func(domain.OperationID) bool) error { return nil }
func (nowhere) Wanted() (from, head, tail int64)          { return 0, 1 << 16, 1 << 10 }
func (nowhere) Write(int64, []byte)                       {}
func (nowhere) Close(bool)                                {}
