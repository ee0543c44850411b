package fleet

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
)

// Host is one simulated host. All methods may be called at any time.
type Host struct {
	fleet  *Fleet
	spec   Spec
	family family
	files  *files
	busy   chan struct{} // holds one: the package manager's lock

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, when anything changes
	boot     *boot
	off      bool // between two boots
	down     bool // cut off by Down
	ended    bool
	key      ssh.Signer
	listener net.Listener
	conns    map[net.Conn]bool
	faults   Faults
	failing  []failure
	slow     map[string]time.Duration
	holds    map[string]chan struct{}
	commands []*Command

	version    string          // what runs
	pending    string          // what runs after the next boot, if it is not ""
	next       string          // what an upgrade brings
	rollback   string          // OSTree: the deployment before
	downloaded string          // OSTree: what can be deployed without a download
	installed  map[string]bool // packages
	enabled    map[string]bool // units
}

// A boot is a host's time between two reboots.
type boot struct {
	id       string
	ctx      context.Context // ends with the boot
	cancel   context.CancelFunc
	stopping bool

	mu        sync.Mutex
	active    map[string]bool // units
	processes map[int]context.CancelFunc
	lastPID   int
}

// Command is something an operator would care about that was run on a host:
// by a package manager, rpm-ostree, systemctl or reboot.
type Command struct {
	Host   string // its address
	Time   time.Time
	Until  time.Time // its end; if the host went down by then, when it listened again; zero: not yet
	BootID string
	Line   string // the program and its arguments, with blanks between them
	Done   bool   // false: still running, or ended by the end of the host's boot
	Exit   int
}

// Faults is what is wrong with a host. The zero value is nothing.
type Faults struct {
	RefuseKey     bool   // nobody may log in
	HangHandshake bool   // connections are accepted, and nothing is said
	DropDuring    string // connections break when a command begins that starts so
	Prints        string // by every command that Commands tells of, before anything else
	KeepVersion   bool   // the next boot brings the old version again
	StayDown      bool   // a reboot does not come back
	Noise         string // printed by the login shell before anything else
	NoSudo        bool   // sudo wants a password
}

type failure struct {
	command string
	exit    int
}

func newHost(f *Fleet, spec Spec) (*Host, error) {
	fam, ok := families[spec.OS]
	if !ok {
		return nil, fmt.Errorf("there is no OS %q", spec.OS)
	}
	spec.OSTree = spec.OSTree || fam.ostree
	spec.Release = cmp.Or(spec.Release, fam.release)
	spec.Version = cmp.Or(spec.Version, "1")
	spec.CPUs = cmp.Or(spec.CPUs, 2)
	spec.Memory = cmp.Or(spec.Memory, 4<<20)
	spec.Disk = cmp.Or(spec.Disk, 40<<20)
	spec.Arch = cmp.Or(spec.Arch, "x86_64")
	spec.Speed.Upgrade = cmp.Or(spec.Speed.Upgrade, Quick.Upgrade)
	spec.Speed.Install = cmp.Or(spec.Speed.Install, Quick.Install)
	spec.Speed.Shutdown = cmp.Or(spec.Speed.Shutdown, Quick.Shutdown)
	spec.Speed.Reboot = cmp.Or(spec.Speed.Reboot, Quick.Reboot)
	key, err := newHostKey()
	if err != nil {
		return nil, err
	}
	h := &Host{
		fleet:     f,
		spec:      spec,
		family:    fam,
		busy:      make(chan struct{}, 1),
		changed:   make(chan struct{}),
		down:      true,
		key:       key,
		conns:     map[net.Conn]bool{},
		slow:      map[string]time.Duration{},
		holds:     map[string]chan struct{}{},
		version:   spec.Version,
		next:      spec.Next,
		installed: map[string]bool{},
		enabled:   map[string]bool{},
	}
	if spec.OSTree {
		for _, name := range []string{"docker", "flannel"} {
			h.installed[name] = true
		}
	}
	h.files = h.system().sharing(h)
	h.busy <- struct{}{}
	h.newBoot()
	return h, nil
}

// system is what the host was installed with.
func (h *Host) system() *files {
	if h.spec.OSTree {
		return h.fleet.ostree
	}
	return h.fleet.plain
}

// Address is where the host listens, without the port.
func (h *Host) Address() string { return h.spec.Address }

