// Package demo shows in a minute what the service does, on simulated hosts.
package demo

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
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/client"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/service"
	"commissaire/cmd/internal/terminal"
	"commissaire/cmd/internal/users"
	"commissaire/test/fleet"
)

// Run goes through the script on hosts and a service that it starts and ends. What it has
// on disk goes with it, also when it is interrupted or nobody reads on out. What the
// service logged is written to log only if something went wrong.
func Run(ctx context.Context, out, log io.Writer) (err error) {
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
	return play(ctx, dir, terminal.NewScreen(out, fail), &logged)
}

// play starts hosts and the service, goes through the script on them, and ends them.
func play(ctx context.Context, dir string, screen *terminal.Screen, log io.Writer) error {
	private, public, err := fleet.NewUserKey()
	if err != nil {
		return err
	}
	hosts, err := fleet.Start(fleet.Config{Hosts: hostsOfScript(), Authorized: []ssh.PublicKey{public}})
	if err != nil {
		return err
	}
	defer hosts.Close()
	s := &script{
		Screen: screen, fleet: hosts, key: base64.StdEncoding.EncodeToString(private),
		admin: &client.Client{User: "ada"}, operator: &client.Client{User: "otto"},
	}
	accounts := map[string]authentication.User{}
	for c, role := range map[*client.Client]authentication.Role{s.admin: authentication.Admin, s.operator: authentication.Operator} {
		if accounts[c.User], c.Password, err = users.New(role); err != nil {
			return fmt.Errorf("make the user %s: %w", c.User, err)
		}
	}
	endpoint, end, err := startService(ctx, dir, accounts, log)
	if err != nil {
		return err
	}
	transport := &http.Transport{} // with no proxy
	for _, c := range []*client.Client{s.admin, s.operator} {
		c.Endpoint, c.Transport = endpoint, transport
	}
	err = s.run(ctx)
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
