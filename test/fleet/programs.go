package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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

		"base64": encode, "cat": cat, "chmod": chmod, "cp": cp, "date": date, "find": find, "grep": grep, "head": head,
		"mkdir": mkdir, "mv": mv, "rm": rm, "sha256sum": sha256sum, "tail": tail, "touch": touch, "tr": tr, "wc": wc,

		"env": env, "flock": flock, "kill": kill, "nohup": detach, "setsid": detach, "sleep": sleep, "sudo": sudo,
		"timeout": timeout, "which": which,

		"df": df, "hostname": hostname, "id": id, "nproc": nproc, "uname": uname,

		"apt-get": aptGet, "dnf": dnf, "dpkg": dpkg, "dpkg-query": dpkgQuery, "grubby": grubby, "rpm": rpm, "rpm-ostree": rpmOSTree, "subscription-manager": subscription, "yum": dnf,
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
			i := strings.IndexByte(known, letter)
			switch {
			case i < 0 || letter == ':':
				return nil, nil, fmt.Errorf("no such option: -%c", letter)
			case i+1 == len(known) || known[i+1] != ':':
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
