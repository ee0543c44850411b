package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"commissaire/adapters/containermanager"
	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/output"
	"commissaire/adapters/snapshots"
	"commissaire/adapters/ssh"
	"commissaire/adapters/transparency"
	"commissaire/api"
	"commissaire/api/authentication"
	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/commands/sleep"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
)

// service is everything that serve runs.
type service struct {
	config    Config
	logger    *slog.Logger
	store     store
	log       *eventlog.Log
	outputs   *output.Store
	sealed    *transparency.Log // nil: no checkpoints are signed
	snapshots *snapshots.Store  // nil: none are kept
	rebuilds  *projections.Rebuilder
	scratch   string // a directory that goes with the service; "": there is none
	commands  *commands.Handler
	views     *projections.Views
	events    *api.Events
	remote    *ssh.Remote
	managers  *containermanager.Managers
	process   *process.Process
	instance  string                // this one's name
	leads     atomic.Bool           // this instance acts
	whole     chan struct{}         // closed when the process has all that the views have
	resumed   bool                  // the views began with a snapshot, so that the process has to be brought up
	snapshot  atomic.Uint64         // events that the latest snapshot has
	due       chan struct{}         // has one when a snapshot may be due
	age       age                   // of what is served
	failure   atomic.Pointer[error] // why the views stopped
	metrics   *prometheus.Registry
}

const (
	redeliverAfter = time.Second
	statusWait     = 2 * time.Second // GET /status waits for the log to say how long it is
)

// open opens the stores and folds the log up to its head.
func open(ctx context.Context, config Config, logger *slog.Logger) (_ *service, err error) {
	s := &service{config: config, logger: logger, views: projections.New(), whole: make(chan struct{}), due: make(chan struct{}, 1), metrics: prometheus.NewRegistry()}
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.instance, err = config.instanceName(); err != nil {
		return s, err
	}
	name := config.storeName()
	name.options.Instance = s.instance
	opened, err := name.open(ctx, config.Credentials.MasterKey, logger)
	if err != nil {
		return s, err
	}
	s.store = opened
	if s.outputs, err = s.openOutputs(name); err != nil {
		return s, err
	}
	if s.sealed, err = s.openTransparency(ctx, name); err != nil {
		return s, err
	}
	if s.snapshots, err = openSnapshots(config.Snapshots, name, logger); err != nil {
		return s, err
	}
	s.log = eventlog.NewLog(s.store.log)
	reach := ssh.Reach{Loopback: config.Hosts.AllowLoopback, Deny: config.Hosts.Denied}
	s.commands = commands.New(commands.Config{
		Log: s.log, Credentials: s.store.secrets, KeyFingerprint: config.SSH.Algorithms.ParsePrivateKey, Certificate: ssh.ParseCertificate, TokenDigest: s.store.secrets.Digest,
		Denied: denied(reach), CertificateDir: config.ContainerManagers.CertificateDir,
		Now: time.Now, NewID: uuid.New, Random: func() uint64 { return uint64(rand.Uint32()) }, // JSON readers keep 53 bits
		Instance: s.instance, Shared: name.shared(),
	})
	profile, err := ssh.LoadProfile(config.Bootstrap.Profile)
	if err != nil {
		return s, err
	}
	knownHosts, err := knownHosts(config.SSH, logger)
	if err != nil {
		return s, err
	}
	jump, err := jump(ctx, config.SSH.Jump, config.SSH.Algorithms)
	if err != nil {
		return s, err
	}
	s.remote = ssh.New(ssh.Config{
		Dial: time.Duration(config.SSH.DialTimeout), Handshake: time.Duration(config.SSH.HandshakeTimeout),
		Algorithms: config.SSH.Algorithms, Reach: reach, KnownHosts: knownHosts, Jump: jump,
		KeepOpen: config.Watch.KeepOpen.connections(),
		KeepFor:  max(20*time.Minute, 2*time.Duration(config.Watch.Interval)), // more than a host is left alone
		Bootstrap: ssh.Bootstrap{
			Profile: profile, EtcdURL: config.Bootstrap.EtcdURL, FlannelKey: config.Bootstrap.FlannelKey,
			RegistryMirror: config.Bootstrap.RegistryMirror, EtcdCertificate: config.Bootstrap.EtcdClientCert,
			EtcdKey: config.Bootstrap.EtcdClientKey, EtcdCA: config.Bootstrap.EtcdCA,
		},
	}, s.store.secrets, logger)
	s.managers = containermanager.New(containermanager.Config{
		Credentials: s.store.secrets, CertificateDir: config.ContainerManagers.CertificateDir, Control: reach.Control,
		Timeout: time.Duration(config.ContainerManagers.Timeout),
	})
	s.process = process.New(process.Config{
		Commands: s.commands, Credentials: s.store.secrets, Outputs: s.outputs, Managers: s.managers.Of, Profile: profile.Name,
		Remote:   s.remote,
		Attempts: config.SSH.Attempts, RetryDelay: time.Duration(config.SSH.RetryDelay), AtOnce: config.SSH.AtOnce,
		RebootFirstLook: time.Duration(config.Operations.RebootFirstLook), RebootTimeout: time.Duration(config.Operations.RebootTimeout),
		HealthInterval: time.Duration(config.Operations.HealthInterval), Probe: ssh.NewProbe(reach),
		WatchInterval: time.Duration(config.Watch.Interval), WatchConcurrency: config.Watch.Concurrency, WatchMisses: config.Watch.Misses,
		NewID: uuid.New, Now: time.Now, Logger: logger,
	})
	if err := name.there(ctx, logger, func() error { return s.catchUp(ctx) }); err != nil {
		return s, err
	}
	if s.resumed {
		s.snapshot.Store(s.views.Snapshot().Events)
	} else {
		close(s.whole)
		s.due <- struct{}{} // a long log is not folded from its beginning again, whatever comes
	}
	s.rebuilds = projections.NewRebuilder(projections.RebuilderConfig{
		Views: s.views, Read: s.log.Follow, Rebuilt: s.keepSnapshot, Now: time.Now, Logger: logger,
	})
	s.age.served, s.age.whole = s.position, time.Now()
	if name.shared() {
		s.age.head = s.log.Head
	}
	s.events = api.NewEvents(api.EventsConfig{
		After: s.position(), Heartbeat: time.Duration(config.Events.Heartbeat), Readers: config.Events.Readers,
	})
	return s, nil
}

