package main

import (
	"github.com/spf13/cobra"

	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

func restoreCommand() *cobra.Command {
	var r archive.Restore
	var s settings
	var o output
	var to string
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
	s.configFlag(cmd)
	s.masterKey(cmd)
	o.flag(cmd, "text", "json")
	flags := cmd.Flags()
	flags.StringVar(&to, "store", "", "the store to make: sqlite:DIR (default the configured one)")
	flags.StringVar(&r.Credentials, "credentials", "", "the backup of the credentials (default there are none then)")
	cmd.RunE = func(cmd *cobra.Command, arguments []string) error {
		if err := o.check(); err != nil {
			return err
		}
		c, err := s.load(cmd)
		if err != nil {
			return err
		}
		r.Store, r.MasterKey, r.Backup = c.Location(), c.Credentials.MasterKey, arguments[0]
		if to != "" {
			r.Store = store.Location{Log: to}
		}
		r.Progress = terminal.NewProgress(cmd.ErrOrStderr())
		done, err := r.Run(cmd.Context())
		r.Progress.End()
		if err != nil {
			return failed(cmd.Context(), "restore", err, "; no store was made")
		}
		return o.print(cmd.OutOrStdout(), done, done.Text("restored into "+r.Store.Dir(), "restored with them"))
	}
	return cmd
}
