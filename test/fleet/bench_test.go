package fleet_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"commissaire/adapters/ssh"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/test/fleet"
	"commissaire/test/vault"
)

// BenchmarkWatch looks at 1,000 hosts, 64 at once: what a sweep costs, for the
// service and the simulation together. "cold" connects to each, "kept" has a
// connection to each.
func BenchmarkWatch(b *testing.B) {
	const hosts, atOnce = 1000, 64
	private, public, err := fleet.NewUserKey()
	if err != nil {
		b.Fatal(err)
	}
	f, err := fleet.Start(fleet.Config{Hosts: fleet.Mixed(hosts), User: "core", Authorized: []xssh.PublicKey{public}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(f.Close)
	all := f.Hosts()

	look := func(ctx context.Context, remote *ssh.Remote, h *fleet.Host) error {
		session, err := remote.Dial(ctx, process.Target{
			HostID: domain.HostID(h.Address()), Host: domain.Address(h.Address()), Port: f.Port(), User: "core",
			Pinned: &process.HostKey{Type: h.HostKey().Type(), Fingerprint: xssh.FingerprintSHA256(h.HostKey())},
			Leader: process.Leader{Log: "log", Term: 1},
		})
		if err != nil {
			return err
		}
		id, err := session.BootID(ctx)
		if err == nil && id != h.BootID() {
			err = fmt.Errorf("host %s says it is in boot %q", h.Address(), id)
		}
		if err != nil {
			return err
		}
		return session.Close()
	}
	sweep := func(b *testing.B, remote *ssh.Remote, looks int) {
		var next atomic.Int64
		var lookers sync.WaitGroup
		for range atOnce {
			lookers.Go(func() {
				for n := int(next.Add(1)); n <= looks; n = int(next.Add(1)) {
					if err := look(b.Context(), remote, all[n%hosts]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		lookers.Wait()
	}
	for name, keep := range map[string]int{"cold": 0, "kept": hosts} {
		b.Run(name, func(b *testing.B) {
			remote := ssh.New(ssh.Config{KeepOpen: keep, Reach: ssh.Reach{Loopback: true}}, vault.Of("", private), slog.New(slog.DiscardHandler))
			b.Cleanup(remote.Close)
			if keep > 0 {
				before := inUse()
				sweep(b, remote, hosts)
				b.Logf("a connection holds %d bytes, both sides together", (inUse()-before)/hosts)
			}
			b.ReportAllocs()
			b.ResetTimer()
			began, busy := time.Now(), cpuTime()
			sweep(b, remote, b.N)
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "looks/s")
			b.ReportMetric(float64((cpuTime()-busy).Microseconds())/float64(b.N), "cpu-µs/look")
		})
	}
}

// inUse is the memory of this process that is in use, with stacks.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// cpuTime is what this process has had of its processors: unlike the time that
// passed, it does not depend on what else they do.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
