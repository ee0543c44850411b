package output

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"commissaire/domain"
)

// Reader reads what a host printed during an operation, from its beginning: each
// piece of work after a line that says when it was begun and what it is, and a
// line that says how many bytes are left out where some are.
type Reader struct {
	store  *Store
	dir    string
	offset int64
	works  int  // that were told of
	open   bool // in a line
}

// Read is a Reader of what a host printed during an operation, which must be closed.
func (s *Store) Read(operation domain.OperationID, host domain.HostID) *Reader {
	r := &Reader{store: s, dir: s.textDir(operation, host)}
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.watches[r.dir]
	if !ok {
		w = &watch{changed: make(chan struct{})}
		s.watches[r.dir] = w
	}
	w.readers++
	return r
}

// Close ends reading.
func (r *Reader) Close() {
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watches[r.dir]; w.readers > 1 {
		w.readers--
	} else {
		delete(s.watches, r.dir)
	}
}

// Changed is closed when something is written after this call.
func (r *Reader) Changed() <-chan struct{} {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	return r.store.watches[r.dir].changed
}

// Printed tells whether anything is kept that the host itself printed.
func (r *Reader) Printed() (bool, error) {
	pieces, _, err := scan(r.dir)
	if err != nil {
		return false, fmt.Errorf("read what a host printed: %w", err)
	}
	for _, p := range pieces {
		if p.size > 0 {
			return true, nil
		}
	}
	return false, nil
}

const maxRead = 64 << 10 // bytes at once

// Next returns what comes next, valid UTF-8; nothing is the end of what there is.
func (r *Reader) Next() (text []byte, err error) {
	for {
		if text, err = r.next(); !errors.Is(err, fs.ErrNotExist) { // else a piece was left out at this moment
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read what a host printed: %w", err)
	}
	if len(text) > 0 {
		r.open = text[len(text)-1] != '\n'
	}
	return text, nil
}

func (r *Reader) next() ([]byte, error) {
	pieces, works, err := scan(r.dir)
	if err != nil {
		return nil, err
	}
	if r.works < len(works) && works[r.works].begin <= r.offset {
		title, err := os.ReadFile(filepath.Join(r.dir, works[r.works].file()))
		if err != nil {
			return nil, r.unlessGone(err)
		}
		r.works++
		return r.line("== " + string(title)), nil
	}
	for _, p := range pieces {
		if p.begin > r.offset {
			left := p.begin - r.offset
			r.offset = p.begin
			return r.line(fmt.Sprintf("[... %d bytes are left out here ...]", left)), nil
		}
		size := min(p.end()-r.offset, maxRead)
		if r.works < len(works) {
			size = min(size, works[r.works].begin-r.offset)
		}
		if size <= 0 {
			continue
		}
		file, err := os.Open(filepath.Join(r.dir, pieceName(p.begin)))
		if err != nil {
			return nil, err
		}
		text := make([]byte, size)
		n, err := file.ReadAt(text, r.offset-p.begin)
		if err = errors.Join(err, file.Close()); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		text = text[:wholeLength(text[:n])] // of a write that is under way there may be a part
		r.offset += int64(len(text))
		return text, nil
	}
	return nil, nil
}

// unlessGone returns err, unless the whole directory is no more: then there is nothing.
func (r *Reader) unlessGone(err error) error {
	if _, missing := os.Stat(r.dir); errors.Is(missing, fs.ErrNotExist) {
		return nil
	}
	return err
}

// line is a line of ours.
func (r *Reader) line(text string) []byte {
	if r.open {
		text = "\n" + text
	}
	return []byte(text + "\n")
}

// Last is the end of what a host printed during an operation: at most that many
// lines and bytes. It is empty where nothing is kept.
func (s *Store) Last(operation domain.OperationID, host domain.HostID, lines, size int) (string, error) {
	dir := s.textDir(operation, host)
	pieces, _, err := scan(dir)
	if err != nil {
		return "", fmt.Errorf("read what a host printed: %w", err)
	}
	var text []byte
	for i := len(pieces) - 1; i >= 0 && len(text) < size; i-- {
		if i+1 < len(pieces) && pieces[i].end() != pieces[i+1].begin {
			break
		}
		part := make([]byte, min(pieces[i].size, int64(size-len(text))))
		file, err := os.Open(filepath.Join(dir, pieceName(pieces[i].begin)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("read what a host printed: %w", err)
		}
		n, err := file.ReadAt(part, pieces[i].size-int64(len(part)))
		if err = errors.Join(err, file.Close()); err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read what a host printed: %w", err)
		}
		text = append(part[:n:n], text...)
	}
	cut := len(text) == size
	text = bytes.TrimRight(text, "\n\t ")
	all := strings.Split(strings.ToValidUTF8(string(text), ""), "\n")
	if cut && len(all) > 1 {
		all = all[1:] // of which the beginning may be missing
	}
	return strings.Join(all[max(0, len(all)-lines):], "\n"), nil
}
