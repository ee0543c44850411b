// Package systemd runs real hosts for tests: Debian with systemd as its first
// process, OpenSSH, sudo, apt and dnf, each in a container of systemd-nspawn on a
// bridge of their own. They boot, reboot and lose their power; packages come from
// repositories on their own disks, which a test fills.
//
// Hosts run inside only (see Enter): their disks are in memory, over one that all
// read, and their processes, mounts and networks end with the test's process. A
// machine that has lost its power is silent: its address is there no more.
package systemd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

const (
	network = "10.213.0."
	gateway = network + "254" // where the test is
)

// Host is what a host is like. The zero value but for Name and Number is a Debian
// that root logs in to.
type Host struct {
	Name   string // at most 12 bytes
	Number int    // the last part of its address
	User   string // "" is root; anyone else may `sudo -n` everything
	Fedora bool   // says that it is one, and has its packages from dnf

	Packages  []Package // that it has from the start
	Files     map[string]string
	MachineID string   // "": one of its own
	Volatile  []string // directories that each boot begins without contents
}

// Machine is a running host, in the hands of one test. Its methods may be called from any goroutine; those
// without an error end the test when they fail, so only from the test's own.
type Machine struct {
	t testing.TB
	*machine
}

type machine struct {
	Host
	Address string

	dir   string // with the machine's disk in root
	user  ed25519.PrivateKey
	key   xssh.PublicKey // of the host
	ended chan struct{}  // closed when it is off and stays so

	mu      sync.Mutex
	nspawn  *exec.Cmd
	leader  int  // the machine's first process, as it is known here
	stopped bool // it is not to boot again
	boots   int
}

// Start runs a host until the test ends, and returns when it answers.
func Start(t testing.TB, host Host) *Machine {
	t.Helper()
	if host.User == "" {
		host.User = "root"
	}
	m := &Machine{t, &machine{
		Host: host, Address: network + strconv.Itoa(host.Number),
		dir: filepath.Join(os.Getenv(inside), host.Name), ended: make(chan struct{}),
	}}
	close(m.ended)
	if err := m.install(); err != nil {
		t.Fatalf("install %s: %v", m.Name, err)
	}
	t.Cleanup(m.clean)
	m.Boot()
	return m
}

// On is the machine for a subtest.
func (m *Machine) On(t testing.TB) *Machine { return &Machine{t, m.machine} }

// install makes the disk of the machine.
func (m *Machine) install() error {
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(m.dir, name), 0o755); err != nil { //nolint:gosec // root directories of a system are
			return err
		}
	}
	disk := filepath.Join(filepath.Dir(m.dir), "disk")
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", disk, m.dir, m.dir)
	if err := do("mount", "-t", "overlay", "-o", layers, "overlay", m.path("")); err != nil {
		return err
	}
	_, user, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	m.user = user
	login, err := xssh.NewPublicKey(user.Public())
	if err != nil {
		return err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if m.key, err = xssh.NewPublicKey(private.Public()); err != nil {
		return err
	}
	block, err := xssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	if m.MachineID == "" {
		id := make([]byte, 16)
		rand.Read(id)
		m.MachineID = fmt.Sprintf("%x", id)
	}
	for _, f := range []struct {
		path string
		mode os.FileMode
		text string
	}{
		{"/etc/machine-id", 0o444, m.MachineID + "\n"},
		{"/etc/hostname", 0o644, m.Name + "\n"},
		{"/etc/hosts", 0o644, "127.0.0.1 localhost " + m.Name + "\n"},
		{"/etc/ssh/ssh_host_ed25519_key", 0o600, string(pem.EncodeToMemory(block))},
		{"/etc/ssh/keys", 0o644, string(xssh.MarshalAuthorizedKey(login))},
		{"/etc/ssh/sshd_config.d/test.conf", 0o644, "HostKey /etc/ssh/ssh_host_ed25519_key\nAuthorizedKeysFile /etc/ssh/keys\nPasswordAuthentication no\nUseDNS no\n"},
		{"/etc/apt/sources.list", 0o644, "deb [trusted=yes] file:/srv/apt ./\n"},
		{"/etc/apt/apt.conf.d/test", 0o644, "Acquire::Languages \"none\";\nDpkg::Use-Pty \"false\";\n"},
		{"/etc/yum.repos.d/test.repo", 0o644, "[test]\nname=test\nbaseurl=file:///srv/dnf\ngpgcheck=0\nmetadata_expire=0\n"},
		{"/etc/systemd/system/address.service", 0o644, `[Unit]
Description=The address of this host
DefaultDependencies=no
Before=network.target ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/ip address add ` + m.Address + `/24 dev host0
ExecStart=/bin/ip link set host0 up
`},
	} {
		if err := write(m.path(f.path), f.mode, f.text); err != nil {
			return err
		}
	}
	if m.Fedora {
		_ = os.Remove(m.path("/etc/os-release"))
		if err := write(m.path("/etc/os-release"), 0o644, "NAME=Fedora\nID=fedora\nVERSION_ID=41\n"); err != nil {
			return err
		}
	}
	for path, text := range m.Files {
		if err := write(m.path(path), mode(path, text), text); err != nil {
			return err
		}
	}
	units := m.path("/etc/systemd/system")
	for link, unit := range map[string]string{
		"sysinit.target.wants/address.service": "../address.service",
		"apt-daily.timer":                      "/dev/null", "apt-daily-upgrade.timer": "/dev/null", "dpkg-db-backup.timer": "/dev/null",
		"e2scrub_all.timer": "/dev/null", "fstrim.timer": "/dev/null",
	} {
		_ = os.Mkdir(filepath.Join(units, filepath.Dir(link)), 0o755) //nolint:gosec // it may be there
		if err := os.Symlink(unit, filepath.Join(units, link)); err != nil {
			return err
		}
	}
	if m.User != "root" {
		if err := do("chroot", m.path(""), "useradd", "--create-home", "--shell", "/bin/bash", m.User); err != nil {
			return err
		}
		if err := write(m.path("/etc/sudoers.d/test"), 0o440, m.User+" ALL=(ALL:ALL) NOPASSWD: ALL\n"); err != nil {
			return err
		}
	}
	if err := m.offer(m.Packages); err != nil || len(m.Packages) == 0 {
		return err
	}
	if m.Fedora {
		install := []string{m.path(""), "dnf", "-y", "-q", "install", base.Name}
		for _, p := range m.Packages {
			install = append(install, p.Name)
		}
		return do("chroot", install...)
	}
	return do("chroot", m.path(""), "sh", "-c", "dpkg --install /srv/apt/*.deb")
}

