package sshd_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"commissaire/test/sshd"

	xssh "golang.org/x/crypto/ssh"
)

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// TestMain sees to it that no test changes the machine.
func TestMain(m *testing.M) {
	before := machine()
	status := m.Run()
	if after := machine(); after != before {
		os.Stderr.WriteString("the machine has changed:\n" + before + "is now\n" + after)
		status = 1
	}
	os.Exit(status)
}

// machine is what of the machine a host could have changed by mistake.
func machine() string {
	var text strings.Builder
	for _, path := range []string{"/etc/os-release", "/etc/passwd", "/etc/shadow", "/etc/sudoers", bootIDFile} {
		file, _ := os.ReadFile(path)
		text.WriteString(path + " " + digest(file) + "\n")
	}
	for _, name := range sshd.Programs {
		for _, dir := range programs {
			if file, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				text.WriteString(filepath.Join(dir, name) + " " + digest(file) + "\n")
			}
		}
	}
	for _, path := range []string{"/var/lib/commissaire", "/run/stand-ins", "/run/ostree-booted", "/etc/sysconfig"} {
		_, err := os.Stat(path)
		text.WriteString(path + " " + strconv.FormatBool(err == nil) + "\n")
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/stand-ins") || strings.Contains(line, "boot_id") || strings.Contains(line, "overlay /usr") {
			text.WriteString("mounted " + line)
		}
	}
	return text.String()
}

var programs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

func dial(t *testing.T, s *sshd.Server) *xssh.Client {
	t.Helper()
	key, err := xssh.ParsePrivateKey(s.PrivateKey())
	if err != nil {
		t.Fatal(err)
	}
	client, err := xssh.Dial("tcp", net.JoinHostPort(s.Address, strconv.Itoa(s.Port)), &xssh.ClientConfig{
		User:            s.User,
		Auth:            []xssh.AuthMethod{xssh.PublicKeys(key)},
		HostKeyCallback: xssh.FixedHostKey(s.HostKey()),
		Timeout:         10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// run runs a command over SSH; -1 is a connection that broke.
func run(t *testing.T, client *xssh.Client, command string) (string, int) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	out, err := session.CombinedOutput(command)
	var exit *xssh.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit):
		return string(out), exit.ExitStatus()
	default:
		return string(out), -1
	}
}

func TestNoRealCommandIsReachable(t *testing.T) {
	for _, user := range []string{"root", "tester"} {
		t.Run(user, func(t *testing.T) {
			s := sshd.Start(t, sshd.Host{Address: "127.0.2.1", User: user})
			sudo := ""
			if user != "root" {
				sudo = "sudo -n"
			}
			// Every way to a name, one a line, with "stand-in" or "REAL".
			out, status := run(t, dial(t, s), `
for name in `+strings.Join(sshd.Programs, " ")+`; do
	for path in "$(command -v $name)" "$(`+sudo+` sh -c "command -v $name")" {`+strings.Join(programs, ",")+`}/$name; do
		if [[ $(<"$path") == *'# Stands in, on a host of the rig'* ]]; then
			echo "stand-in $name $path"
		else
			echo "REAL $name $path"
		fi
	done
	[ ! -e /usr/lib/systemd/$name ] || echo "REAL $name /usr/lib/systemd/$name"
done`)
			if want := len(sshd.Programs) * (2 + len(programs)); status != 0 || strings.Count(out, "stand-in ") != want || strings.Contains(out, "REAL") {
				t.Errorf("not %d stand-ins: status %d\n%s", want, status, out)
			}
			// Nothing of the machine can be written to, not even by root.
			for _, path := range []string{"/usr/bin/x", "/usr/local/bin/x", "/opt/x", "/x"} {
				if _, err := s.Exec(t.Context(), ": >"+path); err == nil {
					t.Errorf("a host may write to %s", path)
				}
			}
		})
	}
}

