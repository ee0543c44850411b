package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/esdb"
	"commissaire/test/fleet"
)

// outcome is how a run of migrate ended.
type outcome struct {
	t    *testing.T
	out  string // what it printed as its answer
	said string // and on standard error
	code int    // -1: it was killed
}

// migrate is the program, about to copy a store.
func migrate(t *testing.T, args ...string) (*exec.Cmd, func() outcome) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, append([]string{"migrate", "--config", "-", "-o", "json", "--credentials.master-key", "env:TEST_MASTER_KEY"}, args...)...)
	cmd.Stdin = strings.NewReader("{}")
	cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+masterKey)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, func() outcome {
		t.Helper()
		err := cmd.Wait()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			t.Fatal(err)
		}
		return outcome{t, out.String(), said.String(), cmd.ProcessState.ExitCode()}
	}
}

// migrated copies a store and checks how many events and credentials there are
// then, and how many were copied.
func migrated(t *testing.T, events, copied, credentials, credentialsCopied int, args ...string) {
	t.Helper()
	_, wait := migrate(t, args...)
	o := wait()
	want := fmt.Sprintf(`{"events":%d,"events_copied":%d,"credentials":%d,"credentials_copied":%d}`, events, copied, credentials, credentialsCopied)
	if o.code != 0 || strings.TrimSpace(o.out) != want || o.said != "" {
		t.Fatalf("migrate %q ended with %d: %q, %q; want %s", args, o.code, o.out, o.said, want)
	}
}

func (o outcome) fails(code int, with string) {
	o.t.Helper()
	if o.code != code || o.out != "" || !strings.Contains(o.said, with) || strings.Count(o.said, "\n") != 1 {
		o.t.Errorf("it ended with %d: %q, %q; want %d and %q", o.code, o.out, o.said, code, with)
	}
}

// migrates says why a test of migrating does not run on one store or the other.
const migrates = "it brings both stores with it, whatever others record in"

