package main

import (
	"github.com/spf13/cobra"

	"commissaire/adapters/eventlog"
	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/terminal"
)

func importCommand() *cobra.Command {
	var to source
	var o output
	cmd := &cobra.Command{
		Use: "import FILE…", Short: "Record exported events in a store", Args: cobra.MinimumNArgs(1),
		Long: `Record events that were exported in a store, which must be empty, or have the first
of these events and no others. Several files are read one after the other, oldest
first; - is standard input. Stop all services that use the store first.

Order, ids, revisions, times, and every byte of data and metadata are kept;
positions are the store's own. A file that was cut off or damaged, and one that does
not have all events from the first on, is refused with the number of the line, before
anything is recorded; of standard input, what comes before that line is recorded.
Whatever ended it, the same command goes on where it stopped.

Credentials are not in what is exported: what a service needs to reach the hosts must
be there in the store's directory.`,
	}
	cmd.Flags().StringVar(&to.file, "config", "", "configuration file (default "+config.DefaultFile+")")
	to.storeFlag(cmd)
	o.flag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		if err := o.check(); err != nil {
			return err
		}
		location, err := to.location(cmd)
		if err != nil {
			return err
		}
		progress := terminal.NewProgress(cmd.ErrOrStderr())
		done, err := archive.Import(cmd.Context(), cmd.InOrStdin(), names, func() (eventlog.Store, error) {
			return location.OpenWriter(cmd.Context(), warnings(cmd))
		}, progress.Count("events"))
		progress.End()
		if err != nil {
			return failed(cmd.Context(), "import", err, "; the same command goes on with it")
		}
		return o.print(cmd.OutOrStdout(), done, done.Text())
	}
	return cmd
}
