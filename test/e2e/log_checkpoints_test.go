package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// TestTheLogIsVouchedFor asks a service for checkpoints and proofs, holds them
// against each other, restarts it, and changes its store.
func TestTheLogIsVouchedFor(t *testing.T) {
	outside := t.TempDir()
	key, file, tree := filepath.Join(outside, "key"), filepath.Join(outside, "checkpoints"), filepath.Join(outside, "tree")
	s := unstarted(t, map[string]any{"log.signing-key": "file:" + key, "log.checkpoint-file": file, "log.checkpoint-interval": "50ms", "log.tree-dir": tree})
	verifierKey, err := s.run("", "events", "key", key, "--name", "commissaire.example/e2e")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(verifierKey))
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	defer func() { s.stop(syscall.SIGKILL) }()
	put := func(name string) string {
		t.Helper()
		return s.as("admin", http.MethodPut, "/cluster/"+name, nil).is(http.StatusCreated).header.Get("X-Commissaire-Position")
	}
	var positions []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		positions = append(positions, put(name))
	}
	checkpoint := func(text string) (c log.Checkpoint) {
		t.Helper()
		opened, err := note.Open([]byte(text), note.VerifierList(verifier))
		if err == nil {
			_, err = c.Unmarshal([]byte(opened.Text))
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return c
	}
	for _, position := range positions {
		answer := s.as("auditor", http.MethodGet, "/log/proof?position="+position, nil).is(http.StatusOK)
		var p struct {
			Index, Size uint64
			Leaf        []byte
			Hashes      [][]byte
			Checkpoint  string
		}
		if err := json.Unmarshal(answer.body, &p); err != nil {
			t.Fatal(err)
		}
		c := checkpoint(p.Checkpoint)
		if c.Size != p.Size {
			t.Errorf("a proof for %d events and a checkpoint of %d", p.Size, c.Size)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, c.Size, p.Leaf, p.Hashes, c.Hash); err != nil {
			t.Errorf("position %s: %v", position, err)
		}
	}
	current := checkpoint(string(s.as("admin", http.MethodGet, "/log/checkpoint", nil).is(http.StatusOK).body))
	if current.Size < 5 || current.Origin != "commissaire.example/e2e" {
		t.Errorf("%+v", current)
	}
	for _, user := range []string{"viewer", "operator", "join"} {
		s.as(user, http.MethodGet, "/log/checkpoint", nil).is(http.StatusForbidden)
		s.as(user, http.MethodGet, "/log/proof?position=1", nil).is(http.StatusForbidden)
	}
	s.as("auditor", http.MethodGet, "/log/proof?position=100000", nil).is(http.StatusNotFound)
	s.as("auditor", http.MethodGet, "/log/proof", nil).is(http.StatusBadRequest)

	verify := func() (string, error) {
		t.Helper()
		return s.run("", "events", "verify", "--config", filepath.Join(s.dir, "config.json"))
	}
	if out, err := verify(); err != nil || !strings.Contains(out, " 0 findings") {
		t.Errorf("while it runs: %s, %v", out, err)
	}
	for _, signal := range []os.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		s.stop(signal)
		s.start()
		put("after-" + signal.String())
		if out, err := verify(); err != nil {
			t.Errorf("after %s: %s, %v", signal, out, err)
		}
	}
	s.stop(syscall.SIGTERM) // the last checkpoint has all
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := verify()
	if last := checkpoint(string(text[strings.LastIndex(string(text), "commissaire.example/e2e\n"):])); err != nil || last.Size < 8 || strings.HasPrefix(out, "0 of ") {
		t.Errorf("the last checkpoint is of %d events: %s, %v", last.Size, out, err)
	}
	s.forge(positions[2])
	if out, err := verify(); err == nil || !strings.Contains(out, "position "+positions[2]+" ") {
		t.Errorf("after the change: %s, %v", out, err)
	}
	if err := os.RemoveAll(tree); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.as("auditor", http.MethodGet, "/log/checkpoint", nil).is(http.StatusConflict)
	s.as("admin", http.MethodGet, "/clusters", nil).is(http.StatusOK)
	s.stop(syscall.SIGTERM)
	if again, err := os.ReadFile(file); err != nil || string(again) != string(text) {
		t.Errorf("a checkpoint of what was changed was added: %v", err)
	}
}

// forge has an event say that somebody else asked for it.
func (s *service) forge(position string) {
	s.t.Helper()
	if s.esdb == nil {
		in(s.t, filepath.Join(s.dir, "store", "events.db"), "UPDATE events SET meta = replace(meta, '\"admin\"', '\"nobody\"') WHERE pos = "+position)
		return
	}
	pos, err := strconv.ParseUint(position, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	s.esdb.Edit(pos, func(meta []byte) []byte { return bytes.Replace(meta, []byte(`"admin"`), []byte(`"nobody"`), 1) })
}
