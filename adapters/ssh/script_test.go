package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// killRunner is a command that ends its runner as a crash would: flock and the
// shell that would note the exit status.
const killRunner = `
pid=$PPID runner=
for part in shell lock shell lock; do
	read -r _ _ _ pid _ </proc/$pid/stat
	runner="$runner $pid"
done
kill -9 $runner
`

const otherBoot = "99999999-2222-3333-4444-555555555555"

// TestMain lets more tests run at once than there are processors: most of them wait for
// what happens on a host.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func eachShell(t *testing.T, test func(t *testing.T, m *machine)) {
	t.Helper()
	t.Parallel()
	for _, shell := range []string{"dash", "bash", "busybox"} { // as /bin/sh, which makes bash a POSIX shell
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			test(t, newMachine(t, shell))
		})
	}
}

func (m *machine) run(t *testing.T, turn, command string) answer {
	t.Helper()
	return m.ask(t, "run", "log", "1", turn, "60", "-", data(command), data(""))
}

// aTurn is a name that no other turn has: the machines share one table of processes, and
// stopping a turn stops all that has its name.
func aTurn() string { return "turn-" + newMarker()[:8] }

func state(a answer) string { return strings.TrimSpace(a["state"]) }

func TestOneShellTakesManyRequests(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		cmd := m.command(t.Context(), "/bin/sh", "-s")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ask := func(verb string, arguments ...string) answer {
			t.Helper()
			marker := newMarker()
			text, err := call(marker, verb, arguments...)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(in, text)
			a, err := readAnswer(out, marker, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", verb, err)
			}
			return a
		}
		bootID := func(want string) {
			t.Helper()
			if a := ask("bootid"); strings.TrimSpace(a["boot-id"]) != want || len(a) != 1 {
				t.Errorf("boot id: %q", a)
			}
		}
		bootID(firstBoot) // before the script is there
		io.WriteString(in, Script+"\n")
		for _, turn := range []string{"first", "second"} {
			if a := ask("run", "log", "2", turn, "60", "-", data("pwd; cat argument; exit 3"), data("of "+turn)); state(a) != "exit 3" ||
				a["tail"] != "/var/lib/commissaire/turn/"+turn+"\nof "+turn {
				t.Errorf("%s turn: %q", turn, a)
			}
			bootID(firstBoot)
		}
		if a := ask("run", "log", "1", "late", "60", "-", data("true"), data("")); strings.TrimSpace(a["fenced"]) != "2" {
			t.Errorf("an earlier term: %q", a)
		}
		for _, said := range []string{"changed", "same"} {
			if a := ask("write", "log", "2", "60", "0644", data("/etc/new/file"), data("text")); strings.TrimSpace(a["written"]) != said {
				t.Errorf("write: %q", a)
			}
		}
		if a := ask("look", "none"); state(a) != "unknown" {
			t.Errorf("look: %q", a)
		}
		if facts, err := parseFacts(ask("facts", "log", "2")); err != nil || facts.BootID != firstBoot {
			t.Errorf("%+v, %v", facts, err)
		}
		if a := ask("reboot", "log", "2", "reboot", "60", otherBoot); strings.TrimSpace(a["reboot"]) != "booted" {
			t.Errorf("reboot: %q", a)
		}
		m.put(t, "boot_id", "") // the one before is not told again
		bootID("")
		in.Close()
		if err := cmd.Wait(); err != nil || complaints.Len() > 0 {
			t.Errorf("at its end: %v %s", err, complaints.String())
		}
	})
}

func TestATurnIsRunOnceWhoeverAsks(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		var asked sync.WaitGroup
		answers := make([]answer, 6)
		for i := range answers {
			asked.Go(func() {
				answers[i], _ = m.tryAsk(t.Context(), "run", "log", "1", "turn", "60", "-", data("echo once >>/run/ran; printf 'no newline'; exit 3"), data(""))
			})
		}
		asked.Wait()
		answers = append(answers, m.run(t, "turn", "echo twice >>/run/ran"), m.ask(t, "look", "turn"))
		for _, a := range answers {
			if state(a) != "exit 3" || a["tail"] != "no newline" || strings.TrimSpace(a["size"]) != "10" {
				t.Errorf("answered %q", a)
			}
		}
		if ran := m.get("run/ran"); ran != "once\n" {
			t.Errorf("ran %q", ran)
		}
	})
}

