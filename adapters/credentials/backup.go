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

// Sealed is credentials as they are kept: nothing of it opens without the master key.
type Sealed map[domain.CredentialID]sealedRow

// sealedRow is a record as the file has it.
type sealedRow struct {
	key, sealed []byte
	made        string
}

// ReadSealed reads all that is kept in DIR/credentials.db, also while a service has
// it. It is through with the file before it returns: who reads it keeps a service from
// wiping what it has destroyed.
func ReadSealed(ctx context.Context, dir string) (all Sealed, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the sealed credentials in %s: %w", dir, err)
		}
	}()
	path := filepath.Join(dir, File)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", address(path)+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "SELECT id, wrapped_key, sealed, made_at FROM credentials")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	all = Sealed{}
	for rows.Next() {
		var id string
		var r sealedRow
		if err := rows.Scan(&id, &r.key, &r.sealed, &r.made); err != nil {
			return nil, err
		}
		all[domain.CredentialID(id)] = r
	}
	return all, rows.Err()
}

// Has tells whether a credential is there.
func (s Sealed) Has(id domain.CredentialID) bool { _, ok := s[id]; return ok }

// Len is how many credentials there are.
func (s Sealed) Len() int {
	if s.Has(checkID) {
		return len(s) - 1
	}
	return len(s)
}

// Write keeps them in a new file DIR/credentials.db, durably. Neither what was
// destroyed nor the master key is in it.
func (s Sealed) Write(ctx context.Context, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write the sealed credentials to %s: %w", dir, err)
		}
	}()
	path := filepath.Join(dir, File)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	db, err := sql.Open("sqlite", address(path)+"?_pragma=synchronous(FULL)")
	if err != nil {
		return err
	}
	if err := errors.Join(s.insert(ctx, db), db.Close()); err != nil {
		return err
	}
	return file.Sync()
}

func (s Sealed) insert(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, schema)
	for id, r := range s {
		if err == nil {
			_, err = tx.ExecContext(ctx, "INSERT INTO credentials (id, wrapped_key, sealed, made_at) VALUES (?, ?, ?, ?)", string(id), r.key, r.sealed, r.made)
		}
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// OpenBackup opens a copy that Sealed.Write made, to read it: nothing can be stored or
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
	return newStore(ctx, &database{db: db}, master, time.Now)
}

func address(path string) string { return "file:" + (&url.URL{Path: path}).EscapedPath() }
