package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"commissaire/adapters/eventlog"
	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/audit"
	"commissaire/cmd/internal/terminal"
	"commissaire/domain/event"
)

func showCommand() *cobra.Command {
	var from source
	var what archive.Selection
	var o output
	cmd := &cobra.Command{
		Use: "show", Short: "Show recorded events, a line each", Args: cobra.NoArgs,
		Long: `Show recorded events, a line each, oldest first. With -o json each is an object as
GET …/history and GET /events have it. A time is RFC 3339.`,
		Example: `  commissaire events show --cluster web --after 2026-03-01T00:00:00Z
  commissaire events show --file events.ndjson.zst --type HostTurnFailed
  commissaire events show --follow -o json`,
	}
	from.flags(cmd)
	selectionFlags(cmd, &what)
	o.flag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err := o.check(); err != nil {
			return err
		}
		log, err := from.open(cmd)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
		write := writeRow
		if o.format == "json" {
			write = writeObject
		} else {
			_, _ = fmt.Fprintf(out, tableLine, "POSITION", "TIME", "ACTOR", "TYPE", "STREAM", "DATA") // Flush says whether it could be written
		}
		err = what.Each(cmd.Context(), log, func(events []eventlog.Raw) error {
			for _, raw := range events {
				if err := write(out, raw); err != nil {
					return err
				}
			}
			return out.Flush()
		})
		if what.Follow && cmd.Context().Err() != nil {
			return out.Flush() // that is how it ends
		}
		return errors.Join(err, out.Flush())
	}
	return cmd
}

// writeObject writes an event as the API shows it. Flush says whether it could be written.
func writeObject(out *bufio.Writer, raw eventlog.Raw) error {
	line, err := json.Marshal(audit.Line(eventlog.Entry{
		Recorded: event.Recorded{Position: raw.Position, Stream: raw.Stream, Revision: raw.Revision, ID: raw.ID, Meta: archive.Meta(raw)},
		Type:     raw.Type, Data: raw.Data,
	}))
	if err != nil {
		return fmt.Errorf("show position %d: %w", raw.Position, err)
	}
	_, _ = out.Write(append(line, '\n'))
	return nil
}

const tableLine = "%8s  %-23s  %-12s  %-20s  %-46s  %s\n"

// writeRow writes an event as a line of a table. Flush says whether it could be written.
func writeRow(out *bufio.Writer, raw eventlog.Raw) error {
	meta, why := archive.Meta(raw), ""
	if meta.Reason != "" {
		why = " " + strconv.QuoteToGraphic(meta.Reason)
	}
	_, _ = fmt.Fprintf(out, tableLine, strconv.FormatUint(uint64(raw.Position), 10), meta.Time.UTC().Format("2006-01-02T15:04:05.000"),
		terminal.Escape(meta.Actor), terminal.Escape(raw.Type), terminal.Escape(string(raw.Stream)), terminal.Escape(string(raw.Data))+why)
	return nil
}
