package ssh

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

// printed is a process.Output that holds what it is given.
type printed struct {
	from, head, tail int64

	mu     sync.Mutex
	text   map[int64]byte // by where it is in the output
	twice  int            // bytes that were given again
	closed []bool
}

func wanting(from, head, tail int64) *printed {
	return &printed{from: from, head: head, tail: tail, text: map[int64]byte{}}
}

func (p *printed) Wanted() (from, head, tail int64) { return p.from, p.head, p.tail }

func (p *printed) Write(from int64, text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range text {
		if _, known := p.text[from+int64(i)]; known {
			p.twice++
		}
		p.text[from+int64(i)] = c
	}
}

func (p *printed) Close(whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = append(p.closed, whole)
}

// got is what there is from a byte on, up to the first that is missing.
func (p *printed) got(from int64) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var text []byte
	for ; ; from++ {
		c, ok := p.text[from]
		if !ok {
			return string(text)
		}
		text = append(text, c)
	}
}

// hear asks host.sh as SSH would, and gives what a command prints to p as it comes.
func (m *machine) hear(t *testing.T, p *printed, verb string, arguments ...string) (answer, error) {
	for _, n := range []int64{p.from, p.head, p.tail} {
		arguments = append(arguments, fmt.Sprint(n))
	}
	marker := newMarker()
	text, err := call(marker, verb, arguments...)
	if err != nil {
		return nil, err
	}
	cmd := m.command(t.Context(), "/bin/sh", "-s")
	cmd.Stdin, cmd.Stderr = strings.NewReader(Script+"\n"+text), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	a, err := readAnswer(out, marker, p.Write, nil)
	if err != nil {
		return nil, err
	}
	return a, cmd.Wait()
}

func TestWhatACommandPrintsIsToldWhileItRuns(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		command := "echo one; until [ -e /run/two ]; do sleep 0.01; done; echo two; until [ -e /run/go ]; do sleep 0.01; done; printf three; exit 3"
		p, ended := wanting(0, 1000, 1000), make(chan answer)
		go func() {
			a, _ := m.hear(t, p, "run", "log", "1", "turn", "60", "-", data(command), data(""))
			ended <- a
		}()
		within(t, 20*time.Second, "the first line is told", func() bool { return p.got(0) == "one\n" })
		m.put(t, "run/two", "")
		within(t, 20*time.Second, "the second line is told", func() bool { return p.got(0) == "one\ntwo\n" })

		// Whoever comes later is told what is missing there.
		late, lateEnded := wanting(4, 1000, 1000), make(chan answer)
		go func() {
			a, _ := m.hear(t, late, "run", "log", "1", "turn", "60", "-", data(command), data(""))
			lateEnded <- a
		}()
		within(t, 20*time.Second, "the second line is told again", func() bool { return late.got(4) == "two\n" })
		m.put(t, "run/go", "")
		for _, a := range []answer{<-ended, <-lateEnded} {
			if state(a) != "exit 3" || a["tail"] != "one\ntwo\nthree" || len(a) != 4 {
				t.Errorf("answered %q", a)
			}
		}
		if p.twice+late.twice > 0 {
			t.Errorf("%d and %d bytes were told twice", p.twice, late.twice)
		}
	})
}

func TestOfMuchOutputTheBeginningAndTheEndAreTold(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		var all strings.Builder
		for i := range 200_000 {
			fmt.Fprintf(&all, "%06d\n", i)
		}
		want := all.String()
		command := "seq -f %06.0f 0 199999"
		const head, tail = 100_000, 20_000
		p := wanting(0, head, tail)
		a, err := m.hear(t, p, "run", "log", "1", "turn", "60", "-", data(command), data(""))
		if err != nil || state(a) != "exit 0" || a["tail"] != want[len(want)-8192:] || strings.TrimSpace(a["size"]) != fmt.Sprint(len(want)) {
			t.Fatalf("answered %.200q, %v", a, err)
		}
		if p.twice > 0 {
			t.Errorf("%d bytes were told twice", p.twice)
		}
		p.Write(int64(len(want)-8192), []byte(a["tail"]))
		if got := p.got(0); len(got) < head || !strings.HasPrefix(want, got) {
			t.Errorf("the beginning has %d bytes", len(got))
		}
		if got := p.got(int64(len(want) - tail)); got != want[len(want)-tail:] {
			t.Errorf("the end has %d bytes", len(got))
		}

		// From where reading stopped, of what ended.
		for _, from := range []int64{0, 99_999, 100_000, int64(len(want) - 8193), int64(len(want) - 100), int64(len(want))} {
			late := wanting(from, head, tail)
			if a, err := m.hear(t, late, "look", "turn"); err != nil || state(a) != "exit 0" {
				t.Fatalf("look: %.200q, %v", a, err)
			}
			if got := late.got(from); !strings.HasPrefix(want[from:], got) || from < head && len(got) < int(head-from) || late.twice > 0 {
				t.Errorf("from %d: %d bytes", from, len(got))
			}
		}
	})
}

