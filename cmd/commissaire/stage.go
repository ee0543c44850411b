package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// stage is where something is told as it happens: line by line, and on a
// terminal with one more line that says what is going on now.
type stage struct {
	out      io.Writer
	terminal bool
	fail     func(error) // told when nothing can be written any more
}

func newStage(out io.Writer, fail func(error)) *stage {
	file, ok := out.(*os.File)
	return &stage{out, ok && term.IsTerminal(int(file.Fd())), fail}
}

// say adds a line.
func (s *stage) say(format string, args ...any) {
	s.clear()
	s.write(fmt.Sprintf(format, args...) + "\n")
}

// title adds a heading.
func (s *stage) title(text string) {
	if s.terminal {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	s.say("\n%s\n", text)
}

// now replaces the line that says what is going on.
func (s *stage) now(text string) {
	if s.terminal {
		s.clear()
		s.write(fmt.Sprintf("%.79s", text)) // one that wraps could not be replaced
	}
}

// clear takes that line away.
func (s *stage) clear() {
	if s.terminal {
		s.write("\r\x1b[K")
	}
}

func (s *stage) write(text string) {
	if _, err := io.WriteString(s.out, text); err != nil {
		s.fail(err)
	}
}
