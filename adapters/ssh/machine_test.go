package ssh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"commissaire/test/keys"

	xssh "golang.org/x/crypto/ssh"
)

// machine is a host for tests: this one, in a mount namespace with /etc, /run,
// /var/lib, a boot id and programs of its own, so that nothing here is changed.
type machine struct {
	dir   string
	pid   int    // of what holds its namespace
	user  string // for whom the server takes key; "" is root
	noise string // what its login shell prints first

	key     xssh.Signer   // of the user
	hostKey []xssh.Signer // of the machine
}

// standIn is the program behind every name that could do harm.
const standIn = `#!/bin/bash
[ -e /run/stand-ins ] || { echo "a stand-in ran outside of its namespace" >&2; exit 99; }
echo "${0##*/} $*" >>/run/calls
[ ! -e "/run/do-${0##*/}" ] || . "/run/do-${0##*/}"
`

// setUp makes the namespace and keeps it until its standard input ends.
const setUp = `set -e
m=$1 shell=$2
mount --bind "$m/lib" /var/lib
mount --bind "$m/boot_id" /proc/sys/kernel/random/boot_id
for program in systemctl systemd-run reboot shutdown halt poweroff apt-get apt dpkg dnf yum rpm rpm-ostree subscription-manager; do
	for directory in /bin /sbin /usr/bin /usr/sbin; do
		[ ! -e "$directory/$program" ] || mount --bind "$m/sbin/systemctl" "$directory/$program"
	done
done
mount --bind "$m/sbin" /usr/local/sbin
mount --bind "$shell" /bin/sh
mount --bind "$m/etc" /etc
mount --bind "$m/run" /run
echo ready
exec cat
`

const firstBoot = "11111111-2222-3333-4444-555555555555"

func newMachine(t *testing.T, shell string) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root: host.sh is not tried on a machine of its own")
	}
	if err := exec.CommandContext(t.Context(), "unshare", "--mount", "true").Run(); err != nil {
		t.Skip("no mount namespaces: host.sh is not tried on a machine of its own")
	}
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Skipf("no %s: host.sh is not tried with it", shell)
	}
	m := &machine{dir: t.TempDir(), key: newKey(t)}
	for _, dir := range []string{"lib", "run", "etc", "sbin"} {
		if err := os.Mkdir(filepath.Join(m.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"passwd", "group", "nsswitch.conf", "ld.so.cache"} {
		if text, err := os.ReadFile("/etc/" + name); err == nil {
			m.put(t, "etc/"+name, string(text))
		}
	}
	m.put(t, "etc/os-release", "ID=fedora\nVERSION_ID=41\n")
	m.put(t, "boot_id", firstBoot+"\n")
	m.put(t, "run/stand-ins", "")
	for _, name := range []string{"systemctl", "reboot", "dnf", "yum", "apt-get", "rpm", "dpkg", "rpm-ostree", "subscription-manager", "sudo"} {
		m.standIn(t, name)
	}
	m.put(t, "run/do-sudo", `[ "$1" = -n ] && shift && exec "$@"`)
	m.start(t, path)
	return m
}

// start makes the machine's namespace, which lives until the test ends.
func (m *machine) start(t *testing.T, shell string) {
	t.Helper()
	holder := exec.Command("unshare", "--mount", "/bin/bash", "-c", setUp, "machine", m.dir, shell)
	holder.Stderr = os.Stderr
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.killAll(t)
		in.Close()
		holder.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("set up a machine: %v", err)
	}
	m.pid = holder.Process.Pid
}

func (m *machine) standIn(t *testing.T, name string) {
	t.Helper()
	m.put(t, "sbin/"+name, standIn)
	if err := os.Chmod(filepath.Join(m.dir, "sbin", name), 0o755); err != nil {
		t.Fatal(err)
	}
}

// program puts a shell script in the place of a program.
func (m *machine) program(t *testing.T, name, script string) {
	t.Helper()
	m.put(t, "sbin/"+name, "#!/bin/sh\n"+script)
	if err := os.Chmod(filepath.Join(m.dir, "sbin", name), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) put(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// get reads a file of the machine; "" where there is none.
func (m *machine) get(name string) string {
	text, _ := os.ReadFile(filepath.Join(m.dir, name))
	return string(text)
}

// calls are the calls of stand-ins so far, without those of sudo.
func (m *machine) calls() []string {
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(m.get("run/calls")), "\n"), func(call string) bool {
		return call == "" || strings.HasPrefix(call, "sudo ")
	})
}

