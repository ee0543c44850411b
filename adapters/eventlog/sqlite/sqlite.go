// Package sqlite keeps the log in one SQLite file that an operator can open with
// sqlite3: DIR/events.db, table events(pos, stream, rev, type, id, data, meta).
//
// One goroutine writes. It takes all appends that wait (group commit), checks
// each against the head of its stream, records those that fit in one
// transaction and answers after the commit: with WAL and synchronous=FULL that
// is one fsync for all of them. One process has the directory: a lock file says
// so, and so is the lease.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	_ "modernc.org/sqlite" // the driver
	sqlite3 "modernc.org/sqlite/lib"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// File and lockFile are the log and its lock in a directory.
const (
	File     = "events.db"
	lockFile = "lock"
)

const (
	schemaVersion = 1
	maxGroup      = 512 // appends in one transaction at the most
	pageSize      = 1000
)

// minVersion is the first SQLite without the WAL-reset bug (sqlite.org/wal.html).
var minVersion = [3]int{3, 51, 3}

// Store is an eventlog.Store and eventlog.Lease in a directory.
type Store struct {
	lock    *flock.Flock
	writer  *sql.DB
	readers *sql.DB
	queue   chan *pendingAppend
	stopped chan struct{}

	mu     sync.Mutex
	closed bool
	head   event.Position
	grown  chan struct{}
	calls  sync.WaitGroup // calls under way, for which Close waits

	heads map[event.Stream]event.Revision // of the goroutine that writes
}

var (
	_ eventlog.Store = (*Store)(nil)
	_ eventlog.Lease = (*Store)(nil)
)

var errInUse = errors.New("another process is using it; stop that one first")

var errClosed = errors.New("the event log is closed")

// pendingAppend is an append that waits to be recorded, and then its outcome.
type pendingAppend struct {
	stream   event.Stream
	expected event.Revision
	events   []eventlog.Raw
	more     []*pendingAppend // to other streams, recorded after it and only with it
	pos      event.Position
	err      error
	done     chan struct{}
}

// Open opens the log in a directory, which is made where there is none. It is
// refused, and nothing touched, when the directory is in use or is none, or when
// the file is of a newer version or no event log.
func Open(ctx context.Context, dir string) (*Store, error) {
	fail := func(err error) (*Store, error) { return nil, fmt.Errorf("open the event log in %s: %w", dir, err) }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	path, lockPath := filepath.Join(dir, File), filepath.Join(dir, lockFile)
	if _, err := os.Lstat(lockPath); errors.Is(err, fs.ErrNotExist) { // is the directory ours to make a lock in?
		if err := inspect(ctx, path); err != nil {
			return fail(err)
		}
	}
	lock := flock.New(lockPath, flock.SetPermissions(0o600))
	taken, err := lock.TryLock()
	if err != nil {
		return fail(err)
	}
	if !taken {
		return fail(errInUse)
	}
	s := &Store{
		lock: lock, queue: make(chan *pendingAppend, maxGroup), stopped: make(chan struct{}), grown: make(chan struct{}),
		heads: map[event.Stream]event.Revision{},
	}
	if err := s.open(ctx, path); err != nil {
		return fail(errors.Join(err, s.release()))
	}
	go s.writeGroups()
	return s, nil
}

func (s *Store) open(ctx context.Context, path string) error {
	if err := refuseUnrestored(filepath.Dir(path)); err != nil {
		return err
	}
	created, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case err == nil:
		if err := errors.Join(created.Close(), syncDir(filepath.Dir(path)), syncDir(filepath.Dir(filepath.Dir(path)))); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	default:
		if err := inspect(ctx, path); err != nil {
			return err
		}
	}
	if s.writer, err = connect(path, "&_txlock=immediate"); err != nil {
		return err
	}
	s.writer.SetMaxOpenConns(1)
	version, err := readVersion(ctx, s.writer)
	if err != nil {
		return err
	}
	if err := checkDurability(ctx, s.writer); err != nil {
		return err
	}
	if version == 0 {
		if err := create(ctx, s.writer); err != nil {
			return err
		}
	}
	if err := s.writer.QueryRowContext(ctx, "SELECT COALESCE(MAX(pos), 0) FROM events").Scan(&s.head); err != nil {
		return err
	}
	s.readers, err = connect(path, "&_pragma=query_only(1)")
	return err
}

