// Package sshd runs hosts for tests: OpenSSH's own server on a loopback address,
// with what a machine has behind it.
//
// A host is this machine in a mount and a PID namespace of its own. It has its
// own /etc, /run, /var/lib, /var/log, /var/tmp, /tmp, /root, /home and boot id;
// everything else is the machine's, read-only. In every directory of programs a
// stand-in lies over each name in Programs, so nothing a test has done on a host
// reaches the machine. (It is no jail: root on a host could find a way out if it
// looked for one. The network is the machine's.)
//
// The first process of the namespace ends with the host or when the test's
// process does, however that ends, and with it ends all that the host runs. A
// reboot is that, and another start with the same disk and host key, another
// boot id, an empty /run and the pending deployment, if any. What is detached
// with setsid outlives its connection but not its boot.
package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// Programs are the names that stand-ins answer to.
var Programs = []string{
	"apt", "apt-get", "dnf", "dpkg", "halt", "poweroff", "reboot", "rpm", "rpm-ostree",
	"shutdown", "subscription-manager", "systemctl", "systemd-run", "yum",
}

// OS is ID and VERSION_ID in /etc/os-release.
type OS struct{ ID, Version string }

// Some operating systems.
var (
	Fedora41   = OS{"fedora", "41"}
	RHEL7      = OS{"rhel", "7.9"}
	CentOS7    = OS{"centos", "7"}
	Debian12   = OS{"debian", "12"}
	Ubuntu2404 = OS{"ubuntu", "24.04"}
)

// Host is what a host is like. The zero value is a Fedora 41 at 127.0.0.1.
type Host struct {
	Address string // of the loopback network; "" is 127.0.0.1
	Port    int    // 0: one that is free
	User    string // "" is root; anyone else may `sudo -n` everything
	OS      OS

	OSTree  bool   // has deployments, and /run/ostree-booted
	Booted  string // with OSTree: the booted deployment; "" is OS.Version
	Next    string // version that an upgrade brings; "" is that of now with ".1"
	Systemd bool   // has /run/systemd/system, hence systemd-run
}

// Server is a running host. Its methods may be called from any goroutine; those
// without an error end the test when they fail, so only from the test's own.
type Server struct {
	Address string
	Port    int
	User    string

	t      testing.TB
	host   Host
	dir    string
	user   ed25519.PrivateKey
	public xssh.PublicKey // of the host

	mu      sync.Mutex
	turned  *sync.Cond // a knob was, or the host was stopped
	knobs   map[knob]string
	boot    string
	holder  *exec.Cmd
	life    io.Closer     // keeps the host up
	over    chan struct{} // closed when the host is down and stays so
	stopped bool
}

type knob struct{ kind, prefix string }

//go:embed boot.sh
var bootScript string

//go:embed stand-in.sh
var standInScript string

const rebootStatus = 42 // of boot.sh

// Available says whether hosts can run here, and if not, why.
var Available = sync.OnceValues(func() (why string, ok bool) {
	if os.Getuid() != 0 {
		return "not root", false
	}
	for _, program := range []string{"/usr/sbin/sshd", "/usr/bin/unshare", "/usr/bin/nsenter", "/bin/bash"} {
		if _, err := os.Stat(program); err != nil {
			return "no " + program, false
		}
	}
	// With the very mounts that a host needs, read-only and gone at once.
	try := "mount -t overlay -o lowerdir=/usr/sbin:/usr/bin overlay /usr/bin && mount -o remount,ro,bind /"
	if err := exec.Command("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "/bin/bash", "-c", try).Run(); err != nil {
		return "no mount and PID namespaces with overlays", false
	}
	return "", true
})

