package ssh

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// alive are the processes that wrote their numbers to /run/pids and still run.
func (m *machine) alive(t *testing.T) (all []string) {
	t.Helper()
	for pid := range strings.FieldsSeq(m.get("run/pids")) {
		if _, err := strconv.Atoi(pid); err != nil {
			t.Fatalf("%q is no number of a process", pid)
		}
		status, _ := os.ReadFile("/proc/" + pid + "/stat")
		if len(status) > 0 && !strings.Contains(string(status), ") Z ") {
			all = append(all, pid)
		}
	}
	return all
}

// aFamily leaves behind processes that a signal to a process group, or to a session, misses.
const aFamily = `
echo 'echo $$ >>/run/pids; exec sleep 1000' >plain
echo 'trap "" TERM HUP; echo $$ >>/run/pids; while :; do sleep 0.2; done' >deaf
echo 'echo $$ >>/run/pids; env -i sh ./plain & wait' >parent
setsid sh ./plain &
setsid sh ./deaf &
(setsid sh ./plain &)
setsid sh ./parent &
until [ "$(cat /run/pids | wc -l)" = 5 ]; do sleep 0.05; done
`

func TestATimeLimitStopsAllThatTheCommandStarted(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/pids", "")
		a := m.ask(t, "run", "log", "1", aTurn(), "3", "-", data(aFamily+"echo begun; sleep 1000"), data(""))
		if state(a) != "ended stopped at its time limit of 3 s" || !strings.HasPrefix(a["tail"], "begun\n") {
			t.Errorf("answered %q", a)
		}
		if left := m.alive(t); len(left) > 0 {
			t.Errorf("%q go on", left)
		}
	})
}

func TestWhatACommandLeavesBehindGoesOnAndHoldsNoLock(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/pids", "")
		if a := m.run(t, "turn", aFamily); state(a) != "exit 0" {
			t.Errorf("answered %q", a)
		}
		if a := m.run(t, "another", "echo here"); state(a) != "exit 0" || a["tail"] != "here\n" {
			t.Errorf("answered %q", a)
		}
		if left := m.alive(t); len(left) != 5 {
			t.Errorf("only %q go on", left)
		}
		if a := m.ask(t, "run", "log", "1", aTurn(), "1", "-", data("sleep 60"), data("")); !strings.HasPrefix(state(a), "ended stopped") {
			t.Errorf("answered %q", a)
		}
		if left := m.alive(t); len(left) != 5 {
			t.Errorf("the time limit of another turn left %q only", left)
		}
	})
}

func TestACommandWhoseRunnerDiedIsStopped(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/pids", "")
		if a := m.run(t, aTurn(), aFamily+killRunner+"sleep 1000"); state(a) != "ended killed" {
			t.Errorf("answered %q", a)
		}
		if left := m.alive(t); len(left) > 0 {
			t.Errorf("%q go on", left)
		}
	})
}

func TestACommandHasTheEnvironmentOfALoginOfRoots(t *testing.T) {
	for _, systemd := range []bool{false, true} {
		t.Run(fmt.Sprintf("systemd %v", systemd), func(t *testing.T) {
			eachShell(t, func(t *testing.T, m *machine) {
				if systemd {
					m.put(t, "run/systemd/system/there", "")
					m.standIn(t, "systemd-run")
					m.put(t, "run/do-systemd-run", `shift 2; umask 0; setsid env -i LANG=de_DE.UTF-8 INVOCATION_ID=1 "$@" </dev/null >/dev/null 2>&1 &`)
				}
				m.put(t, "etc/passwd", "root:x:0:0:root:/var/lib:/bin/bash\nroots:x:1:1::/home/roots:/bin/sh\n")
				marker := newMarker()
				text, err := call(marker, "run", "log", "1", "turn", "60", "-", data("env; umask"), data(""))
				if err != nil {
					t.Fatal(err)
				}
				cmd := m.command(t.Context(), "env", "HOME=/home/core", "USER=core", "LOGNAME=core", "MAIL=/var/mail/core", "SHELL=/bin/zsh", "LANG=de_DE.UTF-8",
					"LC_ALL=de_DE.UTF-8", "LC_TIME=tr_TR", "LANGUAGE=de", "SUDO_USER=core", "SSH_CLIENT=192.0.2.1", "ENV=/etc/env", "/bin/sh", "-s")
				cmd.Stdin, cmd.Stderr = strings.NewReader(Script+"\n"+text), os.Stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				a, err := readAnswer(strings.NewReader(string(out)), marker, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				got := strings.Fields(a["tail"])
				for _, name := range []string{"PWD=", "OLDPWD=", "SHLVL=", "_="} { // of the shell's own
					got = slices.DeleteFunc(got, func(line string) bool { return strings.HasPrefix(line, name) })
				}
				slices.Sort(got)
				lang := "C"
				for _, name := range []string{"C.utf8", "C.UTF-8"} {
					if _, err := os.Stat(filepath.Join("/usr/lib/locale", name)); err == nil {
						lang = "C.UTF-8"
					}
				}
				want := []string{
					"0022", "COMMISSAIRE_TURN=turn/", "HOME=/var/lib", "LANG=" + lang, "LOGNAME=root",
					"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SHELL=/bin/sh", "USER=root",
				}
				if !slices.Equal(got, want) {
					t.Errorf("has %q", got)
				}
			})
		})
	}
}

func TestAUnitThatWasKilledIsForgotten(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		turn := aTurn()
		unit := "commissaire-" + turn + ".service"
		m.put(t, "run/systemd/transient/"+unit, "")
		m.put(t, "run/do-systemctl", `case $1 in
is-active) echo failed; exit 3 ;;
reset-failed) rm /run/systemd/transient/$2 ;;
esac`)
		if a := m.run(t, turn, "echo"+killRunner); state(a) != "ended killed" {
			t.Errorf("answered %q", a)
		}
		want := []string{"systemctl is-active " + unit, "systemctl reset-failed " + unit}
		if calls := m.calls(); !slices.Equal(calls, want) {
			t.Errorf("called %q", calls)
		}
	})
}

func TestWorkThatWaitsForAnothersSaysSoAndIsRefusedAtItsLimit(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		_, first := m.begin(t, "first", "60", "echo; until [ -e /run/go ]; do sleep 0.05; done")
		within(t, 20*time.Second, "it runs", func() bool { return m.get("lib/commissaire/turn/first/output") != "" })
		w, second := m.begin(t, "second", "3", "echo >/run/ran")
		within(t, 20*time.Second, "the other waits", func() bool { return w.has("another piece of work on this host: turn first (process ") })
		for range 2 {
			if a := end(t, second); !strings.HasPrefix(a["refused"], "another piece of work runs on this host: turn first (process ") || len(a) > 1 {
				t.Errorf("answered %q", a)
			}
			_, second = m.begin(t, "second", "3", "echo >/run/ran")
		}
		end(t, second)
		m.put(t, "run/go", "")
		if a := end(t, first); state(a) != "exit 0" || m.get("run/ran") != "" {
			t.Errorf("answered %q", a)
		}
	})
}
