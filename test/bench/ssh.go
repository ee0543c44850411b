package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"commissaire/adapters/credentials"
	"commissaire/adapters/ssh"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/test/fleet"
	"commissaire/test/longlog"
)

// hosts starts n simulated hosts like one and gives the key that logs in there.
func hosts(n int, like fleet.Spec) (*fleet.Fleet, []byte, error) {
	private, public, err := fleet.NewUserKey()
	if err != nil {
		return nil, nil, err
	}
	specs := make([]fleet.Spec, n)
	for i := range specs {
		specs[i] = like
		specs[i].Address = longlog.Address(i)
	}
	f, err := fleet.Start(fleet.Config{Hosts: specs, Authorized: []xssh.PublicKey{public}})
	return f, private, err
}

// ssh measures looks at hosts as the watch makes them: a connection each, and
// over connections that were kept.
func (b *bench) ssh(ctx context.Context) error {
	const n = 1000
	f, private, err := hosts(n, fleet.Spec{OS: fleet.Fedora, Version: "6.1"})
	if err != nil {
		return err
	}
	defer f.Close()
	secrets, err := credentials.Open(ctx, filepath.Join(b.dir, "ssh"), make([]byte, 32), time.Now)
	if err != nil {
		return err
	}
	defer func() { _ = secrets.Close() }() // nothing of it is wanted
	if err := secrets.Store(ctx, longlog.Credential, private); err != nil {
		return err
	}
	for _, kind := range []struct {
		what string
		keep int
	}{{"a connection each", 0}, {"connections kept open", n}} {
		remote := ssh.New(ssh.Config{KeepOpen: kind.keep, Reach: ssh.Reach{Loopback: true}}, secrets, slog.New(slog.DiscardHandler))
		if kind.keep > 0 {
			if _, err := b.ask(ctx, f, remote, 64, time.Now().Add(time.Hour), n, 1, look); err != nil {
				return err
			}
		}
		looks, err := b.ask(ctx, f, remote, 64, time.Now().Add(b.span), 0, 1, look)
		remote.Close()
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("look at %d hosts, 64 at once, %s", n, kind.what), rate(looks, b.span), "client and hosts in one process")
	}
	return nil
}

// look is the smallest thing that is asked of a host.
func look(ctx context.Context, _ int, session process.Session) error {
	_, err := session.BootID(ctx)
	return err
}

// ask asks hosts, so many at once and each on a connection of its own unless some are
// kept, until a time or, if most is not 0, so often, as the leader of a term.
func (b *bench) ask(ctx context.Context, f *fleet.Fleet, remote *ssh.Remote, atOnce int, until time.Time, most int, term domain.Term, what func(ctx context.Context, n int, session process.Session) error) (int, error) {
	all := f.Hosts()
	var next, done atomic.Int64
	var work sync.WaitGroup
	fails := make([]error, atOnce)
	for i := range fails {
		work.Go(func() {
			for time.Now().Before(until) && ctx.Err() == nil {
				n := int(next.Add(1))
				if most > 0 && n > most {
					return
				}
				h := all[n%len(all)]
				session, err := remote.Dial(ctx, process.Target{
					HostID: domain.HostID(h.Address()), Host: domain.Address(h.Address()), Port: f.Port(), User: domain.Root, Credential: longlog.Credential,
					Pinned: &process.HostKey{Type: h.HostKey().Type(), Fingerprint: xssh.FingerprintSHA256(h.HostKey())},
					Leader: process.Leader{Log: longlog.ID, Term: term},
				})
				if err == nil {
					err = errors.Join(what(ctx, n, session), session.Close())
				}
				if err != nil {
					fails[i] = err
					return
				}
				done.Add(1)
			}
		})
	}
	work.Wait()
	return int(done.Load()), errors.Join(fails...)
}

// memory measures what a service holds that watches many hosts, after a sweep
// over all of them.
func (b *bench) memory(ctx context.Context) error {
	const n, maxOpen = 10_000, 2_000
	f, private, err := hosts(n, fleet.Spec{OS: fleet.Fedora, Version: "6.1"})
	if err != nil {
		return err
	}
	defer f.Close()
	var without int
	for _, keep := range []int{0, maxOpen} {
		store := fmt.Sprintf("memory-%d", keep)
		log := longlog.New()
		log.Port = f.Port()
		if err := b.writeHistory(ctx, store, log, private, n, 0); err != nil {
			return err
		}
		s, err := b.service(ctx, store, map[string]any{"watch": map[string]any{"interval": "30s", "keep-open": keep}, "ssh": map[string]any{"at-once": 64}})
		if err != nil {
			return err
		}
		megabytes, err := b.afterASweep(ctx, s, log.Now)
		s.stop()
		if err != nil {
			return err
		}
		if keep == 0 {
			without = megabytes
			b.row(fmt.Sprintf("resident memory with %d hosts", n), fmt.Sprintf("%d MiB", megabytes), "after a sweep, no connection kept")
			continue
		}
		b.row(fmt.Sprintf("the same with %d connections kept", maxOpen), fmt.Sprintf("%d MiB", megabytes), fmt.Sprintf("%d KiB a connection", (megabytes-without)<<10/maxOpen))
	}
	return nil
}

// afterASweep is the resident memory of a service, in MiB, when all hosts were
// looked at since a time.
func (b *bench) afterASweep(ctx context.Context, s *server, since time.Time) (int, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	deadline := time.After(5 * time.Minute)
	for {
		text, err := once(ctx, s.address, request(http.MethodGet, "/api/v0/host/"+longlog.Address(0), ""))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(text), `"last_check":"`)
		checked, _, _ := strings.Cut(rest, `"`)
		if when, err := time.Parse("2006-01-02T15:04:05.000000", checked); err == nil && when.After(since) {
			return s.resident()
		}
		select {
		case <-tick.C:
		case <-deadline:
			return 0, errors.New("no sweep ended")
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// resident is the server's resident memory, in MiB.
func (s *server) resident() (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); n == 1 {
			return kilobytes >> 10, nil
		}
	}
	return 0, errors.New("the process has no resident memory")
}
