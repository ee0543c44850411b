package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// A process is a shell or a program that runs on a host.
type process struct {
	host  *Host
	boot  *boot
	user  string
	uid   int
	env   []string // NAME=value, exported
	dir   string
	umask fs.FileMode
	files []*held // locks whose files it has open, and so has what it starts
	jobs  *jobs   // of a shell

	stdin          io.Reader // nil: nothing to read
	stdout, stderr io.Writer
}

type processKey struct{}

// who asks the file system, on behalf of p.
func (p *process) who(ctx context.Context) who {
	return who{ctx: ctx, uid: p.uid, umask: p.umask}
}

// path makes a name absolute.
func (p *process) path(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return strings.TrimSuffix(p.dir, "/") + "/" + name
}

// complain prints what went wrong as programs do, and is 1.
func (p *process) complain(program string, err error) int {
	if failure, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("%s: %s", failure.Path, reason(failure.Err))
	}
	fmt.Fprintf(p.stderr, "%s: %v\n", program, err)
	return 1
}

// reason says an error as the C library does: with a capital.
func reason(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// input is what p reads. It ends when ctx does.
func (p *process) input(ctx context.Context) (in io.Reader, done func()) {
	file, ok := p.stdin.(*os.File)
	switch {
	case p.stdin == nil:
		return strings.NewReader(""), func() {}
	case !ok:
		return p.stdin, func() {}
	}
	stop := context.AfterFunc(ctx, func() { file.SetReadDeadline(longAgo) })
	return file, func() { stop() }
}

// startVariables are the variables of a shell that must not be those of the
// machine the simulation runs on.
func (p *process) startVariables(pid int) []string {
	uid, env := strconv.Itoa(p.uid), slices.Clip(p.env)
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) {
		env = append(env, "HOME="+home(p.user))
	}
	return append(env, "UID="+uid, "EUID="+uid, "GID="+uid,
		umaskVariable+"="+strconv.FormatInt(int64(p.umask), 8), pidVariable+"="+strconv.Itoa(pid))
}

// In these a shell keeps what the interpreter does not know: its umask and what
// is written $$.
const (
	umaskVariable = "FLEET_UMASK"
	pidVariable   = "FLEET_PID"
)

// shell runs a script to its end and gives its exit status. The script is
// stopped when ctx ends. The arguments are options of the shell, "--", and the
// positional parameters.
func (p *process) shell(ctx context.Context, text string, args []string) int {
	file, err := parse(text)
	if err != nil {
		fmt.Fprintf(p.stderr, "sh: %v\n", err)
		return 2
	}
	return p.interpret(ctx, file, args)
}

// interpret runs a whole script.
func (p *process) interpret(ctx context.Context, script *script, args []string) int {
	q := *p
	if !script.reads {
		q.stdin = nil
	}
	i, err := q.interpreter(ctx, args)
	if err != nil {
		fmt.Fprintf(p.stderr, "sh: %v\n", err)
		return 2
	}
	defer i.end()
	return i.run(script.file)
}

// An interpreter is a shell at work.
type interpreter struct {
	runner *interp.Runner
	ctx    context.Context // ends when it is killed
	end    func()
}

// run interprets some more. A whole file ends the shell, as far as its traps can
// tell; a statement does not.
func (i *interpreter) run(node syntax.Node) int {
	err := i.runner.Run(i.ctx, node)
	status, ok := errors.AsType[interp.ExitStatus](err)
	switch {
	case err == nil:
		return 0
	case ok:
		return int(status)
	default: // ended with ctx, or by kill
		return 128 + int(syscall.SIGTERM)
	}
}

