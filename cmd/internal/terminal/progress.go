// Package terminal writes for people: how far something is, lines with a status
// line below them, tables, text without control characters; and it reads passwords.
// Where the output is no terminal, nothing is written that only a terminal
// understands.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Progress is a line on a terminal that says how far something is. The zero value
// shows nothing. Its methods may be called concurrently.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer // nil: there is no terminal
	shown time.Time
	width int // bytes on the line
}

// NewProgress shows progress on out, if that is a terminal.
func NewProgress(out io.Writer) *Progress {
	if isTerminal(out) {
		return &Progress{out: out}
	}
	return &Progress{}
}

// Count returns a function that shows how many of something there are, a few times
// a second.
func (p *Progress) Count(what string) func(int) {
	return func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.out == nil || time.Since(p.shown) < 200*time.Millisecond {
			return
		}
		p.shown = time.Now()
		line := fmt.Sprintf("%d %s", n, what)
		_, _ = fmt.Fprintf(p.out, "\r%s%s", line, strings.Repeat(" ", max(0, p.width-len(line))))
		p.width = len(line)
	}
}

// End clears the line.
func (p *Progress) End() {
	if p.width > 0 {
		_, _ = fmt.Fprintf(p.out, "\r%s\r", strings.Repeat(" ", p.width))
	}
}

// isTerminal tells whether somebody looks at what is written.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
