package main

import (
	"errors"

	"github.com/spf13/cobra"

	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/store"
	"commissaire/projections"
)

// source is where a command reads the log: of a store, the configured one unless
// another is named, or of files that were exported.
type source struct {
	settings
	store string
	files []string
}

func (s *source) flags(cmd *cobra.Command) {
	s.configFlag(cmd)
	s.storeFlag(cmd)
	cmd.Flags().StringArrayVar(&s.files, "file", nil, "read this file that was exported instead of a store; may be repeated, oldest first; - is standard input")
}

func (s *source) storeFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.store, "store", "", "the store: sqlite:DIR or esdb://… (default the configured one)")
}

// location is the store. Credentials are of no interest here.
func (s *source) location(cmd *cobra.Command) (store.Location, error) {
	c, err := s.load(cmd)
	if err != nil {
		return store.Location{}, err
	}
	location := c.Location()
	if s.store != "" {
		location.Log = s.store
	}
	return location, nil
}

func (s *source) open(cmd *cobra.Command) (store.Reader, error) {
	if len(s.files) > 0 {
		if s.store != "" {
			return store.Reader{}, errors.New("--file and --store: read one of them")
		}
		return store.ReadFiles(cmd.InOrStdin(), s.files...), nil
	}
	location, err := s.location(cmd)
	if err != nil {
		return store.Reader{}, err
	}
	return location.OpenReader(cmd.Context(), warnings(cmd))
}

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "events", Short: "Show, export, import and verify what was recorded",
		Long: `Show, export, import and verify what was recorded.

A store is read while the service runs, and keeps it waiting in nothing. A password in
esdb://… need not be an argument: give the store in the configuration, or as
COMMISSAIRE_STORE.`,
	}
	cmd.AddCommand(showCommand(), exportCommand(), importCommand(), verifyCommand(), keyCommand())
	return cmd
}

// selectionFlags adds the flags that select events.
func selectionFlags(cmd *cobra.Command, s *archive.Selection) {
	flags := cmd.Flags()
	flags.StringSliceVar(&s.Streams, "stream", nil, "of these streams only: roster, watch, host-ID, operation-ID; may be repeated")
	flags.StringSliceVar(&s.Types, "type", nil, "of these types only, as HostJoined; may be repeated")
	flags.StringVar(&s.After, "after", "", "begin after this position, or with the first event recorded later than this time")
	flags.StringVar(&s.Until, "until", "", "end with this position, or before the first event recorded later than this time")
	flags.BoolVar(&s.Follow, "follow", false, "go on with what comes, until interrupted")
	flags.StringVar(&s.Cluster, projections.OfCluster, "", "what the history of this cluster has (NAME)")
	flags.StringVar(&s.Host, projections.OfHost, "", "what the history of this host has (ADDRESS)")
	flags.StringVar(&s.Operation, projections.OfOperation, "", "what the history of this operation has (ID)")
}
