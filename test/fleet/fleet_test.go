package fleet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// rig is a fleet and somebody who may log in there.
type rig struct {
	*Fleet
	signer ssh.Signer
}

func start(t testing.TB, c Config) rig {
	t.Helper()
	private, public, err := NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	c.Authorized = []ssh.PublicKey{public}
	f, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return rig{f, signer}
}

// one starts a fleet of one host.
func one(t testing.TB, spec Spec) (rig, *Host) {
	t.Helper()
	spec.Address = "127.0.1.1"
	r := start(t, Config{Hosts: []Spec{spec}, Second: 10 * time.Millisecond})
	return r, r.Host(spec.Address)
}

func (r rig) dial(h *Host, user string) (*ssh.Client, error) {
	return ssh.Dial("tcp", net.JoinHostPort(h.Address(), fmt.Sprint(r.Port())), &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(r.signer)},
		HostKeyCallback: ssh.FixedHostKey(h.HostKey()),
		Timeout:         5 * time.Second,
	})
}

func (r rig) connect(t testing.TB, h *Host) *ssh.Client {
	t.Helper()
	client, err := r.dial(h, "root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// runScript runs a script by sh -s and gives its output and exit status.
func runScript(t testing.TB, client *ssh.Client, text string) (string, int) {
	t.Helper()
	return runCommand(t, client, "/bin/sh -s", text)
}

func runCommand(t testing.TB, client *ssh.Client, line, input string) (string, int) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	session.Stdin = strings.NewReader(input)
	out, err := session.CombinedOutput(line)
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		return string(out), exit.ExitStatus()
	}
	if err != nil {
		t.Fatalf("run %q: %v (output %q)", line, err, out)
	}
	return string(out), 0
}

func await(t *testing.T, h *Host, condition func(*Host) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := h.Await(ctx, condition); err != nil {
		t.Fatal(err)
	}
}

var (
	atomicHost = Spec{OS: Atomic, Version: "41.1", Next: "41.2"}
	fedoraHost = Spec{OS: Fedora, Version: "6.11.4", Next: "6.12.1"}
)

func TestAHostRunsWhatAShellRuns(t *testing.T) {
	r, h := one(t, atomicHost)
	client := r.connect(t, h)
	for _, c := range []struct{ name, text, out string }{
		{"a pipe", `printf 'a\nb\nc\n' | tail -n 2 | head -n 1`, "b\n"},
		{"files", `umask 077; mkdir -p /var/a/b && echo x >/var/a/b/f && mv /var/a/b/f /var/a/g && cat /var/a/g; cd /var/a && ls 2>/dev/null || echo *`, "x\nb g\n"},
		{"ends of files", `printf 'a\nb\nc' >/tmp/t; for n in 1 9; do tail -n $n /tmp/t; echo; tail -c $n /tmp/t; echo; tail -c $n </tmp/t; echo; done; tail -n +2 /tmp/t; tail -c +4 /tmp/t; tail -2 </tmp/t; wc -c </tmp/t`, "c\nc\nc\na\nb\nc\na\nb\nc\na\nb\nc\nb\nc\ncb\nc5\n"},
		{"append", `echo 1 >>/tmp/f; echo 2 >>/tmp/f; wc -l </tmp/f; wc -c /tmp/f`, "2\n4 /tmp/f\n"},
		{"a heredoc", "while read -r x; do echo \"<$x>\"; done <<EOF\none\ntwo\nEOF\n", "<one>\n<two>\n"},
		{"base64", `echo aGVsbG8= | base64 -d; printf hello | base64`, "helloaGVsbG8=\n"},
		{"sha256sum", `printf '' | sha256sum`, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  -\n"},
		{"nested shells", `printf 'a\nb\n' | sh -c 'read -r x; read -r y; echo "$y$x$1"' name arg`, "baarg\n"},
		{"an unknown program", `gcc -v 2>&1; echo $?; command -v gcc || echo none; command -v mv`, "sh: gcc: command not found\n127\nnone\n/usr/bin/mv\n"},
		{"the machine's own files", `cat /etc/hostname /proc/self/status 2>&1; [ -e /usr/bin/perl ] || echo no`, "cat: /etc/hostname: No such file or directory\ncat: /proc/self/status: No such file or directory\nno\n"},
		{"the simulation's variables", `echo "${HOME} ${GOPATH-unset} ${TMPDIR-unset}"`, "/root unset unset\n"},
		{"each shell has its id", `a=$$; b=$(sh -c 'echo $$'); [ "$a" != "$b" ] && echo differ`, "differ\n"},
		{"exec and exit", `(exec sh -c 'exit 3'); echo $?; sh -c 'kill $$'; echo $?`, "3\n143\n"},
		{"timeout", `timeout 1 sleep 1000; echo $?; timeout 1000 echo in time`, "124\nin time\n"},
		{"find", `mkdir -p /var/t/old /var/t/new/sub; find /var/t -mindepth 1 -maxdepth 1 -mtime -1 -exec rm -rf {} +; echo /var/t/*`, "/var/t/*\n"},
		{"noise of a trap", `trap 'echo bye' EXIT; echo hi`, "hi\nbye\n"},
		{"a line of a file", `printf " it's \\\\n \t\nrest\n" >/tmp/l; read -r x </tmp/l; echo "$? <$x>"; printf half >/tmp/l; read -r x </tmp/l; echo "$? <$x>"; { read -r x </tmp/none; } 2>&1 || echo "$x" kept`, "0 <it's \\n>\n1 <half>\nsh: /tmp/none: No such file or directory\nhalf kept\n"},
		{"uname, nproc", `uname -m; nproc --all; head -n 1 /proc/meminfo`, "x86_64\n2\nMemTotal:        4194304 kB\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, _ := runScript(t, client, c.text); out != c.out {
				t.Errorf("printed %q, want %q", out, c.out)
			}
		})
	}
	if _, exit := runScript(t, client, "exit 7"); exit != 7 {
		t.Errorf("exit status %d, want 7", exit)
	}
	if out, exit := runScript(t, client, "if then"); exit != 2 {
		t.Errorf("a syntax error ends with %d (%q), want 2", exit, out)
	}
}

