package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The programs that run other programs.

func env(ctx context.Context, p *process, args []string) int {
	q := *p
	q.env = slices.Clone(p.env)
	for len(args) > 0 {
		if args[0] == "-i" {
			q.env = nil
		} else if strings.Contains(args[0], "=") {
			q.env = append(q.env, args[0])
		} else {
			return q.run(ctx, args)
		}
		args = args[1:]
	}
	for _, v := range q.env {
		fmt.Fprintln(p.stdout, v)
	}
	return 0
}

// flock knows the form that runs a command: flock [-nox] [-w SECONDS] [-E EXIT]
// FILE COMMAND [ARGUMENT…], and FILE -c TEXT. Like the real one, the lock is held
// by all that the command starts, unless -o is given.
func flock(ctx context.Context, p *process, args []string) int {
	given, rest, err := options(args, "noxew:E:")
	if err == nil && len(rest) < 2 {
		err = errors.New("needs a file and a command")
	}
	if err != nil {
		p.complain("flock", err)
		return 64
	}
	conflict, err := strconv.Atoi(orElse(given, "E", "1"))
	if err != nil {
		p.complain("flock", err)
		return 64
	}
	lock, err := p.host.files.lock(p.who(ctx), p.path(rest[0]))
	if err != nil {
		p.complain("flock", err)
		return 66
	}
	waiting := ctx
	if has(given, 'n') {
		select {
		case <-lock.free:
		default:
			return conflict
		}
	} else {
		if seconds, ok := given['w']; ok {
			d, err := duration(seconds)
			if err != nil {
				p.complain("flock", err)
				return 64
			}
			var cancel context.CancelFunc
			waiting, cancel = context.WithTimeout(ctx, p.host.fleet.clock.real(d))
			defer cancel()
		}
		select {
		case <-lock.free:
		case <-waiting.Done():
			return conflict
		}
	}
	holding := &held{lock: lock, holders: 1}
	defer holding.release()
	q := *p
	if !has(given, 'o') {
		q.files = append(slices.Clone(p.files), holding)
	}
	if rest[1] == "-c" && len(rest) == 3 {
		return q.run(ctx, []string{"sh", "-c", rest[2]})
	}
	return q.run(ctx, rest[1:])
}

// duration reads what sleep and timeout take.
func duration(text string) (time.Duration, error) {
	unit := time.Second
	if text != "" {
		switch text[len(text)-1] {
		case 's':
			text = text[:len(text)-1]
		case 'm':
			text, unit = text[:len(text)-1], time.Minute
		case 'h':
			text, unit = text[:len(text)-1], time.Hour
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 0 || n > 1e9 {
		return 0, fmt.Errorf("invalid time interval '%s'", text)
	}
	return time.Duration(n * float64(unit)), nil
}

func sleep(ctx context.Context, p *process, args []string) int {
	if len(args) != 1 {
		return p.complain("sleep", errors.New("missing operand"))
	}
	d, err := duration(args[0])
	if err != nil {
		return p.complain("sleep", err)
	}
	if !pause(ctx, p.host.fleet.clock.real(d)) {
		return 143
	}
	return 0
}

func timeout(ctx context.Context, p *process, args []string) int {
	_, rest, err := options(args, "k:s:")
	if err == nil && len(rest) < 2 {
		err = errors.New("missing operand")
	}
	var d time.Duration
	if err == nil {
		d, err = duration(rest[0])
	}
	if err != nil {
		p.complain("timeout", err)
		return 125
	}
	limited := ctx
	if d > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, p.host.fleet.clock.real(d))
		defer cancel()
	}
	exit := p.run(limited, rest[1:])
	if limited.Err() != nil && ctx.Err() == nil {
		return 124
	}
	return exit
}

// detach is setsid and nohup: what it runs is not ended with the shell that
// began it. It waits for it, as setsid does where it need not fork.
func detach(ctx context.Context, p *process, args []string) int {
	given, rest, err := options(args, "fw")
	if err == nil && len(rest) == 0 {
		err = errors.New("no command specified")
	}
	if err != nil {
		return p.complain("setsid", err)
	}
	done := p.detached(rest)
	if has(given, 'f') {
		return 0
	}
	select {
	case exit := <-done:
		return exit
	case <-ctx.Done(): // the shell is gone; what was detached is not
		return 143
	}
}

// detached runs a command that lives as long as the boot, and holds the locks
// that p holds.
func (p *process) detached(args []string) <-chan int {
	for _, file := range p.files {
		file.add()
	}
	q := *p
	q.jobs = nil
	if _, isFile := p.stdin.(*os.File); !isFile {
		q.stdin = nil
	}
	done := make(chan int, 1)
	p.host.fleet.start(func() {
		done <- q.run(p.boot.ctx, args)
		for _, file := range q.files {
			file.release()
		}
	})
	return done
}

func kill(_ context.Context, p *process, args []string) int {
	probe := false
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		probe = args[0] == "-0"
		args = args[1:]
	}
	exit := 0
	for _, arg := range args {
		pid, _ := strconv.Atoi(arg)
		p.boot.mu.Lock()
		cancel := p.boot.processes[pid]
		p.boot.mu.Unlock()
		switch {
		case cancel == nil:
			exit = p.complain("kill", fmt.Errorf("(%s): No such process", arg))
		case !probe:
			cancel()
		}
	}
	return exit
}

func sudo(ctx context.Context, p *process, args []string) int {
	given, rest, err := options(args, "nHE")
	if err == nil && len(rest) == 0 {
		err = errors.New("no command specified")
	}
	if err != nil {
		return p.complain("sudo", err)
	}
	if p.uid != 0 && (p.host.fault().NoSudo || !has(given, 'n')) {
		return p.complain("sudo", errors.New("a password is required"))
	}
	q := *p
	q.user, q.uid = "root", 0
	q.env = []string{
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "SUDO_USER=" + p.user,
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	return q.run(ctx, rest)
}

// which prints where programs are, as command -v does.
func which(_ context.Context, p *process, args []string) int {
	exit := 0
	for _, name := range args {
		if !p.host.has(path.Base(name)) {
			exit = 1
			continue
		}
		fmt.Fprintln(p.stdout, path.Join("/usr/bin", path.Base(name)))
	}
	return exit
}
