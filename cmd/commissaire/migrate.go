package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

func migrateCommand() *cobra.Command {
	var file, from, to, fromKeys, toKeys, format string
	cmd := &cobra.Command{
		Use: "migrate", Short: "Copy a store into another", Args: cobra.NoArgs,
		Long: `Copy all events and credentials of a store into another: sqlite:DIR or esdb://…
to sqlite:DIR or esdb://….

Stop the service first: a SQLite store is locked meanwhile, and the copy of a
store in EventStoreDB is not complete if instances go on writing to it.

Events keep their order, ids, times, revisions and every byte; positions are the
target's own. Credentials are read with the master key and sealed anew with the
same one; they are shown nowhere. At the end both stores are compared, event by
event and secret by secret. The source is not changed.

A target that has other events is refused. When it was interrupted (Ctrl-C, or
killed), the same command goes on where it stopped; until it ends with exit status
0 the copy is incomplete, and no service may run on it.

Of --from and --to one may be left out: it is the configured store, with the
configured credentials.keys. So a password need not be an argument: give the store
with it in the configuration, or as COMMISSAIRE_STORE.`,
		Example: `  commissaire migrate --from sqlite:/var/lib/commissaire \
    --to 'esdb://db1:2113,db2:2113,db3:2113' --to-keys file:/srv/commissaire-keys`,
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "configuration file; - is standard input (default "+config.DefaultFile+")")
	flags.StringVar(&from, "from", "", "the store to copy: sqlite:DIR or esdb://… (default the configured one)")
	flags.StringVar(&to, "to", "", "the store to copy into: sqlite:DIR or esdb://… (default the configured one)")
	flags.StringVar(&fromKeys, "from-keys", "", "where the data keys of --from esdb://… are: file:DIR or exec:COMMAND")
	flags.StringVar(&toKeys, "to-keys", "", "where the data keys of --to esdb://… are to be: file:DIR or exec:COMMAND")
	flags.String("credentials.master-key", "", "file:PATH, env:NAME or exec:COMMAND")
	flags.StringVarP(&format, "output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := map[string]any{}
		if flags.Changed("credentials.master-key") {
			given["credentials.master-key"], _ = flags.GetString("credentials.master-key")
		}
		conf, err := config.Load(file, cmd.InOrStdin(), config.Environment(), given, false)
		if err != nil {
			return err
		}
		if format != "text" && format != "json" {
			return fmt.Errorf("there is no output %q: use text or json", format)
		}
		m := migration{
			source: conf.LocationOf(from, fromKeys), target: conf.LocationOf(to, toKeys), masterKey: conf.Credentials.MasterKey,
			logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), progress: terminal.NewProgress(cmd.ErrOrStderr()),
		}
		switch {
		case from == "" && to == "":
			return errors.New("migrate: name the other store with --from or --to")
		case from == "" && fromKeys != "" || to == "" && toKeys != "":
			return errors.New("migrate: --from-keys needs --from, and --to-keys --to: the configured store has credentials.keys")
		case from == "":
			m.source = conf.Location()
		case to == "":
			m.target = conf.Location()
		}
		done, err := m.run(cmd.Context())
		m.progress.End()
		switch {
		case err != nil && cmd.Context().Err() != nil:
			return errors.New("migrate: interrupted; the copy is incomplete, and the same command goes on with it")
		case err != nil:
			return fmt.Errorf("migrate: %w", err)
		}
		return done.print(cmd.OutOrStdout(), format)
	}
	return cmd
}

// migration copies a store into another.
type migration struct {
	source, target store.Location
	masterKey      string
	logger         *slog.Logger
	progress       *terminal.Progress
}

// migrated is what a migration found and did.
type migrated struct {
	Events            int `json:"events"`
	EventsCopied      int `json:"events_copied"`
	Credentials       int `json:"credentials"`
	CredentialsCopied int `json:"credentials_copied"`
}

func (m migrated) print(out io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(m)
	}
	_, err := fmt.Fprintf(out, "%d events, %d of them copied now; %d credentials, %d of them copied now. The two stores are equal.\n",
		m.Events, m.EventsCopied, m.Credentials, m.CredentialsCopied)
	return err
}

