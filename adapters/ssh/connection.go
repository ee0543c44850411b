package ssh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"commissaire/commands/process"
	"commissaire/commands/sleep"
	"commissaire/domain"
	"commissaire/domain/event"

	xssh "golang.org/x/crypto/ssh"
)

// A connection is a login on a host with, from the first request on, one shell.
// The shell is that of root, by one sudo where the user is another one, and holds
// the script, once something is asked that needs it. As long as nothing but the
// boot id is asked for it is the user's own and holds nothing: most connections
// are made by the watch, for that alone, and it should not fill a host's log with
// sudo.
type connection struct {
	client *xssh.Client
	user   domain.RemoteUser
	key    process.HostKey // what the host proved to have

	over   context.Context // ends with the connection; its cause is why
	cancel context.CancelCauseFunc

	interval time.Duration // of signs of life
	alive    *time.Timer

	turn  chan struct{} // holds one: requests are one after the other
	shell *shell        // nil: none yet, or it has ended
}

var (
	errClosed = errors.New("the connection was closed")
	errCut    = errors.New("it ended without an answer")
)

func newConnection(client *xssh.Client, user domain.RemoteUser, key process.HostKey, interval time.Duration) *connection {
	c := &connection{client: client, user: user, key: key, interval: interval, turn: make(chan struct{}, 1)}
	c.over, c.cancel = context.WithCancelCause(context.Background())
	c.alive = time.AfterFunc(time.Hour, c.prove)
	c.hold()
	return c
}

// agreed is what was agreed on with the host when it was connected to; the same is
// agreed on when keys are exchanged again.
func (c *connection) agreed() event.SSH {
	metadata, ok := c.client.Conn.(xssh.AlgorithmsConnMetadata)
	if !ok {
		return event.SSH{}
	}
	a := metadata.Algorithms()
	return event.SSH{KeyExchange: a.KeyExchange, HostKey: a.HostKey, Cipher: a.Write.Cipher, MAC: a.Write.MAC}
}

// await ends c when its other side does, and then calls ended.
func (c *connection) await(ended func()) {
	err := c.client.Wait()
	if err == nil {
		err = io.EOF
	}
	c.end(err)
	ended()
}

// end ends the connection; only the first cause counts. A request that is under
// way fails.
func (c *connection) end(cause error) {
	c.cancel(cause)
	c.alive.Stop()
	_ = c.client.Close()
}

// hold begins to ask for signs of life, rest ends that.
func (c *connection) hold() { c.alive.Reset(c.interval) }
func (c *connection) rest() { c.alive.Stop() }

// prove ends a connection on which the host is silent for an interval.
func (c *connection) prove() {
	silent := time.AfterFunc(c.interval, func() { c.end(fmt.Errorf("it gave no sign of life for %s", c.interval)) })
	// The answer itself is of no interest: "unknown request" is one.
	_, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil)
	if silent.Stop() && err == nil && c.over.Err() == nil {
		c.hold()
	}
}

func (c *connection) release() { <-c.turn }

// sound says whether another request may follow: one was answered, in full.
func (c *connection) sound() bool { return c.over.Err() == nil && c.shell != nil }

// said are words of what the shell printed on standard error since it was asked
// last. That may come after the answer, so it is waited for, though not long.
func (c *connection) said() string {
	if c.shell == nil {
		return ""
	}
	for range 10 {
		if said := words(c.shell.stderr.String()); said != "" {
			return said
		}
		_ = sleep.For(c.over, 20*time.Millisecond) // an answer may have come before the end
	}
	return ""
}

// request is what a host is asked for.
type request struct {
	verb       string
	arguments  []string
	privileged bool
	limit      time.Duration
	printed    func(from int64, text []byte) // as readAnswer has it
	waiting    func(why string)              // as readAnswer has it
}

// rejected says that the host was reached and what it said was no answer.
type rejected struct{ reason string }

func (e *rejected) Error() string { return e.reason }

func reject(format string, arguments ...any) error {
	return &rejected{fmt.Sprintf(format, arguments...)}
}

