package ssh

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"

	xssh "golang.org/x/crypto/ssh"
)

const (
	maxReason = 300  // bytes of a host's own words in an error
	maxStderr = 4096 // bytes of standard error that are read
	maxTail   = 1024 // process.Result.Tail
)

// Session is a connection to a host.
type Session struct {
	client *xssh.Client
	remote *Remote
	target process.Target
	key    process.HostKey

	over context.Context // ends with the connection
	end  context.CancelCauseFunc
	once sync.Once
}

var _ process.Session = (*Session)(nil)

func newSession(client *xssh.Client, remote *Remote, target process.Target, key process.HostKey) *Session {
	s := &Session{client: client, remote: remote, target: target, key: key}
	s.over, s.end = context.WithCancelCause(context.Background())
	go func() {
		err := client.Wait()
		if err == nil {
			err = io.EOF
		}
		s.end(err)
	}()
	go s.keepAlive(remote.config.KeepAlive)
	return s
}

// keepAlive closes a connection on which the host is silent for an interval.
func (s *Session) keepAlive(interval time.Duration) {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	answered := make(chan struct{}, 1)
	for waiting := false; ; waiting = true {
		select {
		case <-s.over.Done():
			return
		case <-ticks.C:
		}
		if waiting {
			select {
			case <-answered:
			default:
				s.end(fmt.Errorf("it gave no sign of life for %s", interval))
				_ = s.Close()
				return
			}
		}
		go func() {
			// The answer itself is of no interest: "unknown request" is one.
			if _, _, err := s.client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
				answered <- struct{}{}
			}
		}()
	}
}

// HostKey is the key that the host proved to have.
func (s *Session) HostKey() process.HostKey { return s.key }

// Close ends the connection. What was begun on the host goes on. It may be
// repeated.
func (s *Session) Close() error {
	s.once.Do(func() { _ = s.client.Close() })
	s.end(errors.New("the connection was closed"))
	return nil
}

// BootID reads the host's boot id, without sudo.
func (s *Session) BootID(ctx context.Context) (string, error) {
	a, err := s.ask(ctx, request{verb: "bootid", limit: s.remote.config.Answer, unprivileged: true})
	if err != nil {
		return "", err
	}
	id, err := parseBootID(a["boot-id"])
	if err != nil {
		return "", s.refused("%s", err)
	}
	return id, nil
}

// Facts reads all that is known of a host, in one round trip. It uses sudo, so
// that a user who may not is found out before anything is done.
func (s *Session) Facts(ctx context.Context) (event.Facts, error) {
	a, err := s.ask(ctx, request{verb: "facts", limit: s.remote.config.Answer})
	if err != nil {
		return event.Facts{}, err
	}
	facts, err := parseFacts(a)
	if err != nil {
		return event.Facts{}, s.refused("%s", err)
	}
	return facts, nil
}

// Run does the work once a turn. The host stops it after Config.Command, or
// shortly before the deadline that the context of the first call has, so that
// there is time left to say so.
func (s *Session) Run(ctx context.Context, turn process.Turn, work process.Work) (process.Result, error) {
	if err := s.check(turn); err != nil {
		return process.Result{}, err
	}
	family, known := familyOf(work.Facts.OS)
	if !known {
		return process.Result{}, s.refused("%s is not supported", osName(work.Facts))
	}
	switch work.Kind { //nolint:exhaustive // a restart is Reboot
	case domain.Upgrade:
		return s.run(ctx, turn, family.upgrade, "")
	case domain.Deploy:
		if family.deploy == "" {
			return process.Result{}, s.refused("there are no versions to deploy on %s", osName(work.Facts))
		}
		if !versionForm.MatchString(work.Version) {
			return process.Result{}, s.refused("%q is no version", clip(work.Version, 64))
		}
		return s.run(ctx, turn, family.deploy, work.Version)
	}
	return process.Result{}, s.refused("no command does a %s", work.Kind)
}

// versionForm is what rpm-ostree takes for a version, with room to spare.
var versionForm = regexp.MustCompile(`^[^\x00-\x1f\x7f]{1,256}$`)

// Reboot makes the host reboot, once a turn. Where its boot id no longer is
// bootID it has rebooted already: that succeeds too, and nothing is done.
func (s *Session) Reboot(ctx context.Context, turn process.Turn, bootID string) error {
	if err := s.check(turn); err != nil {
		return err
	}
	a, err := s.ask(ctx, request{verb: "reboot", arguments: []string{term(turn), turn.Name, bootID}, limit: s.remote.config.Answer})
	if err != nil {
		return err
	}
	switch said := strings.TrimSpace(a["reboot"]); said {
	case "new", "old", "booted":
		s.remote.log.InfoContext(ctx, "Reboot asked for", s.who(), slog.String("turn", turn.Name), slog.String("answer", said))
		return nil
	}
	return s.refused("its answer to a reboot makes no sense")
}

