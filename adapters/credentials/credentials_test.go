package credentials_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"commissaire/adapters/credentials"
	"commissaire/commands"
	"commissaire/domain"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.UTC)

func clock() time.Time { return noon }

func randomBytes(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.Read(out) // never fails
	return out
}

func open(t *testing.T, dir string, master []byte) *credentials.Store {
	t.Helper()
	s, err := credentials.Open(t.Context(), dir, master, clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func store(t *testing.T, s *credentials.Store, id domain.CredentialID, secret []byte) {
	t.Helper()
	if err := s.Store(t.Context(), id, secret); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, s *credentials.Store, id domain.CredentialID, want []byte) {
	t.Helper()
	if got, err := s.Read(t.Context(), id); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %s: %d bytes, %v; want what was stored", id, len(got), err)
	}
}

// inFiles reports whether a file below dir has the text.
func inFiles(t *testing.T, dir string, text []byte) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, text) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// row is what is on disk of a credential.
func row(t *testing.T, dir string, id domain.CredentialID) (wrapped, sealed []byte) {
	t.Helper()
	db := database(t, dir)
	if err := db.QueryRowContext(t.Context(), "SELECT wrapped_key, sealed FROM credentials WHERE id = ?", string(id)).Scan(&wrapped, &sealed); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return wrapped, sealed
}

func database(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "credentials.db"))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestNoFileHasTheSecretOrIsForOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	s := open(t, dir, randomBytes(32))
	marker := []byte("MARKER-" + fmt.Sprintf("%x", randomBytes(16)))
	secret := bytes.Repeat(marker, 200)
	store(t, s, "host", secret)
	look := func() {
		t.Helper()
		if found := inFiles(t, dir, marker); found != nil {
			t.Errorf("the secret is in %v", found)
		}
		if inFiles(t, dir, []byte("host")) == nil {
			t.Error("the credential is in no file: this test looks in the wrong place")
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v, %v", entry.Name(), info.Mode(), err)
			}
		}
	}
	look()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	look()
}

func TestAFileThatOthersMayReadIsMadePrivate(t *testing.T) {
	dir, master := t.TempDir(), randomBytes(32)
	if err := open(t, dir, master).Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "credentials.db")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, dir, master)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestNothingOfADestroyedCredentialStaysInAnyFile(t *testing.T) {
	for _, size := range []int{400, 20_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, randomBytes(32))
			for i := range 30 {
				store(t, s, domain.CredentialID(fmt.Sprint("other-", i)), randomBytes(500))
			}
			store(t, s, "host", randomBytes(size))
			wrapped, sealed := row(t, dir, "host")
			parts := [][]byte{wrapped[24:], sealed[24:56], sealed[len(sealed)-48:]}
			for _, part := range parts {
				if inFiles(t, dir, part) == nil {
					t.Fatal("it is in no file before: this test looks in the wrong place")
				}
			}
			if err := s.Destroy(t.Context(), "host"); err != nil {
				t.Fatal(err)
			}
			for _, part := range parts {
				if found := inFiles(t, dir, part); found != nil {
					t.Errorf("still in %v", found)
				}
			}
		})
	}
}

func TestDestroyingSaysWhenItCouldNotWipe(t *testing.T) {
	t.Parallel() // it waits for the other program
	dir := t.TempDir()
	s := open(t, dir, randomBytes(32))
	store(t, s, "host", randomBytes(100))
	db := database(t, dir)
	defer func() { _ = db.Close() }()
	reading, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := reading.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM credentials").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if err := s.Destroy(t.Context(), "host"); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("destroyed under a reader: %v", err)
	}
	if _, err := s.List(t.Context()); err == nil || !strings.Contains(err.Error(), "another program") { // else nobody would repeat it
		t.Errorf("listed under a reader: %v", err)
	}
	if _, err := s.Read(t.Context(), "host"); !errors.Is(err, commands.ErrNoCredential) {
		t.Errorf("read what is destroyed but for the file: %v", err)
	}
	if err := reading.Rollback(); err != nil {
		t.Fatal(err)
	}
	if stored, err := s.List(t.Context()); err != nil || len(stored) > 0 {
		t.Errorf("listed %v, %v", stored, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, credentials.File+"-wal")); err != nil || len(text) > 0 {
		t.Errorf("the write-ahead log has %d bytes, %v", len(text), err)
	}
	if err := s.Destroy(t.Context(), "host"); err != nil {
		t.Errorf("repeated: %v", err)
	}
}

