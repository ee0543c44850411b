package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("COMMISSAIRE_TEST_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is a running commissaire in a directory of its own, where its
// temporary files are too.
type program struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	out    io.ReadCloser
	lines  *bufio.Scanner
	errors bytes.Buffer
}

func run(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // it takes 20 s; the machine may be busy
	t.Cleanup(cancel)
	p := &program{t: t, dir: t.TempDir(), cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	p.cmd.Dir, p.cmd.Stderr = p.dir, &p.errors
	p.cmd.Env = append(os.Environ(), "COMMISSAIRE_TEST_PROGRAM=1", "TMPDIR="+p.dir)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.out, p.lines = out, bufio.NewScanner(out)
	return p
}

// until reads on until a line has this.
func (p *program) until(text string) {
	p.t.Helper()
	for p.lines.Scan() {
		if strings.Contains(p.lines.Text(), text) {
			return
		}
	}
	p.t.Fatalf("it did not say %q: %v, %s", text, p.cmd.Wait(), p.errors.String())
}

// ends waits for the end, and returns the exit status. Nothing may be left.
func (p *program) ends() int {
	p.t.Helper()
	_, _ = io.Copy(io.Discard, p.out)
	err := p.cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		p.t.Fatal(err)
	}
	left, err := os.ReadDir(p.dir)
	if err != nil || len(left) > 0 {
		p.t.Errorf("it left %v, %v", left, err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func TestTheDemoShowsWhatTheServiceDoes(t *testing.T) {
	t.Parallel()
	p := run(t, "demo")
	for _, line := range []string{
		"20 simulated hosts",
		"ada: PUT /api/v0/cluster/web {}",
		`{"cluster":"web","ssh_port":`,
		`"hosts":{"total":10,"available":10,"unavailable":0}`,
		"otto: PUT /api/v0/cluster/web/deploy",
		"127.0.1.1   rpm-ostree deploy -- 41.20250215.0                   succeeded",
		"deploy of web: finished (10 succeeded)",
		"127.0.2.4   dnf -y upgrade --setopt=*.skip_if_unavailable=False  failed",
		"upgrade of db: failed (3 succeeded, 1 failed, 6 waiting)",
		"cause: host 127.0.2.4: the upgrade ended with exit status 1",
		"upgrade of db: finished (10 succeeded)",
		"restart of web: finished (10 succeeded)",
		"restart of db: finished (10 succeeded)",
		"History",
		"this tree was tested on staging",
		"3 succeeded, 1 failed, 6 waiting  security fixes of February",
		"again: 127.0.2.4 is mended",
		"GET /api/v0/host/127.0.2.4/history",
		"HostTurnBegun, HostTurnExamined, HostTurnFailed",
		"events in the log",
	} {
		p.until(line)
	}
	if exit := p.ends(); exit != 0 || p.errors.Len() > 0 {
		t.Errorf("exit status %d: %s", exit, p.errors.String())
	}
}

func TestTheDemoEndsWhenInterrupted(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"Commissaire looks after", "… and 19 more", "rpm-ostree deploy"} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			p := run(t, "demo")
			p.until(moment)
			if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if exit := p.ends(); exit != 130 || p.errors.String() != "commissaire: demo: stopped before its end: interrupt signal received\n" {
				t.Errorf("exit status %d: %s", exit, p.errors.String())
			}
		})
	}
}

func TestTheDemoEndsWhenNobodyReadsOn(t *testing.T) {
	t.Parallel()
	p := run(t, "demo")
	p.until("… and 19 more")
	if err := p.out.Close(); err != nil {
		t.Fatal(err)
	}
	if exit := p.ends(); exit != 1 || !strings.Contains(p.errors.String(), "broken pipe") {
		t.Errorf("exit status %d: %s", exit, p.errors.String())
	}
}

func TestTheDemoRefusesWhatIsForHoldAlone(t *testing.T) {
	t.Parallel()
	p := run(t, "demo", "--hosts", "3")
	if exit := p.ends(); exit != 1 || !strings.Contains(p.errors.String(), "--hold") {
		t.Errorf("exit status %d: %s", exit, p.errors.String())
	}
}
