package e2e

import (
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver

	"commissaire/adapters/eventlog"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/fleet"
)

// history is all that was recorded, as it lies on disk.
type history struct {
	t      *testing.T
	events []event.Recorded
	sparse bool // not every number is the position of an event
}

func (s *service) recorded() history {
	s.t.Helper()
	h := history{t: s.t, sparse: s.esdb != nil}
	add := func(raw eventlog.Raw) {
		r, err := eventlog.Decode(raw)
		if err != nil {
			s.t.Fatal(err)
		}
		h.events = append(h.events, r)
	}
	if s.esdb != nil {
		s.inOrder(add)
		return h
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "store", "events.db")+"?mode=ro")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(s.t.Context(), "SELECT pos, stream, rev, type, data, meta FROM events ORDER BY pos")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var raw eventlog.Raw
		if err := rows.Scan(&raw.Position, &raw.Stream, &raw.Revision, &raw.Type, &raw.Data, &raw.Meta); err != nil {
			s.t.Fatal(err)
		}
		add(raw)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// isWhole checks that positions grow, that no place in the log or in a stream is
// empty, and gives the last position.
func (h history) isWhole() (last event.Position) {
	h.t.Helper()
	next := map[event.Stream]event.Revision{}
	for i, r := range h.events {
		if r.Position <= last || !h.sparse && r.Position != last+1 || r.Revision != next[r.Stream] {
			h.t.Errorf("event %d of the log is at position %d, revision %d of %s", i+1, r.Position, r.Revision, r.Stream)
		}
		next[r.Stream]++
		last = r.Position
	}
	return last
}

// hasWhatWasAnswered checks that nothing came of what was refused, and that what
// was answered stands where the answer says.
func (h history) hasWhatWasAnswered(replies map[string]reply) {
	h.t.Helper()
	for _, r := range h.events {
		asked, ok := replies[r.Meta.RequestID]
		switch {
		case !ok:
		case !asked.done() && !asked.unknown:
			h.t.Errorf("%s was answered %d, and left %s at position %d", asked.call, asked.status, r.Event.EventType(), r.Position)
		case asked.done() && uint64(r.Position) > asked.position:
			h.t.Errorf("%s was answered at position %d, and left %s at position %d", asked.call, asked.position, r.Event.EventType(), r.Position)
		}
	}
	last := uint64(h.events[len(h.events)-1].Position)
	for _, asked := range replies {
		if asked.done() && asked.position > last {
			h.t.Errorf("%s was answered at position %d, and the log ends at %d", asked.call, asked.position, last)
		}
	}
}

// keepsTheRules checks, event by event, that each was allowed by those before it:
// a host is in one cluster at most, a cluster runs one operation at most, who
// works on a host has claimed it, and an operation ends after its turns.
func (h history) keepsTheRules() {
	h.t.Helper()
	r := rules{
		known: map[domain.HostID]bool{}, in: map[domain.Address]domain.ClusterID{}, running: map[domain.ClusterID]domain.OperationID{},
		claims: map[domain.HostID]event.HostTaken{}, open: map[domain.OperationID]map[domain.HostID]bool{},
	}
	for _, recorded := range h.events {
		r.wrong = func(format string, args ...any) {
			h.t.Helper()
			h.t.Errorf("position %d, %s %+v: "+format, append([]any{recorded.Position, recorded.Event.EventType(), recorded.Event}, args...)...)
		}
		switch e := recorded.Event.(type) {
		case event.RosterEvent:
			r.roster(e)
		case event.OperationEvent:
			r.operation(e)
		}
	}
}

// rules are what the events so far come to, and what each further one must keep.
type rules struct {
	wrong func(format string, args ...any) // says what is wrong with the present event

	known   map[domain.HostID]bool
	in      map[domain.Address]domain.ClusterID
	running map[domain.ClusterID]domain.OperationID
	claims  map[domain.HostID]event.HostTaken
	open    map[domain.OperationID]map[domain.HostID]bool // turns; false: over
	term    domain.Term
}

func (r *rules) runs(id domain.OperationID) bool {
	return slices.Contains(slices.Collect(maps.Values(r.running)), id)
}

