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
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("%s: %s", at.Path, reason(at.Err))
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
	uid := strconv.Itoa(p.uid)
	return append(p.env[:len(p.env):len(p.env)], "UID="+uid, "EUID="+uid, "GID="+uid,
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

func (p *process) interpret(ctx context.Context, script *script, args []string) int {
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
	jobs := newJobs(p.jobs, func() { release(); cancel() })
	defer jobs.end()
	pid := p.boot.enter(cancel)
	defer p.boot.leave(pid)

	var stdin io.Reader
	if script.reads {
		stdin = p.stdin
	}
	runner, err := interp.New(
		interp.Env(expand.ListEnviron(p.startVariables(pid)...)),
		func(r *interp.Runner) error { r.Dir = p.dir; return nil }, // interp.Dir would look at the real one
		interp.StdIO(stdin, p.stdout, p.stderr),
		interp.Params(args...),
		interp.CallHandler(beforeCall),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return execute }),
		interp.OpenHandler(open),
		interp.StatHandler(func(ctx context.Context, name string, _ bool) (fs.FileInfo, error) {
			q := current(ctx)
			return q.host.files.stat(q.who(ctx), q.path(name))
		}),
		interp.AccessHandler(func(ctx context.Context, name string, mode interp.AccessMode) error {
			q := current(ctx)
			return q.host.files.access(q.who(ctx), q.path(name), fs.FileMode(mode))
		}),
		interp.ReadDirHandler2(func(ctx context.Context, name string) ([]fs.DirEntry, error) {
			q := current(ctx)
			return q.host.files.list(q.who(ctx), q.path(name))
		}),
	)
	if err != nil {
		fmt.Fprintf(p.stderr, "sh: %v\n", err)
		return 2
	}
	shell := *p
	shell.jobs = jobs
	err = runner.Run(context.WithValue(ctx, processKey{}, &shell), script.file)
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

// These count jobs; see countJobs.
const (
	jobBegins = "job begins"
	jobEnds   = "job ends"
)

