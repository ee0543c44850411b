// Package files replaces files whole or not at all: users, keys, what development makes.
package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WritePrivate replaces a file by one that only its owner may read.
func WritePrivate(path, text string) error { return Replace(path, text, nil) }

// Replace replaces a file whole or not at all, by one that only its owner may read or,
// unless like is nil, that has the owner and mode of like; users outside its group may
// not read it in any case.
func Replace(path, text string, like fs.FileInfo) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	_, err = file.WriteString(text)
	if like != nil {
		err = errors.Join(err, imitate(file, like))
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// imitate gives a file the owner and mode of another.
func imitate(file *os.File, like fs.FileInfo) (err error) {
	if owner, ok := like.Sys().(*syscall.Stat_t); ok && (int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid()) {
		err = file.Chown(int(owner.Uid), int(owner.Gid))
	}
	return errors.Join(err, file.Chmod(like.Mode()&0o640))
}
