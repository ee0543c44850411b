// Package snapshots keeps what was folded from the log in files, so that a start
// does not fold from the beginning. A file is worth nothing that the log is not:
// it may be removed at any time, and one that is damaged, or that another build of
// the program made, is.
//
// A file named POSITION.snapshot is compressed with zstd, which has a checksum. Its
// first line says where in the log it belongs and which build made it.
package snapshots

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"commissaire/domain/event"
)

// Config says what is kept, and of whom.
type Config struct {
	Build   string        // of the program: what another one folded is of no use
	MaxAge  time.Duration // of all but the latest
	MaxSize int64         // bytes of all there is; the latest is kept in any case
	Now     func() time.Time
}

// Cut is the place in the log that a snapshot is of.
type Cut struct {
	Position event.Position `json:"position"`
	ID       uuid.UUID      `json:"id"` // of the event there
	Build    string         `json:"build"`
}

// Info is a snapshot as it lies there.
type Info struct {
	Position event.Position `json:"position"`
	Time     time.Time      `json:"time"` // when it was written
	Size     int64          `json:"size"` // bytes

	path string
}

// ErrBad is wrapped by who finds that a snapshot is of no use.
var ErrBad = errors.New("the snapshot is of no use")

const (
	ending     = ".snapshot"
	unfinished = ".new"
)

// Store keeps snapshots in a directory of its own. All methods may be called at
// once from any goroutine.
type Store struct {
	dir    string
	config Config
	logger *slog.Logger
	saving sync.Mutex
}

// Open opens a directory, which is made with the first snapshot.
func Open(dir string, config Config, logger *slog.Logger) *Store {
	return &Store{dir: dir, config: config, logger: logger}
}

// List is what is kept, latest first.
func (s *Store) List() ([]Info, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the snapshots of views: %w", err)
	}
	var all []Info
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ending)
		position, err := strconv.ParseUint(name, 10, 64)
		if !ok || err != nil {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the snapshots of views: %w", err)
		}
		all = append(all, Info{event.Position(position), info.ModTime(), info.Size(), filepath.Join(s.dir, entry.Name())})
	}
	slices.Reverse(all)
	return all, nil
}

// Save keeps what write writes, and drops what is older or more than is wanted.
func (s *Store) Save(pos event.Position, id uuid.UUID, write func(io.Writer) error) (err error) {
	s.saving.Lock()
	defer s.saving.Unlock()
	fail := func(err error) error { return fmt.Errorf("keep a snapshot of views at position %d: %w", pos, err) }
	name := fmt.Sprintf("%020d", pos) + ending
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fail(err)
	}
	file, err := os.CreateTemp(s.dir, name+".*"+unfinished) // 0600
	if err != nil {
		return fail(err)
	}
	_ = syscall.Flock(int(file.Fd()), syscall.LOCK_EX) // until it has its name; a file system may have no locks
	err = errors.Join(s.fill(file, Cut{pos, id, s.config.Build}, write), file.Sync())
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		return fail(errors.Join(err, file.Close(), os.Remove(file.Name())))
	}
	if err := file.Close(); err != nil {
		return fail(err)
	}
	if err := s.sweep(); err != nil {
		return fail(err)
	}
	return nil
}

func (s *Store) fill(file io.Writer, cut Cut, write func(io.Writer) error) error {
	packed, err := zstd.NewWriter(file, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	err = json.NewEncoder(packed).Encode(cut)
	if err == nil {
		err = write(packed)
	}
	return errors.Join(err, packed.Close())
}

func (s *Store) sweep() error {
	all, err := s.List()
	if err != nil {
		return err
	}
	var total int64
	for i, info := range all {
		total += info.Size
		if i == 0 || total <= s.config.MaxSize && s.config.Now().Sub(info.Time) <= s.config.MaxAge {
			continue
		}
		if err := os.Remove(info.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= info.Size
	}
	return nil
}

// Load reads the latest snapshot that is of use; false where none is. One that is
// not, also by read's word, which is ErrBad, is thrown away, and said so, as is
// what an interrupted Save left. What cannot be read or removed stops nobody: it is
// said. It is for who starts, before anything is saved.
func (s *Store) Load(read func(Cut, io.Reader) error) (Info, bool, error) {
	all, err := s.List()
	if err != nil {
		s.logger.Warn("no snapshot of views is read", "error", err)
		return Info{}, false, nil
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "*"+unfinished))
	for _, path := range left {
		if written(path) {
			continue
		}
		if failure := os.Remove(path); !errors.Is(failure, fs.ErrNotExist) {
			err = errors.Join(err, failure)
		}
	}
	if err != nil {
		s.logger.Warn("unfinished snapshots of views are not thrown away", "error", err)
	}
	for _, info := range all {
		err := s.Read(info, read)
		switch {
		case err == nil:
			return info, true, nil
		case !errors.Is(err, ErrBad):
			return Info{}, false, err
		}
		s.logger.Warn("a snapshot of views is thrown away", "path", info.path, "why", err)
		if err := os.Remove(info.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.logger.Warn("a snapshot of views is not thrown away", "error", err)
		}
	}
	return Info{}, false, nil
}

// written tells whether another program is writing a file.
func written(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // it was not even read
	return errors.Is(syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// Read reads a snapshot. ErrBad says that it is of no use.
func (s *Store) Read(info Info, read func(Cut, io.Reader) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the snapshot of views at position %d: %w", info.Position, err)
		}
	}()
	file, err := os.Open(info.path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	defer func() { _ = file.Close() }() // it was only read
	packed, err := zstd.NewReader(file)
	if err != nil {
		return err
	}
	defer packed.Close()
	in := bufio.NewReaderSize(packed, 1<<20)
	var cut Cut
	line, err := in.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &cut)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrBad, err)
	case cut.Build != s.config.Build:
		return fmt.Errorf("%w: another build of the program made it", ErrBad)
	case cut.Position != info.Position:
		return fmt.Errorf("%w: it is of position %d", ErrBad, cut.Position)
	}
	if err = read(cut, in); err != nil {
		return err
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) { // the checksum comes last
		return fmt.Errorf("%w: it goes on after its end, or %w", ErrBad, err)
	}
	return nil
}