func (m *Machine) path(of string) string { return filepath.Join(m.dir, "root", of) }

// offer makes packages all that the machine's repository has.
func (m *Machine) offer(packages []Package) error {
	if m.Fedora {
		if err := dnfRepository(m.path(""), "/srv/dnf", packages); err != nil {
			return err
		}
		// What dnf read less than a second ago is not older than 0 s to it.
		return write(m.path("/var/cache/dnf/expired_repos.json"), 0o644, `["test"]`)
	}
	return aptRepository(m.path("/srv/apt"), packages)
}

// Offer makes packages all that the machine's repository has.
func (m *Machine) Offer(packages ...Package) {
	m.t.Helper()
	if err := m.offer(packages); err != nil {
		m.t.Fatalf("the repository of %s: %v", m.Name, err)
	}
}

// Boot boots a machine that is off and returns when it answers. On one that is up
// it changes nothing.
func (m *Machine) Boot() {
	m.t.Helper()
	m.mu.Lock()
	m.stopped = false
	var err error
	if m.off() {
		m.ended = make(chan struct{})
		if err = m.boot(); err != nil {
			close(m.ended)
		}
	}
	m.mu.Unlock()
	if err != nil {
		m.t.Fatalf("boot %s: %v", m.Name, err)
	}
	m.await("answers", m.answers)
}

