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

// parseInput parses what a shell reads on standard input: a long text that is
// always the same, with a few words at its end that are always others. The long
// part is parsed once. Nothing is left on standard input for what it starts.
func parseInput(input []byte) (*syntax.File, error) {
	parsed.Lock()
	heads := parsed.heads
	parsed.Unlock()
	for _, h := range heads {
		if n := len(h.text); len(input) >= n && string(input[:n]) == h.text {
			file, err := parseNew(string(input[n:]))
			if err != nil {
				return nil, err
			}
			file.Stmts = append(slices.Clip(h.stmts), file.Stmts...)
			return file, nil
		}
	}
	text := string(input)
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
			parsed.heads = append(slices.Clip(parsed.heads), h)
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
	if err := confine(text, file); err != nil {
		return nil, err
	}
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
