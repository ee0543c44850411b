package sqlite_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/domain"
	"commissaire/domain/event"
)

// read is how many events a copy has, in which no position is missing.
func read(t *testing.T, dir string) (n int) {
	t.Helper()
	reader, err := sqlite.OpenBackup(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	if err := reader.Check(t.Context()); err != nil {
		t.Error(err)
	}
	for batch, err := range eventlog.UpToHead(t.Context(), reader.Follow(t.Context(), 0)) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			if n++; e.Position != event.Position(n) {
				t.Fatalf("position %d where %d belongs", e.Position, n)
			}
		}
	}
	return n
}

func TestABackupHasWhatWasRecordedBeforeItBegan(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer closing(t, store)
	var pos atomic.Uint64
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for _, stream := range []event.Stream{"a", "b", "c", "d"} {
		writers.Go(func() {
			for last := event.NoRevision; ctx.Err() == nil; last++ {
				position, err := store.Append(context.WithoutCancel(ctx), stream, last, raw(`{"n":"`+strings.Repeat("x", 500)+`"}`))
				if err != nil {
					t.Error(err)
					return
				}
				for {
					was := pos.Load()
					if was >= uint64(position) || pos.CompareAndSwap(was, uint64(position)) {
						break
					}
				}
			}
		})
	}
	for taken := 0; taken < 20; {
		before := int(pos.Load())
		target := t.TempDir()
		if err := sqlite.Backup(t.Context(), dir, target); err != nil {
			t.Fatal(err)
		}
		if before > 0 {
			taken++
		}
		if n := read(t, target); n < before {
			t.Errorf("the copy ends with position %d, and %d was recorded before", n, before)
		}
		entries, err := os.ReadDir(target)
		if err != nil || len(entries) != 1 {
			t.Errorf("there are %v, %v", entries, err)
		}
		if info, err := os.Stat(filepath.Join(target, sqlite.File)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	stop()
	writers.Wait()
	if err := sqlite.Backup(t.Context(), dir, dir); err == nil {
		t.Error("a log was copied onto itself")
	}
	if n := read(t, copied(t, dir)); n != int(pos.Load()) {
		t.Errorf("%d events, want %d", n, pos.Load())
	}
}

// copied is a backup of a store.
func copied(t *testing.T, dir string) string {
	t.Helper()
	target := t.TempDir()
	if err := sqlite.Backup(t.Context(), dir, target); err != nil {
		t.Fatal(err)
	}
	return target
}

func TestALogThatIsWrittenIsNoBackup(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer closing(t, store)
	if _, err := store.Append(t.Context(), "s", event.NoRevision, raw("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.OpenBackup(t.Context(), dir); err == nil {
		t.Error("it was opened without what is in its write-ahead log")
	}
}

func TestADamagedFileIsFound(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	for i := range 300 {
		if _, err := store.Append(t.Context(), "s", event.Revision(i-1), raw("{}")); err != nil {
			t.Fatal(err)
		}
	}
	target := copied(t, dir)
	closing(t, store)
	path := filepath.Join(target, sqlite.File)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(text[len(text)-4096:]) // a page
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := sqlite.OpenBackup(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	if err := reader.Check(t.Context()); err == nil {
		t.Error("SQLite finds nothing wrong")
	}
}

func TestARestoreIsWholeOrLeavesNothing(t *testing.T) {
	fill := func(dir string) error {
		for _, name := range []string{sqlite.File, "credentials.db", "zebra"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
				return err
			}
		}
		return nil
	}
	failing := func(dir string) error { return errors.Join(fill(dir), errors.New("no more")) }
	dir := filepath.Join(t.TempDir(), "parent", "store")
	if err := sqlite.Restore(dir, failing); err == nil || !strings.Contains(err.Error(), "no more") {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was left")
	}
	there := t.TempDir()
	if err := sqlite.Restore(there, failing); err == nil {
		t.Error("it failed, and all is well")
	}
	for _, dir := range []string{dir, there} {
		err := sqlite.Restore(dir, func(filling string) error {
			if _, err := sqlite.Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "another process") {
				t.Errorf("a store was opened meanwhile: %v", err)
			}
			return fill(filling)
		})
		if err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 4 { // and the lock
			t.Errorf("there are %v, %v", entries, err)
		}
		if err := sqlite.Restore(dir, fill); err == nil {
			t.Error("it was restored onto a store")
		}
	}
	used := t.TempDir()
	store := open(t, used)
	defer closing(t, store)
	if err := os.Remove(filepath.Join(used, sqlite.File)); err != nil { // whatever is done to it
		t.Fatal(err)
	}
	for _, name := range []string{"events.db-wal", "events.db-shm"} {
		if err := os.Remove(filepath.Join(used, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := sqlite.Restore(used, fill); err == nil || !strings.Contains(err.Error(), "another process is using it") {
		t.Errorf("into a directory in use: %v", err)
	}
}

// TestWhereARestoreWasKilledNoLogIsBegun opens what a restore left that was killed
// before the log was there.
func TestWhereARestoreWasKilledNoLogIsBegun(t *testing.T) {
	dir := t.TempDir()
	filling := filepath.Join(dir, "restoring-123")
	if err := os.Mkdir(filling, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "lock"), filepath.Join(dir, "credentials.db"), filepath.Join(filling, sqlite.File)} {
		write(t, path, "")
	}
	before := content(t, dir)
	if _, err := sqlite.Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "restoring-123") {
		t.Errorf("a log was begun over what is half restored: %v", err)
	}
	if after := content(t, dir); !maps.Equal(after, before) {
		t.Errorf("the directory was changed: it has %v", slices.Sorted(maps.Keys(after)))
	}
	if err := os.Rename(filepath.Join(filling, sqlite.File), filepath.Join(dir, sqlite.File)); err != nil { // that comes last
		t.Fatal(err)
	}
	closing(t, open(t, dir))
}

func TestTermsBeginLater(t *testing.T) {
	dir := t.TempDir()
	closing(t, open(t, dir))
	for _, term := range []domain.Term{7, 7, 5} {
		if err := sqlite.BeginAfter(t.Context(), dir, term); err != nil {
			t.Fatal(term, err)
		}
	}
	store := open(t, dir)
	defer closing(t, store)
	if _, term, err := store.Lead(t.Context(), 0); err != nil || term != 8 {
		t.Errorf("term %d, %v", term, err)
	}
}