// inspect looks at an existing file, and changes nothing: not even the files that
// SQLite keeps beside it, which it would rather start recovering.
func inspect(ctx context.Context, path string) (err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	head := make([]byte, 100)
	n, err := file.Read(head)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n == 0 {
		return nil // it was just made
	}
	if n < len(head) || string(head[:16]) != "SQLite format 3\x00" {
		return errors.New("events.db is no SQLite database")
	}
	const wal = 2 // what is ours was made with a write-ahead log
	if head[18] != wal {
		return errNoLog
	}
	logged, err := os.Stat(path + "-wal")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := sql.Open("sqlite", fileURI(path)+"?mode=ro&immutable=1")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = readVersion(ctx, db)
	if logged != nil && logged.Size() > 0 && errorCode(err)&0xff == sqlite3.SQLITE_CORRUPT {
		return nil // a checkpoint is under way, or was when a process was killed: with the write-ahead log it may be whole
	}
	return err
}

var errNoLog = errors.New("events.db is no event log")

// readVersion returns the version of an event log; 0 of a database with nothing
// in it. Any other database is refused.
func readVersion(ctx context.Context, db *sql.DB) (version int, err error) {
	var tables, ours int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return 0, err
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*), COALESCE(sum(type = 'table' AND name IN ('events', 'terms')), 0) FROM sqlite_schema").Scan(&tables, &ours); err != nil {
		return 0, err
	}
	switch {
	case tables == 0 && version == 0:
		return 0, nil
	case ours < 2 || version == 0:
		return 0, errNoLog
	case version > schemaVersion:
		return 0, fmt.Errorf("it is of version %d and this program knows %d; run a newer one", version, schemaVersion)
	}
	return version, nil
}

func fileURI(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath()
}

func connect(path, parameters string) (*sql.DB, error) {
	return sql.Open("sqlite", fileURI(path)+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+parameters)
}

// checkDurability asserts what durability rests on.
func checkDurability(ctx context.Context, db *sql.DB) error {
	var version, mode string
	var synchronous int
	if err := db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); err != nil {
		return err
	}
	var have [3]int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &have[0], &have[1], &have[2]); err != nil {
		return fmt.Errorf("SQLite calls itself %q", version)
	}
	for i := range have {
		if have[i] > minVersion[i] {
			break
		}
		if have[i] < minVersion[i] {
			return fmt.Errorf("SQLite %s can corrupt a write-ahead log; 3.51.3 or later is needed", version)
		}
	}
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&synchronous); err != nil {
		return err
	}
	if mode != "wal" || synchronous != 2 {
		return fmt.Errorf("SQLite runs with journal_mode %s and synchronous %d; wal and 2 are needed (a local disk?)", mode, synchronous)
	}
	return nil
}

