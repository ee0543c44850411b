package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/service"
)

func serveCommand() *cobra.Command {
	var s settings
	var print bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the service", Args: cobra.NoArgs,
		Long: `Run the service until it is interrupted.

Configuration is JSON, by default ` + config.DefaultFile + `. The command line wins
over the environment (COMMISSAIRE_LISTEN_PORT, COMMISSAIRE_CREDENTIALS_MASTER_KEY,
…), that over the file. --print-config shows every key with its value.

What hosts print in operations is kept in the store's directory, under output:
operations.output-limit bytes a host (1 MiB), until operations.output-max-age
(720h) after the operation, or until there is more than operations.output-max-size
bytes (1 GiB) and others are newer; while an operation runs, in any case.

A store esdb://… that is away is waited for. Until there is something to serve
/healthz answers 200, and all else, /readyz too, 503.`,
	}
	s.configFlag(cmd)
	cmd.Flags().BoolVar(&s.dev, "dev", false, "for trying it: loopback only, everything under ./var, a user admin made")
	cmd.Flags().BoolVar(&print, "print-config", false, "print the effective configuration, secrets masked, and end")
	s.key(cmd, "listen-interface", "address to listen on")
	s.intKey(cmd, "listen-port", "port to listen on; 0 is any free one")
	s.key(cmd, "store", "where the log is: sqlite:DIR, esdb://… (shared by several instances) or memory:")
	s.key(cmd, "instance", "this instance's name, which no other has (default the host's name; with esdb:// and a random part)")
	s.key(cmd, "tls-pemfile", "file with certificate and key")
	s.key(cmd, "tls-clientverifyfile", "file with the authorities whose client certificates are required")
	s.boolKey(cmd, "debug", "log more")
	s.boolKey(cmd, "insecure", "listen beyond loopback without TLS")
	s.masterKey(cmd)
	s.key(cmd, "credentials.keys", "with esdb://, where the data keys are: file:DIR or exec:COMMAND")
	s.key(cmd, "events.heartbeat", "how often a stream of events says that it is there (default 15s)")
	s.key(cmd, "log.signing-key", "file:PATH, env:NAME or exec:COMMAND of the key that signs checkpoints of the log; commissaire events key makes one")
	s.key(cmd, "log.checkpoint-interval", "how often a checkpoint is signed, when there is something new (default 10m)")
	s.key(cmd, "log.checkpoint-file", "file outside the store to which each checkpoint is appended")
	s.key(cmd, "log.checkpoint-url", "URL to which each checkpoint is PUT")
	s.intKey(cmd, "events.readers", "how many may read events at the same time (default 2048)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.load(cmd)
		if err != nil {
			return err
		}
		if print {
			return printJSON(cmd.OutOrStdout(), c.Masked())
		}
		level := slog.LevelInfo
		if c.Debug {
			level = slog.LevelDebug
		}
		logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
		return serve(cmd.Context(), c, s.dev, cmd.OutOrStdout(), logger)
	}
	return cmd
}

// serve runs the service until ctx ends. It says where it listens, and in development how
// to use it, on out.
func serve(ctx context.Context, c config.Config, dev bool, out io.Writer, logger *slog.Logger) error {
	s, err := service.Open(ctx, c, dev, logger)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // asked to end before it began
	}
	if err != nil {
		return err
	}
	defer func() {
		if err := s.Close(); err != nil {
			logger.Error("closing the stores failed", "error", err)
		}
	}()
	if password := s.DevPassword(); password != "" {
		_, _ = fmt.Fprintf(out, "user admin, password %s (for curl: -K %s/curlrc)\n", password, config.DevDir)
	}
	_, _ = fmt.Fprintf(out, "commissaire listens on %s\n", s.Endpoint())
	return s.Run(ctx)
}
