package ssh

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

// waits collects what a turn is said to wait for.
type waits struct {
	mu   sync.Mutex
	said []string
}

func (w *waits) add(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, why)
}

func (w *waits) has(words ...string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.said, func(why string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(why, word) })
	})
}

// begin has host.sh run a turn as SSH would, and tells what it waits for.
func (m *machine) begin(t *testing.T, turn, seconds, command string) (*waits, <-chan answer) {
	t.Helper()
	w, p, ended := &waits{}, wanting(0, 1000, 1000), make(chan answer, 1)
	marker := newMarker()
	text, err := call(marker, "run", "log", "1", turn, seconds, "-", data(command), data(""), "0", "1000", "1000")
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.command(t.Context(), "/bin/sh", "-s")
	cmd.Stdin, cmd.Stderr = strings.NewReader(Script+"\n"+text), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		a, _ := readAnswer(out, marker, p.Write, w.add)
		io.Copy(io.Discard, out)
		cmd.Wait()
		ended <- a
	}()
	return w, ended
}

func end(t *testing.T, ended <-chan answer) answer {
	t.Helper()
	select {
	case a := <-ended:
		return a
	case <-time.After(60 * time.Second):
		t.Fatal("no answer within 60 s")
		return nil
	}
}

// lock holds a lock on a file of the machine as package managers do.
func (m *machine) lock(t *testing.T, name string) (release func()) {
	t.Helper()
	m.put(t, name, "")
	f, err := os.OpenFile(filepath.Join(m.dir, name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

func upgradeOf(t *testing.T, os string) string {
	t.Helper()
	command, skip, problem := commandOf(domain.Upgrade, process.Apply, "", false, event.Facts{OS: os})
	if skip != "" || problem != "" {
		t.Fatalf("%s is no family: %s%s", os, skip, problem)
	}
	return wrapped(command)
}

func TestLocksOfPackageManagersAreWaitedFor(t *testing.T) {
	me := fmt.Sprintf("process %d (", os.Getpid())
	for lock, system := range map[string]string{
		"lib/dpkg/lock-frontend": "debian", "lib/dpkg/lock": "debian", "lib/apt/lists/lock": "debian", "lib/rpm/.rpm.lock": "fedora",
		"run/yum.pid": "centos",
	} {
		t.Run(lock, func(t *testing.T) {
			eachShell(t, func(t *testing.T, m *machine) {
				var release func()
				if strings.HasSuffix(lock, ".pid") {
					m.put(t, lock, fmt.Sprint(os.Getpid()))
					release = func() { os.Remove(filepath.Join(m.dir, lock)) }
				} else {
					release = m.lock(t, lock)
				}
				w, ended := m.begin(t, "turn", "60", upgradeOf(t, system))
				within(t, 20*time.Second, "it waits", func() bool { return w.has(filepath.Base(lock), me) })
				if calls := m.calls(); len(calls) > 0 {
					t.Errorf("called %q", calls)
				}
				release()
				if a := end(t, ended); state(a) != "exit 0" {
					t.Errorf("answered %q", a)
				}
			})
		})
	}
}

func TestWhoFailsForWantOfALockTriesAgain(t *testing.T) {
	for words, c := range map[string]struct{ system, program, why string }{
		"E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process PID (sleep)":            {"debian", "apt-get", "process PID ("},
		"dpkg: error: dpkg frontend lock was locked by another process with pid PID":                      {"debian", "apt-get", "process PID ("},
		"E: Could not get lock /var/lib/apt/lists/lock - open (11: Resource temporarily unavailable)":     {"debian", "apt-get", "cannot be seen"},
		"Another app is currently holding the yum lock; exiting as configured by exit_on_lock":            {"centos", "yum", "lock of the package manager"},
		"Failed to obtain rpm transaction lock. Another transaction is in progress.":                      {"fedora", "dnf", "lock of the package manager"},
		"error: Transaction in progress: upgrade\n You can cancel the current transaction with `rpm-os…`": {"atomic", "rpm-ostree", "deploy, begun by client(id:cli"},
	} {
		t.Run(words[:12]+" "+c.program, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "dash")
			m.put(t, "run/words", strings.ReplaceAll(words, "PID", fmt.Sprint(os.Getpid()))+"\n")
			m.put(t, "run/do-"+c.program, `case $1 in
status) [ -e /run/free ] || printf 'State: busy\nTransaction: deploy\n  Initiator: client(id:cli uid:0)\nDeployments:\n' ;;
*) [ -e /run/free ] || { cat /run/words; exit 100; } ;;
esac`)
			w, ended := m.begin(t, "turn", "60", upgradeOf(t, c.system))
			within(t, 20*time.Second, "it waits", func() bool { return w.has(strings.ReplaceAll(c.why, "PID", fmt.Sprint(os.Getpid()))) })
			m.put(t, "run/free", "")
			if a := end(t, ended); state(a) != "exit 0" {
				t.Errorf("answered %q, waited for %q", a, w.said)
			}
		})
	}
}

func TestATimeLimitTellsWhatWasWaitedFor(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.lock(t, "lib/dpkg/lock-frontend")
		_, ended := m.begin(t, aTurn(), "2", upgradeOf(t, "debian"))
		want := fmt.Sprintf("ended stopped at its time limit of 2 s, while it waited for the lock /var/lib/dpkg/lock-frontend, which process %d (", os.Getpid())
		if a := end(t, ended); !strings.HasPrefix(state(a), want) {
			t.Errorf("answered %q", a)
		}
	})
}

