package fleet

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
)

// call is the script that Commissaire sends, with one call of it.
func call(t testing.TB, args ...string) string {
	t.Helper()
	text, err := os.ReadFile("../../adapters/ssh/host.sh")
	if err != nil {
		t.Fatal(err)
	}
	marker := strings.ReplaceAll(uuid.NewString(), "-", "")
	return string(text) + "\ncommissaire '" + marker + "' '" + strings.Join(args, "' '") + "' </dev/null\n"
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// sections splits an answer of the script.
func sections(t testing.TB, out string) map[string]string {
	t.Helper()
	found := map[string]string{}
	marker, _, ok := strings.Cut(strings.TrimPrefix(out, "\n"), " ")
	if !ok {
		t.Fatalf("there is no marker in %q", out)
	}
	for _, part := range strings.Split(out, "\n"+marker+" ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		found[name] = strings.TrimSuffix(text, "\n")
	}
	if _, ok := found["end"]; !ok {
		t.Fatalf("the answer has no end: %q", out)
	}
	return found
}

func TestTheScriptFindsTheFacts(t *testing.T) {
	r := start(t, Config{Hosts: Mixed(5), User: "core"})
	for _, h := range r.Hosts() {
		client, err := r.dial(h, "core")
		if err != nil {
			t.Fatal(err)
		}
		out, exit := runCommand(t, client, "sudo -n /bin/sh -s", call(t, "facts", "log", "1"))
		client.Close()
		facts := sections(t, out)
		for name, want := range map[string]string{
			"machine": "x86_64",
			"boot-id": h.BootID(),
			"cpus":    fmt.Sprint(h.Spec().CPUs),
		} {
			if facts[name] != want {
				t.Errorf("%s: %s is %q, want %q", h.Address(), name, facts[name], want)
			}
		}
		if exit != 0 || !strings.Contains(facts["memory"], fmt.Sprint(h.Spec().Memory)) || !strings.Contains(facts["space"], "/dev/vda2") ||
			!strings.Contains(facts["os-release"], "VERSION_ID=\""+h.Spec().Release) || strings.Contains(facts["rpm-ostree"], h.Version()) != h.Spec().OSTree {
			t.Errorf("%s: exit status %d, facts %q", h.Address(), exit, facts)
		}
	}
}

func TestTheScriptRunsATurnOnce(t *testing.T) {
	r, h := one(t, atomicHost)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			out, _ := runScript(t, r.connect(t, h), call(t, "run", "log", "1", "op-1", "600", "-", b64(`rpm-ostree upgrade && cat argument`), b64("an argument")))
			got := sections(t, out)
			if got["state"] != "exit 0" || !strings.HasSuffix(got["tail"], "an argument") {
				t.Errorf("answered %q", got)
			}
		})
	}
	wg.Wait()
	if commands := h.Commands(); len(commands) != 1 {
		t.Errorf("ran %+v", commands)
	}
	out, _ := runScript(t, r.connect(t, h), call(t, "run", "log", "0", "op-2", "600", "-", b64("true"), b64("")))
	if got := sections(t, out); got["fenced"] != "1" {
		t.Errorf("an earlier term is answered with %q", got)
	}
}

func TestTheScriptSeesHowATurnEnds(t *testing.T) {
	for _, c := range []struct{ name, seconds, command, want string }{
		{"fails", "600", "dnf -y upgrade", "exit 1"},
		{"takes too long", "2", "sleep 100000", "ended stopped at its time limit of 2 s"},
		{"reboots under it", "600", "systemctl reboot; sleep 100000", "ended interrupted by a reboot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, h := one(t, fedoraHost)
			h.FailNext("dnf", 1)
			boot := h.BootID()
			client := r.connect(t, h)
			session, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			session.Stdin = strings.NewReader(call(t, "run", "log", "1", "turn", c.seconds, "-", b64(c.command), b64("")))
			out, err := session.Output("/bin/sh -s")
			if c.name == "reboots under it" {
				if err == nil {
					t.Fatalf("answered %q", out)
				}
				await(t, h, func(h *Host) bool { return h.BootID() != boot && h.Listening() })
				text, _ := runScript(t, r.connect(t, h), call(t, "look", "turn"))
				out = []byte(text)
			}
			if got := sections(t, string(out)); got["state"] != c.want {
				t.Errorf("answered %q, want state %q", got, c.want)
			}
		})
	}
}

