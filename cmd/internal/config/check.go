package config

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"commissaire/adapters/ssh"
	"commissaire/domain"
)

// check refuses values that cannot be meant, each section by itself.
func (c Config) check() error {
	for _, check := range []func() error{
		c.checkListener, c.checkStore, c.SSH.check, c.Operations.check, c.Watch.check, c.ContainerManagers.check,
		c.EventStoreDB.check, c.Limits.check, c.Events.check, c.Snapshots.check, c.Log.check, c.Bootstrap.check, c.SSH.Jump.check, c.checkPlugins,
	} {
		if err := check(); err != nil {
			return fmt.Errorf("the configuration: %w", err)
		}
	}
	return nil
}

func (c Config) checkListener() error {
	switch {
	case !isPort(c.ListenPort) && c.ListenPort != 0:
		return errors.New("listen-port must be from 0 (any free one) to 65535")
	case c.TLSClientVerifyFile != "" && c.TLSPEMFile == "":
		return errors.New("tls-clientverifyfile needs tls-pemfile too")
	}
	return nil
}

func isPort(n int) bool { return n >= 1 && n <= 65535 }

func (c Config) checkStore() error {
	if err := c.Location().Check("store", "credentials.keys"); err != nil {
		return err
	}
	if len(c.Instance) > 128 || strings.ContainsFunc(c.Instance, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) {
		return errors.New("instance must have at most 128 bytes, and no blanks")
	}
	return nil
}

func (c SSH) check() error {
	switch {
	case c.Attempts < 1 || c.AtOnce < 1:
		return errors.New("ssh.attempts and ssh.at-once must be at least 1")
	case c.DialTimeout <= 0 || c.HandshakeTimeout <= 0 || c.RetryDelay < 0:
		return errors.New("ssh.dial-timeout and ssh.handshake-timeout must be more than 0, ssh.retry-delay not less")
	case c.Algorithms != ssh.Modern && c.Algorithms != ssh.Compatible:
		return errors.New("ssh.algorithms must be modern, or compatible: also SHA-1, and RSA keys of 1024 bits and more")
	}
	return nil
}

func (j Jump) check() error {
	some, all := j.User != "" || j.Key != "" || j.HostKey != "", j.User != "" && j.Key != "" && j.HostKey != ""
	switch {
	case j.Address == "" && some:
		return errors.New("ssh.jump needs an address")
	case j.Address != "" && !all:
		return errors.New("ssh.jump needs a user, a key (file:PATH, env:NAME or exec:COMMAND) and the host-key of the jump host (SHA256:…, as ssh-keygen -l prints it)")
	case !isPort(j.Port):
		return errors.New("ssh.jump.port must be from 1 to 65535")
	case j.HostKey == "":
		return nil
	}
	if _, err := domain.ParseFingerprint(j.HostKey); err != nil {
		return fmt.Errorf("ssh.jump.host-key %w", err)
	}
	return nil
}

func (o Operations) check() error {
	switch {
	case o.HealthInterval <= 0:
		return errors.New("operations.health-interval must be more than 0")
	case o.RebootFirstLook < 0 || o.RebootTimeout <= o.RebootFirstLook:
		return errors.New("operations.reboot-timeout must be more than operations.reboot-first-look, and that not less than 0")
	case o.OutputLimit < 4096 || o.OutputMaxAge <= 0 || o.OutputMaxSize < 0:
		return errors.New("operations.output-limit must be at least 4096 (bytes), operations.output-max-age more than 0, operations.output-max-size not less")
	}
	return nil
}

func (w Watch) check() error {
	if w.Concurrency < 1 || w.Misses < 1 || w.Interval <= 0 {
		return errors.New("watch.interval, watch.concurrency and watch.misses must be more than 0")
	}
	return nil
}

func (m ContainerManagers) check() error {
	if m.Timeout <= 0 {
		return errors.New("container-managers.timeout must be more than 0")
	}
	return nil
}

func (e EventStoreDB) check() error {
	if e.Lease < Duration(time.Second) {
		return errors.New("eventstoredb.lease must be at least 1s")
	}
	return nil
}

func (l Limits) check() error {
	if l.Body < 1 || l.Headers < 1 || l.ReadTimeout <= 0 || l.IdleTimeout <= 0 {
		return errors.New("limits.body, limits.headers, limits.read-timeout and limits.idle-timeout must be more than 0")
	}
	return nil
}

func (e Events) check() error {
	if e.Heartbeat <= 0 || e.Readers < 0 {
		return errors.New("events.heartbeat must be more than 0, events.readers not less")
	}
	return nil
}

func (s Snapshots) check() error {
	if s.Events < 1 || s.MaxAge <= 0 || s.MaxSize < 0 {
		return errors.New("snapshots.events must be at least 1, snapshots.max-age more than 0, snapshots.max-size (bytes) not less")
	}
	return nil
}

func (l Log) check() error {
	switch {
	case l.CheckpointInterval <= 0:
		return errors.New("log.checkpoint-interval must be more than 0")
	case l.SigningKey == "" && (l.CheckpointFile != "" || l.CheckpointURL != ""):
		return errors.New("log.checkpoint-file and log.checkpoint-url need log.signing-key; commissaire events key makes one")
	case l.CheckpointURL != "" && !strings.HasPrefix(l.CheckpointURL, "https://") && !strings.HasPrefix(l.CheckpointURL, "http://"):
		return errors.New("log.checkpoint-url must begin with https:// or http://")
	}
	return nil
}

func (b Bootstrap) check() error {
	if (b.EtcdClientCert == "") != (b.EtcdClientKey == "") {
		return errors.New("bootstrap.etcd-client-cert and bootstrap.etcd-client-key need each other")
	}
	return nil
}

func (c Config) checkPlugins() error {
	for _, p := range c.AuthenticationPlugins {
		if p.shortName() != "httpbasicauth" {
			return fmt.Errorf("authentication-plugins: %q is not there; httpbasicauth is", p.Name)
		}
		if (p.FilePath == "") == (len(p.Users) == 0) {
			return errors.New("authentication-plugins: httpbasicauth needs filepath or users, and not both")
		}
	}
	return nil
}
