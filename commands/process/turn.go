package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
	"commissaire/domain/roster"
)

// left is why the turn of a host that is still known is skipped.
const left = "the host is no longer a member of the cluster"

// turn carries out a host's part in an operation, from wherever it is: each
// thing it does follows from what is recorded of the turn, so taking it up again
// after a crash is nothing special.
type turn struct {
	p         *Process
	operation domain.OperationID
	kind      domain.OperationKind
	version   string
	policy    event.Policy
	tolerated int // failed hosts
	member    event.Member
	state     operation.Turn // as it is recorded
}

// errNotBegun says that the operation was paused or cancelled meanwhile, or that
// too many hosts have failed.
var errNotBegun = errors.New("the turn was not begun")

// errOver says that the turn was given up meanwhile.
var errOver = errors.New("the turn is over")

// errOvertaken says that a later leader carries the operation out.
var errOvertaken = errors.New("a later leader carries the operation out")

// carryOut returns the position of the last thing recorded; 0 when nothing was.
func (t *turn) carryOut(ctx context.Context) event.Position {
	return t.claimed(ctx, t.skip, func(at event.Turn) (event.OperationEvent, error) { return t.work(ctx, at) })
}

// claimed takes the host, does what is to be done there, records how the turn
// ended (nil: it has not) and releases the host. Where there is nobody to do it
// to any more, gone records that.
func (t *turn) claimed(ctx context.Context, gone func(ctx context.Context, why string) event.Position, work func(event.Turn) (event.OperationEvent, error)) event.Position {
	at := event.Turn{Operation: t.operation, HostID: t.member.HostID, Host: t.member.Host, Claim: t.claim()}
	_, err := t.p.config.Commands.TakeHost(ctx, t.member.HostID, at.Claim, t.operation, t.p.term)
	switch {
	case errors.Is(err, roster.ErrNoHost):
		return gone(ctx, "the host was removed")
	case errors.Is(err, roster.ErrLeft):
		return gone(ctx, left)
	case err != nil:
		if !errors.Is(err, roster.ErrTaken) {
			t.p.report(ctx, "taking a host failed", err, "host", t.member.Host, "operation", t.operation)
		}
		return 0
	}
	outcome, err := work(at)
	if err != nil && !errors.Is(err, errNotBegun) && !errors.Is(err, errOver) {
		t.p.report(ctx, "a turn could not be recorded", err, "host", t.member.Host, "operation", t.operation)
		return 0 // it stays open, and is taken up again
	}
	if outcome != nil {
		if err := t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.End(t.member.HostID, outcome) }); err != nil {
			t.p.report(ctx, "the end of a turn could not be recorded", err, "host", t.member.Host, "operation", t.operation)
			return 0
		}
	}
	receipt, err := t.p.config.Commands.ReleaseHost(ctx, t.member.HostID, at.Claim, t.p.term)
	t.p.report(ctx, "releasing a host failed", err, "host", t.member.Host, "operation", t.operation)
	return receipt.Position
}

// claim is the one that the turn was begun under, or that a download is going on
// under: the host knows the work by it. Else it is new.
func (t *turn) claim() domain.ClaimID {
	if t.state.Claim != "" {
		return t.state.Claim
	}
	t.p.mu.Lock()
	h, _ := t.p.roster.Host(t.member.HostID)
	t.p.mu.Unlock()
	if h.Claim != "" && h.By == t.operation {
		return h.Claim
	}
	return domain.ClaimID(t.p.config.NewID().String())
}

// release ends the claim that the operation left on the host.
func (t *turn) release(ctx context.Context) event.Position {
	t.p.mu.Lock()
	h, _ := t.p.roster.Host(t.member.HostID)
	t.p.mu.Unlock()
	receipt, err := t.p.config.Commands.ReleaseHost(ctx, h.HostID, h.Claim, t.p.term)
	t.p.report(ctx, "releasing a host failed", err, "host", t.member.Host, "operation", t.operation)
	return receipt.Position
}

