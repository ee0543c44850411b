// Package esdb is a double of an EventStoreDB server: the real protocol over
// real gRPC, in this process, with what the event log uses of it: appending,
// reading and following streams and $all.
//
// It keeps to the rules of the server that a client can see: positions are
// sparse, the server writes system events of its own, a missing stream and a
// wrong expected revision are answers and not failures of the call, the same
// append again is a success, subscriptions begin after the position they name
// and say once when they have caught up.
package esdb

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxAppend is how many bytes an append may have, as a server has it by default.
const maxAppend = 1 << 20

// Server is a server that runs until the test ends.
type Server struct {
	streams.UnimplementedStreamsServer

	address string
	stopped chan struct{}

	mu       sync.Mutex
	all      []*recorded
	streams  map[string][]*recorded
	position uint64
	appends  int
	grown    chan struct{}
}

// recorded is an event as the server keeps it.
type recorded struct {
	id       uuid.UUID
	stream   string
	revision uint64
	position uint64
	metadata map[string]string
	custom   []byte
	data     []byte
}

// Start starts an empty server on a loopback port.
func Start(t testing.TB) *Server {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		address: listener.Addr().String(),
		stopped: make(chan struct{}),
		streams: map[string][]*recorded{},
		grown:   make(chan struct{}),
	}
	s.system()
	// The client pings without calls more often than the default policy allows.
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	streams.RegisterStreamsServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		close(s.stopped)
		server.Stop()
		// A short test may be over before Serve has begun.
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("the EventStoreDB double ended: %v", err)
		}
	})
	return s
}

// ConnectionString is what a client is given to connect.
func (s *Server) ConnectionString() string { return "esdb://" + s.address + "?tls=false" }

// add records an event; the caller has the lock.
func (s *Server) add(e *recorded) {
	s.position += 137 + uint64(len(e.data)+len(e.custom))
	e.position = s.position
	e.revision = uint64(len(s.streams[e.stream]))
	e.metadata["created"] = strconv.FormatInt(time.Now().UnixNano()/100, 10)
	s.streams[e.stream] = append(s.streams[e.stream], e)
	s.all = append(s.all, e)
}

// system records an event as servers do on their own; the caller has the lock.
func (s *Server) system() {
	s.add(&recorded{
		id: uuid.New(), stream: "$stats-0.0.0.0:2113",
		metadata: map[string]string{"type": "$statsCollected", "content-type": "application/json"}, data: []byte(`{}`),
	})
}

// Append implements the protocol's append.
func (s *Server) Append(call streams.Streams_AppendServer) error {
	first, err := call.Recv()
	if err != nil {
		return err
	}
	options := first.GetOptions()
	if options == nil {
		return status.Error(codes.InvalidArgument, "an append begins with its options")
	}
	stream := string(options.GetStreamIdentifier().GetStreamName())
	var events []*recorded
	size := 0
	for {
		request, err := call.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		proposed := request.GetProposedMessage()
		if proposed == nil {
			return status.Error(codes.InvalidArgument, "an event is missing")
		}
		id, err := identifier(proposed.GetId())
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		size += len(proposed.GetData()) + len(proposed.GetCustomMetadata())
		if size > maxAppend {
			call.SetTrailer(metadata.Pairs("exception", "maximum-append-size-exceeded", "maximum-append-size", strconv.Itoa(maxAppend)))
			return status.Error(codes.InvalidArgument, fmt.Sprintf("Maximum Append Size of %d Exceeded.", maxAppend))
		}
		kept := map[string]string{"type": proposed.GetMetadata()["type"], "content-type": proposed.GetMetadata()["content-type"]}
		events = append(events, &recorded{id: id, stream: stream, metadata: kept, custom: proposed.GetCustomMetadata(), data: proposed.GetData()})
	}
	return call.SendAndClose(s.append(stream, options, events))
}

func identifier(id *shared.UUID) (uuid.UUID, error) {
	structured := id.GetStructured()
	if structured == nil {
		return uuid.Parse(id.GetString_())
	}
	var bytes [16]byte
	for i := range 8 {
		bytes[i] = byte(uint64(structured.MostSignificantBits) >> (56 - 8*i))
		bytes[8+i] = byte(uint64(structured.LeastSignificantBits) >> (56 - 8*i))
	}
	return bytes, nil
}

