package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"commissaire/test/fleet"
)

// headings are the lines of a log that the host did not print.
var headings = regexp.MustCompile(`(?m)^== 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ .*\n`)

// log is what the service says that a host printed, without headings.
func (s *service) log(path, host string) string {
	s.t.Helper()
	a := s.get(path + "/host/" + host + "/log").is(200)
	if kind := a.header.Get("Content-Type"); kind != "text/plain; charset=utf-8" {
		s.t.Errorf("%s: it is of type %s", a.call, kind)
	}
	if len(headings.FindAll(a.body, -1)) == 0 {
		s.t.Errorf("%s: it has no heading: %.200q", a.call, a.body)
	}
	return headings.ReplaceAllString(string(a.body), "")
}

// printed is what a host has in its record of its turn.
func (s *service) printed(path string, h *fleet.Host) string {
	s.t.Helper()
	for _, begun := range s.events(path+"/history", "HostTurnBegun") {
		if begun["host"] == h.Address() {
			text, err := h.ReadFile("/var/lib/commissaire/turn/" + sprint(begun["claim"]) + "/output")
			if err != nil {
				s.t.Fatal(err)
			}
			return string(text)
		}
	}
	s.t.Fatalf("%s has no turn in %s", h.Address(), path)
	return ""
}

// following is a log that is read as it comes.
type following struct {
	t        *testing.T
	response *http.Response
	lines    *bufio.Reader
	all      strings.Builder
}

func (s *service) follow(path, host string) *following {
	s.t.Helper()
	response, err := s.client.Do(s.request("operator", http.MethodGet, path+"/host/"+host+"/log?follow=1", nil))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		s.t.Fatalf("following a log: %s %v", response.Status, response.Header)
	}
	return &following{t: s.t, response: response, lines: bufio.NewReader(response.Body)}
}

// until reads until a line comes.
func (f *following) until(want string) {
	f.t.Helper()
	limit := time.AfterFunc(60*time.Second, func() { f.response.Body.Close() })
	defer limit.Stop()
	for {
		line, err := f.lines.ReadString('\n')
		f.all.WriteString(line)
		if line == want+"\n" {
			return
		}
		if err != nil {
			f.t.Fatalf("%q did not come: %v after %.300q", want, err, f.all.String())
		}
	}
}

// rest reads to the end.
func (f *following) rest() (all string, err error) {
	limit := time.AfterFunc(60*time.Second, func() { f.response.Body.Close() })
	defer limit.Stop()
	_, err = io.Copy(&f.all, f.lines)
	return f.all.String(), err
}

func numbered(n int) string {
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "line %06d of what it prints\n", i)
	}
	return all.String()
}