// Start runs a host until the test ends, and returns when it answers. Where no
// host can run, the test is skipped.
func Start(t testing.TB, host Host) *Server {
	t.Helper()
	if why, ok := Available(); !ok {
		t.Skipf("%s: hosts behind OpenSSH are left out", why)
	}
	if host.Address == "" {
		host.Address = "127.0.0.1"
	}
	if host.User == "" {
		host.User = "root"
	}
	if host.OS == (OS{}) {
		host.OS = Fedora41
	}
	if host.Booted == "" {
		host.Booted = host.OS.Version
	}
	if host.Next == "" {
		host.Next = host.OS.Version + ".1"
		if host.OSTree {
			host.Next = host.Booted + ".1"
		}
	}
	if _, err := exec.LookPath("sudo"); err != nil && host.User != "root" {
		t.Skip("no sudo: hosts with another user than root are left out")
	}
	if !net.ParseIP(host.Address).IsLoopback() {
		t.Fatalf("%s is no loopback address", host.Address)
	}
	if host.Port == 0 {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(host.Address, "0"))
		if err != nil {
			t.Fatalf("find a free port: %v", err)
		}
		host.Port = listener.Addr().(*net.TCPAddr).Port
		_ = listener.Close() // its port is all that was wanted
	}
	s := &Server{
		Address: host.Address, Port: host.Port, User: host.User,
		t: t, host: host, dir: t.TempDir(), knobs: map[knob]string{},
	}
	s.turned = sync.NewCond(&s.mu)
	if err := s.install(); err != nil {
		t.Fatalf("install a host: %v", err)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			t.Logf("host %s:\n%s", s.Address, text)
		}
	})
	s.Start()
	return s
}

// install writes the disk of the host.
func (s *Server) install() error {
	_, user, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	s.user = user
	login, err := xssh.NewPublicKey(user.Public())
	if err != nil {
		return err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if s.public, err = xssh.NewPublicKey(private.Public()); err != nil {
		return err
	}
	block, err := xssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}

	for _, name := range []string{
		"etc/ssh", "etc/pam.d", "etc/sysconfig", "etc/alternatives", "lib", "home", "run", "programs", "rig/packages", "rig/repositories", "rig/units",
	} {
		if err := os.MkdirAll(filepath.Join(s.dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, "root"), 0o700); err != nil {
		return err
	}
	for _, name := range []string{"ld.so.cache", "nsswitch.conf"} {
		if text, err := os.ReadFile("/etc/" + name); err == nil {
			if err := s.write("etc/"+name, 0o644, string(text)); err != nil {
				return err
			}
		}
	}
	if err := os.CopyFS(filepath.Join(s.dir, "etc/alternatives"), os.DirFS("/etc/alternatives")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}

	name, err := os.Hostname()
	if err != nil {
		return err
	}
	passwd := "root:x:0:0::/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/bin/false\nnobody:x:65534:65534::/nonexistent:/bin/false\n"
	shadow := "root:*:20000::::::\nsshd:*:20000::::::\n"
	sudoers := "Defaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\nroot ALL=(ALL:ALL) ALL\n"
	if s.User != "root" {
		passwd += s.User + ":x:1000:1000::/home/" + s.User + ":/bin/bash\n"
		shadow += s.User + ":*:20000::::::\n"
		sudoers += s.User + " ALL=(ALL:ALL) NOPASSWD: ALL\n"
		home := filepath.Join(s.dir, "home", s.User)
		if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, 1000, 1000)); err != nil {
			return err
		}
	}
	files := []struct {
		name string
		mode os.FileMode
		text string
	}{
		{"etc/passwd", 0o644, passwd},
		{"etc/shadow", 0o600, shadow},
		{"etc/group", 0o644, "root:x:0:\nusers:x:1000:\nnogroup:x:65534:\n"},
		{"etc/sudoers", 0o440, sudoers},
		{"etc/pam.d/sudo", 0o644, "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession sufficient pam_permit.so\n"},
		{"etc/hostname", 0o644, name + "\n"},
		{"etc/hosts", 0o644, "127.0.0.1 localhost " + name + "\n"}, // sudo looks it up
		{"etc/os-release", 0o644, fmt.Sprintf("ID=%s\nVERSION_ID=%s\n", s.host.OS.ID, s.host.OS.Version)},
		{"etc/ssh/host_key", 0o600, string(pem.EncodeToMemory(block))},
		{"etc/ssh/authorized_keys", 0o644, string(xssh.MarshalAuthorizedKey(login))},
		{"etc/ssh/sshd_config", 0o644, fmt.Sprintf(`ListenAddress %s
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
AllowUsers %s
MaxStartups 100
UsePAM no
UseDNS no
`, net.JoinHostPort(s.Address, strconv.Itoa(s.Port)), s.User)},
		{"boot.sh", 0o644, bootScript},
		{"rig/marker", 0o644, ""},
		{"rig/commands", 0o666, ""},
		{"rig/knobs", 0o644, ""},
		{"rig/next", 0o644, s.host.Next + "\n"},
		{"rig/booted", 0o644, s.host.Booted + "\n"},
	}
	for _, f := range files {
		if err := s.write(f.name, f.mode, f.text); err != nil {
			return err
		}
	}
	for _, name := range Programs {
		if err := s.write("programs/"+name, 0o755, standInScript); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) write(name string, mode os.FileMode, text string) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}