func (t *turn) skip(ctx context.Context, why string) event.Position {
	at, err := t.recorded(ctx, func(p *operation.Progress) []event.OperationEvent {
		return p.End(t.member.HostID, event.HostTurnSkipped{
			Turn:   event.Turn{Operation: t.operation, HostID: t.member.HostID, Host: t.member.Host},
			Reason: why,
		})
	})
	t.p.report(ctx, "skipping a host failed", err, "host", t.member.Host, "operation", t.operation)
	return at
}

// record records what f decides, and keeps what the turn is then. A leader that
// was overtaken, suspended perhaps, records nothing: the turn is another's now.
func (t *turn) record(ctx context.Context, f func(*operation.Progress) []event.OperationEvent) error {
	_, err := t.recorded(ctx, f)
	return err
}

// recorded is record, and says where.
func (t *turn) recorded(ctx context.Context, f func(*operation.Progress) []event.OperationEvent) (event.Position, error) {
	overtaken := false
	receipt, state, err := t.p.config.Commands.RecordTurn(ctx, t.operation, t.member.HostID, func(p *operation.Progress) []event.OperationEvent {
		if overtaken = p.Overtaken(t.p.term); overtaken {
			return nil
		}
		return f(p)
	})
	switch {
	case err != nil:
		return 0, err
	case overtaken:
		return 0, errOvertaken
	}
	t.state = state
	return receipt.Position, nil
}

// on is the work of the turn on its host.
func (t *turn) on(at event.Turn) *working {
	t.p.mu.Lock()
	h, _ := t.p.roster.Host(t.member.HostID)
	c, _ := t.p.roster.Cluster(h.Cluster)
	definition, managed := t.p.managers[c.ManagerID]
	t.p.mu.Unlock()
	limit := time.Duration(t.policy.Timeout) * time.Second
	w := &working{turn: t, at: at, host: h, limit: limit}
	if managed {
		w.node = &node{p: t.p, definition: definition, host: h.Host}
	}
	return w
}

