// Command commissaire manages clusters of container hosts: REST in, SSH out.
// README.md says how it is configured, and how its commands work together.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // windows of operations name zones, also where the system has none

	"github.com/spf13/cobra"
)

// version is set when a release is built.
var version = "0.1.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "commissaire", Short: "Manages clusters of container hosts: REST in, SSH out",
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(
		serveCommand(), demoCommand(), eventsCommand(), replayCommand(), projectionsCommand(),
		backupCommand(), restoreCommand(), migrateCommand(), userCommand(),
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

func serveCommand() *cobra.Command {
	var file string
	var dev, print bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the service", Args: cobra.NoArgs,
		Long: `Run the service until it is interrupted.

Configuration is JSON, by default ` + defaultConfigFile + `. The command line wins
over the environment (COMMISSAIRE_LISTEN_PORT, COMMISSAIRE_CREDENTIALS_MASTER_KEY,
…), that over the file. --print-config shows every key with its value.

What hosts print in operations is kept in the store's directory, under output:
operations.output-limit bytes a host (1 MiB), until operations.output-max-age
(720h) after the operation, or until there is more than operations.output-max-size
bytes (1 GiB) and others are newer; while an operation runs, in any case.

A store esdb://… that is away is waited for. Until there is something to serve
/healthz answers 200, and all else, /readyz too, 503.`,
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "configuration file; - is standard input (default "+defaultConfigFile+")")
	flags.BoolVar(&dev, "dev", false, "for trying it: loopback only, everything under ./var, a user admin made")
	flags.BoolVar(&print, "print-config", false, "print the effective configuration, secrets masked, and end")
	flags.String("listen-interface", "", "address to listen on")
	flags.Int("listen-port", 0, "port to listen on; 0 is any free one")
	flags.String("store", "", "where the log is: sqlite:DIR, esdb://… (shared by several instances) or memory:")
	flags.String("instance", "", "this instance's name, which no other has (default the host's name; with esdb:// and a random part)")
	flags.String("tls-pemfile", "", "file with certificate and key")
	flags.String("tls-clientverifyfile", "", "file with the authorities whose client certificates are required")
	flags.Bool("debug", false, "log more")
	flags.Bool("insecure", false, "listen beyond loopback without TLS")
	flags.String("credentials.master-key", "", "file:PATH, env:NAME or exec:COMMAND")
	flags.String("credentials.keys", "", "with esdb://, where the data keys are: file:DIR or exec:COMMAND")
	flags.String("events.heartbeat", "", "how often a stream of events says that it is there (default 15s)")
	flags.String("log.signing-key", "", "file:PATH, env:NAME or exec:COMMAND of the key that signs checkpoints of the log; commissaire events key makes one")
	flags.String("log.checkpoint-interval", "", "how often a checkpoint is signed, when there is something new (default 10m)")
	flags.String("log.checkpoint-file", "", "file outside the store to which each checkpoint is appended")
	flags.String("log.checkpoint-url", "", "URL to which each checkpoint is PUT")
	flags.Int("events.readers", 0, "how many may read events at the same time (default 2048)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := map[string]any{}
		for _, key := range []string{
			"listen-interface", "store", "tls-pemfile", "tls-clientverifyfile", "instance", "credentials.master-key", "credentials.keys", "events.heartbeat",
			"log.signing-key", "log.checkpoint-interval", "log.checkpoint-file", "log.checkpoint-url",
		} {
			if flags.Changed(key) {
				given[key], _ = flags.GetString(key)
			}
		}
		for _, key := range []string{"debug", "insecure"} {
			if flags.Changed(key) {
				given[key], _ = flags.GetBool(key)
			}
		}
		for _, key := range []string{"listen-port", "events.readers"} {
			if flags.Changed(key) {
				given[key], _ = flags.GetInt(key)
			}
		}
		config, err := loadConfig(file, cmd.InOrStdin(), environ(), given, dev)
		if err != nil {
			return err
		}
		if print {
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(config.masked())
		}
		level := slog.LevelInfo
		if config.Debug {
			level = slog.LevelDebug
		}
		logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
		return serve(cmd.Context(), config, dev, cmd.OutOrStdout(), logger)
	}
	return cmd
}
