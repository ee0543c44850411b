package ssh

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

func TestAllThatIsDoneToAHostIsDoneAlone(t *testing.T) {
	requests := map[string][]string{
		"run":    {"log", "1", "second", "SECONDS", "-", data("echo >>/run/done"), data("")},
		"write":  {"log", "1", "SECONDS", "0644", data("/run/done"), data("text")},
		"reboot": {"log", "1", "again", "SECONDS", firstBoot},
		"check":  {"log", "1", "SECONDS", data("echo >>/run/done")},
	}
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/do-systemctl", "echo >>/run/done")
		_, first := m.begin(t, "first", "60", "echo; until [ -e /run/go ]; do sleep 0.05; done; setsid sleep 1000 &")
		within(t, 20*time.Second, "it runs", func() bool { return m.get("lib/commissaire/turn/first/output") != "" })
		for verb, arguments := range requests {
			short := slices.Clone(arguments)
			short[slices.Index(short, "SECONDS")] = "1"
			a := m.ask(t, verb, short...)
			if !strings.HasPrefix(a["refused"], "another piece of work runs on this host: turn first (process ") ||
				verb != "run" && !strings.HasPrefix(a["waiting"], "another piece of work on this host: turn first (process ") {
				t.Errorf("%s answered %q", verb, a)
			}
			if verb == "run" || verb == "reboot" { // have a record
				os.RemoveAll(filepath.Join(m.dir, "lib/commissaire/turn", short[2]))
			}
		}
		if a := m.ask(t, "facts", "log", "1"); a["boot-id"] == "" {
			t.Errorf("facts waited: %q", a)
		}
		if m.get("run/done") != "" {
			t.Error("something was done meanwhile")
		}
		m.put(t, "run/go", "")
		end(t, first)
		for _, verb := range []string{"run", "write", "check", "reboot"} { // what the first left behind holds nothing
			long := slices.Clone(requests[verb])
			long[slices.Index(long, "SECONDS")] = "30"
			os.Remove(filepath.Join(m.dir, "run/done"))
			if a := m.ask(t, verb, long...); a["refused"] != "" || m.get("run/done") == "" {
				t.Errorf("%s answered %q", verb, a)
			}
		}
		// The host is on its way down.
		if a := m.ask(t, "check", "log", "1", "1", data("true")); !strings.HasPrefix(a["refused"], "another piece of work runs on this host: turn again (") {
			t.Errorf("answered %q", a)
		}
		m.put(t, "boot_id", otherBoot+"\n")
		if a := m.ask(t, "check", "log", "1", "30", data("exit 3")); strings.TrimSpace(a["exit"]) != "3" {
			t.Errorf("answered %q", a)
		}
	})
}

func TestAHealthCommandIsDoneAlone(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		ended := make(chan answer, 1)
		go func() {
			a, _ := m.tryAsk(t.Context(), "check", "log", "1", "60", data("echo >/run/begun; until [ -e /run/go ]; do sleep 0.05; done"))
			ended <- a
		}()
		within(t, 20*time.Second, "it runs", func() bool { return m.get("run/begun") != "" })
		if a := m.ask(t, "run", "log", "1", "turn", "1", "-", data("true"), data("")); !strings.HasPrefix(a["refused"], "another piece of work runs on this host: a health command (") {
			t.Errorf("answered %q", a)
		}
		m.put(t, "run/go", "")
		if a := end(t, ended); strings.TrimSpace(a["exit"]) != "0" {
			t.Errorf("answered %q", a)
		}
	})
}

func TestWhatARebootSaysIsKept(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/do-systemctl", "echo 'Operation inhibited by \"backup\", reason is \"running\".' >&2; exit 1")
		m.put(t, "run/do-reboot", "echo 'reboot: not now' >&2; exit 7")
		for range 2 {
			a := m.ask(t, "reboot", "log", "1", "turn", "60", firstBoot)
			if state(a) != "exit 7" || !strings.HasSuffix(a["tail"], "\nreboot: not now\n") {
				t.Errorf("answered %q", a)
			}
		}
		if a := m.ask(t, "look", "turn"); state(a) != "exit 7" {
			t.Errorf("look answered %q", a)
		}
		if calls, want := m.calls(), []string{"systemctl reboot", "reboot"}; !slices.Equal(calls, want) {
			t.Errorf("called %q", calls)
		}
		if a := m.run(t, "next", "true"); state(a) != "exit 0" {
			t.Errorf("it holds the host: %q", a)
		}
	})
}

func TestARebootThatTheHostRefusesFailsWithItsWords(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/do-systemctl", "echo 'Failed to reboot system via logind: Operation inhibited' >&2; exit 1")
	s.put(t, "run/do-reboot", "echo 'E: molly-guard: aborting' >&2; exit 1")
	err := s.dial(t).Reboot(t.Context(), "r", firstBoot)
	if why := refusal(t, err); !strings.HasPrefix(why, "the order to reboot ended with exit status 1: ") || !strings.Contains(why, "molly-guard: aborting") {
		t.Error(why)
	}
}

func TestATurnWhoseRecordIsGoneIsNotBegunInAnotherBoot(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		// A record on a tmpfs is gone with the power.
		for _, boot := range []string{firstBoot, firstBoot, "-"} {
			a := m.ask(t, "run", "log", "1", "turn"+boot, "60", boot, data("echo >>/run/ran"), data(""))
			if state(a) != "exit 0" {
				t.Errorf("in its boot: %q", a)
			}
		}
		if err := os.RemoveAll(filepath.Join(m.dir, "lib/commissaire")); err != nil {
			t.Fatal(err)
		}
		m.put(t, "boot_id", otherBoot+"\n")
		for range 2 {
			a := m.ask(t, "run", "log", "1", "turn"+firstBoot, "60", firstBoot, data("echo >>/run/ran"), data(""))
			if state(a) != "ended interrupted by a reboot" {
				t.Errorf("in another boot: %q", a)
			}
			if a := m.ask(t, "reboot", "log", "1", "r", "60", firstBoot); strings.TrimSpace(a["reboot"]) != "booted" {
				t.Errorf("a reboot from another boot: %q", a)
			}
		}
		if ran := m.get("run/ran"); ran != "\n\n" {
			t.Errorf("ran %d times", len(ran))
		}
	})
	t.Run("by the session", func(t *testing.T) {
		s := newSite(t, Config{})
		result, err := s.dial(t).Run(t.Context(), "turn",
			process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}, BootID: otherBoot})
		if err != nil || result.Exit != nil || result.Interrupted != "interrupted by a reboot" || len(s.calls()) > 0 {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

func TestTheLimitThatIsToldIsTheOneThatWasGiven(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/do-dnf", "sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := s.dial(t).Run(ctx, process.WorkID(aTurn()),
		process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}, Limit: 2 * time.Second})
	if err != nil || result.Interrupted != "stopped at its time limit of 2 s" {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestWhatIsWaitedForIsToldUntilItIsNot(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{})
	release := s.lock(t, "lib/rpm/.rpm.lock")
	w, ended := &waits{}, make(chan error, 1)
	session := s.dial(t)
	go func() {
		_, err := session.Run(t.Context(), "turn",
			process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}, Limit: time.Minute, Waiting: w.add})
		ended <- err
	}()
	within(t, 20*time.Second, "it waits", func() bool { return w.has("/var/lib/rpm/.rpm.lock") })
	release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if w.said[len(w.said)-1] != "" {
		t.Errorf("waited for %q", w.said)
	}
}
