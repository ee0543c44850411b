package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
	"commissaire/domain"
)

// Restore makes a store sqlite:DIR of backups.
type Restore struct {
	Backup      string         // directory of the log
	Credentials string         // directory of the credentials; "": there are none then
	Store       store.Location // empty, or none yet
	MasterKey   string         // file:PATH, env:NAME or exec:COMMAND; needed with credentials
	Progress    *terminal.Progress
}

// Run makes the store. A backup that is not as its manifest says is refused, and so is a
// store of another kind, or one that has something in it. After an error there is no
// store.
func (r Restore) Run(ctx context.Context) (done Copied, err error) {
	if r.Store.Shared() || r.Store.Kind() == "memory" {
		return done, fmt.Errorf("a backup becomes a store sqlite:DIR, and not one %s:; commissaire migrate makes one esdb://… of that", r.Store.Kind())
	}
	if err := r.Store.Check("--store", "credentials.keys"); err != nil {
		return done, err
	}
	log, err := readBackup(ctx, r.Backup, ofLog)
	if err != nil {
		return done, err
	}
	state, named, err := examine(ctx, r.Backup, r.Progress.Count("events of the backup verified"))
	if err != nil {
		return done, fmt.Errorf("the backup in %s: %w", r.Backup, err)
	}
	if state != log.LogState {
		return done, fmt.Errorf("the backup in %s has %v, and says that it has %v: it was changed", r.Backup, state, log.LogState)
	}
	done = Copied{LogState: state, Size: log.Size}
	var stored map[domain.CredentialID]time.Time
	if r.Credentials != "" {
		if stored, err = r.openCredentials(ctx); err != nil {
			return done, err
		}
		n := len(stored)
		done.Credentials, done.Opened = &n, true
	}
	done.Missing = missing(named, func(id domain.CredentialID) bool { _, ok := stored[id]; return ok })
	return done, sqlite.Restore(r.Store.Dir(), func(dir string) error { return r.fill(ctx, dir, state) })
}

// openCredentials opens what the backup has of credentials.
func (r Restore) openCredentials(ctx context.Context) (map[domain.CredentialID]time.Time, error) {
	if r.MasterKey == "" {
		return nil, errors.New("no master key: set credentials.master-key to the one of the service that the backup is of, so that the credentials can be verified")
	}
	master, err := credentials.MasterKey(ctx, r.MasterKey)
	if err != nil {
		return nil, err
	}
	of, err := readBackup(ctx, r.Credentials, ofCredentials)
	if err != nil {
		return nil, err
	}
	stored, err := openAll(ctx, r.Credentials, master, r.Progress.Count("credentials opened"))
	if err != nil {
		return nil, fmt.Errorf("the backup in %s: %w", r.Credentials, err)
	}
	if len(stored) != of.Credentials {
		return nil, fmt.Errorf("the backup in %s has %d credentials, and says that it has %d: it was changed", r.Credentials, len(stored), of.Credentials)
	}
	return stored, nil
}

// fill copies the backups and verifies what is there then.
func (r Restore) fill(ctx context.Context, dir string, want LogState) error {
	if err := copyFile(ctx, filepath.Join(r.Backup, sqlite.File), filepath.Join(dir, sqlite.File)); err != nil {
		return err
	}
	// Hosts refuse a term before the last that they saw, and that may have begun
	// after the backup. As terms count starts, none had one as late as this.
	if err := sqlite.BeginAfter(ctx, dir, domain.Term(time.Now().Unix())); err != nil {
		return err
	}
	if err := syncPath(filepath.Join(dir, sqlite.File)); err != nil {
		return err
	}
	state, _, err := examine(ctx, dir, r.Progress.Count("restored events verified"))
	if err != nil {
		return err
	}
	if state != want {
		return fmt.Errorf("what was restored has %v, and the backup %v", state, want)
	}
	if r.Credentials == "" {
		return nil
	}
	from, to := filepath.Join(r.Credentials, credentials.File), filepath.Join(dir, credentials.File)
	if err := copyFile(ctx, from, to); err != nil {
		return err
	}
	_, was, err := digest(ctx, from)
	if err != nil {
		return err
	}
	if _, is, err := digest(ctx, to); err != nil || is != was {
		return errors.Join(err, errors.New("the credentials that were restored are not those of the backup"))
	}
	return nil
}
