// Package credentials keeps secrets apart from the log, which can forget
// nothing. Each secret is sealed (XChaCha20-Poly1305) with a data key of its
// own, and that with the master key; the credential's id is bound to both.
//
// One instance keeps both in a SQLite file of its own (Open). Several keep what
// is sealed beside the log that they share and the data keys in a store that can
// forget (OpenShared). Destroying a secret destroys its data key: the row is
// deleted, overwritten in the file (secure_delete) and the write-ahead log
// emptied, or the key is deleted where keys are kept. What a disk, a backup or an
// immutable log keeps beneath that is still sealed with the master key, which
// lies elsewhere; a copy of the log of events opens nothing.
package credentials

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"commissaire/commands"
	"commissaire/domain"

	"golang.org/x/crypto/chacha20poly1305"
)

// Store seals credentials and has a keeper keep them.
type Store struct {
	keeper keeper
	master []byte
	now    func() time.Time
}

var _ commands.Credentials = (*Store)(nil)

// record is what is kept of a credential.
type record struct {
	key    []byte // the data key, sealed with the master key
	sealed []byte // the secret, sealed with the data key
	made   time.Time
}

// keeper keeps what is sealed, durably. All methods may be called at once.
type keeper interface {
	// keep keeps a record under a new id; fs.ErrExist where there is one already.
	// When it fails, what it may have left is listed, so that it can be destroyed.
	keep(ctx context.Context, id domain.CredentialID, r record) error
	// read fails with fs.ErrNotExist where there is none, or only a part of it.
	read(ctx context.Context, id domain.CredentialID) (record, error)
	// destroy may be repeated. Until it succeeds, what is left is listed; or list
	// completes it, or fails.
	destroy(ctx context.Context, id domain.CredentialID) error
	// list names all that is there, parts too, and since when.
	list(ctx context.Context) (map[domain.CredentialID]time.Time, error)
	close() error
}

// checkID names the sealed value by which a wrong master key is noticed.
const checkID = "master-key-check"

var (
	errDamaged = commands.ErrDamagedCredential
	errMaster  = errors.New("the master key is not the one that the credentials were sealed with: give that one")
)

// newStore checks the master key against what is kept. The keeper is closed
// when it fails.
func newStore(ctx context.Context, keeper keeper, master []byte, now func() time.Time) (*Store, error) {
	s := &Store{keeper: keeper, master: bytes.Clone(master), now: now}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open credentials: %w", err), keeper.close())
	}
	return s, nil
}

func checkLength(master []byte) error {
	if len(master) != chacha20poly1305.KeySize {
		return fmt.Errorf("open credentials: the master key has %d bytes, not %d", len(master), chacha20poly1305.KeySize)
	}
	return nil
}

// prepare makes the check where nothing was kept yet. Several instances may do
// so at once: all seal it with the same data key, so that it does not matter
// whose is kept.
func (s *Store) prepare(ctx context.Context) error {
	check := func() (there bool, err error) {
		switch _, err := s.Read(ctx, checkID); {
		case err == nil:
			return true, nil
		case errors.Is(err, errDamaged):
			return false, errMaster
		case errors.Is(err, commands.ErrNoCredential):
			return false, nil
		default:
			return false, err
		}
	}
	if there, err := check(); there || err != nil {
		return err
	}
	stored, err := s.List(ctx)
	if err != nil {
		return err
	}
	if len(stored) > 0 { // by another instance, which has made the check before?
		if there, err := check(); there || err != nil {
			return err
		}
		return errors.New("what tells a wrong master key is missing: restore the credentials from a backup")
	}
	if err := s.keep(ctx, checkID, s.derive("commissaire check"), commands.Secret(checkID), s.now()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if there, err := check(); there || err != nil {
		return err
	}
	return errors.New("what tells a wrong master key was not kept")
}

// Store implements commands.Credentials.
func (s *Store) Store(ctx context.Context, id domain.CredentialID, secret commands.Secret) error {
	return s.store(ctx, id, secret, s.now())
}

func (s *Store) store(ctx context.Context, id domain.CredentialID, secret commands.Secret, made time.Time) error {
	key := make([]byte, chacha20poly1305.KeySize)
	_, _ = rand.Read(key) // never fails
	return s.keep(ctx, id, key, secret, made)
}

func (s *Store) keep(ctx context.Context, id domain.CredentialID, key []byte, secret commands.Secret, made time.Time) error {
	wrapped, err := seal(s.master, key, id)
	if err != nil {
		return fmt.Errorf("seal credential %s: %w", id, err)
	}
	sealed, err := seal(key, secret, id)
	if err != nil {
		return fmt.Errorf("seal credential %s: %w", id, err)
	}
	if err := s.keeper.keep(ctx, id, record{wrapped, sealed, made}); err != nil {
		return fmt.Errorf("keep credential %s: %w", id, err)
	}
	return nil
}

// Read implements commands.Credentials.
func (s *Store) Read(ctx context.Context, id domain.CredentialID) (commands.Secret, error) {
	r, err := s.keeper.read(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read credential %s: %w", id, commands.ErrNoCredential)
	}
	if err != nil {
		return nil, fmt.Errorf("read credential %s: %w", id, err)
	}
	key, err := open(s.master, r.key, id)
	if err != nil {
		return nil, fmt.Errorf("read credential %s: its key: %w", id, err)
	}
	secret, err := open(key, r.sealed, id)
	if err != nil {
		return nil, fmt.Errorf("read credential %s: %w", id, err)
	}
	return secret, nil
}

// Destroy implements commands.Credentials. Once begun it is not cancelled.
func (s *Store) Destroy(ctx context.Context, id domain.CredentialID) error {
	if err := s.keeper.destroy(context.WithoutCancel(ctx), id); err != nil {
		return fmt.Errorf("destroy credential %s: %w", id, err)
	}
	return nil
}

// List implements commands.Credentials. It names also what was stored or
// destroyed in part.
func (s *Store) List(ctx context.Context) (map[domain.CredentialID]time.Time, error) {
	all, err := s.keeper.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list credentials: %w", err)
	}
	delete(all, checkID)
	return all, nil
}

// Digest tells secrets apart without giving them away: a hash keyed with what is
// derived from the master key.
func (s *Store) Digest(secret commands.Secret) string {
	mac := hmac.New(sha256.New, s.derive("commissaire digest"))
	mac.Write(secret)
	return hex.EncodeToString(mac.Sum(nil))
}

// derive is a key of 32 bytes for a purpose.
func (s *Store) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s.master, nil, purpose, sha256.Size)
	if err != nil {
		panic(err) // only for a length that is too large
	}
	return key
}

// Close gives what is kept back.
func (s *Store) Close() error { return s.keeper.close() }

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