func TestAStandInRefusesElsewhere(t *testing.T) {
	text, err := os.ReadFile("stand-in.sh")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "true") // the name of nothing, should it not refuse
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "/bin/bash", path).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 99 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestARebootKeepsTheDiskAndNothingElse(t *testing.T) {
	s := sshd.Start(t, sshd.Host{Address: "127.0.2.2", OSTree: true, Booted: "41.1", Next: "41.2"})
	client := dial(t, s)
	first, fingerprint := s.BootID(), s.HostKeyFingerprint()
	if seen, _ := run(t, client, "cat "+bootIDFile); strings.TrimSpace(seen) != first {
		t.Errorf("the host shows boot id %q, not %s", seen, first)
	}
	run(t, client, "echo kept >/var/lib/kept; echo lost >/run/lost; (setsid sleep 300.5 >/dev/null 2>&1 &); until pgrep -f '^sleep 300.5'; do sleep 0.01; done")
	if _, err := s.Exec(t.Context(), "pgrep -f '^sleep 300.5'"); err != nil {
		t.Error(err)
	}
	if out, status := run(t, client, "rpm-ostree deploy -- 41.2"); status != 0 {
		t.Errorf("deploy: %d, %s", status, out)
	}
	if out, _ := run(t, client, "rpm-ostree status --json"); !strings.Contains(out, `{"booted":false,"staged":true,"version":"41.2"`) {
		t.Errorf("before the reboot: %s", out)
	}
	release := s.Hold("boot")
	run(t, client, "systemctl reboot")
	if err := client.Wait(); err == nil {
		t.Error("the connection outlived the boot")
	}
	awaitSilence(t, net.JoinHostPort(s.Address, strconv.Itoa(s.Port)))
	if s.BootID() != first {
		t.Error("the host booted though it was held down")
	}
	release()
	s.AwaitReboot(first)

	client = dial(t, s) // with the same host key, or this fails
	if seen, _ := run(t, client, "cat "+bootIDFile); strings.TrimSpace(seen) == first || s.HostKeyFingerprint() != fingerprint {
		t.Error("not a reboot of the same host")
	}
	if out, _ := run(t, client, "cat /var/lib/kept; [ -e /run/lost ] || echo clean"); out != "kept\nclean\n" {
		t.Errorf("after the reboot: %s", out)
	}
	if out, err := s.Exec(t.Context(), "pgrep -f '^sleep 300.5'"); err == nil {
		t.Errorf("a process outlived its boot: %s", out)
	}
	if out, _ := run(t, client, "rpm-ostree status --json"); !strings.Contains(out, `{"booted":true,"staged":false,"version":"41.2"`) {
		t.Errorf("after the reboot: %s", out)
	}
	want := []string{"rpm-ostree deploy -- 41.2", "rpm-ostree status --json", "systemctl reboot", "rpm-ostree status --json"}
	if got := s.Commands(); !slices.Equal(got, want) {
		t.Errorf("commands %q", got)
	}
}

func TestDetachedWorkOutlivesItsConnection(t *testing.T) {
	s := sshd.Start(t, sshd.Host{Address: "127.0.2.3"})
	client := dial(t, s)
	release := s.Hold("dnf -y upgrade")
	if out, status := run(t, client, "(setsid sh -c 'dnf -y upgrade; echo $? >/run/done' >/dev/null 2>&1 &)"); status != 0 {
		t.Fatalf("%d, %s", status, out)
	}
	s.AwaitCommand("dnf -y upgrade")
	s.DropConnections()
	if err := client.Wait(); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection was not dropped: %v", err)
	}
	if _, _, err := s.File("/run/done"); err == nil {
		t.Error("the command did not wait")
	}
	release()
	if out, err := s.Exec(t.Context(), "until [ -s /run/done ]; do sleep 0.02; done; cat /run/done"); err != nil || out != "0\n" {
		t.Errorf("%q, %v", out, err)
	}
	if text, _, err := s.File("/etc/os-release"); err != nil || !bytes.Contains(text, []byte("VERSION_ID=41.1\n")) {
		t.Errorf("%s, %v", text, err)
	}
	dial(t, s)
}

