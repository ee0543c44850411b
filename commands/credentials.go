package commands

import (
	"context"
	"errors"
	"time"

	"commissaire/domain"
)

// Secret is what must never be seen: it prints as "[secret]" wherever it goes.
type Secret []byte

// String hides the secret.
func (Secret) String() string { return "[secret]" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "[secret]" }

// MarshalText hides the secret from JSON and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// ErrNoCredential says that there is no credential of that id (any more).
var ErrNoCredential = errors.New("no such credential")

// ErrDamagedCredential says that what is kept of a credential does not open; it
// tells nothing of it. It will not open later either.
var ErrDamagedCredential = errors.New("what is kept was damaged, or sealed with another key")

// Credentials keeps secrets, sealed, apart from the log.
type Credentials interface {
	// Store seals and keeps a secret under a new id, durably.
	Store(ctx context.Context, id domain.CredentialID, secret Secret) error
	// Read fails with ErrNoCredential where there is none, and with
	// ErrDamagedCredential where it cannot be opened.
	Read(ctx context.Context, id domain.CredentialID) (Secret, error)
	// Destroy makes the secret unreadable for ever. Repeating it succeeds.
	Destroy(ctx context.Context, id domain.CredentialID) error
	// List names all that is kept, and since when.
	List(ctx context.Context) (map[domain.CredentialID]time.Time, error)
}
