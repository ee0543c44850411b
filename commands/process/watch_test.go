package process

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
)

// doors are hosts that let themselves be kept, or not, and count logins.
type doors struct {
	fakeHost
	pooled map[domain.HostID]bool
	logins map[domain.HostID]int
}

type doorway struct {
	*fakeHost
	reused bool
}

func (d doorway) Reused() bool { return d.reused }

func (d *doors) Dial(ctx context.Context, target Target) (Session, error) {
	if _, err := d.fakeHost.Dial(ctx, target); err != nil {
		return nil, err
	}
	reused := d.pooled[target.HostID]
	if !reused {
		d.logins[target.HostID]++
	}
	return doorway{&d.fakeHost, reused}, nil
}

func TestHostsThatMustBeLoggedInToAreLookedAtMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 40
		d := &doors{pooled: map[domain.HostID]bool{"1": true}, logins: map[domain.HostID]int{}}
		r := newRoll(t, d, restart, hosts, func(*event.Policy) {})
		r.record(event.RosterStream, event.OperationCompleted{Operation: "o", ClusterID: "i", Cluster: "c"})
		r.config.WatchInterval, r.config.WatchConcurrency, r.config.WatchMisses = time.Minute, 1, 3
		left, sweeps := map[domain.HostID]bool{}, 0
		sweep := func() (looks map[domain.HostID]bool, e event.SweepFinished) {
			t.Helper()
			r.applied()
			before := d.dials
			r.sweep(t.Context(), time.Now().UTC())
			r.applied()
			all := r.history(event.WatchStream)
			if sweeps++; len(all) != sweeps {
				t.Fatalf("%d sweeps are recorded of %d", len(all), sweeps)
			}
			e = all[len(all)-1].(event.SweepFinished)
			for _, id := range e.Left {
				if left[id] {
					t.Errorf("%s is left again", id)
				}
				left[id] = true
			}
			for _, id := range e.Looked {
				if !left[id] {
					t.Errorf("%s was not left", id)
				}
				delete(left, id)
			}
			if d.dials-before != hosts-len(left) {
				t.Errorf("%d looks, and of %d hosts %d are left", d.dials-before, hosts, len(left))
			}
			return left, e
		}
		for range 30 {
			sweep()
		}
		from := maps.Clone(d.logins)
		most := 0
		for range 16 { // in which each is looked at every eighth time: a minute each, and 15 at most
			left, _ := sweep()
			most = max(most, hosts-len(left))
		}
		for id, n := range d.logins {
			if n-from[id] != 2 {
				t.Errorf("%s was logged in to %d times", id, n-from[id])
			}
		}
		if d.logins["1"] != 0 || left["1"] {
			t.Error("the host whose connection is kept was left, or logged in to")
		}
		if most > hosts/3 {
			t.Errorf("%d looks in one sweep", most)
		}

		d.pooled["2"] = true
		for range 8 {
			sweep()
		}
		for range 3 {
			if sweep(); left["2"] {
				t.Error("left though its connection is kept by now")
			}
		}

		d.dial = func() error { return &Unreachable{"away"} }
		var silent []domain.HostID
		for range 11 {
			_, e := sweep()
			silent = append(silent, e.Missed...)
		}
		slices.Sort(silent)
		if len(slices.Compact(silent)) != hosts || len(left) != 0 {
			t.Errorf("missed are %d, and %d are left alone though they do not answer", len(silent), len(left))
		}
		for i := range hosts {
			if host := r.world.hosts[r.started.Hosts[i].HostID]; !host.Silent() {
				t.Errorf("host %d is not silent", i+1)
			}
		}
		d.dial = nil
		if _, e := sweep(); len(e.Answered) != hosts {
			t.Errorf("%d answered", len(e.Answered))
		}
	})
}