func create(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, statement := range []string{
		`CREATE TABLE events (pos INTEGER PRIMARY KEY, stream TEXT NOT NULL, rev INTEGER NOT NULL, type TEXT NOT NULL,
			id TEXT NOT NULL, data TEXT NOT NULL, meta TEXT NOT NULL, UNIQUE (stream, rev))`,
		`CREATE TABLE terms (term INTEGER PRIMARY KEY)`,
		fmt.Sprintf("PRAGMA user_version = %d", schemaVersion),
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// writeGroups is the one goroutine that writes.
func (s *Store) writeGroups() {
	defer close(s.stopped)
	for first := range s.queue {
		batch := []*pendingAppend{first}
		for len(batch) < maxGroup {
			select {
			case next, ok := <-s.queue:
				if ok {
					batch = append(batch, next)
					continue
				}
			default:
			}
			break
		}
		s.commit(batch)
		for _, a := range batch {
			close(a.done)
		}
	}
}

// commit records a group in one transaction. When that fails nothing of it is
// recorded; where one append alone is to blame, the others are tried again
// without it.
func (s *Store) commit(batch []*pendingAppend) {
	for len(batch) > 0 {
		failed, err := s.record(context.Background(), batch) // an append that was handed over is not cancelled
		if err == nil {
			return
		}
		clear(s.heads)
		for _, a := range batch {
			if failed == nil || failed == a {
				a.pos, a.err = 0, fmt.Errorf("append to %s: %w", a.stream, err)
			}
		}
		if failed == nil {
			return
		}
		batch = slices.DeleteFunc(slices.Clone(batch), func(a *pendingAppend) bool { return a == failed })
	}
}

// errorCode is the code of an error of SQLite (sqlite.org/rescode.html); 0 of any other
// error.
func errorCode(err error) int {
	if failure, ok := errors.AsType[interface {
		error
		Code() int
	}](err); ok {
		return failure.Code()
	}
	return 0
}

// isAboutRow tells whether an error is about the row that was to be recorded, and not
// about the disk or the database.
func isAboutRow(err error) bool {
	return slices.Contains([]int{sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}, errorCode(err)&0xff)
}

// commitError says what the failure of a COMMIT leaves open. SQLite has rolled
// back, so that here nothing is recorded; and where the write-ahead log could not
// be written whole, nothing ever will be. Else (its fsync failed, its index
// could not grow) all of it is in the file: a process that is killed now finds
// it recorded when it recovers, one that goes on writes over it.
func commitError(err error) error {
	if code := errorCode(err); code == sqlite3.SQLITE_FULL || code == sqlite3.SQLITE_IOERR_WRITE {
		return fmt.Errorf("%w: %w", commands.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", commands.ErrOutcomeUnknown, err)
}

// record records a group. Where one of it is to blame that it cannot be, that
// one is returned.
func (s *Store) record(ctx context.Context, batch []*pendingAppend) (failed *pendingAppend, err error) {
	committing := false
	defer func() {
		if err != nil && !committing {
			err = fmt.Errorf("%w: %w", commands.ErrUnavailable, err)
		}
	}()
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // the first error says more
		}
	}()
	pos, err := s.readEnd(ctx, tx)
	if err != nil {
		return nil, err
	}
	insert, err := tx.PrepareContext(ctx, "INSERT INTO events (pos, stream, rev, type, id, data, meta) VALUES (?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return nil, err
	}
	defer func() { _ = insert.Close() }() // it ends with the transaction
	for _, a := range batch {
		if pos, failed, err = s.insertAll(ctx, tx, insert, a, pos); err != nil {
			return failed, err
		}
	}
	committing = true
	if err := tx.Commit(); err != nil {
		return nil, commitError(err)
	}
	s.setHead(pos)
	return nil, nil
}

// insertAll inserts an append and those that are recorded only with it. Where it is
// to blame that it cannot be recorded, it is returned as the one that failed.
func (s *Store) insertAll(ctx context.Context, tx *sql.Tx, insert *sql.Stmt, a *pendingAppend, pos event.Position) (_ event.Position, failed *pendingAppend, err error) {
	if pos, err = s.insert(ctx, tx, insert, a, pos); err != nil {
		return pos, blame(a, err), err
	}
	for _, m := range a.more {
		if a.err != nil {
			break // it has recorded nothing
		}
		if pos, err = s.insert(ctx, tx, insert, m, pos); err != nil {
			return pos, blame(a, err), err
		}
		if m.err != nil {
			return pos, a, m.err
		}
		a.pos = m.pos
	}
	return pos, nil, err
}

// blame returns the append whose row cannot be recorded; nil where an error is not
// about a row.
func blame(a *pendingAppend, err error) *pendingAppend {
	if isAboutRow(err) {
		return a
	}
	return nil
}

// insert records an append after a position, and returns the new one. Where the
// stream has moved on, it records nothing and says so in the append.
func (s *Store) insert(ctx context.Context, tx *sql.Tx, insert *sql.Stmt, a *pendingAppend, pos event.Position) (event.Position, error) {
	a.err = nil
	last, ok := s.heads[a.stream]
	if !ok {
		if err := tx.QueryRowContext(ctx, "SELECT COALESCE(MAX(rev), -1) FROM events WHERE stream = ?", a.stream).Scan(&last); err != nil {
			return pos, err
		}
		if len(s.heads) > 100_000 {
			clear(s.heads)
		}
		s.heads[a.stream] = last
	}
	if last != a.expected {
		was, err := findRepeated(ctx, tx, a)
		if err != nil {
			return pos, err
		}
		if a.pos = was; was == 0 {
			a.err = fmt.Errorf("append to %s: its last revision is %d, not %d: %w", a.stream, last, a.expected, commands.ErrConflict)
		}
		return pos, nil
	}
	for _, e := range a.events {
		pos++
		last++
		if _, err := insert.ExecContext(ctx, int64(pos), string(a.stream), int64(last), e.Type, e.ID.String(), string(e.Data), string(e.Meta)); err != nil {
			return pos, err
		}
	}
	s.heads[a.stream] = last
	a.pos = pos
	return pos, nil
}

// readEnd returns the position of the last event. Where it is not the one that this
// process left there (a COMMIT had an unknown outcome, somebody recorded by
// hand), nothing that was remembered counts any more.
func (s *Store) readEnd(ctx context.Context, tx *sql.Tx) (pos event.Position, err error) {
	if err := tx.QueryRowContext(ctx, "SELECT COALESCE(MAX(pos), 0) FROM events").Scan(&pos); err != nil {
		return 0, err
	}
	s.mu.Lock()
	head := s.head
	s.mu.Unlock()
	if pos < head {
		return 0, fmt.Errorf("events after position %d are gone", pos)
	}
	if pos > head {
		clear(s.heads)
		s.setHead(pos)
	}
	return pos, nil
}

// setHead makes a position the head and wakes the followers.
func (s *Store) setHead(pos event.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pos != s.head {
		s.head = pos
		close(s.grown) // Close does so too, after the last of these
		s.grown = make(chan struct{})
	}
}

// findRepeated returns the position of the last of these events, if exactly they follow
// the expected revision already; else 0.
func findRepeated(ctx context.Context, tx *sql.Tx, a *pendingAppend) (pos event.Position, err error) {
	for i, e := range a.events {
		var id string
		err := tx.QueryRowContext(ctx, "SELECT pos, id FROM events WHERE stream = ? AND rev = ?", a.stream, int64(a.expected)+int64(i)+1).Scan(&pos, &id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && id != e.ID.String() {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return pos, nil
}

// acquire keeps the store open until calls.Done; it returns false when it is closed.
func (s *Store) acquire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.calls.Add(1)
	}
	return !s.closed
}

// Append implements eventlog.Store.
func (s *Store) Append(_ context.Context, stream event.Stream, expected event.Revision, events []eventlog.Raw) (event.Position, error) {
	if len(events) == 0 {
		return 0, fmt.Errorf("append to %s: no events", stream)
	}
	if !s.acquire() {
		return 0, fmt.Errorf("append to %s: %w: %w", stream, commands.ErrUnavailable, errClosed)
	}
	defer s.calls.Done()
	a := &pendingAppend{stream: stream, expected: expected, events: events, done: make(chan struct{})}
	s.queue <- a
	<-a.done
	return a.pos, a.err
}

// AppendAll records events of any streams, in this order, all or none of them,
// durably before it returns. Each has the revision that its stream comes to with
// it; where one does not, or is another event already, it fails with
// commands.ErrConflict, wrapped. Else it is as Append.
func (s *Store) AppendAll(_ context.Context, events []eventlog.Raw) error {
	if !s.acquire() {
		return fmt.Errorf("append: %w: %w", commands.ErrUnavailable, errClosed)
	}
	defer s.calls.Done()
	var all []*pendingAppend
	for i, e := range events {
		if i > 0 && e.Stream == events[i-1].Stream && e.Revision == events[i-1].Revision+1 {
			last := all[len(all)-1]
			last.events = append(last.events, e)
			continue
		}
		all = append(all, &pendingAppend{stream: e.Stream, expected: e.Revision - 1, events: []eventlog.Raw{e}})
	}
	if len(all) == 0 {
		return errors.New("append: no events")
	}
	first := all[0]
	first.more, first.done = all[1:], make(chan struct{})
	s.queue <- first
	<-first.done
	return first.err
}

// read is query, while the store is open.
func (s *Store) read(ctx context.Context, sizeHint int, where string, arguments ...any) ([]eventlog.Raw, error) {
	if !s.acquire() {
		return nil, errClosed
	}
	defer s.calls.Done()
	return query(ctx, s.readers, sizeHint, where, arguments...)
}

// ReadStream implements eventlog.Store.
func (s *Store) ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[eventlog.Raw, error] {
	return func(yield func(eventlog.Raw, error) bool) {
		for {
			events, err := s.read(ctx, 1, "WHERE stream = ? AND rev >= ? ORDER BY rev LIMIT ?", string(stream), int64(from), int64(pageSize))
			if err != nil {
				yield(eventlog.Raw{}, fmt.Errorf("read %s: %w", stream, err))
				return
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
			}
			if len(events) < pageSize {
				return
			}
			from = events[len(events)-1].Revision + 1
		}
	}
}

// ReadAt implements eventlog.Store.
func (s *Store) ReadAt(ctx context.Context, positions []event.Position) ([]eventlog.Raw, error) {
	found := make(map[event.Position]eventlog.Raw, len(positions))
	for rest := positions; len(rest) > 0; {
		part := rest[:min(len(rest), 500)]
		rest = rest[len(part):]
		arguments := make([]any, len(part))
		for i, pos := range part {
			arguments[i] = int64(pos)
		}
		events, err := s.read(ctx, len(part), "WHERE pos IN (?"+strings.Repeat(", ?", len(part)-1)+")", arguments...)
		if err != nil {
			return nil, fmt.Errorf("read %d positions: %w", len(part), err)
		}
		for _, e := range events {
			found[e.Position] = e
		}
	}
	all := make([]eventlog.Raw, len(positions))
	for i, pos := range positions {
		e, ok := found[pos]
		if !ok {
			return nil, fmt.Errorf("read position %d: there is no event", pos)
		}
		all[i] = e
	}
	return all, nil
}

// Follow implements eventlog.Store.
func (s *Store) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return followed{head: s.readHead, wait: s.wait, read: s.readSpan}.follow(ctx, after)
}

func (s *Store) readSpan(ctx context.Context, where span) (found, error) {
	if !s.acquire() {
		return found{}, errClosed
	}
	defer s.calls.Done()
	return readSpan(ctx, s.readers, where)
}

func (s *Store) readHead(context.Context) (event.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errClosed
	}
	return s.head, nil
}

// wait waits until there is more than what is up to a position, or the store is closed.
func (s *Store) wait(ctx context.Context, after event.Position) error {
	s.mu.Lock()
	more, grown := s.closed || s.head > after, s.grown
	s.mu.Unlock()
	if more {
		return nil
	}
	select {
	case <-grown:
	case <-ctx.Done():
	}
	return nil
}

// Head implements eventlog.Store.
func (s *Store) Head(ctx context.Context) (event.Position, error) {
	head, err := s.readHead(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the head: %w", err)
	}
	return head, nil
}

// Lead implements eventlog.Lease: who has the directory leads.
func (s *Store) Lead(ctx context.Context, after domain.Term) (leading context.Context, term domain.Term, err error) {
	if !s.acquire() {
		return nil, 0, fmt.Errorf("begin a term: %w", errClosed)
	}
	defer s.calls.Done()
	err = s.writer.QueryRowContext(ctx, "INSERT INTO terms (term) SELECT MAX(COALESCE(MAX(term), 0), ?) + 1 FROM terms RETURNING term", after).Scan(&term)
	if err != nil {
		return nil, 0, fmt.Errorf("begin a term: %w", err)
	}
	return ctx, term, nil
}

// Close implements eventlog.Store. Reads under way end, too, before the directory
// is given back.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.stopped
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
	close(s.queue)
	<-s.stopped
	close(s.grown) // followers see that it is closed
	return s.release()
}

func (s *Store) release() error {
	var err error
	for _, db := range []*sql.DB{s.readers, s.writer} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	return errors.Join(err, s.lock.Unlock())
}
