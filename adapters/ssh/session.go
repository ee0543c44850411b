package ssh

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

const (
	maxReason = 300 // bytes of a host's own words in an error

	maxWarnings = 20
	maxWarning  = 200 // bytes of one
)

// Session is a connection to a host, in the hands of one caller.
type Session struct {
	connection *connection
	remote     *Remote
	target     process.Target

	proved   atomic.Pointer[string] // the boot id that Dial saw, until it is asked for
	rebooted atomic.Bool
	reused   bool // the connection was, before Dial
	closed   bool // read and written in the connection's turn
}

var _ process.Session = (*Session)(nil)

// HostKey is the key that the host proved to have.
func (s *Session) HostKey() process.HostKey { return s.connection.key }

// Reused implements process.Reused.
func (s *Session) Reused() bool { return s.reused }

// Close ends the connection, or gives it back where idle ones are kept and this
// one is sound. What was begun on the host goes on. It may be repeated.
func (s *Session) Close() error {
	c := s.connection
	select {
	case c.turn <- struct{}{}:
	default: // a request is under way, which ends with the connection
		c.end(errClosed)
		return nil
	}
	defer c.release()
	if s.closed {
		return nil
	}
	s.closed = true
	if !c.sound() || s.rebooted.Load() || !s.remote.pool.put(c, s.target) {
		c.end(errClosed)
	}
	return nil
}

// BootID reads the host's boot id, without sudo unless the session has used it
// already.
func (s *Session) BootID(ctx context.Context) (string, error) {
	if id := s.proved.Swap(nil); id != nil {
		return *id, nil
	}
	return s.bootID(ctx, s.remote.config.Answer)
}

func (s *Session) bootID(ctx context.Context, limit time.Duration) (string, error) {
	a, err := s.ask(ctx, request{verb: bootIDVerb, limit: limit})
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
	leader, err := s.leader()
	if err != nil {
		return event.Facts{}, err
	}
	a, err := s.ask(ctx, request{verb: "facts", arguments: leader, privileged: true, limit: s.remote.config.Answer})
	if err != nil {
		return event.Facts{}, err
	}
	facts, err := parseFacts(a)
	if err != nil {
		return event.Facts{}, s.unfit(err.Error())
	}
	facts.SSH = s.connection.agreed()
	return facts, nil
}

// TakeOver makes the host that of this log, whosever it was.
func (s *Session) TakeOver(ctx context.Context) error {
	leader, err := s.leader()
	if err != nil {
		return err
	}
	a, err := s.ask(ctx, request{verb: "take", arguments: leader, privileged: true, limit: s.remote.config.Answer})
	if err != nil {
		return err
	}
	if _, taken := a["taken"]; !taken {
		return s.refused("its answer to being taken over makes no sense")
	}
	return nil
}

// Run does the work of an id once. The host stops it after Config.Command, or
// shortly before the deadline that the context of the first call has, so that
// there is time left to say so.
func (s *Session) Run(ctx context.Context, id process.WorkID, work process.Work) (process.Result, error) {
	if _, err := s.workID(id); err != nil {
		return process.Result{}, err
	}
	command, skip, problem := commandOf(work.Kind, work.Act, work.Version, work.BypassDriver, work.Facts)
	if why := cmp.Or(problem, skip); why != "" {
		return process.Result{}, s.refused("%s", why)
	}
	argument := work.Version
	if work.Act == process.CleanUp {
		argument = work.Facts.PendingID
	}
	var output process.Output
	if work.Output != nil {
		shown := strings.Join(people(command, work.Version), " && ")
		if work.Act == process.CleanUp {
			shown = "rpm-ostree cleanup -p"
		}
		output = work.Output(shown)
	}
	return s.run(ctx, id, wrapped(command), argument, work, output)
}

// RebootNeeded says why the host's package manager wants a reboot; "" where it does
// not, or cannot say. The host asks it for at most a minute.
func (s *Session) RebootNeeded(ctx context.Context) (why string, err error) {
	a, err := s.ask(ctx, request{verb: "needs-reboot", privileged: true, limit: max(s.remote.config.Answer, 2*time.Minute)})
	if err != nil {
		return "", err
	}
	return inOneLine(a["reboot-needed"], maxReason), nil
}