// exchange asks the shell and reads its answer. It ends when the connection is
// ended. Where it fails with *rejected the connection goes on only if nothing of
// an answer can come any more.
func (c *connection) exchange(r request) (answer, error) {
	marker := newMarker()
	text, err := call(marker, r.verb, r.arguments...)
	if err != nil {
		return nil, reject("%s", err)
	}
	if err := c.open(r.privileged); err != nil {
		return nil, err
	}
	s := c.shell
	if r.verb != bootIDVerb && !s.taught {
		text, s.taught = Script+"\n"+text, true
	}
	var a answer
	if _, err = io.WriteString(s.stdin, text); err == nil || errors.Is(err, io.EOF) {
		a, err = readAnswer(s.stdout, marker, r.printed, r.waiting)
	}
	if err == nil {
		return a, nil
	}
	c.shell = nil
	if errors.Is(err, errTooLong) || errors.Is(err, errNoBeginning) {
		c.end(err)
		return nil, reject("%s", err)
	}
	if none, ok := errors.AsType[*noAnswer](err); ok && errors.Is(err, io.ErrUnexpectedEOF) {
		// Broken, or killed, as when the host goes down, or the shell ended without an
		// answer: it says which.
		ended := s.session.Wait()
		_, cut := errors.AsType[*xssh.ExitMissingError](ended)
		exit, failed := errors.AsType[*xssh.ExitError](ended)
		if !cut && (!failed || exit.Signal() == "") && c.over.Err() == nil {
			status := 0
			if failed {
				status = exit.ExitStatus()
			}
			return nil, reject("it does not run %s: %s", s.command, c.notRun(none, s.stderr.String(), status))
		}
		none.err = errCut
	}
	return nil, err
}

// notRun says why a shell ended without an answer, and what can be done.
func (c *connection) notRun(none *noAnswer, errors string, status int) string {
	switch said := words(none.said + "\n" + errors); {
	case said != "":
		return said + remedy(said, string(c.user))
	case none.began:
		return fmt.Sprintf("it ended in the middle of its answer, with exit status %d", status)
	default:
		return fmt.Sprintf("it ended with exit status %d and printed nothing", status)
	}
}

// open sees to it that there is a shell that may do what is asked.
func (c *connection) open(privileged bool) error {
	command, root := "/bin/sh -s", c.user == domain.Root
	if privileged && !root {
		command, root = "sudo -n /bin/sh -s", true
	}
	retries := 0
	if c.shell != nil {
		if c.shell.root || !privileged {
			c.shell.stderr.reset() // of an earlier request; what a new shell says first is about this one
			return nil
		}
		_ = c.shell.session.Close() // its end is of no interest, unless the host allows no more shells
		c.shell, retries = nil, 39
	}
	session, err := c.newSession(retries)
	if err != nil {
		return err
	}
	s := &shell{session: session, command: command, root: root}
	session.Stderr = &s.stderr
	if s.stdin, err = session.StdinPipe(); err != nil {
		return err
	}
	if s.stdout, err = session.StdoutPipe(); err != nil {
		return err
	}
	if err := session.Start(command); err != nil {
		_ = session.Close()
		if c.over.Err() != nil || errors.Is(err, io.EOF) {
			return err
		}
		return reject("it runs no commands: %s", words(err.Error()))
	}
	c.shell = s
	return nil
}

// newSession opens a channel, and tries again so many times while the host refuses to.
func (c *connection) newSession(retries int) (*xssh.Session, error) {
	for {
		session, err := opened(c.over, c.client.NewSession)
		closed, refused := errors.AsType[*xssh.OpenChannelError](err)
		if !refused {
			return session, err
		}
		if retries--; retries < 0 {
			return nil, reject("it opens no channel: %s", why(closed))
		}
		_ = sleep.For(c.over, 50*time.Millisecond) // opening fails where the connection has ended
	}
}

// opened is what open returns, which opens a channel on a connection, or fails
// when that is over. On a connection that ends at the very moment open may never
// return: the library puts the channel on a list that it has gone through already.
func opened[C any](over context.Context, open func() (C, error)) (C, error) {
	type outcome struct {
		channel C
		err     error
	}
	done := make(chan outcome, 1)
	go func() {
		channel, err := open()
		done <- outcome{channel, err}
	}()
	select {
	case o := <-done:
		return o.channel, o.err
	case <-over.Done():
		return *new(C), context.Cause(over)
	}
}

// why is what the other side says of a channel that it did not open.
func why(closed *xssh.OpenChannelError) string {
	return cmp.Or(words(closed.Message), closed.Reason.String())
}

// A shell runs on the host until the connection ends.
type shell struct {
	session *xssh.Session
	command string
	root    bool
	taught  bool // holds the script

	stdin  io.Writer
	stdout io.Reader
	stderr bounded
}

const maxStderr = 4096 // bytes of standard error that are held

// bounded keeps the first bytes of what is written to it since it was reset.
type bounded struct {
	mu   sync.Mutex
	text []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p[:min(len(p), maxStderr-len(b.text))]...)
	return len(p), nil
}

// ReadFrom does what io.Copy would do, with a smaller buffer: it is held for as
// long as the shell is.
func (b *bounded) ReadFrom(r io.Reader) (total int64, err error) {
	chunk := make([]byte, 512)
	for {
		n, err := r.Read(chunk)
		total += int64(n)
		_, _ = b.Write(chunk[:n]) // never fails
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (b *bounded) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = b.text[:0]
}

func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}