func TestTheScriptRebootsFromOneBootOnly(t *testing.T) {
	r, h := one(t, atomicHost)
	boot := h.BootID()
	first := boot
	session, err := r.connect(t, h).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	session.Stdin = strings.NewReader(call(t, "reboot", "log", "1", "op-1", "60", first))
	session.Output("/bin/sh -s") // it may go down before it answers
	await(t, h, func(h *Host) bool { return h.BootID() != boot && h.Listening() })
	boot = h.BootID()
	for _, text := range []string{call(t, "reboot", "log", "1", "op-1", "60", first), call(t, "reboot", "log", "1", "op-2", "60", "another-boot")} {
		out, _ := runScript(t, r.connect(t, h), text)
		if got := sections(t, out)["reboot"]; got != "old" && got != "booted" {
			t.Errorf("answered %q", got)
		}
	}
	runScript(t, r.connect(t, h), "sleep 10")
	if h.BootID() != boot {
		t.Error("it rebooted again")
	}
}

func TestTheScriptWritesAFile(t *testing.T) {
	r, h := one(t, atomicHost)
	for _, want := range []string{"changed", "same"} {
		out, _ := runScript(t, r.connect(t, h), call(t, "write", "log", "1", "60", "600", b64("/etc/etcd/key.crt"), b64("a key\n")))
		if got := sections(t, out)["written"]; got != want {
			t.Errorf("answered %q, want %q", out, want)
		}
	}
	if text, err := h.ReadFile("/etc/etcd/key.crt"); err != nil || string(text) != "a key\n" {
		t.Errorf("wrote %q, %v", text, err)
	}
}

const lookAround = "read -r id </proc/sys/kernel/random/boot_id; printf '%s\\n' \"$id\"\n"

// BenchmarkCheck connects anew for every look at a host, as a watch does.
func BenchmarkCheck(b *testing.B) {
	r := start(b, Config{Hosts: Mixed(500)})
	text, hosts := lookAround, r.Hosts()
	var turn atomic.Int64
	b.SetParallelism(32)
	b.ReportAllocs()
	began := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h := hosts[int(turn.Add(1))%len(hosts)]
			conn, err := net.Dial("tcp", net.JoinHostPort(h.Address(), fmt.Sprint(r.Port())))
			if err != nil {
				b.Error(err)
				return
			}
			c, channels, requests, err := ssh.NewClientConn(conn, "", &ssh.ClientConfig{
				User: "root",
				Auth: []ssh.AuthMethod{ssh.PublicKeys(r.signer)}, HostKeyCallback: ssh.FixedHostKey(h.HostKey()),
			})
			if err != nil {
				b.Error(err)
				return
			}
			client := ssh.NewClient(c, channels, requests)
			if out, exit := runScript(b, client, text); exit != 0 || !strings.Contains(out, h.BootID()) {
				b.Errorf("%d %q", exit, out)
			}
			client.Close()
		}
	})
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "checks/s")
}

// BenchmarkScript is the part of the simulation alone: one call of the script.
func BenchmarkScript(b *testing.B) {
	for name, text := range map[string]string{"boot id": lookAround, "facts": call(b, "facts", "log", "1")} {
		b.Run(name, func(b *testing.B) {
			_, h := one(b, atomicHost)
			b.ReportAllocs()
			for b.Loop() {
				p := &process{host: h, boot: h.boot, user: "root", dir: "/root", stdin: strings.NewReader(text), stdout: io.Discard, stderr: io.Discard}
				if exit := p.run(b.Context(), []string{"/bin/sh", "-s"}); exit != 0 {
					b.Fatalf("exit status %d", exit)
				}
			}
		})
	}
}
