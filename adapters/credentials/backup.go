package credentials

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"commissaire/domain"
)

// File is the name of the file that credentials are kept in, in a store's directory.
const File = "credentials.db"

// Backup copies what is sealed in DIR/credentials.db into another directory, which
// exists and has none, also while a service has it, and returns which credentials
// those are. It needs no master key and opens none of them. What was destroyed is not
// in the copy, not even overwritten.
func Backup(ctx context.Context, dir, target string) (ids []domain.CredentialID, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy the credentials in %s: %w", dir, err)
		}
	}()
	all, err := sealedIn(ctx, filepath.Join(dir, File))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(target, File)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	db, err := sql.Open("sqlite", address(path)+"?_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fill(ctx, db, all), db.Close()); err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.id != checkID {
			ids = append(ids, domain.CredentialID(r.id))
		}
	}
	return ids, file.Sync()
}

// row is a record as the file has it.
type row struct {
	id, made    string
	key, sealed []byte
}

// sealedIn reads all that a file has at once, and is through before anything is
// written: who reads keeps a service from wiping what it has destroyed.
func sealedIn(ctx context.Context, path string) (all []row, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", address(path)+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "SELECT id, wrapped_key, sealed, made_at FROM credentials ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.key, &r.sealed, &r.made); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

func fill(ctx context.Context, db *sql.DB, all []row) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	for _, r := range all {
		if _, err := tx.ExecContext(ctx, "INSERT INTO credentials (id, wrapped_key, sealed, made_at) VALUES (?, ?, ?, ?)", r.id, r.key, r.sealed, r.made); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// OpenBackup opens a copy that Backup made, to read it: nothing can be stored or
// destroyed. A master key other than the one it was sealed with is refused.
func OpenBackup(ctx context.Context, dir string, master []byte) (*Store, error) {
	if err := checkLength(master); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, File)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open credentials: %w", err)
	}
	db, err := sql.Open("sqlite", address(path)+"?mode=ro&immutable=1")
	if err != nil {
		return nil, fmt.Errorf("open credentials: %w", err)
	}
	return newStore(ctx, database{db}, master, time.Now)
}

func address(path string) string { return "file:" + (&url.URL{Path: path}).EscapedPath() }