func TestCommandsRunOneAfterTheOther(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		command := data("[ ! -e /run/command ] || echo overlap; : >/run/command; until [ -e /run/go ]; do /bin/sleep 0.05; done; rm /run/command; echo end")
		var asked sync.WaitGroup
		answers := make([]answer, 2)
		for i := range answers {
			asked.Go(func() {
				answers[i], _ = m.tryAsk(t.Context(), "run", "log", "1", string(rune('a'+i)), "60", "-", command, data(""))
			})
		}
		within(t, 30*time.Second, "one waits for the other", func() bool {
			return m.get("lib/commissaire/turn/a/waiting")+m.get("lib/commissaire/turn/b/waiting") != ""
		})
		m.put(t, "run/go", "")
		asked.Wait()
		for _, a := range answers {
			if state(a) != "exit 0" || a["tail"] != "end\n" {
				t.Errorf("answered %q", a)
			}
		}
	})
}

func TestOutputOfAnySizeIsMeasuredAndCut(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		a := m.run(t, "turn", "tr '\\0' '\\377' </dev/zero | head -c 10000000; printf 'the end'")
		want := sha256.New()
		want.Write([]byte(strings.Repeat("\xff", 10_000_000) + "the end"))
		result, err := parseResult(a)
		if err != nil {
			t.Fatal(err)
		}
		if result.Output.Size != 10_000_007 || result.Output.SHA256 != hex.EncodeToString(want.Sum(nil)) {
			t.Errorf("output is %+v", result.Output)
		}
		if len(a["tail"]) != 8192 || !strings.HasSuffix(result.Said, "the end") || len(result.Said) > maxReason {
			t.Errorf("tail has %d bytes, of which are kept %q", len(a["tail"]), result.Said)
		}
	})
}

func TestACommandHasNoMoreTimeThanItsLimit(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		a := m.ask(t, "run", "log", "1", aTurn(), "1", "-", data("echo begun; sleep 60"), data(""))
		if state(a) != "ended stopped at its time limit of 1 s" || a["tail"] != "begun\n" {
			t.Errorf("answered %q", a)
		}
		if a := m.run(t, "own-124", "exit 124"); state(a) != "exit 124" {
			t.Errorf("an exit status of its own: %q", a)
		}
	})
}

func TestATimeLimitIsToldWhateverTheClockSays(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.program(t, "date", "[ -e /run/asked ] && echo 1000 || echo 5000\n: >/run/asked\n") // set back meanwhile
		a := m.ask(t, "run", "log", "1", aTurn(), "1", "-", data("sleep 60"), data(""))
		if state(a) != "ended stopped at its time limit of 1 s" {
			t.Errorf("answered %q", a)
		}
	})
}

func TestAnExitStatusIsKeptThoughTheCommandFilledTheDisk(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		if err := m.command(t.Context(), "mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", "/var/lib").Run(); err != nil {
			t.Fatal(err)
		}
		if a := m.run(t, "turn", "head -c 1000000 /dev/zero; exit 7"); state(a) != "exit 7" {
			t.Errorf("it ended with %q", state(a))
		}
	})
}

func TestAHostWithoutRoomForARecordRefuses(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		// For the root, the two directories of the record, and nothing in them.
		if err := m.command(t.Context(), "mount", "-t", "tmpfs", "-o", "nr_inodes=3", "tmpfs", "/var/lib").Run(); err != nil {
			t.Fatal(err)
		}
		a, err := m.tryAsk(t.Context(), "run", "log", "1", "turn", "60", "-", data("true"), data(""))
		if err != nil || !strings.HasPrefix(a["refused"], "no record can be kept in /var/lib/commissaire") {
			t.Errorf("answered %q, %v", a, err)
		}
	})
}