// work does the turn's work and says how it ended. An error says nothing about
// the host: the turn stays open.
func (t *turn) work(ctx context.Context, at event.Turn) (event.OperationEvent, error) {
	if err := t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.Begin(at, t.p.term, t.tolerated) }); err != nil {
		return nil, err
	}
	if t.state.State == operation.Waiting {
		return nil, errNotBegun
	}
	w := t.on(at)
	defer w.hangUp()
	outcome, err := w.steps(ctx)
	if err != nil {
		outcome, err = w.failed(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return w.uncordoned(ctx, outcome)
}

// working is a turn with a connection, made anew when it breaks.
type working struct {
	*turn
	at        event.Turn
	host      roster.Host
	node      *node         // nil: no container manager knows the host
	limit     time.Duration // for the command
	session   Session
	contacted bool // the host was dialled
	ordered   bool // the host took note of the order to reboot

	draining time.Duration // was spent on it so far, since the turn was taken up
}

// steps does what the turn calls for, one thing after the other.
func (w *working) steps(ctx context.Context) (event.OperationEvent, error) {
	var facts, after event.Facts
	var outcome event.OperationEvent
	var err error
	if w.state.State == operation.Begun {
		if facts, err = w.facts(ctx, time.Time{}); err != nil {
			return nil, err
		}
		switch _, skip, problem := w.p.config.Remote.Plan(w.kind, w.version, w.policy, facts); {
		case problem != "":
			return event.HostTurnFailed{Turn: w.at, Reason: problem}, nil
		case skip != "":
			return event.HostTurnSkipped{Turn: w.at, Reason: skip}, nil
		}
		if err := w.drain(ctx); err != nil {
			return nil, err
		}
		if err := w.record(ctx, func(p *operation.Progress) []event.OperationEvent {
			return p.Examine(event.HostTurnExamined{
				Turn: w.at, BootID: facts.BootID, Version: facts.Version, Pending: facts.Pending, OSTree: facts.OSTree,
				BootedID: facts.BootedID, PendingID: facts.PendingID, Locked: facts.Locked,
			})
		}); err != nil {
			return nil, err
		}
	}
	if w.state.State == operation.Examined && w.kind != domain.Restart {
		if after, outcome, err = w.run(ctx, facts); outcome != nil || err != nil {
			return outcome, err
		}
	}
	if after, outcome, err = w.rebooted(ctx, after); err != nil {
		return nil, err
	}
	// Whatever becomes of the turn, so that its reboot is not taken for another.
	if err := w.recordFacts(ctx, after); err != nil || outcome != nil {
		return outcome, err
	}
	if outcome, err := w.gate(ctx, after.BootID); outcome != nil || err != nil {
		return outcome, err
	}
	return event.HostTurnSucceeded{
		Turn: w.at, Version: after.Version, Pending: after.Pending, OSTree: after.OSTree, BootID: after.BootID, Output: w.state.Worked.Output,
		BootedID: after.BootedID, PendingID: after.PendingID,
		Warnings: w.state.Worked.Warnings,
	}, nil
}

func (w *working) hangUp() {
	if w.session != nil {
		_ = w.session.Close() // whatever was begun on the host goes on
		w.session = nil
	}
}

// record is that of the turn. A turn that was given up meanwhile is over: nothing
// more is done of it.
func (w *working) record(ctx context.Context, f func(*operation.Progress) []event.OperationEvent) error {
	if err := w.turn.record(ctx, f); err != nil {
		return err
	}
	if w.state.Over() {
		return errOver
	}
	return nil
}

// name is how the host knows the turn's command, or its reboot.
func (w *working) name() Turn { return Turn{Name: string(w.at.Claim)} }

func (w *working) rebootName() Turn {
	name := w.name()
	if w.kind != domain.Restart {
		name.Name += "-reboot"
	}
	return name
}

// failed is the outcome of a turn that an error ended. Being stopped or
// overtaken by a later leader, by the log, says nothing about the host.
func (w *working) failed(ctx context.Context, err error) (event.OperationEvent, error) {
	var away *Unreachable
	var refused *Refused
	var changed *KeyChanged
	var node *nodeError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case elsewhere(err):
		// If it is a later leader of this log for whose sake the host refused, that one
		// has recorded by now that it carries the operation on (no host is worked on for
		// an operation before), and record refuses what is decided here. If nothing like
		// that is on record, it is the word of this one host, and ends this one turn.
		if err := w.recordElsewhere(ctx, err); err != nil {
			return nil, err
		}
		return event.HostTurnFailed{Turn: w.at, Reason: reason(err), Output: w.state.Worked.Output}, nil
	case errors.As(err, &away), errors.As(err, &refused), errors.As(err, &changed), errors.As(err, &node):
		return event.HostTurnFailed{Turn: w.at, Reason: reason(err), Output: w.state.Worked.Output}, nil
	}
	return nil, err
}

// connected runs f on a connection, and again on a new one when that breaks.
// While the host is out of reach it connects anew, until the deadline passes, if
// there is one, else as often as configured.
func (w *working) connected(ctx context.Context, deadline time.Time, f func(Session) error) error {
	for attempt := 1; ; attempt++ {
		if err := w.connect(ctx, deadline); err != nil {
			return err
		}
		err := f(w.session)
		var away *Unreachable
		if !errors.As(err, &away) || ctx.Err() != nil {
			return err
		}
		w.hangUp()
		if attempt >= w.p.config.Attempts && (!w.p.config.Now().Before(deadline) || !pause(ctx, w.p.config.RetryDelay)) {
			return err
		}
	}
}

// oneTry is about how long an attempt to connect takes at most.
const oneTry = 20 * time.Second

