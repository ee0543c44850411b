// Package service is the running service: Open wires it and brings the views up to the
// head of the log, Run follows the log and acts while requests are served, Close
// releases what is open. It is used by the program, by the demo and by tests alike.
//
// Of one start, three feeds of the log belong together, so one follower owns them with
// what they fill: the views, the process and the position.
package service

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/ssh"
	"commissaire/api"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/commands"
)

// Service is one instance of the service.
type Service struct {
	config   config.Config
	logger   *slog.Logger
	instance string // this one's name
	password string // of the user admin that development made; "": it made none
	server   *server
	store    store.Store
	log      *eventlog.Log
	beside   *beside
	commands *commands.Handler
	hosts    *hosts
	follower *follower
	leads    atomic.Bool // this instance acts
}

// Open listens, opens the stores and folds the log up to its head. Until it returns,
// requests are answered that the service starts; a shared store that is away is waited
// for. With dev it makes what is missing for trying it: a master key, the user admin.
// Refused are a configuration without a master key, and one that lets everybody on the
// network in. After an error nothing is left open.
func Open(ctx context.Context, c config.Config, dev bool, logger *slog.Logger) (_ *Service, err error) {
	s := &Service{config: c, logger: logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.prepare(dev); err != nil {
		return nil, err
	}
	if s.server, err = listen(ctx, c, logger); err != nil {
		return nil, err
	}
	if err := s.openStores(ctx); err != nil {
		return nil, err
	}
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	if err := s.answer(dev); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare refuses what cannot be run, before anything is opened.
func (s *Service) prepare(dev bool) error {
	if dev && s.config.Credentials.MasterKey == "file:"+config.DevMasterKey {
		if err := makeMasterKey(); err != nil {
			return err
		}
	}
	if s.config.Credentials.MasterKey == "" {
		return errors.New("no master key: set credentials.master-key to file:PATH, env:NAME or exec:COMMAND; make one with: (umask 077; openssl rand -base64 32 > PATH)")
	}
	if err := checkListener(s.config, dev); err != nil {
		return err
	}
	if len(s.config.SelfAuths) > 0 {
		s.logger.Warn("self-auths is a key of the old service and has no effect: every route asks for authentication")
	}
	return nil
}

// openStores opens the log and what lies beside it.
func (s *Service) openStores(ctx context.Context) (err error) {
	if s.instance, err = s.config.InstanceName(); err != nil {
		return err
	}
	location := s.config.Location()
	location.Options.Instance = s.instance
	opened, err := location.Open(ctx, s.config.Credentials.MasterKey, s.logger)
	if err != nil {
		return err
	}
	s.store, s.log = opened, eventlog.NewLog(opened.Log)
	s.beside, err = openBeside(ctx, s.config, opened.Log, s.logger)
	return err
}

// catchUp wires what acts on hosts, and folds the log up to its head.
func (s *Service) catchUp(ctx context.Context) error {
	location := s.config.Location()
	snapshots, err := newSnapshotKeeper(s.config.Snapshots, location, s.logger)
	if err != nil {
		return err
	}
	reach := ssh.Reach{Loopback: s.config.Hosts.AllowLoopback, Deny: s.config.Hosts.Denied}
	s.commands = commands.New(commands.Config{
		Log: s.log, Credentials: s.store.Secrets, KeyFingerprint: s.config.SSH.Algorithms.ParsePrivateKey, Certificate: ssh.ParseCertificate, TokenDigest: s.store.Secrets.Digest,
		Denied: denied(reach), CertificateDir: s.config.ContainerManagers.CertificateDir,
		Now: time.Now, NewID: uuid.New, Random: func() uint64 { return uint64(rand.Uint32()) }, // JSON readers keep 53 bits
		Instance: s.instance, Shared: location.Shared(),
	})
	if s.hosts, err = openHosts(ctx, s.config, reach, s.store.Secrets, s.logger); err != nil {
		return err
	}
	s.follower = newFollower(s.log, s.store.Log, s.hosts.process(s.config, s.commands, s.store.Secrets, s.beside.outputs, s.logger), snapshots, s.logger)
	if err := location.RetryWhileAway(ctx, s.logger, func() error { return s.follower.catchUp(ctx) }); err != nil {
		return err
	}
	s.follower.begin(s.config.Events, location.Shared())
	return nil
}

// answer exchanges what answers requests for the API.
func (s *Service) answer(dev bool) error {
	plugins := s.config.AuthenticationPlugins
	if dev && len(plugins) == 0 {
		admin, password, err := makeUser(s.Endpoint())
		if err != nil {
			return err
		}
		plugins, s.password = []config.Plugin{admin}, password
	}
	stack, err := authenticator(plugins, s.logger)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	handler := api.New(api.Config{
		Commands: s.commands, Views: s.follower.views, Follow: s.log.Read, Entries: s.entries, EntriesAfter: s.entriesAfter,
		Events: s.follower.events, EventTypes: eventlog.Types(), NodeStatus: s.follower.nodeStatus, Outputs: outputs{s.beside.outputs}, Transparency: s.beside.transparency(), Authenticator: stack,
		OnHost: ssh.Plan, Rebuilds: s.follower.rebuilds, Snapshots: s.follower.snapshots.list, Status: s.status, Ready: s.follower.ready, Metrics: metrics, Now: time.Now, NewID: uuid.NewString, Logger: s.logger,
		MaxBody: s.config.Limits.Body, Age: s.follower.freshness.age,
	})
	s.server.RegisterOnShutdown(handler.Close)
	s.server.handler.set(handler)
	return nil
}

// Endpoint is the URL at which the service listens, without a path.
func (s *Service) Endpoint() string { return s.server.endpoint }

// DevPassword is the password of the user admin that development made; "" where it made
// none.
func (s *Service) DevPassword() string { return s.password }

// Run follows the log and acts while requests are served, until ctx ends or one of these
// fails. It is called once.
func (s *Service) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// The log is followed longer than ctx: requests under way still see their own events.
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFollowing()
	var running sync.WaitGroup
	for _, run := range []func() error{s.server.wait, func() error { return s.follower.follow(following) }} {
		running.Go(func() {
			if err := run(); err != nil {
				stop(err)
			}
		})
	}
	running.Go(func() { s.follower.freshness.watch(following) })
	running.Go(func() { s.lead(ctx) })
	running.Go(func() { s.follower.completeProcess(ctx) })
	running.Go(func() { s.follower.keepSnapshots(following) })
	running.Go(func() { s.beside.signCheckpoints(following) }) // the last is of what the last requests recorded, too
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := s.server.Shutdown(grace)
	stopFollowing()
	running.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// Close releases what is open, after Run or instead of it.
func (s *Service) Close() error {
	var err error
	if s.server != nil {
		_ = s.server.Close() // it was shut down, or was never to serve
	}
	if s.follower != nil && s.follower.rebuilds != nil {
		s.follower.rebuilds.Close()
	}
	if s.hosts != nil {
		s.hosts.close()
	}
	if s.beside != nil {
		err = s.beside.closeTree()
	}
	err = errors.Join(err, s.store.Close())
	if s.beside != nil {
		err = errors.Join(err, s.beside.removeScratch())
	}
	return err
}
