package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

func migrateCommand() *cobra.Command {
	var s settings
	var o output
	var from, to, fromKeys, toKeys string
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
	s.configFlag(cmd)
	s.masterKey(cmd)
	o.flag(cmd, "text", "json")
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "the store to copy: sqlite:DIR or esdb://… (default the configured one)")
	flags.StringVar(&to, "to", "", "the store to copy into: sqlite:DIR or esdb://… (default the configured one)")
	flags.StringVar(&fromKeys, "from-keys", "", "where the data keys of --from esdb://… are: file:DIR or exec:COMMAND")
	flags.StringVar(&toKeys, "to-keys", "", "where the data keys of --to esdb://… are to be: file:DIR or exec:COMMAND")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		c, err := s.load(cmd)
		if err != nil {
			return err
		}
		m, err := migrationBetween(c, store.Location{Log: from, Keys: fromKeys}, store.Location{Log: to, Keys: toKeys})
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		m.Logger, m.Progress = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), terminal.NewProgress(cmd.ErrOrStderr())
		done, err := m.Run(cmd.Context())
		m.Progress.End()
		if err != nil {
			return failed(cmd.Context(), "migrate", err, "; the copy is incomplete, and the same command goes on with it")
		}
		return o.print(cmd.OutOrStdout(), done, done.Text())
	}
	return cmd
}

// migrationBetween is the migration between two stores, of which one may be left out: it is
// the configured one then.
func migrationBetween(c config.Config, from, to store.Location) (archive.Migration, error) {
	m := archive.Migration{Source: c.LocationOf(from.Log, from.Keys), Target: c.LocationOf(to.Log, to.Keys), MasterKey: c.Credentials.MasterKey}
	switch {
	case from.Log == "" && to.Log == "":
		return m, errors.New("name the other store with --from or --to")
	case from.Log == "" && from.Keys != "" || to.Log == "" && to.Keys != "":
		return m, errors.New("--from-keys needs --from, and --to-keys --to: the configured store has credentials.keys")
	case from.Log == "":
		m.Source = c.Location()
	case to.Log == "":
		m.Target = c.Location()
	}
	return m, nil
}
