package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/client"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/files"
	"commissaire/cmd/internal/service"
	"commissaire/cmd/internal/terminal"
	"commissaire/cmd/internal/users"
	"commissaire/test/fleet"
)

// Where demo --hold keeps the key that its hosts take, below the working directory.
const demoDir = config.DevDir + "/fleet"

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
		run := func() error { return demo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()) }
		switch {
		case hold:
			run = func() error { return holdFleet(cmd.Context(), cmd.OutOrStdout(), hosts, port) }
		case flags.Changed("hosts") || flags.Changed("port"):
			run = func() error { return errors.New("--hosts and --port are for --hold") }
		}
		if err := run(); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		return nil
	}
	return cmd
}

// demo starts a fleet and the service, tells the story on them, and ends them.
// What it has on disk goes with it, also when it is interrupted or nobody reads
// on. What the service logged is shown only if something went wrong.
func demo(ctx context.Context, out, log io.Writer) (err error) {
	ctx, restore := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer restore()
	closed := make(chan os.Signal, 1)
	signal.Notify(closed, syscall.SIGPIPE) // writing to a closed pipe is to be an error, and not the end
	defer signal.Stop(closed)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	dir, err := os.MkdirTemp("", "commissaire-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var logged bytes.Buffer
	defer func() {
		if ctx.Err() != nil {
			err = fmt.Errorf("stopped before its end: %w", context.Cause(ctx))
		} else if err != nil {
			_, _ = logged.WriteTo(log)
		}
	}()

	private, public, err := fleet.NewUserKey()
	if err != nil {
		return err
	}
	hosts, err := fleet.Start(fleet.Config{Hosts: cast(), Authorized: []ssh.PublicKey{public}})
	if err != nil {
		return err
	}
	defer hosts.Close()
	s := &story{
		Screen: terminal.NewScreen(out, fail), fleet: hosts, key: base64.StdEncoding.EncodeToString(private),
		admin: &client.Client{User: "ada"}, operator: &client.Client{User: "otto"},
	}
	accounts := map[string]authentication.User{}
	for c, role := range map[*client.Client]authentication.Role{s.admin: authentication.Admin, s.operator: authentication.Operator} {
		if accounts[c.User], c.Password, err = users.New(role); err != nil {
			return fmt.Errorf("make the user %s: %w", c.User, err)
		}
	}
	endpoint, end, err := startService(ctx, dir, accounts, &logged)
	if err != nil {
		return err
	}
	transport := &http.Transport{} // with no proxy
	for _, c := range []*client.Client{s.admin, s.operator} {
		c.Endpoint, c.Transport = endpoint, transport
	}
	err = s.tell(ctx)
	s.Clear()
	transport.CloseIdleConnections()
	return errors.Join(err, end())
}

// startService starts the service as serve does, with what suits a demonstration: a free
// port on loopback, its store in dir, short waits. It returns where the service listens,
// and what ends it and waits for that.
func startService(ctx context.Context, dir string, accounts map[string]authentication.User, log io.Writer) (endpoint string, end func() error, err error) {
	const masterKey = "COMMISSAIRE_DEMO_MASTER_KEY" // known to this process alone, and gone with it
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	if err := os.Setenv(masterKey, base64.StdEncoding.EncodeToString(key)); err != nil {
		return "", nil, fmt.Errorf("make the master key: %w", err)
	}
	c := config.Defaults(true)
	c.ListenPort = 0
	c.Store = "sqlite:" + dir
	c.Credentials.MasterKey = "env:" + masterKey
	c.AuthenticationPlugins = []config.Plugin{{Name: "httpbasicauth", Users: accounts}}
	c.SSH.RetryDelay = config.Duration(100 * time.Millisecond)
	c.Operations.RebootFirstLook = config.Duration(100 * time.Millisecond)
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))

	s, err := service.Open(ctx, c, false, logger)
	if err != nil {
		return "", nil, fmt.Errorf("the service did not start: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	end = func() error {
		stop()
		return errors.Join(<-ended, s.Close())
	}
	return s.Endpoint(), end, nil
}

// holdFleet runs simulated hosts until ctx ends.
func holdFleet(ctx context.Context, out io.Writer, hosts, port int) error {
	if hosts < 1 || hosts > 1000 {
		return errors.New("--hosts must be from 1 to 1000")
	}
	private, public, err := demoKey()
	if err != nil {
		return err
	}
	specs := fleet.Mixed(hosts)
	for i := range specs {
		specs[i].Speed = fleet.Speed{Upgrade: 2 * time.Second, Install: 200 * time.Millisecond, Shutdown: time.Second, Reboot: 3 * time.Second}
	}
	running, err := fleet.Start(fleet.Config{Port: port, Hosts: specs, Authorized: []ssh.PublicKey{public}})
	if err != nil {
		return err
	}
	defer running.Close()
	table := terminal.NewTable(out)
	_, _ = fmt.Fprintln(table, "ADDRESS\tOS\tRUNS\tAN UPGRADE BRINGS")
	for _, h := range specs {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", h.Address, h.OS, h.Version, h.Next)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "all on port %d; log in as root with the key %s; Ctrl-C ends them\n", port, private)
	<-ctx.Done()
	return nil
}

// demoKey makes the key that the simulated hosts take, or reads the one made
// before. It returns the path of the private one.
func demoKey() (string, ssh.PublicKey, error) {
	path := filepath.Join(demoDir, "id_ed25519")
	if err := os.MkdirAll(demoDir, 0o700); err != nil {
		return "", nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		private, _, err := fleet.NewUserKey()
		if err != nil {
			return "", nil, err
		}
		if err := files.WritePrivate(path, string(private)); err != nil {
			return "", nil, err
		}
		text = private
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return "", nil, fmt.Errorf("read %s: %w", path, err)
	}
	return path, key.PublicKey(), nil
}
