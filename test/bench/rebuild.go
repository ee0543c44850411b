package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"commissaire/projections"
)

// rebuild measures what a long log costs a service that has it: how soon it serves
// with and without a snapshot, how fast it folds the log afresh while it serves,
// and how long it takes to say what was then.
func (b *bench) rebuild(ctx context.Context) error {
	const hosts = 10_000
	if err := b.write(ctx, "rebuild", hosts, b.events); err != nil {
		return err
	}
	quiet := map[string]any{"watch": map[string]any{"interval": "1h", "concurrency": 1}} // the hosts are not there
	s, err := b.service(ctx, "rebuild", quiet)
	if err != nil {
		return err
	}
	defer func() { s.stop() }()
	b.row(fmt.Sprintf("start with %d events, no snapshot", b.events), s.took.Round(10*time.Millisecond).String(), memory(s))
	for leads := false; !leads; time.Sleep(200 * time.Millisecond) { // until then it reads the roster
		text, err := once(ctx, s.address, request(http.MethodGet, "/api/v0/status", ""))
		if err != nil {
			return err
		}
		leads = strings.Contains(string(text), `"leads":true`)
	}
	if _, err := once(ctx, s.address, request(http.MethodPut, "/api/v0/projections/all/rebuild", "")); err != nil {
		return err
	}
	took, err := rebuilt(ctx, s.address)
	if err != nil {
		return err
	}
	b.row("rebuild of all views while they are served", rate(int(took.Events), time.Duration(float64(took.Events)/took.PerSecond*float64(time.Second))), memory(s))
	for _, clients := range []int{1, 4} {
		n, all, err := b.load(ctx, s.address, clients, http.StatusOK, func(int) []byte {
			pos := 1 + rand.IntN(b.events)
			path := fmt.Sprintf("/api/v0/operations?limit=1&at=%d", pos)
			switch pos % 3 {
			case 0:
				path = fmt.Sprintf("/api/v0/networks?at=%d", pos)
			case 1:
				path = fmt.Sprintf("/api/v0/clusters?at=%d", pos)
			}
			return request(http.MethodGet, path, "")
		})
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("GET …?at={random}, %d clients", clients), rate(n, b.span), fmt.Sprintf("p50 %s, p99 %s", percentile(all, 50), percentile(all, 99)))
	}
	s.end(syscall.SIGTERM)
	if s, err = b.service(ctx, "rebuild", quiet); err != nil {
		return err
	}
	listens := time.Now()
	b.row(fmt.Sprintf("start with %d events, from a snapshot", b.events), s.took.Round(10*time.Millisecond).String(), memory(s))
	if _, err := rebuilt(ctx, s.address); err != nil {
		return err
	}
	b.row("… and until it acts", (s.took + time.Since(listens)).Round(10*time.Millisecond).String(), memory(s))
	return nil
}

// rebuilt waits for the end of a rebuild.
func rebuilt(ctx context.Context, address string) (projections.Rebuild, error) {
	for {
		text, err := once(ctx, address, request(http.MethodGet, "/api/v0/projections", ""))
		if err != nil {
			return projections.Rebuild{}, err
		}
		var all struct{ Rebuild *projections.Rebuild }
		if err := json.Unmarshal(text, &all); err != nil {
			return projections.Rebuild{}, err
		}
		switch {
		case all.Rebuild == nil || all.Rebuild.State == projections.Folding:
			time.Sleep(200 * time.Millisecond)
		case all.Rebuild.State != projections.Done || all.Rebuild.Different != "":
			return projections.Rebuild{}, fmt.Errorf("a rebuild came to %s", text)
		default:
			return *all.Rebuild, nil
		}
	}
}

// memory is what a program has now and had at most.
func memory(s *server) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return ""
	}
	var now, most int
	for line := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d", &now) // other lines have others
		_, _ = fmt.Sscanf(line, "VmHWM: %d", &most)
	}
	return fmt.Sprintf("%d MiB, at most %d", now>>10, most>>10)
}
