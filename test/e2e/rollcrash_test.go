package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/fleet"
)

// TestNoKillChangesHowARunEnds kills the service again and again while operations
// cross a cluster of 50 hosts in batches, some of which fail, and while they are
// paused, resumed and cancelled. Each ends as it would have without kills: what
// the hosts ran says so.
func TestNoKillChangesHowARunEnds(t *testing.T) {
	began, seed := time.Now(), cmp.Or(*seed, rand.Uint64())
	t.Logf("-seed=%d repeats what is asked for, and when the service is killed", seed)
	var specs []fleet.Spec
	for i := range 50 {
		spec := fleet.Spec{Address: fmt.Sprintf("127.0.64.%d", i+1), OS: fleet.Atomic, Version: "41.0"}
		if i%5 == 4 {
			spec.OS, spec.Version = fleet.Fedora, "6.12.0"
		}
		spec.Speed = fleet.Speed{Upgrade: 80 * time.Millisecond, Reboot: 80 * time.Millisecond}
		specs = append(specs, spec)
	}
	f, body := startFleet(t, fleet.Config{Hosts: specs, Second: 50 * time.Millisecond})
	s := newService(t, map[string]any{"bootstrap.profile": "none", "operations.reboot-first-look": "20ms"})
	s.join(f, body)

	all := &crowd{service: s, replies: map[string]reply{}}
	random := rand.New(rand.NewPCG(seed, 0))
	var runs []*crossing
	for killed := 0; killed < *kills && !t.Failed(); {
		r := newCrossing(all, f, random, len(runs))
		runs = append(runs, r)
		for killed < *kills && r.goesOn() {
			killed += r.live(min(time.Duration(random.ExpFloat64()*float64(600*time.Millisecond)), 3*time.Second))
		}
		r.finish()
		r.check()
	}

	s.await(func() bool { return len(s.recorded().held()) == 0 }, "/operations?limit=1")
	h := s.recorded()
	h.isWhole()
	h.hasWhatWasAnswered(all.replies)
	h.keepsTheRules()
	doOneThingAtATime(t, f)
	ends := map[string]int{}
	pauses, wrong := 0, 0
	for _, r := range runs {
		r.checkSteering(h)
		ends[r.ended]++
		pauses += len(r.pauses)
		wrong += r.wrongs
	}
	_, resumed, _ := h.outcomes()
	t.Logf("%d kills in %s: %d operations, of which %d came to their end, %d stopped at failures, %d were cancelled; %d pauses; %d hosts in hand, %d turns taken up again; %d events; %d violations",
		*kills, time.Since(began).Round(time.Second), len(runs), ends["finished"], ends["stopped"], ends["cancelled"], pauses, len(f.InHand()), resumed, len(h.events), wrong)
}

// crossing is an operation that is crossing a cluster, and what should come of it.
type crossing struct {
	*crowd
	fleet  *fleet.Fleet
	random *rand.Rand
	path   string // its path
	id     domain.OperationID
	from   time.Time

	kind      string
	version   map[fleet.OS]string // that it brings
	before    map[string][2]string
	batches   [][]string
	reboot    bool
	canary    int               // hosts, after which it pauses by itself; 0: it does not
	fails     map[string]string // hosts that fail, and where: command, boot
	tolerated int

	cancels bool      // it is to be cancelled sooner or later
	asking  string    // what was asked for and not answered yet
	pauses  []stretch // between the answer to a pause and the moment at which it was to go on
	past    bool      // the canary
	lives   int

	cancelled reply
	cancelAt  time.Time // when that was answered
	ended     string    // finished, stopped, cancelled
	wrongs    int
}

// stretch is a time in which no host may be begun.
type stretch struct {
	from, until time.Time // until: zero while it lasts
	position    uint64    // of the answer
}

func (r *crossing) wrong(format string, args ...any) {
	r.t.Helper()
	r.wrongs++
	r.t.Errorf("%s %s: "+format, append([]any{r.kind, r.path}, args...)...)
}

