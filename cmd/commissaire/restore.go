package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
	"commissaire/domain"
)

func restoreCommand() *cobra.Command {
	var file, to, format string
	var r restoration
	cmd := &cobra.Command{
		Use: "restore BACKUP", Short: "Make a store of a backup", Args: cobra.ExactArgs(1),
		Long: `Make a store sqlite:DIR of a backup of a log, and with --credentials of one of
credentials. DIR must be empty, or none yet. The backup is verified before, and the
store after it: its events, their position and the root of the Merkle tree over them
must be those of the backup. It is there whole or not at all.

Each credential is opened with the master key, which must be that of the service the
backup is of. Those that the log names and that are not there are counted and named by
their ids; without --credentials those are all. A host that has none cannot be reached:
DELETE it, and PUT it again with its key.

A service that is started on the store acts on the hosts. Stop the one that the backup
is of first: the hosts refuse it once the restored one has done something there. What
was recorded after the backup is gone; hosts stay as they are, and are looked at anew.

For a store esdb://… restore into sqlite:DIR and go on with commissaire migrate.`,
		Example: `  commissaire restore /backup/log/2026-11-28 --credentials /backup-keys/2026-11-28 --store sqlite:/var/lib/commissaire`,
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "configuration file; - is standard input (default "+config.DefaultFile+")")
	flags.StringVar(&to, "store", "", "the store to make: sqlite:DIR (default the configured one)")
	flags.StringVar(&r.credentials, "credentials", "", "the backup of the credentials (default there are none then)")
	flags.String("credentials.master-key", "", "file:PATH, env:NAME or exec:COMMAND")
	flags.StringVarP(&format, "output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, arguments []string) error {
		conf, err := ofStore(cmd, file, format)
		if err != nil {
			return err
		}
		r.store, r.masterKey, r.backup = conf.Location(), conf.Credentials.MasterKey, arguments[0]
		if to != "" {
			r.store = store.Location{Log: to}
		}
		r.progress = terminal.NewProgress(cmd.ErrOrStderr())
		done, err := r.run(cmd.Context())
		r.progress.End()
		switch {
		case err != nil && cmd.Context().Err() != nil:
			return errors.New("restore: interrupted; no store was made")
		case err != nil:
			return fmt.Errorf("restore: %w", err)
		}
		return done.print(cmd.OutOrStdout(), format, "restored into "+r.store.Dir(), "restored with them")
	}
	return cmd
}

// restoration makes a store of backups.
type restoration struct {
	backup, credentials string // directories; "": there are no credentials
	store               store.Location
	masterKey           string
	progress            *terminal.Progress
}

func (r restoration) run(ctx context.Context) (done copied, err error) {
	if r.store.Shared() || r.store.Kind() == "memory" {
		return done, fmt.Errorf("a backup becomes a store sqlite:DIR, and not one %s:; commissaire migrate makes one esdb://… of that", r.store.Kind())
	}
	if err := r.store.Check("--store", "credentials.keys"); err != nil {
		return done, err
	}
	log, err := readBackup(ctx, r.backup, ofLog)
	if err != nil {
		return done, err
	}
	state, named, err := examine(ctx, r.backup, r.progress.Count("events of the backup verified"))
	if err != nil {
		return done, fmt.Errorf("the backup in %s: %w", r.backup, err)
	}
	if state != log.logState {
		return done, fmt.Errorf("the backup in %s has %v, and says that it has %v: it was changed", r.backup, state, log.logState)
	}
	done = copied{logState: state, Size: log.Size}
	var kept map[domain.CredentialID]time.Time
	if r.credentials != "" {
		if kept, err = r.opened(ctx); err != nil {
			return done, err
		}
		n := len(kept)
		done.Credentials, done.Opened = &n, true
	}
	done.Missing = missing(named, func(id domain.CredentialID) bool { _, ok := kept[id]; return ok })
	return done, sqlite.Restore(r.store.Dir(), func(dir string) error { return r.fill(ctx, dir, state) })
}

// opened opens what the backup has of credentials.
func (r restoration) opened(ctx context.Context) (map[domain.CredentialID]time.Time, error) {
	if r.masterKey == "" {
		return nil, errors.New("no master key: set credentials.master-key to the one of the service that the backup is of, so that the credentials can be verified")
	}
	master, err := credentials.MasterKey(ctx, r.masterKey)
	if err != nil {
		return nil, err
	}
	of, err := readBackup(ctx, r.credentials, ofCredentials)
	if err != nil {
		return nil, err
	}
	kept, err := opened(ctx, r.credentials, master, r.progress.Count("credentials opened"))
	if err != nil {
		return nil, fmt.Errorf("the backup in %s: %w", r.credentials, err)
	}
	if len(kept) != of.Credentials {
		return nil, fmt.Errorf("the backup in %s has %d credentials, and says that it has %d: it was changed", r.credentials, len(kept), of.Credentials)
	}
	return kept, nil
}

// fill copies the backups and verifies what is there then.
func (r restoration) fill(ctx context.Context, dir string, want logState) error {
	if err := copyFile(ctx, filepath.Join(r.backup, sqlite.File), filepath.Join(dir, sqlite.File)); err != nil {
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
	state, _, err := examine(ctx, dir, r.progress.Count("restored events verified"))
	if err != nil {
		return err
	}
	if state != want {
		return fmt.Errorf("what was restored has %v, and the backup %v", state, want)
	}
	if r.credentials == "" {
		return nil
	}
	from, to := filepath.Join(r.credentials, credentials.File), filepath.Join(dir, credentials.File)
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

// copyFile copies a file durably to where there is none, for its owner alone.
func copyFile(ctx context.Context, from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // it was only read
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, reading{ctx, source})
	return errors.Join(err, target.Sync(), target.Close())
}
