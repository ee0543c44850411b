package esdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxAppend is how many bytes an append may have, as a server has it by default.
const maxAppend = 1 << 20

// Append implements the protocol's append.
func (s *Server) Append(call streams.Streams_AppendServer) error {
	if err := s.admit(call.Context(), call.SetTrailer); err != nil {
		return err
	}
	first, err := call.Recv()
	if err != nil {
		return err
	}
	options := first.GetOptions()
	if options == nil {
		return status.Error(codes.InvalidArgument, "an append begins with its options")
	}
	stream := string(options.GetStreamIdentifier().GetStreamName())
	fault := s.fault()
	switch fault {
	case Denied:
		call.SetTrailer(metadata.Pairs("exception", "access-denied"))
		return status.Error(codes.PermissionDenied, "Access Denied")
	case Busy:
		return status.Error(codes.Unavailable, "Server Is Too Busy")
	default:
	}
	events, err := proposed(stream, call)
	if err != nil {
		return err
	}
	if fault == Aborted {
		return status.Error(codes.Aborted, "Operation timed out: PrepareTimeout")
	}
	answer, ok := s.log.append(stream, options, events)
	if !ok {
		return deleted(stream, call.SetTrailer)
	}
	switch fault {
	case ForgottenAfter:
		s.log.mu.Lock()
		for _, e := range events {
			s.log.forgotten[e.id] = true
		}
		s.log.mu.Unlock()
		return status.Error(codes.Aborted, "Operation timed out: CommitTimeout")
	case AbortedAfter:
		return status.Error(codes.Aborted, "Operation timed out: CommitTimeout")
	case SilentAfter:
		<-call.Context().Done()
		return call.Context().Err()
	case DisconnectedAfter:
		s.Disconnect()
		<-call.Context().Done()
		return call.Context().Err()
	default:
		return call.SendAndClose(answer)
	}
}

// proposed is the events of an append.
func proposed(stream string, call streams.Streams_AppendServer) ([]*recorded, error) {
	var events []*recorded
	size := 0
	for {
		request, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
		proposed := request.GetProposedMessage()
		if proposed == nil {
			return nil, status.Error(codes.InvalidArgument, "an event is missing")
		}
		id, err := identifier(proposed.GetId())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		size += len(proposed.GetData()) + len(proposed.GetCustomMetadata())
		if size > maxAppend {
			call.SetTrailer(metadata.Pairs("exception", "maximum-append-size-exceeded", "maximum-append-size", strconv.Itoa(maxAppend)))
			return nil, status.Error(codes.InvalidArgument, fmt.Sprintf("Maximum Append Size of %d Exceeded.", maxAppend))
		}
		headers := map[string]string{"type": proposed.GetMetadata()["type"], "content-type": proposed.GetMetadata()["content-type"]}
		events = append(events, &recorded{id: id, stream: stream, metadata: headers, custom: proposed.GetCustomMetadata(), data: proposed.GetData()})
	}
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

// deleted answers a call to a stream that has a tombstone.
func deleted(stream string, trailer func(metadata.MD)) error {
	trailer(metadata.Pairs("exception", "stream-deleted", "stream-name", stream))
	return status.Errorf(codes.FailedPrecondition, "Event stream '%s' is deleted.", stream)
}

// Delete implements the protocol's deletion after which a stream may be written again.
func (s *Server) Delete(ctx context.Context, request *streams.DeleteReq) (*streams.DeleteResp, error) {
	position, err := s.remove(ctx, string(request.GetOptions().GetStreamIdentifier().GetStreamName()), false)
	if err != nil {
		return nil, err
	}
	return &streams.DeleteResp{PositionOption: &streams.DeleteResp_Position_{Position: &streams.DeleteResp_Position{CommitPosition: position, PreparePosition: position}}}, nil
}

// Tombstone implements the protocol's deletion for good.
func (s *Server) Tombstone(ctx context.Context, request *streams.TombstoneReq) (*streams.TombstoneResp, error) {
	position, err := s.remove(ctx, string(request.GetOptions().GetStreamIdentifier().GetStreamName()), true)
	if err != nil {
		return nil, err
	}
	return &streams.TombstoneResp{PositionOption: &streams.TombstoneResp_Position_{Position: &streams.TombstoneResp_Position{CommitPosition: position, PreparePosition: position}}}, nil
}

func (s *Server) remove(ctx context.Context, stream string, tombstone bool) (uint64, error) {
	trailer := func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) } // the call is there
	if err := s.admit(ctx, trailer); err != nil {
		return 0, err
	}
	position, ok := s.log.remove(stream, tombstone)
	if !ok {
		return 0, deleted(stream, trailer)
	}
	return position, nil
}
