package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/adapters/transparency"
)

// verify measures how fast a long log is held against its tree and a checkpoint:
// of the store, and of what was exported of it.
func (b *bench) verify(ctx context.Context) (err error) {
	if err := b.write(ctx, "verify", 10_000, b.events); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "verify")
	reader, err := sqlite.OpenReader(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	tree, _, err := transparency.OpenTree(filepath.Join(dir, "tree"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	file := filepath.Join(dir, "events.ndjson")
	began := time.Now()
	n, err := b.export(ctx, reader, file, tree.Append)
	if err != nil {
		return err
	}
	b.row(fmt.Sprintf("export %d events, and make the tree", n), rate(n, time.Since(began)), "")
	root, err := tree.Root(tree.Size())
	if err != nil {
		return err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as commissaire events verify does
	checkpoints := []transparency.Checkpoint{{Size: tree.Size(), Root: root}}
	for _, from := range []struct {
		name string
		feed eventlog.Feed
	}{{"the store", reader}, {"an export", cloudevents.NewFiles(nil, file)}} {
		began, used := time.Now(), processorTime()
		report, err := transparency.Verify(ctx, from.feed, tree, checkpoints, func(int) {})
		if err != nil {
			return err
		}
		if len(report.Findings) > 0 || report.Held != 1 {
			return fmt.Errorf("a clean log has findings: %v", report.Findings)
		}
		b.row(fmt.Sprintf("verify %d events of %s", report.Events, from.name), rate(int(report.Events), time.Since(began)),
			each(processorTime()-used, int(report.Events)))
	}
	return nil
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // it fails with other arguments only
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// each writes what one of n took of processor time.
func each(used time.Duration, n int) string {
	return fmt.Sprintf("%.2f µs of processor time each", float64(used.Nanoseconds())/1000/float64(n))
}

func (b *bench) export(ctx context.Context, from eventlog.Feed, path string, also func([]eventlog.Raw) error) (n int, err error) {
	out, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w, err := cloudevents.NewWriter(out, cloudevents.None)
	if err != nil {
		return 0, err
	}
	for batch, err := range eventlog.UpToHead(ctx, from.Follow(ctx, 0)) {
		if err != nil {
			return n, err
		}
		if err := errors.Join(w.Write(batch), also(batch)); err != nil {
			return n, err
		}
		n += len(batch)
	}
	return n, w.Close()
}

// merkle measures what the tree over the log costs: durable changes with and
// without it, by turns on two services.
func (b *bench) merkle(ctx context.Context) error {
	const clients, turns = 128, 11
	secret, _, err := transparency.GenerateKey("bench")
	if err != nil {
		return err
	}
	key := filepath.Join(b.dir, "signing-key")
	if err := os.WriteFile(key, secret, 0o600); err != nil {
		return err
	}
	with, used := map[string][]int{}, map[string][]time.Duration{} // a change
	settings := map[string]map[string]any{"off": {}, "on": {"log": map[string]any{
		"signing-key": "file:" + key, "checkpoint-file": filepath.Join(b.dir, "checkpoints"),
	}}}
	for turn := range turns {
		order := []string{"off", "on"}
		if turn%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			store := fmt.Sprintf("merkle-%s-%d", name, turn)
			if err := b.write(ctx, store, 10, 0); err != nil {
				return err
			}
			more := settings[name]
			more["watch"] = map[string]any{"interval": "1h"}
			if err := os.RemoveAll(filepath.Join(b.dir, "checkpoints")); err != nil {
				return err
			}
			s, err := b.service(ctx, store, more)
			if err != nil {
				return err
			}
			n, _, err := b.load(ctx, s.address, clients, http.StatusCreated, func(n int) []byte {
				return request(http.MethodPut, fmt.Sprintf("/api/v0/cluster/put-%d", n), "{}")
			})
			s.stop()
			if err != nil {
				return err
			}
			with[name] = append(with[name], n)
			used[name] = append(used[name], (s.cmd.ProcessState.UserTime()+s.cmd.ProcessState.SystemTime())/time.Duration(max(n, 1)))
		}
	}
	var ratios []float64 // of the two of a turn, which ran one after the other
	for turn := range turns {
		ratios = append(ratios, float64(with["on"][turn])/float64(with["off"][turn]))
	}
	slices.Sort(ratios)
	for name := range with {
		slices.Sort(with[name])
		slices.Sort(used[name])
	}
	off, on := with["off"][turns/2], with["on"][turns/2]
	b.row(fmt.Sprintf("PUT /cluster/{distinct}, %d clients, without and with the tree, medians of %d", clients, turns),
		fmt.Sprintf("%s, %s", rate(off, b.span), rate(on, b.span)), fmt.Sprintf("%+.1f %% in a turn; a quarter of them less than %+.1f, a quarter more than %+.1f",
			100*(ratios[turns/2]-1), 100*(ratios[turns/4]-1), 100*(ratios[turns-1-turns/4]-1)))
	less, more := used["off"][turns/2], used["on"][turns/2]
	b.row("processor time of the service for one of these, without and with the tree", fmt.Sprintf("%s, %s", less, more),
		fmt.Sprintf("%+.1f %%", 100*(float64(more)/float64(less)-1)))
	return nil
}
