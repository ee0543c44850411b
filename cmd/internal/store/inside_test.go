package store

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheMasterKeyIsKeptApartWhateverLinksLeadThere(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"store/sub", "etc"} {
		if err := os.MkdirAll(in(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"store/sub/key", "etc/key", "store-key"} {
		if err := os.WriteFile(in(name), []byte("key"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"linked-store": "store", "linked-key": "store/sub/key", "store/leads-out": "../etc/key"} {
		if err := os.Symlink(to, in(link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		key, store string
		apart      bool
	}{
		{"etc/key", "store", true},
		{"etc/key", "linked-store", true},
		{"etc/key", "not-yet-there", true},
		{"store-key", "store", true},
		{"store/sub/key", "store", false},
		{"store/sub/key", "linked-store", false},
		{"linked-store/sub/key", "store", false},
		{"linked-key", "store", false},
		{"store/leads-out", "store", false},
	} {
		if err := RefuseInside("master key", "file:"+in(test.key), "the store", in(test.store)); (err == nil) != test.apart {
			t.Errorf("the key %s and the store %s: %v", test.key, test.store, err)
		}
	}
}

func TestTheMasterKeyLiesApartFromTheKeysThatItOpens(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "master")
	if err := os.WriteFile(path, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Location{Log: "esdb://127.0.0.1:1?tls=false", Keys: "file:" + dir}.Open(t.Context(), "file:"+path, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "lies in the directory of the keys") {
		t.Errorf("opened: %v", err)
	}
}