// Spec is what the host was made from.
func (h *Host) Spec() Spec { return h.spec }

// BootID is the id of the present boot, or the last one if the host is off.
func (h *Host) BootID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boot.id
}

// Listening says whether the host can be connected to.
func (h *Host) Listening() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listener != nil
}

// Version is what runs: on OSTree hosts the booted deployment, elsewhere the kernel.
func (h *Host) Version() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.version
}

// Pending is what runs after the next boot; "" is nothing new.
func (h *Host) Pending() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pending
}

// Release makes a version the one that an upgrade brings.
func (h *Host) Release(version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = version
}

// Installed are the packages that were installed, or came with the host.
func (h *Host) Installed() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.installed))
}

// ReadFile reads a file of the host as root.
func (h *Host) ReadFile(name string) ([]byte, error) {
	text, err := h.files.read(who{ctx: context.Background()}, name)
	return slices.Clone(text), err
}

// WriteFile replaces a file of the host as root, or makes it.
func (h *Host) WriteFile(name string, text []byte) error {
	file, err := h.files.create(who{ctx: context.Background()}, name, os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return err
}

// Commands are the last 1,000 commands that ran, in the order in which they began.
func (h *Host) Commands() []Command {
	h.mu.Lock()
	defer h.mu.Unlock()
	commands := make([]Command, len(h.commands))
	for i, c := range h.commands {
		commands[i] = *c
	}
	return commands
}

const mostCommands = 1000

// Await waits until a condition on the host holds. It is looked at again
// whenever something that the methods of Host tell has changed.
func (h *Host) Await(ctx context.Context, condition func(*Host) bool) error {
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if condition(h) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for host %s: %w", h.spec.Address, ctx.Err())
		}
	}
}

// notify wakes those who wait. The caller holds h.mu.
func (h *Host) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// HostKey is the public host key.
func (h *Host) HostKey() ssh.PublicKey {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.key.PublicKey()
}

// ChangeHostKey gives the host another host key, as if it had been installed
// anew. Connections that are open stay open.
func (h *Host) ChangeHostKey() error {
	key, err := newHostKey()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.key = key
	return nil
}

// SetFaults replaces what is wrong with the host.
func (h *Host) SetFaults(f Faults) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = f
}

func (h *Host) fault() Faults {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.faults
}

// FailNext makes the next command that starts so ("dnf", "rpm-ostree upgrade")
// end with an exit status and without doing anything. Repeating it adds another.
func (h *Host) FailNext(command string, exit int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failing = append(h.failing, failure{command, exit})
}

// Slow makes every command that starts so take that much longer; 0 ends it.
func (h *Host) Slow(command string, by time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slow[command] = by
}

// Hold makes every command that starts so wait, when it has printed what Faults
// ask for and before anything else, until release.
func (h *Host) Hold(command string) (release func()) {
	hold := make(chan struct{})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds[command] = hold
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.holds[command] == hold {
			delete(h.holds, command)
		}
		close(hold)
	})
}

// Heal takes back all that SetFaults, FailNext and Slow asked for.
func (h *Host) Heal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults, h.failing = Faults{}, nil
	clear(h.slow)
}

// starts says whether a command line starts with these words.
func starts(line, command string) bool {
	rest, ok := strings.CutPrefix(line, command)
	return ok && command != "" && (rest == "" || rest[0] == ' ')
}

// watched are the programs that Commands tells of.
var watched = map[string]bool{
	"apt-get": true, "dnf": true, "yum": true, "rpm-ostree": true, "subscription-manager": true,
	"systemctl": true, "reboot": true, "shutdown": true,
}