func TestAShellAnswersLineByLine(t *testing.T) {
	r, h := one(t, atomicHost)
	session, err := r.connect(t, h).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("sudo -n /bin/sh -s"); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(out)
	for _, c := range []struct {
		pieces []string
		want   string
	}{
		{[]string{"echo one\n"}, "one"},
		{[]string{"x=two; y() (\n", "\tcd /tmp; x=not\n", ")\ny; ec", "ho $x $(pwd)\n"}, "two /root"},
		{[]string{"echo 'a line \n", "break' | tail -n 1\n"}, "break"},
		{[]string{"echo th\\\n", "ree\n"}, "three"},
		{[]string{"cat <<END\n", "four\n", "END\n"}, "four"},
		{[]string{"# " + strings.Repeat("long ", 5000) + "\necho five\n"}, "five"},
		{[]string{"false\n", "echo $?\n"}, "1"},
		{[]string{"(sleep 1; echo later) & echo now; wait\n"}, "now"},
		{nil, "later"},
		{[]string{"trap 'echo bye' EXIT\nexit 3\necho not\n"}, "bye"},
	} {
		for _, piece := range c.pieces {
			if _, err := io.WriteString(in, piece); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := answers.ReadString('\n'); got != c.want+"\n" {
			t.Fatalf("%q is answered with %q, want %q (%v)", c.pieces, got, c.want, err)
		}
	}
	var exit *ssh.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("it ended with %v", err)
	}
}

func TestAScriptThatDiffersAtItsEndIsParsedAnew(t *testing.T) {
	r, h := one(t, atomicHost)
	client := r.connect(t, h)
	long := "say() {\n" + strings.Repeat("\t: nothing at all\n", 100) + "\tprintf '%s\\n' \"$1\"\n}\n"
	for i := range 6 {
		want := fmt.Sprintf("call %d", i)
		if out, _ := runScript(t, client, long+"say '"+want+"'\n"); out != want+"\n" {
			t.Errorf("printed %q, want %q", out, want)
		}
	}
	before := len(parsed.heads)
	runScript(t, client, long+"cat <<E; say 'x'\nbody\nE\n")
	if before == 0 {
		t.Error("the common head was not kept")
	}
}

