package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"commissaire/api/authentication"
	"commissaire/domain"
	"commissaire/projections"

	"github.com/klauspost/compress/gzhttp"
)

// errCrowded refuses one more reader than there may be.
var errCrowded = errors.New("as many as may do read events already")

const (
	atOnce      = 64 << 10         // bytes of messages that a reader takes to write them
	indexed     = 200              // events that are read at once where the view knows which
	pagesAtOnce = 16               // readers that have a page of the log in memory
	takes       = 30 * time.Second // for a reader to take what is written to it
	lastWords   = time.Second      // for that once the service ends
	reconnect   = time.Second      // clients wait for it
)

// Events are the last of what was recorded, for all who read GET /events. Each
// event is encoded once and kept in one window; a reader has a position and no
// more. What is older than the window is read from the log, a page at a time. A
// reader that was in the window and fell out of it was too slow and is dropped.
//
// So nobody waits for a reader, and one that stands still keeps 64 KiB and one
// event, or, as one of 16, a page of the log.
type Events struct {
	config EventsConfig
	pages  chan struct{} // taken by those who have a page of the log

	window  atomic.Pointer[window]
	size    int // of the messages in it, in bytes; of the goroutine that publishes
	readers atomic.Int64
	dropped atomic.Int64
}

// window is what was published lately. It never changes: a thousand readers look
// at it at the same time.
type window struct {
	from     projections.Position // all that was published after it is in messages
	last     projections.Position
	messages []message
	grown    chan struct{} // closed when there is a later window
}

// EventsConfig is what Events needs.
type EventsConfig struct {
	After     projections.Position // what is recorded after it is published
	Heartbeat time.Duration        // between lines that keep a stream open
	Readers   int                  // that may read at the same time
	Window    int                  // bytes; 0: 8 MiB
}

// message is an event as it is sent.
type message struct {
	position projections.Position
	kind     string
	text     []byte
}

// NewEvents has nobody who reads.
func NewEvents(config EventsConfig) *Events {
	config.Window = cmp.Or(config.Window, 8<<20)
	e := &Events{config: config, pages: make(chan struct{}, pagesAtOnce)}
	e.window.Store(&window{from: config.After, last: config.After, grown: make(chan struct{})})
	return e
}

// Publish sends an event to all who read. It must be in the views already: what
// a reader hears of, a GET shows. Events are published in their order, by one
// goroutine; one that was published before is left out.
func (e *Events) Publish(entry HistoryEntry) {
	before := e.window.Load()
	if projections.Position(entry.Position) <= before.last {
		return
	}
	m := newMessage(entry)
	after := &window{from: before.from, last: m.position, messages: append(before.messages, m), grown: make(chan struct{})}
	for e.size += len(m.text); e.size > e.config.Window && len(after.messages) > 1; after.messages = after.messages[1:] {
		first := after.messages[0]
		e.size, after.from = e.size-len(first.text), first.position
	}
	e.window.Store(after)
	close(before.grown)
}

func newMessage(entry HistoryEntry) message {
	data, err := json.Marshal(entry)
	if err != nil {
		panic(err) // it was read as JSON
	}
	return message{
		position: projections.Position(entry.Position), kind: entry.Type,
		text: fmt.Appendf(nil, "id: %d\nevent: %s\ndata: %s\n\n", entry.Position, entry.Type, data),
	}
}

// since is the next of what comes after a position, and what is closed when there
// is more than that; false where that is in the window no longer.
func (e *Events) since(pos projections.Position) (next []message, grown <-chan struct{}, held bool) {
	w := e.window.Load()
	if pos < w.from {
		return nil, nil, false
	}
	if pos >= w.last {
		return nil, w.grown, true
	}
	first, _ := slices.BinarySearchFunc(w.messages, pos+1, func(m message, pos projections.Position) int { return cmp.Compare(m.position, pos) })
	end, size := first, 0
	for ; end < len(w.messages) && size < atOnce; end++ {
		size += len(w.messages[end].text)
	}
	return slices.Clone(w.messages[first:end]), w.grown, true // the whole is not held for as long as they are written
}

// join admits a reader until it leaves.
func (e *Events) join() (leave func(), err error) {
	if e.readers.Add(1) > int64(e.config.Readers) {
		e.readers.Add(-1)
		return nil, errCrowded
	}
	return func() { e.readers.Add(-1) }, nil
}

// selection is which events a reader asks for: of any of the types, and about each
// of the things, as the histories of these things have them.
type selection struct {
	types []string          // none: all
	about map[string]string // names, by what is named
}

