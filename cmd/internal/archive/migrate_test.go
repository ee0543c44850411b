package archive

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

func TestAMigrationThatCannotBeMeantIsRefused(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"store", "empty"} {
		if err := os.Mkdir(in(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"store/events.db", "store/credentials.db", "store/master", "master"} {
		if err := os.WriteFile(in(name), make([]byte, 32), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(in("store"), in("linked")); err != nil {
		t.Fatal(err)
	}
	local, other := store.Location{Log: "sqlite:" + in("store")}, store.Location{Log: "sqlite:" + in("other")}
	server := store.Location{Log: "esdb://a:PASSWORD@b", Keys: "file:" + in("keys")}
	master := "file:" + in("master")
	for _, test := range []struct {
		source, target store.Location
		master, want   string
	}{
		{store.Location{Log: "memory:"}, other, master, "memory:"},
		{local, store.Location{Log: "memory:"}, master, "memory:"},
		{local, store.Location{Log: "postgres://a:PASSWORD@b"}, master, "--to must be"},
		{store.Location{Log: "sqlite:"}, other, master, "--from sqlite: needs a directory"},
		{local, store.Location{Log: "esdb://a:PASSWORD@b"}, master, "--to-keys: file:DIR"},
		{store.Location{Log: "esdb://a:PASSWORD@b"}, other, master, "--from-keys: file:DIR"},
		{local, store.Location{Log: other.Log, Keys: "file:/k"}, master, "--to-keys is for a store esdb://"},
		{local, local, master, "the same store"},
		{local, store.Location{Log: "sqlite:" + in("linked")}, master, "the same store"},
		{server, store.Location{Log: "esdb://c", Keys: server.Keys}, master, "--from-keys and --to-keys are the same"},
		{local, other, "", "no master key"},
		{store.Location{Log: "sqlite:" + in("empty")}, other, master, "it has no events.db"},
		{store.Location{Log: "sqlite:" + in("missing")}, other, master, "it has no events.db"},
		{local, other, "file:" + in("store/master"), "lies in the store's directory"},
		{local, store.Location{Log: server.Log, Keys: "file:" + in("store/keys")}, master, "lies in the directory of the store"},
	} {
		m := Migration{Source: test.source, Target: test.target, MasterKey: test.master, Logger: slog.New(slog.DiscardHandler), Progress: terminal.NewProgress(nil)}
		if _, err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("from %s to %s: %v; want %q in it", test.source.Log, test.target.Log, err, test.want)
		}
	}
	for _, name := range []string{"other", "missing", "keys", "store/keys", "empty/events.db"} {
		if _, err := os.Lstat(in(name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	if err := (Migration{Source: local, Target: server, MasterKey: master}).check(); err != nil {
		t.Errorf("what can be meant: %v", err)
	}
}