func TestEachHostIsAnotherMachine(t *testing.T) {
	r := start(t, Config{Hosts: Mixed(10)})
	keys, boots := map[string]bool{}, map[string]bool{}
	for _, h := range r.Hosts() {
		out, exit := runScript(t, r.connect(t, h), "cat /proc/sys/kernel/random/boot_id; . /etc/os-release; echo $ID; [ -e /run/ostree-booted ] && rpm-ostree status --json; df -Pkl; :")
		if exit != 0 {
			t.Errorf("%s: exit status %d: %s", h.Address(), exit, out)
		}
		if !strings.HasPrefix(out, h.BootID()+"\n") {
			t.Errorf("%s: its boot id %s is not in %q", h.Address(), h.BootID(), out)
		}
		want := string(h.Spec().OS)
		if h.Spec().OSTree {
			want = "fedora"
		}
		if !strings.Contains(out, "\n"+want+"\n") || strings.Contains(out, `"booted": true`) != h.Spec().OSTree {
			t.Errorf("%s is not %s: %s", h.Address(), h.Spec().OS, out)
		}
		keys[string(h.HostKey().Marshal())] = true
		boots[h.BootID()] = true
	}
	if len(keys) != 10 || len(boots) != 10 {
		t.Errorf("10 hosts have %d keys and %d boot ids", len(keys), len(boots))
	}
}

func TestAnUpgradeTakesEffectWithTheNextBoot(t *testing.T) {
	for _, c := range []struct {
		spec    Spec
		command string
	}{
		{atomicHost, "rpm-ostree upgrade"},
		{Spec{OS: Atomic, Version: "41.1", Next: "41.9"}, "rpm-ostree deploy -- 41.2"},
		{fedoraHost, "dnf -y upgrade"},
		{Spec{OS: CentOS, Version: "3.10.0", Next: "3.10.1"}, "yum -y update"},
		{Spec{OS: Debian, Version: "6.1.0", Next: "6.1.1"}, "apt-get update && apt-get -y -o Dpkg::Options::=--force-confold dist-upgrade"},
	} {
		t.Run(c.command, func(t *testing.T) {
			r, h := one(t, c.spec)
			before, version := h.BootID(), h.Version()
			client := r.connect(t, h)
			if out, exit := runScript(t, client, c.command); exit != 0 {
				t.Fatalf("exit status %d: %s", exit, out)
			}
			pending := h.Pending()
			if h.Version() != version || pending == "" || pending == version {
				t.Fatalf("runs %s, pending %q", h.Version(), pending)
			}
			runScript(t, client, "echo kept >/var/kept; echo lost >/run/lost; systemctl reboot")
			client.Wait()
			await(t, h, func(h *Host) bool { return h.BootID() != before && h.Listening() })
			if h.Version() != pending || h.Pending() != "" {
				t.Errorf("runs %s, pending %q, want %s", h.Version(), h.Pending(), pending)
			}
			if out, _ := runScript(t, r.connect(t, h), "cat /var/kept /run/lost 2>/dev/null"); out != "kept\n" {
				t.Errorf("after the reboot there is %q", out)
			}
			commands := h.Commands()
			if last := commands[len(commands)-1]; last.Line != "systemctl reboot" || last.BootID != before {
				t.Errorf("the last command is %+v", last)
			}
		})
	}
}

func TestOneTransactionAtATime(t *testing.T) {
	r, h := one(t, Spec{OS: Atomic, Version: "1", Next: "2", Speed: Speed{Upgrade: time.Minute}})
	client := r.connect(t, h)
	runScript(t, client, "setsid rpm-ostree upgrade >/dev/null 2>&1 </dev/null &")
	await(t, h, func(h *Host) bool { return len(h.busy) == 0 })
	if out, exit := runScript(t, client, "rpm-ostree upgrade"); exit != 1 || !strings.Contains(out, "in progress") {
		t.Errorf("a second upgrade: %d %q", exit, out)
	}
	boot := h.BootID()
	h.Reboot() // in the middle of the first
	await(t, h, func(h *Host) bool { return h.BootID() != boot })
	if h.Version() != "1" || h.Pending() != "" {
		t.Errorf("runs %s, pending %q after an upgrade was cut short", h.Version(), h.Pending())
	}
	if first := h.Commands()[0]; first.Done {
		t.Errorf("a command that was cut short is done: %+v", first)
	}
}

func TestFlockHoldsWithinAHost(t *testing.T) {
	r, h := one(t, atomicHost)
	client := r.connect(t, h)
	runScript(t, client, "echo 0 >/var/n")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			runScript(t, client, `flock /var/lock sh -c 'read -r n </var/n; sleep 0.1; echo $((n + 1)) >/var/n'`)
		})
	}
	wg.Wait()
	if out, _ := runScript(t, client, "cat /var/n"); out != "20\n" {
		t.Errorf("20 increments under a lock make %q", out)
	}
}

