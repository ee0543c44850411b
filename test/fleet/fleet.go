// Package fleet is a fleet of simulated hosts that are reached by real SSH: for
// demonstrations, and for tests of many hosts and of what goes wrong with them.
//
// Every host has a loopback address of its own (127.0.0.0/8), all have the same
// port, and each is another machine: its own host key, operating system,
// versions, boot id, files, speed and faults. What is sent to a host is run by a
// shell interpreter in this process, on a file system in memory and with programs
// written for it, so the script that Commissaire sends to real hosts is what runs
// here. Nothing of the machine itself is read, run or changed: what is not among
// the programs of a host is "command not found".
//
// Decisions:
//
//   - A host is as real as Commissaire can tell: flock locks, a reboot ends all
//     processes and empties /run, what a transaction had not finished has not
//     happened, permissions hold for a user that is not root. There are no
//     groups, links or signals, and no process table.
//   - A command goes on when its connection breaks, until it next writes there;
//     then it ends, with all that it began and did not detach (setsid, nohup,
//     systemd-run). What is detached or in the background outlives the session.
//     A session ends with its command, whatever still has its output open.
//   - Time runs at Config.Second a second for everything a host sees: sleep,
//     timeout, date, the times of files. How long upgrades and reboots take is
//     said in real time (Speed).
//   - A host that is off or down does not listen: dialling it is refused at once.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Config says what a fleet is made of.
type Config struct {
	// Port is where all hosts listen. 0 takes one that is free for all of them.
	Port int

	// Hosts are the hosts, each with another address.
	Hosts []Spec

	// User may log in with the keys in Authorized; "" is root. Another user
	// than root becomes root by sudo -n.
	User       string
	Authorized []ssh.PublicKey

	// Second is how long a second lasts for the hosts; 0 is a real one.
	Second time.Duration
}

// Spec describes a host as it is at first.
type Spec struct {
	Address string // in 127.0.0.0/8
	OS      OS
	Release string // VERSION_ID, such as "41"; "" takes the usual one
	OSTree  bool   // Atomic, CoreOS and Bootc always are

	// Version is what runs: on OSTree hosts the booted deployment, elsewhere the
	// kernel. Next is what an upgrade brings; "" is nothing new.
	Version, Next string

	// Packages can be installed besides those of the OS.
	Packages []string

	CPUs   int   // 0: 2
	Memory int64 // kilobytes; 0: 4 GiB
	Disk   int64 // kilobytes; 0: 40 GiB
	Arch   string

	Speed Speed
}

// Speed is how long things take on a host, in real time. What is 0 takes the
// time of Quick.
type Speed struct {
	Upgrade  time.Duration // upgrade or deploy
	Install  time.Duration // install a package
	Shutdown time.Duration // from the reboot command to the end of all processes
	Reboot   time.Duration // from there until the host listens again
}

// Quick is a speed for tests.
var Quick = Speed{
	Upgrade:  20 * time.Millisecond,
	Install:  5 * time.Millisecond,
	Shutdown: 5 * time.Millisecond,
	Reboot:   50 * time.Millisecond,
}

// An OS is a family of operating systems.
type OS string

// The families there are.
const (
	Atomic OS = "atomic" // Fedora on OSTree
	Fedora OS = "fedora"
	CentOS OS = "centos"
	RHEL   OS = "rhel"
	Debian OS = "debian"
	Ubuntu OS = "ubuntu"

	Rocky    OS = "rocky"    // like rhel
	Raspbian OS = "raspbian" // of two flavours of the kernel
	CoreOS   OS = "coreos"   // Fedora on OSTree, whose updates Zincati drives
	Bootc    OS = "bootc"    // Fedora from an image, without rpm-ostree
	Arch     OS = "arch"     // which nobody here knows
)

// Fleet is a running fleet.
type Fleet struct {
	port   int
	hosts  []*Host
	byAddr map[string]*Host
	login  login
	clock  clock
	plain  *files // what hosts are installed with
	ostree *files // the same for OSTree hosts

	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup
}

