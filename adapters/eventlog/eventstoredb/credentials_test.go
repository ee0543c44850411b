package eventstoredb_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/domain/event"
	"commissaire/test/esdb"
)

func TestSealedCredentialsLieBesideTheLog(t *testing.T) {
	store, err := eventstoredb.Open(esdb.Start(t).ConnectionString(), slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	put := func(sealed string) error { return store.PutBlob(t.Context(), "one", []byte(sealed)) }
	if err := put("sealed"); err != nil {
		t.Fatal(err)
	}
	if err := put("other"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("put again: %v", err)
	}
	if got, err := store.Blob(t.Context(), "one"); err != nil || !bytes.Equal(got, []byte("sealed")) {
		t.Errorf("read %q, %v", got, err)
	}
	if head, err := store.Head(t.Context()); head != 0 || err != nil {
		t.Errorf("the log's head is %d, %v", head, err)
	}
	pos, err := store.Append(t.Context(), "roster", event.NoRevision, []eventlog.Raw{{ID: uuid.New(), Type: "T", Data: []byte("{}"), Meta: []byte("{}")}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // may be repeated
		if err := store.DeleteBlob(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Blob(t.Context(), "one"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read what was deleted: %v", err)
		}
	}
	if head, err := store.Head(t.Context()); head != pos || err != nil {
		t.Errorf("the log's head is %d and not %d, %v", head, pos, err)
	}
	for batch, err := range eventlog.UpToHead(t.Context(), store.Follow(t.Context(), 0)) {
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) != 1 || batch[0].Stream != "roster" {
			t.Errorf("the log has %v", batch)
		}
	}
}
