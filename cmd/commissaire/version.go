package main

import (
	"github.com/spf13/cobra"

	"commissaire/cmd/internal/version"
)

func versionCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{Use: "version", Short: "Print version, commit and date of this program", Args: cobra.NoArgs}
	o.flag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		build := version.Read()
		return o.print(cmd.OutOrStdout(), build, build.String())
	}
	return cmd
}
