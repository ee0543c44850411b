package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"commissaire/cmd/internal/demo"
)

func demoCommand() *cobra.Command {
	var hold bool
	var hosts, port int
	cmd := &cobra.Command{
		Use: "demo", Short: "Show in a minute what the service does, on simulated hosts", Args: cobra.NoArgs,
		Long: `Show what the service does: start 20 simulated hosts on loopback addresses and
the service, make two clusters of them, deploy, upgrade and restart them while
one host fails on purpose, and show the history. It takes less than a minute,
ends by itself, and leaves nothing behind; Ctrl-C ends it at any moment.

With --hold, only run simulated hosts until interrupted, and say how to reach
them, for trying things by hand (commissaire serve --dev is the service for it).

The hosts speak the real protocol and run the same host-side script as real
hosts, on file systems and commands of their own: nothing real is changed.`,
	}
	flags := cmd.Flags()
	flags.BoolVar(&hold, "hold", false, "only keep simulated hosts up until interrupted")
	flags.IntVar(&hosts, "hosts", 5, "with --hold: how many")
	flags.IntVar(&port, "port", 2222, "with --hold: where they listen")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		switch {
		case hold:
			err = demo.Hold(cmd.Context(), cmd.OutOrStdout(), hosts, port)
		case flags.Changed("hosts") || flags.Changed("port"):
			err = errors.New("--hosts and --port are for --hold")
		default:
			err = demo.Run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		}
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		return nil
	}
	return cmd
}