// connect sees to it that there is a connection. A host that does not let us in has
// answered; but with a deadline something may be going on there, and it may have been
// rebooted meanwhile, without us: then it has as long as after a reboot of ours.
func (w *working) connect(ctx context.Context, deadline time.Time) error {
	var refused time.Time // since when it does not let us in
	attempts := w.p.config.Attempts
	ordinary := w.p.config.Now().Add(time.Duration(attempts) * (w.p.config.RetryDelay + oneTry))
	for attempt := 1; w.session == nil; attempt++ {
		err := w.p.refusing(w.host.HostID)
		if err == nil || !w.contacted {
			w.session, err = w.p.dial(ctx, w.host, 1)
			w.contacted = true
		}
		now, more := w.p.config.Now(), false
		var until time.Time
		var away *Unreachable
		switch {
		case err == nil && attempt > 1:
			w.awaits(ctx, "", time.Time{})
			return nil
		case err == nil:
			return nil
		case !ofHost(err):
			return err
		case errors.As(err, &away):
			until, more = later(deadline, ordinary), attempt < attempts
		case refused.IsZero():
			refused = now
			fallthrough
		default:
			until = earlier(deadline, refused.Add(w.p.config.RebootTimeout))
		}
		if !more && !now.Before(deadline) || !now.Before(until) || ctx.Err() != nil {
			return err
		}
		w.awaits(ctx, "its answer: "+reason(err), until)
		if !pause(ctx, w.p.config.RetryDelay) {
			return err
		}
	}
	return nil
}

func (w *working) facts(ctx context.Context, deadline time.Time) (facts event.Facts, err error) {
	err = w.connected(ctx, deadline, func(s Session) error {
		if facts, err = s.Facts(ctx); err != nil {
			return err
		}
		return w.p.identify(w.host.HostID, s.HostKey(), &facts)
	})
	return facts, err
}

// stopping is the time that a host has, beyond a command's time limit, to stop what
// the command started and to say so.
const stopping = time.Minute

