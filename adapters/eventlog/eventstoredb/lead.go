package eventstoredb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// leaseStream holds who leads. Only its last event counts, and the log does not
// show it.
const leaseStream = "lease"

// lease is what this instance knows and holds of the lease.
type lease struct {
	instance string
	length   time.Duration

	mu       sync.Mutex
	capped   bool
	last     sighting
	mine     event.Revision // of the last entry that this instance wrote
	term     domain.Term    // in which it led last
	leading  *leading       // nil until it leads for the first time
	renewing chan struct{}  // closed when it is renewed no longer
}

// Lead waits until this instance leads. It returns the term it leads in, which is
// later than any before and than after, and a context that ends with ctx or when
// the instance may lead no longer.
//
// Who waits looks ten times in a lease whether it is free. The context is to be
// asked for its error right before an act: it knows that its time is over even
// when the process was stopped meanwhile. The end of ctx ends leading, but another
// instance may lead at once only after Close, when the work of the leader has
// ended, and this one may lead again before. One may wait at a time.
func (s *Store) Lead(ctx context.Context, after domain.Term) (context.Context, domain.Term, error) {
	for failing := ""; ; {
		led, term, err := s.tryToLead(ctx, after)
		switch {
		case led != nil:
			s.logger.Info("this instance leads", "instance", s.lease.instance, "term", term)
			return led, term, nil
		case errors.Is(err, errClosed):
			return nil, 0, fmt.Errorf("wait to lead: %w", err)
		case err != nil && ctx.Err() == nil && failing != err.Error():
			failing = err.Error()
			s.logger.Warn("this instance cannot see who leads; trying again", "error", err)
		}
		if err := s.wait(ctx, s.lease.length/10); err != nil {
			return nil, 0, fmt.Errorf("wait to lead: %w", err)
		}
	}
}

// tryToLead takes the lease if it is free; else the context it returns is nil.
func (s *Store) tryToLead(ctx context.Context, after domain.Term) (context.Context, domain.Term, error) {
	if err := s.begin(); err != nil {
		return nil, 0, err
	}
	defer s.busy.Done()
	trying, cancel := context.WithTimeout(ctx, s.lease.length)
	defer cancel()
	s.lease.mu.Lock()
	led, term, renewing := s.lease.leading, s.lease.term, s.lease.renewing
	s.lease.mu.Unlock()
	over := led != nil && led.Err() != nil
	if over {
		<-renewing
	}
	last, err := s.readLease(trying)
	if err != nil {
		return nil, 0, err
	}
	ours := over && last.Instance == s.lease.instance && last.Term == term
	if !ours && !last.isVacant(time.Now()) {
		return nil, 0, nil
	}
	s.capLease(trying)
	next := last.next(s.lease.instance, s.lease.length, after)
	record, err := encodeEntry(next)
	if err != nil {
		return nil, 0, err
	}
	wrote := time.Now()
	if _, err := s.append(trying, s.prefix+leaseStream, last.revision, record, s.lease.length/6); err != nil {
		if errors.Is(err, commands.ErrConflict) {
			return nil, 0, nil // another was faster
		}
		return nil, 0, fmt.Errorf("take the lease: %w", err)
	}
	led = newLeading(ctx, leadsUntil(wrote, s.lease.length))
	s.lease.mu.Lock()
	s.lease.mine, s.lease.term = last.revision+1, next.Term
	s.lease.last = last.update(next, s.lease.mine, time.Now())
	s.lease.leading, s.lease.renewing = led, make(chan struct{})
	s.lease.mu.Unlock()
	go s.renew(led, s.lease.renewing, next, last.revision+1, wrote)
	return led, next.Term, nil
}

// readLease reads the last entry.
func (s *Store) readLease(ctx context.Context) (sighting, error) {
	found, revision := entry{}, event.NoRevision
	for resolved, err := range s.read(ctx, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
		return client.ReadStream(ctx, s.prefix+leaseStream, esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, 1)
	}) {
		if err != nil {
			return sighting{}, fmt.Errorf("read the lease: %w", err)
		}
		e := resolved.OriginalEvent()
		if found, err = parseEntry(e.Data); err != nil {
			return sighting{}, err
		}
		revision = event.Revision(e.EventNumber)
	}
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	s.lease.last = s.lease.last.update(found, revision, time.Now())
	return s.lease.last, nil
}