// Check runs a health command as root, as often as it is asked to. The host ends
// it after Config.Answer, or shortly before ctx's deadline.
func (s *Session) Check(ctx context.Context, command string) (exit int, said string, err error) {
	limit := s.remote.config.Answer
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	leader, err := s.leader()
	if err != nil {
		return 0, "", err
	}
	seconds := max(1, int64((limit-limit/10)/time.Second))
	a, err := s.ask(ctx, request{
		verb: "check", privileged: true, limit: limit,
		arguments: append(leader, strconv.FormatInt(seconds, 10), data(command)),
	})
	if err != nil {
		return 0, "", err
	}
	status, err := strconv.ParseUint(strings.TrimSpace(a["exit"]), 10, 8)
	if err != nil {
		return 0, "", s.refused("its answer about a health command makes no sense")
	}
	return int(status), words(a["output"]), nil
}

// within is how many seconds the host has to do what it must answer in time.
func (s *Session) within() string {
	return strconv.FormatInt(max(1, int64(s.remote.config.Answer*3/4/time.Second)), 10)
}

// oneLine is what can be handed to rpm-ostree safely, whatever the log holds. Which
// versions a client may ask for, domain.ParseVersion says.
var oneLine = regexp.MustCompile(`^[^\x00-\x1f\x7f]{1,256}$`)

// Reboot makes the host reboot, once an id, when nothing else of this service's is
// done to it. Where its boot id no longer is bootID it has rebooted already: that
// succeeds too, and nothing is done. It fails with *process.Refused, and the host's
// words, where the host will not.
func (s *Session) Reboot(ctx context.Context, id process.WorkID, bootID string) error {
	arguments, err := s.workID(id)
	if err != nil {
		return err
	}
	s.rebooted.Store(true) // a connection to what goes down is not worth keeping
	a, err := s.ask(ctx, request{verb: "reboot", privileged: true, arguments: append(arguments, s.within(), bootID), limit: s.remote.config.Answer})
	if err != nil {
		return err
	}
	if _, over := a["state"]; over {
		result, err := parseResult(a)
		if err != nil {
			return s.refused("%s", err)
		}
		how, _ := result.Failed()
		return s.refused("the order to reboot %s", how)
	}
	switch said := strings.TrimSpace(a["reboot"]); said {
	case "new", "old", "booted":
		s.remote.log.InfoContext(ctx, "Reboot asked for", s.who(), slog.String("turn", string(id)), slog.String("answer", said))
		return nil
	}
	return s.refused("its answer to a reboot makes no sense")
}

// Bootstrap makes the host fit by the configured profile. Repeated with the
// same id it goes on where it was and does not do again what it did; after a
// failure, another id is needed to try that step again.
func (s *Session) Bootstrap(ctx context.Context, id process.WorkID, b process.Bootstrap) error {
	if _, err := s.workID(id); err != nil {
		return err
	}
	config := s.remote.config.Bootstrap
	profile := config.Profile
	if len(profile.Steps) == 0 {
		return nil
	}
	if problem := unsupported(b.Facts); problem != "" {
		return s.refused("%s", problem)
	}
	if len(profile.OS) > 0 && !named(profile.OS, b.Facts) {
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
		if err := s.step(ctx, id, i+1, step, b.Facts, values); err != nil {
			if refused, ok := errors.AsType[*process.Refused](err); ok {
				return &process.Refused{Reason: step.Name + ": " + refused.Reason}
			}
			return err
		}
	}
	return nil
}

