// Package vault keeps credentials in memory, for tests.
package vault

import (
	"context"
	"sync"
	"time"

	"commissaire/commands"
	"commissaire/domain"
)

// Vault keeps secrets as they are; its zero value has none. Its methods may be called
// at once.
type Vault struct {
	mu      sync.Mutex
	secrets map[domain.CredentialID]commands.Secret
}

var _ commands.Credentials = (*Vault)(nil)

// Of is a Vault with one secret.
func Of(id domain.CredentialID, secret commands.Secret) *Vault {
	return &Vault{secrets: map[domain.CredentialID]commands.Secret{id: secret}}
}

// Store implements commands.Credentials.
func (v *Vault) Store(_ context.Context, id domain.CredentialID, secret commands.Secret) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.secrets == nil {
		v.secrets = map[domain.CredentialID]commands.Secret{}
	}
	v.secrets[id] = secret
	return nil
}

// Read implements commands.Credentials.
func (v *Vault) Read(_ context.Context, id domain.CredentialID) (commands.Secret, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if secret, ok := v.secrets[id]; ok {
		return secret, nil
	}
	return nil, commands.ErrNoCredential
}

// Destroy implements commands.Credentials.
func (v *Vault) Destroy(_ context.Context, id domain.CredentialID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.secrets, id)
	return nil
}

// List names none: since when a secret is kept is not known here.
func (v *Vault) List(context.Context) (map[domain.CredentialID]time.Time, error) { return nil, nil }
