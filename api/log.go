package api

import (
	"context"
	"net/http"

	"commissaire/domain"
)

var errUnsigned = domain.Refuse(domain.NotFound, "log-unsigned")

// Transparency signs checkpoints of the Merkle tree over the log. It refuses a
// position that has no event.
type Transparency interface {
	// Checkpoint is a signed checkpoint of all that is recorded.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Proof proves that the event at a position is among the first size; 0: of all.
	Proof(ctx context.Context, position, size uint64) (LogProof, error)
}

// LogProof is the proof that an event is in the log of which a checkpoint is: leaf
// and hashes are those of RFC 6962, 2.1.1.
type LogProof struct {
	Position   uint64   `json:"position"`
	Index      uint64   `json:"index"` // of the leaf, from 0
	Size       uint64   `json:"size"`  // of the checkpoint
	Leaf       []byte   `json:"leaf"`
	Hashes     [][]byte `json:"hashes"`
	Checkpoint string   `json:"checkpoint"`
}

func (s *Server) transparency() (Transparency, error) {
	if s.config.Transparency == nil {
		return nil, errUnsigned.With("no checkpoints of the log are signed here: log.signing-key is not set")
	}
	return s.config.Transparency, nil
}

// getCheckpoint answers with a signed checkpoint, as a text.
func (s *Server) getCheckpoint(w http.ResponseWriter, r *http.Request) error {
	log, err := s.transparency()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), viewWait)
	defer cancel()
	signed, err := log.Checkpoint(ctx)
	if err != nil {
		return late(ctx, err)
	}
	w.Header().Set("Content-Type", textPlain)
	w.Header().Set("Cache-Control", "private, no-cache")
	_, err = w.Write(signed)
	return ignore(err)
}

// getProof answers with the proof that the event at a position is in the log.
func (s *Server) getProof(w http.ResponseWriter, r *http.Request) error {
	log, err := s.transparency()
	if err != nil {
		return err
	}
	query := r.URL.Query()
	if !query.Has("position") {
		return domain.ErrInvalid.At("position", "is required")
	}
	position, err := number(query, "position", 0)
	if err != nil {
		return err
	}
	size, err := number(query, "size", 0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), viewWait)
	defer cancel()
	proof, err := log.Proof(ctx, position, size)
	if err != nil {
		return late(ctx, err)
	}
	if proof.Hashes == nil {
		proof.Hashes = [][]byte{}
	}
	return s.answer(w, r, http.StatusOK, proof)
}

// late is why there is no answer: where the tree is not there yet, that it comes.
func late(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errBehind
	}
	return err
}
