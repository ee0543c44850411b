package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"commissaire/domain/event"
)

// stream is an open stream of events.
type stream struct {
	header http.Header
	body   io.ReadCloser
	lines  *bufio.Reader
}

// message is one event, or, without a type, what only tells how far the stream is.
type message struct {
	id      uint64
	event   string
	data    string
	comment bool
}

// open asks for a stream as the auditor; an answer but 200 is an error.
func (s *service) open(ctx context.Context, query string, headers ...string) (*stream, error) {
	r := s.request("auditor", http.MethodGet, "/events"+query, nil, headers...).WithContext(ctx)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer func() { _ = response.Body.Close() }()
		text, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	return &stream{response.Header, response.Body, bufio.NewReader(response.Body)}, nil
}

// listen is open where nothing may go wrong.
func (s *service) listen(query string, headers ...string) *stream {
	s.t.Helper()
	opened, err := s.open(s.t.Context(), query, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = opened.body.Close() })
	return opened
}

func (s *stream) next() (m message, err error) {
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return message{}, err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "\n":
			return m, nil
		case field == "":
			m.comment = true
		case field == "id":
			if m.id, err = strconv.ParseUint(value, 10, 64); err != nil {
				return message{}, err
			}
		case field == "event":
			m.event = value
		case field == "data":
			m.data = value
		}
	}
}

// await reads until an event at a position or later, and returns all that came.
func (s *stream) await(t *testing.T, position uint64) (all []message) {
	t.Helper()
	for {
		m, err := s.next()
		if err != nil {
			t.Fatalf("after %d messages: %v", len(all), err)
		}
		if m.event != "" {
			all = append(all, m)
		}
		if m.id >= position {
			return all
		}
	}
}

// listener reads streams one after the other. Each goes on where the one before
// ended, however that was.
type listener struct {
	*service
	query  string
	wants  func(event.Event) bool
	most   int // messages of one stream, at random; 0: as many as come
	random *rand.Rand

	last    uint64
	heard   []message
	streams int
}

// live listens until it has an event at a position (0: none will do), or the
// service is gone.
func (l *listener) live(until uint64) {
	for until == 0 || l.last < until {
		opened, err := l.open(l.t.Context(), l.query, "Last-Event-ID", fmt.Sprint(l.last))
		if err != nil {
			if until > 0 {
				l.t.Error(err)
			}
			return
		}
		l.streams++
		blocks := 1 << 30 // its beginning is one
		if l.most > 0 {
			blocks = 2 + l.random.IntN(l.most)
		}
		for ; blocks > 0 && (until == 0 || l.last < until); blocks-- {
			m, err := opened.next()
			if err != nil {
				if until > 0 {
					l.t.Error(err)
				}
				break
			}
			if l.last = m.id; m.event != "" {
				l.heard = append(l.heard, m)
			}
		}
		_ = opened.body.Close()
	}
}

// check compares what was heard with what the log holds up to a position. It gives
// how often each request is heard to have created a cluster.
func (l *listener) check(h history, until uint64) (created map[string]int) {
	l.t.Helper()
	created = map[string]int{}
	var want, got []string
	for _, r := range h.events {
		if uint64(r.Position) <= until && l.wants(r.Event) {
			want = append(want, fmt.Sprint(r.Position, " ", r.Event.EventType()))
		}
	}
	for _, m := range l.heard {
		var e struct {
			Position  uint64
			Type      string
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(m.data), &e); err != nil || e.Position != m.id || e.Type != m.event {
			l.t.Fatalf("%+v: %v", m, err)
		}
		if m.id <= until {
			got = append(got, fmt.Sprint(e.Position, " ", e.Type))
		}
		if m.event == "ClusterCreated" {
			created[e.RequestID]++
		}
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("the listener to %q heard %d events, the log has %d:\n%v\n%v", l.query, len(got), len(want), got, want)
	}
	l.t.Logf("the listener to %q heard %d events in %d streams", l.query, len(got), l.streams)
	return created
}

