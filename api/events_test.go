package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/api"
	"commissaire/api/authentication"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
)

// recording is a log, the views of it, and what serves them.
type recording struct {
	t         *testing.T
	store     *memory.Store
	log       *eventlog.Log
	views     *projections.Views
	events    *api.Events
	server    *api.Server
	revisions map[event.Stream]event.Revision
	denied    atomic.Bool // from now on, to all
}

// Authenticate implements authentication.Plugin.
func (r *recording) Authenticate(*http.Request) (authentication.Identity, error) {
	if r.denied.Load() {
		return authentication.Identity{}, authentication.ErrDenied
	}
	return authentication.Identity{Name: "ann", Roles: []authentication.Role{authentication.Auditor}}, nil
}

func newRecording(t *testing.T, config api.EventsConfig) *recording {
	if config.Heartbeat == 0 {
		config.Heartbeat = time.Hour
	}
	if config.Readers == 0 {
		config.Readers = 10
	}
	r := &recording{
		t: t, store: memory.New(), views: projections.New(), events: api.NewEvents(config), revisions: map[event.Stream]event.Revision{},
	}
	r.log = eventlog.NewLog(r.store)
	shown := func(entries []eventlog.Entry, err error) ([]api.HistoryEntry, error) {
		all := make([]api.HistoryEntry, len(entries))
		for i, e := range entries {
			all[i] = shown(e)
		}
		return all, err
	}
	r.server = api.New(api.Config{
		Views: r.views, Events: r.events, EventTypes: eventlog.Types(), Authenticator: r, Metrics: prometheus.NewRegistry(),
		Entries: func(ctx context.Context, positions []projections.Position) ([]api.HistoryEntry, error) {
			return shown(r.log.Entries(ctx, positions))
		},
		EntriesAfter: func(ctx context.Context, after projections.Position) ([]api.HistoryEntry, error) {
			return shown(r.log.EntriesAfter(ctx, after))
		},
		Now: time.Now, NewID: uuid.NewString, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	return r
}

func shown(e eventlog.Entry) api.HistoryEntry {
	return api.HistoryEntry{
		Position: uint64(e.Position), Time: projections.Time{Time: e.Meta.Time}, Type: e.Type, Stream: string(e.Stream),
		Actor: e.Meta.Actor, Reason: e.Meta.Reason, RequestID: e.Meta.RequestID, Data: e.Data,
	}
}

// append records events in the log and nowhere else.
func (r *recording) append(stream event.Stream, events ...event.Event) {
	r.t.Helper()
	for _, e := range events {
		raw, err := eventlog.Encode(stream, event.Decided{ID: uuid.New(), Event: e, Meta: event.Meta{
			Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Actor: "ann", Reason: "why", RequestID: "one",
		}})
		if err == nil {
			_, err = r.store.Append(r.t.Context(), stream, r.revisions[stream]-1, []eventlog.Raw{raw})
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.revisions[stream]++
	}
}

// apply brings the views up to the log, and publishes what is then in them, each
// event twice.
func (r *recording) apply() {
	r.t.Helper()
	for {
		entries, err := r.log.EntriesAfter(r.t.Context(), r.views.Snapshot().Position)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(entries) == 0 {
			return
		}
		for _, e := range entries {
			for range 2 {
				r.views.Apply(e.Recorded)
				r.events.Publish(shown(e))
			}
		}
	}
}

func (r *recording) record(stream event.Stream, events ...event.Event) {
	r.t.Helper()
	r.append(stream, events...)
	r.apply()
}

func (r *recording) networks(n int) {
	r.t.Helper()
	r.record(event.RosterStream, slices.Repeat([]event.Event{event.NetworkRemoved{Network: "n"}}, n)...)
}

// refused asks for a stream that is not given.
func (r *recording) refused(query string, status int, headers ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.server.ServeHTTP(w, r.request(query, headers...))
	if w.Code != status {
		r.t.Errorf("%s %v: %d %s, want %d", query, headers, w.Code, w.Body, status)
	}
	return w
}

func (r *recording) request(query string, headers ...string) *http.Request {
	request := httptest.NewRequestWithContext(r.t.Context(), http.MethodGet, "/api/v0/events"+query, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	return request
}

// reader is a client of which nothing is taken that it does not read.
type reader struct {
	t      *testing.T
	header http.Header
	out    *io.PipeWriter
	in     *bufio.Reader
	leave  context.CancelFunc
	ended  chan struct{}
}

func (r *reader) Header() http.Header                { return r.header }
func (r *reader) WriteHeader(int)                    {}
func (r *reader) Write(text []byte) (n int, e error) { return r.out.Write(text) }

// read opens a stream and reads its beginning.
func (r *recording) read(query string, headers ...string) (*reader, block) {
	in, out := io.Pipe()
	ctx, leave := context.WithCancel(r.t.Context())
	reading := &reader{t: r.t, header: http.Header{}, in: bufio.NewReader(in), out: out, leave: leave, ended: make(chan struct{})}
	go func() {
		defer close(reading.ended)
		r.server.ServeHTTP(reading, r.request(query, headers...).WithContext(ctx))
		_ = out.Close()
	}()
	r.t.Cleanup(func() { reading.close(in) })
	return reading, reading.next()
}

func (r *reader) close(in *io.PipeReader) {
	r.leave()
	_ = in.Close()
	<-r.ended
}

// block is what stands before an empty line.
type block struct{ id, event, data, comment, retry string }

func (r *reader) next() (b block) {
	r.t.Helper()
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			r.t.Fatalf("the stream has ended: %v", err)
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "":
			return b
		case "id":
			b.id = value
		case "event":
			b.event = value
		case "data":
			b.data = value
		case "retry":
			b.retry = value
		default:
			b.comment = line
		}
	}
}

// is the positions of the next messages.
func (r *reader) is(want ...int) {
	r.t.Helper()
	for _, pos := range want {
		if b := r.next(); b.id != strconv.Itoa(pos) || b.event == "" {
			r.t.Fatalf("got %+v, want the event at %d", b, pos)
		}
	}
}

// end is all that is left of a stream that ends.
func (r *reader) end() string {
	r.t.Helper()
	rest, err := io.ReadAll(r.in)
	if err != nil {
		r.t.Fatal(err)
	}
	<-r.ended
	return string(rest)
}

func TestAStreamHasEachEventFromNowOn(t *testing.T) {
	r := newRecording(t, api.EventsConfig{})
	r.networks(3)
	s, first := r.read("")
	if first.id != "3" || first.event != "" || first.retry == "" || s.header.Get("Content-Type") != "text/event-stream" || s.header.Get("X-Commissaire-Position") != "3" {
		t.Errorf("it begins with %+v, and %v", first, s.header)
	}
	r.record(event.RosterStream, event.HostRemoved{HostID: "1", Host: "10.0.0.1"})
	want := block{id: "4", event: "HostRemoved", data: `{"position":4,"time":"2026-01-02T03:04:05.000000","type":"HostRemoved","stream":"roster",` +
		`"actor":"ann","reason":"why","request_id":"one","data":{"host_id":"1","host":"10.0.0.1"}}`}
	if got := s.next(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	r.networks(2)
	s.is(5, 6)
}

// TestAStreamGoesOnWhereAnotherEnded reads from each position, while more is
// recorded, through a window that has the last few only.
func TestAStreamGoesOnWhereAnotherEnded(t *testing.T) {
	r := newRecording(t, api.EventsConfig{Window: 1000})
	r.networks(2300)
	for _, after := range []int{0, 1, 999, 1000, 1001, 2290, 2299, 2300} {
		for _, how := range []struct {
			query   string
			headers []string
		}{
			{fmt.Sprintf("?after=%d", after), nil},
			{"", []string{"Last-Event-ID", strconv.Itoa(after)}},
			{"?after=7", []string{"Last-Event-ID", strconv.Itoa(after)}}, // as a client asks that connects again
		} {
			s, first := r.read(how.query, how.headers...)
			if first.id != strconv.Itoa(after) {
				t.Errorf("%s %v begins with %+v", how.query, how.headers, first)
			}
			head := int(r.views.Snapshot().Position)
			for pos := after + 1; pos <= head; pos++ {
				s.is(pos)
			}
			r.networks(1)
			s.is(head + 1)
			s.leave()
		}
	}
}

// TestAStreamIsNotAheadOfTheViews has events in the log that the views do not have.
func TestAStreamIsNotAheadOfTheViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t, api.EventsConfig{After: 2}) // as after a start
		r.append(event.RosterStream, event.NetworkRemoved{}, event.NetworkRemoved{}, event.NetworkRemoved{}, event.NetworkRemoved{})
		entries, err := r.log.EntriesAfter(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries[:2] {
			r.views.Apply(e.Recorded)
		}
		s, _ := r.read("?after=0")
		s.is(1, 2)
		more := make(chan block)
		go func() { more <- s.next() }()
		synctest.Wait()
		select {
		case b := <-more:
			t.Errorf("sent before the views had it: %+v", b)
		default:
		}
		r.apply()
		if b := <-more; b.id != "3" {
			t.Errorf("got %+v", b)
		}
		s.is(4)
		s.leave()
		<-s.ended
	})
}

