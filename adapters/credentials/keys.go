package credentials

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Keys keeps data keys, each sealed with the master key, where all instances
// find them and what is deleted is gone. All methods may be called at once.
type Keys interface {
	// Get fails with fs.ErrNotExist, wrapped, where there is none of the name.
	Get(ctx context.Context, name string) ([]byte, error)
	// Put keeps a key under a new name, durably; fs.ErrExist, wrapped, where there
	// is one.
	Put(ctx context.Context, name string, key []byte) error
	// Delete may be repeated.
	Delete(ctx context.Context, name string) error
	// List names all that there are.
	List(ctx context.Context) ([]string, error)
}

// OpenKeys opens the keys that spec names: file:DIR (a directory for its owner
// alone, made where there is none, on a file system that all instances share) or
// exec:COMMAND (see the README of adapters/eventlog/eventstoredb).
func OpenKeys(spec string) (Keys, error) {
	kind, where, _ := strings.Cut(spec, ":")
	switch {
	case kind == "file" && where != "":
		return openKeyFiles(where)
	case kind == "exec" && where != "":
		return keyCommand(where), nil
	}
	return nil, errors.New("credentials.keys: name them as file:DIR or exec:COMMAND")
}

// keyFiles keeps keys in a directory, one file a key.
type keyFiles string

const (
	keyFile = ".key" // how the name of a key's file ends
	newFile = ".new" // how the name of one ends that is being written, after a random part
	// abandoned is when one that is being written is so no more.
	abandoned = time.Hour
)

// nameable is what may name a key: nothing that leads elsewhere or hides.
var nameable = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,199}$`)

func checkName(name string) error {
	if !nameable.MatchString(name) {
		return fmt.Errorf("%q cannot name a key", name)
	}
	return nil
}

func openKeyFiles(dir string) (keyFiles, error) {
	fail := func(err error) (keyFiles, error) { return "", fmt.Errorf("credentials.keys: %w", err) }
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail(err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fail(err)
	case !info.IsDir():
		return fail(fmt.Errorf("%s is no directory", dir))
	case info.Mode().Perm()&0o077 != 0:
		return fail(fmt.Errorf("%s has mode %04o, so that others than its owner may use it: chmod 700 %s", dir, info.Mode().Perm(), dir))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fail(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), newFile) || !strings.Contains(entry.Name(), keyFile+".") {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fail(err)
			}
		}
	}
	return keyFiles(dir), nil
}

func (d keyFiles) path(name string) string { return filepath.Join(string(d), name+keyFile) }

// Get implements Keys.
func (d keyFiles) Get(ctx context.Context, name string) ([]byte, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return nil, err
	}
	file, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(file, maxKey))
}

// Put implements Keys. The file is there whole or not at all.
func (d keyFiles) Put(ctx context.Context, name string, key []byte) (err error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	file, err := os.CreateTemp(string(d), name+keyFile+".*"+newFile) // 0600
	if err != nil {
		return err
	}
	_, err = file.Write(key)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Link(file.Name(), d.path(name)) // unlike a renaming it replaces nothing
	}
	return errors.Join(err, os.Remove(file.Name()), d.sync())
}

// Delete implements Keys. What was in the file is overwritten.
func (d keyFiles) Delete(ctx context.Context, name string) error {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return err
	}
	// A process that was killed may have left the name that it wrote the file under.
	paths, err := filepath.Glob(filepath.Join(globbed(string(d)), name+keyFile+".*"+newFile))
	if err != nil {
		return err
	}
	for _, path := range append(paths, d.path(name)) {
		if err := wipeFile(path); err != nil {
			return err
		}
	}
	return d.sync()
}

// globbed is a path as a pattern that only it matches.
func globbed(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// wipeFile overwrites and removes a file, if it is there.
func wipeFile(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil {
		_, err = file.Write(make([]byte, info.Size()))
	}
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // another instance was faster
}

// sync makes durable what names the directory has.
func (d keyFiles) sync() error {
	dir, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// List implements Keys.
func (d keyFiles) List(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), keyFile); ok && nameable.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}