// openOutputs opens what hosts printed, beside the log. A log in memory has it in
// a directory of its own that ends with the service.
func (s *service) openOutputs(name storeName) (*output.Store, error) {
	of := s.config.Operations
	dir, err := s.kept(of.OutputDir, name, "output")
	if err != nil {
		return nil, err
	}
	return output.Open(dir, output.Config{
		Limit: of.OutputLimit, MaxAge: time.Duration(of.OutputMaxAge), MaxSize: of.OutputMaxSize, Now: time.Now,
	}, s.logger)
}

// kept is the directory of what is kept beside the log: the configured one, or one of
// this name in the store's; of a store that has none, it ends with the service.
func (s *service) kept(configured string, name storeName, what string) (string, error) {
	switch {
	case configured != "":
		return configured, nil
	case name.kind() == "sqlite":
		return filepath.Join(name.dir(), what), nil
	case s.scratch == "":
		var err error
		if s.scratch, err = os.MkdirTemp("", "commissaire-"); err != nil {
			return "", fmt.Errorf("make a directory for what is kept beside the log: %w", err)
		}
	}
	return filepath.Join(s.scratch, what), nil
}

// knownHosts is the configured file; nil where there is none.
func knownHosts(config sshConfig, logger *slog.Logger) (*ssh.KnownHosts, error) {
	if config.KnownHosts == "" {
		return nil, nil
	}
	known, err := ssh.OpenKnownHosts(config.KnownHosts, logger)
	if err != nil {
		return nil, fmt.Errorf("ssh.known-hosts: %w", err)
	}
	return known, nil
}

