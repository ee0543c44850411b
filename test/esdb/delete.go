package esdb

import (
	"context"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
)

// Delete implements the protocol's deletion of a stream: reads of it find
// nothing any more, reads of $all find its events still. Unlike at a server,
// revisions begin anew when it is written to again.
func (s *Server) Delete(_ context.Context, request *streams.DeleteReq) (*streams.DeleteResp, error) {
	stream := string(request.GetOptions().GetStreamIdentifier().GetStreamName())
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, stream)
	s.add(&recorded{
		id: uuid.New(), stream: "$$" + stream,
		metadata: map[string]string{"type": "$metadata", "content-type": "application/json"}, data: []byte(`{"$tb":9223372036854775807}`),
	})
	close(s.grown)
	s.grown = make(chan struct{})
	return &streams.DeleteResp{PositionOption: &streams.DeleteResp_Position_{
		Position: &streams.DeleteResp_Position{CommitPosition: s.position, PreparePosition: s.position},
	}}, nil
}