// runWatched runs a program as FailNext, Slow, Hold and Faults ask for, and notes it
// if it is one that Commands tells of.
func (h *Host) runWatched(ctx context.Context, p *process, args []string, run func() int) int {
	line := strings.Join(args, " ")
	noted := watched[args[0]] && !starts(line, "rpm-ostree status") && !starts(line, "dnf needs-restarting")
	command := &Command{Host: h.spec.Address, Time: time.Now(), BootID: p.boot.id, Line: line}

	h.mu.Lock()
	fails, exit := false, 0
	if i := slices.IndexFunc(h.failing, func(f failure) bool { return starts(line, f.command) }); i >= 0 {
		fails, exit = true, h.failing[i].exit
		h.failing = slices.Delete(h.failing, i, i+1)
	}
	var wait time.Duration
	for command, by := range h.slow {
		if starts(line, command) {
			wait += by
		}
	}
	var hold chan struct{} // nil: there is none
	for command, c := range h.holds {
		if starts(line, command) {
			hold = c
		}
	}
	faults := h.faults
	if noted {
		if len(h.commands) == mostCommands {
			h.commands = slices.Delete(h.commands, 0, 1)
		}
		h.commands = append(h.commands, command)
		h.notify()
	}
	h.mu.Unlock()

	if starts(line, faults.DropDuring) {
		h.DropConnections()
	}
	if noted {
		io.WriteString(p.stdout, faults.Prints)
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	switch {
	case wait > 0 && !pause(ctx, wait):
		exit = 143
	case fails:
		fmt.Fprintf(p.stderr, "%s: failed, as it was told to\n", args[0])
	default:
		exit = run()
	}
	if noted {
		h.mu.Lock()
		command.Done, command.Exit = ctx.Err() == nil, exit
		if !p.boot.stopping && command.Until.IsZero() {
			command.Until = time.Now()
		}
		h.notify()
		h.mu.Unlock()
	}
	return exit
}

// Down cuts the host off: its connections break and it does not listen. What
// runs there goes on. Repeating it changes nothing.
func (h *Host) Down() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = true
	h.unplug()
}

// Up ends what Down began. A host that is off listens when it has booted.
func (h *Host) Up() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = false
	return h.plug()
}

// DropConnections breaks all connections; the host goes on listening.
func (h *Host) DropConnections() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop()
}

// Reboot makes the host reboot by itself, and returns at once. While it is
// rebooting that changes nothing.
func (h *Host) Reboot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.boot
	if b.stopping || h.ended {
		return
	}
	b.stopping = true
	h.fleet.start(func() {
		if !pause(h.fleet.ctx, h.spec.Speed.Shutdown) {
			return
		}
		h.mu.Lock()
		h.off = true
		h.unplug()
		stay := h.faults.StayDown
		h.notify()
		h.mu.Unlock()
		h.files.cutPower(b.cancel, h.system())
		if stay || !pause(h.fleet.ctx, h.spec.Speed.Reboot) {
			return
		}
		h.newBoot()
		for pause(h.fleet.ctx, time.Millisecond) {
			h.mu.Lock()
			h.off = false
			err := h.plug()
			h.notify()
			h.mu.Unlock()
			if err == nil {
				return
			}
		}
	})
}

// newBoot boots what is pending, or the same again.
func (h *Host) newBoot() {
	b := &boot{id: uuid.NewString(), processes: map[int]context.CancelFunc{}}
	b.ctx, b.cancel = context.WithCancel(h.fleet.ctx)

	h.mu.Lock()
	h.boot = b
	b.active = maps.Clone(h.enabled)
	if h.pending != "" && !h.faults.KeepVersion {
		h.version, h.rollback = h.pending, h.version
	}
	h.pending = ""
	h.mu.Unlock()
}

// plug listens if the host is on and not cut off. The caller holds h.mu.
func (h *Host) plug() error {
	if h.off || h.down || h.ended || h.listener != nil {
		return nil
	}
	now := time.Now() // before anybody can know
	listener, err := h.fleet.bind(h.spec.Address)
	if err != nil {
		return err
	}
	h.listener = listener
	for _, command := range h.commands {
		if command.BootID != h.boot.id && command.Until.IsZero() {
			command.Until = now
		}
	}
	h.fleet.start(func() { h.accept(listener) })
	return nil
}

// unplug breaks all connections and stops listening. The caller holds h.mu.
func (h *Host) unplug() {
	if h.listener != nil {
		h.listener.Close()
		h.listener = nil
	}
	h.drop()
}

// drop breaks all connections. The caller holds h.mu.
func (h *Host) drop() {
	for conn := range h.conns {
		conn.Close()
	}
}

// end is for good.
func (h *Host) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.unplug()
}

// enter notes a process, and gives it an id.
func (b *boot) enter(cancel context.CancelFunc) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastPID++
	pid := 1000 + b.lastPID
	b.processes[pid] = cancel
	return pid
}

func (b *boot) leave(pid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.processes, pid)
}
