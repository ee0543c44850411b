package terminal

import (
	"fmt"
	"io"
)

// Screen shows lines one after the other, and on a terminal one more below them that
// says what is going on now.
type Screen struct {
	out      io.Writer
	terminal bool
	failed   func(error)
}

// NewScreen shows lines on out. failed is called when nothing can be written any more.
func NewScreen(out io.Writer, failed func(error)) *Screen {
	return &Screen{out, isTerminal(out), failed}
}

// Line adds a line.
func (s *Screen) Line(format string, args ...any) {
	s.Clear()
	s.write(fmt.Sprintf(format, args...) + "\n")
}

// Title adds a heading.
func (s *Screen) Title(text string) {
	if s.terminal {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	s.Line("\n%s\n", text)
}

// Status replaces the line that says what is going on.
func (s *Screen) Status(text string) {
	if s.terminal {
		s.Clear()
		s.write(fmt.Sprintf("%.79s", text)) // one that wraps could not be replaced
	}
}

// Clear removes the line that says what is going on.
func (s *Screen) Clear() {
	if s.terminal {
		s.write("\r\x1b[K")
	}
}

// Write adds text as it is, for tables.
func (s *Screen) Write(text []byte) (int, error) { return s.out.Write(text) }

func (s *Screen) write(text string) {
	if _, err := io.WriteString(s.out, text); err != nil {
		s.failed(err)
	}
}
