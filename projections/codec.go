package projections

import (
	"bufio"
	"bytes"
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
	"golang.org/x/sync/errgroup"

	"commissaire/domain"
	"commissaire/domain/event"
)

// A snapshot is written as lines of text: the name of a view, a key and JSON, with a
// tab between them. The first has the cut, the last how many there are, so that a
// part of a snapshot is none.
const (
	cutLine = "cut"
	endLine = "end"
)

// cut is where in history a snapshot is, and what belongs to no other view.
type cut struct {
	Position event.Position `json:"position"`
	ID       uuid.UUID      `json:"id"`
	Time     time.Time      `json:"time"`
	Newest   time.Time      `json:"newest"`
	Events   uint64         `json:"events"`
	Sweep    time.Time      `json:"sweep"`
	Leader   Leader         `json:"leader"`
}

func (s *Snapshot) cutRecord() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		yield("", cut{s.Position, s.ID, s.Time, s.newest, s.Events, s.sweep, s.leader})
	}
}

func parseCut(_ string, text []byte) (put func(*Snapshot), err error) {
	c, err := decodeValue[cut](text)
	return func(s *Snapshot) {
		s.Position, s.ID, s.Time, s.newest, s.Events, s.sweep, s.leader = c.Position, c.ID, c.Time, c.Newest, c.Events, c.Sweep, c.Leader
	}, err
}

// turnRecords are the hosts of operations, which are written apart from these: they
// are most of what there is, and hardly any are asked for.
func (s *Snapshot) turnRecords() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		s.operations.Scan(func(pos event.Position, o *Operation) bool { return yield(fmt.Sprint(pos), o.encodeTurns()) })
	}
}

func parseTurns(key string, text []byte) (put func(*Snapshot), err error) {
	pos, err := parsePosition(key)
	return func(s *Snapshot) {
		if o, ok := s.operations.Get(pos); ok {
			o.saved = &savedTurns{text: text}
		}
	}, err
}

func (s *Snapshot) countHistories() int { return s.history.len(s.Position) }

func (s *Snapshot) historyRecords() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for thing, positions := range s.history.all(s.Position) {
			if !yield(thing, positions) {
				return
			}
		}
	}
}

func parseHistory(thing string, text []byte) (put func(*Snapshot), err error) {
	positions, err := decodeValue[[]event.Position](text)
	return func(s *Snapshot) { s.history.set(thing, positions) }, err
}

// savedOperation is an operation without its hosts, which are written apart.
type savedOperation struct {
	Operation
	ClusterID domain.ClusterID `json:"cluster_id"`
}

// savedTurn is a turn with what clients do not see of it.
type savedTurn struct {
	Turn
	HostID  domain.HostID  `json:"host_id"`
	Printed int64          `json:"printed"`
	Limit   *Wait          `json:"limit"`
	Claim   domain.ClaimID `json:"claim"`
	Frozen  Host           `json:"frozen"`
}

// savedTurns are the turns of an operation as they were written; they are decoded when they are asked for.
type savedTurns struct {
	once sync.Once
	text []byte
}

func asIs[V any](value V) any { return value }

func decodeValue[V any](text []byte) (value V, err error) {
	err = fast.Unmarshal(text, &value)
	return value, err
}

func decodeCluster(text []byte) (*clusterState, error) {
	c := &clusterState{}
	return c, fast.Unmarshal(text, c)
}

func decodeHost(text []byte) (*hostState, error) {
	host := &hostState{rendered: &rendered{}}
	return host, fast.Unmarshal(text, host)
}

func encodeAnswer(a *Answer) any {
	body, _ := a.JSON()
	return json.RawMessage(body)
}

func decodeAnswer(text []byte) (*Answer, error) {
	return NewAnswer(json.RawMessage(bytes.Clone(text))), nil
}

func (o *Operation) encode() any {
	head := savedOperation{*o.withTurns(), o.cluster}
	head.Hosts = nil
	return head
}

func decodeOperation(text []byte) (*Operation, error) {
	saved, err := decodeValue[savedOperation](text)
	saved.cluster = saved.ClusterID
	return &saved.Operation, err
}

func (o *Operation) encodeTurns() any {
	turns := make([]savedTurn, len(o.withTurns().Hosts))
	for i, t := range o.Hosts {
		turns[i] = savedTurn{t, t.HostID, t.Printed, t.limit, t.claim, t.frozen}
	}
	return turns
}