// filled makes a SQLite store of n events, on streams that take turns, and some
// credentials.
func filled(t *testing.T, dir string, n, secrets int) {
	t.Helper()
	log, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	all := make([]eventlog.Raw, n)
	for i := range all {
		all[i] = eventlog.Raw{
			Stream: event.Stream(fmt.Sprint("host-", i%500)), Revision: event.Revision(i / 500),
			ID: uuid.New(), Type: "HostAnswered", Data: fmt.Appendf(nil, `{"host":"127.0.0.1","n":%d}`, i), Meta: []byte(`{"schema":1}`),
		}
	}
	if err := log.AppendAll(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	store, err := credentials.Open(t.Context(), dir, bytes.Repeat([]byte{7}, 32), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	for i := range secrets {
		if err := store.Store(t.Context(), domain.CredentialID(fmt.Sprint("credential", i)), []byte(fmt.Sprint("the secret of ", i))); err != nil {
			t.Fatal(err)
		}
	}
}

// events is how many a server has.
func events(t *testing.T, connection string, enough int) (n int) {
	t.Helper()
	store, err := eventstoredb.Open(connection, slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	for batch, err := range store.Follow(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if n += len(batch); n >= enough {
			break
		}
	}
	return n
}

// shown is what a service answers, but for what is of the moment.
func (s *service) shown(paths ...string) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, path := range paths {
		all[path] = string(s.get(path).is(200).body)
	}
	return all
}

// count is how many events and credentials the store of a stopped service has.
func (s *service) count() (events, secrets int) {
	s.t.Helper()
	log, err := sqlite.Open(s.t.Context(), filepath.Join(s.dir, "store"))
	if err != nil {
		s.t.Fatal(err)
	}
	head, err := log.Head(s.t.Context())
	if err := errors.Join(err, log.Close()); err != nil {
		s.t.Fatal(err)
	}
	store, err := credentials.Open(s.t.Context(), filepath.Join(s.dir, "store"), bytes.Repeat([]byte{7}, 32), time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := store.List(s.t.Context())
	if err := errors.Join(err, store.Close()); err != nil {
		s.t.Fatal(err)
	}
	return int(head), len(list)
}

func TestAStoreThatWasMigratedThereAndBackAnswersTheSame(t *testing.T) {
	onSQLite(t, migrates)
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.31.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.31.2", OS: fleet.Atomic, Version: "41.1", Next: "41.2"},
		fleet.Spec{Address: "127.0.31.3", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
	)
	s := newService(t, map[string]any{"watch.interval": "1h"})
	s.join(f, body)
	s.put("/containermanager/m", `{"options":{"server_url":"https://127.0.31.9:1","token":"a-token-that-is-nowhere"}}`).is(201)
	s.put("/network/n", nil).is(201)
	s.put("/cluster/c/upgrade", `{"max_failures": 1}`, "X-Commissaire-Reason", "because – é").is(201)
	s.until("/cluster/c/upgrade", status("finished"))
	s.delete("/cluster/c/hosts/127.0.31.3").is(200)
	s.delete("/host/127.0.31.3").is(200)
	paths := []string{"/clusters", "/cluster/c", "/cluster/c/hosts", "/cluster/c/upgrade", "/cluster/c/history", "/hosts", "/networks", "/network/n", "/containermanagers", "/containermanager/m", "/operations"}
	for _, h := range []string{"/host/127.0.31.1", "/host/127.0.31.2"} {
		paths = append(paths, h, h+"/creds", h+"/history")
	}
	s.shown("/host/127.0.31.1/creds", "/host/127.0.31.2/creds") // who reads them is recorded
	before := s.shown(paths...)
	s.stop(syscall.SIGTERM)
	n, secrets := s.count()

	connection, keys := esdb.Start(t).ConnectionString(), "file:"+filepath.Join(s.dir, "keys")
	original := "sqlite:" + filepath.Join(s.dir, "store")
	there := []string{"--from", original, "--to", connection, "--to-keys", keys}
	migrated(t, n, n, secrets, secrets, there...)
	migrated(t, n, 0, secrets, 0, there...)
	moved := s.dir + "/moved"
	back := []string{"--from", connection, "--from-keys", keys, "--to", "sqlite:" + moved}
	migrated(t, n, n, secrets, secrets, back...)
	direct := s.dir + "/direct"
	migrated(t, n, n, secrets, secrets, "--from", original, "--to", "sqlite:"+direct)

	for _, dir := range []string{moved, direct} {
		if err := os.RemoveAll(filepath.Join(s.dir, "store")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir, filepath.Join(s.dir, "store")); err != nil {
			t.Fatal(err)
		}
		s.start()
		after := s.shown(paths...)
		for _, path := range paths {
			// Each look at credentials is one more entry of the host's history.
			if strings.HasSuffix(path, "/history") && strings.HasPrefix(path, "/host") {
				var was, is []any
				if err := errors.Join(json.Unmarshal([]byte(before[path]), &was), json.Unmarshal([]byte(after[path]), &is)); err != nil {
					t.Fatal(err)
				}
				if len(was) == 0 || len(is) < len(was) || !slices.EqualFunc(was, is[:len(was)], func(a, b any) bool { return sprint(a) == sprint(b) }) && !slices.EqualFunc(was, is[len(is)-len(was):], func(a, b any) bool { return sprint(a) == sprint(b) }) {
					t.Errorf("%s: %s became %s", path, before[path], after[path])
				}
				continue
			}
			if after[path] != before[path] {
				t.Errorf("%s: %s became %s", path, before[path], after[path])
			}
		}
		s.put("/cluster/new", nil).is(201)
		s.stop(syscall.SIGTERM)
	}
}

func TestAMigrationThatIsKilledGoesOn(t *testing.T) {
	onSQLite(t, migrates)
	const n, secrets = 4000, 40
	dir := t.TempDir()
	filled(t, filepath.Join(dir, "store"), n, secrets)
	connection := esdb.Start(t).ConnectionString()
	args := []string{"--from", "sqlite:" + filepath.Join(dir, "store"), "--to", connection, "--to-keys", "file:" + filepath.Join(dir, "keys")}
	killed := 0
	for enough := 1; enough < n; enough += 1200 {
		cmd, wait := migrate(t, args...)
		events(t, connection, enough)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if wait().code == -1 {
			killed++
		}
	}
	if killed < 2 {
		t.Fatalf("it was killed %d times only", killed)
	}
	cmd, wait := migrate(t, args...)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if o := wait(); o.code > 0 { // it may have been faster than the handler of the signal
		o.fails(130, "the copy is incomplete")
	}
	_, wait = migrate(t, args...)
	if o := wait(); o.code != 0 || !strings.Contains(o.out, fmt.Sprintf(`{"events":%d,`, n)) || !strings.Contains(o.out, fmt.Sprintf(`"credentials":%d,`, secrets)) {
		t.Fatalf("%+v", o)
	}
	if got := events(t, connection, n); got != n {
		t.Errorf("there are %d events, want %d", got, n)
	}
	migrated(t, n, 0, secrets, 0, args...)
}

func TestAMigrationToAStoreWithOtherEventsIsRefused(t *testing.T) {
	onSQLite(t, migrates)
	dir := t.TempDir()
	source, keys := filepath.Join(dir, "store"), filepath.Join(dir, "keys")
	filled(t, source, 20, 2)
	connection := esdb.Start(t).ConnectionString()
	store, err := eventstoredb.Open(connection, slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Append(t.Context(), "roster", event.NoRevision, []eventlog.Raw{{ID: uuid.New(), Type: "ClusterCreated", Data: []byte("{}"), Meta: []byte("{}")}})
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	_, wait := migrate(t, "--from", "sqlite:"+source, "--to", connection, "--to-keys", "file:"+keys)
	wait().fails(1, "the target has events that are not the source's: event 1 differs in its stream")
	if n := events(t, connection, 1); n != 1 {
		t.Errorf("there are %d events", n)
	}
	if _, err := os.Stat(keys); err == nil {
		t.Error("keys were kept")
	}
}

func TestACorruptedCopyIsFound(t *testing.T) {
	onSQLite(t, migrates)
	dir := t.TempDir()
	filled(t, filepath.Join(dir, "store"), 20, 2)
	args := []string{"--from", "sqlite:" + filepath.Join(dir, "store"), "--to", "sqlite:" + filepath.Join(dir, "copy")}
	migrated(t, 20, 20, 2, 2, args...)
	path := filepath.Join(dir, "copy", "events.db")
	in(t, path, "UPDATE events SET data = replace(data, '127.0.0.1', '127.0.0.2') WHERE pos = 13")
	_, wait := migrate(t, args...)
	wait().fails(1, "event 13 differs in its data")
	in(t, path, "UPDATE events SET data = replace(data, '127.0.0.2', '127.0.0.1') WHERE pos = 13")
	secret := filepath.Join(dir, "copy", "credentials.db")
	in(t, secret, "UPDATE credentials SET sealed = zeroblob(64) WHERE id = 'credential1'")
	_, wait = migrate(t, args...)
	wait().fails(1, "credential1")
	in(t, secret, "DELETE FROM credentials WHERE id = 'credential1'")
	migrated(t, 20, 0, 2, 1, args...)
}

func TestTheStoreOfARunningServiceIsNotMigrated(t *testing.T) {
	onSQLite(t, migrates)
	s := newService(t)
	_, wait := migrate(t, "--from", "sqlite:"+filepath.Join(s.dir, "store"), "--to", "sqlite:"+filepath.Join(s.dir, "copy"))
	wait().fails(1, "another process is using it; stop that one first")
	if _, err := os.Stat(filepath.Join(s.dir, "copy")); err == nil {
		t.Error("the target was made")
	}
}

func TestSecretsAreNowhereAfterAMigration(t *testing.T) {
	onSQLite(t, migrates)
	dir := t.TempDir()
	filled(t, filepath.Join(dir, "store"), 5, 3)
	all := secrets{"the master key": masterKey, "the master key itself": string(bytes.Repeat([]byte{7}, 32))}
	for i := range 3 {
		all[fmt.Sprint("secret ", i)] = fmt.Sprint("the secret of ", i)
	}
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("SQLITE_TMPDIR", temporary)
	connection, keys := esdb.Start(t).ConnectionString(), "file:"+filepath.Join(dir, "keys")
	var said []string
	for _, args := range [][]string{
		{"--from", "sqlite:" + filepath.Join(dir, "store"), "--to", connection, "--to-keys", keys},
		{"--from", connection, "--from-keys", keys, "--to", "sqlite:" + filepath.Join(dir, "copy")},
	} {
		_, wait := migrate(t, args...)
		o := wait()
		if o.code != 0 {
			t.Fatalf("%+v", o)
		}
		said = append(said, o.out, o.said)
	}
	for _, what := range all.in([]byte(strings.Join(said, "\n"))) {
		t.Errorf("it says %s", what)
	}
	if files := all.nowhere(t, dir); files < 8 {
		t.Errorf("only %d files were looked at", files)
	}
	if left := all.nowhere(t, temporary); left > 0 {
		t.Errorf("%d temporary files are left", left)
	}
	store, err := eventstoredb.Open(connection, slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	for i := range 3 {
		blob, err := store.Blob(t.Context(), domain.CredentialID(fmt.Sprint("credential", i)))
		if err != nil || len(all.in(blob)) > 0 || len(all.in([]byte(base64.StdEncoding.EncodeToString(blob)))) > 0 {
			t.Errorf("the blob has %v, %v", all.in(blob), err)
		}
	}
	if files := slices.Sorted(maps.Keys(tree(t, filepath.Join(dir, "keys")))); len(files) != 5 {
		t.Errorf("the keys are %v", files)
	}
}
