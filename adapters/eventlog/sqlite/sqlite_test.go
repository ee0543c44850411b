package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/commands"
	"commissaire/domain/event"
	"commissaire/test/logtest"
)

// childDir, when it is set, makes this test binary append there until it is killed.
const childDir = "COMMISSAIRE_TEST_APPEND"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		appendForEver(dir)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string) *sqlite.Store {
	t.Helper()
	store, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func closing(t testing.TB, store *sqlite.Store) {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

func raw(data string) []eventlog.Raw {
	return []eventlog.Raw{{ID: uuid.New(), Type: "HostAdded", Data: []byte(data), Meta: []byte(`{"schema":1}`)}}
}

// count fails unless a stream has no gap, and returns how many events it has.
func count(t *testing.T, store *sqlite.Store, stream event.Stream) int {
	t.Helper()
	n := 0
	for raw, err := range store.ReadStream(t.Context(), stream, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if raw.Revision != event.Revision(n) {
			t.Fatalf("%s has revision %d where %d belongs", stream, raw.Revision, n)
		}
		n++
	}
	return n
}

func TestTheContractOfAStore(t *testing.T) {
	logtest.Run(t, func(t *testing.T, dir string) eventlog.Store { return open(t, dir) })
}

// appendForEver appends to eight streams and prints each stream and revision
// once it is acknowledged.
func appendForEver(dir string) {
	store, err := sqlite.Open(context.Background(), dir)
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	var running sync.WaitGroup
	for i := range 8 {
		stream := event.Stream(fmt.Sprintf("host-%d", i))
		running.Go(func() {
			last := event.NoRevision
			for raw, err := range store.ReadStream(context.Background(), stream, 0) {
				if err != nil {
					return
				}
				last = raw.Revision
			}
			for ; ; last++ {
				if _, err := store.Append(context.Background(), stream, last, raw(`{}`)); err != nil {
					return
				}
				_, _ = fmt.Fprintf(os.Stdout, "%s %d\n", stream, last+1)
			}
		})
	}
	running.Wait()
	os.Exit(1)
}

func TestNothingAcknowledgedIsLostWhenTheProcessIsKilled(t *testing.T) {
	dir := t.TempDir()
	acked := map[event.Stream]event.Revision{}
	for round := range 5 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var stream event.Stream
			var rev event.Revision
			if _, err := fmt.Sscanf(lines.Text(), "%s %d", &stream, &rev); err != nil {
				t.Fatalf("the child says %q", lines.Text())
			}
			acked[stream] = max(acked[stream], rev)
			if n == 200+100*round {
				if err := child.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the child ended with %v", err)
		}
		store := open(t, dir)
		total := 0
		for stream, rev := range acked {
			n := count(t, store, stream)
			if n < int(rev)+1 {
				t.Errorf("%s has %d events, %d were acknowledged", stream, n, rev+1)
			}
			total += n
		}
		if head, err := store.Head(t.Context()); err != nil || int(head) != total {
			t.Errorf("the head is %d, %v; there are %d events", head, err, total)
		}
		closing(t, store)
	}
	t.Logf("acknowledged: %v", acked)
}

func TestWhatCannotBeOpenedIsRefusedAndNotTouched(t *testing.T) {
	for _, test := range []struct {
		name, want string
		make       func(t *testing.T, dir string)
	}{
		{"a text", "no SQLite database", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "events.db"), strings.Repeat("not a database ", 20))
		}},
		{"a short text", "no SQLite database", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "events.db"), "x") }},
		{"a database of something else", "no event log", func(t *testing.T, dir string) {
			execute(t, dir, "CREATE TABLE pets (name TEXT)")
		}},
		{"a database of something else with a write-ahead log", "no event log", func(t *testing.T, dir string) {
			execute(t, dir, "PRAGMA journal_mode = WAL; CREATE TABLE pets (name TEXT)")
		}},
		{"one of something else in its first version", "no event log", func(t *testing.T, dir string) {
			execute(t, dir, "PRAGMA journal_mode = WAL; CREATE TABLE events (name TEXT); PRAGMA user_version = 1")
		}},
		{"a directory for the file", "is a directory", func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "events.db"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"a newer version", "is of version 99", func(t *testing.T, dir string) {
			closing(t, open(t, dir))
			execute(t, dir, "PRAGMA user_version = 99")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.make(t, dir)
			before := content(t, dir)
			_, err := sqlite.Open(t.Context(), dir)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Open: %v, want one line with %q", err, test.want)
			}
			if after := content(t, dir); !maps.Equal(after, before) {
				t.Errorf("the directory was changed: it has %v", slices.Sorted(maps.Keys(after)))
			}
		})
	}
	t.Run("a file for a directory", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		write(t, path, "x")
		if _, err := sqlite.Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("Open: %v", err)
		}
	})
	t.Run("a directory in use", func(t *testing.T) {
		dir := t.TempDir()
		store := open(t, dir)
		if _, err := sqlite.Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "is using it") {
			t.Errorf("a second Open: %v", err)
		}
		if _, err := store.Append(t.Context(), "roster", event.NoRevision, raw(`{}`)); err != nil {
			t.Error(err)
		}
		closing(t, store)
		closing(t, open(t, dir))
	})
}

