package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The programs that change and find files.

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