// Start boots a stopped host and returns when it answers. On one that is up it
// changes nothing.
func (s *Server) Start() {
	s.t.Helper()
	s.mu.Lock()
	s.stopped = false
	var err error
	if !s.up() {
		s.over = make(chan struct{})
		if err = s.start(); err != nil {
			close(s.over)
		}
	}
	s.mu.Unlock()
	if err != nil {
		s.t.Fatalf("start host %s: %v", s.Address, err)
	}
	s.within("answers", s.answers)
}

func (s *Server) up() bool {
	if s.over == nil {
		return false
	}
	select {
	case <-s.over:
		return false
	default:
		return true
	}
}

// start boots the host. Under mu.
func (s *Server) start() error {
	id := make([]byte, 16)
	rand.Read(id)
	boot := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	if err := s.write("boot_id", 0o444, boot+"\n"); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the host has its own handle
	kind, manager := "", ""
	if s.host.OSTree {
		kind = "ostree"
	}
	if s.host.Systemd {
		manager = "systemd"
	}
	holder := exec.Command("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child", //nolint:noctx // it outlives the context of its test until the clean-up
		"/bin/bash", filepath.Join(s.dir, "boot.sh"), s.dir, kind, manager)
	holder.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	holder.Stdout, holder.Stderr = log, log
	life, err := holder.StdinPipe()
	if err != nil {
		return err
	}
	if err := holder.Start(); err != nil {
		return err
	}
	s.boot, s.holder, s.life = boot, holder, life
	go s.watch(holder, s.over)
	return nil
}

// watch boots the host again where it ended in a reboot.
func (s *Server) watch(holder *exec.Cmd, over chan struct{}) {
	_ = holder.Wait() // its state says how it ended
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.knobs[knob{"hold", "boot"}] != "" && !s.stopped {
		s.turned.Wait()
	}
	if s.stopped || holder.ProcessState.ExitCode() != rebootStatus {
		close(over)
		return
	}
	if err := s.start(); err != nil {
		s.t.Errorf("start host %s again: %v", s.Address, err)
		close(over)
	}
}

// Stop takes the host's power: all that it runs ends at once, its disk stays.
func (s *Server) Stop() {
	s.mu.Lock()
	s.stopped = true
	s.turned.Broadcast()
	over := s.over
	if s.life != nil {
		_ = s.life.Close() // it may have ended by itself
	}
	holder := s.holder
	s.mu.Unlock()
	if over == nil {
		return
	}
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		_ = holder.Process.Kill() // --kill-child takes the rest with it
		<-over
	}
}

// answers says whether sshd greets.
func (s *Server) answers() bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(s.Address, strconv.Itoa(s.Port)), time.Second) //nolint:noctx // it has a limit
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	greeting := make([]byte, 4)
	_, err = io.ReadFull(conn, greeting)
	return err == nil && string(greeting) == "SSH-"
}

func (s *Server) within(what string, holds func() bool) {
	s.t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("host %s: %s: not within 30 s", s.Address, what)
		}
	}
}

// AwaitReboot returns when the host answers from another boot than that.
func (s *Server) AwaitReboot(from string) {
	s.t.Helper()
	s.within("reboots", func() bool { return s.BootID() != from && s.answers() })
}

// AwaitCommand returns when a call that begins with prefix was made.
func (s *Server) AwaitCommand(prefix string) {
	s.t.Helper()
	s.within("runs "+prefix, func() bool {
		return slices.ContainsFunc(s.Commands(), func(c string) bool { return strings.HasPrefix(c, prefix) })
	})
}

// PrivateKey is the key that logs in, in OpenSSH's PEM form, made for this host.
func (s *Server) PrivateKey() []byte {
	block, err := xssh.MarshalPrivateKey(s.user, "")
	if err != nil {
		s.t.Fatalf("encode the key of a login: %v", err)
	}
	return pem.EncodeToMemory(block)
}

// HostKey is the host's own key, the same for all boots.
func (s *Server) HostKey() xssh.PublicKey { return s.public }