func TestAShortOutputIsToldOnce(t *testing.T) {
	eachShell(t, func(t *testing.T, m *machine) {
		m.run(t, "turn", "echo short")
		p := wanting(0, 1000, 1000)
		a, err := m.hear(t, p, "run", "log", "1", "turn", "60", "-", data("echo short"), data(""))
		if err != nil || state(a) != "exit 0" || a["tail"] != "short\n" || len(p.text) > 0 {
			t.Errorf("answered %q, and before that %q, %v", a, p.got(0), err)
		}
	})
}

func TestOutputIsReadInAnyPieces(t *testing.T) {
	marker := newMarker()
	heading := func(name string) string { return "\n" + marker + " " + name + "\n" }
	text := "noise" + heading("begin") + heading("running") + heading("output 0") + "one\n" + heading("running") + heading("output 4") +
		"\n\x00two" + heading("output x") + "lost" + heading("running") + heading("state") + "exit 0\n" + heading("tail") + "two" + heading("end")
	for name, r := range map[string]io.Reader{
		"whole":        strings.NewReader(text),
		"byte by byte": iotest.OneByteReader(strings.NewReader(text)),
		"halves":       iotest.HalfReader(strings.NewReader(text)),
	} {
		p := wanting(0, 0, 0)
		a, err := readAnswer(r, marker, p.Write, nil)
		if err != nil || len(a) != 2 || state(a) != "exit 0" || a["tail"] != "two" || p.got(0) != "one\n\n\x00two" || p.twice > 0 {
			t.Errorf("%s: %q, %q, %v", name, a, p.got(0), err)
		}
	}
	if _, err := readAnswer(iotest.DataErrReader(bytes.NewReader([]byte(text[:len(text)-3]))), marker, wanting(0, 0, 0).Write, nil); err == nil {
		t.Error("an answer without an end is read")
	}
}

func TestOutputGoesOnAfterACutConnection(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/do-dnf", "echo one; until [ -e /run/go ]; do sleep 0.01; done; echo two")
	const id = "claim"
	told := make(chan string, 1)
	p := wanting(0, 1000, 1000)
	work := process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}, Output: func(command string) process.Output {
		told <- command
		return p
	}}
	first, broken := s.dial(t), make(chan error)
	go func() {
		_, err := first.Run(t.Context(), id, work)
		broken <- err
	}()
	if command := <-told; command != "dnf -y upgrade '--setopt=*.skip_if_unavailable=False'" {
		t.Errorf("the command is told as %q", command)
	}
	within(t, 20*time.Second, "the first line is told", func() bool { return p.got(0) == "one\n" })
	s.server.cut()
	unreachable(t, <-broken)

	s.put(t, "run/go", "")
	p.from = 4
	result, err := s.dial(t).Run(t.Context(), id, work)
	if err != nil || result.Exit == nil || *result.Exit != 0 || p.got(0) != "one\ntwo\n" || !slices.Equal(p.closed, []bool{false, true}) {
		t.Errorf("%+v, %v, %q, closed %v", result, err, p.got(0), p.closed)
	}
	if calls := s.calls(); !slices.Equal(calls, []string{"dnf -y upgrade --setopt=*.skip_if_unavailable=False"}) {
		t.Errorf("called %q", calls)
	}
}
