// Package ssh reaches hosts over SSH and has work done there: it implements
// process.Remote.
//
// What is sent is one fixed script, host.sh, and after it one line a request that
// holds it as data. Both go to the standard input of /bin/sh, so nothing of a
// request is interpreted by a shell or shown by ps. One shell serves a connection,
// one request after the other; each answer is framed by a marker of its own, and
// where one does not come, or not in full, the connection ends with it, so that
// nothing of it is taken for a part of the next. The host keeps a record of each
// turn and of the highest term, which makes repeating a request harmless and a
// late request of a former leader void; nothing here needs to remember anything.
//
// Connections may be kept for the next one who dials the same host in the same
// way. Whoever gets one cannot tell: Dial has asked the host for its boot id on it
// and, where there was no answer, has connected anew. Only that is ever repeated.
//
// A host may lie: what it says is bounded, made valid UTF-8 and never
// interpreted. A key other than the pinned one ends the connection before
// anything, the user's name included, is sent.
//
// What differs between operating systems is data in families; what makes a host
// fit is data in a Profile.
package ssh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"commissaire/commands"
	"commissaire/commands/process"

	xssh "golang.org/x/crypto/ssh"
)

// Config says how hosts are reached. Its zero value is usable.
type Config struct {
	Dial      time.Duration // to connect; default 10 s
	Handshake time.Duration // to agree on keys and log in; default 10 s
	KeepAlive time.Duration // between signs of life, and to wait for one; default 15 s
	Answer    time.Duration // for all but Run; default 2 min
	Command   time.Duration // for Run where its context has no deadline, and for each step of Bootstrap; default 1 h

	KeepOpen int           // idle connections that are kept; default 0
	KeepFor  time.Duration // that nobody takes one, until it is closed; default 10 min

	Reach     Reach
	Bootstrap Bootstrap
}

func (c Config) withDefaults() Config {
	c.Dial = cmp.Or(c.Dial, 10*time.Second)
	c.Handshake = cmp.Or(c.Handshake, 10*time.Second)
	c.KeepAlive = cmp.Or(c.KeepAlive, 15*time.Second)
	c.Answer = cmp.Or(c.Answer, 2*time.Minute)
	c.Command = cmp.Or(c.Command, time.Hour)
	c.KeepFor = cmp.Or(c.KeepFor, 10*time.Minute)
	if c.Bootstrap.Profile.Name == "" {
		c.Bootstrap.Profile = FlannelDocker
	}
	return c
}

// Remote reaches hosts. It may be used by many at once.
type Remote struct {
	config      Config
	credentials commands.Credentials
	log         *slog.Logger
	kept        *kept
}

// New makes a Remote that logs in with keys from credentials: the secret of a
// host is the text of a private key that ParsePrivateKey takes.
func New(config Config, credentials commands.Credentials, log *slog.Logger) *Remote {
	config = config.withDefaults()
	return &Remote{config: config, credentials: credentials, log: log, kept: newKept(config.KeepOpen, config.KeepFor)}
}

// Close ends the connections that are kept. Sessions go on, and end for good when
// they are closed.
func (r *Remote) Close() { r.kept.close() }

var _ process.Remote = (*Remote)(nil)

// Dial connects and logs in, or takes a connection that was kept, is to the same
// target and answers. Besides the errors of process.Remote it fails with the
// context's error when it ended, and where the credential store cannot be read.
func (r *Remote) Dial(ctx context.Context, target process.Target) (process.Session, error) {
	if c := r.kept.take(target); c != nil {
		session := &Session{connection: c, remote: r, target: target}
		id, err := session.bootID(ctx, r.config.Dial) // to answer must not take longer than to connect
		if err == nil {
			session.proved.Store(&id)
			return session, nil
		}
		c.end(err)
		if ctx.Err() != nil {
			return nil, err
		}
	}
	secret, err := r.credentials.Read(ctx, target.Credential)
	if errors.Is(err, commands.ErrNoCredential) {
		return nil, &process.Refused{Reason: fmt.Sprintf("there is no private key for %s (any more)", target.Host)}
	}
	if err != nil {
		return nil, fmt.Errorf("read the private key for %s: %w", target.Host, err)
	}
	signer, err := parseKey(secret)
	if err != nil {
		return nil, &process.Refused{Reason: err.Error()}
	}
	if target.Pinned == nil || target.Pinned.Type != "" {
		var first string
		if target.Pinned != nil {
			first = target.Pinned.Type
		}
		return r.connect(ctx, target, signer, hostKeyAlgorithms(first))
	}

	// Of the pinned key only the fingerprint is known, and a host shows the one
	// key it is asked for: ask for each.
	algorithms := hostKeyAlgorithms("")
	var changed error
	for _, algorithm := range algorithms {
		session, err := r.connect(ctx, target, signer, []string{algorithm})
		var none *xssh.AlgorithmNegotiationError
		var other *process.KeyChanged
		switch {
		case errors.As(err, &other):
			changed = cmp.Or(changed, err)
		case errors.As(err, &none):
		default:
			return session, err
		}
	}
	if changed == nil {
		return nil, &process.Refused{Reason: fmt.Sprintf("%s has no host key of a type that is supported (%s)", target.Host, strings.Join(keyTypes, ", "))}
	}
	return nil, changed
}

