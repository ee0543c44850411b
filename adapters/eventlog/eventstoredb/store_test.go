package eventstoredb

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
	"commissaire/test/esdb"
	"commissaire/test/logtest"
)

// quick are times for tests in which a server fails.
var quick = times{
	append: 10 * time.Second, attempt: 500 * time.Millisecond, settle: 2 * time.Second,
	connect: 300 * time.Millisecond, open: 200 * time.Millisecond, discover: 10 * time.Millisecond,
}

func opened(t *testing.T, connection string, options Options, times times) *Store {
	t.Helper()
	store, err := open(connection, slog.New(slog.DiscardHandler), options, times)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return store
}

func events(n int) []eventlog.Raw {
	raws := make([]eventlog.Raw, n)
	for i := range raws {
		raws[i] = eventlog.Raw{ID: uuid.New(), Type: "HostAdded", Data: fmt.Appendf(nil, `{"n":%d}`, i), Meta: []byte(`{}`)}
	}
	return raws
}

func appended(t *testing.T, store *Store, stream event.Stream, expected event.Revision, raws []eventlog.Raw) event.Position {
	t.Helper()
	pos, err := store.Append(t.Context(), stream, expected, raws)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return pos
}

func ids(raws []eventlog.Raw) []uuid.UUID {
	all := make([]uuid.UUID, len(raws))
	for i, raw := range raws {
		all[i] = raw.ID
	}
	return all
}

func stream(t *testing.T, store *Store, name event.Stream) []eventlog.Raw {
	t.Helper()
	var raws []eventlog.Raw
	for raw, err := range store.ReadStream(t.Context(), name, 0) {
		if err != nil {
			t.Fatalf("ReadStream: %v", err)
		}
		raws = append(raws, raw)
	}
	return raws
}

// backlog is what comes after a position, as far as the head.
func backlog(t *testing.T, store *Store, after event.Position) []eventlog.Raw {
	t.Helper()
	var raws []eventlog.Raw
	for batch, err := range eventlog.UpToHead(t.Context(), store.Follow(t.Context(), after)) {
		if err != nil {
			t.Fatalf("Follow: %v", err)
		}
		raws = append(raws, batch...)
	}
	return raws
}

// eventually fails unless a condition comes true. What it looks at cannot be
// waited for: goroutines and connections of libraries.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	for tick := time.Tick(5 * time.Millisecond); !condition(); {
		select {
		case <-tick:
		case <-ctx.Done():
			stacks := make([]byte, 1<<20)
			t.Fatalf("not within 30 s: %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// contract runs the suite on one server. Each log has a prefix of its own there.
func contract(t *testing.T, connection string) {
	prefixes := map[string]string{}
	logtest.Run(t, func(t *testing.T, dir string) eventlog.Store {
		if prefixes[dir] == "" {
			prefixes[dir] = "t" + rand.Text() + "-"
		}
		store, err := Open(connection, slog.New(slog.DiscardHandler), Options{Prefix: prefixes[dir]})
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

func TestTheContractOfAStore(t *testing.T) {
	contract(t, esdb.Start(t).ConnectionString())
}

func TestTheContractOfAStoreOnARealServer(t *testing.T) {
	connection := os.Getenv("COMMISSAIRE_TEST_ESDB")
	if connection == "" {
		t.Skip("COMMISSAIRE_TEST_ESDB is not set: a real EventStoreDB is left out")
	}
	contract(t, connection)
}

func TestAConnectionStringThatIsNotUnderstoodIsNotRepeated(t *testing.T) {
	for _, connection := range []string{
		"esdb://admin:hunter2@host:notaport",
		"esdb://admin:1234?hunter2=x@host:2113",
		"esdb://admin:x@host:2113?tlsCaFile=/hunter2",
		"esdb://admin:x@host:2113?%zzhunter2",
		"http://admin:hunter2@host",
		"esdb://host:2113?gossipTimeout=0",
	} {
		store, err := Open(connection, slog.New(slog.DiscardHandler), Options{})
		if err == nil {
			t.Errorf("%s is understood", connection)
			store.Close()
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open: %v", err)
		}
	}
}

func TestNoPrefixBeginsWithAnother(t *testing.T) {
	for prefix, fine := range map[string]bool{
		"": true, "berlin-": true, "a.b_C9-": true,
		"berlin": false, "-": false, "a-b-": false, "$a-": false, "ä-": false, "a -": false,
	} {
		store, err := Open("esdb://host:2113", slog.New(slog.DiscardHandler), Options{Prefix: prefix})
		if (err == nil) != fine {
			t.Errorf("prefix %q: %v", prefix, err)
		}
		if store != nil {
			store.Close()
		}
	}
}
