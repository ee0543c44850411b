// Package users edits the file of the plugin httpbasicauth. A service that uses the
// file sees every change at once.
package users

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/crypto/bcrypt"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/files"
)

// Users are users by name.
type Users map[string]authentication.User

// File is the path of a users file.
type File string

// New makes a user of a role with a new password, and returns both.
func New(role authentication.Role) (user authentication.User, password string, err error) {
	secret := make([]byte, 18)
	_, _ = rand.Read(secret) // never fails
	password = base64.RawURLEncoding.EncodeToString(secret)
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	return authentication.User{Hash: string(hash), Roles: []authentication.Role{role}}, password, err
}

// Hash is the bcrypt hash of a password, which must have from 8 to 72 bytes.
func Hash(password []byte) (string, error) {
	if len(password) < 8 || len(password) > 72 {
		return "", errors.New("the password must have from 8 to 72 bytes")
	}
	hash, err := bcrypt.GenerateFromPassword(password, bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return string(hash), nil
}

// Read gives the users; none where there is no file.
func (f File) Read() (Users, error) {
	all := Users{}
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read users from %s: %w", f, err)
	}
	return all, nil
}

// Edit changes the users, one caller after the other where several do so. The file
// keeps its owner and mode, except that users outside its group may not read it; a new
// one is for its owner alone. Where change fails, nothing changes.
func (f File) Edit(ctx context.Context, change func(Users) error) (err error) {
	path := string(f)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("lock %s: %w", f, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	all, err := f.Read()
	if err != nil {
		return err
	}
	if err := change(all); err != nil {
		return err
	}
	if err := write(path, all); err != nil {
		return fmt.Errorf("write %s: %w", f, err)
	}
	return nil
}

func write(path string, all Users) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	before, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return files.Replace(path, string(text)+"\n", before)
}
