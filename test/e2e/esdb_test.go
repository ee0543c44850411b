package e2e

import (
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/domain/event"
	"commissaire/test/esdb"
)

var storeKind = flag.String("store", "sqlite", "where services record: sqlite, or esdb for a double of EventStoreDB each, which outlives their restarts")

// onSQLite leaves out a test on another store, for a reason.
func onSQLite(t *testing.T, why string) {
	t.Helper()
	if *storeKind != "sqlite" {
		t.Skip("on SQLite only: " + why)
	}
}

// exists tells whether there is anything at a path.
func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// onDouble gives a service that was not started a double of EventStoreDB to
// record in, whatever the others do.
func (s *service) onDouble() {
	s.t.Helper()
	s.esdb = esdb.Start(s.t)
	s.configure(map[string]any{
		"store": s.esdb.ConnectionString(), "credentials.keys": "file:" + filepath.Join(s.dir, "keys"),
		"operations.output-dir": filepath.Join(s.dir, "output"),
	})
}

// newOnDouble starts the program on a double of EventStoreDB, whatever the others do.
func newOnDouble(t *testing.T, settings ...map[string]any) *service {
	t.Helper()
	s := unstarted(t)
	if s.esdb == nil {
		s.onDouble()
	}
	s.configure(settings...)
	s.start()
	t.Cleanup(func() { s.stop(syscall.SIGKILL) })
	return s
}

// inDouble does something with the event log of a service on a double.
func (s *service) inDouble(do func(*eventstoredb.Store) error) {
	s.t.Helper()
	store, err := eventstoredb.Open(s.esdb.ConnectionString(), slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err == nil {
		err = errors.Join(do(store), store.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// inOrder gives all events of a service on a double to a function.
func (s *service) inOrder(do func(eventlog.Raw)) {
	s.t.Helper()
	s.inDouble(func(store *eventstoredb.Store) error {
		for batch, err := range eventlog.UpToHead(s.t.Context(), store.Follow(s.t.Context(), 0)) {
			if err != nil {
				return err
			}
			for _, raw := range batch {
				do(raw)
			}
		}
		return nil
	})
}

// unheardOfInDouble records an event of a type that nobody knows and returns its position.
func (s *service) unheardOfInDouble() (pos event.Position) {
	s.t.Helper()
	s.inDouble(func(store *eventstoredb.Store) (err error) {
		pos, err = store.Append(s.t.Context(), "later", event.NoRevision, []eventlog.Raw{
			{ID: uuid.New(), Type: "HostTeleported", Data: []byte(`{}`), Meta: []byte(`{"schema":1}`)},
		})
		return err
	})
	return pos
}