func (r *rules) roster(e event.RosterEvent) {
	switch e := e.(type) {
	case event.HostAdded:
		r.known[e.HostID] = true
	case event.HostRemoved:
		if r.runs(r.claims[e.HostID].Operation) || r.in[e.Host] != "" {
			r.wrong("it is in hand, or a member of %q", r.in[e.Host])
		}
		delete(r.known, e.HostID)
		delete(r.claims, e.HostID)
	case event.HostJoined:
		if r.in[e.Host] != "" || !r.known[e.HostID] {
			r.wrong("it is a member of %q, known: %v", r.in[e.Host], r.known[e.HostID])
		}
		r.in[e.Host] = e.ClusterID
	case event.HostLeft:
		if r.in[e.Host] != e.ClusterID || r.runs(r.claims[e.HostID].Operation) {
			r.wrong("it is a member of %q, claimed by %+v", r.in[e.Host], r.claims[e.HostID])
		}
		delete(r.in, e.Host)
	case event.HostTaken:
		r.taken(e)
	case event.HostReleased:
		if r.claims[e.HostID].Claim != e.Claim {
			r.wrong("it is held by %+v", r.claims[e.HostID])
		}
		delete(r.claims, e.HostID)
	case event.OperationStarted:
		r.started(e.Start().Started)
	case event.OperationCompleted:
		r.ended(e.Operation, e.ClusterID)
	case event.OperationAborted:
		r.ended(e.Operation, e.ClusterID)
	default: // what no rule here is about
	}
}

func (r *rules) taken(e event.HostTaken) {
	if held := r.claims[e.HostID]; held.Claim != "" && held.Claim != e.Claim && held.Term == e.Term {
		r.wrong("it is held by %+v", held)
	}
	if e.Term < r.term || !r.known[e.HostID] || e.Operation != "" && r.running[r.in[e.Host]] != e.Operation {
		r.wrong("the term is %d, the host known: %v, its cluster runs %q", r.term, r.known[e.HostID], r.running[r.in[e.Host]])
	}
	r.term, r.claims[e.HostID] = e.Term, e
}

func (r *rules) started(s event.Started) {
	if other := r.running[s.ClusterID]; other != "" {
		r.wrong("operation %s is running", other)
	}
	r.running[s.ClusterID], r.open[s.Operation] = s.Operation, map[domain.HostID]bool{}
}

func (r *rules) ended(id domain.OperationID, cluster domain.ClusterID) {
	if r.running[cluster] != id {
		r.wrong("it is not running")
	}
	for host, open := range r.open[id] {
		if open {
			r.wrong("the turn of %s is open", host)
		}
	}
	delete(r.running, cluster)
}

func (r *rules) operation(e event.OperationEvent) {
	switch e := e.(type) {
	case event.HostTurnBegun:
		if _, before := r.open[e.Operation][e.HostID]; before || !r.runs(e.Operation) {
			r.wrong("a second time, or the operation is not running")
		} else {
			r.open[e.Operation][e.HostID] = true
		}
		r.worked(e.Turn)
	case event.HostTurnExamined:
		r.worked(e.Turn)
	case event.HostTurnSucceeded:
		r.over(e.Turn)
	case event.HostTurnFailed:
		r.over(e.Turn)
	case event.HostTurnSkipped:
		if e.Claim != "" || r.open[e.Operation][e.HostID] {
			r.worked(e.Turn)
		}
		r.open[e.Operation][e.HostID] = false
	default: // what no rule here is about
	}
}

// worked checks that a turn was open, and under its claim.
func (r *rules) worked(turn event.Turn) {
	if claim := r.claims[turn.HostID]; claim.Claim != turn.Claim || claim.Operation != turn.Operation {
		r.wrong("the host is claimed by %+v", claim)
	}
	if !r.open[turn.Operation][turn.HostID] {
		r.wrong("the turn is not open")
	}
}

func (r *rules) over(turn event.Turn) {
	r.worked(turn)
	r.open[turn.Operation][turn.HostID] = false
}

// turn is a host's part in an operation, as recorded.
type turn struct {
	operation domain.OperationID
	kind      domain.OperationKind
	begun     time.Time
	over      time.Time // zero: not yet
	succeeded bool
}

// turns are all turns of each host, in their order.
func (h history) turns() map[string][]turn {
	kinds := map[domain.OperationID]domain.OperationKind{}
	all := map[string][]turn{}
	over := func(e event.Turn, when time.Time, succeeded bool) {
		if turns := all[string(e.Host)]; len(turns) > 0 && turns[len(turns)-1].operation == e.Operation {
			turns[len(turns)-1].over, turns[len(turns)-1].succeeded = when, succeeded
		}
	}
	for _, r := range h.events {
		switch e := r.Event.(type) {
		case event.OperationStarted:
			start := e.Start()
			kinds[start.Operation] = start.Kind
		case event.HostTurnBegun:
			all[string(e.Host)] = append(all[string(e.Host)], turn{operation: e.Operation, kind: kinds[e.Operation], begun: r.Meta.Time})
		case event.HostTurnSucceeded:
			over(e.Turn, r.Meta.Time, true)
		case event.HostTurnFailed:
			over(e.Turn, r.Meta.Time, false)
		case event.HostTurnSkipped:
			over(e.Turn, r.Meta.Time, false)
		}
	}
	return all
}