// command has the host do something once a turn, until the turn's time limit, which
// counts from when it was recorded that it begins, however often it is taken up
// again. What it prints is kept, and what it waits for there is recorded.
func (w *working) command(ctx context.Context, work Work, since time.Time) (Result, error) {
	var result Result
	work.Output = func(command string) Output {
		return w.p.config.Outputs.Begin(w.operation, w.member.HostID, w.name().Name, command)
	}
	work.Limit = w.limit
	deadline := since.Add(w.limit)
	limited, cancel := context.WithDeadline(ctx, later(deadline, w.p.config.Now()).Add(stopping))
	defer cancel()
	var shown sync.WaitGroup
	defer shown.Wait()
	said := make(chan string, 1) // the latest
	otherwise := ""
	if work.Act == Stage {
		otherwise = download
	}
	shown.Go(func() { w.show(limited, said, otherwise, deadline) })
	defer cancel()
	work.Waiting = func(why string) {
		select {
		case <-said:
		default:
		}
		said <- why
	}
	err := w.connected(limited, deadline, func(s Session) (err error) {
		result, err = s.Run(limited, w.name(), work)
		return err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return result, &Refused{Reason: fmt.Sprintf("the %s did not end within %s", w.kind, w.limit)}
	}
	return result, err
}

// showEvery is how often it is recorded at most what a host waits for.
const showEvery = 5 * time.Second

// download is what a turn waits for that is to apply what it has downloaded.
const download = "its download"

// show records what the host says that its command waits for, or otherwise, until
// ctx ends.
func (w *working) show(ctx context.Context, said <-chan string, otherwise string, until time.Time) {
	for {
		select {
		case why := <-said:
			w.awaits(ctx, cmp.Or(why, otherwise), until)
		case <-ctx.Done():
			return
		}
		pause(ctx, showEvery)
	}
}

// awaits records what the turn waits for; "": nothing any more. It is for people
// alone, so that it fails is no matter.
func (w *working) awaits(ctx context.Context, why string, until time.Time) {
	if why != "" {
		why = reason(errors.New(strings.ToValidUTF8(why, "")))
	}
	_, _, err := w.p.config.Commands.RecordTurn(ctx, w.operation, w.member.HostID, func(p *operation.Progress) []event.OperationEvent {
		if p.Overtaken(w.p.term) {
			return nil
		}
		return p.AwaitHost(w.at, why, until)
	})
	w.p.report(ctx, "what a turn waits for could not be recorded", err, "host", w.member.Host, "operation", w.operation)
}

// run upgrades or deploys, and records how the host is then, which it returns; or
// says how the turn ended instead.
func (w *working) run(ctx context.Context, before event.Facts) (after event.Facts, outcome event.OperationEvent, err error) {
	if before.OS == "" { // taken up again: the work may be going on while the host is out of reach
		if before, err = w.facts(ctx, w.state.Since.Add(w.limit)); err != nil {
			return after, nil, err
		}
	}
	work := Work{Act: Apply, Kind: w.kind, Version: w.version, Facts: before, BootID: w.state.BootID, BypassDriver: w.policy.BypassDriver}
	if w.state.Staged {
		work.Act = ApplyStaged
	}
	result, err := w.command(ctx, work, w.state.Since)
	if err != nil {
		return after, nil, err
	}
	how, failed := result.Failed()
	if failed && result.Exit != nil {
		return after, event.HostTurnFailed{Turn: w.at, Exit: result.Exit, Output: result.Output, Reason: fmt.Sprintf("the %s %s", w.kind, how)}, nil
	}
	if after, err = w.facts(ctx, time.Time{}); err != nil {
		return after, nil, err
	}
	switch did := took(w.kind, w.version, w.state, after); {
	case did:
	case failed:
		return after, event.HostTurnFailed{
			Turn: w.at, Output: result.Output,
			Reason: fmt.Sprintf("the %s %s: see on the host how far it got, then start it again", w.kind, how),
		}, nil
	case w.kind == domain.Deploy:
		return after, event.HostTurnFailed{
			Turn: w.at, Output: result.Output,
			Reason: fmt.Sprintf("the deploy ended well, and %s is neither what the host runs (%s) nor what waits for a boot (%s)", w.version, after.Version, cmp.Or(after.Pending, "nothing")),
		}, nil
	}
	reboot, why := w.policy.Reboot == event.AlwaysReboot, ""
	if w.policy.Reboot == event.RebootIfNeeded {
		if why, err = w.needsReboot(ctx, after); err != nil {
			return after, nil, err
		}
		reboot = why != ""
	}
	return after, nil, w.record(ctx, func(p *operation.Progress) []event.OperationEvent {
		return p.Work(event.HostTurnWorked{
			Turn: w.at, BootID: after.BootID, Version: after.Version, Pending: after.Pending, Reboot: reboot && !after.Locked, Output: result.Output,
			BootedID: after.BootedID, PendingID: after.PendingID, Locked: after.Locked, RebootNeeded: why,
			Warnings: result.Warnings,
		})
	})
}

// needsReboot says why a host should be rebooted after its work; "" where nothing
// calls for it. What costs the host much is asked last.
func (w *working) needsReboot(ctx context.Context, after event.Facts) (why string, err error) {
	switch {
	case after.Pending != "":
		return after.Pending + " is pending", nil
	case after.RebootNeeded != "" || after.OSTree:
		return after.RebootNeeded, nil
	}
	err = w.connected(ctx, time.Time{}, func(s Session) error {
		why, err = s.RebootNeeded(ctx)
		return err
	})
	return why, err
}

// took tells whether a command took effect on an ostree host, be it that it was
// interrupted: the deployments say.
func took(kind domain.OperationKind, version string, found operation.Turn, after event.Facts) bool {
	switch {
	case !after.OSTree:
		return false
	case kind == domain.Deploy:
		return slices.Contains([]string{
			after.Version, after.BootedID, after.BootedBase, after.Pending, after.PendingID, after.PendingBase,
		}, version)
	}
	made := func(s event.System) bool { return s.Name != "" && !s.Is(found.Booted) && !s.Is(found.Pending) }
	return made(after.Waiting()) || made(after.Booted())
}

// rebooted is how the host is after the reboot that the turn calls for, if it
// does, else as it worked; or how the turn ended instead. The host is rebooted
// once, and waited for until it is back with another boot id. What was pending is
// what it must run then: a host that fell back to the old version has failed, so
// that the others are not sent after it. (Without ostree that holds for a kernel
// which this turn installed: for one that was there before there may be reasons
// not to boot it.)
func (w *working) rebooted(ctx context.Context, worked event.Facts) (after event.Facts, outcome event.OperationEvent, err error) {
	from, want, locked := w.state.Worked.BootID, w.state.Worked.Pending, w.state.Worked.Locked
	switch {
	case w.kind == domain.Restart:
		from, want, locked = w.state.BootID, w.state.Pending, w.state.Locked
	case !w.state.Worked.Reboot:
		if worked.BootID == "" { // taken up again
			worked, err = w.facts(ctx, time.Time{})
		}
		if err == nil && locked && w.policy.Reboot != event.NoReboot {
			outcome = event.HostTurnFailed{Turn: w.at, Output: w.state.Worked.Output, Reason: fmt.Sprintf(
				"a reboot would not bring %s, which is locked: run rpm-ostree finalize-deployment %s on the host, which reboots it, or drop it there by rpm-ostree cleanup -p, and start the %s again",
				want.Name, cmp.Or(want.ID, "--allow-missing-checksum"), w.kind)}
		}
		return worked, outcome, err
	}
	if locked || !w.state.OSTree && want.Is(w.state.Pending) {
		want = event.System{}
	}
	if after, err = w.back(ctx, from); err != nil {
		return after, nil, err
	}
	if want == (event.System{}) || after.Booted().Is(want) {
		return after, nil, nil
	}
	return after, event.HostTurnFailed{
		Turn: w.at, Version: after.Version, Output: w.state.Worked.Output, Reason: fellBack(after, want),
	}, nil
}

// fellBack says that a host came back on something else than was wanted, and what
// there tells why.
func fellBack(after event.Facts, want event.System) string {
	is, wanted := after.Version, want.Name
	if is == wanted {
		is, wanted = is+" ("+after.BootedID+")", wanted+" ("+want.ID+")"
	}
	var see []string
	if after.Has("journalctl") {
		see = append(see, "journalctl -b -1")
	}
	if after.OSTree && after.Has("rpm-ostree") {
		see = append(see, "rpm-ostree status")
	}
	if len(see) == 0 {
		see = []string{"the console and the logs"}
	}
	return fmt.Sprintf("it came back on %s, wanted %s: see %s on the host", is, wanted, strings.Join(see, " and "))
}

// errStillUp says that the host runs as before its reboot was ordered.
var errStillUp = errors.New("it still runs as before the reboot was asked for")

// lastTry is how long the last look at a host that is late may take.
const lastTry = 30 * time.Second

// back reboots the host, unless it runs from another boot already, and tells how it
// is when it is back. From the order to its deadline nothing that the host answers
// is an answer of its own but a login with its key, a shell that works, as root, and
// another boot id: another server may ask for the passphrase of a disk, with
// another key, and users come late from the network. A reboot that the host refuses
// fails at once.
func (w *working) back(ctx context.Context, from string) (after event.Facts, err error) {
	resumed := !w.state.BackBy.IsZero()
	if !resumed {
		after, err = w.order(ctx, from)
		if err != nil || after.BootID != "" {
			return after, err
		}
	}
	limited, cancel := context.WithDeadline(ctx, later(w.state.BackBy, w.p.config.Now()).Add(lastTry))
	defer cancel()
	wait, slow := w.p.config.RebootFirstLook, time.Duration(0)
	if resumed {
		wait = 0
	}
	for tries := 1; pause(ctx, wait); tries++ {
		var in bool
		after, in, err = w.isBack(limited, from)
		if err == nil {
			return after, nil
		}
		if errors.Is(err, errStillUp) && !w.ordered { // who recorded the order may not have given it
			switch ordering := w.reboot(limited, from); {
			case errors.As(ordering, new(*Refused)):
				return after, ordering
			case ordering != nil:
				err = ordering
			}
		}
		w.hangUp()
		switch left := w.state.BackBy.Sub(w.p.config.Now()); {
		case ctx.Err() != nil:
			return after, ctx.Err()
		case !ofHost(err) && limited.Err() == nil:
			return after, err
		case left <= 0 && (tries >= w.p.config.Attempts || limited.Err() != nil):
			return after, &Refused{Reason: fmt.Sprintf("the host was not back within %s of its reboot, look at its console: %s", w.p.config.RebootTimeout, reason(err))}
		case left <= 0:
			wait = w.p.config.RetryDelay
		case in && !errors.Is(err, errStillUp):
			slow = w.p.slower(slow)
			wait = min(slow, left)
		default:
			wait = min(w.p.config.RebootFirstLook, time.Second, left)
		}
	}
	return after, ctx.Err()
}

// order orders the reboot; or it tells how the host is that runs from another boot
// already. Where what became of the order is not known, it may be given again.
func (w *working) order(ctx context.Context, from string) (after event.Facts, err error) {
	deadline := time.Time{}
	if w.session == nil { // taken up again
		deadline = w.state.Since.Add(w.p.config.RebootTimeout)
	}
	var bootID string
	if err := w.connected(ctx, deadline, func(s Session) (err error) {
		bootID, err = s.BootID(ctx)
		return err
	}); err != nil {
		return after, err
	}
	if bootID != from {
		return w.facts(ctx, deadline)
	}
	if err := w.drain(ctx); err != nil { // somebody may have let work in again
		return after, err
	}
	if err := w.record(ctx, func(p *operation.Progress) []event.OperationEvent {
		return p.OrderReboot(event.HostTurnRebootOrdered{Turn: w.at, BootID: from, Until: w.p.config.Now().Add(w.p.config.RebootTimeout).UTC()})
	}); err != nil {
		return after, err
	}
	err = w.reboot(ctx, from)
	w.hangUp()
	if errors.As(err, new(*Unreachable)) { // it may have gone down before it answered
		err = nil
	}
	return after, err
}

// reboot gives the order, on a connection that is there.
func (w *working) reboot(ctx context.Context, from string) error {
	if w.session == nil {
		return &Unreachable{Reason: "the connection broke"}
	}
	err := w.session.Reboot(ctx, w.rebootName(), from)
	w.ordered = err == nil
	return err
}

// isBack tells how the host is that runs from another boot than before; in: it let
// us in.
func (w *working) isBack(ctx context.Context, from string) (facts event.Facts, in bool, err error) {
	if err = w.p.refusing(w.host.HostID); err != nil {
		return facts, false, err
	}
	if w.session, err = w.p.login(ctx, w.host); err != nil {
		w.session = nil
		return facts, false, err
	}
	bootID, err := w.session.BootID(ctx)
	switch {
	case err != nil:
		return facts, true, err
	case bootID == from:
		return facts, true, errStillUp
	}
	facts, err = w.session.Facts(ctx)
	switch {
	case err != nil:
	case facts.BootID == from:
		err = errStillUp
	default:
		err = w.p.identify(w.host.HostID, w.session.HostKey(), &facts)
	}
	return facts, true, err
}

// ofHost tells whether an error is what a host answered, or that it did not.
func ofHost(err error) bool {
	var away *Unreachable
	var refused *Refused
	var changed *KeyChanged
	return errors.As(err, &away) || errors.As(err, &refused) || errors.As(err, &changed) || errors.Is(err, errStillUp)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (w *working) recordFacts(ctx context.Context, facts event.Facts) error {
	_, err := w.p.config.Commands.RecordHost(ctx, w.host.HostID, func(one *host.Host) []event.HostEvent {
		return one.Investigated(w.host.Host, facts)
	})
	return err
}

// recordElsewhere records that the host works for somebody else, so that it is
// shown, and that its upkeep finds out when that ends.
func (w *working) recordElsewhere(ctx context.Context, why error) error {
	if err := w.p.overtaken(ctx, why); err != nil {
		return err
	}
	_, err := w.p.config.Commands.RecordHost(ctx, w.host.HostID, func(one *host.Host) []event.HostEvent {
		return one.InvestigationFailed(w.host.Host, reason(why))
	})
	return err
}

// stage has the host download what its turn will apply; a host that cannot has
// failed before its turn.
func (t *turn) stage(ctx context.Context) event.Position {
	return t.claimed(ctx, t.skip, func(at event.Turn) (event.OperationEvent, error) {
		w := t.on(at)
		defer w.hangUp()
		at.Claim = "" // the turn itself begins under another one, as other work
		outcome, err := w.downloaded(ctx, at)
		if err != nil {
			return w.failed(ctx, err)
		}
		return outcome, nil
	})
}

func (w *working) downloaded(ctx context.Context, at event.Turn) (event.OperationEvent, error) {
	facts, err := w.facts(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	if _, _, problem := w.p.config.Remote.Plan(w.kind, w.version, w.policy, facts); problem != "" {
		return event.HostTurnFailed{Turn: at, Reason: problem}, nil
	}
	if wait := w.state.Wait; wait.Why == "" || strings.HasPrefix(wait.Why, operation.OtherWork) { // else it is taken up again
		if err := w.record(ctx, func(p *operation.Progress) []event.OperationEvent {
			return p.AwaitHost(at, download, w.p.config.Now().Add(w.limit))
		}); err != nil {
			return nil, err
		}
	}
	since := w.p.config.Now()
	if until := w.state.Wait.Until; !until.IsZero() { // zero: it was recorded too often what the turn waits for
		since = until.Add(-w.limit)
	}
	result, err := w.command(ctx, Work{Act: Stage, Kind: w.kind, Version: w.version, Facts: facts, BootID: facts.BootID, BypassDriver: w.policy.BypassDriver}, since)
	if err != nil {
		return nil, err
	}
	if how, failed := result.Failed(); failed {
		return event.HostTurnFailed{Turn: at, Exit: result.Exit, Output: result.Output, Reason: "the download " + how}, nil
	}
	return nil, w.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.Stage(at) })
}

// cleanUp drops the deployment that the turn left, if nobody booted it or put
// another in its place. What cannot be dropped is said, once.
func (t *turn) cleanUp(ctx context.Context) event.Position {
	deployment := t.state.Left
	t.state.Claim = "" // this is other work than the turn's
	gone := func(ctx context.Context, why string) event.Position {
		at := event.Turn{Operation: t.operation, HostID: t.member.HostID, Host: t.member.Host}
		receipt, _, err := t.p.config.Commands.RecordTurn(ctx, t.operation, t.member.HostID, func(p *operation.Progress) []event.OperationEvent {
			return p.CleanUp(at, why)
		})
		t.p.report(ctx, "a clean-up could not be recorded", err, "host", t.member.Host, "operation", t.operation)
		return receipt.Position
	}
	return t.claimed(ctx, gone, func(at event.Turn) (event.OperationEvent, error) {
		w := t.on(at)
		defer w.hangUp()
		facts, err := w.facts(ctx, time.Time{})
		if err == nil && facts.Pending != "" && facts.Waiting().Is(deployment) { // the host looks again itself, at the last moment
			var result Result
			result, err = w.command(ctx, Work{Act: CleanUp, Kind: w.kind, Facts: facts, BootID: facts.BootID}, w.p.config.Now())
			if how, failed := result.Failed(); err == nil && failed {
				err = &Refused{Reason: "rpm-ostree cleanup -p " + how}
			}
		}
		failure := ""
		if err != nil {
			if _, err := w.failed(ctx, err); err != nil {
				return nil, err
			}
			failure = reason(err)
		}
		return nil, t.record(ctx, func(p *operation.Progress) []event.OperationEvent { return p.CleanUp(at, failure) })
	})
}
