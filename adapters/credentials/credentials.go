// Package credentials keeps secrets apart from the log, which can forget
// nothing. Each secret is sealed (XChaCha20-Poly1305) with a data key of its
// own, and that with the master key; the credential's id is bound to both.
// Destroying a secret deletes its row, overwrites it in the file
// (secure_delete) and empties the write-ahead log. What a disk or a backup
// keeps of the file beneath that is still sealed with the master key, which
// lies elsewhere; a copy of the log of events opens nothing.
package credentials

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"commissaire/commands"
	"commissaire/domain"

	"golang.org/x/crypto/chacha20poly1305"
	_ "modernc.org/sqlite" // the driver
)

// Store keeps credentials in a SQLite file of its own, or in memory.
type Store struct {
	db     *sql.DB
	master []byte
	now    func() time.Time
}

var _ commands.Credentials = (*Store)(nil)

// checkID names the sealed value by which a wrong master key is noticed.
const checkID = "master-key-check"

// errDamaged says that what is kept does not open; it tells nothing of it.
var errDamaged = errors.New("what is kept was damaged, or sealed with another key")

// Open opens DIR/credentials.db, made where there is none; with dir "" all is
// kept in memory. A master key other than the one it was made with is refused.
// What a process that was killed had deleted, but not yet wiped, is wiped.
func Open(ctx context.Context, dir string, master []byte, now func() time.Time) (*Store, error) {
	if len(master) != chacha20poly1305.KeySize {
		return nil, fmt.Errorf("open credentials: the master key has %d bytes, not %d", len(master), chacha20poly1305.KeySize)
	}
	name := "file::memory:"
	if dir != "" {
		path := filepath.Join(dir, "credentials.db")
		if err := makePrivate(path); err != nil {
			return nil, fmt.Errorf("open credentials: %w", err)
		}
		name = "file:" + (&url.URL{Path: path}).EscapedPath()
	}
	db, err := sql.Open("sqlite", name+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(1)")
	if err != nil {
		return nil, fmt.Errorf("open credentials: %w", err)
	}
	db.SetMaxOpenConns(1) // none reads while the write-ahead log is emptied
	db.SetMaxIdleConns(1)
	s := &Store{db: db, master: bytes.Clone(master), now: now}
	if err := s.prepare(ctx, dir != ""); err != nil {
		return nil, errors.Join(fmt.Errorf("open credentials: %w", err), db.Close())
	}
	return s, nil
}

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

func (s *Store) prepare(ctx context.Context, durable bool) error {
	var secure, synchronous int
	var journal string
	for pragma, value := range map[string]any{"secure_delete": &secure, "synchronous": &synchronous, "journal_mode": &journal} {
		if err := s.db.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(value); err != nil {
			return err
		}
	}
	if secure != 1 {
		return errors.New("SQLite does not overwrite what is deleted")
	}
	if durable && (journal != "wal" || synchronous != 2) {
		return fmt.Errorf("SQLite runs with journal_mode %s and synchronous %d; wal and 2 are needed (a local disk?)", journal, synchronous)
	}
	if _, err := s.db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS credentials
		(id TEXT PRIMARY KEY, wrapped_key BLOB NOT NULL, sealed BLOB NOT NULL, made_at TEXT NOT NULL)`); err != nil {
		return err
	}
	if err := s.wipe(ctx); err != nil {
		return err
	}
	_, err := s.Read(ctx, checkID)
	switch {
	case errors.Is(err, errDamaged):
		return errors.New("the master key is not the one that the credentials were sealed with: give that one")
	case !errors.Is(err, commands.ErrNoCredential):
		return err
	}
	switch kept, err := s.List(ctx); {
	case err != nil:
		return err
	case len(kept) > 0:
		return errors.New("what tells a wrong master key is missing: restore credentials.db from a backup")
	}
	return s.Store(ctx, checkID, commands.Secret(checkID))
}

// Store implements commands.Credentials.
func (s *Store) Store(ctx context.Context, id domain.CredentialID, secret commands.Secret) error {
	key := make([]byte, chacha20poly1305.KeySize)
	_, _ = rand.Read(key) // never fails
	wrapped, err := seal(s.master, key, id)
	if err != nil {
		return fmt.Errorf("seal credential %s: %w", id, err)
	}
	sealed, err := seal(key, secret, id)
	if err != nil {
		return fmt.Errorf("seal credential %s: %w", id, err)
	}
	if _, err := s.db.ExecContext(ctx, "INSERT INTO credentials (id, wrapped_key, sealed, made_at) VALUES (?, ?, ?, ?)",
		string(id), wrapped, sealed, s.now().UTC().Format(time.RFC3339Nano)); err != nil {
		return fmt.Errorf("keep credential %s: %w", id, err)
	}
	return nil
}

// Read implements commands.Credentials.
func (s *Store) Read(ctx context.Context, id domain.CredentialID) (commands.Secret, error) {
	var wrapped, sealed []byte
	err := s.db.QueryRowContext(ctx, "SELECT wrapped_key, sealed FROM credentials WHERE id = ?", string(id)).Scan(&wrapped, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("read credential %s: %w", id, commands.ErrNoCredential)
	}
	if err != nil {
		return nil, fmt.Errorf("read credential %s: %w", id, err)
	}
	key, err := open(s.master, wrapped, id)
	if err != nil {
		return nil, fmt.Errorf("read credential %s: its key: %w", id, err)
	}
	secret, err := open(key, sealed, id)
	if err != nil {
		return nil, fmt.Errorf("read credential %s: %w", id, err)
	}
	return secret, nil
}

// Destroy implements commands.Credentials. Once begun it is not cancelled.
func (s *Store) Destroy(ctx context.Context, id domain.CredentialID) error {
	ctx = context.WithoutCancel(ctx)
	if _, err := s.db.ExecContext(ctx, "DELETE FROM credentials WHERE id = ?", string(id)); err != nil {
		return fmt.Errorf("destroy credential %s: %w", id, err)
	}
	if err := s.wipe(ctx); err != nil {
		return fmt.Errorf("destroy credential %s: %w", id, err)
	}
	return nil
}

// wipe empties the write-ahead log, in which older pages are, into the file.
func (s *Store) wipe(ctx context.Context) error {
	var busy, pages, moved int
	if err := s.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return fmt.Errorf("empty the write-ahead log: %w", err)
	}
	if busy != 0 {
		return errors.New("empty the write-ahead log: another program has credentials.db open; end it")
	}
	return nil
}

// List implements commands.Credentials.
func (s *Store) List(ctx context.Context) (all map[domain.CredentialID]time.Time, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT id, made_at FROM credentials WHERE id <> ?", checkID)
	if err != nil {
		return nil, fmt.Errorf("list credentials: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	all = map[domain.CredentialID]time.Time{}
	for rows.Next() {
		var id, made string
		if err := rows.Scan(&id, &made); err != nil {
			return nil, fmt.Errorf("list credentials: %w", err)
		}
		at, err := time.Parse(time.RFC3339Nano, made)
		if err != nil {
			return nil, fmt.Errorf("list credentials: %s: %w", id, err)
		}
		all[domain.CredentialID(id)] = at
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list credentials: %w", err)
	}
	return all, nil
}

// Digest tells secrets apart without giving them away: a hash keyed with what is
// derived from the master key.
func (s *Store) Digest(secret commands.Secret) string {
	key, err := hkdf.Key(sha256.New, s.master, nil, "commissaire digest", sha256.Size)
	if err != nil {
		panic(err) // only for a length that is too large
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(secret)
	return hex.EncodeToString(mac.Sum(nil))
}

// Close gives the file back.
func (s *Store) Close() error { return s.db.Close() }

func seal(key, plain []byte, id domain.CredentialID) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return aead.Seal(nonce, nonce, plain, []byte(id)), nil
}

func open(key, sealed []byte, id domain.CredentialID) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < aead.NonceSize() {
		return nil, errDamaged
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(id))
	if err != nil {
		return nil, errDamaged
	}
	return plain, nil
}