// content is what is in a directory, by name; what is no file has none.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, entry := range entries {
		var text []byte
		if entry.Type().IsRegular() {
			if text, err = os.ReadFile(filepath.Join(dir, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
		all[entry.Name()] = string(text)
	}
	return all
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, dir, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "events.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOthersMayNotReadTheFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "log")
	store := open(t, dir)
	defer closing(t, store)
	if _, err := store.Append(t.Context(), "roster", event.NoRevision, raw(`{}`)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "events.db": 0o600, "events.db-wal": 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
}

func TestATornLastWriteIsRecovered(t *testing.T) {
	for name, tear := range map[string]func(wal []byte) []byte{
		"cut off": func(wal []byte) []byte { return wal[:len(wal)-100] },
		"garbled": func(wal []byte) []byte {
			for i := len(wal) - 100; i < len(wal); i++ {
				wal[i] ^= 0xff
			}
			return wal
		},
		"rubbish behind": func(wal []byte) []byte { return append(wal, strings.Repeat("rubbish", 1000)...) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, torn := t.TempDir(), t.TempDir()
			store := open(t, dir)
			defer closing(t, store)
			for rev := range event.Revision(20) {
				if _, err := store.Append(t.Context(), "roster", rev-1, raw(`{}`)); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{"events.db", "events.db-wal"} { // as a crash leaves them
				content, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				if file == "events.db-wal" {
					content = tear(content)
				}
				write(t, filepath.Join(torn, file), string(content))
			}
			recovered := open(t, torn)
			n := count(t, recovered, "roster")
			if want := map[bool]int{true: 20, false: 19}[name == "rubbish behind"]; n != want {
				t.Errorf("%d events, want %d", n, want)
			}
			if _, err := recovered.Append(t.Context(), "roster", event.Revision(n-1), raw(`{}`)); err != nil {
				t.Error(err)
			}
			closing(t, recovered)
			recovered = open(t, torn)
			defer closing(t, recovered)
			if again := count(t, recovered, "roster"); again != n+1 {
				t.Errorf("%d events after opening again, want %d", again, n+1)
			}
		})
	}
}

// A checkpoint writes the first page, which says how many there are, before the
// others: who looks at the file meanwhile, or after a kill, finds too few of them.
func TestAFileInTheMiddleOfACheckpointIsALog(t *testing.T) {
	live, whole := t.TempDir(), t.TempDir()
	store := open(t, live)
	for i := range 500 { // less than makes SQLite write a checkpoint
		if _, err := store.Append(t.Context(), "s", event.Revision(i-1), raw("{}")); err != nil {
			t.Fatal(err)
		}
	}
	killed := content(t, live)
	closing(t, store)
	write(t, filepath.Join(whole, sqlite.File), content(t, live)[sqlite.File])
	const pageSize = 4096
	before, after := killed[sqlite.File], content(t, whole)[sqlite.File]
	if len(before) >= len(after) {
		t.Fatalf("the file has %d bytes before the checkpoint, %d after", len(before), len(after))
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, sqlite.File), after[:pageSize]+before[min(pageSize, len(before)):])
	write(t, filepath.Join(dir, sqlite.File+"-wal"), killed[sqlite.File+"-wal"])
	reader, err := sqlite.OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	store = open(t, dir)
	defer closing(t, store)
	if n := count(t, store, "s"); n != 500 {
		t.Errorf("there are %d events, want 500", n)
	}
}

func TestAFullDiskRefusesAppendsAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("commissaire", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no small file system can be mounted (%v): the full disk is left out", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	store := open(t, dir)
	defer closing(t, store)
	ballast := filepath.Join(dir, "ballast")
	write(t, ballast, strings.Repeat("x", 256<<10))
	last := event.NoRevision
	big := `{"x":"` + strings.Repeat("x", 20_000) + `"}`
	var failure error
	for range 1000 {
		if _, failure = store.Append(t.Context(), "roster", last, raw(big)); failure != nil {
			break
		}
		last++
	}
	if !errors.Is(failure, commands.ErrUnavailable) {
		t.Fatalf("%d appends, then %v; want ErrUnavailable", last+1, failure)
	}
	if n := count(t, store, "roster"); n != int(last)+1 {
		t.Errorf("%d events are read while the disk is full, want %d", n, last+1)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Append(t.Context(), "roster", last, raw(big)); err != nil {
		t.Errorf("append when there is room again: %v", err)
	}
	if n := count(t, store, "roster"); n != int(last)+2 {
		t.Errorf("%d events, want %d", n, last+2)
	}
}

// beside opens the database of a store that is in use, as an operator would.
func beside(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "events.db")+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestOneAppendThatCannotBeRecordedDoesNotStopTheOthers(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer closing(t, store)
	db := beside(t, dir)
	if _, err := db.ExecContext(t.Context(), `CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.data = '"bad"'
		BEGIN SELECT RAISE(ABORT, 'it is bad'); END`); err != nil {
		t.Fatal(err)
	}
	busy, err := db.BeginTx(t.Context(), nil) // while it lasts, appends gather
	if err != nil {
		t.Fatal(err)
	}
	var running, begun sync.WaitGroup
	outcomes := make([]error, 40)
	for i := range outcomes {
		begun.Add(1)
		running.Go(func() {
			events := raw(`{}`)
			if i%10 == 7 {
				events = append(events, raw(`"bad"`)...)
			}
			begun.Done()
			_, outcomes[i] = store.Append(t.Context(), event.Stream(fmt.Sprintf("host-%d", i)), event.NoRevision, events)
		})
	}
	begun.Wait()
	if err := busy.Rollback(); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	for i, err := range outcomes {
		want := 1
		if i%10 == 7 {
			want = 0
			if !errors.Is(err, commands.ErrUnavailable) || !strings.Contains(err.Error(), "it is bad") {
				t.Errorf("the bad append %d: %v", i, err)
			}
		} else if err != nil {
			t.Errorf("the good append %d: %v", i, err)
		}
		if n := count(t, store, event.Stream(fmt.Sprintf("host-%d", i))); n != want {
			t.Errorf("stream %d has %d events, want %d", i, n, want)
		}
	}
	if head, err := store.Head(t.Context()); err != nil || head != 36 {
		t.Errorf("the head is %d, %v; want 36", head, err)
	}
}

func TestWhatWasRecordedByHandIsSeenAtTheNextAppend(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer closing(t, store)
	if _, err := store.Append(t.Context(), "roster", event.NoRevision, raw(`{}`)); err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	if _, err := beside(t, dir).ExecContext(t.Context(),
		`INSERT INTO events (pos, stream, rev, type, id, data, meta) VALUES (2, 'roster', 1, 'HostAdded', ?, '{}', '{"schema":1}')`, id.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Append(t.Context(), "roster", 0, raw(`{}`)); !errors.Is(err, commands.ErrConflict) {
		t.Errorf("an append where somebody else has appended: %v, want ErrConflict", err)
	}
	again := []eventlog.Raw{{ID: id, Type: "HostAdded", Data: []byte(`{}`), Meta: []byte(`{"schema":1}`)}}
	if pos, err := store.Append(t.Context(), "roster", 0, again); err != nil || pos != 2 {
		t.Errorf("appending what is there already: %d, %v; want 2", pos, err)
	}
	if pos, err := store.Append(t.Context(), "roster", 1, raw(`{}`)); err != nil || pos != 3 {
		t.Errorf("an append behind it: %d, %v; want 3", pos, err)
	}
	for batch, err := range store.Follow(t.Context(), 0) {
		if err != nil || len(batch) != 3 {
			t.Errorf("%d events, %v; want 3", len(batch), err)
		}
		break
	}
}

// TestCloseWaitsForReaders closes the store while many read: each read is whole
// or says that the store is closed.
func TestCloseWaitsForReaders(t *testing.T) {
	store := open(t, t.TempDir())
	const size = 300
	var all []eventlog.Raw
	for range size {
		all = append(all, raw(`{}`)...)
	}
	if _, err := store.Append(t.Context(), "roster", event.NoRevision, all); err != nil {
		t.Fatal(err)
	}
	var running, reading sync.WaitGroup
	for range 8 {
		reading.Add(1)
		hasRead := sync.OnceFunc(reading.Done)
		running.Go(func() {
			defer hasRead()
			for {
				n := 0
				for _, err := range store.ReadStream(t.Context(), "roster", 0) {
					if err == nil {
						n++
					} else if n > 0 || !strings.HasSuffix(err.Error(), "the event log is closed") {
						t.Errorf("after %d events: %v", n, err)
					}
				}
				if n == 0 {
					return
				}
				if n != size {
					t.Errorf("read %d events, want %d", n, size)
				}
				hasRead()
			}
		})
	}
	reading.Wait()
	closing(t, store)
	running.Wait()
}

func BenchmarkAppend(b *testing.B) {
	for _, appenders := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("appenders=%d", appenders), func(b *testing.B) {
			store := open(b, b.TempDir())
			defer closing(b, store)
			data := `{"host":"` + strings.Repeat("h", 200) + `"}`
			work := make(chan struct{}, appenders)
			var running sync.WaitGroup
			b.ResetTimer()
			for i := range appenders {
				stream := event.Stream(fmt.Sprintf("host-%d", i))
				running.Go(func() {
					last := event.NoRevision
					for range work {
						if _, err := store.Append(b.Context(), stream, last, raw(data)); err != nil {
							b.Error(err)
						}
						last++
					}
				})
			}
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			running.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkFollow(b *testing.B) {
	store := open(b, b.TempDir())
	defer closing(b, store)
	const size = 20_000
	last := event.NoRevision
	for range size / 500 {
		var batch []eventlog.Raw
		for range 500 {
			batch = append(batch, raw(`{"host":"`+strings.Repeat("h", 200)+`"}`)...)
		}
		if _, err := store.Append(b.Context(), "roster", last, batch); err != nil {
			b.Fatal(err)
		}
		last += 500
	}
	for b.Loop() {
		n := 0
		for batch, err := range eventlog.UpToHead(b.Context(), store.Follow(b.Context(), 0)) {
			if err != nil {
				b.Fatal(err)
			}
			n += len(batch)
		}
		if n != size {
			b.Fatalf("%d events, want %d", n, size)
		}
	}
	b.ReportMetric(float64(b.N)*size/b.Elapsed().Seconds(), "events/s")
}