func (s *Server) selection(query url.Values) (selection, error) {
	selected := selection{about: map[string]string{}}
	for _, of := range []string{projections.OfCluster, projections.OfHost, projections.OfOperation} {
		if !query.Has(of) {
			continue
		}
		if len(query[of]) > 1 {
			return selection{}, domain.ErrInvalid.At(of, "may be there once")
		}
		name := query.Get(of)
		if of == projections.OfHost {
			addr, err := domain.ParseAddress(name)
			if err != nil {
				return selection{}, domain.ErrInvalid.At(of, "%v", err)
			}
			name = string(addr)
		} else if _, err := domain.ParseName[string](name); err != nil {
			return selection{}, domain.ErrInvalid.At(of, "%v", err)
		}
		selected.about[of] = name
	}
	var err error
	selected.types, err = s.types(query)
	return selected, err
}

// types are those that ?type= names; none: all.
func (s *Server) types(query url.Values) (types []string, err error) {
	for _, list := range query["type"] {
		for name := range strings.SplitSeq(list, ",") {
			if known := s.config.EventTypes; !slices.Contains(known, name) {
				return nil, domain.ErrInvalid.At("type", "there is no event of type %.64q; the nearest is %s; known are %s", name, nearest(known, name), known)
			}
			types = append(types, name)
		}
	}
	return types, nil
}

// has tells whether an event is selected. The snapshot must have it.
func (c selection) has(snapshot *projections.Snapshot, pos projections.Position, kind string) bool {
	if len(c.types) > 0 && !slices.Contains(c.types, kind) {
		return false
	}
	for of, name := range c.about {
		if _, found := slices.BinarySearch(snapshot.History(of, name), pos); !found {
			return false
		}
	}
	return true
}

// resumption is the position after which the client wants to go on; false where it
// says none. What a client sends by itself when it connects again wins.
func resumption(r *http.Request) (after uint64, resumes bool, err error) {
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		after, err := strconv.ParseUint(last, 10, 63)
		if err != nil {
			return 0, false, domain.ErrInvalid.At("Last-Event-ID", "not the id of an event")
		}
		return after, true, nil
	}
	query := r.URL.Query()
	after, err = number(query, "after", 0)
	return after, query.Has("after"), err
}

// getEvents sends each event as it is recorded (server-sent events), after those
// that the client has missed.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) error {
	if err := presentOnly(r); err != nil {
		return err
	}
	selected, err := s.selection(r.URL.Query())
	if err != nil {
		return err
	}
	after, resumes, err := resumption(r)
	if err != nil {
		return err
	}
	if resumes && !s.waitFor(r.Context(), after) {
		return errLate
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	leave, err := s.config.Events.join()
	if err != nil {
		return err
	}
	defer leave()
	pos := snapshot.Position
	if resumes {
		pos = projections.Position(after)
	}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "private, no-cache")
	header.Set("X-Accel-Buffering", "no")
	header.Set("Connection", "close") // deadlines stay behind on it
	header.Set(gzhttp.HeaderNoCompression, "1")
	stream := &eventStream{Server: s, events: s.config.Events, selected: selected, w: w, out: http.NewResponseController(w), pos: pos}
	stream.run(r)
	return nil
}

// eventStream is one reader of events.
type eventStream struct {
	*Server
	events   *Events
	selected selection
	w        http.ResponseWriter
	out      *http.ResponseController

	pos  projections.Position // all that is selected up to it was written
	live bool                 // it was in the window
}

var ready = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// run writes until the client goes, may read no longer or is too slow, or the
// service ends. By then the answer has begun, so there is no other to give.
func (s *eventStream) run(r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(s.closing, func() {
		defer close(interrupted)
		cancel()
		s.limit(lastWords) // also for a write that is under way
	})
	defer func() {
		if !stop() {
			<-interrupted // the writer is not ours any more after this
		}
	}()
	heartbeat := time.NewTicker(s.events.config.Heartbeat)
	defer heartbeat.Stop()
	err := s.write(fmt.Appendf(nil, "retry: %d\nid: %d\n\n", reconnect.Milliseconds(), s.pos))
	for err == nil {
		var page chan<- struct{}
		var more <-chan struct{}
		switch next, grown, held := s.events.since(s.pos); {
		case held && len(next) == 0:
			s.live, more = true, grown
		case held:
			s.live, more = true, ready
			err = s.send(next)
		case s.live:
			s.events.dropped.Add(1)
			_ = s.write(s.dropped()) // it ends here, whether or not that is heard
			return
		default:
			page = s.events.pages
		}
		select {
		case <-more:
		case page <- struct{}{}:
			err = s.catchUp(ctx)
			<-s.events.pages
		case <-heartbeat.C:
			who, denied := s.config.Authenticator.Authenticate(r)
			if denied != nil || !who.May(authentication.ReadAudit) {
				return
			}
			err = errors.Join(err, s.write(fmt.Appendf(nil, ":\nid: %d\n\n", s.pos)))
		case <-ctx.Done():
			return
		}
	}
}