// Bootstrap makes the host fit by the configured profile. Repeated with the
// same turn it goes on where it was and does not do again what it did; after a
// failure, another turn is needed to try that step again.
func (s *Session) Bootstrap(ctx context.Context, turn process.Turn, b process.Bootstrap) error {
	if err := s.check(turn); err != nil {
		return err
	}
	config := s.remote.config.Bootstrap
	profile := config.Profile
	if len(profile.Steps) == 0 {
		return nil
	}
	family, known := familyOf(b.Facts.OS)
	if !known {
		return s.refused("%s is not supported", osName(b.Facts))
	}
	if len(profile.OS) > 0 && !slices.Contains(profile.OS, b.Facts.OS) {
		return s.refused("the bootstrap profile %s is for %s, not for %s", profile.Name, strings.Join(profile.OS, ", "), osName(b.Facts))
	}
	values, err := config.values(b.NetworkType, b.NetworkOptions)
	if err != nil {
		return &process.Refused{Reason: err.Error()}
	}
	for i, step := range profile.Steps {
		if !step.applies(b) {
			continue
		}
		if err := s.step(ctx, turn, i+1, step, family, values); err != nil {
			if refused, ok := errors.AsType[*process.Refused](err); ok {
				return &process.Refused{Reason: step.Name + ": " + refused.Reason}
			}
			return err
		}
	}
	return nil
}

func (s *Session) step(ctx context.Context, turn process.Turn, number int, step Step, family family, values Values) error {
	if step.File != nil {
		content, err := step.File.render(values)
		if err != nil {
			return &process.Refused{Reason: err.Error()}
		}
		if content == "" {
			return nil
		}
		return s.write(ctx, turn, *step.File, content)
	}
	command, argument := step.Command, ""
	switch {
	case len(step.Packages) > 0 && family.install == "":
		return s.refused("no packages are installed on %s", family.ids[0])
	case len(step.Packages) > 0:
		command, argument = family.packages(), strings.Join(step.Packages, "\n")+"\n"
	case len(step.Services) > 0:
		command, argument = services, strings.Join(step.Services, "\n")+"\n"
	}

	// The name holds what is done, so that a step that was configured to be
	// another one meanwhile is not taken for done.
	sum := sha256.Sum256([]byte(command + "\x00" + argument))
	turn.Name = fmt.Sprintf("%s-%d-%x", turn.Name, number, sum[:4])
	result, err := s.run(ctx, turn, command, argument)
	switch {
	case err != nil:
		return err
	case result.Exit == nil:
		return s.refused("%s", result.Interrupted)
	case *result.Exit != 0:
		return s.refused("exit status %d: %s", *result.Exit, lastLine(result.Tail, maxReason))
	}
	return nil
}

// write makes a file be as given.
func (s *Session) write(ctx context.Context, turn process.Turn, file File, content string) error {
	a, err := s.ask(ctx, request{
		verb:      "write",
		arguments: []string{term(turn), file.Mode, data(file.Path), data(content)},
		limit:     s.remote.config.Answer,
	})
	if err != nil {
		return err
	}
	switch said := strings.TrimSpace(a["written"]); said {
	case "changed", "same":
		s.remote.log.DebugContext(ctx, "File written", s.who(), slog.String("path", file.Path), slog.String("answer", said))
		return nil
	}
	return s.refused("its answer to writing %s makes no sense", file.Path)
}

// run has a command done once a turn and waits for its end.
func (s *Session) run(ctx context.Context, turn process.Turn, command, argument string) (process.Result, error) {
	limit := s.remote.config.Command
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
		limit -= min(limit/10, 30*time.Second)
	}
	seconds := max(1, int64(limit/time.Second))
	a, err := s.ask(ctx, request{
		verb:      "run",
		arguments: []string{term(turn), turn.Name, strconv.FormatInt(seconds, 10), data(command), data(argument)},
		// The host ends the command by itself; this is for one that does not.
		limit: limit + time.Minute + s.remote.config.Answer,
	})
	if err != nil {
		return process.Result{}, err
	}
	result, err := parseResult(a)
	if err != nil {
		return process.Result{}, s.refused("%s", err)
	}
	return result, nil
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

func parseResult(a answer) (process.Result, error) {
	var result process.Result
	kind, rest, _ := strings.Cut(strings.TrimSpace(a["state"]), " ")
	switch kind {
	case "exit":
		code, err := strconv.ParseUint(rest, 10, 8)
		if err != nil {
			return process.Result{}, errors.New("its exit status cannot be read")
		}
		status := int(code)
		result.Exit = &status
	case "ended":
		result.Interrupted = line(rest, maxText)
		if result.Interrupted == "" {
			result.Interrupted = "interrupted"
		}
	default:
		return process.Result{}, errors.New("its answer about a command makes no sense")
	}
	if _, printed := a["size"]; !printed {
		return result, nil
	}
	sum, _, _ := strings.Cut(a["sha256"], " ")
	if !digest.MatchString(sum) {
		return process.Result{}, errors.New("its digest of the output cannot be read")
	}
	result.Output = event.Output{Size: number(a["size"], math.MaxInt64), SHA256: sum}
	result.Tail = tail(a["tail"], maxTail)
	return result, nil
}

