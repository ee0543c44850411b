package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// RefuseInside refuses a secret that lies with what it opens: in the store's directory,
// or with the keys of a shared store. source is file:PATH, or not a file and not
// refused; what names the secret.
func (l Location) RefuseInside(what, source string) error {
	if dir, ok := strings.CutPrefix(l.Keys, "file:"); ok {
		return RefuseInside(what, source, "the directory of the keys that it opens,", dir)
	}
	if l.Kind() == "sqlite" {
		return RefuseInside(what, source, "the store's directory", l.Dir())
	}
	return nil
}

// RefuseInside refuses a secret of which the source is a file that lies in a
// directory, whatever links lead there. what and where name the secret and the
// directory. A directory that does not exist has nothing in it.
func RefuseInside(what, source, where, dir string) error {
	path, isFile := strings.CutPrefix(source, "file:")
	if !isFile {
		return nil
	}
	inside, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	named, real, err := resolve(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if isBelow(named, inside) || isBelow(real, inside) {
		return fmt.Errorf("%s: %s lies in %s %s; keep it elsewhere, so that a copy of that opens nothing", what, path, where, dir)
	}
	return nil
}

// resolve returns the full path of a file as it is named, and without links. A file
// that does not exist is one that will be made in its directory.
func resolve(path string) (named, real string, err error) {
	if named, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	real, err = filepath.EvalSymlinks(named)
	if errors.Is(err, fs.ErrNotExist) {
		real, err = filepath.EvalSymlinks(filepath.Dir(named))
		real = filepath.Join(real, filepath.Base(named))
	}
	return named, real, err
}

// isBelow tells whether one of the directories that a path leads through is dir.
func isBelow(path string, dir fs.FileInfo) bool {
	for path != filepath.Dir(path) {
		path = filepath.Dir(path)
		if above, err := os.Stat(path); err == nil && os.SameFile(above, dir) {
			return true
		}
	}
	return false
}
