package ssh

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"

	xssh "golang.org/x/crypto/ssh"
)

// newKeeping is a site whose connections are kept; its key is pinned.
func newKeeping(t *testing.T, config Config, change ...func(*machine)) *site {
	t.Helper()
	s := newSite(t, config, change...)
	t.Cleanup(s.remote.Close)
	key := hostKey(s.hostKey[0].PublicKey())
	s.target.Pinned = &key
	return s
}

// look dials, asks for the boot id and hangs up. It tells which connection it had.
func (s *site) look(t *testing.T, target process.Target) *connection {
	t.Helper()
	session, err := s.remote.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := session.BootID(t.Context()); err != nil || id != firstBoot {
		t.Fatalf("boot id %q, %v", id, err)
	}
	session.Close()
	session.Close()
	return session.(*Session).connection
}

func (s *site) connections(t *testing.T, want int64) {
	t.Helper()
	within(t, 10*time.Second, "connections end", func() bool { return s.server.open.Load() == want })
}

func TestAConnectionIsKeptForTheNextWhoDials(t *testing.T) {
	s := newKeeping(t, Config{KeepOpen: 8})
	first := s.look(t, s.target)
	for range 3 {
		if s.look(t, s.target) != first {
			t.Error("it connected anew")
		}
	}
	session := s.dial(t)
	if _, err := session.Facts(t.Context()); err != nil || session.connection != first {
		t.Errorf("facts over another connection, or %v", err)
	}
	if other := s.dial(t); other.connection == first {
		t.Error("two have the same connection")
	}
	session.Close()
	if _, err := session.BootID(t.Context()); err == nil {
		t.Error("who closed it can still use it")
	}
}

func TestNothingIsKeptUnlessConfigured(t *testing.T) {
	s := newKeeping(t, Config{})
	if first := s.look(t, s.target); s.look(t, s.target) == first {
		t.Error("a connection was kept")
	}
	s.connections(t, 0)
}

func TestAConnectionToAnotherTargetIsClosed(t *testing.T) {
	for name, change := range map[string]func(*site, *process.Target){
		"pin": func(_ *site, target *process.Target) {
			target.Pinned = &process.HostKey{Type: "ssh-ed25519", Fingerprint: "SHA256:other"}
		},
		"first contact": func(_ *site, target *process.Target) { target.Pinned = nil },
		"credential": func(s *site, target *process.Target) {
			secret, err := s.remote.credentials.Read(t.Context(), "key")
			if err == nil {
				err = s.remote.credentials.Store(t.Context(), "new", secret)
			}
			if err != nil {
				t.Fatal(err)
			}
			target.Credential = "new"
		},
		"user":    func(_ *site, target *process.Target) { target.User = "somebody" },
		"port":    func(_ *site, target *process.Target) { target.Port = 1 },
		"address": func(_ *site, target *process.Target) { target.Host = "127.0.0.2" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newKeeping(t, Config{KeepOpen: 8})
			first := s.look(t, s.target)
			target := s.target
			change(s, &target)
			if session, err := s.remote.Dial(t.Context(), target); err == nil {
				if session.(*Session).connection == first {
					t.Error("the former connection was taken")
				}
				session.Close()
			}
			<-first.over.Done()
		})
	}
}

// Hosts are looked at in turn, more of them than there is room for.
func TestAHostWhoseConnectionIsKeptKeepsItsPlace(t *testing.T) {
	s := newKeeping(t, Config{KeepOpen: 2})
	target := func(id domain.HostID) process.Target {
		target := s.target
		target.HostID = id
		return target
	}
	a, b := s.look(t, target("a")), s.look(t, target("b"))
	for range 2 {
		if c := s.look(t, target("c")); c.over.Err() == nil {
			t.Error("c is kept, without a place")
		}
		if s.look(t, target("a")) != a || s.look(t, target("b")) != b {
			t.Error("a or b had to go")
		}
	}
	inUse, err := s.remote.Dial(t.Context(), target("a"))
	if err != nil || !inUse.(*Session).Reused() {
		t.Fatalf("a was not kept: %v", err)
	}
	if c := s.look(t, target("c")); c.over.Err() == nil {
		t.Error("c has the place of a, which is in use")
	}
	inUse.Close()
	if s.look(t, target("a")) != a {
		t.Error("a, which was in use, had to go")
	}

	b.end(errDropped)
	within(t, 10*time.Second, "the place of b is free", func() bool {
		s.remote.pool.mu.Lock()
		defer s.remote.pool.mu.Unlock()
		return len(s.remote.pool.places) == 1
	})
	c := s.look(t, target("c"))
	if s.look(t, target("c")) != c {
		t.Error("c has not the place that is free")
	}
	other := target("c")
	other.Port = 1 // nobody is there
	if _, err := s.remote.Dial(t.Context(), other); err == nil {
		t.Error("it is reached at another port")
	}
	if d := s.look(t, target("d")); s.look(t, target("d")) != d {
		t.Error("d has not the place of what was ended for another target")
	}
	s.remote.Close()
	s.connections(t, 0)
	s.look(t, target("a"))
	s.connections(t, 0)
}

