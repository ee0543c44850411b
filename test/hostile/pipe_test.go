package hostile_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// pipe is a connection in memory. What is written waits for whoever reads, so that
// no one who writes waits while holding what others need.
type pipe struct {
	mu     sync.Mutex
	stirs  *sync.Cond
	ends   [2]end
	fault  fault // of what the server writes
	closed [2]bool
}

// end is what comes to one of the two who are connected.
type end struct {
	text []byte
	over bool // no more comes
}

// fault is what becomes of a connection.
type fault struct {
	kind  string // "": nothing; cut, freeze
	after int    // bytes that the server has written
}

const (
	client = iota
	server
)

func newPipe(f fault) (*pipe, net.Conn, net.Conn) {
	p := &pipe{fault: f}
	p.stirs = sync.NewCond(&p.mu)
	return p, &pipeEnd{p, client}, &pipeEnd{p, server}
}

// cut ends both directions at once.
func (p *pipe) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends[client].over, p.ends[server].over = true, true
	p.stirs.Broadcast()
}

// left tells whether who connected has closed the connection.
func (p *pipe) left() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed[client]
}

type pipeEnd struct {
	*pipe
	me int
}

var errBroken = errors.New("the connection is broken")

func (e *pipeEnd) Read(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := &e.ends[e.me]
	for len(in.text) == 0 || e.me == server && e.frozen() {
		switch {
		case e.closed[e.me]:
			return 0, net.ErrClosed
		case in.over:
			return 0, io.EOF
		}
		e.stirs.Wait()
	}
	n := copy(b, in.text)
	in.text = in.text[n:]
	return n, nil
}

func (e *pipeEnd) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed[e.me] || e.ends[1-e.me].over {
		return 0, errBroken
	}
	if e.me == server && e.fault.kind != "" {
		if e.fault.after -= len(b); e.fault.after <= 0 && e.fault.kind == "cut" {
			e.ends[client].over, e.ends[server].over = true, true
			e.stirs.Broadcast()
			return 0, errBroken
		}
		if e.frozen() {
			return len(b), nil
		}
	}
	e.ends[1-e.me].text = append(e.ends[1-e.me].text, b...)
	e.stirs.Broadcast()
	return len(b), nil
}

func (e *pipeEnd) frozen() bool { return e.fault.kind == "freeze" && e.fault.after <= 0 }

func (e *pipeEnd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed[e.me] = true
	e.ends[client].over, e.ends[server].over = true, true
	e.stirs.Broadcast()
	return nil
}

func (e *pipeEnd) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 254), Port: 22} }

func (e *pipeEnd) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 22} }
func (e *pipeEnd) SetDeadline(time.Time) error      { return nil }
func (e *pipeEnd) SetReadDeadline(time.Time) error  { return nil }
func (e *pipeEnd) SetWriteDeadline(time.Time) error { return nil }
