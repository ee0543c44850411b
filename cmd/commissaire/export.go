package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/terminal"
)

func exportCommand() *cobra.Command {
	var from source
	var what archive.Selection
	var how string
	cmd := &cobra.Command{
		Use: "export [FILE]", Short: "Write events to a file, or standard output", Args: cobra.MaximumNArgs(1),
		Long: `Write events to a new file, or to standard output: NDJSON, a CloudEvents 1.0 event
in structured JSON a line, compressed if the name ends in .gz or .zst. Data and
metadata are in it byte for byte. Credentials are not part of the log, and not in it.

Only a whole log can be imported and verified. What was recorded since an earlier
export goes into a file of its own, with --after and the last position of that one,
which is printed; import and verify take all files, oldest first. Interrupted, the
file is whole up to the position that is printed.`,
		Example: `  commissaire events export events.ndjson.zst
  commissaire events export --after 4711 more.ndjson.zst
  commissaire events export --host 10.0.0.7 | jq .data`,
	}
	from.flags(cmd)
	selectionFlags(cmd, &what)
	cmd.Flags().StringVar(&how, "compress", "", "gzip or zstd, whatever the name is")
	cmd.RunE = func(cmd *cobra.Command, arguments []string) (err error) {
		name := "-"
		if len(arguments) > 0 {
			name = arguments[0]
		}
		if how == "" {
			how = string(cloudevents.CompressionOf(name))
		}
		log, err := from.open(cmd)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		progress := terminal.NewProgress(cmd.ErrOrStderr())
		n, last, err := archive.Export{
			Selection: what, File: name, Out: cmd.OutOrStdout(), Compression: cloudevents.Compression(how), Count: progress.Count("events"),
		}.Run(cmd.Context(), log)
		progress.End()
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d events, the last at position %d\n", n, last)
		if cmd.Context().Err() != nil && !what.Follow {
			return fmt.Errorf("export: interrupted; what is missing goes into another file with --after %d", last)
		}
		return nil
	}
	return cmd
}
