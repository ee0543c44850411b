package transparency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// recorded is a log that nothing comes to.
type recorded []eventlog.Raw

func (r recorded) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		i, _ := slices.BinarySearchFunc(r, after+1, func(e eventlog.Raw, pos event.Position) int { return int(int64(e.Position) - int64(pos)) })
		for batch := range slices.Chunk(r[i:], 100) {
			if ctx.Err() != nil || !yield(batch, nil) {
				return
			}
		}
		if yield(nil, nil) {
			<-ctx.Done()
		}
	}
}

// aLog has n events on seven streams; positions have gaps.
func aLog(n int) recorded {
	next := map[event.Stream]event.Revision{}
	var log recorded
	for i := range n {
		stream := event.Stream(fmt.Sprint("host-", i%7))
		log = append(log, eventlog.Raw{
			Position: event.Position(10 * (i + 1)), Stream: stream, Revision: next[stream], ID: uuid.New(), Type: "HostAnswered",
			Data: fmt.Appendf(nil, `{"host":"10.0.0.%d"}`, i%200), Meta: fmt.Appendf(nil, `{"$correlationId":"c","time":"2026-01-02T03:04:%02d.5Z","actor":"admin","schema":1}`, i%60),
		})
		next[stream]++
	}
	return log
}

func aTree(t *testing.T, log recorded) *Tree {
	t.Helper()
	tree, discarded, err := OpenTree(t.TempDir())
	if err != nil || discarded != nil {
		t.Fatal(err, discarded)
	}
	t.Cleanup(func() { _ = tree.close() })
	for batch := range slices.Chunk(log, 64) {
		if err := tree.Append(batch); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// reference is the root as RFC 6962 defines it, 2.1.
func reference(leaves [][]byte) []byte {
	h := rfc6962.DefaultHasher
	switch n := len(leaves); n {
	case 0:
		return h.EmptyRoot()
	case 1:
		return h.HashLeaf(leaves[0])
	default:
		k := 1
		for 2*k < n {
			k *= 2
		}
		return h.HashChildren(reference(leaves[:k]), reference(leaves[k:]))
	}
}

func TestTheTreeIsThatOfTheRFC(t *testing.T) {
	log := aLog(300)
	tree := aTree(t, log)
	leaves := make([][]byte, len(log))
	for i, raw := range log {
		leaves[i] = AppendLeaf(nil, raw)
	}
	for size := range len(log) + 1 {
		root, err := tree.Root(uint64(size))
		if err != nil || !bytes.Equal(root[:], reference(leaves[:size])) {
			t.Fatalf("root of %d: %x, %v", size, root, err)
		}
	}
	for _, size := range []int{1, 2, 3, 64, 65, 255, 300} {
		root, err := tree.Root(uint64(size))
		if err != nil {
			t.Fatal(err)
		}
		for i := range size {
			hashes, err := tree.Inclusion(uint64(i), uint64(size))
			if err != nil {
				t.Fatal(err)
			}
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(size), rfc6962.DefaultHasher.HashLeaf(leaves[i]), hashes, root[:]); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, size, err)
			}
		}
	}
	for i, raw := range log {
		index, leaf, found, err := tree.Index(raw.Position)
		if err != nil || !found || index != uint64(i) || !bytes.Equal(leaf[:], rfc6962.DefaultHasher.HashLeaf(leaves[i])) {
			t.Fatalf("position %d is leaf %d, %t, %v", raw.Position, index, found, err)
		}
	}
	for _, none := range []event.Position{0, 15, 3001} {
		if _, _, found, err := tree.Index(none); found || err != nil {
			t.Errorf("position %d: %t, %v", none, found, err)
		}
	}
}

