package output

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"commissaire/commands/process"
	"commissaire/domain"
)

// writer takes the output of one piece of work.
type writer struct {
	store *Store
	dir   string

	begin   int64    // of the work, in the text
	pieces  []piece  // of the text; the last is written to
	file    *os.File // the last piece; nil: not opened yet
	pending []byte   // what comes next decides what it is
	failed  bool     // or closed: nothing more is taken
}

// Begin implements process.Outputs.
func (s *Store) Begin(operation domain.OperationID, host domain.HostID, name, command string) process.Output {
	w, err := s.begin(s.textDir(operation, host), name, command)
	if err != nil {
		s.log.Error("what a host prints cannot be kept", "operation", operation, "host", host, "error", err)
		return nil
	}
	return w
}

func (s *Store) begin(dir, name, command string) (_ *writer, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w := &writer{store: s, dir: dir}
	var works []work
	if w.pieces, works, err = scan(dir); err != nil {
		return nil, err
	}
	if err := w.mend(); err != nil {
		return nil, err
	}
	for _, known := range works {
		w.begin = max(w.begin, known.begin)
	}
	if w.end() < w.begin { // a power cut took what was written last, and not the names
		if err := w.skip(w.begin); err != nil {
			return nil, err
		}
	}
	if len(works) > 0 && works[len(works)-1].name == workName(len(works), name) {
		return w, nil
	}
	w.begin = max(w.begin, w.end())
	title := s.config.Now().UTC().Format(time.RFC3339) + " " + command
	next := work{w.begin, workName(len(works)+1, name)}
	unfinished := filepath.Join(dir, "new")
	if err := os.WriteFile(unfinished, []byte(title), 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(unfinished, filepath.Join(dir, next.file())); err != nil {
		return nil, err
	}
	s.notify(dir)
	return w, nil
}

func workName(n int, name string) string { return fmt.Sprintf("%04d.%s", n, name) }

// mend takes away a part of a character that a crash left at the end.
func (w *writer) mend() error {
	if len(w.pieces) == 0 {
		return nil
	}
	last := &w.pieces[len(w.pieces)-1]
	text := make([]byte, min(last.size, utf8.UTFMax))
	path := filepath.Join(w.dir, pieceName(last.begin))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = file.ReadAt(text, last.size-int64(len(text)))
	if missing := int64(len(text) - wholeLength(text)); err == nil && missing > 0 {
		last.size -= missing
		err = file.Truncate(last.size)
	}
	return errors.Join(err, file.Close())
}

// end is that of what is kept.
func (w *writer) end() int64 {
	if len(w.pieces) == 0 {
		return 0
	}
	return w.pieces[len(w.pieces)-1].end()
}

// head is how much of the beginning of the text is kept whatever comes, and the
// size of each of two pieces at its end.
func (w *writer) head() int64 { return w.store.config.Limit / 2 }
func (w *writer) tail() int64 { return w.store.config.Limit / 4 }

// readSoFar is how far the work's output was read.
func (w *writer) readSoFar() int64 { return max(0, w.end()-w.begin) + int64(len(w.pending)) }

// Wanted implements process.Output.
func (w *writer) Wanted() (from, head, tail int64) {
	return w.readSoFar(), max(0, w.head()-w.begin), 2 * w.tail()
}

// maxOffset is beyond any output there may be.
const maxOffset = 1 << 50

// Write implements process.Output.
func (w *writer) Write(from int64, text []byte) {
	read := w.readSoFar()
	if w.failed || from < 0 || from > maxOffset || from+int64(len(text)) <= read {
		return
	}
	var err error
	if from <= read {
		text = text[read-from:]
	} else {
		err = w.settle()
		if err == nil {
			err = w.skip(w.begin + from)
		}
	}
	w.pending = append(w.pending, text...)
	if err == nil {
		err = w.put(makeHarmless(w.pending, false))
	}
	w.report(err)
}

// Close implements process.Output.
func (w *writer) Close(complete bool) {
	if complete && !w.failed {
		w.report(w.settle())
	}
	if w.file != nil {
		w.report(w.file.Close())
	}
	w.failed = true
}

// report tells of the first error, after which nothing more is kept.
func (w *writer) report(err error) {
	if err != nil && !w.failed {
		w.failed = true
		w.store.log.Error("what a host prints cannot be kept any more", "directory", w.dir, "error", err)
	}
}

// settle takes what is left as it is.
func (w *writer) settle() error { return w.put(makeHarmless(w.pending, true)) }

// put writes the first n bytes of what there is.
func (w *writer) put(n int) error {
	text := w.pending[:n]
	for len(text) > 0 {
		size, err := w.room()
		if err != nil {
			return err
		}
		part := text[:min(max(size, 0), int64(len(text)))]
		if len(part) < len(text) {
			part = part[:wholeLength(part)]
		}
		if len(part) == 0 {
			if err := w.skip(w.end()); err != nil {
				return err
			}
			continue
		}
		written, err := w.file.Write(part)
		w.pieces[len(w.pieces)-1].size += int64(written)
		if err != nil {
			return err
		}
		text = text[len(part):]
	}
	if n > 0 {
		w.store.notify(w.dir)
	}
	w.pending = append(w.pending[:0], w.pending[n:]...)
	return nil
}

// room opens the last piece and tells how much may be added to it; less than
// nothing where more was kept before.
func (w *writer) room() (int64, error) {
	if len(w.pieces) == 0 {
		if err := w.skip(w.begin); err != nil {
			return 0, err
		}
	}
	last := w.pieces[len(w.pieces)-1]
	if w.file == nil {
		file, err := os.OpenFile(filepath.Join(w.dir, pieceName(last.begin)), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return 0, err
		}
		w.file = file
	}
	size := w.tail()
	if last.begin == 0 {
		size = w.head()
	}
	return size - last.size, nil
}

// skip begins a piece at a byte. What comes before it is the beginning and, unless
// something is left out, the piece before.
func (w *writer) skip(to int64) error {
	if w.file != nil {
		err := w.file.Close()
		if w.file = nil; err != nil {
			return err
		}
	}
	file, err := os.OpenFile(filepath.Join(w.dir, pieceName(to)), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	w.file = file
	most := 1 // pieces of the end that stay
	if to > w.end() {
		most = 0
	}
	left := w.pieces[:0:0]
	for i, p := range w.pieces {
		if p.begin == 0 || i >= len(w.pieces)-most {
			left = append(left, p)
			continue
		}
		if err := os.Remove(filepath.Join(w.dir, pieceName(p.begin))); err != nil {
			return err
		}
	}
	w.pieces = append(left, piece{begin: to})
	return nil
}