// HostKeyFingerprint is that of HostKey as ssh-keygen shows it: "SHA256:…".
func (s *Server) HostKeyFingerprint() string { return xssh.FingerprintSHA256(s.public) }

// BootID is that of the latest boot.
func (s *Server) BootID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boot
}

// Commands are all calls of stand-ins so far, in order: name and arguments,
// joined by spaces. Reboots do not clear them.
func (s *Server) Commands() []string {
	text, err := os.ReadFile(filepath.Join(s.dir, "rig/commands"))
	if err != nil {
		s.t.Fatalf("read the calls on host %s: %v", s.Address, err)
	}
	var calls []string
	for line := range strings.Lines(string(text)) {
		calls = append(calls, strings.TrimSuffix(line, "\n"))
	}
	return calls
}

// Hold makes calls that begin with prefix, such as "rpm-ostree upgrade", wait
// until release, after they are in Commands; "boot" makes reboots wait, down.
func (s *Server) Hold(prefix string) (release func()) {
	s.turn(knob{"hold", prefix}, "1")
	return func() { s.turn(knob{"hold", prefix}, "") }
}

// Print makes calls that begin with prefix print a line before anything else; ""
// takes it back. In it are no tabs, and line breaks are written \n.
func (s *Server) Print(prefix, line string) { s.turn(knob{"print", prefix}, line) }

// Fail makes calls that begin with prefix do nothing and exit with that status;
// 0 takes it back.
func (s *Server) Fail(prefix string, status int) {
	value := ""
	if status != 0 {
		value = strconv.Itoa(status)
	}
	s.turn(knob{"fail", prefix}, value)
}

// Take makes calls that begin with prefix take that long; 0 takes it back.
func (s *Server) Take(prefix string, d time.Duration) {
	value := ""
	if d != 0 {
		value = strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
	}
	s.turn(knob{"take", prefix}, value)
}

func (s *Server) turn(k knob, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.turned.Broadcast()
	if value == "" {
		delete(s.knobs, k)
	} else {
		s.knobs[k] = value
	}
	var text strings.Builder
	for k, value := range s.knobs {
		fmt.Fprintf(&text, "%s\t%s\t%s\n", k.kind, value, k.prefix)
	}
	// Calls read it meanwhile: they see the old file or the new one.
	err := s.write("rig/.knobs", 0o644, text.String())
	if err == nil {
		err = os.Rename(filepath.Join(s.dir, "rig/.knobs"), filepath.Join(s.dir, "rig/knobs"))
	}
	if err != nil {
		s.t.Errorf("turn a knob of host %s: %v", s.Address, err)
	}
}

// Exec runs a shell command on the host as root, not over SSH, and returns its
// output, which is in the error as well.
func (s *Server) Exec(ctx context.Context, command string) (string, error) {
	s.mu.Lock()
	pid := s.holder.Process.Pid
	s.mu.Unlock()
	cmd := exec.CommandContext(ctx, "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", pid), fmt.Sprintf("--pid=/proc/%d/ns/pid_for_children", pid),
		"/bin/bash", "-c", "[ -e /run/stand-ins/marker ] || exit 99 # the host is down, its number taken\n"+command)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run on host %s: %w: %s", s.Address, err, out.String())
	}
	return out.String(), nil
}

// File is a file as the host, which must be up, sees it, and its mode.
func (s *Server) File(path string) ([]byte, os.FileMode, error) {
	s.mu.Lock()
	seen := fmt.Sprintf("/proc/%d/root%s", s.holder.Process.Pid, filepath.Clean("/"+path))
	s.mu.Unlock()
	info, err := os.Stat(seen)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s of host %s: %w", path, s.Address, err)
	}
	text, err := os.ReadFile(seen)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s of host %s: %w", path, s.Address, err)
	}
	return text, info.Mode(), nil
}

// DropConnections ends the processes that serve connections; nothing else on the
// host is told.
func (s *Server) DropConnections() {
	s.t.Helper()
	_, err := s.Exec(s.t.Context(), `
read -r listener </run/sshd.pid
for process in /proc/[0-9]*; do
	pid=${process#/proc/}
	read -r name <"$process/comm" || continue
	[ "$name" != sshd ] || [ "$pid" = "$listener" ] || kill -KILL "$pid"
done 2>/dev/null
true`)
	if err != nil {
		s.t.Fatalf("drop connections: %v", err)
	}
}
