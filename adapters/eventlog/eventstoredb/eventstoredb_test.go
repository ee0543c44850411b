package eventstoredb_test

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/test/esdb"
	"commissaire/test/logtest"
)

func open(t *testing.T, connection string) eventlog.Store {
	t.Helper()
	store, err := eventstoredb.Open(connection, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestTheContractOfAStore(t *testing.T) {
	servers := map[string]*esdb.Server{}
	logtest.Run(t, func(t *testing.T, dir string) eventlog.Store {
		if servers[dir] == nil {
			servers[dir] = esdb.Start(t)
		}
		return open(t, servers[dir].ConnectionString())
	})
}

func TestTheContractOfAStoreOnARealServer(t *testing.T) {
	connection := os.Getenv("COMMISSAIRE_TEST_ESDB")
	if connection == "" {
		t.Skip("COMMISSAIRE_TEST_ESDB is not set: a real EventStoreDB is left out")
	}
	logtest.Run(t, func(t *testing.T, _ string) eventlog.Store { return open(t, connection) }, logtest.Shared)
}

func TestAConnectionStringThatIsNotUnderstoodIsNotRepeated(t *testing.T) {
	_, err := eventstoredb.Open("esdb://admin:hunter2@host:notaport", slog.New(slog.DiscardHandler))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open: %v", err)
	}
}