// newCrossing starts an operation of another kind each time.
func newCrossing(all *crowd, f *fleet.Fleet, random *rand.Rand, number int) *crossing {
	r := &crossing{crowd: all, fleet: f, random: random, kind: "upgrade", fails: map[string]string{}, before: map[string][2]string{}}
	r.version = map[fleet.OS]string{fleet.Atomic: fmt.Sprintf("41.%d", number+1), fleet.Fedora: fmt.Sprintf("6.12.%d", number+1)}
	r.reboot = number%3 == 1
	r.cancels = number%4 == 3
	r.tolerated = 5
	policy := map[string]any{"batches": []any{1, 4, "20%"}, "max_failures": "10%", "order": "random", "seed": random.Uint32()}
	if number%2 == 0 {
		r.canary = 3 + random.IntN(5)
		policy["pause_after"] = r.canary
	}
	if r.reboot {
		policy["reboot"] = true
	}
	if number%5 == 4 {
		r.kind = "deploy"
		policy["version"] = r.version[fleet.Atomic]
	}
	all.t.Logf("%s by %v", r.kind, policy)

	most := r.tolerated
	if number%3 == 2 {
		most *= 4 // so that it is stopped
	}
	hosts := f.Hosts()
	for _, i := range random.Perm(len(hosts))[:random.IntN(most+1)] {
		r.fails[hosts[i].Address()] = "command"
	}
	for _, h := range hosts {
		h.Release(r.version[h.Spec().OS])
		h.Heal()
		r.before[h.Address()] = [2]string{h.Version(), h.Pending()}
		switch atomic := h.Spec().OSTree; {
		case r.fails[h.Address()] == "":
		case r.kind == "deploy" && !atomic:
			delete(r.fails, h.Address())
		case r.reboot && atomic && random.IntN(2) == 0:
			r.fails[h.Address()] = "boot"
			h.SetFaults(fleet.Faults{KeepVersion: true})
		default:
			h.FailNext(strings.TrimSuffix(r.command(h), " -- "+r.version[fleet.Atomic]), 1)
		}
	}

	path := "/cluster/c/" + r.kind
	policy["dry_run"] = true
	r.batches = all.service.planned(path, policy).Batches
	delete(policy, "dry_run")
	r.from = time.Now()
	r.path = strings.TrimPrefix(all.change(http.MethodPut, path, policy).location, "/api/v0")
	r.id = domain.OperationID(strings.TrimPrefix(r.path, "/operation/"))
	return r
}

// command is what the operation has a host run.
func (r *crossing) command(h *fleet.Host) string {
	switch atomic := h.Spec().OSTree; {
	case r.kind == "deploy" && atomic:
		return "rpm-ostree deploy -- " + r.version[fleet.Atomic]
	case r.kind == "deploy":
		return ""
	case atomic:
		return "rpm-ostree upgrade"
	}
	return "dnf -y upgrade --setopt=*.skip_if_unavailable=False"
}

// shown is how the operation is shown.
func (r *crossing) shown() map[string]any { return r.get(r.path).is(200).object() }

// goesOn looks whether the operation goes on, and whether it is shown as paused
// when it should be.
func (r *crossing) goesOn() bool {
	o := r.shown()
	switch paused := o["state"] == "paused"; {
	case o["state"] == "ended":
		return false
	case r.asking != "" || o["state"] == "cancelling":
	case r.isPaused() && !paused:
		r.wrong("it was paused, and is shown as %v", o["state"])
	case paused && !r.isPaused():
		r.isCanary()
	}
	return true
}

func (r *crossing) isPaused() bool {
	return len(r.pauses) > 0 && r.pauses[len(r.pauses)-1].until.IsZero()
}

// isCanary looks at the hosts when the operation has paused by itself, and lets
// it go on at one of the next occasions.
func (r *crossing) isCanary() {
	if r.past {
		r.wrong("it is paused, and nobody asked for that")
	}
	if n := r.begun(); n != r.canary {
		r.wrong("it paused by itself after %d hosts, and was to after %d", n, r.canary)
	}
	if r.past = r.random.IntN(2) == 0; r.past {
		r.asking = "resume"
	}
}

// begun counts the hosts that ran something.
func (r *crossing) begun() (n int) {
	for _, h := range r.fleet.Hosts() {
		if len(r.ran(h)) > 0 || r.command(h) == "" && r.stateOf(h) == "skipped" {
			n++
		}
	}
	return n
}