// connect makes one connection. *xssh.AlgorithmNegotiationError stays visible
// to errors.As in what it returns.
func (r *Remote) connect(ctx context.Context, target process.Target, signer xssh.Signer, algorithms []string) (process.Session, error) {
	port := cmp.Or(target.Port, 22)
	address := net.JoinHostPort(string(target.Host), strconv.Itoa(port))
	dialer := net.Dialer{Timeout: r.config.Dial, Control: r.config.Reach.Control}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, r.notConnected(ctx, address, err)
	}

	var shown process.HostKey
	config := &xssh.ClientConfig{
		User:              string(target.User),
		Auth:              []xssh.AuthMethod{xssh.PublicKeys(signer)},
		ClientVersion:     "SSH-2.0-Commissaire",
		HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, key xssh.PublicKey) error {
			shown = hostKey(key)
			if pin := target.Pinned; pin != nil && pin.Fingerprint != shown.Fingerprint {
				return &process.KeyChanged{Host: target.Host, Shown: shown}
			}
			return nil
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	limit := time.AfterFunc(r.config.Handshake, func() { _ = conn.Close() })
	client, channels, requests, err := xssh.NewClientConn(conn, address, config)
	ended, late := !stop(), !limit.Stop()
	if err == nil && (ended || late) {
		err = net.ErrClosed
		_ = client.Close()
	}
	if err != nil {
		_ = conn.Close()
		if ended {
			return nil, fmt.Errorf("connect to %s: %w", address, context.Cause(ctx))
		}
		return nil, r.notLoggedIn(target, signer, address, late, err)
	}
	c := newConnection(xssh.NewClient(client, channels, requests), target.User, shown, r.config.KeepAlive)
	go c.await(func() { r.kept.forget(c, target.HostID) })
	return &Session{connection: c, remote: r, target: target}, nil
}

func (r *Remote) notConnected(ctx context.Context, address string, err error) error {
	var (
		denied *deniedError
		name   *net.DNSError
		slow   net.Error
	)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("connect to %s: %w", address, context.Cause(ctx))
	case errors.As(err, &denied):
		return &process.Refused{Reason: denied.Error()}
	case errors.As(err, &name):
		return &process.Unreachable{Reason: fmt.Sprintf("the name %s could not be resolved", name.Name)}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &process.Unreachable{Reason: fmt.Sprintf("nothing listens on %s: is the host up, and sshd running?", address)}
	case errors.As(err, &slow) && slow.Timeout():
		return &process.Unreachable{Reason: fmt.Sprintf("%s did not answer within %s", address, r.config.Dial)}
	}
	return &process.Unreachable{Reason: fmt.Sprintf("no connection to %s: %s", address, line(err.Error(), maxReason))}
}

func (r *Remote) notLoggedIn(target process.Target, signer xssh.Signer, address string, late bool, err error) error {
	var (
		changed *process.KeyChanged
		none    *xssh.AlgorithmNegotiationError
	)
	switch {
	case errors.As(err, &changed):
		return changed
	case errors.As(err, &none):
		return &noAlgorithm{
			Refused: process.Refused{Reason: fmt.Sprintf("%s and this service have no SSH algorithm in common: %s", address, line(none.Error(), maxReason))},
			cause:   none,
		}
	case late:
		return &process.Unreachable{Reason: fmt.Sprintf("%s took the connection, but SSH was not ready within %s: is it sshd that listens there, and is the host overloaded?", address, r.config.Handshake)}
	case strings.Contains(err.Error(), "unable to authenticate"):
		return &process.Refused{Reason: fmt.Sprintf("%s does not let %s in with the key %s: add its public half to authorized_keys there, or give another key",
			address, target.User, xssh.FingerprintSHA256(signer.PublicKey()))}
	}
	return &process.Unreachable{Reason: fmt.Sprintf("no SSH with %s: %s", address, line(err.Error(), maxReason))}
}

// noAlgorithm is a *process.Refused that still tells why.
type noAlgorithm struct {
	process.Refused
	cause error
}

func (e *noAlgorithm) Unwrap() []error { return []error{&e.Refused, e.cause} }