// interpreter starts a shell.
func (p *process) interpreter(ctx context.Context, args []string) (*interpreter, error) {
	ctx, cancel := context.WithCancel(ctx)
	release := sync.OnceFunc(func() {
		for _, file := range p.files {
			file.release()
		}
	})
	for _, file := range p.files {
		file.add()
	}
	if len(p.files) > 0 {
		context.AfterFunc(ctx, release) // if it is killed
	}
	shell := *p
	shell.jobs = newJobs(p.jobs, func() { release(); cancel() })
	pid := p.boot.enter(cancel)
	i := &interpreter{
		ctx: context.WithValue(ctx, processKey{}, &shell),
		end: func() {
			p.boot.leave(pid)
			shell.jobs.end()
		},
	}
	var err error
	i.runner, err = interp.New(
		interp.Env(expand.ListEnviron(p.startVariables(pid)...)),
		func(r *interp.Runner) error { r.Dir = p.dir; return nil }, // interp.Dir would look at the real one
		interp.StdIO(p.stdin, p.stdout, p.stderr),
		interp.Params(args...),
		interp.CallHandler(beforeCall),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return execute }),
		interp.OpenHandler(open),
		interp.StatHandler(func(ctx context.Context, name string, _ bool) (fs.FileInfo, error) {
			q := current(ctx)
			if q.host.hasFile(name) {
				return info{name: path.Base(name), node: node{mode: 0o755}}, nil
			}
			return q.host.files.stat(q.who(ctx), q.path(name))
		}),
		interp.AccessHandler(func(ctx context.Context, name string, mode interp.AccessMode) error {
			q := current(ctx)
			if q.host.hasFile(name) && mode&interp.AccessWrite == 0 {
				return nil
			}
			return q.host.files.access(q.who(ctx), q.path(name), fs.FileMode(mode))
		}),
		interp.ReadDirHandler2(func(ctx context.Context, name string) ([]fs.DirEntry, error) {
			q := current(ctx)
			return q.host.files.list(q.who(ctx), q.path(name))
		}),
	)
	if err != nil {
		i.end()
		return nil, err
	}
	return i, nil
}

// jobs counts a shell and what it began in the background, which goes on
// without it. When the last one ends, done is called, and to the shell that
// began this one it has ended.
type jobs struct {
	parent  *jobs // nil: nobody waits
	running atomic.Int32
	done    func()
}

// newJobs counts the shell itself.
func newJobs(parent *jobs, done func()) *jobs {
	if parent != nil {
		parent.begin()
	}
	j := &jobs{parent: parent, done: done}
	j.begin()
	return j
}

func (j *jobs) begin() { j.running.Add(1) }

func (j *jobs) end() {
	if j.running.Add(-1) == 0 {
		j.done()
		if j.parent != nil {
			j.parent.end()
		}
	}
}

// current is the process that a handler of the interpreter acts for: the shell,
// as it is at this point of its script.
func current(ctx context.Context) *process {
	shell := ctx.Value(processKey{}).(*process)
	hc := interp.HandlerCtx(ctx)
	p := *shell
	p.dir, p.stdout, p.stderr = hc.Dir, hc.Stdout, hc.Stderr
	if hc.Stdin != nil {
		p.stdin = hc.Stdin
	}
	if mask, err := strconv.ParseUint(hc.Env.Get(umaskVariable).Str, 8, 32); err == nil {
		p.umask = fs.FileMode(mask)
	}
	return &p
}

