package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A program takes its arguments without its name, and gives its exit status.
// Options that it does not know it refuses, so that nothing is done by halves.
type program func(ctx context.Context, p *process, args []string) int

// programs are all programs of all hosts; Host.has says which a host has.
var programs map[string]program

func init() {
	programs = map[string]program{
		"sh": sh, "echo": builtin("echo"), "printf": builtin("printf"), "pwd": builtin("pwd"), "test": builtin("test"),
		"true": succeed, "sync": succeed, "false": func(context.Context, *process, []string) int { return 1 },

		"base64": encode, "cat": cat, "chmod": chmod, "cp": cp, "date": date, "find": find, "head": head,
		"mkdir": mkdir, "mv": mv, "rm": rm, "sha256sum": sha256sum, "tail": tail, "touch": touch, "wc": wc,

		"env": env, "flock": flock, "kill": kill, "nohup": detach, "setsid": detach, "sleep": sleep, "sudo": sudo,
		"timeout": timeout, "which": which,

		"df": df, "hostname": hostname, "id": id, "nproc": nproc, "uname": uname,

		"apt-get": aptGet, "dnf": dnf, "rpm": rpm, "rpm-ostree": rpmOSTree, "subscription-manager": subscription, "yum": dnf,
		"reboot": reboot, "shutdown": reboot, "systemctl": systemctl, "systemd-run": systemdRun,
	}
}

func succeed(context.Context, *process, []string) int { return 0 }

// builtin is what a shell has built in, for who runs it as a program.
func builtin(name string) program {
	return func(ctx context.Context, p *process, args []string) int {
		return p.shell(ctx, name+` "$@"`, append([]string{"--"}, args...))
	}
}

// options reads one-letter options; those followed by a colon in known take a
// value. Reading ends at "--" or at the first other argument.
func options(args []string, known string) (given map[byte]string, rest []string, err error) {
	given = map[byte]string{}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		arg := args[0][1:]
		args = args[1:]
		if arg == "-" {
			break
		}
		for arg != "" {
			letter := arg[0]
			arg = arg[1:]
			at := strings.IndexByte(known, letter)
			switch {
			case at < 0 || letter == ':':
				return nil, nil, fmt.Errorf("no such option: -%c", letter)
			case at+1 == len(known) || known[at+1] != ':':
				given[letter] = ""
				continue
			case arg == "" && len(args) == 0:
				return nil, nil, fmt.Errorf("option -%c needs a value", letter)
			case arg == "":
				arg, args = args[0], args[1:]
			}
			given[letter], arg = arg, ""
		}
	}
	return given, args, nil
}

func has(given map[byte]string, letter byte) bool {
	_, ok := given[letter]
	return ok
}

