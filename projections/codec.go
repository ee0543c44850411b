package projections

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	fast "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/tidwall/btree"
	"golang.org/x/sync/errgroup"

	"commissaire/domain"
	"commissaire/domain/event"
)

// A snapshot is kept as lines of text: the name of a view, a key and JSON, with a
// tab between them. The first has the cut, the last how many there are, so that a
// part of a snapshot is none.
const (
	cutLine = "cut"
	endLine = "end"

	ofHosts      = "hosts"
	ofAddresses  = "addresses"
	ofClusters   = "clusters"
	ofClusterIDs = "clusterids"
	ofMembers    = "members"
	ofNetworks   = "networks"
	ofManagers   = "containermanagers"
	ofOperations = "operations"
	ofTurns      = "turns"
	ofLatest     = "latest"
	ofHistory    = "history"
)

// cut is where in history a snapshot is.
type cut struct {
	Position event.Position `json:"position"`
	ID       uuid.UUID      `json:"id"`
	Time     time.Time      `json:"time"`
	Newest   time.Time      `json:"newest"`
	Events   uint64         `json:"events"`
	Sweep    time.Time      `json:"sweep"`
	Leader   Leader         `json:"leader"`
}

// keptOperation is an operation without its hosts, which are kept apart.
type keptOperation struct {
	Operation
	ClusterID domain.ClusterID `json:"cluster_id"`
}

// keptTurn is a turn with what clients do not see of it.
type keptTurn struct {
	Turn
	HostID  domain.HostID  `json:"host_id"`
	Printed int64          `json:"printed"`
	Limit   *Wait          `json:"limit"`
	Claim   domain.ClaimID `json:"claim"`
	Frozen  Host           `json:"frozen"`
}

// keptTurns are the turns of an operation as they were kept. They are most of what
// there is, and hardly any are asked for.
type keptTurns struct {
	once sync.Once
	text []byte
}

// entry is a record of a view.
type entry struct {
	view, key string
	value     any
}

// entries are all there is to keep, in order.
func (s *Snapshot) entries() iter.Seq[entry] {
	return func(yield func(entry) bool) {
		_ = yield(entry{cutLine, "", cut{s.Position, s.ID, s.Time, s.newest, s.Events, s.sweep, s.leader}}) &&
			each(ofHosts, s.hosts, yield, func(h *hostState) any { return h }) &&
			each(ofAddresses, s.addresses, yield, asIs) &&
			each(ofClusters, s.clusters, yield, func(c *clusterState) any { return c }) &&
			each(ofClusterIDs, s.byID, yield, asIs) &&
			each(ofMembers, s.members, yield, asIs) &&
			each(ofNetworks, s.networks, yield, (*Answer).kept) &&
			each(ofManagers, s.managers, yield, (*Answer).kept) &&
			each(ofOperations, s.operations, yield, (*Operation).head) &&
			each(ofTurns, s.operations, yield, (*Operation).turns) &&
			each(ofLatest, s.latest, yield, asIs) &&
			s.eachHistory(yield)
	}
}

func (s *Snapshot) eachHistory(yield func(entry) bool) bool {
	for of, positions := range s.history.all(s.Position) {
		if !yield(entry{ofHistory, of, positions}) {
			return false
		}
	}
	return true
}

func each[K cmp.Ordered, V any](view string, all *btree.Map[K, V], yield func(entry) bool, kept func(V) any) bool {
	more := true
	all.Scan(func(key K, value V) bool {
		more = yield(entry{view, fmt.Sprint(key), kept(value)})
		return more
	})
	return more
}

func asIs[V any](value V) any { return value }

func (a *Answer) kept() any {
	body, _ := a.JSON()
	return json.RawMessage(body)
}

func (o *Operation) head() any {
	head := keptOperation{*o.whole(), o.cluster}
	head.Hosts = nil
	return head
}

func (o *Operation) turns() any {
	turns := make([]keptTurn, len(o.whole().Hosts))
	for i, t := range o.Hosts {
		turns[i] = keptTurn{t, t.HostID, t.Printed, t.limit, t.claim, t.frozen}
	}
	return turns
}

// whole is the operation when its turns are there.
func (o *Operation) whole() *Operation {
	if o.kept == nil {
		return o
	}
	o.kept.once.Do(func() {
		var turns []keptTurn
		if err := fast.Unmarshal(o.kept.text, &turns); err != nil {
			panic(err) // it is what this very build wrote, to the last bit
		}
		o.Hosts = make([]Turn, len(turns))
		for i, t := range turns {
			o.Hosts[i] = t.Turn
			o.Hosts[i].HostID, o.Hosts[i].Printed, o.Hosts[i].limit = t.HostID, t.Printed, t.Limit
			o.Hosts[i].claim, o.Hosts[i].frozen = t.Claim, t.Frozen
		}
		o.place, o.kept.text = placesOf(o.Hosts), nil
	})
	return o
}

// line is the entry in its form.
func (e entry) line() ([]byte, error) {
	// What is served is kept byte for byte: letters that a client escaped stay so.
	value, err := fast.Marshal(e.value, fast.Deterministic(true), fast.OmitZeroStructFields(true), jsontext.PreserveRawStrings(true))
	if err != nil {
		return nil, fmt.Errorf("write %s %s: %w", e.view, e.key, err)
	}
	return slices.Concat([]byte(e.view+"\t"+e.key+"\t"), bytes.TrimSpace(value), []byte("\n")), nil
}

