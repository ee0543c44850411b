package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/domain/event"
)

func TestALogIsReadAndFollowedWhileAServiceHasIt(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer closing(t, store)
	for i := range 1500 {
		if _, err := store.Append(t.Context(), "s", event.Revision(i-1), raw("{}")); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := sqlite.OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var next event.Position = 1
	for batch, err := range reader.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			if e.Position != next || e.Revision != event.Revision(next)-1 {
				t.Fatalf("position %d, revision %d; want %d", e.Position, e.Revision, next)
			}
			next++
		}
		switch {
		case len(batch) == 0 && next == 1501: // what comes later comes, too
			if _, err := store.Append(t.Context(), "s", 1499, raw("{}")); err != nil {
				t.Fatal(err)
			}
		case next == 1502:
			cancel()
		}
	}
	if next != 1502 {
		t.Errorf("read up to %d", next-1)
	}
}

func TestWhatIsNoLogIsNotReadAndNothingIsMadeThere(t *testing.T) {
	dir := t.TempDir()
	if _, err := sqlite.OpenReader(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "events.db"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.OpenReader(t.Context(), dir); err == nil {
		t.Error("a text is read as a log")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("there is %v, %v", entries, err)
	}
}

func TestAReaderGivesWhatIsBeforeAnEventThatIsNone(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	for i := range 3 {
		if _, err := store.Append(t.Context(), "s", event.Revision(i-1), raw("{}")); err != nil {
			t.Fatal(err)
		}
	}
	closing(t, store)
	execute(t, dir, "UPDATE events SET id = 'x' WHERE pos = 3")
	reader, err := sqlite.OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	n := 0
	var failure error
	for batch, err := range reader.Follow(t.Context(), 0) {
		n += len(batch)
		failure = err
	}
	if n != 2 || failure == nil {
		t.Errorf("%d events, then %v", n, failure)
	}
}

func TestGapsOfAnySizeArePassedOver(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	var all []eventlog.Raw
	for i := range 4990 {
		all = append(all, eventlog.Raw{Stream: event.Stream(fmt.Sprint(i)), ID: uuid.New(), Type: "T", Data: []byte("{}"), Meta: []byte("{}")})
	}
	if err := store.AppendAll(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	closing(t, store)
	execute(t, dir, "DELETE FROM events WHERE pos BETWEEN 700 AND 3100 OR pos % 3 = 0; UPDATE events SET pos = pos + 9000000000000000000 WHERE pos > 4900")
	reader, err := sqlite.OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	var want []event.Position
	for pos := event.Position(1); pos <= 4990; pos++ {
		switch {
		case pos >= 700 && pos <= 3100 || pos%3 == 0:
		case pos > 4900:
			want = append(want, pos+9000000000000000000)
		default:
			want = append(want, pos)
		}
	}
	store = open(t, dir)
	defer closing(t, store)
	for _, feed := range []eventlog.Feed{reader, store} {
		var got []event.Position
		for batch, err := range eventlog.UpToHead(t.Context(), feed.Follow(t.Context(), 0)) {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range batch {
				got = append(got, e.Position)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%T: %d events, want %d", feed, len(got), len(want))
		}
	}
}

func TestAStoreSaysWhenItsLastEventsAreGone(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer closing(t, store)
	for i := range 5 {
		if _, err := store.Append(t.Context(), "s", event.Revision(i-1), raw("{}")); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, dir, "DELETE FROM events WHERE pos > 3")
	n := 0
	var failure error
	for batch, err := range store.Follow(t.Context(), 0) {
		n, failure = n+len(batch), err
	}
	if n != 3 || failure == nil || !strings.Contains(failure.Error(), "up to 5 are gone") {
		t.Errorf("%d events, then %v", n, failure)
	}
}