// explains checks that all that was done on the hosts was recorded before: what
// upgrades, deploys or reboots by a turn that had begun, once a turn and before
// its end; all else by a claim of the host's upkeep.
func (h history) explains(f *fleet.Fleet) {
	h.t.Helper()
	turns := h.turns()
	claims := h.claims()
	for _, host := range f.Hosts() {
		all := turns[host.Address()]
		done := make([][]fleet.Command, len(all))
		for _, c := range host.Commands() {
			if !c.TakesInHand() {
				before, _ := slices.BinarySearchFunc(claims[host.Address()], c.Time, func(c claimed, when time.Time) int { return c.when.Compare(when) })
				if before == 0 || !claims[host.Address()][before-1].upkeep {
					h.t.Errorf("%s: %s at %s, and nobody had claimed the host for its upkeep", host.Address(), c.Line, c.Time)
				}
				continue
			}
			i := len(all) - 1
			for i >= 0 && all[i].begun.After(c.Time) {
				i--
			}
			if i < 0 || !does(all[i].kind, c.Line) || !all[i].over.IsZero() && c.Time.After(all[i].over) {
				h.t.Errorf("%s: %s at %s, and the turns are %+v", host.Address(), c.Line, c.Time, all)
				continue
			}
			done[i] = append(done[i], c)
		}
		for i, turn := range all {
			if n := len(done[i]); n > 1 || turn.succeeded && n == 0 {
				h.t.Errorf("%s: the %s %s took %d commands: %+v", host.Address(), turn.kind, turn.operation, n, done[i])
			}
		}
	}
}

// does says whether a command is what a kind of operation is for.
func does(kind domain.OperationKind, line string) bool {
	command := map[domain.OperationKind]string{domain.Upgrade: "upgrade", domain.Restart: "reboot", domain.Deploy: "deploy"}[kind]
	return slices.Contains(strings.Fields(line), command)
}

// claimed is a moment at which a host was taken for its upkeep, or was no more.
type claimed struct {
	when   time.Time
	upkeep bool
}

func (h history) claims() map[string][]claimed {
	all := map[string][]claimed{}
	for _, r := range h.events {
		switch e := r.Event.(type) {
		case event.HostTaken:
			all[string(e.Host)] = append(all[string(e.Host)], claimed{r.Meta.Time, e.Operation == ""})
		case event.HostReleased:
			all[string(e.Host)] = append(all[string(e.Host)], claimed{when: r.Meta.Time})
		}
	}
	return all
}

// doOneThingAtATime checks that no host ran two commands at the same time.
func doOneThingAtATime(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	for _, h := range f.Hosts() {
		var last fleet.Command
		for i, c := range h.Commands() {
			if i > 0 && (last.Until.IsZero() || last.Until.After(c.Time)) {
				t.Errorf("%s: %s from %s to %s, and %s at %s", h.Address(), last.Line, last.Time, last.Until, c.Line, c.Time)
			}
			last = c
		}
	}
}

// outcomes are how many operations came to their end, why others did not, and how
// often the turn of a host was taken up again after a kill.
func (h history) outcomes() (completed, resumed int, failed []string) {
	taken := map[domain.ClaimID]bool{}
	for _, r := range h.events {
		switch e := r.Event.(type) {
		case event.OperationCompleted:
			completed++
		case event.OperationAborted:
			failed = append(failed, fmt.Sprintf("operation %s: %s", e.Operation, e.Cause))
		case event.HostTaken:
			if e.Operation != "" && taken[e.Claim] {
				resumed++
			}
			taken[e.Claim] = true
		}
	}
	return completed, resumed, failed
}

// held are the claims that nobody has released.
func (h history) held() map[domain.HostID]event.HostTaken {
	claims := map[domain.HostID]event.HostTaken{}
	for _, r := range h.events {
		switch e := r.Event.(type) {
		case event.HostTaken:
			claims[e.HostID] = e
		case event.HostReleased:
			delete(claims, e.HostID)
		case event.HostRemoved:
			delete(claims, e.HostID)
		default:
		}
	}
	return claims
}
