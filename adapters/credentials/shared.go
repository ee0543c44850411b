package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"commissaire/domain"
)

// Blobs keeps what is sealed where all instances find it. It may be unable to
// forget: without its data key a blob opens for nobody. All methods may be called
// at once.
type Blobs interface {
	// PutBlob keeps a blob under a new id, durably; fs.ErrExist, wrapped, where there
	// is one.
	PutBlob(ctx context.Context, id domain.CredentialID, sealed []byte) error
	// Blob fails with fs.ErrNotExist, wrapped, where there is none.
	Blob(ctx context.Context, id domain.CredentialID) ([]byte, error)
	// DeleteBlob may be repeated.
	DeleteBlob(ctx context.Context, id domain.CredentialID) error
}

// shared is a keeper: data keys here, what they open there.
//
// A credential is listed as long as anything of it is anywhere. So its key is
// kept before its blob, and a mark is made before its key is deleted, which goes
// after the blob: whoever is stopped in between leaves what the next Destroy ends.
type shared struct {
	keys  Keys
	blobs Blobs
	now   func() time.Time

	mu   sync.Mutex
	made map[string]time.Time // of names that were listed: replaced, never changed
}

// OpenShared opens credentials that several instances share: all give the same
// master key, keys and blobs. A master key other than the first one's is refused,
// and keys that are not those of the blobs.
func OpenShared(ctx context.Context, keys Keys, blobs Blobs, master []byte, now func() time.Time) (*Store, error) {
	if err := checkLength(master); err != nil {
		return nil, err
	}
	return newStore(ctx, &shared{keys: keys, blobs: blobs, now: now}, master, now)
}

// marked begins the name under which a credential is listed of which the key may
// be gone and the blob may be there.
const marked = "destroying-"

// keyRecord is what is kept under a name in Keys; a mark has no key.
type keyRecord struct {
	Made time.Time `json:"made_at"`
	Key  []byte    `json:"wrapped_key,omitempty"`
}

var errKeysElsewhere = errors.New("credentials.keys has no keys of this store: give the ones that every instance of it uses, or restore them")

func (s *shared) put(ctx context.Context, name string, r keyRecord) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.keys.Put(ctx, name, text)
}

func (s *shared) get(ctx context.Context, name string) (keyRecord, error) {
	text, err := s.keys.Get(ctx, name)
	if err != nil {
		return keyRecord{}, err
	}
	var r keyRecord
	if json.Unmarshal(text, &r) != nil {
		return keyRecord{}, errDamaged // what was wrong with it might tell of it
	}
	return r, nil
}

// keep implements keeper.
func (s *shared) keep(ctx context.Context, id domain.CredentialID, r record) error {
	err := s.put(ctx, string(id), keyRecord{Made: r.made.UTC(), Key: r.key})
	if err != nil && (id != checkID || !errors.Is(err, fs.ErrExist)) {
		return fmt.Errorf("its key: %w", err)
	}
	// Whose check's key is kept does not matter, and its blob may be missing.
	return s.blobs.PutBlob(ctx, id, r.sealed)
}

// read implements keeper.
func (s *shared) read(ctx context.Context, id domain.CredentialID) (record, error) {
	key, err := s.get(ctx, string(id))
	if errors.Is(err, fs.ErrNotExist) && id == checkID {
		err = s.elsewhere(ctx, err)
	}
	if err != nil {
		return record{}, fmt.Errorf("its key: %w", err)
	}
	sealed, err := s.blobs.Blob(ctx, id)
	if err != nil {
		return record{}, err
	}
	return record{key: key.Key, sealed: sealed, made: key.Made}, nil
}

// elsewhere tells a store without a check from keys that are not those of the
// blobs. The check's key is kept before its blob.
func (s *shared) elsewhere(ctx context.Context, missing error) error {
	switch _, err := s.blobs.Blob(ctx, checkID); {
	case errors.Is(err, fs.ErrNotExist):
		return missing
	case err != nil:
		return err
	}
	_, err := s.get(ctx, checkID)
	if errors.Is(err, fs.ErrNotExist) {
		return errKeysElsewhere
	}
	return missing // it was made just now
}

// destroy implements keeper.
func (s *shared) destroy(ctx context.Context, id domain.CredentialID) error {
	key, err := s.get(ctx, string(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !errors.Is(err, errDamaged):
		return fmt.Errorf("its key: %w", err)
	default:
		if err := s.put(ctx, marked+string(id), keyRecord{Made: key.Made}); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("mark it: %w", err)
		}
		if err := s.keys.Delete(ctx, string(id)); err != nil {
			return fmt.Errorf("its key: %w", err)
		}
	}
	if err := s.blobs.DeleteBlob(ctx, id); err != nil {
		return err
	}
	if err := s.keys.Delete(ctx, marked+string(id)); err != nil {
		return fmt.Errorf("unmark it: %w", err)
	}
	return nil
}

// list implements keeper. What is damaged is listed as old as this instance
// knows it.
func (s *shared) list(ctx context.Context) (map[domain.CredentialID]time.Time, error) {
	names, err := s.keys.List(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	known := s.made
	s.mu.Unlock()
	var mu sync.Mutex
	made := make(map[string]time.Time, len(names))
	looking, ctx := errgroup.WithContext(ctx)
	looking.SetLimit(8)
	for _, name := range names {
		looking.Go(func() error {
			since, ok := known[name]
			if !ok {
				r, err := s.get(ctx, name)
				switch since = r.Made; {
				case errors.Is(err, fs.ErrNotExist):
					return nil // it was destroyed meanwhile
				case errors.Is(err, errDamaged):
					since = s.now()
				case err != nil:
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			made[name] = since
			return nil
		})
	}
	if err := looking.Wait(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.made = made
	s.mu.Unlock()
	all := make(map[domain.CredentialID]time.Time, len(made))
	for name, since := range made {
		all[domain.CredentialID(strings.TrimPrefix(name, marked))] = since
	}
	return all, nil
}

// close implements keeper. The blobs are not its own.
func (s *shared) close() error { return nil }