func (s *Session) step(ctx context.Context, id process.WorkID, number int, step Step, facts event.Facts, values Values) error {
	if step.File != nil {
		content, err := step.File.render(values)
		if err != nil {
			return &process.Refused{Reason: err.Error()}
		}
		if content == "" {
			return nil
		}
		return s.write(ctx, *step.File, content)
	}
	command, argument := step.Command, ""
	switch {
	case len(step.Packages) > 0:
		tool, problem := toolOf(facts)
		switch {
		case problem != "":
			return s.refused("%s", problem)
		case tool.install == "":
			return s.refused("no packages are installed on %s", osName(facts))
		}
		command, argument = vocabulary+tool.packages(), strings.Join(step.Packages, "\n")+"\n"
	case len(step.Services) > 0:
		command, argument = services, strings.Join(step.Services, "\n")+"\n"
	}

	// The name holds what is done, so that a step that was configured to be
	// another one meanwhile is not taken for done.
	sum := sha256.Sum256([]byte(command + "\x00" + argument))
	id = process.WorkID(fmt.Sprintf("%s-%d-%x", id, number, sum[:4]))
	result, err := s.run(ctx, id, command, argument, process.Work{}, nil)
	switch {
	case err != nil:
		return err
	case result.Exit == nil:
		return s.refused("%s", result.Interrupted)
	case *result.Exit != 0:
		return s.refused("exit status %d: %s", *result.Exit, cmp.Or(result.Said, "it printed nothing"))
	}
	return nil
}

