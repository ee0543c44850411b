package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/version"
)

// unfinished is a directory that is being made, under another name beside its own.
type unfinished struct {
	dir    string // "": it is finished
	target string
}

func begin(target string) (*unfinished, error) {
	dir, err := os.MkdirTemp(filepath.Dir(target), "."+filepath.Base(target)+".unfinished-") // 0700
	if err != nil {
		return nil, err
	}
	return &unfinished{dir, target}, nil
}

// watch shows how large a file is that grows there, until it is stopped.
func (u *unfinished) watch(name string, count func(int)) (stop func()) {
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ending:
				return
			}
			if info, err := os.Stat(filepath.Join(u.dir, name)); err == nil {
				count(int(info.Size()))
			}
		}
	}()
	return func() { close(ending); <-ended }
}

// finish adds what the manifest is to say, and gives the directory its name. What
// is in it is durable already.
func (u *unfinished) finish(ctx context.Context, m manifest) (size int64, err error) {
	m.Version = version.Version
	if m.Size, m.SHA256, err = digest(ctx, filepath.Join(u.dir, fileOf[m.Of])); err != nil {
		return 0, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return 0, err
	}
	path := filepath.Join(u.dir, store.ManifestFile)
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return 0, err
	}
	if err := errors.Join(syncPath(path), syncPath(u.dir), ctx.Err()); err != nil {
		return 0, err
	}
	if _, err := os.Lstat(u.target); err == nil { // an empty directory would be replaced
		return 0, fmt.Errorf("%s was made meanwhile", u.target)
	}
	if err := os.Rename(u.dir, u.target); err != nil {
		return 0, err
	}
	u.dir = ""
	return m.Size, syncPath(filepath.Dir(u.target))
}

// discard removes what is not finished.
func (u *unfinished) discard() error {
	if u.dir == "" {
		return nil
	}
	return os.RemoveAll(u.dir)
}