func TestWhatIsPrintedAfterTheEndIsNotLookedAt(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.program(t, "sha256sum", "echo more >>output\nexec /usr/bin/sha256sum\n") // as what the command left behind may
		result, err := parseResult(m.run(t, "turn", "echo text"))
		sum := sha256.Sum256([]byte("text\n"))
		if err != nil || result.Output.Size != 5 || result.Output.SHA256 != hex.EncodeToString(sum[:]) || result.Said != "text" {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

func TestAHealthCommandMayLeaveAProcessBehind(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		check := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			a, err := m.tryAsk(ctx, "check", "log", "1", "60", data("setsid sleep 60 & echo fine; exit 3"))
			if err != nil || strings.TrimSpace(a["exit"]) != "3" || a["output"] != m.get("run/said") {
				t.Errorf("answered %q, %v", a, err)
			}
		}
		m.put(t, "run/said", "fine\n")
		check()
		if left, _ := os.ReadDir(filepath.Join(m.dir, "lib/commissaire/turn")); len(left) > 0 {
			t.Errorf("left behind %v", left)
		}
		fillTheDisk(t, m)
		m.put(t, "run/said", "")
		check()
	})
}

// fillTheDisk leaves what a host keeps of itself in place, and no room for more.
func fillTheDisk(t *testing.T, m *machine) {
	t.Helper()
	if err := m.command(t.Context(), "sh", "-c", `cp -a /var/lib/commissaire /run/copy &&
mount -t tmpfs -o size=64k tmpfs /var/lib && cp -a /run/copy /var/lib/commissaire && ! cat /dev/zero >/var/lib/zeros 2>/dev/null`).Run(); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyWaitsForATurnWhoseRecordIsGone(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		p, ended := wanting(0, 1000, 1000), make(chan answer)
		go func() {
			a, _ := m.hear(t, p, "run", "log", "1", "turn", "60", "-", data("echo begun; until [ -e /run/go ]; do sleep 0.05; done"), data(""))
			ended <- a
		}()
		within(t, 20*time.Second, "the command begins", func() bool { return p.got(0) != "" })
		within(t, 20*time.Second, "its record is removed", func() bool { return os.RemoveAll(filepath.Join(m.dir, "lib/commissaire")) == nil })
		m.put(t, "run/go", "")
		var a answer
		within(t, 20*time.Second, "an answer", func() bool {
			select {
			case a = <-ended:
				return true
			default:
				return false
			}
		})
		if strings.TrimSpace(a["refused"]) != "its record is gone" {
			t.Errorf("answered %q", a)
		}
	})
}

func TestARunnerThatDiedIsNoticed(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		turn := aTurn()
		for range 2 {
			if a := m.run(t, turn, "echo >>/run/ran"+killRunner); state(a) != "ended killed" {
				t.Errorf("answered %q", a)
			}
		}
		if ran := m.get("run/ran"); ran != "\n" {
			t.Errorf("ran %d times", len(ran))
		}
	})
}

func TestACommandDoesNotSurviveABoot(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		powerCut := "echo " + otherBoot + " >/proc/sys/kernel/random/boot_id" + killRunner
		for range 2 {
			if a := m.run(t, "turn", powerCut); state(a) != "ended interrupted by a reboot" {
				t.Errorf("answered %q", a)
			}
		}
		if a := m.ask(t, "look", "turn"); state(a) != "ended interrupted by a reboot" {
			t.Errorf("look answered %q", a)
		}
		m.run(t, "done", "true")
		m.put(t, "boot_id", firstBoot+"\n")
		if a := m.run(t, "done", "true"); state(a) != "exit 0" {
			t.Errorf("what ended before the boot answered %q", a)
		}
	})
}

func TestARunnerThatDoesNotStartInTimeNeverDoes(t *testing.T) {
	m := newMachine(t, "dash")
	m.put(t, "run/systemd/system/there", "")
	m.standIn(t, "systemd-run") // succeeds and does nothing
	m.standIn(t, "sleep")       // takes no time
	if a := m.run(t, "turn", "echo ran >/run/ran"); state(a) != "ended never started" {
		t.Fatalf("answered %q", a)
	}
	if err := m.command(t.Context(), "/bin/sh", "/var/lib/commissaire/turn/turn/runner").Run(); err != nil {
		t.Fatal(err)
	}
	if m.get("run/ran") != "" {
		t.Error("it ran after it was given up")
	}
}

