// Command commissaire manages clusters of container hosts: REST in, SSH out.
// README.md says how it is configured, and how its commands work together.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // windows of operations name zones, also where the system has none

	"github.com/spf13/cobra"

	"commissaire/cmd/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "commissaire", Short: "Manages clusters of container hosts: REST in, SSH out",
		Version: version.Version, SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(
		serveCommand(), demoCommand(), eventsCommand(), replayCommand(), projectionsCommand(),
		backupCommand(), restoreCommand(), migrateCommand(), userCommand(), versionCommand(),
	)
	if err := root.ExecuteContext(ctx); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "commissaire:", err)
		code := 1
		if ctx.Err() != nil {
			code = 130 // as a shell says of a program that Ctrl-C ended
		}
		stop()
		os.Exit(code)
	}
}