// write makes a file be as given.
func (s *Session) write(ctx context.Context, file File, content string) error {
	leader, err := s.leader()
	if err != nil {
		return err
	}
	a, err := s.ask(ctx, request{
		verb:       "write",
		arguments:  append(leader, s.within(), file.Mode, data(file.Path), data(content)),
		privileged: true,
		limit:      s.remote.config.Answer,
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

// run has the command of an id done once and waits for its end. What it prints goes to
// output, unless that is nil, as it comes, and is there when run returns a result.
// Of work are its limit and what is told of it.
func (s *Session) run(ctx context.Context, id process.WorkID, command, argument string, work process.Work, output process.Output) (result process.Result, err error) {
	arguments, err := s.workID(id)
	if err != nil {
		return process.Result{}, err
	}
	limit := cmp.Or(work.Limit, s.remote.config.Command)
	if deadline, ok := ctx.Deadline(); ok && work.Limit == 0 {
		limit = time.Until(deadline)
		limit -= min(limit/10, 30*time.Second)
	}
	seconds := max(1, int64(limit/time.Second))
	r := request{
		verb:       "run",
		arguments:  append(arguments, strconv.FormatInt(seconds, 10), cmp.Or(work.BootID, "-"), data(command), data(argument)),
		privileged: true,
		// The host ends the command by itself; this is for one that does not.
		limit:   limit + time.Minute + s.remote.config.Answer,
		waiting: work.Waiting,
	}
	if work.Waiting != nil {
		defer work.Waiting("")
	}
	var said saying
	if output != nil {
		defer func() { output.Close(err == nil) }()
		from, head, tail := output.Wanted()
		for _, n := range []int64{from, head, tail} {
			r.arguments = append(r.arguments, strconv.FormatInt(n, 10))
		}
		r.printed = func(from int64, text []byte) {
			said.addFrom(from, text)
			output.Write(from, text)
		}
	}
	a, err := s.ask(ctx, r)
	if err != nil {
		return process.Result{}, err
	}
	if result, err = parseResult(a); err != nil {
		return process.Result{}, s.refused("%s", err)
	}
	if output != nil {
		end := []byte(a["tail"])
		r.printed(max(0, result.Output.Size-int64(len(end))), end)
		result.Said = said.String()
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
	result.Warnings = warnings(a["warnings"])
	if _, printed := a["size"]; !printed {
		return result, nil
	}
	sum, _, _ := strings.Cut(a["sha256"], " ")
	if !digest.MatchString(sum) {
		return process.Result{}, errors.New("its digest of the output cannot be read")
	}
	result.Output = event.Output{Size: number(a["size"], math.MaxInt64), SHA256: sum}
	result.Said = words(a["tail"])
	return result, nil
}

// warnings are the lines of a host about what went wrong though its command
// succeeded, each once.
func warnings(text string) (all []string) {
	for line := range strings.Lines(text) {
		line = clip(printable(line), maxWarning)
		if line != "" && line != "--" && !slices.Contains(all, line) && len(all) < maxWarnings {
			all = append(all, line)
		}
	}
	return all
}

// ask carries out a request. It fails with *Fenced, *Foreign and *Refused where the
// host says so, with *Unreachable where the connection broke or the time limit passed,
// and with the context's error. After the last two the connection has ended.
func (s *Session) ask(ctx context.Context, r request) (answer, error) {
	s.proved.Store(nil)
	c := s.connection
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, s.gaveUp(ctx, r)
	}
	defer c.release()
	if s.closed {
		return nil, s.broke(errClosed)
	}
	limited, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	stop := context.AfterFunc(limited, func() { c.end(fmt.Errorf("it gave no answer within %s", r.limit)) })
	a, err := c.exchange(r)
	stop()
	var rejected *rejected
	switch {
	case err == nil:
	case ctx.Err() != nil:
		c.end(errClosed)
		return nil, s.gaveUp(ctx, r)
	case errors.As(err, &rejected):
		return nil, s.refused("%s", rejected.reason)
	default:
		c.end(err)
		why := context.Cause(c.over)
		if none, ok := errors.AsType[*noAnswer](err); ok && none.said != "" {
			why = fmt.Errorf("%w; it said: %s", why, none.said)
		}
		return nil, s.broke(why)
	}
	if seen, fenced := a["fenced"]; fenced {
		return nil, &process.Fenced{Host: s.target.Host, Seen: domain.Term(number(seen, math.MaxInt64)), Ours: s.target.Leader.Term}
	}
	if who, foreign := a["foreign"]; foreign {
		return nil, s.foreign(who)
	}
	if why, refused := a["refused"]; refused {
		return nil, s.unfit(cmp.Or(words(why), "it refuses, and does not say why"))
	}
	return a, nil
}

// unfit refuses, and tells what the host said about it.
func (s *Session) unfit(why string) error {
	if said := s.connection.said(); said != "" {
		why += " (" + said + ")"
	}
	return s.refused("%s", why)
}

func (s *Session) gaveUp(ctx context.Context, r request) error {
	return fmt.Errorf("ask %s for %s: %w", s.target.Host, r.verb, context.Cause(ctx))
}

func (s *Session) broke(why error) error {
	return &process.Unreachable{Reason: fmt.Sprintf("the connection to %s broke: %s", s.target.Host, line(why.Error(), 2*maxReason))}
}

func (s *Session) refused(format string, arguments ...any) error {
	return &process.Refused{Reason: fmt.Sprintf(format, arguments...)}
}

func (s *Session) who() slog.Attr { return slog.String("host", string(s.target.Host)) }

// foreign reads "OWNER SINCE TERM" as far as it makes sense.
func (s *Session) foreign(who string) error {
	foreign := &process.Foreign{Host: s.target.Host}
	words := append(strings.Fields(clip(who, 256)), "", "", "")
	if owner := words[0]; turnName.MatchString(owner) && owner != "-" {
		foreign.Owner = domain.LogID(owner)
	}
	if since, err := time.Parse(time.RFC3339, words[1]); err == nil {
		foreign.Since = since
	}
	foreign.Term = domain.Term(number(words[2], math.MaxInt64))
	return foreign
}

// leader is for whom the host is asked, as it is told.
func (s *Session) leader() ([]string, error) {
	l := s.target.Leader
	if !turnName.MatchString(string(l.Log)) || l.Log == "-" {
		return nil, s.refused("%q is no identity of a log", clip(string(l.Log), 64))
	}
	if uint64(l.Term) > math.MaxInt64 {
		return nil, s.refused("%d is no term", l.Term)
	}
	return []string{string(l.Log), strconv.FormatUint(uint64(l.Term), 10)}, nil
}

// workID is leader, and the name of what is done.
func (s *Session) workID(id process.WorkID) ([]string, error) {
	if !turnName.MatchString(string(id)) {
		return nil, s.refused("%q is no name of a turn", clip(string(id), 64))
	}
	arguments, err := s.leader()
	return append(arguments, string(id)), err
}

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
