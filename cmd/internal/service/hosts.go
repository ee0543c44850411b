package service

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/containermanager"
	"commissaire/adapters/credentials"
	"commissaire/adapters/output"
	"commissaire/adapters/ssh"
	"commissaire/cmd/internal/config"
	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/domain"
)

// hosts is how hosts and their container managers are reached.
type hosts struct {
	reach    ssh.Reach
	profile  ssh.Profile
	remote   *ssh.Remote
	managers *containermanager.Managers
}

func openHosts(ctx context.Context, c config.Config, reach ssh.Reach, secrets *credentials.Store, logger *slog.Logger) (*hosts, error) {
	profile, err := ssh.LoadProfile(c.Bootstrap.Profile)
	if err != nil {
		return nil, err
	}
	knownHosts, err := openKnownHosts(c.SSH, logger)
	if err != nil {
		return nil, err
	}
	jump, err := readJump(ctx, c.SSH.Jump, c.SSH.Algorithms)
	if err != nil {
		return nil, err
	}
	h := &hosts{reach: reach, profile: profile}
	h.remote = ssh.New(ssh.Config{
		Dial: time.Duration(c.SSH.DialTimeout), Handshake: time.Duration(c.SSH.HandshakeTimeout),
		Algorithms: c.SSH.Algorithms, Reach: reach, KnownHosts: knownHosts, Jump: jump,
		KeepOpen: c.Watch.KeepOpen.Number(),
		KeepFor:  max(20*time.Minute, 2*time.Duration(c.Watch.Interval)), // more than a host is left alone
		Bootstrap: ssh.Bootstrap{
			Profile: profile, EtcdURL: c.Bootstrap.EtcdURL, FlannelKey: c.Bootstrap.FlannelKey,
			RegistryMirror: c.Bootstrap.RegistryMirror, EtcdCertificate: c.Bootstrap.EtcdClientCert,
			EtcdKey: c.Bootstrap.EtcdClientKey, EtcdCA: c.Bootstrap.EtcdCA,
		},
	}, secrets, logger)
	h.managers = containermanager.New(containermanager.Config{
		Credentials: secrets, CertificateDir: c.ContainerManagers.CertificateDir, Control: reach.Control,
		Timeout: time.Duration(c.ContainerManagers.Timeout),
	})
	return h, nil
}

// process is what acts on the hosts.
func (h *hosts) process(c config.Config, handler *commands.Handler, secrets *credentials.Store, outputs *output.Store, logger *slog.Logger) *process.Process {
	return process.New(process.Config{
		Commands: handler, Credentials: secrets, Outputs: outputs, Managers: h.managers.Of, Profile: h.profile.Name,
		Remote:   h.remote,
		Attempts: c.SSH.Attempts, RetryDelay: time.Duration(c.SSH.RetryDelay), AtOnce: c.SSH.AtOnce,
		RebootFirstLook: time.Duration(c.Operations.RebootFirstLook), RebootTimeout: time.Duration(c.Operations.RebootTimeout),
		HealthInterval: time.Duration(c.Operations.HealthInterval), Probe: ssh.NewProbe(h.reach),
		WatchInterval: time.Duration(c.Watch.Interval), WatchConcurrency: c.Watch.Concurrency, WatchMisses: c.Watch.Misses,
		NewID: uuid.New, Now: time.Now, Logger: logger,
	})
}

func (h *hosts) close() {
	h.remote.Close()
	h.managers.Close()
}

// openKnownHosts opens the configured file; nil where there is none.
func openKnownHosts(c config.SSH, logger *slog.Logger) (*ssh.KnownHosts, error) {
	if c.KnownHosts == "" {
		return nil, nil
	}
	known, err := ssh.OpenKnownHosts(c.KnownHosts, logger)
	if err != nil {
		return nil, fmt.Errorf("ssh.known-hosts: %w", err)
	}
	return known, nil
}

// readJump reads the configured jump host, with its key; nil where there is none.
func readJump(ctx context.Context, c config.Jump, algorithms ssh.Algorithms) (*ssh.Jump, error) {
	if c.Address == "" {
		return nil, nil
	}
	host, err := domain.ParseAddress(c.Address)
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.address: %w", err)
	}
	user, err := domain.ParseRemoteUser(c.User)
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.user: %q is no account name", c.User)
	}
	hostKey, err := domain.ParseFingerprint(c.HostKey)
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.host-key %w", err)
	}
	key, err := credentials.Source(ctx, c.Key)
	if err == nil {
		_, err = algorithms.ParsePrivateKey(key)
	}
	if err != nil {
		return nil, fmt.Errorf("ssh.jump.key: %w", err)
	}
	return &ssh.Jump{Host: host, Port: c.Port, User: user, Key: key, HostKey: hostKey}, nil
}

// denied refuses addresses that this service may not connect to.
func denied(reach ssh.Reach) func(domain.Address) error {
	return func(address domain.Address) error {
		if ip, ok := address.IP(); ok && reach.Denied(ip) {
			return domain.ErrInvalid.At("address", "%s is in a range that this service may not connect to", ip)
		}
		return nil
	}
}