// check refuses what cannot be migrated before anything is opened.
func (m migration) check() error {
	if err := errors.Join(m.source.Check("--from", "--from-keys"), m.target.Check("--to", "--to-keys")); err != nil {
		return err
	}
	if m.source.Kind() == "memory" || m.target.Kind() == "memory" {
		return errors.New("what a store memory: has ends with the service, and nothing can be copied from or to it")
	}
	if m.source.Log == m.target.Log || m.source.Kind() == "sqlite" && m.target.Kind() == "sqlite" && sameDir(m.source.Dir(), m.target.Dir()) {
		return errors.New("--from and --to are the same store")
	}
	if m.source.Keys != "" && m.source.Keys == m.target.Keys {
		return errors.New("--from-keys and --to-keys are the same: each store has keys of its own")
	}
	if m.masterKey == "" {
		return errors.New("no master key: set credentials.master-key to the one that the service has")
	}
	if m.source.Kind() == "sqlite" { // opening it would make it
		for _, name := range []string{"events.db", "credentials.db"} {
			if _, err := os.Stat(filepath.Join(m.source.Dir(), name)); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("--from: there is no store in %s: it has no %s", m.source.Dir(), name)
			}
		}
	}
	for _, side := range []store.Location{m.source, m.target} {
		if err := side.RefuseInside("master key", m.masterKey); err != nil {
			return err
		}
		for _, other := range []store.Location{m.source, m.target} {
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

func sameDir(one, other string) bool {
	a, err := os.Stat(one)
	if err != nil {
		return false
	}
	b, err := os.Stat(other)
	return err == nil && os.SameFile(a, b)
}

func (m migration) run(ctx context.Context) (done migrated, err error) {
	if err := m.check(); err != nil {
		return done, err
	}
	master, err := credentials.MasterKey(ctx, m.masterKey)
	if err != nil {
		return done, err
	}
	var source, target store.Store
	defer func() { err = errors.Join(err, source.Close(), target.Close()) }()
	if source.Log, err = m.source.OpenLog(ctx, m.logger); err != nil {
		return done, fmt.Errorf("--from: %w", err)
	}
	if target.Log, err = m.target.OpenLog(ctx, m.logger); err != nil {
		return done, fmt.Errorf("--to: %w", err)
	}
	for side, log := range map[string]eventlog.Store{"--from": source.Log, "--to": target.Log} {
		if err := store.Ping(ctx, log); err != nil {
			return done, fmt.Errorf("%s: %w", side, err)
		}
	}
	// Before anything is written there.
	if _, _, err := eventlog.Compare(ctx, source.Log, target.Log, m.progress.Count("events looked at")); err != nil {
		return done, m.foreign(err)
	}
	if source.Secrets, err = m.source.OpenSecrets(ctx, source.Log, master); err != nil {
		return done, fmt.Errorf("--from: %w", err)
	}
	if target.Secrets, err = m.target.OpenSecrets(ctx, target.Log, master); err != nil {
		return done, fmt.Errorf("--to: %w", err)
	}
	if done.Credentials, done.CredentialsCopied, err = credentials.Copy(ctx, source.Secrets, target.Secrets, m.progress.Count("credentials copied")); err != nil {
		return done, err
	}
	if done.EventsCopied, err = eventlog.Copy(ctx, source.Log, target.Log, m.progress.Count("events copied")); err != nil {
		return done, m.foreign(err)
	}
	var whole bool
	if done.Events, whole, err = eventlog.Compare(ctx, source.Log, target.Log, m.progress.Count("events compared")); err != nil {
		return done, fmt.Errorf("the copy is not equal: %w", err)
	}
	if !whole {
		return done, fmt.Errorf("the source has more than the %d events that were copied: stop all instances that use it, and repeat this", done.Events)
	}
	return done, nil
}

// foreign says what to do about a target that is no copy.
func (m migration) foreign(err error) error {
	if _, ok := errors.AsType[*eventlog.Difference](err); ok {
		return fmt.Errorf("the target has events that are not the source's: %w; give an empty store", err)
	}
	return err
}