// capLease has the server keep the last entry only. Without that it keeps more
// than is needed, and no harm is done.
func (s *Store) capLease(ctx context.Context) {
	s.lease.mu.Lock()
	capped := s.lease.capped
	s.lease.mu.Unlock()
	if capped {
		return
	}
	_, err := s.append(ctx, "$$"+s.prefix+leaseStream, event.NoRevision, []eventlog.Raw{
		{ID: uuid.New(), Type: "$metadata", Data: []byte(`{"$maxCount":1}`), Meta: []byte(`{}`)},
	}, s.lease.length/6)
	if err == nil || errors.Is(err, commands.ErrConflict) {
		s.lease.mu.Lock()
		s.lease.capped = true
		s.lease.mu.Unlock()
		return
	}
	s.logger.Warn("the stream of the lease is not capped", "error", err)
}

// encodeEntry makes an event of an entry.
func encodeEntry(e entry) ([]eventlog.Raw, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("write the lease: %w", err)
	}
	return []eventlog.Raw{{ID: uuid.New(), Type: "Lease", Data: data, Meta: []byte(`{}`)}}, nil
}

// renew renews the lease every third of it until led ends, or until another has
// it: then led ends. A renewal of unknown outcome is the same event when it is
// tried again, and counts from when it was tried first.
func (s *Store) renew(led *leading, ended chan<- struct{}, e entry, revision event.Revision, wrote time.Time) {
	defer close(ended)
	stop := context.AfterFunc(s.ending, func() { led.stop(errClosed) })
	defer stop()
	for {
		if s.wait(led, time.Until(renewsAt(wrote, s.lease.length))) != nil {
			return
		}
		wrote = time.Now()
		if !s.appendRenewal(led, e, revision) {
			return
		}
		revision++
		s.lease.mu.Lock()
		s.lease.mine = revision
		s.lease.last = s.lease.last.update(e, revision, time.Now())
		s.lease.mu.Unlock()
		if !led.renew(leadsUntil(wrote, s.lease.length)) {
			led.stop(errLeaseOver)
			return
		}
	}
}

// appendRenewal appends an entry after a revision, and tries again until that succeeds;
// it returns false when led ends before, or another has the lease, which ends led.
func (s *Store) appendRenewal(led *leading, e entry, revision event.Revision) bool {
	record, err := encodeEntry(e)
	if err != nil {
		led.stop(err)
		return false
	}
	for pauses := newPauses(); ; {
		_, err := s.append(led, s.prefix+leaseStream, revision, record, s.lease.length/6)
		switch {
		case err == nil:
			return true
		case errors.Is(err, commands.ErrConflict):
			s.logger.Warn("another instance has taken the lease", "instance", s.lease.instance, "term", e.Term)
			led.stop(errLeaseOver)
			return false
		case s.wait(led, min(pauses.NextBackOff(), s.lease.length/10)) != nil:
			s.logger.Warn("this instance leads no longer", "instance", s.lease.instance, "term", e.Term, "error", err)
			return false
		}
	}
}

// resign ends leading and gives the lease up, if this instance has it.
func (s *Store) resign() {
	s.lease.mu.Lock()
	led, ended := s.lease.leading, s.lease.renewing
	s.lease.mu.Unlock()
	if led == nil {
		return
	}
	led.stop(errClosed)
	<-ended
	s.lease.mu.Lock()
	last, mine := s.lease.last, s.lease.mine
	s.lease.mu.Unlock()
	if last.revision != mine || last.Instance != s.lease.instance {
		return
	}
	released := last.entry
	released.Released = true
	record, err := encodeEntry(released)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), s.times.settle)
		defer cancel()
		_, err = s.append(ctx, s.prefix+leaseStream, mine, record, s.times.settle)
	}
	if err != nil && !errors.Is(err, commands.ErrConflict) {
		s.logger.Warn("the lease is not given up; others wait until it is over", "error", err)
	}
}
