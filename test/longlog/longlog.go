// Package longlog makes up long logs, as a service would have left them after
// years, for tests and benchmarks.
package longlog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	_ "modernc.org/sqlite" // the driver

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/domain"
	"commissaire/domain/event"
)

// Credential is that of all hosts.
const Credential = "00000000-0000-4000-8000-000000000001"

// ID is the identity of every log that is made up.
const ID domain.LogID = "00000000-0000-4000-8000-000000000002"

// Address is that of the n-th host, from 0.
func Address(n int) string { return fmt.Sprintf("127.%d.%d.%d", 1+n/64516, 1+n/254%254, 1+n%254) }

// Log is a log that is being made up.
type Log struct {
	Port       int
	PerCluster int                      // hosts
	Now        time.Time                // of the last event
	Record     func(eventlog.Raw) error // is given each event, with its position and revision

	position  event.Position
	revisions map[event.Stream]event.Revision
}

// New is a log that begins a day ago.
func New() *Log {
	return &Log{Port: 22, PerCluster: 50, revisions: map[event.Stream]event.Revision{}, Now: time.Now().UTC().Add(-24 * time.Hour)}
}

// Write makes up a log in a directory that has none, past the store, which would
// take longer.
func (l *Log) Write(ctx context.Context, dir string, hosts, events int) (err error) {
	made, err := sqlite.Open(ctx, dir) // for its tables
	if err != nil {
		return err
	}
	if err := made.Close(); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "events.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // where it was not committed
	insert, err := tx.PrepareContext(ctx, "INSERT INTO events (pos, stream, rev, type, id, data, meta) VALUES (?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer func() { _ = insert.Close() }()
	l.Record = func(raw eventlog.Raw) error {
		_, err := insert.ExecContext(ctx, int64(raw.Position), string(raw.Stream), int64(raw.Revision), raw.Type, raw.ID.String(), string(raw.Data), string(raw.Meta))
		return err
	}
	if err := l.Tell(hosts, events); err != nil {
		return err
	}
	return tx.Commit()
}

func (l *Log) add(stream event.Stream, actor string, events ...event.Event) error {
	request := uuid.NewString()
	for _, e := range events {
		l.position++
		l.Now = l.Now.Add(time.Millisecond)
		raw, err := eventlog.Encode(stream, event.Decided{ID: uuid.New(), Event: e, Meta: event.Meta{
			Correlation: request, Causation: request, Time: l.Now, Actor: actor, Instance: "bench", Schema: 1,
		}})
		if err != nil {
			return err
		}
		raw.Position, raw.Revision = l.position, l.revisions[stream]
		l.revisions[stream]++
		if err := l.Record(raw); err != nil {
			return err
		}
	}
	return nil
}

// Tell makes up hosts in clusters, each investigated and bootstrapped, and then as
// many upgrades as it takes to come to the number of events; 0: none.
func (l *Log) Tell(hosts, events int) error {
	if err := l.add(event.RosterStream, "commissaire", event.TermBegun{Term: 1, Instance: "bench", Log: ID}); err != nil {
		return err
	}
	var clusters []event.ClusterCreated
	members := map[domain.ClusterID][]event.Member{}
	for i := range hosts {
		if i%l.PerCluster == 0 {
			c := event.ClusterCreated{ClusterID: domain.ClusterID(uuid.NewString()), Cluster: domain.ClusterName(fmt.Sprintf("cluster-%d", i/l.PerCluster)), Network: "default"}
			clusters = append(clusters, c)
			if err := l.add(event.RosterStream, "admin", c); err != nil {
				return err
			}
		}
		c := clusters[len(clusters)-1]
		m := event.Member{HostID: domain.HostID(uuid.NewString()), Host: domain.Address(Address(i))}
		members[c.ClusterID] = append(members[c.ClusterID], m)
		claim := domain.ClaimID(uuid.NewString())
		if err := errors.Join(
			l.add(event.RosterStream, "admin",
				event.HostAdded{HostID: m.HostID, Host: m.Host, RemoteUser: "root", Credential: Credential, Fingerprint: "SHA256:bench", Port: l.Port},
				event.HostJoined{HostID: m.HostID, Host: m.Host, ClusterID: c.ClusterID, Cluster: c.Cluster},
				event.HostTaken{HostID: m.HostID, Host: m.Host, Claim: claim, Term: 1}),
			l.add(event.HostStream(m.HostID), "commissaire",
				event.HostInvestigated{Host: m.Host, Facts: facts("41.1")},
				event.HostBootstrapped{Host: m.Host, Profile: "flannel-docker"}),
			l.add(event.RosterStream, "commissaire", event.HostReleased{HostID: m.HostID, Host: m.Host, Claim: claim}),
		); err != nil {
			return err
		}
	}
	for n := 0; int(l.position) < events; n++ {
		c := clusters[n%len(clusters)]
		if err := l.upgrade(c, members[c.ClusterID], n); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) upgrade(c event.ClusterCreated, hosts []event.Member, n int) error {
	id := domain.OperationID(uuid.NewString())
	started := event.UpgradeStarted{Started: event.Started{Operation: id, ClusterID: c.ClusterID, Cluster: c.Cluster, Hosts: hosts, Policy: event.DefaultPolicy()}}
	if err := l.add(event.RosterStream, "admin", started); err != nil {
		return err
	}
	for _, m := range hosts {
		claim := domain.ClaimID(uuid.NewString())
		turn := event.Turn{Operation: id, HostID: m.HostID, Host: m.Host, Claim: claim}
		version := fmt.Sprintf("41.%d", n)
		if err := errors.Join(
			l.add(event.RosterStream, "commissaire", event.HostTaken{HostID: m.HostID, Host: m.Host, Claim: claim, Operation: id, Term: 1}),
			l.add(event.OperationStream(id), "commissaire",
				event.HostTurnBegun{Turn: turn, Term: 1}, event.HostTurnExamined{Turn: turn, BootID: string(claim), Version: "41.0"}),
			l.add(event.HostStream(m.HostID), "commissaire", event.HostInvestigated{Host: m.Host, Facts: facts(version)}),
			l.add(event.OperationStream(id), "commissaire", event.HostTurnSucceeded{Turn: turn, Version: version, BootID: string(claim)}),
			l.add(event.RosterStream, "commissaire", event.HostReleased{HostID: m.HostID, Host: m.Host, Claim: claim}),
		); err != nil {
			return err
		}
	}
	return l.add(event.RosterStream, "commissaire", event.OperationCompleted{Operation: id, ClusterID: c.ClusterID, Cluster: c.Cluster})
}

func facts(version string) event.Facts {
	return event.Facts{
		OS: "fedora", OSRelease: "fedora 41", Version: version, CPUs: 4, Memory: 8388608, Space: 62914560,
		Arch: "x86_64", BootID: "0b2c6b3a-7c3e-4a3f-9d0e-6f5a4b3c2d1e",
	}
}
