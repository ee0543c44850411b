// Package output keeps what hosts print in plain files: it implements
// process.Outputs and serves what is kept.
//
// What a host prints during an operation is one text in the directory
// OPERATION/HOST, made of the outputs of its pieces of work, one after the other.
// A file named 0000000000000000 has its beginning; any other that is named so has
// what comes from that byte on. A file named BYTE.NUMBER.WORK says that a piece of
// work begins at that byte, and holds when and what. Where the text is longer than
// it may be, the files in the middle are missing: its beginning is kept, and its
// end.
//
// Text from a host is made harmless before it is kept, byte for byte: what is no
// UTF-8, or not printable, becomes a question mark for each of its bytes, and a
// carriage return a line break, or a blank before one. So the size of what is kept
// says how far a host's output was read: after a crash, reading goes on there.
package output

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
)

// Config says how much is kept.
type Config struct {
	Limit   int64         // bytes a host and operation
	MaxAge  time.Duration // of the output of an operation, since something was last written
	MaxSize int64         // bytes of all there is, until the next sweep
	Now     func() time.Time
}

// minLimit is what a text is allowed in any case.
const minLimit = 1 << 10

// Store keeps outputs in a directory. It may be used by many at once, but for
// each host and operation one at a time may write.
type Store struct {
	dir    string
	config Config
	log    *slog.Logger

	mu      sync.Mutex
	watches map[string]*watch // by directory
}

// A watch is on a text that is being read.
type watch struct {
	readers int
	changed chan struct{} // closed, and replaced, when more is written
}

var _ process.Outputs = (*Store)(nil)

// Open opens a directory, which is made where there is none.
func Open(dir string, config Config, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the output of hosts: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the output of hosts: %w", err)
	}
	config.Limit = max(config.Limit, minLimit)
	return &Store{dir: dir, config: config, log: log, watches: map[string]*watch{}}, nil
}

// textDir is the directory of a text.
func (s *Store) textDir(operation domain.OperationID, host domain.HostID) string {
	return filepath.Join(s.dir, string(operation), string(host))
}

// notify tells those who read a text that there is more.
func (s *Store) notify(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.watches[dir]; ok {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// A piece is a file of a text.
type piece struct{ begin, size int64 }

func (p piece) end() int64 { return p.begin + p.size }

// A work is where a piece of work begins in a text.
type work struct {
	begin int64
	name  string // "NUMBER.WORK"
}

func pieceName(offset int64) string { return fmt.Sprintf("%016d", offset) }

func (w work) file() string { return pieceName(w.begin) + "." + w.name }

// scan tells what there is of a text; nothing where there is no directory.
func scan(dir string) (pieces []piece, works []work, err error) {
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, entry := range entries {
		begin, name, isWork := strings.Cut(entry.Name(), ".")
		offset, err := strconv.ParseInt(begin, 10, 64)
		if err != nil {
			continue
		}
		if isWork {
			works = append(works, work{offset, name})
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // left out meanwhile
		}
		if err != nil {
			return nil, nil, err
		}
		pieces = append(pieces, piece{offset, info.Size()})
	}
	return pieces, works, nil
}

// Sweep implements process.Outputs. The age of an operation's output is that of
// its latest file.
func (s *Store) Sweep(running func(domain.OperationID) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("sweep the output of hosts: %w", err)
	}
	var all []directory
	var total int64
	var failed error
	for _, entry := range entries {
		d, err := s.measure(entry.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a piece may be left out meanwhile
			failed = errors.Join(failed, err)
			continue
		}
		all, total = append(all, d), total+d.size
	}
	slices.SortFunc(all, func(a, b directory) int { return a.last.Compare(b.last) })
	for _, d := range all {
		old := s.config.Now().Sub(d.last) > s.config.MaxAge
		if !old && total <= s.config.MaxSize || running(domain.OperationID(d.name)) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, d.name)); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		total -= d.size
	}
	if failed != nil {
		return fmt.Errorf("sweep the output of hosts: %w", failed)
	}
	return nil
}

// directory is the output of an operation.
type directory struct {
	name string
	size int64     // bytes
	last time.Time // when something was last written
}

// measure looks at the output of an operation. With an error it has what was seen
// before that.
func (s *Store) measure(name string) (directory, error) {
	d := directory{name: name}
	err := filepath.WalkDir(filepath.Join(s.dir, name), func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !e.IsDir() {
			d.size += info.Size()
		}
		if info.ModTime().After(d.last) {
			d.last = info.ModTime()
		}
		return nil
	})
	return d, err
}