// countJobs turns each "command &" into
//
//	{ job begins; { (command); job ends; } & }
//
// because a command in the background runs in its own time, and may not have
// begun when its shell has ended.
func countJobs(file *syntax.File) {
	var stmts []*syntax.Stmt
	syntax.Walk(file, func(n syntax.Node) bool {
		if s, ok := n.(*syntax.Stmt); ok && s.Background && s.Cmd != nil {
			stmts = append(stmts, s)
		}
		return true
	})
	call := func(name string) *syntax.Stmt {
		return &syntax.Stmt{Cmd: &syntax.CallExpr{Args: []*syntax.Word{{Parts: []syntax.WordPart{&syntax.Lit{Value: name}}}}}}
	}
	for _, s := range stmts {
		command := *s
		command.Background = false
		s.Background, s.Negated, s.Redirs = false, false, nil
		s.Cmd = &syntax.Block{Stmts: []*syntax.Stmt{
			call(jobBegins),
			{Background: true, Cmd: &syntax.Block{Stmts: []*syntax.Stmt{
				{Cmd: &syntax.Subshell{Stmts: []*syntax.Stmt{&command}}},
				call(jobEnds),
			}}},
		}}
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
	case "umask":
		if len(args) == 1 {
			return []string{"printf", "%04o\n", "0" + interp.HandlerCtx(ctx).Env.Get(umaskVariable).Str}, nil
		}
		if _, err := strconv.ParseUint(args[1], 8, 9); err != nil {
			return []string{"false"}, nil
		}
		return []string{"eval", umaskVariable + "=" + args[1]}, nil
	case "command":
		if len(args) > 2 && (args[1] == "-v" || args[1] == "-V") {
			return append([]string{"/bin/which"}, args[2:]...), nil
		}
		if len(args) > 1 && args[1] == "-p" {
			return append([]string{"command"}, args[2:]...), nil
		}
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
		return kept, nil
	}
	return args, nil
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

// A script is a parsed text. Many shells interpret it at the same time, so it
// is not changed any more.
type script struct {
	file  *syntax.File
	reads bool // has a builtin that reads standard input
}

// parsed holds scripts by their text, because hosts are told the same again and again.
var parsed struct {
	sync.Mutex
	texts map[string]*script
	heads []knownHead // of texts that begin alike and end differently
	last  []*whole    // texts a head may come from
}

type knownHead struct {
	text  string
	stmts []*syntax.Stmt
}

type whole struct {
	text string
	file *syntax.File
}

const (
	mostTexts = 256
	mostHeads = 8
	leastHead = 1024 // bytes: parsing less is no work
)

// parse parses a script, or knows it already.
func parse(text string) (*script, error) {
	parsed.Lock()
	known := parsed.texts[text]
	parsed.Unlock()
	if known != nil {
		return known, nil
	}
	file, err := parseNew(text)
	if err != nil {
		return nil, err
	}
	s := &script{file: file, reads: reads(file)}
	parsed.Lock()
	defer parsed.Unlock()
	if parsed.texts == nil || len(parsed.texts) >= mostTexts {
		parsed.texts = map[string]*script{}
	}
	parsed.texts[text] = s
	return s, nil
}

// parseInput parses what a shell reads on standard input: a long text that is
// always the same, with a few words at its end that are always others. The long
// part is parsed once. Nothing is left on standard input for what it starts.
func parseInput(text string) (*syntax.File, error) {
	parsed.Lock()
	heads := parsed.heads
	parsed.Unlock()
	for _, h := range heads {
		if rest, ok := strings.CutPrefix(text, h.text); ok {
			file, err := parseNew(rest)
			if err != nil {
				return nil, err
			}
			file.Stmts = append(h.stmts[:len(h.stmts):len(h.stmts)], file.Stmts...)
			return file, nil
		}
	}
	file, err := parseNew(text)
	if err != nil || len(text) < leastHead {
		return file, err
	}
	parsed.Lock()
	defer parsed.Unlock()
	for _, w := range parsed.last {
		if h, ok := commonHead(w, text); ok {
			if len(parsed.heads) >= mostHeads {
				parsed.heads = nil
			}
			parsed.heads = append(parsed.heads[:len(parsed.heads):len(parsed.heads)], h)
			return file, nil
		}
	}
	if len(parsed.last) >= mostHeads {
		parsed.last = nil
	}
	parsed.last = append(parsed.last, &whole{text, file})
	return file, nil
}

// commonHead finds the statements that both texts begin with. It ends where a
// statement begins that is not on the line where the one before it ends.
func commonHead(w *whole, text string) (h knownHead, ok bool) {
	same := 0
	for same < len(text) && same < len(w.text) && text[same] == w.text[same] {
		same++
	}
	for i, stmt := range w.file.Stmts {
		at := int(stmt.Pos().Offset())
		if at > same {
			break
		}
		if strings.HasSuffix(w.text[:at], "\n") {
			h = knownHead{text: w.text[:at], stmts: w.file.Stmts[:i]}
		}
	}
	return h, len(h.text) >= leastHead
}

func parseNew(text string) (*syntax.File, error) {
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "") // in POSIX mode it does not know export
	if err != nil {
		return nil, err
	}
	syntax.Walk(file, func(n syntax.Node) bool {
		if p, ok := n.(*syntax.ParamExp); ok && p.Param != nil && p.Param.Value == "$" {
			p.Param.Value = pidVariable // $$ would be the simulation's own
		}
		return true
	})
	countJobs(file)
	return file, nil
}

func reads(file *syntax.File) (found bool) {
	syntax.Walk(file, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 {
			switch c.Args[0].Lit() {
			case "read", "eval", ".", "command":
				found = true
			}
		}
		return !found
	})
	return found
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

	in, done := p.input(ctx)
	defer done()
	var text bytes.Buffer
	if _, err := text.ReadFrom(io.LimitReader(in, mostInput)); err != nil {
		return p.complain("sh", err) + 1
	}
	file, err := parseInput(text.String())
	if err != nil {
		fmt.Fprintf(p.stderr, "sh: %v\n", err)
		return 2
	}
	if len(args) > 0 {
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	q := *p
	q.stdin = nil
	return q.interpret(ctx, &script{file: file}, append(options, args...))
}

const mostInput = 16 << 20 // bytes of a script

// run runs one program to its end and gives its exit status.
func (p *process) run(ctx context.Context, args []string) int {
	name := args[0]
	if dir := path.Dir(name); strings.Contains(name, "/") && !strings.HasSuffix(dir, "bin") {
		return p.runFile(ctx, args)
	}
	base := path.Base(name)
	if !p.host.has(base) {
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
