package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

const credential = "00000000-0000-4000-8000-000000000001" // of all hosts

// address is that of the n-th host, from 0.
func address(n int) string { return fmt.Sprintf("127.%d.%d.%d", 1+n/64516, 1+n/254%254, 1+n%254) }

// write makes a store with a history as a service would have left it: hosts in
// clusters of 50, each investigated and bootstrapped, and then as many upgrades
// as it takes to come to the number of events; 0: none.
func (b *bench) write(ctx context.Context, store string, hosts, events int) error {
	return b.writeHistory(ctx, store, newHistory(), hosts, events)
}

func newHistory() *history {
	return &history{port: 22, perCluster: 50, revisions: map[event.Stream]event.Revision{}, now: time.Now().UTC().Add(-24 * time.Hour)}
}

func (b *bench) writeHistory(ctx context.Context, store string, h *history, hosts, events int) (err error) {
	dir := filepath.Join(b.dir, store)
	made, err := sqlite.Open(ctx, dir) // for its tables
	if err != nil {
		return err
	}
	if err := made.Close(); err != nil {
		return err
	}
	secrets, err := credentials.Open(ctx, dir, make([]byte, 32), time.Now)
	if err != nil {
		return err
	}
	if h.key == nil {
		if h.key, err = newKey(); err != nil {
			return err
		}
	}
	err = errors.Join(secrets.Store(ctx, credential, h.key), secrets.Close())
	if err != nil {
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
	h.record = func(raw eventlog.Raw) error {
		_, err := insert.ExecContext(ctx, int64(raw.Position), string(raw.Stream), int64(raw.Revision), raw.Type, raw.ID.String(), string(raw.Data), string(raw.Meta))
		return err
	}
	if err := h.tell(hosts, events); err != nil {
		return err
	}
	return tx.Commit()
}

func newKey() (commands.Secret, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

type history struct {
	port       int
	perCluster int // hosts
	key        commands.Secret
	record     func(eventlog.Raw) error
	position   event.Position
	revisions  map[event.Stream]event.Revision
	now        time.Time
}

func (h *history) add(stream event.Stream, actor string, events ...event.Event) error {
	request := uuid.NewString()
	for _, e := range events {
		h.position++
		h.now = h.now.Add(time.Millisecond)
		raw, err := eventlog.Encode(stream, event.Decided{ID: uuid.New(), Event: e, Meta: event.Meta{
			Correlation: request, Causation: request, Time: h.now, Actor: actor, Instance: "bench", Schema: 1,
		}})
		if err != nil {
			return err
		}
		raw.Position, raw.Revision = h.position, h.revisions[stream]
		h.revisions[stream]++
		if err := h.record(raw); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) tell(hosts, events int) error {
	var clusters []event.ClusterCreated
	members := map[domain.ClusterID][]event.Member{}
	for i := range hosts {
		if i%h.perCluster == 0 {
			c := event.ClusterCreated{ClusterID: domain.ClusterID(uuid.NewString()), Cluster: domain.ClusterName(fmt.Sprintf("cluster-%d", i/h.perCluster)), Network: "default"}
			clusters = append(clusters, c)
			if err := h.add(event.RosterStream, "admin", c); err != nil {
				return err
			}
		}
		c := clusters[len(clusters)-1]
		m := event.Member{HostID: domain.HostID(uuid.NewString()), Host: domain.Address(address(i))}
		members[c.ClusterID] = append(members[c.ClusterID], m)
		claim := domain.ClaimID(uuid.NewString())
		if err := errors.Join(
			h.add(event.RosterStream, "admin",
				event.HostAdded{HostID: m.HostID, Host: m.Host, RemoteUser: "root", Credential: credential, Fingerprint: "SHA256:bench", Port: h.port},
				event.HostJoined{HostID: m.HostID, Host: m.Host, ClusterID: c.ClusterID, Cluster: c.Cluster},
				event.HostTaken{HostID: m.HostID, Host: m.Host, Claim: claim, Term: 1}),
			h.add(event.HostStream(m.HostID), "commissaire",
				event.HostInvestigated{Host: m.Host, Facts: facts("41.1")},
				event.HostBootstrapped{Host: m.Host, Profile: "flannel-docker"}),
			h.add(event.RosterStream, "commissaire", event.HostReleased{HostID: m.HostID, Host: m.Host, Claim: claim}),
		); err != nil {
			return err
		}
	}
	for n := 0; int(h.position) < events; n++ {
		c := clusters[n%len(clusters)]
		if err := h.upgrade(c, members[c.ClusterID], n); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) upgrade(c event.ClusterCreated, hosts []event.Member, n int) error {
	id := domain.OperationID(uuid.NewString())
	started := event.UpgradeStarted{Started: event.Started{Operation: id, ClusterID: c.ClusterID, Cluster: c.Cluster, Hosts: hosts, Policy: event.DefaultPolicy()}}
	if err := h.add(event.RosterStream, "admin", started); err != nil {
		return err
	}
	for _, m := range hosts {
		claim := domain.ClaimID(uuid.NewString())
		turn := event.Turn{Operation: id, HostID: m.HostID, Host: m.Host, Claim: claim}
		version := fmt.Sprintf("41.%d", n)
		if err := errors.Join(
			h.add(event.RosterStream, "commissaire", event.HostTaken{HostID: m.HostID, Host: m.Host, Claim: claim, Operation: id, Term: 1}),
			h.add(event.OperationStream(id), "commissaire",
				event.HostTurnBegun{Turn: turn, Term: 1}, event.HostTurnExamined{Turn: turn, BootID: string(claim), Version: "41.0"}),
			h.add(event.HostStream(m.HostID), "commissaire", event.HostInvestigated{Host: m.Host, Facts: facts(version)}),
			h.add(event.OperationStream(id), "commissaire", event.HostTurnSucceeded{Turn: turn, Version: version, BootID: string(claim)}),
			h.add(event.RosterStream, "commissaire", event.HostReleased{HostID: m.HostID, Host: m.Host, Claim: claim}),
		); err != nil {
			return err
		}
	}
	return h.add(event.RosterStream, "commissaire", event.OperationCompleted{Operation: id, ClusterID: c.ClusterID, Cluster: c.Cluster})
}

func facts(version string) event.Facts {
	return event.Facts{
		OS: "fedora", OSRelease: "fedora 41", Version: version, CPUs: 4, Memory: 8388608, Space: 62914560,
		Arch: "x86_64", BootID: "0b2c6b3a-7c3e-4a3f-9d0e-6f5a4b3c2d1e",
	}
}
