// Package linear checks what several clients were answered at the same time:
// whether there is an order of their requests, each between its beginning and its
// answer, in which one after the other would have been answered so.
package linear

import (
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// What there is in the model.
const (
	Clusters = 2
	Hosts    = 3 // all of them may join
)

// Verb is what is asked for.
type Verb string

// The verbs. Create and Delete are of clusters, Join and Leave of one member; Swap
// is the compare-and-set of all members; Start and End are of an operation.
const (
	Create Verb = "create"
	Delete Verb = "delete"
	Join   Verb = "join"
	Leave  Verb = "leave"
	Swap   Verb = "swap"
	Start  Verb = "start"
	End    Verb = "end"
)

// Request is what a client asks for.
type Request struct {
	Verb      Verb
	Cluster   int
	Host      int       // Join, Leave
	Old, New  Set       // Swap
	Kind      string    // Start
	Operation Operation // End
}

// Operation names an operation and its kind.
type Operation struct{ Kind, ID string }

// Set is a set of hosts.
type Set uint

// Has tells whether a host is in it.
func (s Set) Has(host int) bool { return s>>host&1 == 1 }

// Answer is how a request ended.
type Answer int

// The answers. Nothing means that nothing was done; Unknown that it may have been
// done, or be done later.
const (
	Done Answer = iota + 1
	Missing
	Conflict
	Nothing
	Unknown
)

// Reply is what a client was answered.
type Reply struct {
	Answer Answer
	ID     string // Start: of the operation that runs then
}

// state is what there is.
type state struct {
	exists  [Clusters]bool
	in      [Hosts]int          // the number of its cluster, from 1; 0: none
	running [Clusters]Operation // no kind: none; no id: it is not known
	over    [Clusters]Set       // those of its hosts that have not left since it was started
	ended   [Clusters]string    // the operation that ended last
}

// alone is what there may be when operations that have no host left end by
// themselves, or have not yet.
func (s state) alone() []state {
	all := []state{s}
	for c := range Clusters {
		if s.running[c].Kind == "" || s.over[c] != 0 {
			continue
		}
		for _, s := range all {
			s.ended[c], s.running[c] = s.running[c].ID, Operation{}
			all = append(all, s)
		}
	}
	return all
}

func (s state) members(cluster int) (all Set) {
	for host, in := range s.in {
		if in == cluster+1 {
			all |= 1 << host
		}
	}
	return all
}

// after is what there is after a request, and how it is answered.
func (s state) after(q Request) (state, Answer) {
	c := q.Cluster
	switch {
	case q.Verb == Create:
		s.exists[c] = true
		return s, Done
	case q.Verb == End:
		if s.running[c] == q.Operation {
			s.running[c], s.ended[c] = Operation{}, q.Operation.ID
		}
		return s, Done
	case !s.exists[c]:
		return s, Missing
	}
	join := func(host int) bool {
		if s.in[host] != 0 && s.in[host] != c+1 {
			return false
		}
		s.in[host] = c + 1
		return true
	}
	before := s
	switch q.Verb {
	case Delete:
		if s.running[c].Kind != "" {
			return s, Conflict
		}
		s.exists[c], s.ended[c] = false, ""
		for host, in := range s.in {
			if in == c+1 {
				s.in[host] = 0
			}
		}
	case Join:
		if !join(q.Host) {
			return before, Conflict
		}
	case Leave:
		if s.in[q.Host] == c+1 {
			s.in[q.Host] = 0
		}
	case Swap:
		if s.members(c) != q.Old {
			return before, Conflict
		}
		for host := range Hosts {
			if q.New.Has(host) && !join(host) {
				return before, Conflict
			}
			if !q.New.Has(host) && s.in[host] == c+1 {
				s.in[host] = 0
			}
		}
	case Create, Start, End: // above, and by starts
	}
	s.over[c] &= s.members(c)
	return s, Done
}

// starts is what there may be after an operation was started, as it was answered.
func (s state) starts(q Request, reply Reply) []state {
	op := s.running[q.Cluster]
	started := s
	started.running[q.Cluster] = Operation{q.Kind, reply.ID}
	if op.Kind == "" {
		started.over[q.Cluster] = s.members(q.Cluster)
	}
	switch {
	case reply.Answer == Unknown && s.exists[q.Cluster] && op.Kind == "":
		return []state{s, started}
	case reply.Answer == Unknown:
		return []state{s}
	case !s.exists[q.Cluster]:
		return when(reply.Answer == Missing, s)
	case op.Kind == "":
		return when(reply.Answer == Done && reply.ID != s.ended[q.Cluster], started)
	case op.Kind != q.Kind:
		return when(reply.Answer == Conflict, s)
	}
	return when(reply.Answer == Done && (op.ID == "" || op.ID == reply.ID), started)
}

func when(possible bool, s state) []state {
	if possible {
		return []state{s}
	}
	return nil
}

// step is what there may be after a request was answered so; nothing where it
// cannot have been.
func (s state) step(q Request, reply Reply) []state {
	if reply.Answer == Nothing {
		return []state{s}
	}
	if q.Verb == Start {
		return s.starts(q, reply)
	}
	after, answer := s.after(q)
	var all []state
	if reply.Answer == answer || reply.Answer == Unknown && answer == Done {
		all = append(all, after)
	}
	if reply.Answer == Unknown {
		all = append(all, s)
	}
	if op := s.running[q.Cluster]; q.Verb == End && op == (Operation{Kind: q.Operation.Kind}) { // it may be that one
		s.running[q.Cluster], s.ended[q.Cluster] = Operation{}, q.Operation.ID
		all = append(all, s)
	}
	return all
}

func (h *History) model() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{state{}} },
		Step: func(s, q, reply any) (all []any) {
			before := []state{s.(state)}
			if h.EndsAlone {
				before = s.(state).alone()
			}
			for _, s := range before {
				for _, next := range s.step(q.(Request), reply.(Reply)) {
					all = append(all, next)
				}
			}
			return all
		},
	}
	return nondeterministic.ToModel()
}

