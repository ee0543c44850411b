// Package operation decides the turns of the hosts in an operation and which
// come next. That a cluster runs one operation at a time is the roster's rule.
//
// Which hosts are begun, and when, follows from what is recorded and from the
// time alone (Next), so a crash or a pause needs no code of its own. That nothing
// begins while an operation is paused, after it was cancelled or after too many
// hosts failed is decided in the very stream that says so (Begin).
package operation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/policy"
)

// Operation is an operation with its progress.
type Operation struct {
	event.Started
	Kind    domain.OperationKind
	Version string
	Zone    *time.Location // of its window; nil: it has none, or its zone is not known
	Progress
}

// Availability is whether a host can be taken in hand.
type Availability int

// The availabilities.
const (
	Free  Availability = iota
	Busy               // somebody else works on it: it waits, and does not hold up the others
	Taken              // its turn is being begun: it counts as in hand
	Gone               // it was removed, or left the cluster: its turn is skipped
)

// Situation is what an operation must know of a host that waits.
type Situation struct {
	Availability
	Why    string // with Busy: with what
	OSTree bool
}

// Awaited is a host, and what is waited for there; "": nothing any more.
type Awaited struct {
	event.Member
	Why string
}

// OtherWork is how a wait for a busy host begins.
const OtherWork = "other work on the host: "

// Next is what history leaves outstanding.
type Next struct {
	InHand []event.Member // turns begun and not over: they are to be carried on
	Begin  []event.Member // turns to begin now
	Skip   []event.Member // turns of hosts that are gone
	Stage  []event.Member // hosts to download on, before any is begun
	Drop   []event.Member // hosts on which a deployment that nobody booted is to be dropped

	// Await are hosts that other work keeps busy and that are waited for from now on,
	// or no longer; Late those that were for too long. Again is when to look again.
	Await, Late []Awaited
	Again       time.Time

	Pause bool // it is to pause by itself

	// Wait says why no host is begun although some wait, and Until when that is
	// over; zero: when something happens.
	Wait  string
	Until time.Time

	Ended bool
	Cause string // with Ended: why it was aborted; "" when it came to its end
}

// Next depends on what is recorded, on the hosts' situation and on the time
// alone. Begun hosts finish, whatever happens; none begins while it is paused or
// outside its window, after more than the tolerated number failed, or once it is
// cancelled. One that was abandoned has ended.
func (o *Operation) Next(now time.Time, situation func(event.Member) Situation) Next {
	if o.Abandoned != "" { // whatever its hosts do
		return Next{Ended: true, Cause: o.Abandoned}
	}
	next, waiting, failed := o.turnsNow()
	if o.Cancelled != "" || len(failed) > o.Tolerated() {
		taken := func(m event.Member) bool { return situation(m).Availability == Taken }
		if len(next.InHand) == 0 && !slices.ContainsFunc(waiting, taken) {
			o.stop(&next, failed)
		}
		return next
	}
	q := o.queue(&next, waiting, situation)
	switch {
	case len(waiting) == 0:
		next.Ended = len(next.InHand) == 0
	case len(waiting) == len(next.Skip):
	case o.Paused:
		next.Stage, next.Wait = nil, "it is paused"
	case q.staging:
		next.Wait = "hosts are downloading"
		for _, c := range q.busy {
			if c.OSTree && !o.Turn(c.HostID).Staged {
				next.await(o, c, now)
			}
		}
	case o.pauseDue():
		next.Pause = len(next.InHand)+q.taken == 0
	default:
		o.beginNext(&next, q, now)
	}
	return next
}

// turnsNow are the hosts in hand, and those that wait and that failed.
func (o *Operation) turnsNow() (next Next, waiting, failed []event.Member) {
	for _, m := range o.Hosts {
		switch turn := o.Turn(m.HostID); {
		case turn.State == Waiting:
			waiting = append(waiting, m)
		case !turn.Over():
			next.InHand = append(next.InHand, m)
		case turn.State == Failed:
			failed = append(failed, m)
		}
	}
	return next, waiting, failed
}

// stop ends an operation that was cancelled, or in which too many hosts failed, and
// that has no host in hand.
func (o *Operation) stop(next *Next, failed []event.Member) {
	if o.Cancelled != "" {
		next.Drop = o.dropped()
		next.Ended, next.Cause = len(next.Drop) == 0, o.Cancelled
		return
	}
	next.Ended, next.Cause = true, fmt.Sprintf("host %s: %s", failed[0].Host, o.Turn(failed[0].HostID).Reason)
}

// candidate is a host that waits for its turn.
type candidate struct {
	event.Member
	Situation
}

// queue is who waits, by what keeps them waiting.
type queue struct {
	free, busy []candidate
	taken      int
	staging    bool // somebody has to download before any is begun
}

// queue asks for the situation of those that wait. Those that are gone are skipped.
func (o *Operation) queue(next *Next, waiting []event.Member, situation func(event.Member) Situation) (q queue) {
	for _, m := range waiting {
		c := candidate{m, situation(m)}
		switch c.Availability {
		case Gone:
			next.Skip = append(next.Skip, m)
			continue
		case Taken:
			q.taken++
		case Free:
			q.free = append(q.free, c)
			if o.awaited(m) {
				next.Await = append(next.Await, Awaited{Member: m})
			}
		case Busy:
			q.busy = append(q.busy, c)
		}
		if o.Policy.Stage && c.OSTree && !o.Turn(m.HostID).Staged {
			q.staging = true
			if c.Availability == Free {
				next.Stage = append(next.Stage, m)
			}
		}
	}
	return q
}

