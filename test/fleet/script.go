package fleet

import (
	"slices"
	"strings"
	"sync"

	"mvdan.cc/sh/v3/syntax"
)

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

// parseInput parses lines that a shell reads on standard input. Often they begin
// with a long text that is always the same and end with a few words that are
// always others: the long part is parsed once.
func parseInput(input []byte) ([]*syntax.Stmt, error) {
	if len(input) < leastHead {
		file, err := parseNew(string(input))
		if err != nil {
			return nil, err
		}
		return file.Stmts, nil
	}
	parsed.Lock()
	heads := parsed.heads
	parsed.Unlock()
	for _, h := range heads {
		if n := len(h.text); len(input) >= n && string(input[:n]) == h.text {
			file, err := parseNew(string(input[n:]))
			if err != nil {
				return nil, err
			}
			return append(slices.Clip(h.stmts), file.Stmts...), nil
		}
	}
	text := string(input)
	file, err := parseNew(text)
	if err != nil {
		return nil, err
	}
	parsed.Lock()
	defer parsed.Unlock()
	for _, w := range parsed.last {
		if h, ok := commonHead(w, text); ok {
			if len(parsed.heads) >= mostHeads {
				parsed.heads = nil
			}
			parsed.heads = append(slices.Clip(parsed.heads), h)
			return file.Stmts, nil
		}
	}
	if len(parsed.last) >= mostHeads {
		parsed.last = nil
	}
	parsed.last = append(parsed.last, &whole{text, file})
	return file.Stmts, nil
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
	parser := parsers.Get().(*syntax.Parser)
	file, err := parser.Parse(strings.NewReader(text), "")
	parsers.Put(parser)
	if err != nil {
		return nil, err
	}
	if err := confine(text, file); err != nil {
		return nil, err
	}
	countJobs(file)
	findReads(file)
	return file, nil
}

var parsers = sync.Pool{New: func() any { return syntax.NewParser() }} // in POSIX mode it does not know export

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

const readsLine = "reads line"

// findReads turns each "read -r NAME <FILE" into "reads line NAME FILE": the
// interpreter would read it through a pipe, letter by letter.
func findReads(file *syntax.File) {
	syntax.Walk(file, func(n syntax.Node) bool {
		s, ok := n.(*syntax.Stmt)
		if !ok || len(s.Redirs) != 1 || s.Redirs[0].Op != syntax.RdrIn || s.Redirs[0].N != nil {
			return true
		}
		call, ok := s.Cmd.(*syntax.CallExpr)
		if ok && len(call.Assigns) == 0 && len(call.Args) == 3 && call.Args[0].Lit() == "read" && call.Args[1].Lit() == "-r" && syntax.ValidName(call.Args[2].Lit()) {
			program := &syntax.Word{Parts: []syntax.WordPart{&syntax.Lit{Value: readsLine}}}
			s.Cmd = &syntax.CallExpr{Args: []*syntax.Word{program, call.Args[2], s.Redirs[0].Word}}
			s.Redirs = nil
		}
		return true
	})
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
