package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog/sqlite"
	"commissaire/adapters/transparency"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/test/esdb"
)

// sealed is a store of n events with its tree, and what is outside: checkpoints of
// it, at 500, 1000, … events, and the verifier key.
func sealed(t *testing.T, hosts int) (dir, checkpoints, verifier string, n int) {
	t.Helper()
	dir, opened := aStore(t, hosts)
	outside := t.TempDir()
	checkpoints = filepath.Join(outside, "checkpoints")
	must(t, "key", filepath.Join(outside, "key"), "--name", "commissaire.example/test")
	verifier = strings.TrimSpace(must(t, "key", filepath.Join(outside, "key"))) // as it was made
	key, err := config.ReadSigningKey(t.Context(), "file:"+filepath.Join(outside, "key"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := transparency.Open(transparency.Config{Feed: opened, Dir: filepath.Join(dir, store.TreeDir), Key: key, Interval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var file []byte
	n = len(contents(t, dir))
	for size := 500; size < n+500; size += 500 {
		p, err := log.Proof(t.Context(), 1, uint64(min(size, n)))
		if err != nil {
			t.Fatal(err)
		}
		file = append(file, p.Checkpoint...)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(checkpoints, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, checkpoints, verifier, n
}

// findings is what verify says with -o json, and whether that is that all is well.
func findings(t *testing.T, arguments ...string) (first transparency.Finding, clean bool, report transparency.Report) {
	t.Helper()
	out, err := commissaire(t, "", append([]string{"verify", "-o", "json"}, arguments...)...)
	if jsonErr := json.Unmarshal([]byte(out), &report); jsonErr != nil {
		t.Fatalf("%v: %s, %v", arguments, out, err)
	}
	first, found := report.First()
	return first, err == nil && !found, report
}

// change is what somebody does to a store.
func change(t *testing.T, dir, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "events.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsChangedInAStoreOrItsExportIsFound(t *testing.T) {
	dir, checkpoints, verifier, n := sealed(t, 1000)
	if n != 3003 {
		t.Fatalf("%d events", n)
	}
	trusted := []string{"--checkpoint", checkpoints, "--key", verifier}
	with := func(more ...string) []string { return append(more, trusted...) }
	pristine, err := os.ReadFile(filepath.Join(dir, "events.db"))
	if err != nil {
		t.Fatal(err)
	}
	export := func() string {
		file := filepath.Join(t.TempDir(), "events.zst")
		must(t, "export", "--store", "sqlite:"+dir, file)
		return file
	}
	_, clean, report := findings(t, with("--store", "sqlite:"+dir)...)
	if !clean || report.Held != 7 || report.Compared != 3003 {
		t.Fatalf("nothing was changed: %+v", report)
	}
	if _, clean, exported := findings(t, with("--file", export())...); !clean || string(exported.Root) != string(report.Root) {
		t.Fatalf("nothing was changed in the export: %+v", exported)
	}
	for name, c := range map[string]struct {
		statements string
		position   int
	}{
		"a byte of data":               {`UPDATE events SET data = replace(data, '10.0.0.', '10.0.1.') WHERE pos = 1702`, 1702},
		"a blank of data":              {`UPDATE events SET data = data || ' ' WHERE pos = 1702`, 1702},
		"the type":                     {`UPDATE events SET type = 'HostLeft' WHERE pos = 1702`, 1702},
		"the time":                     {`UPDATE events SET meta = replace(meta, '2026-03', '2026-02') WHERE pos = 1702`, 1702},
		"the actor":                    {`UPDATE events SET meta = replace(meta, '"admin"', '"root"') WHERE pos = 1702`, 1702},
		"the id":                       {`UPDATE events SET id = '` + uuid.NewString() + `' WHERE pos = 1702`, 1702},
		"an id that is none":           {`UPDATE events SET id = 'x' WHERE pos = 1702`, 1702},
		"the stream":                   {`UPDATE events SET stream = 'roster2', rev = 0 WHERE pos = 1702`, 1702},
		"the order":                    {`UPDATE events SET pos = 0 WHERE pos = 1702; UPDATE events SET pos = 1702 WHERE pos = 1703; UPDATE events SET pos = 1703 WHERE pos = 0`, 1702},
		"one removed":                  {`DELETE FROM events WHERE pos = 1702`, 1702},
		"the last of a stream removed": {`DELETE FROM events WHERE pos = 1700`, 1700},
		"one inserted": {`UPDATE events SET pos = -pos - 1 WHERE pos >= 1702; UPDATE events SET pos = -pos WHERE pos < 0;
			INSERT INTO events SELECT 1702, 'host-new', 0, type, '` + uuid.NewString() + `', data, meta FROM events WHERE pos = 1700`, 1702},
		"the tail cut off": {`DELETE FROM events WHERE pos >= 1702`, 1702},
		"the first removed, all numbered anew": {`DELETE FROM events WHERE pos = 1; UPDATE events SET rev = -rev WHERE stream = 'roster';
			UPDATE events SET rev = -rev - 1 WHERE stream = 'roster'`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "events.db"), pristine, 0o600); err != nil {
				t.Fatal(err)
			}
			change(t, dir, c.statements)
			if first, clean, _ := findings(t, with("--store", "sqlite:"+dir)...); clean || int(first.Position) != c.position {
				t.Errorf("of the store: %v, want position %d", first, c.position)
			}
			if name == "an id that is none" {
				return // it cannot be exported
			}
			file := export()
			if first, clean, _ := findings(t, with("--file", file, "--tree", filepath.Join(dir, store.TreeDir))...); clean || int(first.Position) != c.position {
				t.Errorf("of the export, with the tree: %v, want position %d", first, c.position)
			}
			first, clean, _ := findings(t, with("--file", file)...)
			if clean || int(first.From) > c.position || int(first.Position) < c.position && first.From == 0 {
				t.Errorf("of the export, with checkpoints alone: %v, want position %d in it", first, c.position)
			}
		})
	}
}

func TestForgedCheckpointsAreFound(t *testing.T) {
	dir, checkpoints, verifier, _ := sealed(t, 400)
	store := "sqlite:" + dir
	other := filepath.Join(t.TempDir(), "other")
	otherVerifier := strings.TrimSpace(must(t, "key", other, "--name", "commissaire.example/test"))
	text, err := os.ReadFile(checkpoints)
	if err != nil {
		t.Fatal(err)
	}
	forged := filepath.Join(t.TempDir(), "forged")
	if err := os.WriteFile(forged, []byte(strings.Replace(string(text), "\n1000\n", "\n1001\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, arguments := range map[string][]string{
		"another number":      {"--checkpoint", forged, "--key", verifier},
		"another key":         {"--checkpoint", checkpoints, "--key", otherVerifier},
		"no key":              {"--checkpoint", checkpoints},
		"a key that is none":  {"--checkpoint", checkpoints, "--key", "key"},
		"no checkpoint in it": {"--checkpoint", os.DevNull, "--key", verifier},
		"no file":             {"--checkpoint", "none", "--key", verifier},
		"a tree that is none": {"--tree", t.TempDir()},
	} {
		if out, err := commissaire(t, "", append([]string{"verify", "--store", store}, arguments...)...); err == nil {
			t.Errorf("%s: all is well: %s", name, out)
		}
	}
	if out, err := commissaire(t, "", "verify", "--store", store, "--checkpoint", checkpoints, "--key", verifier); err != nil || !strings.Contains(out, "3 of 3 checkpoints hold") {
		t.Errorf("%s, %v", out, err)
	}
}

// TestACheckpointThatIsBeingWrittenIsNoForgedOne cuts off what is written last, as
// who reads it meanwhile finds it, and a crash leaves it.
func TestACheckpointThatIsBeingWrittenIsNoForgedOne(t *testing.T) {
	dir, checkpoints, verifier, _ := sealed(t, 400)
	text, err := os.ReadFile(checkpoints)
	if err != nil {
		t.Fatal(err)
	}
	all := transparency.Split(text)
	first, last := len(all[0]), len(all[2])
	for cut, want := range map[int]string{
		1: "2 of 2 checkpoints hold", last / 2: "2 of 2 checkpoints hold", last - 1: "2 of 2 checkpoints hold", last: "2 of 2 checkpoints hold",
		len(text) - first + 1: "",
	} {
		if err := os.WriteFile(checkpoints, text[:len(text)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := commissaire(t, "", "verify", "--store", "sqlite:"+dir, "--checkpoint", checkpoints, "--key", verifier)
		if (err == nil) != (want != "") || !strings.Contains(out, want) {
			t.Errorf("without the last %d bytes: %s, %v", cut, out, err)
		}
	}
	damaged := append(append([]byte{}, text[:first-20]...), text[first-1:]...) // and not at the end
	if err := os.WriteFile(checkpoints, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := commissaire(t, "", "verify", "--store", "sqlite:"+dir, "--checkpoint", checkpoints, "--key", verifier); err == nil {
		t.Errorf("a damaged one: %s", out)
	}
}

// TestEveryStoreOfAHistoryHasItsRoot moves events into a store that has other
// positions.
func TestEveryStoreOfAHistoryHasItsRoot(t *testing.T) {
	dir, checkpoints, verifier, _ := sealed(t, 200)
	change(t, dir, "UPDATE events SET pos = -3 * pos; UPDATE events SET pos = -pos")
	if err := os.RemoveAll(filepath.Join(dir, store.TreeDir)); err != nil {
		t.Fatal(err)
	}
	file, other := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "other")
	must(t, "export", "--store", "sqlite:"+dir, file)
	must(t, "import", "--store", "sqlite:"+other, file)
	reader, err := sqlite.OpenReader(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	server := esdb.Start(t).ConnectionString()
	for range 2 {
		must(t, "import", "--store", server, file)
	}
	back := filepath.Join(t.TempDir(), "back.gz")
	must(t, "export", "--store", server, back)
	for _, from := range []string{"--store=sqlite:" + dir, "--store=sqlite:" + other, "--file=" + file, "--store=" + server, "--file=" + back} {
		if _, clean, report := findings(t, from, "--checkpoint", checkpoints, "--key", verifier); !clean || report.Held != 2 {
			t.Errorf("%s: %+v", from, report)
		}
	}
	if fmt.Sprint(contents(t, dir)[602].Position) != "1809" || contents(t, other)[602].Position != 603 {
		t.Error("positions are the same, and nothing was tested")
	}
}

// TestVerifyTellsWhatCannotBeReadFromWhatWasChanged has the store and its export.
func TestVerifyTellsWhatCannotBeReadFromWhatWasChanged(t *testing.T) {
	dir, checkpoints, verifier, n := sealed(t, 400)
	database := filepath.Join(dir, "events.db")
	pristine, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	trusted := []string{"--checkpoint", checkpoints, "--key", verifier}
	verify := func(arguments ...string) (out, why string) {
		t.Helper()
		out, err := commissaire(t, "", append([]string{"verify"}, append(arguments, trusted...)...)...)
		if err != nil {
			why = err.Error()
		}
		return out, why
	}
	const changed, unread = "is not what it was", "has what cannot be read, which is no sign that it was changed"
	export := filepath.Join(t.TempDir(), "events")
	must(t, "export", "--store", "sqlite:"+dir, export)
	text, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	for name, c := range map[string]struct {
		spoil func(lines []string) string
		want  string
	}{
		"as it is":          {func(l []string) string { return strings.Join(l, "") + "\n" }, ""},
		"cut off in a line": {func(l []string) string { return strings.Join(l[:700], "") + l[700][:50] }, unread},
		"a damaged line":    {func(l []string) string { l[700] = l[700][:50] + "\x00\x00" + l[700][52:]; return strings.Join(l, "") }, unread},
		"no JSON":           {func(l []string) string { l[700] = "\n"; return strings.Join(l, "") }, unread},
		"two exchanged":     {func(l []string) string { l[700], l[701] = l[701], l[700]; return strings.Join(l, "") }, changed},
		"one twice":         {func(l []string) string { l[700] += l[700]; return strings.Join(l, "") }, changed},
		"one missing":       {func(l []string) string { l[700] = ""; return strings.Join(l, "") }, changed},
		"another actor": {func(l []string) string {
			l[700] = strings.Replace(l[700], "admin", "nimda", 1)
			return strings.Join(l, "")
		}, changed},
		"of a later version": {func(l []string) string {
			l[700] = strings.Replace(l[700], `"type":"Host`, `"type":"Hoist`, 1)
			return strings.Join(l, "")
		}, changed},
	} {
		file := filepath.Join(t.TempDir(), "spoilt")
		if err := os.WriteFile(file, []byte(c.spoil(append([]string{}, lines...))), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, why := verify("--file", file); (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
			t.Errorf("an export, %s: %s %s", name, why, out)
		}
	}

	change(t, dir, `UPDATE events SET type = 'Hoisted' WHERE pos = 700`)
	out, why := verify("--store", "sqlite:"+dir)
	if !strings.Contains(why, changed) || !strings.Contains(why, "position 700 ") || !strings.Contains(out, "2 findings, 1 of what cannot be read") {
		t.Errorf("a store, changed to what cannot be read: %s %s", why, out)
	}
	// The same, as a later version recorded it.
	if err := os.RemoveAll(filepath.Join(dir, store.TreeDir)); err != nil {
		t.Fatal(err)
	}
	trusted = nil
	out, why = verify("--store", "sqlite:"+dir)
	if !strings.Contains(why, unread) || !strings.Contains(why, "position 700 ") || !strings.Contains(why, "run the version") || !strings.Contains(out, "1 findings, 1 of what cannot be read") {
		t.Errorf("a store, of a later version: %s %s", why, out)
	}
	if err := os.WriteFile(database, pristine, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, why = verify("--store", "sqlite:"+dir); why != "" || !strings.Contains(out, fmt.Sprint(n, " events")) {
		t.Errorf("a store, as it was: %s %s", why, out)
	}
}
