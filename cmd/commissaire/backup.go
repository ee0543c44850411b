package main

import (
	"github.com/spf13/cobra"

	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

func backupCommand() *cobra.Command {
	var b archive.Backup
	var s settings
	var o output
	var from string
	cmd := &cobra.Command{
		Use: "backup TARGET", Short: "Copy the log of a store, and its credentials, also while a service uses it", Args: cobra.ExactArgs(1),
		Long: `Copy the log of a store sqlite:DIR into a new directory, also while a service uses
it, which is kept waiting in nothing. The copy is the log at one position: all that a
client was answered before the backup began is in it.

With --credentials the credentials go into another new directory. They stay sealed, and
the master key is in neither: keep it elsewhere still. The two must lie apart, because a
log cannot forget and credentials must: who removes a host wants its key gone from the
backups in due time, and the history kept.

Both are verified when they are there: SQLite finds no damage, every event can be read,
revisions have no gap, and each credential opens with the master key, where one is
configured. The position, the number of events and the root of the Merkle tree over
them, which a signed checkpoint has too, are printed and kept beside the copy with its
SHA-256. events show, export and verify read a backup like a store.

Each directory is there whole or not at all. What hosts printed, the tree, the
configuration and the users are not in a backup. A log in EventStoreDB is backed up by
that, or by events export.`,
		Example: `  commissaire backup /backup/log/2026-11-28 --credentials /backup-keys/2026-11-28
  commissaire events verify --store sqlite:/backup/log/2026-11-28`,
	}
	s.configFlag(cmd)
	s.masterKey(cmd)
	o.flag(cmd, "text", "json")
	flags := cmd.Flags()
	flags.StringVar(&from, "store", "", "the store: sqlite:DIR (default the configured one)")
	flags.StringVar(&b.Credentials, "credentials", "", "new directory for the credentials, apart from TARGET (default they are not copied)")
	cmd.RunE = func(cmd *cobra.Command, arguments []string) error {
		if err := o.check(); err != nil {
			return err
		}
		c, err := s.load(cmd)
		if err != nil {
			return err
		}
		b.Store, b.MasterKey, b.Target = c.Location(), c.Credentials.MasterKey, arguments[0]
		if from != "" {
			b.Store = store.Location{Log: from}
		}
		b.Progress = terminal.NewProgress(cmd.ErrOrStderr())
		done, err := b.Run(cmd.Context())
		b.Progress.End()
		if err != nil {
			return failed(cmd.Context(), "backup", err, "; nothing was made")
		}
		return o.print(cmd.OutOrStdout(), done, done.Text("in "+b.Target, "in "+b.Credentials))
	}
	return cmd
}
