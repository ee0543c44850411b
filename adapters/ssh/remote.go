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
// interpreted. A key that is not the host's (KnownHosts says how that is known)
// ends the connection before anything, the user's name included, is sent.
//
// What differs between operating systems is data in families; what makes a host
// fit is data in a Profile.
//
// README.md says what a host needs, and what is done there.
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
	"commissaire/domain"
	"commissaire/domain/event"

	xssh "golang.org/x/crypto/ssh"
)

// Config says how hosts are reached. Its zero value is usable.
type Config struct {
	Dial      time.Duration // to connect; default 10 s
	Handshake time.Duration // to agree on keys and log in; default 10 s
	AtOnce    int           // handshakes; default 128. More at once take longer each, until all are too late
	KeepAlive time.Duration // between signs of life, and to wait for one; default 15 s
	Answer    time.Duration // for all but Run; default 2 min
	Command   time.Duration // for Run where its context has no deadline, and for each step of Bootstrap; default 1 h

	KeepOpen int           // idle connections that are kept; default 0
	KeepFor  time.Duration // that nobody takes one, until it is closed; default 10 min

	Algorithms Algorithms // default Modern
	// Dialer connects to an address; nil: by TCP, where Reach allows it. Its errors are
	// those of net.Dialer.
	Dialer func(ctx context.Context, address string) (net.Conn, error)

	Reach      Reach
	KnownHosts *KnownHosts // nil: the first key that a host shows is taken
	Jump       *Jump       // nil: hosts are connected to directly
	Bootstrap  Bootstrap
}

func (c Config) withDefaults() Config {
	c.Dial = cmp.Or(c.Dial, 10*time.Second)
	c.Handshake = cmp.Or(c.Handshake, 10*time.Second)
	c.AtOnce = cmp.Or(c.AtOnce, 128)
	c.KeepAlive = cmp.Or(c.KeepAlive, 15*time.Second)
	c.Answer = cmp.Or(c.Answer, 2*time.Minute)
	c.Command = cmp.Or(c.Command, time.Hour)
	c.Algorithms = cmp.Or(c.Algorithms, Modern)
	c.KeepFor = cmp.Or(c.KeepFor, 10*time.Minute)
	if c.Bootstrap.Profile.Name == "" {
		c.Bootstrap.Profile = FlannelDocker
	}
	return c
}

// Remote reaches hosts. It may be used by many at once. It holds the connections
// that are kept, and the one to the jump host, where there is one.
type Remote struct {
	config      Config
	credentials commands.Credentials
	log         *slog.Logger
	pool        *pool
	dial        dial          // how hosts are connected to
	places      chan struct{} // of handshakes
}

// dial connects to an address. It fails with *process.Unreachable,
// *process.Refused and the context's error.
type dial func(ctx context.Context, address string) (net.Conn, error)

// New makes a Remote that logs in with keys from credentials: the secret of a
// host is the text of a private key that ParsePrivateKey takes.
func New(config Config, credentials commands.Credentials, log *slog.Logger) *Remote {
	config = config.withDefaults()
	r := &Remote{config: config, credentials: credentials, log: log, pool: newPool(config.KeepOpen, config.KeepFor), places: make(chan struct{}, config.AtOnce)}
	r.dial = r.direct
	if config.Jump != nil {
		r.dial = newJump(r, *config.Jump).dial
	}
	return r
}

// Close ends the connections that are kept. Sessions go on, and end for good when
// they are closed.
func (r *Remote) Close() { r.pool.close() }

var _ process.Remote = (*Remote)(nil)

// Plan is the function Plan.
func (r *Remote) Plan(kind domain.OperationKind, version string, policy event.Policy, facts event.Facts) (commands []string, skip, problem string) {
	return Plan(kind, version, policy, facts)
}