// History is what clients asked for and were answered.
type History struct {
	EndsAlone bool // an operation whose hosts have all left may end by itself

	mu         sync.Mutex
	clock      atomic.Int64
	operations []porcupine.Operation
	running    [Clusters]Operation // the last that was answered to have been started
}

// Run lets a client ask for n things, drawn at random, one after the other.
func (h *History) Run(client, n int, random *rand.Rand, ask func(Request) Reply) {
	for range n {
		q := h.draw(random)
		call := h.clock.Add(1)
		reply := ask(q)
		end := h.clock.Add(1)
		if reply.Answer == Unknown {
			end = math.MaxInt64 // it may yet be done
		}
		h.mu.Lock()
		h.operations = append(h.operations, porcupine.Operation{ClientId: client, Input: q, Call: call, Output: reply, Return: end})
		if q.Verb == Start && reply.Answer == Done {
			h.running[q.Cluster] = Operation{q.Kind, reply.ID}
		}
		h.mu.Unlock()
	}
}

func (h *History) draw(random *rand.Rand) Request {
	h.mu.Lock()
	running := h.running
	h.mu.Unlock()
	q := Request{Cluster: random.IntN(Clusters), Host: random.IntN(Hosts)}
	q.Old, q.New = Set(random.UintN(1<<Hosts)), Set(random.UintN(1<<Hosts))
	q.Kind = []string{"upgrade", "restart"}[random.IntN(2)]
	q.Operation = running[q.Cluster]
	verbs := strings.Fields("create create delete join join join leave leave leave swap swap swap swap start start end end")
	if q.Verb = Verb(verbs[random.IntN(len(verbs))]); q.Verb == End && q.Operation.ID == "" {
		q.Verb = Start
	}
	return q
}

// Linearizable tells whether there is such an order; known is false when that was
// not found out in time.
func (h *History) Linearizable(limit time.Duration) (is, known bool) {
	result := porcupine.CheckOperationsTimeout(h.model(), h.operations, limit)
	return result == porcupine.Ok, result != porcupine.Unknown
}

// Count is how many requests were answered so.
func (h *History) Count(answer Answer) (n int) {
	for _, o := range h.operations {
		if o.Output.(Reply).Answer == answer {
			n++
		}
	}
	return n
}