func TestWhereThereIsSystemdATurnIsAUnit(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/systemd/system/there", "")
		m.standIn(t, "systemd-run")
		m.put(t, "run/do-systemd-run", `shift 2; setsid "$@" </dev/null >/dev/null 2>&1 &`)
		if a := m.run(t, "turn", "echo here"); state(a) != "exit 0" || a["tail"] != "here\n" {
			t.Errorf("answered %q", a)
		}
		want := []string{"systemd-run --unit=commissaire-turn --property=KillMode=process /bin/sh /var/lib/commissaire/turn/turn/runner"}
		if calls := m.calls(); !slices.Equal(calls, want) {
			t.Errorf("called %q", calls)
		}
	})
}

// changing are requests of every verb that changes something or is done for
// somebody, for a leader.
func changing(owner, term string) [][]string {
	return [][]string{
		{"facts", owner, term},
		{"run", owner, term, "other", "60", "-", data("echo >/run/ran"), data("")},
		{"run", owner, term, "five", "60", "-", data("echo >/run/ran"), data("")},
		{"write", owner, term, "60", "644", data("/run/ran"), data("text")},
		{"reboot", owner, term, "again", "60", firstBoot},
		{"check", owner, term, "60", data("echo >/run/ran")},
	}
}

// untouched says that nothing was done and that the record is of one turn.
func (m *machine) untouched(t *testing.T) {
	t.Helper()
	if m.get("run/ran") != "" || len(m.calls()) != 0 {
		t.Error("something was done")
	}
	left, _ := os.ReadDir(filepath.Join(m.dir, "lib/commissaire/turn"))
	if len(left) != 1 || left[0].Name() != "five" {
		t.Errorf("left behind %v", left)
	}
}

func TestALaterLeaderFencesOffTheFormer(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		if a := m.ask(t, "run", "log", "5", "five", "60", "-", data("true"), data("")); state(a) != "exit 0" {
			t.Fatalf("answered %q", a)
		}
		for _, request := range changing("log", "4") {
			a := m.ask(t, request[0], request[1:]...)
			if strings.TrimSpace(a["fenced"]) != "5" || len(a) != 1 {
				t.Errorf("%s answered %q", request[0], a)
			}
		}
		m.untouched(t)
		if a := m.ask(t, "run", "log", "9223372036854775807", "last", "60", "-", data("true"), data("")); state(a) != "exit 0" {
			t.Errorf("the last term answered %q", a)
		}
	})
}

func TestAHostIsWorkedOnByOneInstallation(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		if a := m.ask(t, "run", "log", "5", "five", "60", "-", data("true"), data("")); state(a) != "exit 0" {
			t.Fatalf("answered %q", a)
		}
		for _, term := range []string{"1", "5", "9"} {
			for _, request := range changing("other", term) {
				a := m.ask(t, request[0], request[1:]...)
				words := strings.Fields(a["foreign"])
				if len(words) != 3 || words[0] != "log" || words[2] != "5" || len(a) != 1 {
					t.Errorf("%s answered %q", request[0], a)
				} else if since, err := time.Parse(time.RFC3339, words[1]); err != nil || time.Since(since).Abs() > time.Hour {
					t.Errorf("it is managed since %s", words[1])
				}
			}
		}
		m.untouched(t)
		for range 2 {
			if a := m.ask(t, "take", "other", "1"); len(a) != 1 || a["taken"] != "" {
				t.Errorf("taken over: %q", a)
			}
		}
		if a := m.ask(t, "run", "other", "1", "five", "60", "-", data("echo >/run/ran"), data("")); state(a) != "exit 0" || m.get("run/ran") != "" {
			t.Errorf("what was done before is on record: %q", a)
		}
		if a := m.ask(t, "run", "other", "1", "mine", "60", "-", data("true"), data("")); state(a) != "exit 0" {
			t.Errorf("after that: %q", a)
		}
		if a := m.ask(t, "run", "log", "6", "six", "60", "-", data("true"), data("")); !strings.HasPrefix(a["foreign"], "other ") {
			t.Errorf("the one before: %q", a)
		}
	})
}