// Write writes the snapshot for Read.
func (s *Snapshot) Write(w io.Writer) error {
	out, n := bufio.NewWriterSize(w, 1<<20), 0
	for e := range s.entries() {
		line, err := e.line()
		if err != nil {
			return err
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
		n++
	}
	if _, err := fmt.Fprintf(out, "%s\t%d\t\n", endLine, n); err != nil {
		return err
	}
	return out.Flush()
}

// ReadViews makes views of what Snapshot.Write wrote; their past begins with it.
// Anything else is refused, also a part of it.
func ReadViews(r io.Reader) (*Views, error) {
	var pages []*[]put
	var parsing errgroup.Group
	parsing.SetLimit(runtime.GOMAXPROCS(0))
	in := bufio.NewReaderSize(r, pageSize)
	for more := true; more; {
		text := make([]byte, pageSize)
		n, err := io.ReadFull(in, text)
		text, more = text[:n], err == nil
		if more {
			var rest []byte // of the last line
			rest, err = in.ReadBytes('\n')
			text, more = append(text, rest...), err == nil
		}
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.Join(err, parsing.Wait())
		}
		page := new([]put)
		pages = append(pages, page)
		parsing.Go(func() (err error) {
			*page, err = parse(text)
			return err
		})
	}
	if err := parsing.Wait(); err != nil {
		return nil, err
	}
	v := New()
	v.state.networks = &btree.Map[string, *Answer]{} // there is no first one but that which was kept
	state := &reading{Snapshot: v.state}
	for _, page := range pages {
		for _, put := range *page {
			if err := put(state); err != nil {
				return nil, err
			}
		}
	}
	if !state.complete {
		return nil, fmt.Errorf("a snapshot of views: %w", io.ErrUnexpectedEOF)
	}
	v.past.snapshots = []*Snapshot{v.publish()}
	return v, nil
}

// pageSize is how many bytes are parsed at once, and what is left of a line.
const pageSize = 1 << 20

// reading is a snapshot, as far as it was read.
type reading struct {
	*Snapshot
	entries  int
	complete bool
}

// put is a line that was parsed.
type put func(*reading) error

func parse(text []byte) (puts []put, err error) {
	for line := range bytes.Lines(text) {
		put, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("a snapshot of views: %.60q: %w", line, err)
		}
		puts = append(puts, put)
	}
	return puts, nil
}

func parseLine(line []byte) (put, error) {
	view, rest, _ := bytes.Cut(line, []byte("\t"))
	name, value, _ := bytes.Cut(rest, []byte("\t"))
	key := string(name)
	if string(view) == endLine {
		n, err := strconv.Atoi(key)
		return func(s *reading) error {
			if s.complete = s.entries == n; !s.complete {
				return fmt.Errorf("a snapshot of views has %d entries, and should have %d", s.entries, n)
			}
			return nil
		}, err
	}
	set, err := parseEntry(string(view), key, value)
	return func(s *reading) error {
		if s.complete {
			return errors.New("a snapshot of views goes on after its end")
		}
		s.entries++
		set(s.Snapshot)
		return nil
	}, err
}

func parseEntry(view, key string, value []byte) (set func(*Snapshot), err error) {
	switch view {
	case cutLine:
		var c cut
		err = fast.Unmarshal(value, &c)
		set = func(s *Snapshot) {
			s.Position, s.ID, s.Time, s.newest, s.Events, s.sweep, s.leader = c.Position, c.ID, c.Time, c.Newest, c.Events, c.Sweep, c.Leader
		}
	case ofHosts:
		h := &hostState{shown: &shown{}}
		err = fast.Unmarshal(value, h)
		set = func(s *Snapshot) { s.hosts.Set(h.ID, h) }
	case ofAddresses:
		var id domain.HostID
		err = fast.Unmarshal(value, &id)
		set = func(s *Snapshot) { s.addresses.Set(domain.Address(key), id) }
	case ofClusters:
		c := &clusterState{}
		err = fast.Unmarshal(value, c)
		set = func(s *Snapshot) { s.clusters.Set(c.Name, c) }
	case ofClusterIDs:
		var name domain.ClusterName
		err = fast.Unmarshal(value, &name)
		set = func(s *Snapshot) { s.byID.Set(domain.ClusterID(key), name) }
	case ofMembers:
		var id domain.HostID
		err = fast.Unmarshal(value, &id)
		set = func(s *Snapshot) { s.members.Set(key, id) }
	case ofNetworks:
		answer := NewAnswer(json.RawMessage(bytes.Clone(value)))
		set = func(s *Snapshot) { s.networks.Set(key, answer) }
	case ofManagers:
		answer := NewAnswer(json.RawMessage(bytes.Clone(value)))
		set = func(s *Snapshot) { s.managers.Set(key, answer) }
	case ofOperations:
		var at uint64
		if at, err = strconv.ParseUint(key, 10, 64); err != nil {
			break
		}
		var kept keptOperation
		err = fast.Unmarshal(value, &kept)
		set = func(s *Snapshot) {
			o := kept.Operation
			o.cluster = kept.ClusterID
			s.addOperation(at, &o)
		}
	case ofTurns:
		var at uint64
		at, err = strconv.ParseUint(key, 10, 64)
		set = func(s *Snapshot) {
			if o, ok := s.operations.Get(at); ok {
				o.kept = &keptTurns{text: value}
			}
		}
	case ofLatest:
		var id domain.OperationID
		err = fast.Unmarshal(value, &id)
		set = func(s *Snapshot) { s.latest.Set(key, id) }
	case ofHistory:
		var positions []event.Position
		err = fast.Unmarshal(value, &positions)
		set = func(s *Snapshot) { s.history.set(key, positions) }
	default:
		err = errors.New("there is no such view")
	}
	return set, err
}
