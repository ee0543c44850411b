package esdb

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
)

// log is what the nodes of a cluster keep together.
type log struct {
	mu       sync.Mutex
	all      []*recorded
	streams  map[string]*stream
	position uint64
	appends  int
	grown    chan struct{}

	forgotten map[uuid.UUID]bool // events whose repeat is not recognised
}

// recorded is an event as a server keeps it.
type recorded struct {
	id       uuid.UUID
	stream   string
	revision uint64
	position uint64
	metadata map[string]string
	custom   []byte
	data     []byte
}

// stream is the events of a stream, also those that reads no longer show.
type stream struct {
	events     []*recorded
	before     int // events before this one were deleted
	maxCount   int // 0: no limit
	tombstoned bool
}

func newLog() *log {
	l := &log{streams: map[string]*stream{}, grown: make(chan struct{}), forgotten: map[uuid.UUID]bool{}}
	l.system()
	return l
}

// add records an event; the caller has the lock.
func (l *log) add(e *recorded) {
	s := l.streams[e.stream]
	if s == nil {
		s = &stream{}
		l.streams[e.stream] = s
	}
	l.position += 137 + uint64(len(e.data)+len(e.custom))
	e.position = l.position
	e.revision = uint64(len(s.events))
	e.metadata["created"] = strconv.FormatInt(time.Now().UnixNano()/100, 10)
	s.events = append(s.events, e)
	l.all = append(l.all, e)
	if of, ok := strings.CutPrefix(e.stream, "$$"); ok {
		l.describe(of, e.data)
	}
}

// describe takes over what a stream's metadata say.
func (l *log) describe(name string, data []byte) {
	var described struct {
		MaxCount int `json:"$maxCount"`
	}
	if json.Unmarshal(data, &described) != nil {
		return // a server takes anything, too
	}
	if l.streams[name] == nil {
		l.streams[name] = &stream{}
	}
	l.streams[name].maxCount = described.MaxCount
}

// system records an event as servers do on their own; the caller has the lock.
func (l *log) system() {
	l.add(&recorded{
		id: uuid.New(), stream: "$stats-0.0.0.0:2113",
		metadata: map[string]string{"type": "$statsCollected", "content-type": "application/json"}, data: []byte(`{}`),
	})
}

// wake tells who waits that there is more; the caller has the lock.
func (l *log) wake() {
	close(l.grown)
	l.grown = make(chan struct{})
}

// shown is what a read of a stream shows, and whether it was tombstoned.
func (l *log) shown(name string) ([]*recorded, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[name]
	if s == nil {
		return nil, false
	}
	first := s.before
	if s.maxCount > 0 {
		first = max(first, len(s.events)-s.maxCount)
	}
	return s.events[first:], s.tombstoned
}

// append records events, or says why not; ok is false of a tombstoned stream.
func (l *log) append(name string, options *streams.AppendReq_Options, events []*recorded) (_ *streams.AppendResp, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[name]
	if s == nil {
		s = &stream{}
	}
	if s.tombstoned {
		return nil, false
	}
	have := s.events
	first := len(have) // where the events are to be
	switch expected := options.GetExpectedStreamRevision().(type) {
	case *streams.AppendReq_Options_Revision:
		first = int(min(expected.Revision, math.MaxInt32)) + 1
	case *streams.AppendReq_Options_NoStream:
		if s.before < len(have) {
			first = 0
		}
	case *streams.AppendReq_Options_StreamExists:
		if len(have) == 0 {
			return wrong(options, have), true
		}
	}
	if first == len(have) {
		for _, e := range events {
			l.add(e)
		}
		if l.appends++; l.appends%10 == 0 {
			l.system()
		}
		l.wake()
		if s = l.streams[name]; s != nil {
			have = s.events
		}
	} else if len(events) == 0 || first+len(events) > len(have) {
		return wrong(options, have), true
	}
	for i, e := range events {
		if have[first+i].id != e.id || l.forgotten[e.id] {
			return wrong(options, have), true
		}
	}
	success := &streams.AppendResp_Success{}
	if last := first + len(events) - 1; last >= 0 {
		success.CurrentRevisionOption = &streams.AppendResp_Success_CurrentRevision{CurrentRevision: have[last].revision}
		success.PositionOption = &streams.AppendResp_Success_Position{Position: &streams.AppendResp_Position{
			CommitPosition: have[last].position, PreparePosition: have[last].position,
		}}
	} else {
		success.CurrentRevisionOption = &streams.AppendResp_Success_NoStream{NoStream: &shared.Empty{}}
		success.PositionOption = &streams.AppendResp_Success_NoPosition{NoPosition: &shared.Empty{}}
	}
	return &streams.AppendResp{Result: &streams.AppendResp_Success_{Success: success}}, true
}

// wrong answers an append that does not follow the revision it expected.
func wrong(options *streams.AppendReq_Options, have []*recorded) *streams.AppendResp {
	answer := &streams.AppendResp_WrongExpectedVersion{}
	if len(have) == 0 {
		answer.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &shared.Empty{}}
	} else {
		answer.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentRevision{CurrentRevision: have[len(have)-1].revision}
	}
	switch expected := options.GetExpectedStreamRevision().(type) {
	case *streams.AppendReq_Options_Revision:
		answer.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision{ExpectedRevision: expected.Revision}
	case *streams.AppendReq_Options_NoStream:
		answer.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &shared.Empty{}}
	case *streams.AppendReq_Options_StreamExists:
		answer.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: &shared.Empty{}}
	}
	return &streams.AppendResp{Result: &streams.AppendResp_WrongExpectedVersion_{WrongExpectedVersion: answer}}
}

// remove deletes a stream, for good with a tombstone; ok is false where it had
// one before. It returns the position of what says so.
func (l *log) remove(name string, tombstone bool) (position uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[name]
	if s == nil {
		s = &stream{}
		l.streams[name] = s
	}
	if s.tombstoned {
		return 0, false
	}
	if tombstone {
		l.add(&recorded{id: uuid.New(), stream: name, metadata: map[string]string{"type": "$streamDeleted", "content-type": "application/json"}, data: []byte(`{}`)})
		s.tombstoned = true
	} else {
		maxCount := s.maxCount
		l.add(&recorded{
			id: uuid.New(), stream: "$$" + name, metadata: map[string]string{"type": "$metadata", "content-type": "application/json"},
			data: []byte(`{"$tb":9223372036854775807}`),
		})
		s.maxCount = maxCount
	}
	s.before = len(s.events)
	l.wake()
	return l.position, true
}

// after is where in events those after a position begin.
func after(events []*recorded, position uint64) int {
	i, _ := slices.BinarySearchFunc(events, position, func(e *recorded, p uint64) int {
		if e.position <= p {
			return -1
		}
		return 1
	})
	return i
}

// afterRevision is where in the events of a stream those after a revision begin.
func afterRevision(events []*recorded, revision uint64) int {
	i, _ := slices.BinarySearchFunc(events, revision, func(e *recorded, r uint64) int {
		if e.revision <= r {
			return -1
		}
		return 1
	})
	return i
}