// TestEveryEventIsHeardOnce has clients change what there is, and listeners that
// come and go, while the service is killed twice. Each listener has heard what the
// log holds, each event once and in its order.
func TestEveryEventIsHeardOnce(t *testing.T) {
	s := newService(t, map[string]any{"events.heartbeat": "50ms"})
	every := func(event.Event) bool { return true }
	isNew := func(e event.Event) bool { return e.EventType() == "ClusterCreated" }
	isOne := func(e event.Event) bool { return isNew(e) && strings.Contains(fmt.Sprint(e), "c-0-0-7 ") }
	listeners := []*listener{
		{service: s, wants: every},
		{service: s, wants: every, most: 1},
		{service: s, wants: every, most: 20},
		{service: s, wants: isOne, most: 5, query: "?cluster=c-0-0-7"},
		{service: s, wants: isNew, most: 5, query: "?type=ClusterCreated"},
	}
	for i, l := range listeners {
		l.random = rand.New(rand.NewPCG(uint64(i), 0))
	}
	all := &crowd{service: s, replies: map[string]reply{}}
	var last atomic.Uint64 // position that a change was answered with
	change := func(changing *sync.WaitGroup, life, changes int) {
		for client := range 4 {
			changing.Go(func() {
				for n := range changes + client {
					r := all.change(http.MethodPut, fmt.Sprintf("/cluster/c-%d-%d-%d", life, client, n), nil)
					for pos := last.Load(); r.position > pos && !last.CompareAndSwap(pos, r.position); pos = last.Load() {
					}
				}
			})
		}
	}
	hear := func(living *sync.WaitGroup, until uint64) {
		for _, l := range listeners {
			living.Go(func() { l.live(until) })
		}
	}
	for life := range 2 { // killed when some of it was heard and more is being recorded
		var living, changing sync.WaitGroup
		hear(&living, 0)
		pos := last.Load()
		change(&changing, life, 31)
		s.await(func() bool { return last.Load() > pos+40 }, "/clusters")
		s.stop(syscall.SIGKILL)
		changing.Wait()
		living.Wait()
		s.start()
	}
	var living, changing sync.WaitGroup
	change(&changing, 2, 60)
	changing.Wait()
	hear(&living, last.Load())
	living.Wait()

	h := s.recorded()
	h.isWhole()
	h.hasWhatWasAnswered(all.replies)
	created := listeners[0].check(h, last.Load())
	for _, l := range listeners[1:] {
		l.check(h, last.Load())
	}
	for id, r := range all.replies {
		if r.done() && created[id] != 1 {
			t.Errorf("%s was answered %d, and heard of %d times", r.call, r.status, created[id])
		}
	}
	if done, _, unknown := all.count(); done < 200 {
		t.Errorf("only %d changes were answered, %d not", done, unknown)
	}
}

// TestAStreamIsNeitherHeldBackNorCut has one that lives longer than a request may
// be read, and whose client takes compressed answers.
func TestAStreamIsNeitherHeldBackNorCut(t *testing.T) {
	s := newService(t, map[string]any{"limits.read-timeout": "300ms", "limits.idle-timeout": "300ms", "events.heartbeat": "50ms", "watch.interval": "1h"})
	s.leads() // which is recorded
	from := s.put("/cluster/c", nil).is(201).position()
	opened := s.listen("", "Accept-Encoding", "gzip")
	for _, key := range []string{"Content-Encoding", "No-Gzip-Compression"} {
		if value := opened.header.Get(key); value != "" {
			t.Errorf("%s: %s", key, value)
		}
	}
	began := time.Now()
	for n := 0; time.Since(began) < time.Second; n++ {
		m, err := opened.next()
		if err != nil || m.id != from || m.comment != (n > 0) {
			t.Fatalf("after %s and %d: %+v, %v", time.Since(began), n, m, err)
		}
	}
	pos := s.put("/cluster/d", nil).is(201).position()
	if heard := opened.await(t, pos); len(heard) != 1 || heard[0].event != "ClusterCreated" || heard[0].id != pos {
		t.Errorf("heard %+v", heard)
	}
	s.get("/clusters", "X-Commissaire-At-Least", fmt.Sprint(pos)).is(200).says(`["c","d"]`)
}

// TestOpenStreamsDoNotHoldUpTheEnd ends the service while some listen and one
// takes nothing of what is sent to it.
func TestOpenStreamsDoNotHoldUpTheEnd(t *testing.T) {
	s := newService(t, map[string]any{"watch.interval": "1h"})
	options := map[string]any{"address": "10.0.0.1:80", "note": strings.Repeat("x", 60<<10)}
	var pos uint64
	for n := range 120 { // more than the system takes for a connection
		pos = s.put(fmt.Sprintf("/network/n%d", n), map[string]any{"type": "flannel_server", "options": options}).is(201).position()
	}
	deaf, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = deaf.Close() }()
	if err := deaf.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if err := s.request("auditor", http.MethodGet, "/events?after=0", nil).Write(deaf); err != nil {
		t.Fatal(err)
	}
	if _, err := deaf.Read(make([]byte, 1)); err != nil { // it is sent to
		t.Fatal(err)
	}
	var idle []*stream
	for range 20 {
		idle = append(idle, s.listen(fmt.Sprintf("?after=%d", pos)))
	}
	began := time.Now()
	s.stop(syscall.SIGTERM)
	if took := time.Since(began); took > 5*time.Second || s.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("it ended after %s: %s", took, s.cmd.ProcessState)
	}
	for _, stream := range idle {
		if rest, err := io.ReadAll(stream.lines); err != nil || strings.Contains(string(rest), "event:") {
			t.Errorf("a stream ended with %q, %v", rest, err)
		}
	}
	if log := s.logged(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") {
		t.Errorf("logged: %s", log)
	}
}
