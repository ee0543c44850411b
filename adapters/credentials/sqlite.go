package credentials

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"commissaire/domain"

	"modernc.org/sqlite" // the driver
	sqlite3 "modernc.org/sqlite/lib"
)

// database is a keeper: a SQLite file of its own, or memory.
type database struct {
	db *sql.DB

	mu      sync.Mutex
	unwiped bool // what was deleted may be in the write-ahead log still
}

// Open opens DIR/credentials.db, made where there is none; with dir "" all is
// kept in memory. A master key other than the one it was made with is refused.
// What a process that was killed had deleted, but not yet wiped, is wiped.
func Open(ctx context.Context, dir string, master []byte, now func() time.Time) (*Store, error) {
	if err := checkLength(master); err != nil {
		return nil, err
	}
	name := "file::memory:"
	if dir != "" {
		path := filepath.Join(dir, File)
		if err := makePrivate(path); err != nil {
			return nil, fmt.Errorf("open credentials: %w", err)
		}
		name = address(path)
	}
	db, err := sql.Open("sqlite", name+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(1)")
	if err != nil {
		return nil, fmt.Errorf("open credentials: %w", err)
	}
	db.SetMaxOpenConns(1) // none reads while the write-ahead log is emptied
	db.SetMaxIdleConns(1)
	d := &database{db: db}
	if err := d.prepare(ctx, dir != ""); err != nil {
		return nil, errors.Join(fmt.Errorf("open credentials: %w", err), db.Close())
	}
	return newStore(ctx, d, master, now)
}

const schema = `CREATE TABLE IF NOT EXISTS credentials
	(id TEXT PRIMARY KEY, wrapped_key BLOB NOT NULL, sealed BLOB NOT NULL, made_at TEXT NOT NULL)`

// makePrivate makes a file that only its owner may read, or makes the one that
// is there so. SQLite gives the files beside it the same mode.
func makePrivate(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Chmod(0o600), file.Close())
}

func (d *database) prepare(ctx context.Context, durable bool) error {
	var secure, synchronous int
	var journal string
	for pragma, value := range map[string]any{"secure_delete": &secure, "synchronous": &synchronous, "journal_mode": &journal} {
		if err := d.db.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(value); err != nil {
			return err
		}
	}
	if secure != 1 {
		return errors.New("SQLite does not overwrite what is deleted")
	}
	if durable && (journal != "wal" || synchronous != 2) {
		return fmt.Errorf("SQLite runs with journal_mode %s and synchronous %d; wal and 2 are needed (a local disk?)", journal, synchronous)
	}
	if _, err := d.db.ExecContext(ctx, schema); err != nil {
		return err
	}
	return d.wipe(ctx)
}

// keep implements keeper.
func (d *database) keep(ctx context.Context, id domain.CredentialID, r record) error {
	_, err := d.db.ExecContext(ctx, "INSERT INTO credentials (id, wrapped_key, sealed, made_at) VALUES (?, ?, ?, ?)",
		string(id), r.key, r.sealed, r.made.UTC().Format(time.RFC3339Nano))
	if failure, ok := errors.AsType[*sqlite.Error](err); ok && failure.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY {
		return fs.ErrExist
	}
	return err
}

// read implements keeper.
func (d *database) read(ctx context.Context, id domain.CredentialID) (r record, err error) {
	err = d.db.QueryRowContext(ctx, "SELECT wrapped_key, sealed FROM credentials WHERE id = ?", string(id)).Scan(&r.key, &r.sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return record{}, fs.ErrNotExist
	}
	return r, err
}

// destroy implements keeper.
func (d *database) destroy(ctx context.Context, id domain.CredentialID) error {
	if _, err := d.db.ExecContext(ctx, "DELETE FROM credentials WHERE id = ?", string(id)); err != nil {
		return err
	}
	return d.wipe(ctx)
}

// wipe empties the write-ahead log, in which older pages are, into the file.
func (d *database) wipe(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unwiped = true
	var busy, pages, moved int
	if err := d.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return fmt.Errorf("empty the write-ahead log: %w", err)
	}
	if busy != 0 {
		return errors.New("empty the write-ahead log: another program has credentials.db open; end it")
	}
	d.unwiped = false
	return nil
}

// list implements keeper.
func (d *database) list(ctx context.Context) (all map[domain.CredentialID]time.Time, err error) {
	d.mu.Lock()
	unwiped := d.unwiped
	d.mu.Unlock()
	if unwiped {
		if err := d.wipe(ctx); err != nil {
			return nil, err
		}
	}
	rows, err := d.db.QueryContext(ctx, "SELECT id, made_at FROM credentials")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	all = map[domain.CredentialID]time.Time{}
	for rows.Next() {
		var id, made string
		if err := rows.Scan(&id, &made); err != nil {
			return nil, err
		}
		if all[domain.CredentialID(id)], err = time.Parse(time.RFC3339Nano, made); err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
	}
	return all, rows.Err()
}

// close implements keeper.
func (d *database) close() error { return d.db.Close() }