func TestALockIsHeldByWhatIsDetachedUnderIt(t *testing.T) {
	for _, c := range []struct{ option, want string }{{"", "held\n"}, {"-o", "free\n"}} {
		r, h := one(t, atomicHost)
		client := r.connect(t, h)
		out, _ := runScript(t, client, `
			flock `+c.option+` /var/lock sh -c 'setsid sleep 100000 >/dev/null 2>&1 </dev/null & echo started >/var/started'
			flock -n /var/lock true && echo free || echo held`)
		if out != c.want {
			t.Errorf("flock %s: %q, want %q", c.option, out, c.want)
		}
		r.Close()
	}
}

func TestDetachedWorkOutlivesItsConnection(t *testing.T) {
	r, h := one(t, atomicHost)
	client := r.connect(t, h)
	runScript(t, client, `setsid sh -c 'until [ -e /var/go ]; do sleep 0.1; done; rpm-ostree upgrade' >/dev/null 2>&1 </dev/null &`)
	client.Close()
	runScript(t, r.connect(t, h), ": >/var/go")
	await(t, h, func(h *Host) bool { return h.Pending() == "41.2" })
}

func TestWorkInTheBackgroundOutlivesItsShell(t *testing.T) {
	for _, text := range []string{
		`(sleep 2; rpm-ostree upgrade) >/dev/null 2>&1 &`,
		`(sleep 2 && setsid rpm-ostree upgrade >/dev/null 2>&1 &)`,
		`f() { rpm-ostree upgrade >/dev/null; }; x=$(f & echo begun)`,
		`systemd-run --unit=upgrade /bin/sh -c 'sleep 2; rpm-ostree upgrade'`,
	} {
		r, h := one(t, atomicHost)
		runScript(t, r.connect(t, h), text)
		await(t, h, func(h *Host) bool { return h.Pending() == "41.2" })
		r.Close()
	}
}

func TestWhoWritesToABrokenConnectionEnds(t *testing.T) {
	r, h := one(t, atomicHost)
	client := r.connect(t, h)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	// The first survives the second, in whose session it was begun.
	if err := session.Start(`setsid sh -c 'until [ -e /var/go ]; do sleep 1; done; systemctl restart docker' >/dev/null 2>&1 &
		while :; do echo "$(date)"; sleep 1; systemctl daemon-reload; done`); err != nil {
		t.Fatal(err)
	}
	await(t, h, func(h *Host) bool { return len(h.Commands()) > 2 })
	client.Close()
	client = r.connect(t, h)
	processes := func() int {
		h.boot.mu.Lock()
		defer h.boot.mu.Unlock()
		return len(h.boot.processes)
	}
	for tries := 0; processes() > 1; tries++ {
		if tries == 200 {
			t.Fatalf("%d processes are left, want the detached one", processes())
		}
		runScript(t, client, "sleep 1")
	}
	runScript(t, client, ": >/var/go")
	await(t, h, func(h *Host) bool {
		commands := h.Commands()
		return commands[len(commands)-1].Line == "systemctl restart docker"
	})
}

func TestWaitGivesTheStatusOfWhatWasInTheBackground(t *testing.T) {
	r, h := one(t, atomicHost)
	if out, _ := runScript(t, r.connect(t, h), "sh -c 'exit 5' & wait $!; echo $?"); out != "5\n" {
		t.Errorf("printed %q", out)
	}
}

func TestAUserIsNotRootWithoutSudo(t *testing.T) {
	r := start(t, Config{User: "core", Hosts: []Spec{{Address: "127.0.1.1", OS: Atomic, Version: "1", Next: "2"}}})
	h := r.Host("127.0.1.1")
	if _, err := r.dial(h, "root"); err == nil {
		t.Error("root may log in")
	}
	client, err := r.dial(h, "core")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if out, exit := runScript(t, client, "id -u; pwd; echo x >own && cat own; { echo x >/etc/x || echo no; rpm-ostree upgrade || echo no; } 2>/dev/null"); exit != 0 ||
		!strings.HasPrefix(out, "1000\n/home/core\nx\n") || strings.Count(out, "no\n") != 2 {
		t.Errorf("as core: %d %q", exit, out)
	}
	if out, exit := runCommand(t, client, "sudo -n /bin/sh -s", "id -u; echo x >/etc/x; chmod 600 /etc/x; systemctl is-active docker; systemctl restart docker; systemctl is-active docker"); exit != 0 || out != "0\ninactive\nactive\n" {
		t.Errorf("as root: %d %q", exit, out)
	}
	if out, exit := runScript(t, client, "cat /etc/x"); exit != 1 {
		t.Errorf("core reads a file of root: %q", out)
	}
	h.SetFaults(Faults{NoSudo: true})
	if out, exit := runCommand(t, client, "sudo -n /bin/sh -s", "id"); exit != 1 || !strings.Contains(out, "password") {
		t.Errorf("sudo without a password: %d %q", exit, out)
	}
}