// beforeCall sends the builtins that the interpreter lacks, or that would look
// at the real machine, to programs of ours.
func beforeCall(ctx context.Context, args []string) ([]string, error) {
	switch args[0] {
	case "pwd": // there are no links
		return slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == "-P" }), nil
	case "eval":
		return confined(ctx, []string{"eval", strings.Join(args[1:], " ")}, 1), nil
	case ".", "source":
		return include(ctx, args), nil
	case "umask":
		if len(args) == 1 {
			return []string{"printf", "%04o\n", "0" + interp.HandlerCtx(ctx).Env.Get(umaskVariable).Str}, nil
		}
		if strings.Trim(args[1], "01234567") == "" {
			return []string{"eval", umaskVariable + "=" + args[1]}, nil
		}
		return []string{"false"}, nil
	case "command":
		if len(args) > 2 && (args[1] == "-v" || args[1] == "-V") {
			return append([]string{"/bin/which"}, args[2:]...), nil
		}
		if len(args) > 1 && args[1] == "-p" {
			return beforeCall(ctx, append([]string{"command"}, args[2:]...))
		}
		if len(args) > 1 {
			inner, err := beforeCall(ctx, args[1:])
			return append([]string{"command"}, inner...), err
		}
	case "builtin":
		return beforeCall(ctx, append([]string{"command"}, args[1:]...))
	case readsLine:
		return readLine(ctx, args[1], args[2]), nil
	case "type", "hash":
		return append([]string{"/bin/which"}, args[1:]...), nil
	case "kill":
		return append([]string{"/bin/kill"}, args[1:]...), nil
	case "ulimit":
		return []string{"true"}, nil
	case "trap": // the only signal there is ends a shell at once
		if len(args) < 3 {
			break
		}
		kept := args[:2:2]
		for _, signal := range args[2:] {
			if signal == "0" || signal == "EXIT" {
				kept = append(kept, "EXIT")
			}
		}
		if len(kept) == 2 {
			return []string{"true"}, nil
		}
		if kept[1] == "-" {
			return kept, nil
		}
		return confined(ctx, kept, 1), nil
	}
	return args, nil
}

// readLine is what has the effect of read -r NAME <FILE.
func readLine(ctx context.Context, name, file string) []string {
	p := current(ctx)
	text, err := p.text(ctx, file)
	if err != nil {
		p.complain("sh", err)
		return []string{"false"}
	}
	line, _, whole := strings.Cut(string(text), "\n")
	quoted, err := syntax.Quote(strings.Trim(line, " \t"), syntax.LangBash)
	if err != nil {
		p.complain("sh", &fs.PathError{Path: file, Err: err})
		return []string{"false"}
	}
	assignment := name + "=" + quoted
	if !whole {
		assignment += "; false"
	}
	return []string{"eval", assignment}
}

// execute runs what is neither a function nor a builtin.
func execute(ctx context.Context, args []string) error {
	p := current(ctx)
	hc := interp.HandlerCtx(ctx)
	switch args[0] {
	case jobBegins:
		p.jobs.begin()
		return nil
	case jobEnds:
		p.jobs.end()
		if hc.LastExitStatus != 0 {
			return interp.ExitStatus(hc.LastExitStatus)
		}
		return nil
	}
	p.env = nil
	for name, v := range hc.Env.Each {
		switch name {
		case "UID", "EUID", "GID", umaskVariable, pidVariable:
			continue
		}
		if v.Exported && v.IsSet() && v.Kind == expand.String {
			p.env = append(p.env, name+"="+v.Str)
		}
	}
	status := p.run(ctx, args)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case status != 0:
		return interp.ExitStatus(status)
	}
	return nil
}

// open opens a file for a redirection.
func open(ctx context.Context, name string, flag int, perm fs.FileMode) (io.ReadWriteCloser, error) {
	p := current(ctx)
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		if name == os.DevNull {
			return os.Open(os.DevNull) // is as good as one of ours, and faster
		}
		text, err := p.text(ctx, name)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return pipeOf(text)
	}
	switch name {
	case "/dev/null":
		return sink{io.Discard}, nil
	case "/dev/stdout":
		return sink{p.stdout}, nil
	case "/dev/stderr":
		return sink{p.stderr}, nil
	}
	if perm == 0o644 { // the interpreter has applied the usual umask already
		perm = 0o666
	}
	return p.host.files.create(p.who(ctx), p.path(name), flag, perm)
}

type sink struct{ io.Writer }

func (sink) Read([]byte) (int, error) { return 0, io.EOF }
func (sink) Close() error             { return nil }

// pipeOf gives a file from which text can be read. The interpreter wants a real
// one: given another reader it makes a pipe itself, and leaves closing it to the
// garbage collector.
func pipeOf(text []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	if len(text) <= 4096 { // what a pipe holds in any case
		w.Write(text)
		w.Close()
		return r, nil
	}
	go func() {
		w.Write(text) // fails when the reader has had enough
		w.Close()
	}()
	return r, nil
}