func TestAHostOfAnEarlierVersionBelongsToWhomItsTermsFit(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "lib/commissaire/term", "5\n")
		if a := m.ask(t, "facts", "fresh", "4"); strings.TrimSpace(a["foreign"]) != "- - 5" || len(a) != 1 {
			t.Errorf("an earlier term: %q", a)
		}
		if a := m.ask(t, "facts", "log", "5"); a["boot-id"] == "" {
			t.Errorf("the same term: %q", a)
		}
		if a := m.ask(t, "facts", "fresh", "6"); !strings.HasPrefix(a["foreign"], "log ") {
			t.Errorf("another one then: %q", a)
		}
	})
}

func TestARecordThatCannotBeReadAdmitsNobodyAndIsTakenOver(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		for _, c := range []struct{ file, text string }{
			{"term", ""},
			{"term", "\n"},
			{"term", "five\n"},
			{"term", "-1\n"},
			{"term", "5 6\n"},
			{"term", "0x5\n"},
			{"term", "$(echo 1)\n"},
			{"term", "9223372036854775808\n"},
			{"term", "99999999999999999999\n"},
			{"term", strings.Repeat("9", 100_000)},
			{"term", "\x00\x00"},
			{"owner", ""},
			{"owner", "\n"},
			{"owner", "../x 2026\n"},
			{"owner", "\xff\xfe"},
			{"owner", strings.Repeat("\x00", 512)},
		} {
			m.put(t, "lib/commissaire/term", "1\n")
			m.put(t, "lib/commissaire/owner", "log 2026-11-29T10:00:00Z\n")
			m.put(t, "lib/commissaire/"+c.file, c.text)
			for _, request := range changing("log", "7")[:2] {
				a := m.ask(t, request[0], request[1:]...)
				if !strings.Contains(a["refused"], "/var/lib/commissaire/"+c.file) || len(a) != 1 {
					t.Errorf("%s of %.32q: %s answered %q", c.file, c.text, request[0], a)
				}
			}
			m.ask(t, "take", "log", "7")
			if a := m.ask(t, "facts", "log", "7"); a["boot-id"] == "" {
				t.Errorf("%s of %.32q: taken over it answered %q", c.file, c.text, a)
			}
		}
		if m.get("run/ran") != "" || len(m.calls()) != 0 {
			t.Error("something was done")
		}
	})
}

func TestAHostThatCannotKeepARecordIsNotWorkedOn(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		if err := m.command(t.Context(), "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/var/lib").Run(); err != nil {
			t.Fatal(err)
		}
		for _, request := range append(changing("log", "1"), []string{"take", "log", "1"}) {
			if a := m.ask(t, request[0], request[1:]...); !strings.Contains(a["refused"], "no record can be kept in /var/lib/commissaire") || len(a) != 1 {
				t.Errorf("%s answered %q", request[0], a)
			}
		}
	})
}

func TestAFullDiskDoesNotHideTheFactsOfAHostThatIsManaged(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.ask(t, "facts", "log", "1")
		fillTheDisk(t, m)
		if a := m.ask(t, "facts", "log", "1"); a["boot-id"] == "" {
			t.Errorf("answered %q", a)
		}
		if a := m.ask(t, "facts", "log", "2"); a["refused"] == "" || a["boot-id"] != "" {
			t.Errorf("a term that cannot be kept: %q", a)
		}
	})
}

func TestLookStartsNothingAndDoesNotWait(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		if a := m.ask(t, "look", "turn"); state(a) != "unknown" {
			t.Errorf("before: %q", a)
		}
		ended := make(chan answer)
		go func() {
			a, _ := m.tryAsk(t.Context(), "run", "log", "1", "turn", "60", "-", data("echo begun; until [ -e /run/go ]; do sleep 0.01; done; echo ended"), data(""))
			ended <- a
		}()
		within(t, 10*time.Second, "the command begins", func() bool { return m.get("lib/commissaire/turn/turn/output") != "" })
		if a := m.ask(t, "look", "turn"); state(a) != "running" || a["tail"] != "begun\n" {
			t.Errorf("meanwhile: %q", a)
		}
		m.put(t, "run/go", "")
		if a := <-ended; state(a) != "exit 0" || a["tail"] != "begun\nended\n" {
			t.Errorf("at the end: %q", a)
		}
	})
}