func TestFaults(t *testing.T) {
	t.Run("down", func(t *testing.T) {
		r, h := one(t, atomicHost)
		client := r.connect(t, h)
		h.Down()
		client.Wait()
		if _, err := r.dial(h, "root"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling a host that is down: %v", err)
		}
		if err := h.Up(); err != nil {
			t.Fatal(err)
		}
		runScript(t, r.connect(t, h), ":")
	})
	t.Run("another host key", func(t *testing.T) {
		r, h := one(t, atomicHost)
		before := h.HostKey()
		if err := h.ChangeHostKey(); err != nil {
			t.Fatal(err)
		}
		_, err := ssh.Dial("tcp", net.JoinHostPort(h.Address(), fmt.Sprint(r.Port())), &ssh.ClientConfig{
			User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(r.signer)}, HostKeyCallback: ssh.FixedHostKey(before),
		})
		if err == nil || !strings.Contains(err.Error(), "host key") {
			t.Errorf("with the key of before: %v", err)
		}
		r.connect(t, h)
	})
	t.Run("key refused", func(t *testing.T) {
		r, h := one(t, atomicHost)
		h.SetFaults(Faults{RefuseKey: true})
		if _, err := r.dial(h, "root"); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("with a key that is refused: %v", err)
		}
		h.SetFaults(Faults{})
		r.connect(t, h)
	})
	t.Run("nothing said", func(t *testing.T) {
		r, h := one(t, atomicHost)
		h.SetFaults(Faults{HangHandshake: true})
		conn, err := net.Dial("tcp", net.JoinHostPort(h.Address(), fmt.Sprint(r.Port())))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes, %v", n, err)
		}
	})
	t.Run("command fails", func(t *testing.T) {
		r, h := one(t, fedoraHost)
		client := r.connect(t, h)
		h.FailNext("dnf install", 1)
		if out, exit := runScript(t, client, "dnf -y install flannel; dnf install -y flannel"); exit != 1 {
			t.Errorf("exit status %d: %s", exit, out)
		}
		if _, exit := runScript(t, client, "dnf install -y flannel"); exit != 0 {
			t.Errorf("fails more than once")
		}
	})
	t.Run("slow command", func(t *testing.T) {
		r, h := one(t, fedoraHost)
		client := r.connect(t, h)
		h.Slow("dnf", time.Hour)
		if _, exit := runScript(t, client, "timeout 1 dnf -y upgrade"); exit != 124 {
			t.Errorf("exit status %d, want 124", exit)
		}
	})
	t.Run("connection drops", func(t *testing.T) {
		r, h := one(t, atomicHost)
		h.SetFaults(Faults{DropDuring: "rpm-ostree upgrade"})
		session, err := r.connect(t, h).NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Run("rpm-ostree upgrade >/dev/null"); err == nil {
			t.Error("the command ended as if nothing had happened")
		}
		await(t, h, func(h *Host) bool { return h.Pending() == "41.2" })
	})
	t.Run("much output", func(t *testing.T) {
		r, h := one(t, atomicHost)
		h.SetFaults(Faults{Prints: strings.Repeat("#", 10<<20)})
		out, _ := runScript(t, r.connect(t, h), "rpm-ostree upgrade >/var/out; wc -c </var/out; rpm-ostree cleanup -p")
		if len(out) < 10<<20 {
			t.Errorf("%d bytes of output", len(out))
		}
	})
	t.Run("the old version again", func(t *testing.T) {
		r, h := one(t, atomicHost)
		h.SetFaults(Faults{KeepVersion: true})
		boot := h.BootID()
		runScript(t, r.connect(t, h), "rpm-ostree upgrade; reboot")
		await(t, h, func(h *Host) bool { return h.BootID() != boot })
		if h.Version() != "41.1" {
			t.Errorf("runs %s", h.Version())
		}
	})
	t.Run("never comes back", func(t *testing.T) {
		r, h := one(t, atomicHost)
		h.SetFaults(Faults{StayDown: true})
		client := r.connect(t, h)
		h.Reboot()
		client.Wait()
		if _, err := r.dial(h, "root"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling a host that is off: %v", err)
		}
	})
	t.Run("noise", func(t *testing.T) {
		r, h := one(t, atomicHost)
		h.SetFaults(Faults{Noise: "Welcome!\n"})
		if out, _ := runScript(t, r.connect(t, h), "echo hi"); out != "Welcome!\nhi\n" {
			t.Errorf("printed %q", out)
		}
	})
}

