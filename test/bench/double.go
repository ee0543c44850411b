package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/commands/sleep"
	"commissaire/test/esdb"
	"commissaire/test/longlog"
)

// doubleName is what rows call it: it is no EventStoreDB, and keeps nothing on disk,
// so they say what the adapter, its client and gRPC cost.
const doubleName = "EventStoreDB double"

// double is an EventStoreDB double in this process, with a history.
type double struct {
	*esdb.Cluster
	dir string // of the bench
}

// newDouble starts a double with the history that write makes.
func (b *bench) newDouble(hosts, events int) (double, error) {
	cluster, err := esdb.NewCluster(1)
	if err != nil {
		return double{}, err
	}
	log := longlog.New()
	log.Record = func(raw eventlog.Raw) error {
		cluster.Leader().Record("commissaire-"+string(raw.Stream), raw.ID, raw.Type, raw.Data, raw.Meta)
		return nil
	}
	if err := log.Tell(hosts, events); err != nil {
		return double{}, errors.Join(err, cluster.Close())
	}
	return double{cluster, b.dir}, nil
}

// settings are those of an instance on the double.
func (d double) settings(instance string) map[string]any {
	return map[string]any{
		"store": d.ConnectionString(), "instance": instance, "eventstoredb": map[string]any{"lease": lease.String()},
		"credentials": map[string]any{"master-key": masterKey, "keys": "file:" + filepath.Join(d.dir, "keys")},
		"operations":  map[string]any{"output-dir": filepath.Join(d.dir, "output")},
		"watch":       map[string]any{"interval": "1h"},
	}
}

const lease = 10 * time.Second // as it is unless configured otherwise

// takeover measures how long nobody leads after the leader of two instances is
// killed or stopped, until the other says that it leads.
func (b *bench) takeover(ctx context.Context) (err error) {
	const rounds = 5
	d, err := b.newDouble(10, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	var instances [2]*server
	defer func() {
		for _, s := range instances {
			if s != nil {
				s.stop()
			}
		}
	}()
	up := func(i int) (err error) {
		instances[i], err = b.service(ctx, "", d.settings(fmt.Sprintf("instance-%d", i)))
		return err
	}
	if err := errors.Join(up(0), up(1)); err != nil {
		return err
	}
	leader, err := await(ctx, instances[0], instances[1])
	if err != nil {
		return err
	}
	for _, way := range []struct {
		what string
		by   syscall.Signal
	}{{"killed", syscall.SIGKILL}, {"stopped", syscall.SIGTERM}} {
		var took []time.Duration
		for range rounds {
			if err := sleep.For(ctx, rand.N(lease/2)); err != nil { // it says again and again that it leads
				return err
			}
			began, other := time.Now(), 1-leader
			if err := instances[leader].cmd.Process.Signal(way.by); err != nil {
				return err
			}
			if _, err := await(ctx, instances[other]); err != nil {
				return err
			}
			took = append(took, time.Since(began))
			instances[leader].end(way.by)
			if err := up(leader); err != nil {
				return err
			}
			leader = other
		}
		b.row(fmt.Sprintf("another instance leads after the leader was %s, lease %s, %s", way.what, lease, doubleName),
			fmt.Sprintf("p50 %s", percentile(took, 50)), fmt.Sprintf("max %s of %d", percentile(took, 100), rounds))
	}
	return nil
}

// await waits until one of the services says that it leads, and says which.
func await(ctx context.Context, services ...*server) (int, error) {
	for {
		for i, s := range services {
			text, err := once(ctx, s.address, request(http.MethodGet, "/api/v0/status", ""))
			if err != nil {
				return 0, err
			}
			var status struct{ Leads bool }
			if err := json.Unmarshal(text, &status); err != nil {
				return 0, err
			}
			if status.Leads {
				return i, nil
			}
		}
		if err := sleep.For(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}
