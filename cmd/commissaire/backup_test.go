package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/store"
	"commissaire/domain"
	"commissaire/domain/event"
)

// does runs a command and returns what it printed, in JSON.
func does(ctx context.Context, cmd *cobra.Command, arguments ...string) (done archive.Copied, err error) {
	var out bytes.Buffer
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&out)
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetIn(strings.NewReader("{}"))
	cmd.SetArgs(append([]string{"--config", "-", "-o", "json"}, arguments...))
	if err := cmd.ExecuteContext(ctx); err != nil {
		return done, err
	}
	return done, json.Unmarshal(out.Bytes(), &done)
}

// keptStore is a store with a history of ten hosts, each with a credential but the
// last; it is in use until the test ends. root is an empty directory beside it.
func keptStore(t *testing.T) (root, dir, master string) {
	t.Helper()
	dir, log := aStore(t, 10)
	root = t.TempDir()
	key := bytes.Repeat([]byte{7}, 32)
	master = filepath.Join(t.TempDir(), "master")
	if err := os.WriteFile(master, key, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := credentials.Open(t.Context(), dir, key, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	for i := range 10 {
		id := domain.CredentialID(fmt.Sprint("credential", i))
		if i < 9 {
			if err := store.Store(t.Context(), id, []byte(fmt.Sprint("the secret of ", i))); err != nil {
				t.Fatal(err)
			}
		}
		added, err := eventlog.Encode(event.RosterStream, event.Decided{ID: uuid.New(), Event: event.HostAdded{
			HostID: domain.HostID(id), Host: domain.Address(fmt.Sprint("10.0.1.", i)), Credential: id,
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Append(t.Context(), event.RosterStream, event.Revision(21+i), []eventlog.Raw{added}); err != nil {
			t.Fatal(err)
		}
	}
	return root, dir, "file:" + master
}

func TestAStoreInUseIsBackedUpAndRestored(t *testing.T) {
	root, dir, master := keptStore(t)
	in := func(name string) string { return filepath.Join(root, name) }
	before := contents(t, dir)
	b, err := does(t.Context(), backupCommand(), "--store", "sqlite:"+dir, "--credentials.master-key", master, "--credentials", in("keys"), in("log"))
	if err != nil {
		t.Fatal(err)
	}
	if int(b.Events) != len(before) || int(b.Position) != len(before) || *b.Credentials != 9 || !b.Opened || !slices.Equal(b.Missing, []domain.CredentialID{"credential9"}) {
		t.Errorf("%+v", b)
	}
	for path, want := range map[string]string{"log": "backup.json events.db", "keys": "backup.json credentials.db"} {
		if got := strings.Join(names(t, in(path)), " "); got != want {
			t.Errorf("%s has %s", path, got)
		}
	}
	_, clean, report := findings(t, "--store", "sqlite:"+in("log"))
	if !clean || int(report.Events) != len(before) {
		t.Errorf("verify says of the backup: %+v", report)
	}
	if err := os.Mkdir(in("there"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new", "there"} {
		r, err := does(t.Context(), restoreCommand(), "--store", "sqlite:"+in(name), "--credentials.master-key", master, "--credentials", in("keys"), in("log"))
		if err != nil {
			t.Fatal(err)
		}
		if r.LogState != b.LogState || *r.Credentials != 9 || !slices.Equal(r.Missing, b.Missing) {
			t.Errorf("backed up %+v, restored %+v", b, r)
		}
		equal(t, contents(t, in(name)), before)
		store, err := credentials.Open(t.Context(), in(name), bytes.Repeat([]byte{7}, 32), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if secret, err := store.Read(t.Context(), "credential3"); err != nil || string(secret) != "the secret of 3" {
			t.Errorf("%q, %v", secret, err)
		}
		log, err := sqlite.Open(t.Context(), in(name))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now().Add(-time.Hour).Unix()
		if _, term, err := log.Lead(t.Context(), 0); err != nil || int64(term) < began {
			t.Errorf("the first term is %d, %v: hosts may have seen a later one", term, err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	r, err := does(t.Context(), restoreCommand(), "--store", "sqlite:"+in("bare"), in("log"))
	if err != nil || r.Credentials != nil || len(r.Missing) != 10 {
		t.Errorf("without credentials: %+v, %v", r, err)
	}
}

// names are those of what is in a directory.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

func TestABackupThatCannotBeMeantIsRefused(t *testing.T) {
	root, dir, master := keptStore(t)
	in := func(name string) string { return filepath.Join(root, name) }
	if err := os.Mkdir(in("there"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, in("linked")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, bytes.Repeat([]byte{8}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	store := "sqlite:" + dir
	for _, c := range []struct {
		want      string
		arguments []string
	}{
		{"is there already", []string{"--store", store, in("there")}},
		{"is there already", []string{"--store", store, "--credentials", in("there"), in("log")}},
		{"no such file", []string{"--store", store, in("none/log")}},
		{"lies in the store's directory", []string{"--store", store, filepath.Join(dir, "log")}},
		{"lies in the store's directory", []string{"--store", store, in("linked/log")}},
		{"lies in the store's directory", []string{"--store", "sqlite:" + in("linked"), "--credentials", filepath.Join(dir, "keys"), in("log")}},
		{"must lie apart", []string{"--store", store, "--credentials", in("there/../log"), in("log")}},
		{"no such file", []string{"--store", store, "--credentials", in("log/keys"), in("log")}},
		{"no such file", []string{"--store", "sqlite:" + in("none"), in("log")}},
		{"no such file", []string{"--store", "sqlite:" + in("there"), in("log")}},
		{"EventStoreDB is backed up", []string{"--store", "esdb://a:PASSWORD@b", in("log")}},
		{"ends with the service", []string{"--store", "memory:", in("log")}},
		{"the master key is not the one", []string{"--store", store, "--credentials.master-key", "file:" + other, "--credentials", in("keys"), in("log")}},
		{"the log has what cannot be read, which is no sign that it was changed; the first: position 7", []string{"--store", "sqlite:" + unreadable(t), in("log")}},
	} {
		before := names(t, root)
		_, err := does(t.Context(), backupCommand(), c.arguments...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("%v: %v; want %q in it", c.arguments, err, c.want)
		}
		if after := names(t, root); !slices.Equal(before, after) {
			t.Errorf("%v: it left %v", c.arguments, after)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	before := names(t, root)
	if _, err := does(stopped, backupCommand(), "--store", store, "--credentials.master-key", master, in("log")); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("interrupted: %v", err)
	}
	if after := names(t, root); !slices.Equal(before, after) {
		t.Errorf("interrupted, it left %v", after)
	}
}

// unreadable is a store with an event that cannot be read.
func unreadable(t *testing.T) string {
	t.Helper()
	dir, log := aStore(t, 5)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, dir, `UPDATE events SET data = '{"host": 3' WHERE pos = 7`)
	return dir
}

func TestABackupIsVerifiedAgainstSignedCheckpoints(t *testing.T) {
	dir, checkpoints, verifier, n := sealed(t, 400)
	target := filepath.Join(t.TempDir(), "log")
	b, err := does(t.Context(), backupCommand(), "--store", "sqlite:"+dir, target)
	if err != nil || int(b.Events) != n {
		t.Fatalf("%+v, %v", b, err)
	}
	verify := []string{"--store", "sqlite:" + target, "--checkpoint", checkpoints, "--key", verifier}
	if _, clean, report := findings(t, verify...); !clean || report.Held != 3 || base64.StdEncoding.EncodeToString(report.Root) != b.Root {
		t.Errorf("%+v", report)
	}
	if got := names(t, target); len(got) != 2 {
		t.Errorf("reading it left %v", got)
	}
	change(t, target, `UPDATE events SET data = replace(data, '10.0.0.', '10.0.1.') WHERE pos = 702`)
	if first, clean, _ := findings(t, verify...); clean || first.From > 702 || first.Position < 702 {
		t.Errorf("an event was changed: %v", first)
	}
}

func TestADamagedBackupIsNotRestored(t *testing.T) {
	root, dir, master := keptStore(t)
	in := func(name string) string { return filepath.Join(root, name) }
	if _, err := does(t.Context(), backupCommand(), "--store", "sqlite:"+dir, "--credentials", in("keys"), in("log")); err != nil {
		t.Fatal(err)
	}
	flip := func(text []byte, i int) []byte {
		text = bytes.Clone(text)
		text[i] ^= 4
		return text
	}
	// What somebody wrote anew who knows how to make a manifest, but not of the root.
	edited := func(statement string) func(t *testing.T) {
		return func(t *testing.T) {
			change(t, in("log"), statement)
			remanifest(t, in("log"), "events.db")
		}
	}
	damage := func(name string, f func([]byte) []byte) func(t *testing.T) {
		return func(t *testing.T) {
			text, err := os.ReadFile(in(name))
			if err == nil {
				err = os.WriteFile(in(name), f(text), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		do   func(t *testing.T)
		want string
	}{
		"a byte of data":          {damage("log/events.db", func(b []byte) []byte { return flip(b, bytes.LastIndex(b, []byte(`"10.0.1.3"`))+2) }), "damaged"},
		"the header":              {damage("log/events.db", func(b []byte) []byte { return flip(b, 3) }), "damaged"},
		"cut off":                 {damage("log/events.db", func(b []byte) []byte { return b[:len(b)-4096] }), "damaged"},
		"emptied":                 {damage("log/events.db", func([]byte) []byte { return nil }), "damaged"},
		"an event edited":         {edited(`UPDATE events SET data = replace(data, '10.0.1.3', '10.0.1.9')`), "it was changed"},
		"the last events removed": {edited(`DELETE FROM events WHERE pos > 38`), "it was changed"},
		"an event removed":        {edited(`DELETE FROM events WHERE pos = 12`), "the first that is wrong: position"},
		"a type nobody knows":     {edited(`UPDATE events SET type = 'HostTeleported' WHERE pos = 12`), "HostTeleported"},
		"a manifest cut off":      {damage("log/backup.json", func(b []byte) []byte { return b[:20] }), "backup.json"},
		"no manifest":             {func(t *testing.T) { remove(t, in("log/backup.json")) }, "is no backup"},
		"no log":                  {func(t *testing.T) { remove(t, in("log/events.db")) }, "no such file"},
		"a store in use":          {damage("log/events.db-wal", func([]byte) []byte { return []byte("x") }), "it is no copy"},
		"a sealed byte":           {damage("keys/credentials.db", func(b []byte) []byte { return flip(b, len(b)-10) }), "damaged"},
		"credentials cut off":     {damage("keys/credentials.db", func(b []byte) []byte { return b[:len(b)/2] }), "damaged"},
		"a credential removed": {func(t *testing.T) {
			sealed, err := credentials.ReadSealed(t.Context(), in("keys"))
			if err != nil {
				t.Fatal(err)
			}
			delete(sealed, "credential3")
			remove(t, in("keys/credentials.db"))
			if err := sealed.Write(t.Context(), in("keys")); err != nil {
				t.Fatal(err)
			}
			remanifest(t, in("keys"), "credentials.db")
		}, "says that it has 9"},
	} {
		t.Run(name, func(t *testing.T) {
			pristine := map[string][]byte{}
			if name == "a store in use" {
				if err := os.WriteFile(in("log/events.db-wal"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{"log/events.db", "log/backup.json", "keys/credentials.db", "keys/backup.json"} {
				text, err := os.ReadFile(in(file))
				if err != nil {
					t.Fatal(err)
				}
				pristine[file] = text
			}
			c.do(t)
			_, err := does(t.Context(), restoreCommand(), "--store", "sqlite:"+in("new"), "--credentials.master-key", master, "--credentials", in("keys"), in("log"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q in it", err, c.want)
			}
			if _, err := os.Stat(in("new")); err == nil {
				t.Error("a store was made")
				remove(t, in("new"))
			}
			for file, text := range pristine {
				if err := os.WriteFile(in(file), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{"log/events.db-wal", "log/events.db-shm"} {
				remove(t, in(file))
			}
		})
	}
	if _, err := does(t.Context(), restoreCommand(), "--store", "sqlite:"+in("new"), "--credentials.master-key", master, "--credentials", in("keys"), in("log")); err != nil {
		t.Errorf("nothing was damaged: %v", err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// remanifest has a backup say of its file what that is now.
func remanifest(t *testing.T, dir, file string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, store.ManifestFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var manifest map[string]any
	if err := json.Unmarshal(text, &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest["size"] == nil || manifest["sha256"] == nil {
		t.Fatalf("the manifest is %s", text)
	}
	sum := sha256.Sum256(content)
	manifest["size"], manifest["sha256"] = len(content), hex.EncodeToString(sum[:])
	if text, err = json.Marshal(manifest); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestARestoreThatCannotBeMeantIsRefused(t *testing.T) {
	root, dir, master := keptStore(t)
	in := func(name string) string { return filepath.Join(root, name) }
	if _, err := does(t.Context(), backupCommand(), "--store", "sqlite:"+dir, "--credentials", in("keys"), in("log")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(in("full/output"), 0o700); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, bytes.Repeat([]byte{8}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	to := "sqlite:" + in("new")
	for want, arguments := range map[string][]string{
		"it has credentials.db":           {"--store", "sqlite:" + dir, in("log")},
		"it has output":                   {"--store", "sqlite:" + in("full"), in("log")},
		"not a directory":                 {"--store", "sqlite:" + filepath.Join(other), in("log")},
		`is of "credentials"`:             {"--store", to, in("keys")},
		`is of "log"`:                     {"--store", to, "--credentials.master-key", master, "--credentials", in("log"), in("log")},
		"is no backup that commissaire":   {"--store", to, dir},
		"no master key":                   {"--store", to, "--credentials", in("keys"), in("log")},
		"the master key is not the one":   {"--store", to, "--credentials.master-key", "file:" + other, "--credentials", in("keys"), in("log")},
		"becomes a store sqlite:DIR":      {"--store", "memory:", in("log")},
		"commissaire migrate makes one":   {"--store", "esdb://a:PASSWORD@b", in("log")},
		"--store sqlite: needs a directo": {"--store", "sqlite:", in("log")},
	} {
		_, err := does(t.Context(), restoreCommand(), arguments...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("%v: %v; want %q in it", arguments, err, want)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := does(stopped, restoreCommand(), "--store", to, in("log")); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("interrupted: %v", err)
	}
	if got := names(t, root); !slices.Equal(got, []string{"full", "keys", "log"}) || len(names(t, in("full"))) != 1 {
		t.Errorf("there are %v", got)
	}
}
