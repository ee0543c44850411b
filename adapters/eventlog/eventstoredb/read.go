package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"golang.org/x/sync/errgroup"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain/event"
)

const (
	readAhead  = 256 // events of a read that the client may have received before they are taken
	firstLook  = 8   // events that Head looks at from the end of the log first
	secondLook = 256 // and then, before it looks on from where it knows
	maxReads   = 8   // positions that are read at the same time
)

var errSilent = errors.New("the server says nothing")

// reading begins a read of the client.
type reading func(context.Context, *esdb.Client) (*esdb.ReadStream, error)

// streamFrom reads a stream by its full name, oldest first.
func (s *Store) streamFrom(stream string, from event.Revision, count uint64) reading {
	return func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
		return client.ReadStream(ctx, stream, esdb.ReadStreamOptions{From: esdb.Revision(uint64(max(from, 0)))}, count)
	}
}

// read yields what a read finds, tried once; nothing where there is no such
// stream. It fails when the server says nothing for as long as a try may take.
func (s *Store) read(ctx context.Context, begin reading) iter.Seq2[*esdb.ResolvedEvent, error] {
	return func(yield func(*esdb.ResolvedEvent, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		v, err := s.links.enter(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		messages := v.receive(ctx, begin)
		silence := time.NewTimer(s.times.attempt)
		defer silence.Stop()
		for {
			var next message
			select {
			case next = <-messages:
			default:
				silence.Reset(s.times.attempt)
				select {
				case next = <-messages:
				case <-silence.C:
					v.recordSilence()
					yield(nil, errSilent)
					return
				case <-ctx.Done():
					yield(nil, context.Cause(ctx))
					return
				}
			}
			switch {
			case errors.Is(next.err, io.EOF), hasCode(next.err, esdb.ErrorCodeResourceNotFound):
				return
			case next.err != nil && ctx.Err() != nil:
				yield(nil, context.Cause(ctx))
				return
			case !yield(next.event, next.err) || next.err != nil:
				return
			}
		}
	}
}

// message is what a read receives next: an event, or the error that ends it.
type message struct {
	event *esdb.ResolvedEvent
	err   error
}

// receive begins a read and receives its messages, until one is an error or ctx ends.
func (v *visit) receive(ctx context.Context, begin reading) <-chan message {
	messages := make(chan message, readAhead)
	v.run(ctx, func() {
		read, err := begin(v.toLeader(ctx), v.client)
		for {
			var e *esdb.ResolvedEvent
			if err == nil {
				e, err = read.Recv()
			}
			v.recordOutcome(ctx, err)
			select {
			case messages <- message{e, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	return messages
}

// retry tries to read until that succeeds, the server refuses it, there is no server,
// or no progress is made for as long as an append may take. try reads from where the
// try before ended and tells whether it came further.
func (s *Store) retry(ctx context.Context, try func(context.Context) (further bool, err error)) error {
	ctx, done := s.bindToStore(ctx)
	defer done()
	if err := s.ending.Err(); err != nil {
		return errClosed
	}
	pauses, since := newPauses(), time.Now()
	for {
		further, err := try(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case further:
			pauses, since = newPauses(), time.Now()
		}
		if isFinal(err) || errors.Is(err, errNoServer) || time.Since(since) > s.times.append {
			return wrap(commands.ErrUnavailable, err)
		}
		if s.wait(ctx, pauses.NextBackOff()) != nil {
			return context.Cause(ctx)
		}
	}
}

// ReadStream implements eventlog.Store.
func (s *Store) ReadStream(ctx context.Context, stream event.Stream, from event.Revision) iter.Seq2[eventlog.Raw, error] {
	return func(yield func(eventlog.Raw, error) bool) {
		next, left := max(from, 0), false
		err := s.retry(ctx, func(ctx context.Context) (further bool, err error) {
			for resolved, err := range s.read(ctx, s.streamFrom(s.prefix+string(stream), next, math.MaxInt64)) {
				if err != nil {
					return further, err
				}
				e, ok := s.decode(resolved)
				if !ok {
					continue
				}
				further, next = true, e.Revision+1
				if !yield(e, nil) {
					left = true
					return further, nil
				}
			}
			return further, nil
		})
		if err != nil && !left {
			yield(eventlog.Raw{}, fmt.Errorf("read %s: %w", stream, err))
		}
	}
}

// ReadAt implements eventlog.Store. What others recorded is not there.
func (s *Store) ReadAt(ctx context.Context, positions []event.Position) ([]eventlog.Raw, error) {
	if s.ending.Err() != nil {
		return nil, fmt.Errorf("read positions: %w", errClosed)
	}
	found := make([]eventlog.Raw, len(positions))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReads)
	for i, pos := range positions {
		group.Go(func() error {
			var err error
			found[i], err = s.readOne(ctx, pos)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return found, nil
}

func (s *Store) readOne(ctx context.Context, pos event.Position) (eventlog.Raw, error) {
	var found eventlog.Raw
	err := s.retry(ctx, func(ctx context.Context) (bool, error) {
		for resolved, err := range s.read(ctx, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
			return client.ReadAll(ctx, esdb.ReadAllOptions{From: esdb.Position{Commit: uint64(pos), Prepare: uint64(pos)}}, 1)
		}) {
			if err != nil {
				return false, err
			}
			found, _ = s.decode(resolved)
		}
		return false, nil
	})
	switch {
	case err != nil:
		return eventlog.Raw{}, fmt.Errorf("read position %d: %w", pos, err)
	case found.Position != pos || pos == 0:
		return eventlog.Raw{}, fmt.Errorf("read positions: there is no event at %d", pos)
	}
	return found, nil
}

// Head implements eventlog.Store. It looks at a few events from the end. Where
// all of them are of others it looks on from the last place that is known, with
// the server's filter: what others recorded is never read whole, and who asks often
// reads little. A store that was just opened knows no place, so it is best asked
// after Follow was.
func (s *Store) Head(ctx context.Context) (event.Position, error) {
	var head event.Position
	found := false
	err := s.retry(ctx, func(ctx context.Context) (_ bool, err error) {
		for _, most := range []uint64{firstLook, secondLook} {
			if head, found, err = s.findLast(ctx, most); found || err != nil {
				break
			}
		}
		return false, err
	})
	if err != nil {
		return 0, fmt.Errorf("read the head: %w", err)
	}
	if found {
		return head, nil
	}
	head, _ = s.seen.last()
	for batch, err := range eventlog.UpToHead(ctx, s.Follow(ctx, head)) {
		if err != nil {
			return 0, fmt.Errorf("read the head: %w", err)
		}
		head = batch[len(batch)-1].Position
	}
	return head, nil
}

// findLast returns the position of the last event, if the last events of all tell, not
// more than most.
func (s *Store) findLast(ctx context.Context, most uint64) (event.Position, bool, error) {
	var n uint64
	var newest esdb.Position
	for resolved, err := range s.read(ctx, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
		return client.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}, most)
	}) {
		if err != nil {
			return 0, false, err
		}
		if n++; n == 1 {
			newest = resolved.OriginalEvent().Position
		}
		head, until := s.seen.last()
		e, ours := s.decode(resolved)
		if ours {
			head = e.Position
			s.seen.recordEvent(head)
		}
		if ours || resolved.OriginalEvent().Position.Commit <= until.Commit {
			s.seen.recordNothing(head, newest)
			return head, true, nil
		}
	}
	return 0, n < most, nil // that was the whole log
}
