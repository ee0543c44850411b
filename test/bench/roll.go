package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/credentials"
	"commissaire/adapters/ssh"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/test/fleet"
	"commissaire/test/longlog"
)

// roll measures an upgrade of a whole cluster at once, beside the same requests
// made without the service, and looks at the same hosts: over a connection of its
// own each.
func (b *bench) roll(ctx context.Context) error {
	const n = 1000
	f, private, err := hosts(n, fleet.Spec{OS: fleet.Fedora, Version: "6.1", Next: "6.2", Speed: fleet.Speed{Upgrade: 10 * time.Millisecond}})
	if err != nil {
		return err
	}
	defer f.Close()
	log := longlog.New()
	log.Port, log.PerCluster = f.Port(), n
	if err := b.writeHistory(ctx, "roll", log, private, n, 0); err != nil {
		return err
	}
	secrets, err := credentials.Open(ctx, filepath.Join(b.dir, "roll"), make([]byte, 32), time.Now)
	if err != nil {
		return err
	}
	defer func() { _ = secrets.Close() }() // nothing of it is wanted
	remote := ssh.New(ssh.Config{Reach: ssh.Reach{Loopback: true}}, secrets, slog.New(slog.DiscardHandler))
	defer remote.Close()
	var looks, byHand, upgrades measured
	events, megabytes := 0, 0
	const rounds = 3
	for round := range rounds { // in turn, because the machine's speed drifts
		for _, kind := range []struct {
			sum    *measured
			atOnce int
			most   int
			what   func(context.Context, int, process.Session) error
		}{{&looks, 64, 0, look}, {&byHand, n, n, upgrade}} {
			release(f, 2*round)
			began := time.Now()
			until := began.Add(b.span)
			if kind.most > 0 {
				until = began.Add(time.Hour)
			}
			done, err := b.ask(ctx, f, remote, kind.atOnce, until, kind.most, domain.Term(1+round), kind.what)
			if err != nil {
				return err
			}
			kind.sum.add(done, time.Since(began))
		}
		release(f, 2*round+1)
		result, err := b.rollOnce(ctx, "roll")
		if err != nil {
			return err
		}
		upgrades.add(n, result.took)
		events, megabytes = events+result.events, max(megabytes, result.megabytes)
	}
	b.row(fmt.Sprintf("upgrade of 10 ms on %d hosts, all at once", n), rate(upgrades.n, upgrades.took), fmt.Sprintf("%.1f events a host, %d MiB resident", float64(events)/float64(rounds*n), megabytes))
	b.row("the same requests without the service, all at once", rate(byHand.n, byHand.took), fmt.Sprintf("the upgrade is %.2f of it", upgrades.rate()/byHand.rate()))
	b.row("looks at them, 64 at once, a connection each", rate(looks.n, looks.took), fmt.Sprintf("the upgrade is %.2f of it", upgrades.rate()/looks.rate()))
	return nil
}

// upgrade asks a host for what a turn asks it for. The service before had the
// same term, or an earlier one.
func upgrade(ctx context.Context, _ int, session process.Session) error {
	facts, err := session.Facts(ctx)
	if err != nil {
		return err
	}
	result, err := session.Run(ctx, process.WorkID(uuid.NewString()), process.Work{Kind: domain.Upgrade, Facts: facts})
	if err == nil && (result.Exit == nil || *result.Exit != 0) {
		err = fmt.Errorf("the upgrade failed: %s", result.Said)
	}
	if err != nil {
		return err
	}
	_, err = session.Facts(ctx)
	return err
}

// release makes another version the one that an upgrade brings.
func release(f *fleet.Fleet, n int) {
	for _, h := range f.Hosts() {
		h.Release(fmt.Sprintf("6.%d", 2+n))
	}
}

// measured is how often something was done, and how long that took.
type measured struct {
	n    int
	took time.Duration
}

func (m *measured) add(n int, took time.Duration) { m.n, m.took = m.n+n, m.took+took }
func (m *measured) rate() float64                 { return float64(m.n) / m.took.Seconds() }

// rolled is how one operation went.
type rolled struct {
	took      time.Duration
	events    int // that it left in the log
	megabytes int // resident, at its end
}

func (b *bench) rollOnce(ctx context.Context, store string) (rolled, error) {
	s, err := b.service(ctx, store, map[string]any{"watch": map[string]any{"interval": "1h"}})
	if err != nil {
		return rolled{}, err
	}
	defer s.stop()
	var before, after struct {
		Position int `json:"log_position"`
	}
	var o struct {
		Status     string
		Cause      string
		StartedAt  string `json:"started_at"`
		FinishedAt string `json:"finished_at"`
	}
	read := func(path string, into any) error {
		text, err := once(ctx, s.address, request(http.MethodGet, path, ""))
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		return err
	}
	if err := read("/api/v0/status", &before); err != nil {
		return rolled{}, err
	}
	if _, err := once(ctx, s.address, request(http.MethodPut, "/api/v0/cluster/cluster-0/upgrade", `{"max_unavailable":"100%"}`)); err != nil {
		return rolled{}, err
	}
	tick := time.NewTicker(500 * time.Millisecond) // the answer has all hosts, and costs what it measures
	defer tick.Stop()
	for o.Status != "finished" {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return rolled{}, ctx.Err()
		}
		if err := read("/api/v0/cluster/cluster-0/upgrade", &o); err != nil {
			return rolled{}, err
		}
		if o.Status == "failed" {
			return rolled{}, errors.New("the upgrade failed")
		}
	}
	if err := read("/api/v0/status", &after); err != nil {
		return rolled{}, err
	}
	const form = "2006-01-02T15:04:05.000000"
	began, err := time.Parse(form, o.StartedAt)
	ended, endErr := time.Parse(form, o.FinishedAt)
	if err = errors.Join(err, endErr); err != nil {
		return rolled{}, err
	}
	megabytes, err := s.resident()
	return rolled{ended.Sub(began), after.Position - before.Position, megabytes}, err
}