func (r *crossing) stateOf(h *fleet.Host) string {
	for _, turn := range r.shown()["hosts"].([]any) {
		if turn := turn.(map[string]any); turn["address"] == h.Address() {
			return sprint(turn["state"])
		}
	}
	return ""
}

// ran are the commands of the operation on a host.
func (r *crossing) ran(h *fleet.Host) []fleet.Command {
	return slices.DeleteFunc(h.Commands(), func(c fleet.Command) bool { return c.Time.Before(r.from) || !c.TakesInHand() })
}

// live lets the service live for a while, asks for something meanwhile, kills it
// and starts it again. It returns how often it was killed.
func (r *crossing) live(span time.Duration) int {
	r.lives++
	ask := r.asking
	if ask == "" {
		switch chance := r.random.IntN(8); {
		case r.cancels && r.lives > 3 && chance < 3 && r.cancelAt.IsZero():
			ask = "cancel"
		case r.isPaused() && chance < 4:
			ask = "resume"
		case !r.isPaused() && chance == 7 && r.cancelAt.IsZero():
			ask = "pause"
		}
	}
	ctx, stop := context.WithCancel(r.t.Context())
	wait := time.Duration(r.random.Int64N(int64(span) + 1))
	var asks sync.WaitGroup
	asks.Go(func() {
		if pause(ctx, wait) {
			r.ask(ask)
		}
	})
	pause(ctx, span)
	r.stop(syscall.SIGKILL)
	stop()
	asks.Wait()
	killed := 1
	if r.random.IntN(6) == 0 { // it may not even come to listen
		r.launch()
		pause(r.t.Context(), time.Duration(r.random.IntN(60))*time.Millisecond)
		r.stop(syscall.SIGKILL)
		killed++
	}
	r.start()
	return killed
}

// ask asks for something that may be repeated.
func (r *crossing) ask(what string) {
	if what == "" {
		return
	}
	r.asking = what
	if what == "resume" && r.isPaused() {
		r.pauses[len(r.pauses)-1].until = time.Now()
	}
	a := r.change(http.MethodPut, r.path+"/"+what, nil)
	switch {
	case a.status == http.StatusConflict: // it has ended
	case a.unknown:
		return
	case !a.done():
		r.wrong("%s was answered %d %s", what, a.status, a.body)
	case what == "cancel":
		r.cancelled, r.cancelAt = a, time.Now()
	case what == "pause":
		r.pauses = append(r.pauses, stretch{from: time.Now(), position: a.position})
	}
	r.asking = ""
}

// finish lets the operation come to its end.
func (r *crossing) finish() {
	for r.goesOn() {
		switch {
		case r.asking != "":
			r.ask(r.asking)
		case r.isPaused():
			r.ask("resume")
		}
		pause(r.t.Context(), 20*time.Millisecond)
	}
	for i := range r.pauses {
		r.pauses[i].until = cmp.Or(r.pauses[i].until, time.Now()) // it ended meanwhile
	}
}

