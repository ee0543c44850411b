package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// login says who may log in.
type login struct {
	user string
	keys []ssh.PublicKey
}

func (l login) allows(user string, key ssh.PublicKey) bool {
	return user == l.user && slices.ContainsFunc(l.keys, func(k ssh.PublicKey) bool {
		return bytes.Equal(k.Marshal(), key.Marshal())
	})
}

// accept serves connections until the listener is closed.
func (h *Host) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		if h.listener != listener {
			h.mu.Unlock()
			conn.Close()
			return
		}
		h.conns[conn] = true
		h.mu.Unlock()
		h.fleet.start(func() {
			h.serve(conn)
			conn.Close()
			h.mu.Lock()
			delete(h.conns, conn)
			h.mu.Unlock()
		})
	}
}

// serve speaks SSH on one connection, until it breaks.
func (h *Host) serve(conn net.Conn) {
	h.mu.Lock()
	faults, key, b := h.faults, h.key, h.boot
	h.mu.Unlock()
	if faults.HangHandshake {
		io.Copy(io.Discard, conn)
		return
	}
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if faults.RefuseKey || !h.fleet.login.allows(c.User(), key) {
				return nil, errors.New("key refused")
			}
			return nil, nil
		},
	}
	config.AddHostKey(key)
	conn.SetDeadline(time.Now().Add(time.Minute))
	sshConn, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		h.fleet.start(func() {
			switch offered.ChannelType() {
			case "session":
				if channel, requests, err := offered.Accept(); err == nil {
					h.session(b, sshConn.User(), channel, requests)
				}
			case "direct-tcpip":
				h.forward(offered)
			default:
				offered.Reject(ssh.UnknownChannelType, "no such channel type")
			}
		})
	}
}

// session runs the one command of a session.
func (h *Host) session(b *boot, user string, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for request := range requests {
		var command struct{ Text string }
		switch request.Type {
		case "env":
			request.Reply(false, nil)
			continue
		case "exec":
			if ssh.Unmarshal(request.Payload, &command) != nil {
				request.Reply(false, nil)
				continue
			}
		case "shell":
			command.Text = "exec sh -s"
		default:
			request.Reply(false, nil)
			continue
		}
		request.Reply(true, nil)
		go ssh.DiscardRequests(requests)
		exit := h.logIn(b, user, command.Text, channel)
		channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(exit)}))
		return
	}
}

// logIn runs a command in a user's login shell. It goes on when the connection
// breaks, until it writes.
func (h *Host) logIn(b *boot, user, command string, channel ssh.Channel) int {
	ctx, cancel := context.WithCancel(b.ctx)
	jobs := newJobs(nil, cancel)
	defer jobs.end()
	p := &process{
		host:  h,
		boot:  b,
		user:  user,
		uid:   1000,
		dir:   home(user),
		umask: 0o022,
		jobs:  jobs,
		stdin: channel,
	}
	if user == "root" {
		p.uid = 0
	}
	p.env = []string{
		"HOME=" + p.dir, "USER=" + user, "LOGNAME=" + user, "SHELL=/bin/sh",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	stdout, stderr := newPump(channel, cancel), newPump(channel.Stderr(), cancel)
	p.stdout, p.stderr = stdout, stderr
	io.WriteString(stdout, h.fault().Noise)
	var exit int
	if plain.MatchString(command) { // as shells do, without another process
		exit = p.run(ctx, strings.Fields(command))
	} else {
		exit = p.shell(ctx, command, []string{"--"})
	}
	stdout.flush()
	stderr.flush()
	return exit
}

// home is a user's home.
func home(user string) string {
	if user == "root" {
		return "/root"
	}
	return "/home/" + user
}

// plain is a command that a shell would not change.
var plain = regexp.MustCompile(`^/?(usr/)?(bin/sh|sudo)( [A-Za-z0-9/-]+)*$`)

// A pump is a pipe to the other side of a connection: what is written in quick
// succession goes there together.
type pump struct {
	to     io.Writer
	broken func() // called when the other side is gone

	mu      sync.Mutex
	waiting []byte
	going   bool
	soon    *time.Timer
	err     error
	moved   *sync.Cond
}

const (
	mostWaiting = 64 << 10 // bytes, as in a pipe
	succession  = 500 * time.Microsecond
)

func newPump(to io.Writer, broken func()) *pump {
	p := &pump{to: to, broken: broken}
	p.moved = sync.NewCond(&p.mu)
	return p
}

func (p *pump) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && len(p.waiting) >= mostWaiting {
		p.moved.Wait()
	}
	if p.err != nil {
		return 0, p.err
	}
	if len(p.waiting) == 0 && len(text) > 0 {
		if p.soon == nil {
			p.soon = time.AfterFunc(succession, p.flush)
		} else {
			p.soon.Reset(succession)
		}
	}
	p.waiting = append(p.waiting, text...)
	return len(text), nil
}

// flush sends all that waits.
func (p *pump) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.going {
		p.moved.Wait()
	}
	if len(p.waiting) == 0 {
		return
	}
	p.soon.Stop()
	p.going = true
	for len(p.waiting) > 0 && p.err == nil {
		text := p.waiting
		p.waiting = nil
		p.mu.Unlock()
		_, err := p.to.Write(text)
		p.mu.Lock()
		if err != nil {
			p.err = fmt.Errorf("write to the connection: %w", err)
			p.broken()
		}
		p.moved.Broadcast()
	}
	p.going = false
	p.moved.Broadcast()
}

// forward connects to another host of the fleet, and to nothing else: a jump host.
func (h *Host) forward(offered ssh.NewChannel) {
	var want struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if ssh.Unmarshal(offered.ExtraData(), &want) != nil || h.fleet.Host(want.Host) == nil || int(want.Port) != h.fleet.port {
		offered.Reject(ssh.Prohibited, "only hosts of the fleet")
		return
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(h.fleet.ctx, "tcp4", net.JoinHostPort(want.Host, strconv.Itoa(int(want.Port))))
	if err != nil {
		offered.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)
	go func() {
		io.Copy(conn, channel)
		conn.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(channel, conn)
	channel.CloseWrite()
}
