package commands

import (
	"context"
	"errors"
	"fmt"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/operation"
	"commissaire/domain/roster"

	"golang.org/x/sync/errgroup"
)

const (
	mostQuestions = 8  // in a row, before a decision that misses something is given up
	askedAtOnce   = 16 // streams
)

// knowing makes a decision about the roster that depends on what other streams say.
// Nothing is read while others wait for the roster: a decision that misses something
// ends with roster.Unknown, that is asked for, and the decision is made again. It
// misses more only where the roster has moved meanwhile.
func (h *Handler) knowing(ctx context.Context, decide func(roster.Known) error) error {
	known := roster.Known{Hosts: map[domain.HostID]roster.KnownHost{}, Done: map[domain.OperationID]map[domain.HostID]bool{}}
	for range mostQuestions {
		err := decide(known)
		unknown, ok := errors.AsType[*roster.Unknown](err)
		if !ok {
			return err
		}
		if err := h.learn(ctx, known, unknown); err != nil {
			return err
		}
	}
	return fmt.Errorf("hosts come and go faster than they can be asked: %w", ErrUnavailable)
}

// learn asks what is unknown.
func (h *Handler) learn(ctx context.Context, known roster.Known, unknown *roster.Unknown) error {
	hosts := make([]roster.KnownHost, len(unknown.Hosts))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(askedAtOnce)
	for i, id := range unknown.Hosts {
		group.Go(func() (err error) {
			hosts[i], _, err = query(asking, h.host(id), func(state *host.Host) roster.KnownHost {
				key, _ := state.Pinned()
				return roster.KnownHost{Ready: state.Ready(), Pinned: key.Fingerprint}
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("read the host's history: %w", err)
	}
	for i, id := range unknown.Hosts {
		known.Hosts[id] = hosts[i]
	}
	for _, id := range unknown.Operations {
		done, _, err := query(ctx, h.operation(id), (*operation.Progress).Done)
		if err != nil {
			return err
		}
		known.Done[id] = done
	}
	return nil
}

func (h *Handler) host(id domain.HostID) *history[*host.Host, event.HostEvent] {
	return h.hosts.of(event.HostStream(id))
}

func (h *Handler) operation(id domain.OperationID) *history[*operation.Progress, event.OperationEvent] {
	return h.operations.of(event.OperationStream(id))
}