func TestAHostForwardsToTheFleetOnly(t *testing.T) {
	r := start(t, Config{Hosts: Mixed(2)})
	jump, behind := r.Hosts()[0], r.Hosts()[1]
	client := r.connect(t, jump)
	conn, err := client.Dial("tcp", net.JoinHostPort(behind.Address(), fmt.Sprint(r.Port())))
	if err != nil {
		t.Fatal(err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, behind.Address(), &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(r.signer)}, HostKeyCallback: ssh.FixedHostKey(behind.HostKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	through := ssh.NewClient(c, channels, requests)
	defer through.Close()
	if out, _ := runScript(t, through, "cat /proc/sys/kernel/random/boot_id"); out != behind.BootID()+"\n" {
		t.Errorf("reached %q", out)
	}
	if _, err := client.Dial("tcp", "127.0.0.1:"+fmt.Sprint(r.Port())); err == nil {
		t.Error("forwards to what is no host of the fleet")
	}
}

func TestStartRefusesWhatIsNotLoopback(t *testing.T) {
	for _, specs := range [][]Spec{
		{{Address: "192.0.2.1", OS: Fedora}},
		{{Address: "localhost", OS: Fedora}},
		{{Address: "127.0.1.1", OS: "plan9"}},
		{{Address: "127.0.1.1", OS: Fedora}, {Address: "127.0.1.1", OS: Fedora}},
	} {
		if f, err := Start(Config{Hosts: specs}); err == nil {
			f.Close()
			t.Errorf("started %+v", specs)
		}
	}
}

func TestWhatIsOverwrittenInTheMiddle(t *testing.T) {
	f := newFiles(time.Now)
	w := who{ctx: t.Context()}
	file, err := f.create(w, "/f", os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(file, "0123456789")
	before, _ := f.read(w, "/f")
	file.offset = 3
	io.WriteString(file, "abc")
	file.offset = 8
	io.WriteString(file, "wxyz")
	after, _ := f.read(w, "/f")
	if !bytes.Equal(before, []byte("0123456789")) || !bytes.Equal(after, []byte("012abc67wxyz")) {
		t.Errorf("before %q, after %q", before, after)
	}
}

func TestHostsShareTheirFilesUntilTheyChangeThem(t *testing.T) {
	r := start(t, Config{Hosts: Mixed(3)})
	first, second := r.Hosts()[0], r.Hosts()[1]
	if out, exit := runScript(t, r.connect(t, first), "echo x >/etc/sysconfig/x; chmod 700 /home; rm /etc/os-release; mv /var/log /var/logs; echo y >/run/y"); exit != 0 {
		t.Fatal(out)
	}
	if out, _ := runScript(t, r.connect(t, first), "echo /etc/* /etc/sysconfig/* /var/*; . /usr/lib/os-release; echo $ID"); out != "/etc/sysconfig /etc/sysconfig/x /var/lib /var/logs\nfedora\n" {
		t.Errorf("a host that changed its files has %q", out)
	}
	if out, _ := runScript(t, r.connect(t, second), "echo /etc/* /etc/sysconfig/* /var/* /run/*; . /etc/os-release; echo $ID"); out != "/etc/os-release /etc/sysconfig /etc/sysconfig/* /var/lib /var/log /run/systemd\nfedora\n" {
		t.Errorf("a host that changed nothing has %q", out)
	}
}

// BenchmarkStart starts and ends 5,000 hosts.
func BenchmarkStart(b *testing.B) {
	specs := Mixed(5000)
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f, err := Start(Config{Hosts: specs})
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(specs)), "heap-B/host")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/float64(len(specs)), "stack-B/host")
		f.Close()
	}
}