func TestWhatWasTamperedWithIsRefusedWithoutASecret(t *testing.T) {
	dir, master := t.TempDir(), randomBytes(32)
	s := open(t, dir, master)
	marker := []byte("MARKER-MARKER-MARKER")
	store(t, s, "host", marker)
	store(t, s, "other", marker)
	for name, change := range map[string]string{
		"sealed garbled":      "UPDATE credentials SET sealed = CAST(zeroblob(60) AS BLOB) WHERE id = 'host'",
		"sealed too short":    "UPDATE credentials SET sealed = x'00' WHERE id = 'host'",
		"key garbled":         "UPDATE credentials SET wrapped_key = randomblob(72) WHERE id = 'host'",
		"key of another":      "UPDATE credentials SET wrapped_key = (SELECT wrapped_key FROM credentials WHERE id = 'other') WHERE id = 'host'",
		"row of another host": "UPDATE credentials SET (wrapped_key, sealed) = (SELECT wrapped_key, sealed FROM credentials WHERE id = 'other') WHERE id = 'host'",
	} {
		db := database(t, dir)
		if _, err := db.ExecContext(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := s.Read(t.Context(), "host")
		if !errors.Is(err, commands.ErrDamagedCredential) || got != nil {
			t.Errorf("%s: read %d bytes, %v", name, len(got), err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "host") || strings.Contains(text, string(marker)) {
			t.Errorf("%s: %s", name, text)
		}
	}
	mustRead(t, s, "other", marker)
}

func TestAFileThatIsNoDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "credentials.db"), bytes.Repeat([]byte("something else\n"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := credentials.Open(t.Context(), dir, randomBytes(32), clock); err == nil || strings.Contains(err.Error(), "master key") {
		t.Errorf("opened: %v", err)
	}
}

func TestDigestsTellSecretsApartPerMasterKey(t *testing.T) {
	master := randomBytes(32)
	a, again, other := open(t, "", master), open(t, "", master), open(t, "", randomBytes(32))
	token := commands.Secret("token")
	switch {
	case a.Digest(token) != again.Digest(token):
		t.Error("the same token has two digests")
	case a.Digest(token) == a.Digest(commands.Secret("another")):
		t.Error("two tokens have the same digest")
	case a.Digest(token) == other.Digest(token):
		t.Error("the digest does not depend on the master key")
	}
}

// TestWhatWasAnsweredSurvivesKill kills a process that stores and destroys, and
// looks at what it left.
func TestWhatWasAnsweredSurvivesKill(t *testing.T) {
	const dirName, masterName = "TEST_CREDENTIALS_DIR", "TEST_CREDENTIALS_MASTER"
	if dir := os.Getenv(dirName); dir != "" {
		storeUntilKilled(t, dir, []byte(os.Getenv(masterName)))
		return
	}
	master := []byte("0123456789abcdef0123456789abcdef") // nothing of worth is sealed with it
	dir := t.TempDir()
	for range 3 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWhatWasAnsweredSurvivesKill$")
		child.Env = append(os.Environ(), dirName+"="+dir, masterName+"="+string(master))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		answered, gone := map[string]bool{}, map[string]bool{}
		for lines := bufio.NewScanner(out); len(gone) < 20 && lines.Scan(); {
			switch verb, id, _ := strings.Cut(lines.Text(), " "); verb {
			case "stored":
				answered[id] = true
			case "destroyed":
				delete(answered, id)
				gone[id] = true
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // it was killed
		if len(answered) == 0 || len(gone) < 20 {
			t.Fatalf("the other process stored %d and destroyed %d", len(answered), len(gone))
		}
		s, err := credentials.Open(t.Context(), dir, master, clock)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, "credentials.db-wal")); err == nil && info.Size() != 0 {
			t.Errorf("%d bytes of older pages are left after opening", info.Size())
		}
		for id := range answered {
			_, number, _ := strings.Cut(id, "-")
			if n, err := strconv.Atoi(number); err != nil || n%3 == 0 {
				continue // may have been about to be destroyed
			}
			if got, err := s.Read(t.Context(), domain.CredentialID(id)); err != nil || string(got) != "secret of "+id {
				t.Errorf("%s was lost: %v", id, err)
			}
		}
		for id := range gone {
			if _, err := s.Read(t.Context(), domain.CredentialID(id)); !errors.Is(err, commands.ErrNoCredential) {
				t.Errorf("%s came back: %v", id, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// storeUntilKilled keeps two of three that it stores.
func storeUntilKilled(t *testing.T, dir string, master []byte) {
	s, err := credentials.Open(t.Context(), dir, master, clock)
	if err != nil {
		t.Fatal(err)
	}
	run := fmt.Sprintf("%x", randomBytes(8))
	for i := 0; ; i++ {
		id := fmt.Sprint(run, "-", i)
		if err := s.Store(t.Context(), domain.CredentialID(id), commands.Secret("secret of "+id)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Println("stored", id); err != nil {
			return // nobody listens any more
		}
		if i%3 != 0 {
			continue
		}
		if err := s.Destroy(t.Context(), domain.CredentialID(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Println("destroyed", id); err != nil {
			return
		}
	}
}
