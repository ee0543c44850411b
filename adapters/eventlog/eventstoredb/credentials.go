package eventstoredb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// Sealed credentials lie beside the log, each in a stream of its own with one
// event. Its type is named as system events are: it is no part of the log, and
// who follows that is not shown it.
const (
	credentialPrefix = "credential-"
	credentialSealed = "$credential-sealed"
)

var (
	errNoBlob   = errors.New("its stream holds something else")
	errNoAnswer = errors.New("EventStoreDB did not answer in time")
)

// credentialStream is what the server calls the stream of a sealed credential.
func (s *Store) credentialStream(id domain.CredentialID) string {
	return s.prefix + credentialPrefix + string(id)
}

type sealedCredential struct {
	Sealed []byte `json:"sealed"`
}

// PutBlob keeps a sealed credential under a new id; fs.ErrExist where there is one.
func (s *Store) PutBlob(ctx context.Context, id domain.CredentialID, sealed []byte) error {
	data, err := json.Marshal(sealedCredential{sealed})
	if err != nil {
		return fmt.Errorf("keep credential %s: %w", id, err)
	}
	if err := s.begin(); err != nil {
		return fmt.Errorf("keep credential %s: %w", id, wrap(commands.ErrUnavailable, err))
	}
	defer s.busy.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.times.append)
	defer cancel()
	// Not by Append: what is kept here is no place in the log.
	_, err = s.append(ctx, s.credentialStream(id), event.NoRevision, []eventlog.Raw{{ID: uuid.New(), Type: credentialSealed, Data: data, Meta: []byte("{}")}}, s.times.attempt)
	if errors.Is(err, commands.ErrConflict) {
		err = fs.ErrExist
	}
	if err != nil {
		return fmt.Errorf("keep credential %s: %w", id, err)
	}
	return nil
}

// Blob is a sealed credential; fs.ErrNotExist where there is none, and
// commands.ErrUnavailable where the server does not say.
func (s *Store) Blob(ctx context.Context, id domain.CredentialID) ([]byte, error) {
	sealed, err := s.blob(ctx, s.credentialStream(id))
	if err != nil {
		return nil, fmt.Errorf("read credential %s: %w", id, err)
	}
	return sealed, nil
}

func (s *Store) blob(ctx context.Context, stream string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.times.append, errNoAnswer)
	defer cancel()
	last, err := call(ctx, s.links, func(ctx context.Context, k *link) (*esdb.ResolvedEvent, error) {
		reading, err := k.client.ReadStream(ctx, stream, esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, 1)
		if err != nil {
			return nil, err
		}
		defer reading.Close()
		return reading.Recv()
	})
	switch {
	case hasCode(err, esdb.ErrorCodeResourceNotFound, esdb.ErrorCodeStreamDeleted), errors.Is(err, io.EOF):
		return nil, fs.ErrNotExist
	case errors.Is(context.Cause(ctx), errNoAnswer):
		return nil, wrap(commands.ErrUnavailable, errNoAnswer)
	case err != nil:
		return nil, wrap(commands.ErrUnavailable, err)
	}
	var credential sealedCredential
	if e := last.OriginalEvent(); e == nil || e.EventType != credentialSealed || json.Unmarshal(e.Data, &credential) != nil {
		return nil, errNoBlob
	}
	return credential.Sealed, nil
}

// DeleteBlob deletes the stream of a sealed credential, so that the server drops
// it when it scavenges. It may be repeated.
func (s *Store) DeleteBlob(ctx context.Context, id domain.CredentialID) error {
	stream := s.credentialStream(id)
	switch _, err := s.blob(ctx, stream); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil && !errors.Is(err, errNoBlob):
		return fmt.Errorf("delete credential %s: %w", id, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.times.append, errNoAnswer)
	defer cancel()
	_, err := call(ctx, s.links, func(ctx context.Context, k *link) (*esdb.DeleteResult, error) {
		return k.client.DeleteStream(ctx, stream, esdb.DeleteStreamOptions{ExpectedRevision: esdb.Any{}})
	})
	if errors.Is(context.Cause(ctx), errNoAnswer) {
		err = errNoAnswer
	}
	if err != nil && !hasCode(err, esdb.ErrorCodeResourceNotFound, esdb.ErrorCodeStreamDeleted) {
		return fmt.Errorf("delete credential %s: %w", id, err)
	}
	return nil
}