// jump is the configured jump host, with its key; nil where there is none.
func jump(ctx context.Context, config jumpConfig, algorithms ssh.Algorithms) (*ssh.Jump, error) {
	if config.Address == "" {
		return nil, nil
	}
	host, err := domain.ParseAddress(config.Address)
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.address: %w", err)
	}
	user, err := domain.ParseRemoteUser(config.User)
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.user: %q is no account name", config.User)
	}
	hostKey, err := domain.ParseFingerprint(config.HostKey)
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.host-key %w", err)
	}
	key, err := credentials.Source(ctx, config.Key)
	if err == nil {
		_, err = algorithms.ParsePrivateKey(key)
	}
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.key: %w", err)
	}
	return &ssh.Jump{Host: host, Port: config.Port, User: user, Key: key, HostKey: hostKey}, nil
}

func denied(reach ssh.Reach) func(domain.Address) error {
	return func(address domain.Address) error {
		if ip, ok := address.IP(); ok && reach.Denied(ip) {
			return domain.ErrInvalid.At("address", "%s is in a range that this service may not connect to", ip)
		}
		return nil
	}
}

// position is how far the views are.
func (s *service) position() event.Position { return s.views.Snapshot().Position }

// catchUp folds straight from the feed, in batches, until the head, from the
// latest snapshot on. When it failed it may go on from where it came to.
func (s *service) catchUp(ctx context.Context) error {
	if err := s.resume(ctx); err != nil {
		return err
	}
	defer projections.Hurry()()
	for batch, err := range eventlog.UpToHead(ctx, s.log.Follow(ctx, s.position())) {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("read the event log: %w", err)
		}
		if err != nil {
			return err
		}
		for _, r := range batch {
			s.views.Apply(r)
			if !s.resumed {
				s.process.Apply(r)
			}
		}
	}
	return nil
}

// follow keeps views and process up to date from the head on, until ctx ends.
// An event that cannot be read stops them: to leave it out would be to answer
// wrongly.
func (s *service) follow(ctx context.Context) error {
	quiet := watermill.NewSlogLoggerWithLevelMapping(s.logger, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, quiet)
	if err != nil {
		return fmt.Errorf("follow the log: %w", err)
	}
	router.AddMiddleware(middleware.Recoverer)
	subscriber := eventlog.NewSubscriber(s.store.log, s.position, redeliverAfter, s.age.heard, s.logger)
	followed := 0
	router.AddConsumerHandler("views and process", eventlog.Topic, subscriber, func(m *message.Message) error {
		r, err := eventlog.FromMessage(m)
		if err != nil {
			err = fmt.Errorf("views stand at position %d: %w", s.position(), err)
			s.failure.Store(&err)
			s.logger.Error("an event cannot be read; what is served and what is done stay at what is before it", "error", err)
			<-m.Context().Done() // delivered again it would say the same
			return err
		}
		s.views.Apply(r)
		s.events.Publish(shown(eventlog.Entry{Recorded: r, Type: m.Metadata.Get("name"), Data: json.RawMessage(m.Payload)}))
		if s.acts() { // else who brings the process up hands it over
			s.process.Apply(r)
		}
		if followed++; followed%s.config.Snapshots.Events == 0 {
			select {
			case s.due <- struct{}{}:
			default:
			}
		}
		return nil
	})
	if err := router.Run(ctx); err != nil {
		return fmt.Errorf("follow the log: %w", err)
	}
	return nil
}

func (s *service) close() error {
	if s.rebuilds != nil {
		s.rebuilds.Close()
	}
	if s.remote != nil {
		s.remote.Close()
	}
	if s.managers != nil {
		s.managers.Close()
	}
	var err error
	if s.sealed != nil {
		err = s.sealed.Close()
	}
	err = errors.Join(err, s.store.close())
	if s.scratch != "" {
		err = errors.Join(err, os.RemoveAll(s.scratch))
	}
	return err
}

// nodeStatus asks the container manager of a name about a host.
func (s *service) nodeStatus(ctx context.Context, name domain.ManagerName, host domain.Address) (json.RawMessage, error) {
	if !s.acts() {
		return nil, errFolding
	}
	manager, err := s.process.Manager(name)
	if err != nil {
		return nil, err
	}
	return manager.NodeStatus(ctx, host)
}

