package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"

	"commissaire/domain"
)

// Backup copies the log in a directory into another, which exists and has none,
// also while a service has it: it takes no lock and keeps nobody waiting. The copy
// is the log at one position; whatever was recorded when Backup was called is in
// it, durably when it returns. What it left when it failed is of no use.
func Backup(ctx context.Context, dir, target string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy the event log in %s: %w", dir, err)
		}
	}()
	path, err := filepath.Abs(filepath.Join(target, File))
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // SQLite would let others read it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	source, err := openReader(ctx, dir, "mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	_, err = source.db.ExecContext(ctx, "VACUUM INTO ?", path)
	if err := errors.Join(err, source.Close()); err != nil {
		return err
	}
	if err := execute(ctx, path, "SELECT 1"); err != nil { // makes it one with a write-ahead log, as every log is
		return err
	}
	return errors.Join(file.Sync(), syncDir(target))
}

// OpenBackup opens a copy that nobody writes. It makes no file beside it, so the
// copy may lie where nothing can be written. A log that was not closed is refused.
func OpenBackup(ctx context.Context, dir string) (*Reader, error) {
	path := filepath.Join(dir, File+"-wal")
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		return nil, fmt.Errorf("read the event log in %s: there is %s, so it is in use, or whoever used it was killed: it is no copy", dir, filepath.Base(path))
	}
	return openReader(ctx, dir, "mode=ro&immutable=1")
}

// Check fails where SQLite finds the file damaged.
func (r *Reader) Check(ctx context.Context) error {
	var answer string
	if err := r.db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&answer); err != nil {
		return fmt.Errorf("check the file of the event log: %w", err)
	}
	if answer != "ok" {
		return fmt.Errorf("the file of the event log is damaged: %s", answer)
	}
	return nil
}

// BeginAfter makes every term that begins in the log of a directory later than
// this one. Nobody may be using it.
func BeginAfter(ctx context.Context, dir string, term domain.Term) error {
	if err := execute(ctx, filepath.Join(dir, File), "INSERT OR IGNORE INTO terms (term) VALUES (?)", int64(term)); err != nil {
		return fmt.Errorf("raise the term of the event log in %s: %w", dir, err)
	}
	return nil
}

// execute executes one statement and leaves nothing in a write-ahead log.
func execute(ctx context.Context, path, statement string, arguments ...any) error {
	db, err := connect(path, "")
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement, arguments...)
	return errors.Join(err, db.Close())
}

// Restore makes a directory the store of the files that fill puts into another,
// which is empty and on the same file system: a log, and what belongs to it. The
// directory must be empty, or none yet. No store can be opened there meanwhile,
// and where Restore fails, nothing but a lock file is left there.
func Restore(dir string, fill func(dir string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore into %s: %w", dir, err)
		}
	}()
	if err := requireVacant(dir); err != nil {
		return err
	}
	_, err = os.Stat(dir)
	made := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o600))
	taken, err := lock.TryLock()
	if err != nil {
		return err
	}
	if !taken {
		return errInUse
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := requireVacant(dir); err != nil { // a service may have been faster
		return err
	}
	filling, err := os.MkdirTemp(dir, restoring)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, os.RemoveAll(filling))
		if made {
			err = errors.Join(err, os.Remove(lock.Path()), os.Remove(dir))
		}
	}()
	if err := fill(filling); err != nil {
		return err
	}
	return moveAll(filling, dir)
}

// moveAll moves all that a directory has into another, durably, and removes it. Where
// it fails, nothing that it moved is left there.
func moveAll(from, dir string) (err error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { // the log comes last: with it there is a store
		return cmp.Compare(strings.Count(a.Name(), File), strings.Count(b.Name(), File))
	})
	for _, entry := range entries {
		to := filepath.Join(dir, entry.Name())
		if err := os.Rename(filepath.Join(from, entry.Name()), to); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = os.Remove(to) // the first error says more
			}
		}()
	}
	return errors.Join(os.Remove(from), syncDir(dir), syncDir(filepath.Dir(dir)))
}

// requireVacant refuses a directory that has anything but a lock in it.
func requireVacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case name == lockFile:
		case strings.HasPrefix(name, restoring):
			return unrestoredError(name)
		default:
			return fmt.Errorf("it has %s: give a directory that is empty, or none yet", name)
		}
	}
	return nil
}

// restoring begins the name of a directory that a restore fills.
const restoring = "restoring-"

// unrestoredError says that a directory has what a restore left.
func unrestoredError(name string) error {
	return fmt.Errorf("it has %s, which a restore left that is under way or was killed: if none is, remove the directory", name)
}

// refuseUnrestored refuses a directory that has no log and what a restore left that was
// killed: a log that is begun there would know of nothing that was restored.
func refuseUnrestored(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, File)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), restoring) {
			return unrestoredError(entry.Name())
		}
	}
	return nil
}

// syncDir makes durable what names a directory has.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