func TestARepositoryThatCannotBeReadIsAFailure(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		// An apt-get that knows no error mode warns, and succeeds.
		m.put(t, "run/do-apt-get", `[ "$1" != update ] || echo "W: Failed to fetch http://mirror.example/InRelease  Could not resolve"`)
		a := m.run(t, "turn", upgradeOf(t, "debian"))
		if state(a) != "exit 100" || !strings.HasSuffix(a["tail"], "E: not all repositories could be read\n") {
			t.Errorf("answered %q", a)
		}
		if calls := m.calls(); !slices.Equal(calls, []string{"dpkg --force-confold --configure -a", "apt-get update -o APT::Update::Error-Mode=any"}) {
			t.Errorf("called %q", calls)
		}
	})
}

func TestAPackageInstalledByHalvesIsAFailure(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.program(t, "dpkg-query", `printf 'install ok installed libc6\ninstall ok half-configured agent\ndeinstall ok config-files old\n'`)
		if a := m.run(t, "turn", upgradeOf(t, "debian")); state(a) != "exit 1" || a["tail"] != "E: installed by halves: agent\n" {
			t.Errorf("answered %q", a)
		}
	})
}

func TestWhatWentWrongThoughTheCommandSucceededIsTold(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/do-dnf", `cat <<-'END'
		Upgrading:
		 Problem: cannot install the best update candidate for package a-1-1.x86_64
		  - nothing provides b >= 2 needed by a-2-1.x86_64 from updates
		Skipping packages with broken dependencies:
		  Running scriptlet: agent-2-1.noarch
		warning: %post(agent-2-1.noarch) scriptlet failed, exit status 1
		Error in POSTIN scriptlet in rpm package agent
		Complete!
		END
`)
		a := m.run(t, "turn", upgradeOf(t, "fedora"))
		want := []string{
			"Problem: cannot install the best update candidate for package a-1-1.x86_64",
			"- nothing provides b >= 2 needed by a-2-1.x86_64 from updates",
			"Skipping packages with broken dependencies:",
			"warning: %post(agent-2-1.noarch) scriptlet failed, exit status 1",
			"Error in POSTIN scriptlet in rpm package agent",
		}
		if result, err := parseResult(a); err != nil || state(a) != "exit 0" || !slices.Equal(result.Warnings, want) {
			t.Errorf("%v, %q, %q", err, state(a), result.Warnings)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		var text strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&text, "W: %d \xff\x1b %s\n", i, strings.Repeat("x", 1000))
		}
		all := warnings(text.String())
		if len(all) != maxWarnings || len(all[0]) != maxWarning {
			t.Errorf("%d lines, the first of %d bytes", len(all), len(all[0]))
		}
	})
}