// text reads a whole file.
func (p *process) text(ctx context.Context, name string) ([]byte, error) {
	if name == "/dev/null" {
		return nil, nil
	}
	return p.host.files.read(p.who(ctx), p.path(name))
}

// sh is the program: sh -s [ARGUMENT…], sh -c TEXT [NAME [ARGUMENT…]], sh FILE [ARGUMENT…].
func sh(ctx context.Context, p *process, args []string) int {
	options := []string{}
	for ; len(args) > 0 && slices.Contains([]string{"-e", "-f", "-u", "-x"}, args[0]); args = args[1:] {
		options = append(options, args[0])
	}
	options = append(options, "--")
	switch {
	case len(args) > 1 && args[0] == "-c":
		return p.shell(ctx, args[1], append(options, args[min(3, len(args)):]...))
	case len(args) > 0 && !strings.HasPrefix(args[0], "-"):
		text, err := p.text(ctx, args[0])
		if err != nil {
			p.complain("sh", err)
			return 127
		}
		return p.shell(ctx, string(text), append(options, args[1:]...))
	case len(args) == 0 || args[0] == "-s":
	default:
		return p.complain("sh", fmt.Errorf("no such option: %s", args[0])) + 1
	}

	if len(args) > 0 {
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	in, done := p.input(ctx)
	defer done()
	return p.converse(ctx, in, append(options, args...))
}

// converse runs what comes on standard input as soon as it has come, in whole
// lines. Nothing is left there for what it starts.
func (p *process) converse(ctx context.Context, in io.Reader, args []string) int {
	q := *p
	q.stdin = nil
	fail := func(err error) int {
		fmt.Fprintf(p.stderr, "sh: %v\n", err)
		return 2
	}
	i, err := q.interpreter(ctx, args)
	if err != nil {
		return fail(err)
	}
	defer i.end()
	var text []byte
	exit, chunk := 0, make([]byte, 1024) // small: many shells only wait
	for ended := false; !ended; {
		if out, ok := p.stdout.(*pump); ok {
			out.flush()
		}
		n, err := in.Read(chunk)
		text = append(text, chunk[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			ended = true
		case err != nil:
			return fail(err)
		case len(text) > mostInput:
			return fail(errors.New("too much at once"))
		case !bytes.HasSuffix(text, []byte("\n")), bytes.HasSuffix(text, []byte("\\\n")):
			continue // who wrote half a line is still writing
		}
		stmts, err := parseInput(text)
		if syntax.IsIncomplete(err) && !ended {
			continue
		}
		if err != nil {
			return fail(err)
		}
		text = text[:0]
		if cap(text) > len(chunk) {
			text = nil
		}
		if len(stmts) > 0 {
			exit = i.run(&syntax.Block{Stmts: stmts})
		}
		if i.runner.Exited() || i.ctx.Err() != nil {
			return exit
		}
	}
	i.run(&syntax.File{}) // its traps
	return exit
}

const mostInput = 16 << 20 // bytes of a statement

// run runs one program to its end and gives its exit status.
func (p *process) run(ctx context.Context, args []string) int {
	name := args[0]
	base := path.Base(name)
	switch {
	case name == base && p.host.has(base), p.host.hasFile(name):
	case name != base:
		return p.runFile(ctx, args)
	default:
		fmt.Fprintf(p.stderr, "sh: %s: command not found\n", name)
		return 127
	}
	args = append([]string{base}, args[1:]...)
	return p.host.runWatched(ctx, p, args, func() int { return programs[base](ctx, p, args[1:]) })
}

// runFile runs an executable file that is a shell script.
func (p *process) runFile(ctx context.Context, args []string) int {
	name := p.path(args[0])
	text, err := p.text(ctx, name)
	if err == nil {
		err = p.host.files.access(p.who(ctx), name, 1)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fmt.Fprintf(p.stderr, "sh: %s: not found\n", args[0])
		return 127
	case err != nil:
		p.complain("sh", err)
		return 126
	}
	return p.shell(ctx, string(text), append([]string{"--"}, args[1:]...))
}