// TestAStreamHasWhatTheHistoriesHave selects, in the past and in the present.
func TestAStreamHasWhatTheHistoriesHave(t *testing.T) {
	r := newRecording(t, api.EventsConfig{Window: 3000, Readers: 100})
	turn := func(h string) event.Turn {
		return event.Turn{Operation: "op", HostID: domain.HostID(h), Host: domain.Address(h)}
	}
	tell := func() {
		for i := range 210 { // more than is read at once
			r.append(event.RosterStream,
				event.ClusterReconfigured{ClusterID: "C", Cluster: "c"}, event.ClusterReconfigured{ClusterID: "D", Cluster: "d"},
				event.HostJoined{HostID: "a", Host: "a", ClusterID: "C", Cluster: "c"}, event.HostLeft{HostID: "a", Host: "a", ClusterID: "C", Cluster: "c"},
				event.HostJoined{HostID: "b", Host: "b", ClusterID: "D", Cluster: "d"}, event.HostLeft{HostID: "b", Host: "b", ClusterID: "D", Cluster: "d"})
			r.append(event.OperationStream("op"), event.HostTurnBegun{Turn: turn("a")}, event.HostTurnBegun{Turn: turn("b")}, event.OperationPaused{Operation: "op"})
			r.append(event.HostStream("a"), event.HostAnswered{Host: "a"})
			r.append(event.WatchStream, event.SweepFinished{})
			if i == 209 {
				r.append(event.RosterStream, event.OperationCompleted{Operation: "op", ClusterID: "C", Cluster: "c"})
			}
		}
		r.apply()
	}
	r.record(event.RosterStream, event.HostAdded{HostID: "a", Host: "a"}, event.HostAdded{HostID: "b", Host: "b"},
		event.UpgradeStarted{Started: event.Started{Operation: "op", ClusterID: "C", Cluster: "c", Policy: event.DefaultPolicy()}})
	tell()
	selections := []struct {
		query string
		has   func(in func(of, name string) bool, kind string) bool
	}{
		{"cluster=c", func(in func(of, name string) bool, _ string) bool { return in("cluster", "c") }},
		{"host=A.", func(in func(of, name string) bool, _ string) bool { return in("host", "a") }},
		{"operation=op", func(in func(of, name string) bool, _ string) bool { return in("operation", "op") }},
		{"operation=op&host=a", func(in func(of, name string) bool, _ string) bool { return in("operation", "op") && in("host", "a") }},
		{"cluster=c&host=b", func(in func(of, name string) bool, _ string) bool { return in("cluster", "c") && in("host", "b") }},
		{"cluster=never", func(func(of, name string) bool, string) bool { return false }},
		{"type=SweepFinished", func(_ func(of, name string) bool, kind string) bool { return kind == "SweepFinished" }},
		{"type=SweepFinished,HostLeft&type=HostAnswered", func(_ func(of, name string) bool, kind string) bool {
			return kind == "SweepFinished" || kind == "HostLeft" || kind == "HostAnswered"
		}},
		{"host=a&type=HostJoined,HostAnswered", func(in func(of, name string) bool, kind string) bool {
			return in("host", "a") && (kind == "HostJoined" || kind == "HostAnswered")
		}},
	}
	head := int(r.views.Snapshot().Position)
	var streams []*reader
	for _, c := range selections {
		s, _ := r.read("?after=0&" + c.query)
		now, _ := r.read("?" + c.query)
		streams = append(streams, s, now)
	}
	positions := func(c int, after int) (all []int) {
		snapshot := r.views.Snapshot()
		entries := make([]event.Position, snapshot.Position-event.Position(after))
		for i := range entries {
			entries[i] = event.Position(after + i + 1)
		}
		log, err := r.log.Entries(t.Context(), entries)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range log {
			in := func(of, name string) bool {
				_, found := slices.BinarySearch(snapshot.History(of, name), e.Position)
				return found
			}
			if selections[c].has(in, e.Type) {
				all = append(all, int(e.Position))
			}
		}
		return all
	}
	for i := range selections {
		past := positions(i, 0)
		streams[2*i].is(past...)
		t.Logf("%s: %d of %d", selections[i].query, len(past), head)
	}
	r.record(event.RosterStream, event.HostJoined{HostID: "a", Host: "a", ClusterID: "C", Cluster: "c"})
	r.record(event.OperationStream("op"), event.HostTurnBegun{Turn: turn("b")})
	r.record(event.WatchStream, event.SweepFinished{})
	for i := range selections {
		present := positions(i, head)
		streams[2*i].is(present...)
		streams[2*i+1].is(present...)
	}
}