// request is one call of the script.
type request struct {
	verb         string
	arguments    []string
	limit        time.Duration
	unprivileged bool
}

// ask sends the script with a request and reads the answer. It fails with
// *Fenced and *Refused where the script says so, with *Unreachable where the
// connection broke or the time limit passed, and with the context's error.
func (s *Session) ask(ctx context.Context, r request) (answer, error) {
	random := make([]byte, 16)
	rand.Read(random) // never fails
	marker := hex.EncodeToString(random)
	text, err := call(marker, r.verb, r.arguments...)
	if err != nil {
		return nil, s.refused("%s", err)
	}
	command := "/bin/sh -s"
	if s.target.User != domain.Root && !r.unprivileged {
		command = "sudo -n /bin/sh -s"
	}

	slow := fmt.Errorf("it gave no answer within %s", r.limit)
	limited, cancel := context.WithTimeoutCause(ctx, r.limit, slow)
	defer cancel()
	type outcome struct {
		answer answer
		err    error
	}
	done := make(chan outcome, 1)
	go func() { // a host may stop reading, writing and closing; then this ends with the connection
		a, err := s.exchange(limited, command, marker, text)
		done <- outcome{a, err}
	}()
	var got outcome
	select {
	case got = <-done:
	case <-limited.Done():
		got.err = context.Cause(limited)
	case <-s.over.Done():
		// What came before the end is worth having.
		select {
		case got = <-done:
		case <-time.After(time.Second):
			got.err = context.Cause(s.over)
		}
	}
	var refused *process.Refused
	switch {
	case got.err == nil:
	case ctx.Err() != nil:
		return nil, fmt.Errorf("ask %s for %s: %w", s.target.Host, r.verb, context.Cause(ctx))
	case errors.As(got.err, &refused):
		return nil, refused
	default:
		if s.over.Err() != nil {
			got.err = context.Cause(s.over)
		}
		return nil, &process.Unreachable{Reason: fmt.Sprintf("the connection to %s broke: %s", s.target.Host, line(got.err.Error(), maxReason))}
	}

	a := got.answer
	if seen, fenced := a["fenced"]; fenced {
		return nil, &process.Fenced{Seen: domain.Term(number(seen, math.MaxInt64))}
	}
	return a, nil
}

// exchange is one channel: the script goes in, the answer comes out.
func (s *Session) exchange(ctx context.Context, command, marker, text string) (answer, error) {
	session, err := s.client.NewSession()
	if closed, ok := errors.AsType[*xssh.OpenChannelError](err); ok {
		return nil, s.refused("it opens no channel: %s", line(closed.Message, maxReason))
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = session.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()

	stdout, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr := &bounded{limit: maxStderr}
	session.Stderr = stderr
	session.Stdin = strings.NewReader(text)
	if err := session.Start(command); err != nil {
		if s.over.Err() != nil || errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, s.refused("it runs no commands: %s", line(err.Error(), maxReason))
	}
	a, err := readAnswer(stdout, marker)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		// Broken, or the shell ended without an answer: it says which.
		var none *xssh.ExitMissingError
		if wait := session.Wait(); errors.As(wait, &none) || s.over.Err() != nil {
			return nil, wait
		}
		return nil, s.refused("it does not run %s: %s", command, stderr.lastLine())
	case err != nil:
		return nil, s.refused("%s", err)
	}
	if why, refused := a["refused"]; refused {
		reason := line(why, maxReason)
		if said := stderr.lastLine(); said != "" {
			reason += " (" + said + ")"
		}
		return nil, s.refused("%s", reason)
	}
	return a, nil
}

// bounded keeps the first bytes of what is written to it.
type bounded struct {
	mu    sync.Mutex
	text  bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(p[:min(len(p), b.limit-b.text.Len())])
	return len(p), nil
}

func (b *bounded) lastLine() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return lastLine(b.text.String(), maxReason)
}

func (s *Session) refused(format string, arguments ...any) error {
	return &process.Refused{Reason: fmt.Sprintf(format, arguments...)}
}

func (s *Session) who() slog.Attr { return slog.String("host", string(s.target.Host)) }

// check refuses a turn that the host would not understand.
func (s *Session) check(turn process.Turn) error {
	if !turnName.MatchString(turn.Name) {
		return s.refused("%q is no name of a turn", clip(turn.Name, 64))
	}
	if uint64(turn.Term) > math.MaxInt64 {
		return s.refused("%d is no term", turn.Term)
	}
	return nil
}

func term(turn process.Turn) string { return strconv.FormatUint(uint64(turn.Term), 10) }

// osName is how a host's system is named in a reason: "debian 12", or "atomic
// (centos 7)".
func osName(facts event.Facts) string {
	name := facts.OS
	switch {
	case strings.HasPrefix(facts.OSRelease, facts.OS):
		name = facts.OSRelease
	case facts.OSRelease != "":
		name += " (" + facts.OSRelease + ")"
	}
	return strconv.Quote(clip(name, maxText))
}