func TestAnotherUserWorksThroughSudo(t *testing.T) {
	s := sshd.Start(t, sshd.Host{Address: "127.0.2.4", User: "tester", OS: sshd.CentOS7})
	client := dial(t, s)
	if out, _ := run(t, client, "id -un; sudo -n id -un"); out != "tester\nroot\n" {
		t.Errorf("%s", out)
	}
	if out, status := run(t, client, "yum install -y flannel"); status != 1 {
		t.Errorf("without sudo: %d, %s", status, out)
	}
	if out, status := run(t, client, "rpm -q flannel"); status != 1 {
		t.Errorf("installed without sudo: %s", out)
	}
	if out, status := run(t, client, "sudo -n yum install -y flannel && rpm -q flannel"); status != 0 {
		t.Errorf("with sudo: %d, %s", status, out)
	}
}

func TestKnobsAndUnits(t *testing.T) {
	s := sshd.Start(t, sshd.Host{Address: "127.0.2.5", OS: sshd.Debian12})
	client := dial(t, s)
	s.Fail("apt-get install -y docker", 100)
	for _, c := range []struct {
		command string
		status  int
	}{
		{"apt-get install -y docker", 100},
		{"dpkg -s docker", 1},
		{"apt-get install -y moby-engine", 0},
		{"dpkg -s moby-engine", 0},
		{"systemctl is-enabled docker", 1},
		{"systemctl enable docker", 0},
		{"systemctl is-active docker", 3},
		{"systemctl restart docker", 0},
		{"systemctl is-active docker", 0},
		{"apt-get update", 0},
		{"apt-get -y -o Dpkg::Options::=--force-confold dist-upgrade", 0},
		{"grep -q 12.1 /etc/os-release", 0},
		{"rpm-ostree status --json", 1},
	} {
		if out, status := run(t, client, c.command); status != c.status {
			t.Errorf("%s: %d, not %d: %s", c.command, status, c.status, out)
		}
	}
	s.Take("apt-get update", 300*time.Millisecond)
	began := time.Now()
	if out, status := run(t, client, "apt-get update"); status != 0 || time.Since(began) < 300*time.Millisecond {
		t.Errorf("%d after %s: %s", status, time.Since(began), out)
	}

	s.Stop()
	if _, err := net.Dial("tcp", net.JoinHostPort(s.Address, strconv.Itoa(s.Port))); err == nil {
		t.Error("a stopped host answers")
	}
	s.Start()
	if out, status := run(t, dial(t, s), "systemctl is-active docker"); status != 0 {
		t.Errorf("an enabled service is %q after a boot", out)
	}
}

// TestAHostEndsWithItsTest runs a test in a process of its own and kills that.
func TestAHostEndsWithItsTest(t *testing.T) {
	if os.Getenv("SSHD_TEST_STAY") != "" {
		s := sshd.Start(t, sshd.Host{Address: "127.0.2.6"})
		os.Stdout.WriteString("up " + net.JoinHostPort(s.Address, strconv.Itoa(s.Port)) + "\n")
		<-t.Context().Done()
		return
	}
	if why, ok := sshd.Available(); !ok {
		t.Skipf("%s: hosts behind OpenSSH are left out", why)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAHostEndsWithItsTest$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "SSHD_TEST_STAY=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var address string
	line := make([]byte, 64)
	n, err := out.Read(line)
	if _, rest, found := strings.Cut(string(line[:n]), "up "); found {
		address = strings.TrimSpace(rest)
	} else {
		t.Errorf("%s, %v", line[:n], err)
	}
	cmd.Process.Kill()
	io.Copy(io.Discard, out)
	cmd.Wait()
	if address != "" {
		awaitSilence(t, address)
	}
}

// awaitSilence returns when nothing listens there any more.
func awaitSilence(t *testing.T, address string) {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		conn.Close()
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s still listens", address)
		}
	}
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
