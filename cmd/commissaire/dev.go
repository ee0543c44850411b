package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/bcrypt"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/files"
)

// makeMasterKey makes the development master key where there is none.
func makeMasterKey() error {
	if err := os.MkdirAll(config.DevDir, 0o700); err != nil {
		return fmt.Errorf("make the master key: %w", err)
	}
	if _, err := os.Lstat(config.DevMasterKey); err == nil {
		return nil
	}
	if err := files.WritePrivate(config.DevMasterKey, base64.StdEncoding.EncodeToString(random(32))+"\n"); err != nil {
		return fmt.Errorf("make the master key: %w", err)
	}
	return nil
}

// makeUser makes the user admin with a new password and writes how to use it to
// var/commctl.json and var/curlrc. It returns the password.
func makeUser(endpoint string) (config.Plugin, string, error) {
	user, password, err := newUser(authentication.Admin)
	if err != nil {
		return config.Plugin{}, "", fmt.Errorf("make the user admin: %w", err)
	}
	client, err := json.Marshal(map[string]string{"endpoint": endpoint, "username": "admin", "password": password})
	if err != nil {
		return config.Plugin{}, "", fmt.Errorf("make the user admin: %w", err)
	}
	for name, text := range map[string]string{
		"commctl.json": string(client) + "\n",
		"curlrc":       fmt.Sprintf("user = \"admin:%s\"\nsilent\nshow-error\n", password),
	} {
		if err := files.WritePrivate(filepath.Join(config.DevDir, name), text); err != nil {
			return config.Plugin{}, "", fmt.Errorf("make the user admin: %w", err)
		}
	}
	return config.Plugin{Name: "httpbasicauth", Users: map[string]authentication.User{"admin": user}}, password, nil
}

// newUser makes a user with a new password, and returns that too.
func newUser(role authentication.Role) (authentication.User, string, error) {
	password := base64.RawURLEncoding.EncodeToString(random(18))
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	return authentication.User{Hash: string(hash), Roles: []authentication.Role{role}}, password, err
}

func random(n int) []byte {
	bytes := make([]byte, n)
	_, _ = rand.Read(bytes) // never fails
	return bytes
}
