package credentials_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"commissaire/adapters/credentials"
)

func TestMasterKeyIsReadFromEverySource(t *testing.T) {
	key := randomBytes(32)
	coded := base64.StdEncoding.EncodeToString(key)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("TEST_MASTER_KEY", coded)
	for _, spec := range []string{
		"file:" + write("base64", []byte(coded+"\n")),
		"file:" + write("raw", key),
		"env:TEST_MASTER_KEY",
		"exec:cat '" + write("for exec", []byte(coded+"\n")) + "'",
	} {
		if got, err := credentials.MasterKey(t.Context(), spec); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %d bytes, %v", spec, len(got), err)
		}
	}
}

func TestABadMasterKeyIsRefusedWithoutBeingShown(t *testing.T) {
	const marker = "MARKER"
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_MASTER_KEY", marker)
	for spec, want := range map[string]string{
		"":                                 "openssl rand -base64 32",
		"/etc/master":                      "file:PATH",
		"file:" + dir + "/none":            "openssl rand -base64 32",
		"file:" + dir:                      "chmod 600", // a directory that others may enter
		"file:" + short:                    "openssl rand -base64 32",
		"env:TEST_MASTER_KEY":              "openssl rand -base64 32",
		"env:TEST_MASTER_KEY_ABSENT":       "TEST_MASTER_KEY_ABSENT",
		"exec:printf " + marker:            "openssl rand -base64 32",
		"exec:echo " + marker + "; exit 3": "exit status 3",
	} {
		key, err := credentials.MasterKey(t.Context(), spec)
		if err == nil || key != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), marker) {
			t.Errorf("%q: %v; want %q in it, and no secret", spec, err, want)
		}
	}
}

func TestAMasterKeyThatOthersMayUseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, randomBytes(32), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := credentials.MasterKey(t.Context(), "file:"+path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}