// Start starts all hosts of a fleet. Close ends it.
func Start(c Config) (*Fleet, error) {
	f := &Fleet{
		port:   c.Port,
		byAddr: map[string]*Host{},
		login:  login{user: cmp.Or(c.User, "root"), keys: c.Authorized},
		clock:  newClock(cmp.Or(c.Second, time.Second)),
	}
	f.plain = install(f.clock.now, f.login.user, false)
	f.ostree = install(f.clock.now, f.login.user, true)
	f.ctx, f.cancel = context.WithCancel(context.Background())
	for _, spec := range c.Hosts {
		ip, err := netip.ParseAddr(spec.Address)
		switch {
		case err != nil:
			return nil, fmt.Errorf("start host: %w", err)
		case !ip.Is4() || !ip.IsLoopback():
			return nil, fmt.Errorf("start host %s: its address is not in 127.0.0.0/8", spec.Address)
		case f.byAddr[spec.Address] != nil:
			return nil, fmt.Errorf("start host %s: there are two of them", spec.Address)
		}
		h, err := newHost(f, spec)
		if err != nil {
			return nil, fmt.Errorf("start host %s: %w", spec.Address, err)
		}
		f.hosts = append(f.hosts, h)
		f.byAddr[spec.Address] = h
	}
	for tries := 0; ; tries++ {
		err := f.listen()
		if err == nil {
			return f, nil
		}
		for _, h := range f.hosts {
			h.Down()
		}
		if c.Port != 0 || tries == 10 || !errors.Is(err, syscall.EADDRINUSE) {
			f.Close()
			return nil, err
		}
		f.port = 0 // somebody else has that port on one of the addresses
	}
}

func (f *Fleet) listen() error {
	for _, h := range f.hosts {
		if err := h.Up(); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all hosts and all that runs on them. Repeating it changes nothing.
func (f *Fleet) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	for _, h := range f.hosts {
		h.end()
	}
	f.work.Wait()
}

// Port is where all hosts listen.
func (f *Fleet) Port() int { return f.port }

// Hosts are all hosts, as they were given.
func (f *Fleet) Hosts() []*Host { return slices.Clone(f.hosts) }

// Host is the host at an address; nil if there is none.
func (f *Fleet) Host(address string) *Host { return f.byAddr[address] }

// bind starts to listen for a host.
func (f *Fleet) bind(address string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(f.ctx, "tcp4", net.JoinHostPort(address, strconv.Itoa(f.port)))
	if err != nil {
		return nil, err
	}
	if f.port == 0 {
		f.port = listener.Addr().(*net.TCPAddr).Port
	}
	return listener, nil
}

// start runs work that Close waits for. After Close it runs nothing.
func (f *Fleet) start(work func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.work.Go(work)
	}
}

// Mixed describes n hosts at 127.0.1.1 and upward: atomic, fedora, centos, rhel
// and debian in turn, of different sizes, each with an upgrade waiting. n is at
// most 64,000.
func Mixed(n int) []Spec {
	mix := []Spec{
		{OS: Atomic, Release: "41", Version: "41.20250101.0", Next: "41.20250215.0"},
		{OS: Fedora, Release: "41", Version: "6.11.4-301.fc41.x86_64", Next: "6.12.15-200.fc41.x86_64"},
		{OS: CentOS, Release: "7", Version: "3.10.0-1160.el7.x86_64", Next: "3.10.0-1160.119.1.el7.x86_64"},
		{OS: RHEL, Release: "7.9", Version: "3.10.0-1160.el7.x86_64", Next: "3.10.0-1160.119.1.el7.x86_64"},
		{OS: Debian, Release: "12", Version: "6.1.0-28-amd64", Next: "6.1.0-31-amd64"},
	}
	specs := make([]Spec, n)
	for i := range specs {
		specs[i] = mix[i%len(mix)]
		specs[i].Address = fmt.Sprintf("127.0.%d.%d", 1+i/254, 1+i%254)
		specs[i].CPUs = 2 << (i % 3)
		specs[i].Memory = int64(specs[i].CPUs) * 2 << 20
		specs[i].Disk = int64(40+20*(i%4)) << 20
	}
	return specs
}

// A clock runs faster or slower than the real one, from the time it was made.
type clock struct {
	start  time.Time
	second time.Duration
}

var longAgo = time.Unix(1, 0)

func newClock(second time.Duration) clock { return clock{time.Now(), second} }

func (c clock) now() time.Time {
	return c.start.Add(time.Duration(float64(time.Since(c.start)) * float64(time.Second) / float64(c.second)))
}

// real is how long a duration of this clock really lasts.
func (c clock) real(d time.Duration) time.Duration {
	return time.Duration(float64(d) * float64(c.second) / float64(time.Second))
}

// pause waits, and says whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