func (m *Machine) off() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// boot boots the machine. Under mu.
func (m *Machine) boot() error {
	console, err := os.OpenFile(filepath.Join(m.dir, "console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }() // the container has its own handle
	// Each in control groups of its own, as each makes the same ones in its own.
	var enter strings.Builder
	enter.WriteString("set -e\n")
	for _, group := range groups(filepath.Base(os.Getenv(inside))) {
		fmt.Fprintf(&enter, "mkdir -p %s/%s && echo $$ >%s/%s/cgroup.procs\n", group, m.Name, group, m.Name)
	}
	line := []string{
		"-c", enter.String() + "exec \"$@\"", "sh", "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
		"--directory=" + m.path(""), "--machine=" + m.Name, "--uuid=" + m.MachineID, "--network-bridge=hosts",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only",
	}
	for _, dir := range m.Volatile {
		line = append(line, "--tmpfs="+dir+":mode=755")
	}
	nspawn := exec.Command("sh", line...) //nolint:noctx // it outlives the context of its test until the clean-up
	nspawn.Stdout, nspawn.Stderr = console, console
	if err := nspawn.Start(); err != nil {
		return err
	}
	m.nspawn, m.leader, m.boots = nspawn, 0, m.boots+1
	go m.watch(nspawn, m.ended)
	return nil
}

// rebooted is the exit status of nspawn where the machine rebooted.
const rebooted = 133

// watch boots the machine again where it ended in a reboot.
func (m *Machine) watch(nspawn *exec.Cmd, ended chan struct{}) {
	_ = nspawn.Wait() // its state says how it ended
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leader = 0
	if m.stopped || nspawn.ProcessState.ExitCode() != rebooted {
		close(ended)
		return
	}
	if err := m.boot(); err != nil { // which whoever waits for the machine comes to know
		close(ended)
	}
}

// Cut takes the machine's power: all that it runs ends at once, what it wrote to
// its disk stays.
func (m *Machine) Cut() {
	m.t.Helper()
	first := m.first()
	m.mu.Lock()
	m.stopped = true
	ended := m.ended
	m.mu.Unlock()
	if first != 0 {
		_ = syscall.Kill(first, syscall.SIGKILL)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = m.nspawn.Process.Kill()
		<-ended
	}
}

func (m *Machine) clean() {
	if m.t.Failed() {
		console, _ := os.ReadFile(filepath.Join(m.dir, "console"))
		journal, _ := m.Try("journalctl --no-pager -q -n 60 -o short-precise")
		m.t.Logf("%s:\n%s\n%s", m.Name, console[max(0, len(console)-2000):], journal)
	}
	m.Cut()
	for range 50 { // the last of it may be about to end
		if do("umount", m.path("")) == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = os.RemoveAll(m.dir)
}

// first is the machine's first process, as it is known here; 0 while there is none.
func (m *Machine) first() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader == 0 && m.nspawn != nil {
		m.leader = firstBelow(m.nspawn.Process.Pid)
	}
	return m.leader
}

// firstBelow is the process below another one that is the first of a namespace.
func firstBelow(pid int) int {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for child := range strings.FieldsSeq(string(children)) {
		id, _ := strconv.Atoi(child)
		status, _ := os.ReadFile("/proc/" + child + "/status")
		for line := range strings.Lines(string(status)) {
			if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
				if in := strings.Fields(ids); len(in) > 1 && in[len(in)-1] == "1" {
					return id
				}
			}
		}
		if found := firstBelow(id); found != 0 {
			return found
		}
	}
	return 0
}

var errOff = errors.New("it is off")

// Try runs a script on the machine as root, beside all that it does, and returns
// what it prints.
func (m *Machine) Try(script string) (string, error) {
	first := m.first()
	if first == 0 {
		return "", errOff
	}
	cmd := exec.CommandContext(context.Background(), "nsenter", "--target", strconv.Itoa(first), //nolint:gosec // it is the test's own script
		"--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "/bin/sh", "-c", script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Run is Try for what must succeed.
func (m *Machine) Run(script string) string {
	m.t.Helper()
	out, err := m.Try(script)
	if err != nil {
		m.t.Fatalf("on %s: %s: %v\n%s", m.Name, script, err, out)
	}
	return out
}

// Until runs a script again and again until it succeeds.
func (m *Machine) Until(script string) {
	m.t.Helper()
	m.await(script, func() bool {
		_, err := m.Try(script)
		return err == nil
	})
}

// Boots is how often the machine booted.
func (m *Machine) Boots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boots
}

// answers says whether sshd greets.
func (m *Machine) answers() bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(m.Address, "22"), time.Second) //nolint:noctx // it has a limit
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

func (m *Machine) await(what string, holds func() bool) {
	m.t.Helper()
	deadline, tick := time.After(60*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			m.t.Fatalf("%s: %s: not within 60 s", m.Name, what)
		}
	}
}

// PrivateKey is the key that logs in, in OpenSSH's PEM form, made for this host.
func (m *Machine) PrivateKey() []byte {
	block, err := xssh.MarshalPrivateKey(m.user, "")
	if err != nil {
		m.t.Fatalf("encode the key of a login: %v", err)
	}
	return pem.EncodeToMemory(block)
}

// HostKey is the host's own key, the same for all boots.
func (m *Machine) HostKey() xssh.PublicKey { return m.key }

// State is what dpkg says of a package: "ii  2" where that version is installed.
func (m *Machine) State(name string) string {
	m.t.Helper()
	return m.Run("dpkg-query -W -f '${db:Status-Abbrev} ${Version}' " + name)
}