func TestARequestIsDataAndNotSeenInTheProcessList(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		hostile := "'; touch /run/pwned; $(touch /run/pwned) `touch /run/pwned`\n\\n\x01 é\n"
		a := m.ask(t, "run", "log", "1", "turn", "60", "-",
			data("cat argument; for p in /proc/[0-9]*/cmdline; do cat $p; done >/run/seen 2>/dev/null"), data(hostile))
		if a["tail"] != hostile {
			t.Errorf("%q arrived as %q", hostile, a["tail"])
		}
		if m.get("run/pwned") != "" || m.get("run/seen") == "" {
			t.Error("it was interpreted, or nothing was seen")
		}
		for _, part := range []string{"pwned", data(hostile)} {
			if strings.Contains(m.get("run/seen"), part) {
				t.Errorf("%q is in the process list", part)
			}
		}
		if a := m.ask(t, "run", "log", "1", "-", "60", "-", data("true"), data("")); state(a) != "exit 0" {
			t.Errorf("the smallest name: %q", a)
		}
		for _, name := range []string{"", "a=b", "a/b"} {
			if a := m.ask(t, "look", name); a["refused"] == "" {
				t.Errorf("a turn named %q: %q", name, a)
			}
		}
	})
	if _, err := call("m", "look", "it's"); err == nil {
		t.Error("an argument left its quotes")
	}
}

func TestTheRecordIsPrivateAndKeptForAWeek(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.run(t, "old", "true")
		m.run(t, "young", "true")
		for name, days := range map[string]int{"old": 9, "young": 6} {
			when := time.Now().AddDate(0, 0, -days)
			if err := os.Chtimes(filepath.Join(m.dir, "lib/commissaire/turn", name), when, when); err != nil {
				t.Fatal(err)
			}
		}
		m.run(t, "new", "true")
		for name, want := range map[string]string{"old": "unknown", "young": "exit 0", "new": "exit 0"} {
			if a := m.ask(t, "look", name); state(a) != want {
				t.Errorf("%s: %q", name, a)
			}
		}
		if info, err := os.Stat(filepath.Join(m.dir, "lib/commissaire")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the record has mode %v, %v", info.Mode(), err)
		}
	})
}

func TestAFileIsWrittenWholeAndOnlyIfItDiffers(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		path := filepath.Join(m.dir, "etc/new/deep/file name")
		write := func(mode, content string) string {
			return strings.TrimSpace(m.ask(t, "write", "log", "1", "60", mode, data("/etc/new/deep/file name"), data(content))["written"])
		}
		inode := func() os.FileInfo { info, _ := os.Stat(path); return info }

		content := strings.Repeat("a line\n", 20_000) + "no newline \x00\xff"
		if said := write("0600", content); said != "changed" {
			t.Errorf("first: %q", said)
		}
		first := inode()
		if said := write("0644", content); said != "same" {
			t.Errorf("again: %q", said)
		}
		if again := inode(); !os.SameFile(first, again) || again.Mode().Perm() != 0o644 {
			t.Errorf("again: mode %v, or another file", again.Mode())
		}
		if said := write("0600", ""); said != "changed" {
			t.Errorf("emptied: %q", said)
		}
		if text := m.get("etc/new/deep/file name"); text != "" || inode().Mode().Perm() != 0o600 {
			t.Errorf("emptied: %q, %v", text, inode().Mode())
		}
		for _, bad := range []string{"/etc/new", "relative", "/etc/", ""} {
			if a := m.ask(t, "write", "log", "1", "60", "0644", data(bad), data("")); a["refused"] == "" {
				t.Errorf("%q: %q", bad, a)
			}
		}
		left, _ := filepath.Glob(filepath.Join(m.dir, "etc/new/deep/.*"))
		if len(left) > 0 {
			t.Errorf("left behind %q", left)
		}
	})
}

