package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"commissaire/api"
	"commissaire/api/authentication"
	"commissaire/cmd/internal/config"
)

// server serves from the moment it listens; what answers is exchanged when there is
// more to answer than that the service starts.
type server struct {
	*http.Server
	handler  *switchHandler
	endpoint string     // URL without path
	ended    chan error // has why serving ended
}

func listen(ctx context.Context, c config.Config, logger *slog.Logger) (*server, error) {
	tlsConfig, err := tlsConfig(c, logger)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(c.ListenInterface, strconv.Itoa(c.ListenPort)))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	scheme := "http"
	if tlsConfig != nil {
		scheme = "https"
		listener = tls.NewListener(listener, tlsConfig)
	}
	s := &server{handler: &switchHandler{}, endpoint: scheme + "://" + listener.Addr().String(), ended: make(chan error, 1)}
	s.handler.set(api.Starting(uuid.NewString))
	s.Server = &http.Server{
		Handler:     s.handler,
		ReadTimeout: time.Duration(c.Limits.ReadTimeout), ReadHeaderTimeout: min(10*time.Second, time.Duration(c.Limits.ReadTimeout)),
		IdleTimeout: time.Duration(c.Limits.IdleTimeout), MaxHeaderBytes: c.Limits.Headers,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	go func() { s.ended <- s.Serve(listener) }()
	return s, nil
}

// wait returns when the server was shut down, or with an error when it fails.
func (s *server) wait() error {
	if err := <-s.ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// switchHandler hands requests to the handler that was set last.
type switchHandler struct{ handler atomic.Pointer[http.Handler] }

func (h *switchHandler) set(handler http.Handler) { h.handler.Store(&handler) }

// ServeHTTP implements http.Handler.
func (h *switchHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*h.handler.Load()).ServeHTTP(w, r)
}

// checkListener refuses to let everybody on the network in.
func checkListener(c config.Config, dev bool) error {
	ip := net.ParseIP(c.ListenInterface)
	if ip != nil && ip.IsLoopback() || c.ListenInterface == "localhost" || c.Insecure {
		return nil
	}
	switch {
	case dev && len(c.AuthenticationPlugins) == 0:
		return errors.New("--dev listens on loopback only: configure authentication-plugins and TLS to listen elsewhere")
	case len(c.AuthenticationPlugins) == 0:
		return errors.New("nobody could log in: configure authentication-plugins (commissaire user add makes the file), or listen on 127.0.0.1")
	case c.TLSPEMFile == "":
		return errors.New("passwords and keys would cross the network in the clear: set tls-pemfile, or listen on 127.0.0.1, or override with --insecure")
	}
	return nil
}

// authenticator builds the stack of plugins.
func authenticator(plugins []config.Plugin, logger *slog.Logger) (authentication.Stack, error) {
	var stack authentication.Stack
	for _, p := range plugins {
		plugin, err := authentication.NewHTTPBasicAuth(p.FilePath, p.Users, time.Now)
		if err != nil {
			return nil, fmt.Errorf("authentication plugin %s: %w", p.Name, err)
		}
		plugin.Logger = logger
		stack = append(stack, plugin)
	}
	return stack, nil
}
