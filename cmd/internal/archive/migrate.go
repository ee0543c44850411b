package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

// Migration copies a store into another.
type Migration struct {
	Source, Target store.Location
	MasterKey      string // file:PATH, env:NAME or exec:COMMAND
	Logger         *slog.Logger
	Progress       *terminal.Progress
}

// Migrated is what a migration found and did.
type Migrated struct {
	Events            int `json:"events"`
	EventsCopied      int `json:"events_copied"`
	Credentials       int `json:"credentials"`
	CredentialsCopied int `json:"credentials_copied"`
}

// Text says it in a line.
func (m Migrated) Text() string {
	return fmt.Sprintf("%d events, %d of them copied now; %d credentials, %d of them copied now. The two stores are equal.\n",
		m.Events, m.EventsCopied, m.Credentials, m.CredentialsCopied)
}

// Run makes the target a copy, or goes on with one that was begun, and compares the two.
// A target that has other events is refused. Where it fails, the same migration may be
// run again.
func (m Migration) Run(ctx context.Context) (done Migrated, err error) {
	if err := m.check(); err != nil {
		return done, err
	}
	master, err := credentials.MasterKey(ctx, m.MasterKey)
	if err != nil {
		return done, err
	}
	var source, target store.Store
	defer func() { err = errors.Join(err, source.Close(), target.Close()) }()
	if err := m.openLogs(ctx, &source, &target); err != nil {
		return done, err
	}
	// Before anything is written there.
	if _, _, err := eventlog.Compare(ctx, source.Log, target.Log, m.Progress.Count("events looked at")); err != nil {
		return done, foreign(err)
	}
	if source.Secrets, err = m.Source.OpenSecrets(ctx, source.Log, master); err != nil {
		return done, fmt.Errorf("--from: %w", err)
	}
	if target.Secrets, err = m.Target.OpenSecrets(ctx, target.Log, master); err != nil {
		return done, fmt.Errorf("--to: %w", err)
	}
	err = m.copy(ctx, source, target, &done)
	return done, err
}

func (m Migration) openLogs(ctx context.Context, source, target *store.Store) (err error) {
	if source.Log, err = m.Source.OpenLog(ctx, m.Logger); err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	if target.Log, err = m.Target.OpenLog(ctx, m.Logger); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	for side, log := range map[string]eventlog.Store{"--from": source.Log, "--to": target.Log} {
		if err := store.Ping(ctx, log); err != nil {
			return fmt.Errorf("%s: %w", side, err)
		}
	}
	return nil
}

// copy copies credentials and events that the target does not have yet, and compares the
// two.
func (m Migration) copy(ctx context.Context, source, target store.Store, done *Migrated) (err error) {
	if done.Credentials, done.CredentialsCopied, err = credentials.Copy(ctx, source.Secrets, target.Secrets, m.Progress.Count("credentials copied")); err != nil {
		return err
	}
	if done.EventsCopied, err = eventlog.Copy(ctx, source.Log, target.Log, m.Progress.Count("events copied")); err != nil {
		return foreign(err)
	}
	var whole bool
	if done.Events, whole, err = eventlog.Compare(ctx, source.Log, target.Log, m.Progress.Count("events compared")); err != nil {
		return fmt.Errorf("the copy is not equal: %w", err)
	}
	if !whole {
		return fmt.Errorf("the source has more than the %d events that were copied: stop all instances that use it, and repeat this", done.Events)
	}
	return nil
}

// foreign says what to do about a target that is no copy.
func foreign(err error) error {
	if _, ok := errors.AsType[*eventlog.Difference](err); ok {
		return fmt.Errorf("the target has events that are not the source's: %w; give an empty store", err)
	}
	return err
}

// check refuses what cannot be migrated before anything is opened.
func (m Migration) check() error {
	if err := errors.Join(m.Source.Check("--from", "--from-keys"), m.Target.Check("--to", "--to-keys")); err != nil {
		return err
	}
	switch {
	case m.Source.Kind() == "memory" || m.Target.Kind() == "memory":
		return errors.New("what a store memory: has ends with the service, and nothing can be copied from or to it")
	case m.Source.Log == m.Target.Log || m.Source.Kind() == "sqlite" && m.Target.Kind() == "sqlite" && sameDir(m.Source.Dir(), m.Target.Dir()):
		return errors.New("--from and --to are the same store")
	case m.Source.Keys != "" && m.Source.Keys == m.Target.Keys:
		return errors.New("--from-keys and --to-keys are the same: each store has keys of its own")
	case m.MasterKey == "":
		return errors.New("no master key: set credentials.master-key to the one that the service has")
	}
	if m.Source.Kind() == "sqlite" { // opening it would make it
		for _, name := range []string{"events.db", "credentials.db"} {
			if _, err := os.Stat(filepath.Join(m.Source.Dir(), name)); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("--from: there is no store in %s: it has no %s", m.Source.Dir(), name)
			}
		}
	}
	return m.checkKeys()
}

// checkKeys refuses keys that lie with what they open.
func (m Migration) checkKeys() error {
	both := []store.Location{m.Source, m.Target}
	for _, side := range both {
		if err := side.RefuseInside("master key", m.MasterKey); err != nil {
			return err
		}
		for _, other := range both {
			if other.Kind() != "sqlite" {
				continue
			}
			if err := store.RefuseInside("keys", side.Keys, "the directory of the store", other.Dir()); err != nil {
				return err
			}
		}
	}
	return nil
}

func sameDir(dir, other string) bool {
	a, err := os.Stat(dir)
	if err != nil {
		return false
	}
	b, err := os.Stat(other)
	return err == nil && os.SameFile(a, b)
}
