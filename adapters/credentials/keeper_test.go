package credentials_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/test/esdb"
)

// place is where credentials are kept: opened again, it has what it had.
type place func(ctx context.Context, master []byte) (*credentials.Store, error)

// places are all kinds of them, each new and empty. What is in memory is gone
// when it is opened again.
var places = map[string]func(t *testing.T) place{
	"memory": func(*testing.T) place { return inDir("") },
	"sqlite": func(t *testing.T) place { return inDir(t.TempDir()) },
	"key files": func(t *testing.T) place {
		return shared(keyFiles(t, filepath.Join(t.TempDir(), "keys")), blobs(t, esdb.Start(t).ConnectionString()))
	},
	"key command": func(t *testing.T) place {
		return shared(keyCommand(t, t.TempDir()), blobs(t, esdb.Start(t).ConnectionString()))
	},
}

func inDir(dir string) place {
	return func(ctx context.Context, master []byte) (*credentials.Store, error) {
		return credentials.Open(ctx, dir, master, clock)
	}
}

func shared(keys credentials.Keys, blobs credentials.Blobs) place {
	return func(ctx context.Context, master []byte) (*credentials.Store, error) {
		return credentials.OpenShared(ctx, keys, blobs, master, clock)
	}
}

func blobs(t *testing.T, connection string) credentials.Blobs {
	t.Helper()
	store, err := eventstoredb.Open(connection, slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func openKeys(t *testing.T, spec string) credentials.Keys {
	t.Helper()
	keys, err := credentials.OpenKeys(spec)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func keyFiles(t *testing.T, dir string) credentials.Keys { return openKeys(t, "file:"+dir) }

// keyCommand keeps keys by a script, as an operator might.
func keyCommand(t *testing.T, dir string) credentials.Keys {
	t.Helper()
	script := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(script, []byte(`#!/bin/sh
cd "$1" || exit
case $2 in
get) if [ -e "$3" ]; then cat "$3"; fi ;;
put) new=$(mktemp .XXXXXX) && cat >"$new" && ln "$new" "$3"; done=$?; rm "$new"; exit $done ;;
delete) rm -f "$3" ;;
list) ls ;;
*) exit 2 ;;
esac
`), 0o700); err != nil {
		t.Fatal(err)
	}
	return openKeys(t, fmt.Sprintf("exec:'%s' '%s'", script, dir))
}

// every runs a test on every kind of place, but memory unless it may be.
func every(t *testing.T, memory bool, test func(t *testing.T, p place)) {
	for name, make := range places {
		if memory || name != "memory" {
			t.Run(name, func(t *testing.T) { test(t, make(t)) })
		}
	}
}

func (p place) open(t *testing.T, master []byte) *credentials.Store {
	t.Helper()
	s, err := p(t.Context(), master)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func destroy(t *testing.T, s *credentials.Store, id domain.CredentialID) {
	t.Helper()
	if err := s.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func TestEveryKeeperKeepsTheSamePromises(t *testing.T) {
	every(t, true, func(t *testing.T, p place) {
		s := p.open(t, randomBytes(32))
		one, large := randomBytes(400), randomBytes(20_000) // the large one needs pages of its own
		store(t, s, "one", one)
		store(t, s, "large", large)
		mustRead(t, s, "one", one)
		mustRead(t, s, "large", large)
		if err := s.Store(t.Context(), "one", large); err == nil {
			t.Error("a second secret was kept under the same id")
		}
		mustRead(t, s, "one", one)

		stored, err := s.List(t.Context())
		if err != nil || len(stored) != 2 || !stored["one"].Equal(noon) || !stored["large"].Equal(noon) {
			t.Errorf("listed %v, %v", stored, err)
		}
		for range 2 { // may be repeated
			destroy(t, s, "one")
		}
		if _, err := s.Read(t.Context(), "one"); !errors.Is(err, commands.ErrNoCredential) {
			t.Errorf("read what was destroyed: %v", err)
		}
		mustRead(t, s, "large", large)
		if stored, err := s.List(t.Context()); err != nil || len(stored) != 1 {
			t.Errorf("listed %v, %v", stored, err)
		}
	})
}

func TestWhatIsKeptSurvivesCallersThatGoAway(t *testing.T) {
	every(t, true, func(t *testing.T, p place) {
		s := p.open(t, randomBytes(32))
		secret := randomBytes(100)
		store(t, s, "kept", secret)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Read(gone, "kept"); !errors.Is(err, context.Canceled) {
			t.Errorf("read for nobody: %v", err)
		}
		mustRead(t, s, "kept", secret)
		if err := s.Destroy(gone, "kept"); err != nil {
			t.Errorf("destroying was cancelled: %v", err)
		}
	})
}

func TestAWrongMasterKeyIsRefused(t *testing.T) {
	every(t, false, func(t *testing.T, p place) {
		master, secret := randomBytes(32), randomBytes(100)
		s := p.open(t, master)
		store(t, s, "host", secret)
		for _, wrong := range [][]byte{randomBytes(32), nil, master[:31]} {
			if _, err := p(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "master key") {
				t.Errorf("a master key of %d bytes: %v", len(wrong), err)
			}
		}
		mustRead(t, p.open(t, master), "host", secret)
	})
}

func TestAMissingCheckIsNotMadeAnew(t *testing.T) {
	every(t, false, func(t *testing.T, p place) {
		s := p.open(t, randomBytes(32))
		store(t, s, "host", randomBytes(100))
		destroy(t, s, "master-key-check")
		if _, err := p(t.Context(), randomBytes(32)); err == nil {
			t.Error("any master key is taken")
		}
	})
}

func TestInstancesThatStartAtOnceShareCredentials(t *testing.T) {
	for _, name := range []string{"key files", "key command"} {
		t.Run(name, func(t *testing.T) {
			p, master, secret := places[name](t), randomBytes(32), randomBytes(100)
			const n = 8
			var instances [n]*credentials.Store
			var failed [n]error
			var starting sync.WaitGroup
			for i := range n {
				starting.Go(func() {
					if instances[i], failed[i] = p(t.Context(), master); failed[i] == nil {
						failed[i] = instances[i].Store(t.Context(), domain.CredentialID(fmt.Sprint("of-", i)), secret)
					}
				})
			}
			starting.Wait()
			if err := errors.Join(failed[:]...); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				mustRead(t, instances[(i+1)%n], domain.CredentialID(fmt.Sprint("of-", i)), secret)
			}
			destroy(t, instances[0], "of-0")
			if stored, err := instances[1].List(t.Context()); err != nil || len(stored) != n-1 {
				t.Errorf("listed %v, %v", stored, err)
			}
		})
	}
}

func TestKeysOfAnotherStoreAreRefused(t *testing.T) {
	there := blobs(t, esdb.Start(t).ConnectionString())
	master := randomBytes(32)
	shared(keyFiles(t, filepath.Join(t.TempDir(), "keys")), there).open(t, master)
	_, err := shared(keyFiles(t, filepath.Join(t.TempDir(), "others")), there)(t.Context(), master)
	if err == nil || !strings.Contains(err.Error(), "credentials.keys") {
		t.Errorf("opened: %v", err)
	}
}

// stopping is keys and blobs that a caller is stopped at: at the call of a number,
// before or after it took effect, and at all later ones.
type stopping struct {
	credentials.Keys
	credentials.Blobs
	call  int
	after bool
	calls int
	mu    sync.Mutex
}

var errStopped = errors.New("stopped here")

func (s *stopping) run(f func() error) error {
	s.mu.Lock()
	n := s.calls
	s.calls++
	s.mu.Unlock()
	if n > s.call || n == s.call && !s.after {
		return errStopped
	}
	if err := f(); err != nil || n < s.call {
		return err
	}
	return errStopped
}

func (s *stopping) Put(ctx context.Context, name string, key []byte) error {
	return s.run(func() error { return s.Keys.Put(ctx, name, key) })
}

func (s *stopping) Delete(ctx context.Context, name string) error {
	return s.run(func() error { return s.Keys.Delete(ctx, name) })
}

func (s *stopping) PutBlob(ctx context.Context, id domain.CredentialID, sealed []byte) error {
	return s.run(func() error { return s.Blobs.PutBlob(ctx, id, sealed) })
}

func (s *stopping) DeleteBlob(ctx context.Context, id domain.CredentialID) error {
	return s.run(func() error { return s.Blobs.DeleteBlob(ctx, id) })
}

// TestWhoeverIsStoppedLeavesWhatCanBeDestroyed stops an instance at every change
// that it makes to keys and blobs.
func TestWhoeverIsStoppedLeavesWhatCanBeDestroyed(t *testing.T) {
	for what, act := range map[string]func(s *credentials.Store, id domain.CredentialID, secret []byte) error{
		"storing": func(s *credentials.Store, id domain.CredentialID, secret []byte) error {
			return s.Store(t.Context(), id, secret)
		},
		"destroying": func(s *credentials.Store, id domain.CredentialID, secret []byte) error {
			return errors.Join(s.Store(t.Context(), id, secret), s.Destroy(t.Context(), id))
		},
	} {
		keys := keyFiles(t, filepath.Join(t.TempDir(), "keys"))
		there := blobs(t, esdb.Start(t).ConnectionString())
		master, secret := randomBytes(32), randomBytes(100)
		healthy := shared(keys, there).open(t, master)
		steps := 0
		for ; ; steps++ {
			stopped := 0
			for _, after := range []bool{false, true} {
				id := domain.CredentialID(fmt.Sprintf("host-%d-%v", steps, after))
				name := fmt.Sprintf("%s, stopped at step %d, after it: %v", what, steps, after)
				breaking := &stopping{Keys: keys, Blobs: there, call: steps, after: after}
				s, err := credentials.OpenShared(t.Context(), breaking, breaking, master, clock)
				if err != nil {
					t.Fatal(err)
				}
				if err := act(s, id, secret); errors.Is(err, errStopped) {
					stopped++
				} else if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				got, err := healthy.Read(t.Context(), id)
				if err == nil && string(got) != string(secret) || err != nil && !errors.Is(err, commands.ErrNoCredential) {
					t.Errorf("%s: read %d bytes, %v", name, len(got), err)
				}
				stored, listErr := healthy.List(t.Context())
				if listErr != nil {
					t.Fatal(listErr)
				}
				if _, listed := stored[id]; err == nil && !listed {
					t.Errorf("%s: it can be read and is not listed", name)
				}
				for left := range stored {
					destroy(t, healthy, left)
				}
				if names, err := keys.List(t.Context()); err != nil || len(names) != 1 || names[0] != "master-key-check" {
					t.Errorf("%s: keys %v are left, %v", name, names, err)
				}
				if _, err := there.Blob(t.Context(), id); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: the blob is left: %v", name, err)
				}
			}
			if stopped == 0 {
				break
			}
		}
		if want := map[string]int{"storing": 2, "destroying": 6}[what]; steps != want {
			t.Errorf("%s has %d steps; was it stopped at each?", what, steps)
		}
	}
}

func TestAnInstanceStoppedWhileItMakesTheCheckStopsNoOther(t *testing.T) {
	for step := range 2 {
		for _, after := range []bool{false, true} {
			keys, there := keyFiles(t, filepath.Join(t.TempDir(), "keys")), blobs(t, esdb.Start(t).ConnectionString())
			master := randomBytes(32)
			breaking := &stopping{Keys: keys, Blobs: there, call: step, after: after}
			if _, err := credentials.OpenShared(t.Context(), breaking, breaking, master, clock); !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
			shared(keys, there).open(t, master)
			if _, err := shared(keys, there)(t.Context(), randomBytes(32)); err == nil || !strings.Contains(err.Error(), "the master key is not the one") {
				t.Errorf("step %d, %v: another master key: %v", step, after, err)
			}
		}
	}
}

func TestKeysThatWereTamperedWithOpenNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s := shared(keyFiles(t, dir), blobs(t, esdb.Start(t).ConnectionString())).open(t, randomBytes(32))
	marker := []byte("MARKER-MARKER-MARKER")
	store(t, s, "host", marker)
	store(t, s, "other", marker)
	good, err := os.ReadFile(filepath.Join(dir, "other.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"of another": good, "empty": nil, "overwritten": make([]byte, 100), "no key": []byte("{}"), "cut": good[:len(good)-10],
	} {
		if err := os.WriteFile(filepath.Join(dir, "host.key"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Read(t.Context(), "host")
		if err == nil || got != nil || errors.Is(err, commands.ErrNoCredential) || strings.Contains(err.Error(), string(marker)) {
			t.Errorf("%s: read %d bytes, %v", name, len(got), err)
		}
		if stored, err := s.List(t.Context()); err != nil || len(stored) != 2 {
			t.Errorf("%s: listed %v, %v", name, stored, err)
		}
	}
	destroy(t, s, "host")
	mustRead(t, s, "other", marker)
}

func TestKeyFilesAreForTheirOwnerAndGoWithoutATrace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s := shared(keyFiles(t, dir), blobs(t, esdb.Start(t).ConnectionString())).open(t, randomBytes(32))
	marker := []byte("MARKER-MARKER-MARKER")
	store(t, s, "host", marker)
	if found := inFiles(t, dir, marker); found != nil {
		t.Errorf("the secret is in %v", found)
	}
	path := filepath.Join(dir, "host.key")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info, err)
	}
	// As a process leaves it that is killed in the middle of putting it.
	left, elsewhere := path+".123.new", filepath.Join(t.TempDir(), "copy")
	for _, name := range []string{left, elsewhere} {
		if err := os.Link(path, name); err != nil {
			t.Fatal(err)
		}
	}
	destroy(t, s, "host")
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 || names[0].Name() != "master-key-check.key" {
		t.Errorf("%v are left, %v", names, err)
	}
	if text, err := os.ReadFile(elsewhere); err != nil || strings.Trim(string(text), "\x00") != "" {
		t.Errorf("it was not overwritten: %d bytes, %v", len(text), err)
	}
}

func TestKeyFilesThatWereAbandonedAreRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	keys := keyFiles(t, dir)
	for _, name := range []string{"old.key.1.new", "fresh.key.2.new", "mine.new"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "fresh.key.2.new" {
			if err := os.Chtimes(filepath.Join(dir, name), noon.AddDate(-20, 0, 0), noon.AddDate(-20, 0, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	keyFiles(t, dir)
	found := map[string]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		found[entry.Name()] = true
	}
	if want := map[string]bool{"fresh.key.2.new": true, "mine.new": true}; !maps.Equal(found, want) {
		t.Errorf("there are %v, want %v", found, want)
	}
	if names, err := keys.List(t.Context()); err != nil || len(names) > 0 {
		t.Errorf("listed %v, %v", names, err)
	}
}

func TestAPlaceForKeysThatIsNoneIsRefused(t *testing.T) {
	open := t.TempDir()
	if err := os.Chmod(open, 0o750); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"": "file:DIR", "file:": "file:DIR", "exec:": "exec:COMMAND", "/keys": "file:DIR", "env:KEYS": "file:DIR",
		"file:" + open: "chmod 700", "file:" + file: "no directory", "file:" + file + "/below/it": "not a directory",
	} {
		if _, err := credentials.OpenKeys(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q in it", spec, err, want)
		}
	}
	keys := keyFiles(t, filepath.Join(t.TempDir(), "keys"))
	for _, name := range []string{"", "..", "../other", ".hidden", "a/b", "a*", "a.b"} {
		_, err := keys.Get(t.Context(), name)
		if err := errors.Join(err, keys.Put(t.Context(), name, nil), keys.Delete(t.Context(), name)); err == nil || strings.Count(err.Error(), "cannot name a key") != 3 {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

func TestWhatTheKeyCommandPrintsIsNotTold(t *testing.T) {
	for command, want := range map[string]string{
		"echo MARKER; echo MARKER >&2; exit 3 #": "exit status 3",
		"echo '*MARKER*' #":                      "",
		"/nonexistent/MARKER-not-repeated":       "exit status 127",
	} {
		keys := openKeys(t, "exec:"+command)
		_, getErr := keys.Get(t.Context(), "name")
		_, listErr := keys.List(t.Context())
		for call, err := range map[string]error{"get": getErr, "list": listErr, "put": keys.Put(t.Context(), "name", []byte("MARKER"))} {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "MARKER") || !strings.Contains(err.Error(), "credentials.keys") {
				t.Errorf("%s: %s: %v; want %q in it", command, call, err, want)
			}
		}
	}
}

// fifo is one that nobody writes to.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAKeyCommandThatHangsIsLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := fifo(t)
	keys := openKeys(t, "exec:read forever <'"+path+"' #")
	done := make(chan error)
	go func() {
		_, err := keys.Get(ctx, "name")
		done <- err
	}()
	waits, err := os.OpenFile(path, os.O_WRONLY, 0) // it is opened when the command has begun to read
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waits.Close() }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