// eachInput calls do with each file named, or with standard input if none is or
// for "-". It gives the exit status.
func (p *process) eachInput(ctx context.Context, program string, names []string, do func(name string, in io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	exit := 0
	for _, name := range names {
		var err error
		if name == "-" || name == "/dev/stdin" {
			in, done := p.input(ctx)
			err = do(name, in)
			done()
		} else {
			var text []byte
			if text, err = p.text(ctx, name); err == nil {
				err = do(name, bytes.NewReader(text))
			}
		}
		if err != nil {
			exit = p.complain(program, err)
		}
	}
	return exit
}

// eachPath calls do with each path, and gives the exit status.
func (p *process) eachPath(program string, names []string, do func(name string) error) int {
	if len(names) == 0 {
		return p.complain(program, errors.New("missing operand"))
	}
	exit := 0
	for _, name := range names {
		if err := do(p.path(name)); err != nil {
			exit = p.complain(program, err)
		}
	}
	return exit
}

func cat(ctx context.Context, p *process, args []string) int {
	_, names, err := options(args, "u")
	if err != nil {
		return p.complain("cat", err)
	}
	return p.eachInput(ctx, "cat", names, func(_ string, in io.Reader) error {
		_, err := io.Copy(p.stdout, in)
		return err
	})
}

func head(ctx context.Context, p *process, args []string) int {
	given, names, err := options(lines(args), "n:c:")
	if err != nil {
		return p.complain("head", err)
	}
	n, err := strconv.Atoi(orElse(given, "nc", "10"))
	if err != nil || n < 0 {
		return p.complain("head", errors.New("invalid number"))
	}
	return p.eachInput(ctx, "head", names, func(_ string, in io.Reader) error {
		if has(given, 'c') {
			_, err := io.Copy(p.stdout, io.LimitReader(in, int64(n)))
			return err
		}
		text, err := io.ReadAll(in)
		end := 0
		for range n {
			line := bytes.IndexByte(text[end:], '\n')
			if line < 0 {
				end = len(text)
				break
			}
			end += line + 1
		}
		p.stdout.Write(text[:end])
		return err
	})
}

func tail(ctx context.Context, p *process, args []string) int {
	given, names, err := options(lines(args), "n:c:")
	if err != nil {
		return p.complain("tail", err)
	}
	number := orElse(given, "nc", "10")
	fromStart := strings.HasPrefix(number, "+")
	n, err := strconv.Atoi(strings.TrimLeft(number, "+-"))
	if err != nil {
		return p.complain("tail", errors.New("invalid number"))
	}
	return p.eachInput(ctx, "tail", names, func(_ string, in io.Reader) error {
		text, err := io.ReadAll(in)
		parts := bytes.SplitAfter(text, []byte("\n"))
		if has(given, 'c') {
			parts = nil
			for i := range text {
				parts = append(parts, text[i:i+1])
			}
		} else if len(parts[len(parts)-1]) == 0 {
			parts = parts[:len(parts)-1]
		}
		if fromStart {
			parts = parts[min(max(n-1, 0), len(parts)):]
		} else {
			parts = parts[max(len(parts)-n, 0):]
		}
		p.stdout.Write(bytes.Join(parts, nil))
		return err
	})
}

// lines turns -5 into -n 5.
func lines(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0][1] >= '0' && args[0][1] <= '9' {
		return append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	return args
}

func orElse(given map[byte]string, letters, otherwise string) string {
	for i := range len(letters) {
		if value, ok := given[letters[i]]; ok {
			return value
		}
	}
	return otherwise
}

func wc(ctx context.Context, p *process, args []string) int {
	given, names, err := options(args, "clw")
	if err != nil {
		return p.complain("wc", err)
	}
	return p.eachInput(ctx, "wc", names, func(name string, in io.Reader) error {
		text, err := io.ReadAll(in)
		var counts []string
		for _, c := range []struct {
			letter byte
			count  int
		}{{'l', bytes.Count(text, []byte("\n"))}, {'w', len(bytes.Fields(text))}, {'c', len(text)}} {
			if len(given) == 0 || has(given, c.letter) {
				counts = append(counts, strconv.Itoa(c.count))
			}
		}
		if name != "-" {
			counts = append(counts, name)
		}
		fmt.Fprintln(p.stdout, strings.Join(counts, " "))
		return err
	})
}

func sha256sum(ctx context.Context, p *process, args []string) int {
	_, names, err := options(args, "b")
	if err != nil {
		return p.complain("sha256sum", err)
	}
	return p.eachInput(ctx, "sha256sum", names, func(name string, in io.Reader) error {
		digest := sha256.New()
		if _, err := io.Copy(digest, in); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stdout, "%x  %s\n", digest.Sum(nil), name)
		return err
	})
}

