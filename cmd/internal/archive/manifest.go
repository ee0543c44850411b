package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/cmd/internal/store"
)

// What a manifest is of.
const (
	ofLog         = "log"
	ofCredentials = "credentials"
)

// fileOf is what is copied, by what that is.
var fileOf = map[string]string{ofLog: sqlite.File, ofCredentials: credentials.File}

// manifest says what a copy is, so that it shows when it was damaged.
type manifest struct {
	Of      string    `json:"of"`
	Made    time.Time `json:"made"` // when the backup began
	Version string    `json:"version"`
	Size    int64     `json:"size"` // bytes
	SHA256  string    `json:"sha256"`
	LogState
	Credentials int `json:"credentials"`
}

// readManifest reads what a backup says of itself.
func readManifest(dir string) (m manifest, err error) {
	text, err := os.ReadFile(filepath.Join(dir, store.ManifestFile))
	if err != nil {
		return m, fmt.Errorf("%s is no backup that commissaire made: %w", dir, err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("the backup in %s: %s: %w", dir, store.ManifestFile, err)
	}
	return m, nil
}

// readBackup reads the manifest of a backup. A file that is not as that says is
// refused.
func readBackup(ctx context.Context, dir, of string) (m manifest, err error) {
	if m, err = readManifest(dir); err != nil {
		return m, err
	}
	if m.Of != of {
		return m, fmt.Errorf("the backup in %s is of %q, and one of the %s is wanted", dir, m.Of, of)
	}
	size, sum, err := digest(ctx, filepath.Join(dir, fileOf[of]))
	if err != nil {
		return m, fmt.Errorf("the backup in %s: %w", dir, err)
	}
	if size != m.Size || sum != m.SHA256 {
		return m, fmt.Errorf("the backup in %s is damaged: %s has %d bytes with the SHA-256 %s, and had %d with %s; use another", dir, fileOf[of], size, sum, m.Size, m.SHA256)
	}
	return m, nil
}