// check holds what the hosts ran, and are, against what would have come of it
// without kills.
func (r *crossing) check() {
	o := r.shown()
	states := map[string]string{}
	for _, turn := range o["hosts"].([]any) {
		turn := turn.(map[string]any)
		states[sprint(turn["address"])] = sprint(turn["state"])
	}
	cause := sprint(o["cause"])
	switch {
	case o["status"] == "finished":
		r.ended = "finished"
	case strings.HasPrefix(cause, "cancelled by admin"):
		r.ended = "cancelled"
	default:
		r.ended = "stopped"
	}
	if !r.cancelAt.IsZero() != (r.ended == "cancelled") && r.asking != "cancel" {
		r.wrong("it %s: %s, and was cancelled at %s", r.ended, cause, r.cancelAt)
	}
	if len(r.fails) > r.tolerated && r.ended == "finished" || len(r.fails) <= r.tolerated && r.ended == "stopped" {
		r.wrong("%d hosts fail, and it %s: %s", len(r.fails), r.ended, cause)
	}

	failed := 0
	open := true      // hosts of the batch are to be begun
	var end time.Time // of the batch before
	for _, batch := range r.batches {
		last := end
		for _, address := range batch {
			h := r.fleet.Host(address)
			ran := r.ran(h)
			if len(ran) > 0 && (ran[0].Time.Before(end) || !open) {
				r.wrong("host %s was begun at %s, out of its turn", address, ran[0].Time)
			}
			for _, c := range ran {
				if c.Until.After(last) {
					last = c.Until
				}
			}
			if states[address] != "waiting" || r.ended == "finished" {
				r.checkTurn(h, ran, states[address])
			} else {
				r.checkWaiting(h, ran)
			}
			if r.fails[address] != "" {
				failed++
			}
		}
		// It stops in the batch in which there are too many, and not all of that need
		// have been begun: those before may have failed while nobody was there.
		if open && r.ended == "stopped" && failed <= r.tolerated {
			for _, address := range batch {
				if states[address] == "waiting" {
					r.wrong("host %s was not begun, and the batch was to be", address)
				}
			}
		}
		end, open = last, open && failed <= r.tolerated
	}
	if n := r.fleet.MostInHand(r.from); n > len(r.fleet.Hosts())/5 { // the largest batch
		r.wrong("%d hosts were in hand at once", n)
	}
}

// checkTurn holds a host whose turn is over against what was to come of it.
func (r *crossing) checkTurn(h *fleet.Host, ran []fleet.Command, state string) {
	command, fails := r.command(h), r.fails[h.Address()]
	version, before := r.version[h.Spec().OS], r.before[h.Address()]
	want, wanted, wantState := before, []string{command}, "succeeded"
	switch {
	case command == "":
		wanted, wantState = nil, "skipped"
	case fails == "command":
		wantState = "failed"
	case r.reboot:
		wanted = append(wanted, "systemctl reboot")
		if want = [2]string{version, ""}; fails == "boot" {
			want, wantState = [2]string{before[0], ""}, "failed"
		}
	case r.ended == "cancelled" && h.Spec().OSTree:
		want[1] = "" // dropped
	default:
		want[1] = version
	}
	got := [2]string{h.Version(), h.Pending()}
	if all := fmt.Sprint(lines(ran)); all != fmt.Sprint(wanted) || got != want || state != wantState {
		r.wrong("host %s %s, ran %s and has %q, before %q; it was to have %s, run %q and have %q", h.Address(), state, all, got, before, wantState, wanted, want)
	}
}

func (r *crossing) checkWaiting(h *fleet.Host, ran []fleet.Command) {
	if got := [2]string{h.Version(), h.Pending()}; len(ran) > 0 || got != r.before[h.Address()] {
		r.wrong("host %s was not begun, and ran %v and has %q, before %q", h.Address(), lines(ran), got, r.before[h.Address()])
	}
}

// checkSteering checks that no host was begun while the operation was paused, or
// after it was cancelled: neither on record nor by what the hosts ran.
func (r *crossing) checkSteering(h history) {
	begun := map[domain.Address]event.Position{}
	why := ""
	for _, recorded := range h.events {
		if id, ok := recorded.Stream.Operation(); !ok || id != r.id {
			continue
		}
		switch e := recorded.Event.(type) {
		case event.OperationPaused:
			why = "paused"
		case event.OperationResumed:
			why = ""
		case event.OperationCancelled:
			why = "cancelled"
		case event.HostTurnBegun:
			if begun[e.Host] = recorded.Position; why != "" {
				r.wrong("the turn of %s was begun though it was %s", e.Host, why)
			}
		default:
		}
	}
	stretches := slices.Clone(r.pauses)
	if !r.cancelAt.IsZero() {
		stretches = append(stretches, stretch{from: r.cancelAt, until: time.Now(), position: r.cancelled.position})
	}
	for _, host := range r.fleet.Hosts() {
		for _, c := range r.ran(host) {
			for _, s := range stretches {
				if c.Time.After(s.from) && c.Time.Before(s.until) && uint64(begun[domain.Address(host.Address())]) > s.position {
					r.wrong("host %s was begun at %s, and from %s until %s none was to be", host.Address(), c.Time, s.from, s.until)
				}
			}
		}
	}
}