func encode(ctx context.Context, p *process, args []string) int {
	given, names, err := options(args, "diw:")
	if err != nil {
		return p.complain("base64", err)
	}
	width, err := strconv.Atoi(orElse(given, "w", "76"))
	if err != nil || len(names) > 1 {
		return p.complain("base64", errors.New("invalid argument"))
	}
	return p.eachInput(ctx, "base64", names, func(_ string, in io.Reader) error {
		if has(given, 'd') {
			_, err := io.Copy(p.stdout, base64.NewDecoder(base64.StdEncoding, in))
			if err != nil {
				return errors.New("invalid input")
			}
			return nil
		}
		text, err := io.ReadAll(in)
		coded := []byte(base64.StdEncoding.EncodeToString(text))
		if width > 0 {
			for line := range slices.Chunk(coded, width) {
				p.stdout.Write(append(slices.Clone(line), '\n'))
			}
			return err
		}
		p.stdout.Write(coded)
		return err
	})
}

func mkdir(ctx context.Context, p *process, args []string) int {
	given, names, err := options(args, "pm:")
	if err != nil {
		return p.complain("mkdir", err)
	}
	mode := 0o777 &^ p.umask
	if text, ok := given['m']; ok {
		if mode, err = octal(text); err != nil {
			return p.complain("mkdir", err)
		}
	}
	return p.eachPath("mkdir", names, func(name string) error {
		return p.host.files.mkdir(p.who(ctx), name, mode, has(given, 'p'))
	})
}

func octal(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("invalid mode: %s", text)
	}
	return fs.FileMode(mode), nil
}

func chmod(ctx context.Context, p *process, args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return p.complain("chmod", errors.New("missing operand"))
	}
	mode, err := octal(args[0])
	if err != nil {
		return p.complain("chmod", err)
	}
	return p.eachPath("chmod", args[1:], func(name string) error {
		return p.host.files.chmod(p.who(ctx), name, mode)
	})
}

func rm(ctx context.Context, p *process, args []string) int {
	given, names, err := options(args, "rRf")
	if err != nil {
		return p.complain("rm", err)
	}
	all, force := has(given, 'r') || has(given, 'R'), has(given, 'f')
	if force && len(names) == 0 {
		return 0
	}
	return p.eachPath("rm", names, func(name string) error {
		info, err := p.host.files.stat(p.who(ctx), name)
		switch {
		case force && errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case info.IsDir() && !all:
			return fmt.Errorf("%s: Is a directory", name)
		}
		return p.host.files.remove(p.who(ctx), name, all)
	})
}

// targets pairs each source of mv and cp with where it goes.
func (p *process) targets(ctx context.Context, names []string, intoDir bool) (map[string]string, error) {
	if len(names) < 2 {
		return nil, errors.New("missing operand")
	}
	last := p.path(names[len(names)-1])
	info, err := p.host.files.stat(p.who(ctx), last)
	into := intoDir && err == nil && info.IsDir()
	if len(names) > 2 && !into {
		return nil, fmt.Errorf("target '%s' is not a directory", last)
	}
	targets := map[string]string{}
	for _, name := range names[:len(names)-1] {
		from := p.path(name)
		targets[from] = last
		if into {
			targets[from] = path.Join(last, path.Base(from))
		}
	}
	return targets, nil
}

func mv(ctx context.Context, p *process, args []string) int {
	given, names, err := options(args, "fT")
	if err != nil {
		return p.complain("mv", err)
	}
	targets, err := p.targets(ctx, names, !has(given, 'T'))
	if err != nil {
		return p.complain("mv", err)
	}
	exit := 0
	for from, to := range targets {
		if err := p.host.files.rename(p.who(ctx), from, to); err != nil {
			exit = p.complain("mv", err)
		}
	}
	return exit
}

func cp(ctx context.Context, p *process, args []string) int {
	_, names, err := options(args, "fp")
	if err != nil {
		return p.complain("cp", err)
	}
	targets, err := p.targets(ctx, names, true)
	if err != nil {
		return p.complain("cp", err)
	}
	exit := 0
	for from, to := range targets {
		text, err := p.text(ctx, from)
		if err == nil {
			var w *writer
			if w, err = p.host.files.create(p.who(ctx), to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666); err == nil {
				_, err = w.Write(text)
			}
		}
		if err != nil {
			exit = p.complain("cp", err)
		}
	}
	return exit
}

