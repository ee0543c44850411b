package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	store, other := storeName{log: "sqlite:" + in("store")}, storeName{log: "sqlite:" + in("other")}
	server := storeName{log: "esdb://a:PASSWORD@b", keys: "file:" + in("keys")}
	master := "file:" + in("master")
	for _, test := range []struct {
		source, target storeName
		master, want   string
	}{
		{storeName{log: "memory:"}, other, master, "memory:"},
		{store, storeName{log: "memory:"}, master, "memory:"},
		{store, storeName{log: "postgres://a:PASSWORD@b"}, master, "--to must be"},
		{storeName{log: "sqlite:"}, other, master, "--from sqlite: needs a directory"},
		{store, storeName{log: "esdb://a:PASSWORD@b"}, master, "--to-keys: file:DIR"},
		{storeName{log: "esdb://a:PASSWORD@b"}, other, master, "--from-keys: file:DIR"},
		{store, storeName{log: other.log, keys: "file:/k"}, master, "--to-keys is for a store esdb://"},
		{store, store, master, "the same store"},
		{store, storeName{log: "sqlite:" + in("linked")}, master, "the same store"},
		{server, storeName{log: "esdb://c", keys: server.keys}, master, "--from-keys and --to-keys are the same"},
		{store, other, "", "no master key"},
		{storeName{log: "sqlite:" + in("empty")}, other, master, "it has no events.db"},
		{storeName{log: "sqlite:" + in("missing")}, other, master, "it has no events.db"},
		{store, other, "file:" + in("store/master"), "lies in the store's directory"},
		{store, storeName{log: server.log, keys: "file:" + in("store/keys")}, master, "lies in the directory of the store"},
	} {
		m := migration{source: test.source, target: test.target, masterKey: test.master, logger: slog.New(slog.DiscardHandler), progress: terminal.NewProgress(nil)}
		if _, err := m.run(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("from %s to %s: %v; want %q in it", test.source.log, test.target.log, err, test.want)
		}
	}
	for _, name := range []string{"other", "missing", "keys", "store/keys", "empty/events.db"} {
		if _, err := os.Lstat(in(name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	if err := (migration{source: store, target: server, masterKey: master}).check(); err != nil {
		t.Errorf("what can be meant: %v", err)
	}
}