func TestARebootIsAskedForOnceAndOnlyInItsBoot(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/do-systemctl", "exit 1") // where systemctl cannot, reboot does
		if a := m.ask(t, "reboot", "log", "1", "late", "60", otherBoot); strings.TrimSpace(a["reboot"]) != "booted" {
			t.Errorf("from another boot: %q", a)
		}
		if a := m.ask(t, "reboot", "log", "1", "turn", "60", firstBoot); strings.TrimSpace(a["reboot"]) != "new" {
			t.Errorf("first: %q", a)
		}
		if a := m.ask(t, "reboot", "log", "1", "turn", "60", firstBoot); strings.TrimSpace(a["reboot"]) != "old" {
			t.Errorf("again: %q", a)
		}
		m.put(t, "boot_id", otherBoot+"\n")
		if a := m.ask(t, "reboot", "log", "1", "turn", "60", firstBoot); strings.TrimSpace(a["reboot"]) != "old" {
			t.Errorf("after it: %q", a)
		}
		if calls, want := m.calls(), []string{"systemctl reboot", "reboot"}; !slices.Equal(calls, want) {
			t.Errorf("called %q", calls)
		}
	})
}

func TestFactsWaitForNoOtherMachinesFiles(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		// A file system of a user's that root may not look at makes df fail, and one of
		// a server that is away makes it hang, unless it is told to leave that out.
		m.program(t, "df", `[ "$1" = -Pkl ] || exec sleep 60
echo "/dev/sda1 2000 1000 1000 50% /"
exit 1
`)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		a, err := m.tryAsk(ctx, "facts", "log", "1")
		if facts, parseErr := parseFacts(a); err != nil || parseErr != nil || facts.Space != 2000 {
			t.Errorf("%+v, %v, %v", facts, err, parseErr)
		}
	})
}

func TestFactsAreThoseOfTheMachine(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		facts, err := parseFacts(m.ask(t, "facts", "log", "1"))
		if err != nil {
			t.Fatal(err)
		}
		if facts.OS != "fedora" || facts.OSRelease != "fedora 41" || facts.OSTree || !strings.HasPrefix(facts.Version, "41 ") ||
			facts.CPUs < 1 || facts.Memory < 1 || facts.Arch == "" || facts.BootID != firstBoot {
			t.Errorf("%+v", facts)
		}
		m.put(t, "run/ostree-booted", "")
		m.put(t, "run/do-rpm-ostree", `echo '{"deployments":[{"version":"2"},{"booted":true,"version":"1"}]}'`)
		facts, err = parseFacts(m.ask(t, "facts", "log", "1"))
		if err != nil || facts.OS != "atomic" || !facts.OSTree || facts.Version != "1" || facts.Pending != "2" {
			t.Errorf("%+v, %v", facts, err)
		}
	})
}

func TestThePackageManagerIsAskedWhetherItWantsAReboot(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.put(t, "run/do-dnf", `echo 'No such command: needs-restarting' >&2; exit 1`)
		if a := m.ask(t, "needs-reboot"); strings.TrimSpace(a["reboot-needed"]) != "" {
			t.Errorf("dnf without the plugin: %q", a)
		}
		m.put(t, "run/do-dnf", `echo 'Reboot is required to fully utilize these updates.'; exit 1`)
		if a := m.ask(t, "needs-reboot"); !strings.Contains(a["reboot-needed"], "Reboot is required") {
			t.Errorf("dnf: %q", a)
		}
		m.put(t, "run/do-dnf", `echo 'Reboot should not be necessary.'`)
		if a := m.ask(t, "needs-reboot"); strings.TrimSpace(a["reboot-needed"]) != "" {
			t.Errorf("dnf, without need: %q", a)
		}
		m.standIn(t, "needs-restarting")
		m.put(t, "run/do-needs-restarting", `exit 1`)
		if a := m.ask(t, "needs-reboot"); !strings.Contains(a["reboot-needed"], "needs-restarting") {
			t.Errorf("needs-restarting: %q", a)
		}
		m.put(t, "run/do-needs-restarting", `echo Traceback; exit 1`)
		if a := m.ask(t, "needs-reboot"); strings.TrimSpace(a["reboot-needed"]) != "" {
			t.Errorf("needs-restarting that is broken: %q", a)
		}
	})
}
