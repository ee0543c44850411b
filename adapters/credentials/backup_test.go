package credentials_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"commissaire/adapters/credentials"
	"commissaire/domain"
)

func TestABackupHasCredentialsAsTheyAreSealed(t *testing.T) {
	dir, target, master := t.TempDir(), t.TempDir(), randomBytes(32)
	s := open(t, dir, master)
	secrets := map[domain.CredentialID][]byte{}
	for i := range 20 {
		id := domain.CredentialID(fmt.Sprint("c", i))
		secrets[id] = randomBytes(400)
		store(t, s, id, secrets[id])
	}
	all, err := credentials.ReadSealed(t.Context(), dir)
	if err != nil || all.Len() != 20 || !all.Has("c3") || all.Has("c20") {
		t.Fatalf("%d, %v", all.Len(), err)
	}
	if err := s.Destroy(t.Context(), "c3"); err != nil { // who read it is in nobody's way
		t.Fatal(err)
	}
	if all, err = credentials.ReadSealed(t.Context(), dir); err != nil || all.Len() != 19 {
		t.Fatalf("%d, %v", all.Len(), err)
	}
	if err := all.Write(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	if err := all.Write(t.Context(), target); err == nil {
		t.Error("a file was written over")
	}
	path := filepath.Join(target, credentials.File)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for id, secret := range secrets {
		if bytes.Contains(text, secret) || bytes.Contains(text, master) {
			t.Errorf("the copy has %s, or the master key", id)
		}
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) != 1 {
		t.Errorf("there are %v, %v", entries, err)
	}
	if _, err := credentials.OpenBackup(t.Context(), target, randomBytes(32)); err == nil {
		t.Error("another master key opens it")
	}
	for _, shut := range []bool{true, false} { // it is read where nothing can be written, and then as a store
		copied, err := credentials.OpenBackup(t.Context(), target, master)
		if !shut {
			copied, err = credentials.Open(t.Context(), target, master, clock)
		}
		if err != nil {
			t.Fatal(err)
		}
		stored, err := copied.List(t.Context())
		if err != nil || len(stored) != 19 || !stored["c4"].Equal(noon) {
			t.Errorf("%v, %v", stored, err)
		}
		for id := range stored {
			mustRead(t, copied, id, secrets[id])
		}
		if err := copied.Store(t.Context(), "new", []byte("x")); (err == nil) == shut {
			t.Errorf("store one: %v", err)
		}
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := credentials.ReadSealed(t.Context(), t.TempDir()); err == nil {
		t.Error("where there are none, some were read")
	}
}