// TestAReaderThatFallsOutOfTheWindowIsDropped has a client that does not read for
// a while. It is told where to go on, and then has missed nothing.
func TestAReaderThatFallsOutOfTheWindowIsDropped(t *testing.T) {
	r := newRecording(t, api.EventsConfig{Window: 2000})
	s, _ := r.read("")
	r.networks(1)
	s.is(1)
	r.networks(500) // nobody waits for it
	pos := 1
	var last block
	for last = s.next(); last.event != "dropped"; last = s.next() {
		if pos++; last.id != strconv.Itoa(pos) {
			t.Fatalf("got %+v, want the event at %d", last, pos)
		}
	}
	var says struct {
		Position int
		Reason   string
	}
	if err := json.Unmarshal([]byte(last.data), &says); err != nil || says.Position != pos || last.id != strconv.Itoa(pos) || !strings.Contains(says.Reason, "Last-Event-ID") {
		t.Errorf("%v: after %d the last words are %+v", err, pos, last)
	}
	if rest := s.end(); rest != "" || pos > 400 {
		t.Errorf("after %d events and the last words there is %q", pos, rest)
	}
	s, _ = r.read("", "Last-Event-ID", last.id)
	for pos++; pos <= 501; pos++ {
		s.is(pos)
	}
}

func TestAStreamIsKeptOpenAndItsPlaceKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t, api.EventsConfig{Heartbeat: 15 * time.Second})
		s, _ := r.read("?type=HostAdded")
		began := time.Now()
		for i := range 3 {
			r.networks(2) // not what is asked for
			b := s.next()
			if want := (block{comment: ":\n", id: strconv.Itoa(2 * (i + 1))}); b != want || time.Since(began) != time.Duration(i+1)*15*time.Second {
				t.Errorf("after %s: %+v, want %+v", time.Since(began), b, want)
			}
		}
		s.leave()
		<-s.ended
	})
}