// withTurns is the operation when its turns are there.
func (o *Operation) withTurns() *Operation {
	if o.saved == nil {
		return o
	}
	o.saved.once.Do(func() {
		var turns []savedTurn
		if err := fast.Unmarshal(o.saved.text, &turns); err != nil {
			panic(err) // it is what this very build wrote, to the last bit
		}
		o.Hosts = make([]Turn, len(turns))
		for i, t := range turns {
			o.Hosts[i] = t.Turn
			o.Hosts[i].HostID, o.Hosts[i].Printed, o.Hosts[i].limit = t.HostID, t.Printed, t.Limit
			o.Hosts[i].claim, o.Hosts[i].frozen = t.Claim, t.Frozen
		}
		o.place, o.saved.text = placesOf(o.Hosts), nil
	})
	return o
}

// record is a record of a view, with its key.
type record struct {
	view, key string
	value     any
}

// records are all there is to write, in order.
func (s *Snapshot) records() iter.Seq[record] {
	return func(yield func(record) bool) {
		for _, v := range views {
			for key, value := range v.records(s) {
				if !yield(record{v.name, key, value}) {
					return
				}
			}
		}
	}
}

// line is the record as it is written.
func (r record) line() ([]byte, error) {
	// What is served is written byte for byte: letters that a client escaped stay so.
	value, err := fast.Marshal(r.value, fast.Deterministic(true), fast.OmitZeroStructFields(true), jsontext.PreserveRawStrings(true))
	if err != nil {
		return nil, fmt.Errorf("write %s %s: %w", r.view, r.key, err)
	}
	return slices.Concat([]byte(r.view+"\t"+r.key+"\t"), bytes.TrimSpace(value), []byte("\n")), nil
}

// Write writes the snapshot for ReadViews.
func (s *Snapshot) Write(w io.Writer) error {
	out, n := bufio.NewWriterSize(w, 1<<20), 0
	for r := range s.records() {
		line, err := r.line()
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
func ReadViews(in io.Reader) (*Views, error) {
	r := &reader{state: newSnapshot()}
	var parsed []*[]put
	var parsing errgroup.Group
	parsing.SetLimit(runtime.GOMAXPROCS(0))
	for page, err := range pages(in) {
		if err != nil {
			return nil, errors.Join(err, parsing.Wait())
		}
		puts := new([]put)
		parsed = append(parsed, puts)
		parsing.Go(func() (err error) {
			*puts, err = parse(page)
			return err
		})
	}
	if err := parsing.Wait(); err != nil {
		return nil, err
	}
	for _, puts := range parsed {
		for _, put := range *puts {
			if err := put(r); err != nil {
				return nil, err
			}
		}
	}
	if !r.complete {
		return nil, fmt.Errorf("a snapshot of views: %w", io.ErrUnexpectedEOF)
	}
	r.state.indexOperations()
	v := viewsOf(r.state)
	v.retained.snapshots = []*Snapshot{v.publish()}
	return v, nil
}

// pages are what is read, in parts that end with a line.
func pages(r io.Reader) iter.Seq2[[]byte, error] {
	const size = 1 << 20 // bytes, and what is left of a line
	return func(yield func([]byte, error) bool) {
		in := bufio.NewReaderSize(r, size)
		for {
			page := make([]byte, size)
			n, err := io.ReadFull(in, page)
			if page = page[:n]; err == nil {
				var rest []byte // of the last line
				rest, err = in.ReadBytes('\n')
				page = append(page, rest...)
			}
			last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
			if err != nil && !last {
				yield(nil, err)
				return
			}
			if !yield(page, nil) || last {
				return
			}
		}
	}
}

// reader is a snapshot, as far as it was read.
type reader struct {
	state    *Snapshot
	records  int
	complete bool
}

// put adds a line that was parsed.
type put func(*reader) error

func parse(page []byte) (puts []put, err error) {
	for line := range bytes.Lines(page) {
		put, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("a snapshot of views: %.60q: %w", line, err)
		}
		puts = append(puts, put)
	}
	return puts, nil
}

func parseLine(line []byte) (put, error) {
	name, rest, _ := bytes.Cut(line, []byte("\t"))
	key, text, _ := bytes.Cut(rest, []byte("\t"))
	if string(name) == endLine {
		n, err := strconv.Atoi(string(key))
		return func(r *reader) error { return r.end(n) }, err
	}
	i := slices.IndexFunc(views, func(v view) bool { return v.name == string(name) })
	if i < 0 {
		return nil, errors.New("there is no such view")
	}
	set, err := views[i].parse(string(key), text)
	return func(r *reader) error {
		if r.complete {
			return errors.New("a snapshot of views goes on after its end")
		}
		r.records++
		set(r.state)
		return nil
	}, err
}

// end refuses a snapshot that had not all of its records before its end.
func (r *reader) end(n int) error {
	if r.complete = r.records == n; !r.complete {
		return fmt.Errorf("a snapshot of views has %d entries, and should have %d", r.records, n)
	}
	return nil
}