// dropped is the last message to a reader that is too slow.
func (s *eventStream) dropped() []byte {
	return fmt.Appendf(nil, "id: %d\nevent: dropped\ndata: {\"position\":%d,\"reason\":\"you read too slowly; connect again with Last-Event-ID: %d, or ?after=%d, and nothing is missed\"}\n\n", s.pos, s.pos, s.pos, s.pos)
}

// send writes what is selected of messages. The views have them, so whether one is
// about a thing is seen there.
func (s *eventStream) send(messages []message) error {
	var snapshot *projections.Snapshot
	if len(s.selected.about) > 0 {
		snapshot = s.config.Views.Snapshot()
	}
	texts := make([][]byte, 0, len(messages))
	for _, m := range messages {
		if s.selected.has(snapshot, m.position, m.kind) {
			texts = append(texts, m.text)
		}
	}
	s.limit(takes)
	s.pos = messages[len(messages)-1].position
	return s.put(texts)
}

// catchUp writes the next page of the log.
func (s *eventStream) catchUp(ctx context.Context) error {
	snapshot := s.config.Views.Snapshot()
	entries, upTo, err := s.page(ctx, snapshot)
	if err != nil {
		if ctx.Err() == nil {
			s.config.Logger.Error("a stream of events ends: the log cannot be read", "after", s.pos, "error", err)
		}
		return err
	}
	s.limit(takes) // for the whole page: others may wait for their turn
	var texts [][]byte
	size := 0
	for i := range entries {
		m := newMessage(entries[i])
		entries[i] = HistoryEntry{}
		if !s.selected.has(snapshot, m.position, m.kind) {
			continue
		}
		texts, size = append(texts, m.text), size+len(m.text)
		if size >= atOnce {
			if err := s.put(texts); err != nil {
				return err
			}
			texts, size = texts[:0], 0
		}
	}
	s.pos = upTo
	return s.put(texts)
}

// page reads what comes after the reader's position, no further than the snapshot
// is, and tells up to where it read. Where the view knows the events about a
// thing, no others are read.
func (s *eventStream) page(ctx context.Context, snapshot *projections.Snapshot) (entries []HistoryEntry, upTo projections.Position, err error) {
	upTo = snapshot.Position
	if len(s.selected.about) == 0 {
		if entries, err = s.config.EntriesAfter(ctx, s.pos); err != nil || len(entries) == 0 {
			return nil, upTo, err
		}
		end, _ := slices.BinarySearchFunc(entries, upTo+1, func(e HistoryEntry, pos projections.Position) int {
			return cmp.Compare(projections.Position(e.Position), pos)
		})
		if end == len(entries) {
			upTo = projections.Position(entries[end-1].Position)
		}
		return entries[:end], upTo, nil
	}
	var positions []projections.Position
	for of, name := range s.selected.about {
		if history := snapshot.History(of, name); positions == nil || len(history) < len(positions) {
			positions = history
		}
	}
	first, _ := slices.BinarySearch(positions, s.pos+1)
	positions = positions[first:]
	if len(positions) > indexed {
		positions = positions[:indexed]
		upTo = positions[indexed-1]
	}
	if len(positions) > 0 {
		entries, err = s.config.Entries(ctx, positions)
	}
	return entries, upTo, err
}

// limit is how long the client may take for what is written from now on.
func (s *eventStream) limit(d time.Duration) {
	_ = s.out.SetWriteDeadline(time.Now().Add(d)) // where there is none, there is nothing to wait for
	if d > lastWords && s.closing.Err() != nil {
		s.limit(lastWords) // that came between
	}
}

// write writes one text, which the client must take in time.
func (s *eventStream) write(text []byte) error {
	s.limit(takes)
	return s.put([][]byte{text})
}

// put writes texts and sees to it that they leave at once.
func (s *eventStream) put(texts [][]byte) error {
	for _, text := range texts {
		if _, err := s.w.Write(text); err != nil {
			return err
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return s.out.Flush()
}
