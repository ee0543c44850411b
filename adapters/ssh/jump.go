package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/domain"

	xssh "golang.org/x/crypto/ssh"
)

// Jump is a host by way of which all others are reached. It needs no shell, only
// to allow connections onward. It is the operator's choice, so the denied ranges
// do not bind it.
//
// Names of hosts are resolved there. So the denied ranges are held against
// addresses that are written as such, and not against those that names turn out
// to have: PermitOpen at the jump host, or a filter behind it, is for that.
type Jump struct {
	Host    domain.Address
	Port    int // 0: 22
	User    domain.RemoteUser
	Key     commands.Secret // text of a private key that ParsePrivateKey takes
	HostKey string          // its fingerprint, SHA256:…
}

// jump connects by way of a Jump, over one connection for all hosts. The first
// that needs it makes it, and the next after it broke.
type jump struct {
	remote *Remote
	target process.Target
	key    commands.Secret
	where  string // for a person

	mu   sync.Mutex
	link *link // nil: none is there or being made
}

// link is a connection to the jump host.
type link struct {
	made   chan struct{} // closed when there is client or err
	client *xssh.Client
	err    error

	over context.Context // ends with the connection
	end  context.CancelFunc
}

func newJump(remote *Remote, config Jump) *jump {
	return &jump{
		remote: remote, key: config.Key,
		where:  fmt.Sprintf("the jump host %s", config.Host),
		target: process.Target{Host: config.Host, Port: config.Port, User: config.User, Pinned: &process.HostKey{Fingerprint: config.HostKey}},
	}
}

// dial connects to a host behind the jump host. Its errors tell which of the two
// is at fault.
func (j *jump) dial(ctx context.Context, address string) (net.Conn, error) {
	if to, err := netip.ParseAddrPort(address); err == nil && j.remote.config.Reach.Denied(to.Addr()) {
		return nil, &process.Refused{Reason: (&deniedError{to.Addr()}).Error()}
	}
	for again := false; ; again = true {
		l, isNew := j.current()
		select {
		case <-l.made:
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s by way of %s: %w", address, j.where, context.Cause(ctx))
		}
		if l.err != nil {
			return nil, l.err
		}
		limited, cancel := context.WithTimeout(ctx, j.remote.config.Dial)
		conn, err := opened(l.over, func() (net.Conn, error) { return l.client.DialContext(limited, "tcp", address) })
		late := limited.Err() != nil && l.over.Err() == nil
		cancel()
		closed, refused := errors.AsType[*xssh.OpenChannelError](err)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("connect to %s by way of %s: %w", address, j.where, context.Cause(ctx))
		case refused && closed.Reason == xssh.ConnectionFailed:
			return nil, &process.Unreachable{Reason: fmt.Sprintf("%s has no connection to %s: %s", j.where, address, why(closed))}
		case refused:
			return nil, &process.Refused{Reason: fmt.Sprintf("%s does not allow a connection to %s: %s", j.where, address, why(closed))}
		case late:
			return nil, &process.Unreachable{Reason: fmt.Sprintf("%s had no connection to %s within %s", j.where, address, j.remote.config.Dial)}
		}
		j.drop(l)
		if isNew || again {
			return nil, &process.Unreachable{Reason: "the connection to " + j.where + " broke"}
		}
	}
}

// current is the connection to the jump host, which may still be in the making;
// isNew when it was not there before.
func (j *jump) current() (l *link, isNew bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.link != nil {
		return j.link, false
	}
	l = &link{made: make(chan struct{})}
	l.over, l.end = context.WithCancel(context.Background())
	j.link = l
	go j.connect(l)
	return l, true
}

// connect makes a connection and keeps it until it breaks. It is for all that
// wait for it, so none of them ends it.
func (j *jump) connect(l *link) {
	login, err := j.remote.config.Algorithms.parseLogin(j.key, "")
	if err == nil {
		l.client, _, err = j.remote.connect(context.Background(), j.target, login, func(ctx context.Context, address string) (net.Conn, error) {
			return j.remote.tcp(ctx, address, nil)
		})
	}
	if err != nil {
		l.err = j.failed(err)
		j.drop(l) // before anybody knows: who comes then is not told of it
		close(l.made)
		return
	}
	close(l.made)
	defer j.drop(l)
	go func() {
		_ = l.client.Wait() // that it is over is all that is of interest
		l.end()
	}()
	keepAlive(l.client, j.remote.config.KeepAlive, l.over.Done())
}

// drop forgets a connection, so that the next host makes another.
func (j *jump) drop(l *link) {
	j.mu.Lock()
	if j.link == l {
		j.link = nil
	}
	j.mu.Unlock()
	l.end()
	if l.client != nil {
		_ = l.client.Close() // it may be closed
	}
}

// failed is why there is no connection to the jump host. Nothing of it says
// anything about the host behind it.
func (j *jump) failed(err error) error {
	var (
		changed *process.KeyChanged
		away    *process.Unreachable
	)
	switch {
	case errors.As(err, &changed):
		return &process.Refused{Reason: fmt.Sprintf("%s shows the host key %s %s, and ssh.jump.host-key is %s: nothing was sent to it",
			j.where, changed.Shown.Type, changed.Shown.Fingerprint, j.target.Pinned.Fingerprint)}
	case errors.As(err, &away):
		return &process.Unreachable{Reason: j.where + " is out of reach: " + away.Reason}
	}
	return &process.Refused{Reason: j.where + " cannot be used: " + err.Error()}
}

// keepAlive returns when a connection is over, or when the other side gave no
// sign of life for an interval.
func keepAlive(client *xssh.Client, interval time.Duration, over <-chan struct{}) {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		select {
		case <-over:
			return
		case <-ticks.C:
		}
		silent := time.AfterFunc(interval, func() { _ = client.Close() })
		_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
		silent.Stop()
		if err != nil {
			return
		}
	}
}