func touch(ctx context.Context, p *process, args []string) int {
	return p.eachPath("touch", args, func(name string) error {
		return p.host.files.touch(p.who(ctx), name)
	})
}

func date(_ context.Context, p *process, args []string) int {
	now := p.host.fleet.clock.now().UTC()
	format := "%Y-%m-%dT%H:%M:%S%z"
	for _, arg := range args {
		switch {
		case arg == "-u":
		case strings.HasPrefix(arg, "+"):
			format = arg[1:]
		default:
			return p.complain("date", fmt.Errorf("invalid argument: %s", arg))
		}
	}
	fmt.Fprintln(p.stdout, strings.NewReplacer(
		"%%", "%", "%s", strconv.FormatInt(now.Unix(), 10), "%N", fmt.Sprintf("%09d", now.Nanosecond()),
		"%F", now.Format("2006-01-02"), "%T", now.Format("15:04:05"),
		"%Y", now.Format("2006"), "%m", now.Format("01"), "%d", now.Format("02"),
		"%H", now.Format("15"), "%M", now.Format("04"), "%S", now.Format("05"), "%z", "+0000", "%Z", "UTC",
	).Replace(format))
	return 0
}

// find knows -mindepth -maxdepth -type -name -mtime -mmin -print -delete -exec.
func find(ctx context.Context, p *process, args []string) int {
	var names []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		names = append(names, args[0])
		args = args[1:]
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	least, most := 0, 1<<30
	var tests []func(name string, info fs.FileInfo) bool
	var acts []func(name string) bool
	var together []string // of -exec … +
	var found []string
	deep := slices.Contains(args, "-delete") // what is in a directory goes before it
	now := p.host.fleet.clock.now()
	for len(args) > 0 {
		option := args[0]
		args = args[1:]
		value := ""
		switch option {
		case "-print", "-delete":
		case "-exec":
			end := slices.IndexFunc(args, func(a string) bool { return a == ";" || a == "+" })
			if end < 1 {
				return p.complain("find", errors.New("-exec needs an end"))
			}
			command := args[:end]
			if args[end] == "+" {
				together = command[:len(command)-1]
				acts = append(acts, func(name string) bool { found = append(found, name); return true })
			} else {
				acts = append(acts, func(name string) bool {
					each := slices.Clone(command)
					for i := range each {
						each[i] = strings.ReplaceAll(each[i], "{}", name)
					}
					return p.run(ctx, each) == 0
				})
			}
			args = args[end+1:]
			continue
		default:
			if len(args) == 0 {
				return p.complain("find", fmt.Errorf("%s needs a value", option))
			}
			value, args = args[0], args[1:]
		}
		number, err := strconv.Atoi(strings.TrimLeft(value, "+-"))
		age := func(unit time.Duration) func(string, fs.FileInfo) bool {
			return func(_ string, info fs.FileInfo) bool {
				old := int(now.Sub(info.ModTime()) / unit)
				return value[0] == '+' && old > number || value[0] == '-' && old < number || old == number && value[0] != '+' && value[0] != '-'
			}
		}
		switch option {
		case "-print":
			acts = append(acts, func(name string) bool { fmt.Fprintln(p.stdout, name); return true })
		case "-delete":
			acts = append(acts, func(name string) bool { return p.host.files.remove(p.who(ctx), p.path(name), false) == nil })
		case "-name":
			err = nil
			tests = append(tests, func(name string, _ fs.FileInfo) bool {
				ok, _ := path.Match(value, path.Base(name))
				return ok
			})
		case "-type":
			err = nil
			tests = append(tests, func(_ string, info fs.FileInfo) bool { return info.IsDir() == (value == "d") })
		case "-mindepth":
			least = number
		case "-maxdepth":
			most = number
		case "-mtime":
			tests = append(tests, age(24*time.Hour))
		case "-mmin":
			tests = append(tests, age(time.Minute))
		default:
			return p.complain("find", fmt.Errorf("unknown predicate %s", option))
		}
		if value != "" && err != nil {
			return p.complain("find", fmt.Errorf("%s: invalid number %s", option, value))
		}
	}
	if len(acts) == 0 {
		acts = append(acts, func(name string) bool { fmt.Fprintln(p.stdout, name); return true })
	}

	exit := 0
	visit := func(name string, info fs.FileInfo, depth int) {
		if depth < least {
			return
		}
		for _, test := range tests {
			if !test(name, info) {
				return
			}
		}
		for _, act := range acts {
			if !act(name) {
				return
			}
		}
	}
	var walk func(name string, depth int)
	walk = func(name string, depth int) {
		info, err := p.host.files.stat(p.who(ctx), p.path(name))
		if err != nil {
			exit = p.complain("find", err)
			return
		}
		if !deep {
			visit(name, info, depth)
		}
		if info.IsDir() && depth < most {
			entries, err := p.host.files.list(p.who(ctx), p.path(name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				exit = p.complain("find", err)
			}
			for _, entry := range entries {
				walk(strings.TrimSuffix(name, "/")+"/"+entry.Name(), depth+1)
			}
		}
		if deep {
			visit(name, info, depth)
		}
	}
	for _, name := range names {
		walk(name, 0)
	}
	if len(found) > 0 && p.run(ctx, append(slices.Clone(together), found...)) != 0 {
		exit = 1
	}
	return exit
}

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
	q.env = []string{"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "SUDO_USER=" + p.user,
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
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

func df(_ context.Context, p *process, args []string) int {
	if _, _, err := options(args, "Pkl"); err != nil {
		return p.complain("df", err)
	}
	disk := p.host.spec.Disk
	fmt.Fprintln(p.stdout, "Filesystem     1024-blocks    Used Available Capacity Mounted on")
	line := func(device string, size int64, mount string) {
		fmt.Fprintf(p.stdout, "%-14s %11d %7d %9d %7d%% %s\n", device, size, size/4, size-size/4, 25, mount)
	}
	line("devtmpfs", p.host.spec.Memory/2, "/dev")
	line("tmpfs", p.host.spec.Memory/2, "/run")
	line("/dev/vda2", disk-(1<<20), "/")
	if p.host.spec.OSTree { // one device, mounted more than once
		line("/dev/vda2", disk-(1<<20), "/sysroot")
		line("/dev/vda2", disk-(1<<20), "/var")
	}
	line("/dev/vda1", 1<<20, "/boot")
	return 0
}

func id(_ context.Context, p *process, args []string) int {
	given, _, err := options(args, "ugn")
	switch {
	case err != nil:
		return p.complain("id", err)
	case has(given, 'n'):
		fmt.Fprintln(p.stdout, p.user)
	case len(given) > 0:
		fmt.Fprintln(p.stdout, p.uid)
	default:
		fmt.Fprintf(p.stdout, "uid=%d(%s) gid=%d(%s) groups=%d(%s)\n", p.uid, p.user, p.uid, p.user, p.uid, p.user)
	}
	return 0
}

func hostname(_ context.Context, p *process, _ []string) int {
	fmt.Fprintln(p.stdout, "host-"+strings.ReplaceAll(p.host.spec.Address, ".", "-"))
	return 0
}

func nproc(_ context.Context, p *process, _ []string) int {
	fmt.Fprintln(p.stdout, p.host.spec.CPUs)
	return 0
}

func uname(_ context.Context, p *process, args []string) int {
	given, _, err := options(args, "smrn")
	if err != nil {
		return p.complain("uname", err)
	}
	var words []string
	for _, w := range []struct {
		letter byte
		word   string
	}{{'s', "Linux"}, {'n', "host-" + strings.ReplaceAll(p.host.spec.Address, ".", "-")}, {'r', p.host.kernel()}, {'m', p.host.spec.Arch}} {
		if has(given, w.letter) || len(given) == 0 && w.letter == 's' {
			words = append(words, w.word)
		}
	}
	fmt.Fprintln(p.stdout, strings.Join(words, " "))
	return 0
}
