package service

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/files"
	"commissaire/cmd/internal/users"
)

// makeMasterKey makes the development master key where there is none.
func makeMasterKey() error {
	if err := os.MkdirAll(config.DevDir, 0o700); err != nil {
		return fmt.Errorf("make the master key: %w", err)
	}
	if _, err := os.Lstat(config.DevMasterKey); err == nil {
		return nil
	}
	if err := files.WritePrivate(config.DevMasterKey, newMasterKey()+"\n"); err != nil {
		return fmt.Errorf("make the master key: %w", err)
	}
	return nil
}

// makeUser makes the user admin with a new password and writes how to use it to
// var/commctl.json and var/curlrc. It returns the password.
func makeUser(endpoint string) (config.Plugin, string, error) {
	user, password, err := users.New(authentication.Admin)
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

// newMasterKey makes a master key, as text.
func newMasterKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}
