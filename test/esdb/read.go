package esdb

import (
	"regexp"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Read implements the protocol's reads and subscriptions.
func (s *Server) Read(request *streams.ReadReq, call streams.Streams_ReadServer) error {
	if err := s.admit(call.Context(), call.SetTrailer); err != nil {
		return err
	}
	options := request.GetOptions()
	wanted, err := filter(options.GetFilter())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if options.GetSubscription() != nil {
		return s.subscribe(options, wanted, call)
	}
	s.reads.Add(1)
	defer s.reads.Add(-1)
	events, gone := s.source(options)
	if name := options.GetStream().GetStreamIdentifier(); name != nil {
		if gone {
			return deleted(string(name.GetStreamName()), call.SetTrailer)
		}
		if len(events) == 0 {
			return call.Send(&streams.ReadResp{Content: &streams.ReadResp_StreamNotFound_{StreamNotFound: &streams.ReadResp_StreamNotFound{StreamIdentifier: name}}})
		}
	}
	backwards := options.GetReadDirection() == streams.ReadReq_Options_Backwards
	step := 1
	if backwards {
		step = -1
	}
	left := options.GetCount()
	for i := begin(options, events, backwards); i >= 0 && i < len(events) && left > 0; i += step {
		s.scanned.Add(1)
		if !wanted(events[i]) {
			continue
		}
		left--
		if err := call.Send(answer(events[i])); err != nil {
			return err
		}
	}
	return nil
}

// source is the events that a read is of, and whether they have a tombstone.
func (s *Server) source(options *streams.ReadReq_Options) ([]*recorded, bool) {
	if stream := options.GetStream(); stream != nil {
		return s.log.shown(string(stream.GetStreamIdentifier().GetStreamName()))
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.all, false
}

// begin is the index of the first event of a read, which includes the one it
// names.
func begin(options *streams.ReadReq_Options, events []*recorded, backwards bool) int {
	stream, all := options.GetStream(), options.GetAll()
	switch {
	case stream.GetStart() != nil || all.GetStart() != nil:
		if backwards {
			return -1
		}
		return 0
	case stream.GetEnd() != nil || all.GetEnd() != nil:
		if backwards {
			return len(events) - 1
		}
		return len(events)
	}
	next := afterRevision
	from := stream.GetRevision()
	if all != nil {
		next, from = after, all.GetPosition().GetCommitPosition()
	}
	i := next(events, from)
	if backwards || i > 0 && positionOf(events[i-1], all != nil) == from {
		i--
	}
	return i
}

func positionOf(e *recorded, all bool) uint64 {
	if all {
		return e.position
	}
	return e.revision
}

// subscribe sends what comes after a position or revision until the call ends.
func (s *Server) subscribe(options *streams.ReadReq_Options, wanted func(*recorded) bool, call streams.Streams_ReadServer) error {
	s.mu.Lock()
	dropped, stopping := s.dropped, s.stopping
	s.mu.Unlock()
	events, gone := s.source(options)
	if gone {
		return deleted(string(options.GetStream().GetStreamIdentifier().GetStreamName()), call.SetTrailer)
	}
	if err := call.Send(&streams.ReadResp{Content: &streams.ReadResp_Confirmation{Confirmation: &streams.ReadResp_SubscriptionConfirmation{
		SubscriptionId: uuid.NewString(),
	}}}); err != nil {
		return err
	}
	all := options.GetStream() == nil
	// from is where the subscription is: it has sent what is before.
	from, none := uint64(0), true
	switch {
	case options.GetStream().GetEnd() != nil || options.GetAll().GetEnd() != nil:
		if len(events) > 0 {
			from, none = positionOf(events[len(events)-1], all), false
		}
	case options.GetStream().GetStart() != nil || options.GetAll().GetStart() != nil:
	case all:
		from, none = options.GetAll().GetPosition().GetCommitPosition(), false
	default:
		from, none = options.GetStream().GetRevision(), false
	}
	window := options.GetFilter().GetMax() * max(options.GetFilter().GetCheckpointIntervalMultiplier(), 1)
	looked := uint32(0)
	for caughtUp := false; ; {
		s.log.mu.Lock()
		grown := s.log.grown
		s.log.mu.Unlock()
		events, _ := s.source(options)
		switch {
		case none:
		case all:
			events = events[after(events, from):]
		default:
			events = events[afterRevision(events, from):]
		}
		for _, e := range events {
			from, none = positionOf(e, all), false
			s.scanned.Add(1)
			if wanted(e) {
				if err := call.Send(answer(e)); err != nil {
					return err
				}
			}
			if looked++; window > 0 && looked%window == 0 {
				if err := call.Send(&streams.ReadResp{Content: &streams.ReadResp_Checkpoint_{Checkpoint: &streams.ReadResp_Checkpoint{
					CommitPosition: e.position, PreparePosition: e.position,
				}}}); err != nil {
					return err
				}
			}
			select {
			case <-dropped:
				return status.Error(codes.Aborted, "Operation timed out: consumer too slow")
			default:
			}
		}
		if len(events) > 0 {
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
		case <-dropped:
			return status.Error(codes.Aborted, "Operation timed out: consumer too slow")
		case <-stopping:
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