func TestAStreamEndsWithThePermission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t, api.EventsConfig{Heartbeat: 15 * time.Second})
		s, _ := r.read("")
		r.denied.Store(true)
		began := time.Now()
		if rest := s.end(); rest != "" || time.Since(began) > 15*time.Second {
			t.Errorf("after %s it ended with %q", time.Since(began), rest)
		}
		r.refused("", http.StatusForbidden)
	})
}

func TestStreamsEndWithTheService(t *testing.T) {
	r := newRecording(t, api.EventsConfig{})
	r.networks(3)
	idle, _ := r.read("")
	behind, _ := r.read("?after=0") // does not take what is sent to it
	r.server.Close()
	if rest := idle.end(); rest != "" {
		t.Errorf("it ended with %q", rest)
	}
	_ = behind.end()
	late, _ := r.read("")
	_ = late.end()
}

func TestOneReaderTooManyIsAskedToComeAgain(t *testing.T) {
	r := newRecording(t, api.EventsConfig{Readers: 2})
	first, _ := r.read("")
	r.read("")
	if w := r.refused("", http.StatusTooManyRequests); w.Header().Get("Retry-After") == "" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("refused with %v", w.Header())
	}
	first.leave()
	<-first.ended
	r.read("")
}

func TestWhatCannotBeMeantIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecording(t, api.EventsConfig{})
		r.networks(1)
		for _, query := range []string{
			"?cluster=no%20name", "?cluster=", "?cluster=a&cluster=b", "?host=999.1.1.1", "?host=", "?operation=a/b", "?type=", "?type=HostAdded,", "?after=x", "?after=-1",
		} {
			r.refused(query, http.StatusBadRequest)
		}
		if text := r.refused("?type=HostAded", http.StatusBadRequest).Body.String(); !strings.Contains(text, "the nearest is HostAdded") || !strings.Contains(text, "SweepFinished") {
			t.Errorf("a misspelt type: %s", text)
		}
		r.refused("", http.StatusBadRequest, "Last-Event-ID", "x")
		began := time.Now()
		if w := r.refused("", http.StatusServiceUnavailable, "Last-Event-ID", "2"); w.Header().Get("Retry-After") == "" || time.Since(began) == 0 {
			t.Errorf("what is not there yet is refused after %s with %v", time.Since(began), w.Header())
		}
		var later sync.WaitGroup
		later.Go(func() { r.networks(1) })
		s, first := r.read("?after=2")
		later.Wait()
		if first.id != "2" {
			t.Errorf("after what was not there yet it begins with %+v", first)
		}
		s.leave()
		<-s.ended
	})
}