// TestTheLeafIsWhatItIs holds the form of a leaf: checkpoints that were signed once
// rest on it.
func TestTheLeafIsWhatItIs(t *testing.T) {
	raw := eventlog.Raw{Position: 9, Stream: "roster", Revision: 258, ID: uuid.UUID{15: 7}, Type: "T", Data: []byte("{}"), Meta: []byte("m")}
	const want = "\x00\x00\x00\x06roster\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x01T" +
		"\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x01m\x00\x00\x00\x02{}"
	if got := string(AppendLeaf(nil, raw)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestATreeIsOpenedAsItWasSavedAndElseMadeAnew(t *testing.T) {
	log := aLog(500)
	dir := t.TempDir()
	write := func(upTo int, save bool) {
		t.Helper()
		tree, discarded, err := OpenTree(dir)
		if err != nil || discarded != nil {
			t.Fatal(err, discarded)
		}
		i, _ := slices.BinarySearchFunc(log, tree.Last()+1, func(e eventlog.Raw, pos event.Position) int { return int(int64(e.Position) - int64(pos)) })
		if err := tree.Append(log[i:upTo]); err != nil {
			t.Fatal(err)
		}
		if save {
			err = tree.Close()
		} else {
			err = tree.close() // as a crash leaves it
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(200, true)
	write(450, false)
	write(300, true)
	write(500, true)
	want, err := aTree(t, log).Root(500)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := ReadTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := tree.Root(500); err != nil || root != want {
		t.Errorf("root %x, %v; want %x", root, err, want)
	}
	if err := tree.close(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(path string) error{
		nodesFile:     func(path string) error { return os.Truncate(path, 100) },
		positionsFile: func(path string) error { return os.Truncate(path, 0) },
		stateFile:     func(path string) error { return os.WriteFile(path, []byte(`{"size":400}`), 0o600) },
	} {
		if err := spoil(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		tree, discarded, err := OpenTree(dir)
		if err != nil || discarded == nil || tree.Size() != 0 || tree.Last() != 0 {
			t.Fatalf("with other %s it is opened: %v, %v", name, discarded, err)
		}
		if err := errors.Join(tree.Append(log), tree.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func aKey(t *testing.T) *Key {
	t.Helper()
	secret, key, err := GenerateKey("commissaire.example/test")
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKey(secret)
	if err != nil || again.Verifier() != key.Verifier() {
		t.Fatalf("%v: %s is not %s", err, again.Verifier(), key.Verifier())
	}
	return key
}

func TestCheckpointsAreSignedAndForgedOnesAreNot(t *testing.T) {
	key, other := aKey(t), aKey(t)
	known, err := Verifiers(key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	var file []byte
	for size := range uint64(3) {
		signed, err := key.Sign(size, Hash{byte(size)})
		if err != nil {
			t.Fatal(err)
		}
		file = append(append(file, signed...), strings.Repeat("\n", int(size))...)
	}
	all := Split(file)
	if len(all) != 3 {
		t.Fatalf("%d checkpoints", len(all))
	}
	for i, signed := range all {
		if c, err := ParseCheckpoint(signed, known); err != nil || c.Size != uint64(i) || c.Root != (Hash{byte(i)}) {
			t.Errorf("checkpoint %d: %+v, %v", i, c, err)
		}
		for at := range signed {
			forged := bytes.Clone(signed)
			forged[at] ^= 1
			if c, err := ParseCheckpoint(forged, known); err == nil && c != (Checkpoint{Size: uint64(i), Root: Hash{byte(i)}}) { // base64 has bits to spare
				t.Errorf("with byte %d changed it is a checkpoint: %+v", at, c)
			}
		}
	}
	signed, err := other.Sign(1, Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCheckpoint(signed, known); err == nil {
		t.Error("another key's is a checkpoint")
	}
}

func TestCheckpointsArePublishedAndNoneOfAnotherHistory(t *testing.T) {
	log, key := aLog(900), aKey(t)
	var put [][]byte
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); r.Method == http.MethodPut && err == nil {
			put = append(put, body)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	config := Config{
		Dir: filepath.Join(dir, "tree"), Key: key, File: filepath.Join(dir, "checkpoints"), URL: server.URL, Client: server.Client(), Logger: slog.New(slog.DiscardHandler),
	}
	publish := func(log recorded) error {
		t.Helper()
		config.Feed = log
		l, err := Open(config)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return errors.Join(l.Publish(t.Context()), l.Publish(t.Context()))
	}
	for _, n := range []int{300, 301, 900, 900} {
		if err := publish(log[:n]); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(config.File)
	if err != nil {
		t.Fatal(err)
	}
	if all := Split(text); len(all) != 3 || len(put) != 4 || !bytes.Equal(put[3], all[2]) {
		t.Errorf("%d in the file, %d were put", len(all), len(put))
	}
	// A crash cuts the last one off; the next takes its place.
	if err := os.WriteFile(config.File, text[:len(text)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := publish(log); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(config.File); err != nil || !bytes.Equal(again, text) {
		t.Errorf("the file is\n%s, %v, was\n%s", again, err, text)
	}
	changed := slices.Clone(log)
	changed[899].Data = []byte(`{}`)
	if err := publish(changed); !errors.Is(err, ErrChanged) {
		t.Errorf("the last event is another: %v", err)
	}
	if err := publish(log[:899]); !errors.Is(err, ErrChanged) {
		t.Errorf("the last event is gone: %v", err)
	}
	if err := os.RemoveAll(config.Dir); err != nil {
		t.Fatal(err)
	}
	changed = append(aLog(1), log[1:]...)
	if err := publish(changed); !errors.Is(err, ErrChanged) {
		t.Errorf("without the tree, and with another first event: %v", err)
	}
	if again, err := os.ReadFile(config.File); err != nil || !bytes.Equal(again, text) {
		t.Errorf("checkpoints of another history were added: %v", err)
	}
}