func TestWhatHostsPrintedIsServed(t *testing.T) {
	f, body := hosts(t, atomics(41, 3)...)
	settings := map[string]any{"bootstrap.profile": "none"}
	s := newService(t, settings)
	s.join(f, body)
	first, second, third := f.Hosts()[0], f.Hosts()[1], f.Hosts()[2]
	first.SetFaults(fleet.Faults{Prints: numbered(2000)})
	second.SetFaults(fleet.Faults{Prints: "\xff\xfe\x00\x1b[2J\x1b]0;owned\x07 \u00fc\r\n"})
	second.FailNext("rpm-ostree upgrade", 3)
	path := s.operate("upgrade", `{"stage":false}`)
	o := s.until(path, status("failed"))

	if got, want := s.log(path, first.Address()), s.printed(path, first); got != want || len(want) < 50_000 {
		t.Errorf("of %d bytes %d are served", len(want), len(got))
	}
	got := s.log(path, second.Address())
	if want := "????[2J?]0;owned? \u00fc \nrpm-ostree: failed, as it was told to\n"; got != want {
		t.Errorf("served %q, want %q", got, want)
	}
	if !utf8.ValidString(got) || strings.ContainsFunc(got, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }) {
		t.Errorf("it is not harmless: %q", got)
	}
	if one, two := turnOf(o, 0), turnOf(o, 1); one["output"] != "" || two["output"] != strings.TrimSpace(got) || two["exit_status"] != 3.0 || two["attempts"] != 1.0 ||
		two["version_before"] != "41.1" {
		t.Errorf("the turns: %v\n%v", one, two)
	}
	if viewed := turnOf(s.as("viewer", http.MethodGet, path, nil).is(200).object(), 1); viewed["output"] != "" {
		t.Errorf("a viewer sees %v", viewed["output"])
	}

	// Who may see it, and what there is not.
	log := path + "/host/" + second.Address() + "/log"
	for _, user := range []string{"viewer", "auditor", "join"} {
		s.as(user, http.MethodGet, log, nil).is(403)
	}
	s.as("operator", http.MethodGet, log, nil).is(200)
	tag := s.get(log).is(200).header.Get("ETag")
	if tag == "" || s.get(log, "If-None-Match", tag).status != 304 {
		t.Errorf("the tag %q is of no use", tag)
	}
	missing := func(path, why string) {
		t.Helper()
		if a := s.get(path).is(404); a.object()["detail"] != why {
			t.Errorf("%s: %v", path, a.object()["detail"])
		}
	}
	id := strings.TrimPrefix(path, "/operation/")
	none := "00000000-0000-4000-8000-000000000000"
	missing("/operation/"+none+"/host/"+second.Address()+"/log", "there is no operation "+none)
	missing(path+"/host/127.9.9.9/log", "host 127.9.9.9 has no part in operation "+id)
	missing(path+"/host/"+third.Address()+"/log", "host "+third.Address()+" printed nothing in operation "+id)
	missing(path+"/host/"+third.Address()+"/log?follow=1", "host "+third.Address()+" printed nothing in operation "+id)
	s.get(log + "?follow=maybe").is(400)
	followed, err := s.follow(path, second.Address()).rest()
	if whole := string(s.get(log).is(200).body); err != nil || followed != whole {
		t.Errorf("followed after its end: %q, %v", followed, err)
	}

	// It survives a restart, but not its time; what is under way does.
	s.crash()
	if again := s.log(path, second.Address()); again != got {
		t.Errorf("after a restart: %q", again)
	}
	release := second.Hold("rpm-ostree upgrade")
	running := s.operate("upgrade", `{"only":["`+second.Address()+`"]}`)
	s.follow(running, second.Address()).until("????[2J?]0;owned? \u00fc ")
	s.stop(syscall.SIGKILL)
	s.configure(map[string]any{"operations.output-max-age": "1ms"})
	s.start()
	was := len(s.printed(path, second))
	s.await(func() bool { return s.get(log).status == 404 }, log)
	missing(log, fmt.Sprintf("what host %s printed in operation %s, %d bytes, is not kept any more", second.Address(), id, was))
	if got := s.log(running, second.Address()); !strings.Contains(got, "owned") {
		t.Errorf("of what runs: %q", got)
	}
	release()
	if o := s.until(running, status("finished")); turnOf(o, 0)["attempts"] != 2.0 {
		t.Errorf("taken up twice: %v", turnOf(o, 0))
	}
}

