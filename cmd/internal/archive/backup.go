// Package archive copies what a store has: into backups and back, into another store,
// into files and back. It also selects events, and reads what verifies them.
//
// A backup is there whole or not at all, and is verified before it gets its name. All of
// this is done without a service, though one may use the store that is copied.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
	"commissaire/domain"
)

// Backup copies a store sqlite:DIR, also while a service uses it.
type Backup struct {
	Store       store.Location
	Target      string // new directory for the log
	Credentials string // new directory for the credentials; "": they are not copied
	MasterKey   string // file:PATH, env:NAME or exec:COMMAND; "": credentials are not opened
	Progress    *terminal.Progress
}

// Run makes the backup. Refused are stores of another kind, targets that exist or lie in
// the store's directory or in one another, and a log that is damaged. The
// targets' names are absolute then. After an error no target is left.
func (b *Backup) Run(ctx context.Context) (done Copied, err error) {
	if err := b.check(); err != nil {
		return done, err
	}
	began := time.Now().UTC()
	log, err := begin(b.Target)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, log.discard()) }()
	before, sealed, err := b.copyLog(ctx, log)
	if err != nil {
		return done, err
	}
	state, named, err := examine(ctx, log.dir, b.Progress.Count("events verified"))
	if err != nil {
		return done, err
	}
	done = Copied{LogState: state, Missing: []domain.CredentialID{}}
	if b.Credentials != "" {
		// A credential is stored before the log names it, so one that is missing after the
		// log was copied was destroyed since: the log in hand still has its host.
		for _, id := range named {
			if !sealed.Has(id) && before.Has(id) {
				sealed[id] = before[id]
			}
		}
		done.Missing = missing(named, sealed.Has)
		if err := b.writeCredentials(ctx, sealed, began, &done); err != nil {
			return done, err
		}
	}
	if done.Size, err = log.finish(ctx, manifest{Of: ofLog, Made: began, LogState: state}); err != nil && b.Credentials != "" {
		err = errors.Join(err, os.RemoveAll(b.Credentials)) // it was made just now
	}
	return done, err
}

// check refuses what cannot be backed up, and makes the targets' names absolute.
func (b *Backup) check() error {
	switch {
	case b.Store.Shared():
		return errors.New("a log in EventStoreDB is backed up as the manual of that says, and after it the keys (see the README), or with commissaire events export")
	case b.Store.Kind() != "sqlite":
		return b.Store.Unusable()
	}
	if err := b.Store.Check("--store", "credentials.keys"); err != nil {
		return err
	}
	dir, err := filepath.Abs(b.Store.Dir())
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	targets := []*string{&b.Target}
	if b.Credentials != "" {
		targets = append(targets, &b.Credentials)
	}
	for _, target := range targets {
		if *target, err = newPlace(*target); err != nil {
			return err
		}
		if within(*target, dir) {
			return fmt.Errorf("%s lies in the store's directory %s: a backup goes elsewhere, best on another disk", *target, b.Store.Dir())
		}
	}
	if b.Credentials != "" && (within(b.Credentials, b.Target) || within(b.Target, b.Credentials)) {
		return errors.New("--credentials must lie apart from the log, each in a directory of its own: a log is kept for ever, " +
			"and a copy of it that has the keys beside it forgets none of a host that is removed")
	}
	return nil
}

// copyLog copies the log. It returns the credentials, where they are copied too, as they
// were before and after that.
func (b *Backup) copyLog(ctx context.Context, log *unfinished) (before, after credentials.Sealed, err error) {
	if b.Credentials != "" {
		if before, err = credentials.ReadSealed(ctx, b.Store.Dir()); err != nil {
			return nil, nil, err
		}
	}
	stop := log.watch(sqlite.File, b.Progress.Count("bytes copied"))
	err = sqlite.Backup(ctx, b.Store.Dir(), log.dir)
	stop()
	if err == nil && b.Credentials != "" {
		after, err = credentials.ReadSealed(ctx, b.Store.Dir())
	}
	return before, after, err
}

// writeCredentials makes the backup of credentials, and opens each where there is a
// master key.
func (b *Backup) writeCredentials(ctx context.Context, sealed credentials.Sealed, made time.Time, done *Copied) (err error) {
	var master []byte
	if b.MasterKey != "" {
		if master, err = credentials.MasterKey(ctx, b.MasterKey); err != nil {
			return err
		}
	}
	to, err := begin(b.Credentials)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.discard()) }()
	if err := sealed.Write(ctx, to.dir); err != nil {
		return err
	}
	n := sealed.Len()
	if master != nil {
		ids, err := openAll(ctx, to.dir, master, b.Progress.Count("credentials opened"))
		if err != nil {
			return err
		}
		if len(ids) != n {
			return fmt.Errorf("the copy has %d credentials of %d", len(ids), n)
		}
	}
	done.Credentials, done.Opened = &n, master != nil
	_, err = to.finish(ctx, manifest{Of: ofCredentials, Made: made, Credentials: n})
	return err
}

// newPlace is the full path, without links, of what does not exist yet in a
// directory that does.
func newPlace(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("%s cannot be made: %w", path, err)
	}
	path = filepath.Join(parent, filepath.Base(path))
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s is there already: a backup goes into a new directory", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return path, nil
}

// within tells whether a path is a directory or lies in it.
func within(path, dir string) bool {
	relative, err := filepath.Rel(dir, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}