// outputs is the store of what hosts printed, as the API reads it.
type outputs struct{ *output.Store }

func (o outputs) Read(operation domain.OperationID, host domain.HostID) api.Printed {
	return o.Store.Read(operation, host)
}

// entries are the lines of the audit trail at these positions.
func (s *service) entries(ctx context.Context, at []event.Position) ([]api.HistoryEntry, error) {
	entries, err := s.log.Entries(ctx, at)
	if err != nil {
		return nil, err
	}
	return allShown(entries), nil
}

// entriesAfter are the next lines of the audit trail of everything.
func (s *service) entriesAfter(ctx context.Context, after event.Position) ([]api.HistoryEntry, error) {
	entries, err := s.log.EntriesAfter(ctx, after)
	if err != nil {
		return nil, err
	}
	return allShown(entries), nil
}

func allShown(entries []eventlog.Entry) []api.HistoryEntry {
	all := make([]api.HistoryEntry, len(entries))
	for i, e := range entries {
		all[i] = shown(e)
	}
	return all
}

func shown(e eventlog.Entry) api.HistoryEntry {
	return api.HistoryEntry{
		Position: uint64(e.Position), Time: projections.Time{Time: e.Meta.Time}, Type: e.Type, Stream: string(e.Stream),
		Actor: e.Meta.Actor, Reason: e.Meta.Reason, RequestID: e.Meta.RequestID, Data: e.Data,
	}
}

func (s *service) status(ctx context.Context) any {
	asking, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	head, err := s.log.Head(asking)
	snapshot := s.views.Snapshot()
	at := s.position()
	var position, lag any = head, uint64(max(head, at) - at)
	if err != nil {
		s.logger.Warn("the position of the log is not known", "error", err)
		position, lag = nil, nil
	}
	return map[string]any{
		"version": version, "store": s.config.storeName().kind(), "log_position": position, "view_position": at,
		"lag": lag, "instance": s.instance, "leads": s.leads.Load(), "leader": snapshot.Leader(),
		"age": int(s.age.now().Seconds()),
	}
}

func (s *service) ready(context.Context) error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// authenticator builds the stack of plugins.
func authenticator(plugins []Plugin, logger *slog.Logger) (authentication.Stack, error) {
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

// serve runs the service until ctx ends. It says where it listens, and in
// development how to use it, on out.
func serve(ctx context.Context, config Config, dev bool, out io.Writer, logger *slog.Logger) error {
	if dev && config.Credentials.MasterKey == "file:"+devMasterKey {
		if err := makeMasterKey(); err != nil {
			return err
		}
	}
	if config.Credentials.MasterKey == "" {
		return errors.New("no master key: set credentials.master-key to file:PATH, env:NAME or exec:COMMAND; make one with: (umask 077; openssl rand -base64 32 > PATH)")
	}
	if err := safeToListen(config, dev); err != nil {
		return err
	}
	if len(config.SelfAuths) > 0 {
		logger.Warn("self-auths is a key of the old service and has no effect: every route asks for authentication")
	}
	tlsConfig, err := tlsConfig(config, logger)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(config.ListenInterface, strconv.Itoa(config.ListenPort)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	scheme := "http"
	if tlsConfig != nil {
		scheme = "https"
		listener = tls.NewListener(listener, tlsConfig)
	}
	endpoint := scheme + "://" + listener.Addr().String()
	inside := &door{}
	inside.open(api.Starting(uuid.NewString))
	server := &http.Server{
		Handler:     inside,
		ReadTimeout: time.Duration(config.Limits.ReadTimeout), ReadHeaderTimeout: min(10*time.Second, time.Duration(config.Limits.ReadTimeout)),
		IdleTimeout: time.Duration(config.Limits.IdleTimeout), MaxHeaderBytes: config.Limits.Headers,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()
	defer func() { _ = server.Close() }() // where it was not shut down
	s, err := open(ctx, config, logger)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // asked to end before it began
	}
	if err != nil {
		return err
	}
	defer func() {
		if err := s.close(); err != nil {
			logger.Error("closing the stores failed", "error", err)
		}
	}()
	plugins := config.AuthenticationPlugins
	if dev && len(plugins) == 0 {
		admin, password, err := makeUser(endpoint)
		if err != nil {
			return err
		}
		plugins = []Plugin{admin}
		_, _ = fmt.Fprintf(out, "user admin, password %s (for curl: -K %s/curlrc)\n", password, devDir)
	}
	stack, err := authenticator(plugins, logger)
	if err != nil {
		return err
	}
	handler := api.New(api.Config{
		Commands: s.commands, Views: s.views, Follow: s.log.Read, Entries: s.entries, EntriesAfter: s.entriesAfter,
		Events: s.events, EventTypes: eventlog.Types(), NodeStatus: s.nodeStatus, Outputs: outputs{s.outputs}, Transparency: s.transparency(), Authenticator: stack,
		OnHost: ssh.Plan, Rebuilds: s.rebuilds, Snapshots: s.listSnapshots, Status: s.status, Ready: s.ready, Metrics: s.metrics, Now: time.Now, NewID: uuid.NewString, Logger: logger,
		MaxBody: config.Limits.Body, Age: s.age.now,
	})
	server.RegisterOnShutdown(handler.Close)
	inside.open(handler)
	_, _ = fmt.Fprintf(out, "commissaire listens on %s\n", endpoint)
	return s.run(ctx, server, serving)
}

// door leads to what answers now.
type door struct{ to atomic.Pointer[http.Handler] }

func (d *door) open(to http.Handler) { d.to.Store(&to) }

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*d.to.Load()).ServeHTTP(w, r) }