func TestALogIsFollowedWhileTheCommandRuns(t *testing.T) {
	f, body := hosts(t, fleet.Spec{Address: "127.0.42.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"}, fleet.Spec{Address: "127.0.42.2", OS: fleet.Fedora, Version: "6.1"})
	s := newService(t, map[string]any{"bootstrap.profile": "none", "limits.read-timeout": "300ms"})
	s.join(f, body)
	h := f.Hosts()[0]
	h.SetFaults(fleet.Faults{Prints: "first\nsecond\n"})
	h.Slow("dnf -y upgrade", time.Second) // longer than a request may take to be read
	release := h.Hold("dnf -y upgrade")
	path := s.operate("upgrade", `{}`)

	early := s.follow(path, "127.0.42.2") // whose turn it is not yet
	one, two, gone := s.follow(path, h.Address()), s.follow(path, h.Address()), s.follow(path, h.Address())
	for _, follower := range []*following{one, two, gone} {
		follower.until("first")
		follower.until("second")
	}
	gone.response.Body.Close()
	o := s.get(path).is(200).object()
	if turn := turnOf(o, 0); turn["state"] != "begun" || turn["doing"] != "working" || turn["output"] != "first\nsecond" {
		t.Errorf("meanwhile: %v", turn)
	}
	release()
	for _, follower := range []*following{one, two} {
		all, err := follower.rest()
		if err != nil || all != string(s.get(path+"/host/"+h.Address()+"/log").is(200).body) || !strings.HasSuffix(all, "Complete!\n") {
			t.Errorf("followed %q, %v", all, err)
		}
	}
	if all, err := early.rest(); err != nil || !strings.HasSuffix(all, "Nothing to do.\n") {
		t.Errorf("followed from before its turn %q, %v", all, err)
	}

	// Who follows holds up neither the shutdown, nor is it hidden from him.
	s.until(path, status("finished"))
	h.Release("6.3")
	release = h.Hold("dnf -y upgrade")
	defer release()
	path = s.operate("upgrade", `{}`)
	last := s.follow(path, h.Address())
	last.until("second")
	began := time.Now()
	s.stop(syscall.SIGTERM)
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %s to shut down", took)
	}
	if !s.cmd.ProcessState.Success() {
		t.Errorf("it ended with %s", s.cmd.ProcessState)
	}
	if all, err := last.rest(); err == nil {
		t.Errorf("the end of the service looks like the end of the turn: %q", all)
	}
}

func TestNothingOfALogIsLostOrThereTwice(t *testing.T) {
	f, body := hosts(t, atomics(43, 1)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	h := f.Hosts()[0]
	h.SetFaults(fleet.Faults{Prints: numbered(10_000) + "held\n"})
	release := h.Hold("rpm-ostree upgrade")
	path := s.operate("upgrade", `{}`)
	s.follow(path, h.Address()).until("held")
	for range 2 {
		h.DropConnections()
		if got := s.log(path, h.Address()); !strings.HasSuffix(got, "held\n") {
			t.Errorf("after the connection was cut %d bytes are served", len(got))
		}
	}
	s.stop(syscall.SIGKILL)
	h.DropConnections()
	s.start()
	follower := s.follow(path, h.Address())
	follower.until("held")
	release()
	all, err := follower.rest()
	s.until(path, status("finished"))
	want := s.printed(path, h)
	if got := s.log(path, h.Address()); got != want || len(want) < 300_000 {
		t.Errorf("of %d bytes %d are served", len(want), len(got))
	}
	if got := headings.ReplaceAllString(all, ""); got != want || err != nil {
		t.Errorf("of %d bytes %d were followed, %v", len(want), len(got), err)
	}
	if n := commands(h, "rpm-ostree upgrade"); n != 1 {
		t.Errorf("it was upgraded %d times", n)
	}
}

func TestMuchOutputIsBounded(t *testing.T) {
	f, body := hosts(t, atomics(44, 1)...)
	s := newService(t, map[string]any{"bootstrap.profile": "none"})
	s.join(f, body)
	h := f.Hosts()[0]
	h.SetFaults(fleet.Faults{Prints: numbered(350_000)})
	path := s.operate("upgrade", `{}`)
	s.until(path, status("finished"))
	want, got := s.printed(path, h), s.log(path, h.Address())
	head, tail, left := strings.Cut(got, "\n[... ")
	note, tail, _ := strings.Cut(tail, " bytes are left out here ...]\n")
	n := 0
	fmt.Sscan(note, &n)
	if len(want) < 10<<20 || len(got) > 1<<20+100 || !left || !strings.HasPrefix(want, head) || !strings.HasSuffix(want, tail) || len(head) < 1<<19-10 || len(tail) < 1<<18-10 ||
		n < len(want)-len(got) || n > len(want)-len(head)-len(tail) || strings.Contains(tail, "left out") {
		t.Errorf("of %d bytes: %d of the beginning, %d of the end, %q left out", len(want), len(head), len(tail), note)
	}
	history := string(s.get(path + "/history").is(200).body)
	if !strings.Contains(history, fmt.Sprintf(`"output":{"size":%d,`, len(want))) {
		t.Errorf("no event has the size of all it printed: %s", history)
	}
}