func TestAConnectionThatNobodyTakesIsClosed(t *testing.T) {
	s := newKeeping(t, Config{KeepOpen: 2, KeepFor: 20 * time.Millisecond})
	<-s.look(t, s.target).over.Done()
	s.connections(t, 0)
}

func TestABrokenConnectionIsNotKept(t *testing.T) {
	s := newKeeping(t, Config{KeepOpen: 8})
	first := s.look(t, s.target)
	s.server.cut()
	<-first.over.Done()
	within(t, 10*time.Second, "it is forgotten", func() bool {
		s.remote.pool.mu.Lock()
		defer s.remote.pool.mu.Unlock()
		return s.remote.pool.recent.Len() == 0
	})

	second := s.dial(t)
	if _, err := second.BootID(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.put(t, "run/do-dnf", "sleep 60")
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error)
	go func() {
		_, err := second.Run(ctx, "turn", process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}})
		given <- err
	}()
	within(t, 10*time.Second, "the work begins", func() bool { return len(s.calls()) > 0 })
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	second.Close()
	if s.look(t, s.target) == second.connection {
		t.Error("the answer to a request that was given up may be the next one's")
	}
}

func TestAConnectionToWhatIsRebootingIsNotKept(t *testing.T) {
	s := newKeeping(t, Config{KeepOpen: 8})
	session := s.dial(t)
	if err := session.Reboot(t.Context(), "reboot", otherBoot); err != nil {
		t.Fatal(err)
	}
	session.Close()
	if s.look(t, s.target) == session.connection {
		t.Error("it was kept")
	}
}

// A host that went down without a word leaves a connection on which nothing comes
// any more.
func TestADeadKeptConnectionCostsOneAttempt(t *testing.T) {
	remote, port := hostile(t, func(channel xssh.Channel) {
		marker := askedWith(channel)
		io.WriteString(channel, "\n"+marker+" begin\n\n"+marker+" boot-id\n"+firstBoot+"\n\n"+marker+" end\n")
	})
	config := remote.config
	config.KeepOpen, config.Dial = 1, time.Second
	remote = New(config, remote.credentials, slog.New(slog.DiscardHandler))
	target := process.Target{HostID: "host", Host: "127.0.0.1", Port: port, User: domain.Root, Credential: "key", Leader: process.Leader{Log: "log", Term: 1}}
	first, err := remote.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	key := first.HostKey()
	target.Pinned = &key
	if _, err := first.BootID(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.Close()

	remote.config.Dial = 50 * time.Millisecond
	second, err := remote.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if id, err := second.BootID(t.Context()); err != nil || id != firstBoot {
		t.Errorf("boot id %q, %v", id, err)
	}
	if second.(*Session).connection == first.(*Session).connection {
		t.Error("it is the dead one")
	}
}

func TestWorkGoesOverAKeptConnectionOnce(t *testing.T) {
	s := newKeeping(t, Config{KeepOpen: 1}, func(m *machine) { m.user = "cloud-user" })
	first := s.look(t, s.target)
	session := s.dial(t)
	result, err := session.Run(t.Context(), "turn", process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}})
	if err != nil || result.Exit == nil || *result.Exit != 0 || session.connection != first {
		t.Errorf("%+v, %v", result, err)
	}
	session.Close()
	if calls := s.calls(); len(calls) != 1 {
		t.Errorf("called %q", calls)
	}
	if commands := s.server.commands(); len(commands) != 2 || commands[1] != "sudo -n /bin/sh -s" {
		t.Errorf("it was told %q", commands)
	}
}