// run follows the log and acts while the server serves, until ctx ends or one of
// them fails.
func (s *service) run(ctx context.Context, server *http.Server, serving <-chan error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var running sync.WaitGroup
	start := func(f func() error) {
		running.Go(func() {
			if err := f(); err != nil {
				stop(err)
			}
		})
	}
	start(func() error {
		if err := <-serving; !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFollowing()
	start(func() error { return s.follow(following) })
	start(func() error {
		s.age.watch(following)
		return nil
	})
	start(func() error {
		s.lead(ctx)
		return nil
	})
	start(func() error {
		s.foldWhole(ctx)
		return nil
	})
	start(func() error {
		s.keepSnapshots(following)
		return nil
	})
	start(func() error {
		if s.sealed != nil {
			s.sealed.Run(following) // the last checkpoint is of what the last requests recorded, too
		}
		return nil
	})
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := server.Shutdown(grace) // requests under way still see their own events
	stopFollowing()
	running.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// lead acts whenever this instance leads, until ctx ends.
func (s *service) lead(ctx context.Context) {
	select {
	case <-s.whole:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		if err := s.leadOnce(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("this instance does not lead; trying again", "error", err)
			_ = sleep.For(ctx, redeliverAfter) // the loop asks whether ctx has ended
		}
	}
}

func (s *service) leadOnce(ctx context.Context) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	leading, term, err := s.store.log.Lead(ctx, s.views.Snapshot().Leader().Term)
	if err != nil {
		return err
	}
	s.leads.Store(true)
	defer s.leads.Store(false)
	if err := s.process.Run(leading, term); err != nil {
		return err
	}
	return fmt.Errorf("term %d is over: %w", term, context.Cause(leading))
}

// safeToListen refuses to let everybody on the network in.
func safeToListen(config Config, dev bool) error {
	ip := net.ParseIP(config.ListenInterface)
	if ip != nil && ip.IsLoopback() || config.ListenInterface == "localhost" || config.Insecure {
		return nil
	}
	switch {
	case dev && len(config.AuthenticationPlugins) == 0:
		return errors.New("--dev listens on loopback only: configure authentication-plugins and TLS to listen elsewhere")
	case len(config.AuthenticationPlugins) == 0:
		return errors.New("nobody could log in: configure authentication-plugins (commissaire user add makes the file), or listen on 127.0.0.1")
	case config.TLSPEMFile == "":
		return errors.New("passwords and keys would cross the network in the clear: set tls-pemfile, or listen on 127.0.0.1, or override with --insecure")
	}
	return nil
}