// beginNext begins as many hosts as may be begun, those that are free first.
func (o *Operation) beginNext(next *Next, q queue, now time.Time) {
	open, opens := policy.Opening(o.Policy.Window, o.Zone, now)
	if !open {
		next.Wait, next.Until = "its window is closed", opens
		return
	}
	var picked []candidate
	picked, next.Until = o.begin(now, slices.Concat(q.free, q.busy), len(next.InHand), q.taken)
	for _, c := range picked {
		if c.Availability == Busy {
			next.await(o, c, now)
			continue
		}
		next.Begin = append(next.Begin, c.Member)
		next.Await = slices.DeleteFunc(next.Await, func(a Awaited) bool { return a.Member == c.Member })
	}
	if !next.Until.IsZero() {
		next.Wait = "the delay between batches"
	}
}

// awaited tells whether other work on a host is waited for.
func (o *Operation) awaited(m event.Member) bool {
	return strings.HasPrefix(o.Turn(m.HostID).Wait.Why, OtherWork)
}

// await has a busy host waited for, as long as its command might take.
func (n *Next) await(o *Operation, c candidate, now time.Time) {
	until := o.Turn(c.HostID).Wait.Until
	switch {
	case !o.awaited(c.Member):
		n.Await = append(n.Await, Awaited{c.Member, OtherWork + c.Why})
	case !now.Before(until):
		n.Late = append(n.Late, Awaited{c.Member, OtherWork + c.Why})
	case n.Again.IsZero() || until.Before(n.Again):
		n.Again = until
	}
}

// Tolerated is how many hosts may fail before no further one is begun.
func (o *Operation) Tolerated() int { return o.Policy.MaxFailures.Of(len(o.Hosts)) }

// begin is which of the candidates are begun now, with so many hosts in hand and so
// many that are being taken; or until when none is.
func (o *Operation) begin(now time.Time, candidates []candidate, inHand, taken int) ([]candidate, time.Time) {
	room := max(1, o.Policy.MaxUnavailable.Of(len(o.Hosts))) - inHand - taken
	if batch, ended, batched := o.batch(); batched {
		if until := ended.Add(time.Duration(o.Policy.Delay) * time.Second); now.Before(until) {
			return nil, until
		}
		in := map[domain.HostID]bool{}
		for _, m := range batch {
			in[m.HostID] = true
		}
		candidates = slices.DeleteFunc(candidates, func(c candidate) bool { return !in[c.HostID] })
		room = len(batch)
	}
	if o.Policy.PauseAfter > 0 && !o.pausedAlone {
		room = min(room, o.Policy.PauseAfter-o.begun()-taken)
	}
	return candidates[:min(max(room, 0), len(candidates))], time.Time{}
}

// batch is the one that is to be carried out, and when the one before ended; for
// an operation that goes in batches. With a delay and no sizes, as many as may be
// unavailable are one.
func (o *Operation) batch() (batch []event.Member, ended time.Time, batched bool) {
	batches := o.Batches()
	for _, batch := range batches {
		open := false
		var last time.Time
		for _, m := range batch {
			turn := o.Turn(m.HostID)
			open = open || !turn.Over()
			if turn.State != Skipped && turn.Ended.After(last) {
				last = turn.Ended
			}
		}
		if open {
			return batch, ended, true
		}
		if !last.IsZero() { // nothing to wait for after one that was skipped whole
			ended = last
		}
	}
	return nil, ended, len(batches) > 0
}

// Batches are the hosts batch by batch; none for an operation that does not go
// in batches.
func (o *Operation) Batches() (batches [][]event.Member) {
	sizes := o.Policy.Batches
	if len(sizes) == 0 && o.Policy.Delay > 0 {
		sizes = []event.Amount{o.Policy.MaxUnavailable}
	}
	if len(sizes) == 0 {
		return nil
	}
	for rest := o.Hosts; len(rest) > 0; {
		size := max(1, sizes[min(len(batches), len(sizes)-1)].Of(len(o.Hosts)))
		size = min(size, len(rest))
		batches, rest = append(batches, rest[:size]), rest[size:]
	}
	return batches
}

// begun counts the hosts that were begun, whatever became of them.
func (o *Operation) begun() (n int) {
	for _, m := range o.Hosts {
		if turn := o.Turn(m.HostID); turn.State != Waiting && turn.Claim != "" {
			n++
		}
	}
	return n
}

func (o *Operation) pauseDue() bool {
	return o.Policy.PauseAfter > 0 && !o.pausedAlone && o.begun() >= o.Policy.PauseAfter
}

// dropped are the hosts on which this operation left a deployment that nobody
// booted.
func (o *Operation) dropped() (hosts []event.Member) {
	for _, m := range o.Hosts {
		if o.Turn(m.HostID).Left != (event.System{}) {
			hosts = append(hosts, m)
		}
	}
	return hosts
}