// Dial connects and logs in, or takes a connection that was kept, is to the same
// target and answers. Besides the errors of process.Remote it fails with the
// context's error when it ended, and where the credential store cannot be read.
func (r *Remote) Dial(ctx context.Context, target process.Target) (process.Session, error) {
	if c := r.pool.take(target); c != nil {
		session := &Session{connection: c, remote: r, target: target, reused: true}
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
	if errors.Is(err, commands.ErrDamagedCredential) {
		return nil, &process.Refused{Reason: fmt.Sprintf("the private key for %s cannot be opened: %s", target.Host, commands.ErrDamagedCredential)}
	}
	if err != nil {
		return nil, fmt.Errorf("read the private key for %s: %w", target.Host, err)
	}
	login, err := r.config.Algorithms.parseLogin(secret, target.Certificate)
	if err != nil {
		return nil, &process.Refused{Reason: err.Error()}
	}
	client, key, err := r.connect(ctx, target, login, r.dial)
	if err != nil {
		return nil, err
	}
	c := newConnection(client, target.User, key, r.config.KeepAlive)
	go c.await(func() { r.pool.forget(c, target.HostID) })
	return &Session{connection: c, remote: r, target: target}, nil
}

// connect makes a connection and logs in.
func (r *Remote) connect(ctx context.Context, target process.Target, login login, dial dial) (*xssh.Client, process.HostKey, error) {
	trust := newTrust(r.config.KnownHosts, target, r.config.Algorithms)
	algorithms := trust.algorithms()
	if !trust.bare() {
		return r.handshake(ctx, target, login, dial, trust, algorithms)
	}

	// Of the pinned key only the fingerprint is known, and a host shows the one
	// key it is asked for: ask for each.
	var changed, last error
	for _, algorithm := range algorithms {
		client, key, err := r.handshake(ctx, target, login, dial, trust, []string{algorithm})
		var none *xssh.AlgorithmNegotiationError
		var other *process.KeyChanged
		switch {
		case errors.As(err, &other):
			changed = cmp.Or(changed, err)
		case errors.As(err, &none) && none.What == hostKeyAlgorithm:
			last = err
		default:
			return client, key, err
		}
	}
	return nil, process.HostKey{}, cmp.Or(changed, last)
}

// handshake makes one connection. *xssh.AlgorithmNegotiationError stays visible
// to errors.As in what it returns.
func (r *Remote) handshake(ctx context.Context, target process.Target, login login, dial dial, trust *trust, algorithms []string) (*xssh.Client, process.HostKey, error) {
	address := net.JoinHostPort(string(target.Host), strconv.Itoa(cmp.Or(target.Port, 22)))
	made, err := dial(ctx, address)
	if err != nil {
		return nil, process.HostKey{}, err
	}
	conn := &transcript{Conn: made}
	config := &xssh.ClientConfig{
		Config:            r.config.Algorithms.offer(),
		User:              string(target.User),
		Auth:              []xssh.AuthMethod{xssh.PublicKeys(login.signers()...)},
		AuthCallback:      conn.next,
		BannerCallback:    conn.note,
		ClientVersion:     "SSH-2.0-Commissaire",
		HostKeyAlgorithms: algorithms,
		HostKeyCallback:   trust.check,
	}
	select {
	case r.places <- struct{}{}:
		defer func() { <-r.places }()
	case <-ctx.Done():
		_ = conn.Close()
		return nil, process.HostKey{}, fmt.Errorf("connect to %s: %w", address, context.Cause(ctx))
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
			return nil, process.HostKey{}, fmt.Errorf("connect to %s: %w", address, context.Cause(ctx))
		}
		return nil, process.HostKey{}, r.notLoggedIn(target, login, address, late, conn, err)
	}
	return xssh.NewClient(client, channels, requests), trust.shown, nil
}

// direct connects to an address that is not denied, whatever name it has.
func (r *Remote) direct(ctx context.Context, address string) (net.Conn, error) {
	if r.config.Dialer == nil {
		return r.tcp(ctx, address, r.config.Reach.Control)
	}
	limited, cancel := context.WithTimeout(ctx, r.config.Dial)
	defer cancel()
	conn, err := r.config.Dialer(limited, address)
	if err != nil {
		return nil, r.notConnected(ctx, address, err)
	}
	return conn, nil
}

func (r *Remote) tcp(ctx context.Context, address string, control func(network, address string, c syscall.RawConn) error) (net.Conn, error) {
	dialer := net.Dialer{Timeout: r.config.Dial, Control: control}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, r.notConnected(ctx, address, err)
	}
	return conn, nil
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

func (r *Remote) notLoggedIn(target process.Target, login login, address string, late bool, transcript *transcript, err error) error {
	var (
		changed   *process.KeyChanged
		untrusted *process.Refused
		none      *xssh.AlgorithmNegotiationError
	)
	said := transcript.said(string(target.User))
	switch {
	case errors.As(err, &changed):
		return changed
	case errors.As(err, &untrusted):
		return untrusted
	case errors.As(err, &none):
		return &noAlgorithm{
			Refused: process.Refused{Reason: fmt.Sprintf("%s and this service have no SSH algorithm in common: %s", address, r.config.Algorithms.disagreement(none))},
			cause:   none,
		}
	case transcript.more() != "":
		return &process.Refused{Reason: fmt.Sprintf("%s takes the key %s of %s and asks for more, which nobody is there to answer (%s): see that it lets this user in with the key alone (AuthenticationMethods in its sshd_config)",
			address, xssh.FingerprintSHA256(login.key.PublicKey()), target.User, transcript.more())}
	case late:
		return &process.Unreachable{Reason: fmt.Sprintf("%s took the connection, but SSH was not ready within %s: is it sshd that listens there, and is the host overloaded?%s", address, r.config.Handshake, said)}
	case strings.Contains(err.Error(), "no common public key signature algorithm"):
		return &process.Refused{Reason: fmt.Sprintf("%s lets %s in only with an RSA key that signs with SHA-1: update it, give a key of another type, or set ssh.algorithms to compatible", address, target.User)}
	case strings.Contains(err.Error(), "unable to authenticate"):
		return &process.Refused{Reason: fmt.Sprintf("%s does not let %s in with %s%s", address, target.User, login.refused(), said)}
	}
	return &process.Unreachable{Reason: fmt.Sprintf("no SSH with %s: %s%s", address, line(err.Error(), maxReason), said)}
}

// noAlgorithm is a *process.Refused that still tells why.
type noAlgorithm struct {
	process.Refused
	cause error
}

func (e *noAlgorithm) Unwrap() []error { return []error{&e.Refused, e.cause} }
