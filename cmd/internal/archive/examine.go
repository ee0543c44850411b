package archive

import (
	"context"
	"encoding/base64"
	"errors"
	"iter"
	"slices"
	"time"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/adapters/transparency"
	"commissaire/domain"
	"commissaire/domain/event"
)

// examine reads a copy of a log to its end and returns what it is, and which
// credentials it names of hosts and container managers that are there. A copy in
// which anything is wrong is an error.
func examine(ctx context.Context, dir string, count func(int)) (state LogState, named []domain.CredentialID, err error) {
	reader, err := sqlite.OpenBackup(ctx, dir)
	if err != nil {
		return state, nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	if err := reader.Check(ctx); err != nil {
		return state, nil, err
	}
	log := &naming{feed: reader, names: map[string]domain.CredentialID{}}
	report, err := transparency.Verify(ctx, log, nil, nil, count)
	if err != nil {
		return state, nil, err
	}
	if err := report.Err("the log"); err != nil {
		return state, nil, err
	}
	for _, id := range log.names {
		named = append(named, id)
	}
	return LogState{report.Events, report.Last, base64.StdEncoding.EncodeToString(report.Root)}, named, nil
}

// naming is a log that notes which credentials its events name as they are read.
type naming struct {
	feed  eventlog.Feed
	names map[string]domain.CredentialID // by the id of the host or container manager that has it
}

// Follow implements eventlog.Feed. An event that cannot be naming names nothing.
func (n *naming) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for batch, err := range n.feed.Follow(ctx, after) {
			for _, raw := range batch {
				if r, err := eventlog.Decode(raw); err == nil {
					n.apply(r.Event)
				}
			}
			if !yield(batch, err) {
				return
			}
		}
	}
}

// apply notes the credential that an event names. Only events of the roster name any.
func (n *naming) apply(e event.Event) {
	roster, ok := e.(event.RosterEvent)
	if !ok {
		return
	}
	switch e := roster.(type) {
	case event.HostAdded:
		if e.Credential != "" {
			n.names[string(e.HostID)] = e.Credential
		}
	case event.HostRemoved:
		delete(n.names, string(e.HostID))
	case event.ContainerManagerDefined:
		if e.Credential != "" {
			n.names[string(e.ManagerID)] = e.Credential
		}
	case event.ContainerManagerRemoved:
		delete(n.names, string(e.ManagerID))
	case event.ClusterCreated, event.ClusterReconfigured, event.ClusterDeleted, event.HostJoined, event.HostLeft,
		event.NetworkDefined, event.NetworkRemoved, event.HostTaken, event.HostReleased, event.TermBegun,
		event.OperationStarted, event.OperationCompleted, event.OperationAborted:
	}
}

// missing are those that are named and not there, sorted.
func missing(named []domain.CredentialID, has func(domain.CredentialID) bool) []domain.CredentialID {
	all := []domain.CredentialID{}
	for _, id := range named {
		if !has(id) {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

// openAll opens each credential of a copy with the master key, and returns which
// there are.
func openAll(ctx context.Context, dir string, master []byte, count func(int)) (all map[domain.CredentialID]time.Time, err error) {
	store, err := credentials.OpenBackup(ctx, dir, master)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if all, err = store.List(ctx); err != nil {
		return nil, err
	}
	n := 0
	for id := range all {
		if _, err := store.Read(ctx, id); err != nil {
			return nil, err
		}
		n++
		count(n)
	}
	return all, nil
}