func (m *machine) command(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--mount", "--target", strconv.Itoa(m.pid), "--wd=/"}, arguments...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.WaitDelay = time.Second
	return cmd
}

// killAll ends what still runs in the machine's namespace, and nothing else.
func (m *machine) killAll(t *testing.T) {
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", m.pid))
	if err != nil {
		t.Errorf("find the machine's namespace: %v", err)
		return
	}
	namespaces, _ := filepath.Glob("/proc/[0-9]*/ns/mnt")
	for _, path := range namespaces {
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		if where, err := os.Readlink(path); err == nil && where == mine && pid != m.pid {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// ask runs host.sh as SSH would.
func (m *machine) ask(t *testing.T, verb string, arguments ...string) answer {
	t.Helper()
	a, err := m.tryAsk(t.Context(), verb, arguments...)
	if err != nil {
		t.Fatalf("%s: %v", verb, err)
	}
	return a
}

func (m *machine) tryAsk(ctx context.Context, verb string, arguments ...string) (answer, error) {
	marker := newMarker()
	text, err := call(marker, verb, arguments...)
	if err != nil {
		return nil, err
	}
	cmd := m.command(ctx, "/bin/sh", "-s")
	cmd.Stdin = strings.NewReader(Script + "\n" + text)
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return readAnswer(&out, marker, nil, nil)
}

// within waits for something that happens outside of this process.
func within(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.After(limit), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

func newKey(t *testing.T) xssh.Signer {
	t.Helper()
	_, key := keys.New(t)
	return key
}

// server is an SSH server in front of a machine.
type server struct {
	port  int
	mu    sync.Mutex
	conns []net.Conn
	execs []string
	open  atomic.Int64 // connections
	alive atomic.Int64 // requests for a sign of life
}

// cut breaks all connections at once.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
}

func (s *server) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.execs)
}

// serve puts m behind SSH on loopback until the test ends.
func (m *machine) serve(t *testing.T) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	user := m.user
	if user == "" {
		user = "root"
	}
	config := &xssh.ServerConfig{
		PublicKeyCallback: func(meta xssh.ConnMetadata, key xssh.PublicKey) (*xssh.Permissions, error) {
			if meta.User() == user && bytes.Equal(key.Marshal(), m.key.PublicKey().Marshal()) {
				return nil, nil
			}
			return nil, io.EOF
		},
	}
	if len(m.hostKey) == 0 {
		m.hostKey = []xssh.Signer{newKey(t)}
	}
	for _, key := range m.hostKey {
		config.AddHostKey(key)
	}
	s := &server{port: int(netip.MustParseAddrPort(listener.Addr().String()).Port())}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		s.cut()
		cancel()
		running.Wait()
	})
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			running.Go(func() { s.connection(ctx, m, conn, config) })
		}
	})
	return s
}

func (s *server) connection(ctx context.Context, m *machine, conn net.Conn, config *xssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := xssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	s.open.Add(1)
	defer s.open.Add(-1)
	go func() {
		for request := range requests {
			s.alive.Add(1)
			request.Reply(false, nil)
		}
	}()
	var running sync.WaitGroup
	defer running.Wait()
	for incoming := range channels {
		channel, requests, err := incoming.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer channel.Close()
			for request := range requests {
				var payload struct{ Command string }
				if request.Type != "exec" || xssh.Unmarshal(request.Payload, &payload) != nil {
					request.Reply(false, nil)
					continue
				}
				request.Reply(true, nil)
				s.mu.Lock()
				s.execs = append(s.execs, payload.Command)
				s.mu.Unlock()
				io.WriteString(channel, m.noise)
				cmd := m.command(ctx, "/bin/sh", "-c", payload.Command)
				cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
				status := struct{ Status uint32 }{}
				stdin, err := cmd.StdinPipe() // its end is not waited for
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					return
				}
				go func() {
					io.Copy(stdin, channel)
					stdin.Close()
				}()
				if err := cmd.Wait(); err != nil {
					status.Status = uint32(max(1, cmd.ProcessState.ExitCode()))
				}
				channel.SendRequest("exit-status", false, xssh.Marshal(status))
				return
			}
		})
	}
}