func (s *Server) append(stream string, options *streams.AppendReq_Options, events []*recorded) *streams.AppendResp {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.streams[stream]
	first := len(have) // where the events are to be
	switch expected := options.GetExpectedStreamRevision().(type) {
	case *streams.AppendReq_Options_Revision:
		first = int(min(expected.Revision, math.MaxInt32)) + 1
	case *streams.AppendReq_Options_NoStream:
		first = 0
	case *streams.AppendReq_Options_StreamExists:
		if len(have) == 0 {
			return wrong(options, have)
		}
	}
	if first == len(have) {
		for _, e := range events {
			s.add(e)
		}
		if s.appends++; s.appends%10 == 0 {
			s.system()
		}
		close(s.grown)
		s.grown = make(chan struct{})
		have = s.streams[stream]
	} else if len(events) == 0 || first+len(events) > len(have) {
		return wrong(options, have)
	}
	for i, e := range events {
		if have[first+i].id != e.id {
			return wrong(options, have)
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
	return &streams.AppendResp{Result: &streams.AppendResp_Success_{Success: success}}
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

// Read implements the protocol's reads and subscriptions.
func (s *Server) Read(request *streams.ReadReq, call streams.Streams_ReadServer) error {
	options := request.GetOptions()
	wanted, err := filter(options.GetFilter())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if options.GetSubscription() != nil {
		return s.subscribe(options, wanted, call)
	}
	s.mu.Lock()
	events := s.all
	if options.GetStream() != nil {
		events = s.streams[string(options.GetStream().GetStreamIdentifier().GetStreamName())]
	}
	s.mu.Unlock()
	if options.GetStream() != nil && len(events) == 0 {
		return call.Send(&streams.ReadResp{Content: &streams.ReadResp_StreamNotFound_{StreamNotFound: &streams.ReadResp_StreamNotFound{
			StreamIdentifier: options.GetStream().GetStreamIdentifier(),
		}}})
	}
	backwards := options.GetReadDirection() == streams.ReadReq_Options_Backwards
	left := options.GetCount()
	for i := range events {
		e := events[i]
		if backwards {
			e = events[len(events)-1-i]
		}
		if left == 0 {
			break
		}
		if !within(options, e, backwards) || !wanted(e) {
			continue
		}
		left--
		if err := call.Send(answer(e)); err != nil {
			return err
		}
	}
	return nil
}

// within tells whether a read that includes where it begins reaches e.
func within(options *streams.ReadReq_Options, e *recorded, backwards bool) bool {
	from, at, end := uint64(0), e.position, false
	if stream := options.GetStream(); stream != nil {
		from, at, end = stream.GetRevision(), e.revision, stream.GetEnd() != nil
		if stream.GetStart() != nil && backwards || end {
			return backwards == end
		}
	} else {
		from, end = options.GetAll().GetPosition().GetCommitPosition(), options.GetAll().GetEnd() != nil
		if options.GetAll().GetStart() != nil && backwards || end {
			return backwards == end
		}
	}
	if backwards {
		return at <= from
	}
	return at >= from
}

// subscribe sends what comes after a position or revision until the call ends.
func (s *Server) subscribe(options *streams.ReadReq_Options, wanted func(*recorded) bool, call streams.Streams_ReadServer) error {
	if err := call.Send(&streams.ReadResp{Content: &streams.ReadResp_Confirmation{Confirmation: &streams.ReadResp_SubscriptionConfirmation{
		SubscriptionId: uuid.NewString(),
	}}}); err != nil {
		return err
	}
	source := func() []*recorded { return s.all }
	if stream := options.GetStream(); stream != nil {
		source = func() []*recorded { return s.streams[string(stream.GetStreamIdentifier().GetStreamName())] }
	}
	s.mu.Lock()
	next := len(source())
	if options.GetStream().GetEnd() == nil && options.GetAll().GetEnd() == nil {
		next = 0
		for _, e := range source() {
			if stream := options.GetStream(); stream != nil {
				if stream.GetStart() != nil || e.revision > stream.GetRevision() {
					break
				}
			} else if options.GetAll().GetStart() != nil || e.position > options.GetAll().GetPosition().GetCommitPosition() {
				break
			}
			next++
		}
	}
	s.mu.Unlock()
	for caughtUp := false; ; {
		s.mu.Lock()
		events, grown := source()[next:], s.grown
		s.mu.Unlock()
		for _, e := range events {
			if !wanted(e) {
				continue
			}
			if err := call.Send(answer(e)); err != nil {
				return err
			}
		}
		if next += len(events); len(events) > 0 {
			continue
		}
		if !caughtUp {
			caughtUp = true
			if err := call.Send(&streams.ReadResp{Content: &streams.ReadResp_CaughtUp_{CaughtUp: &streams.ReadResp_CaughtUp{}}}); err != nil {
				return err
			}
		}
		select {
		case <-grown:
		case <-call.Context().Done():
			return nil
		case <-s.stopped:
			return status.Error(codes.Unavailable, "Server Is Shutting Down")
		}
	}
}

// filter is a client's filter; nil lets everything through.
func filter(options *streams.ReadReq_Options_FilterOptions) (func(*recorded) bool, error) {
	if options == nil {
		return func(*recorded) bool { return true }, nil
	}
	expression, name := options.GetEventType(), func(e *recorded) string { return e.metadata["type"] }
	if expression == nil {
		expression, name = options.GetStreamIdentifier(), func(e *recorded) string { return e.stream }
	}
	if prefixes := expression.GetPrefix(); len(prefixes) > 0 {
		return func(e *recorded) bool {
			for _, prefix := range prefixes {
				if strings.HasPrefix(name(e), prefix) {
					return true
				}
			}
			return false
		}, nil
	}
	pattern, err := regexp.Compile(expression.GetRegex())
	if err != nil {
		return nil, err
	}
	return func(e *recorded) bool { return pattern.MatchString(name(e)) }, nil
}

func answer(e *recorded) *streams.ReadResp {
	id := &shared.UUID_Structured{}
	for i := range 8 {
		id.MostSignificantBits |= int64(uint64(e.id[i]) << (56 - 8*i))
		id.LeastSignificantBits |= int64(uint64(e.id[8+i]) << (56 - 8*i))
	}
	return &streams.ReadResp{Content: &streams.ReadResp_Event{Event: &streams.ReadResp_ReadEvent{
		Position: &streams.ReadResp_ReadEvent_CommitPosition{CommitPosition: e.position},
		Event: &streams.ReadResp_ReadEvent_RecordedEvent{
			Id:               &shared.UUID{Value: &shared.UUID_Structured_{Structured: id}},
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(e.stream)},
			StreamRevision:   e.revision,
			PreparePosition:  e.position,
			CommitPosition:   e.position,
			Metadata:         e.metadata,
			CustomMetadata:   e.custom,
			Data:             e.data,
		},
	}}}
}
