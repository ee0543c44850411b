package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/domain"
	"commissaire/domain/event"
)

// commissaire runs a command of the program and returns what it printed.
func commissaire(t *testing.T, stdin string, arguments ...string) (string, error) {
	t.Helper()
	cmd := eventsCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(arguments)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func must(t *testing.T, arguments ...string) string {
	t.Helper()
	out, err := commissaire(t, "", arguments...)
	if err != nil {
		t.Fatalf("%v: %v", arguments, err)
	}
	return out
}

// began is when the history of aStore began; an event came every second.
var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// aStore has a history of n hosts in two clusters, and one event that no encoder
// writes; it is open until the test closes it.
func aStore(t *testing.T, hosts int) (dir string, store *sqlite.Store) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	store, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	next, now := map[event.Stream]event.Revision{}, began
	var all []eventlog.Raw
	add := func(stream event.Stream, e event.Event) {
		raw, err := eventlog.Encode(stream, event.Decided{ID: uuid.New(), Event: e, Meta: event.Meta{Time: now, Actor: "admin", Reason: "it\x1b[31m", Schema: 1}})
		if err != nil {
			t.Fatal(err)
		}
		raw.Revision = next[stream]
		next[stream]++
		now = now.Add(time.Second)
		all = append(all, raw)
	}
	clusters := []domain.ClusterName{"web", "db"}
	for _, name := range clusters {
		add(event.RosterStream, event.ClusterCreated{ClusterID: domain.ClusterID(name), Cluster: name, Network: "default"})
	}
	for i := range hosts {
		id, address := domain.HostID(fmt.Sprint("h", i)), domain.Address(fmt.Sprint("10.0.0.", i+1))
		add(event.RosterStream, event.HostAdded{HostID: id, Host: address, RemoteUser: "root"})
		add(event.RosterStream, event.HostJoined{HostID: id, Host: address, ClusterID: domain.ClusterID(clusters[i%2]), Cluster: clusters[i%2]})
		add(event.HostStream(id), event.HostBootstrapped{Host: address, Profile: "none"})
	}
	add("watch", event.SweepFinished{Started: now})
	all[len(all)-1].Data = []byte(`{ "started": "2026-03-01T12:00:00Z", "n": 1e2 }`)
	if err := store.AppendAll(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	return dir, store
}

// contents is all that a log has, byte for byte.
func contents(t *testing.T, dir string) (events []eventlog.Raw) {
	t.Helper()
	reader, err := sqlite.OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for batch, err := range eventlog.UpToHead(t.Context(), reader.Follow(t.Context(), 0)) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, batch...)
	}
	return events
}

func equal(t *testing.T, got, want []eventlog.Raw) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b eventlog.Raw) bool {
		return a.Position == b.Position && a.Stream == b.Stream && a.Revision == b.Revision && a.ID == b.ID && a.Type == b.Type &&
			bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Meta, b.Meta)
	}) {
		t.Errorf("%d events are not the %d that they should be", len(got), len(want))
	}
}

func TestWhatWasExportedIsImportedByteForByte(t *testing.T) {
	dir, store := aStore(t, 400) // and a service has it
	defer func() { _ = store.Close() }()
	for _, name := range []string{"events.ndjson", "events.ndjson.gz", "events.ndjson.zst"} {
		t.Run(name, func(t *testing.T) {
			file, other := filepath.Join(t.TempDir(), name), filepath.Join(t.TempDir(), "other")
			must(t, "export", "--store", "sqlite:"+dir, file)
			for i := range 2 { // repeated, it changes nothing
				out := must(t, "import", "--store", "sqlite:"+other, "-o", "json", file)
				if want := fmt.Sprintf(`{"events":1203,"events_imported":%d}`, 1203-1203*i); strings.TrimSpace(out) != want {
					t.Errorf("it says %s, want %s", out, want)
				}
			}
			equal(t, contents(t, other), contents(t, dir))
			if _, err := commissaire(t, "", "export", "--store", "sqlite:"+dir, file); err == nil {
				t.Error("a file that was there is written over")
			}
		})
	}
}

func TestAnExportThatIsRefusedLeavesNoFile(t *testing.T) {
	dir, _ := aStore(t, 5)
	file := filepath.Join(t.TempDir(), "events.ndjson.zst")
	for _, wrong := range [][]string{{"--type", "HostJoint"}, {"--after", "yesterday"}, {"--compress", "rar"}} {
		if _, err := commissaire(t, "", append([]string{"export", "--store", "sqlite:" + dir, file}, wrong...)...); err == nil {
			t.Errorf("%v is exported", wrong)
		}
		must(t, "export", "--store", "sqlite:"+dir, file)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnImportGoesOnWhereItStoppedAndWithWhatWasExportedLater(t *testing.T) {
	dir, _ := aStore(t, 400)
	tmp := t.TempDir()
	first, more, other := filepath.Join(tmp, "first.gz"), filepath.Join(tmp, "more.zst"), filepath.Join(tmp, "other")
	must(t, "export", "--store", "sqlite:"+dir, "--until", "700", first)
	must(t, "export", "--store", "sqlite:"+dir, "--after", "700", more)
	must(t, "import", "--store", "sqlite:"+other, first)
	if n := len(contents(t, other)); n != 700 {
		t.Errorf("%d events, want 700", n)
	}
	must(t, "import", "--store", "sqlite:"+other, first, more)
	equal(t, contents(t, other), contents(t, dir))

	text := must(t, "export", "--store", "sqlite:"+dir)
	lines := strings.SplitAfter(text, "\n")
	cut := strings.Join(lines[:1100], "") + lines[1100][:50] // from standard input, as from a connection that broke
	other += "2"
	if _, err := commissaire(t, cut, "import", "--store", "sqlite:"+other, "-"); err == nil || !strings.Contains(err.Error(), "line 1101") {
		t.Errorf("cut off: %v", err)
	}
	if out, err := commissaire(t, text, "import", "--store", "sqlite:"+other, "-"); err != nil || !strings.HasPrefix(out, "1203 events") {
		t.Errorf("again: %s, %v", out, err)
	}
	equal(t, contents(t, other), contents(t, dir))
}

func TestAFileThatIsNoWholeLogIsRefusedAndNothingIsRecorded(t *testing.T) {
	dir, _ := aStore(t, 20)
	text := must(t, "export", "--store", "sqlite:"+dir)
	lines := strings.SplitAfter(text, "\n")
	for name, c := range map[string]struct{ text, line string }{
		"without a line":  {strings.Join(slices.Delete(slices.Clone(lines), 9, 10), ""), "line 11"}, // where its stream goes on
		"cut off":         {text[:len(text)-3], "line 63"},
		"a line twice":    {lines[0] + text, "line 2"},
		"begun later":     {strings.Join(lines[3:], ""), "line 1"},
		"an id twice":     {strings.Replace(text, idOf(lines[7]), idOf(lines[3]), 1), "line 8"},
		"another version": {strings.Replace(text, `"specversion":"1.0"`, `"specversion":"2.0"`, 1), "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			file, other := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "other")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := commissaire(t, "", "import", "--store", "sqlite:"+other, file); err == nil || !strings.Contains(err.Error(), c.line+":") {
				t.Errorf("it is imported, or the line is not %s: %v", c.line, err)
			}
			if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a store was made: %v", err)
			}
		})
	}
}

func idOf(line string) string {
	_, after, _ := strings.Cut(line, `"id":"`)
	return after[:36]
}

func TestAStoreWithOtherEventsIsLeftAsItIs(t *testing.T) {
	dir, _ := aStore(t, 5)
	other, store := aStore(t, 5)
	file := filepath.Join(t.TempDir(), "file")
	must(t, "export", "--store", "sqlite:"+dir, file)
	if _, err := commissaire(t, "", "import", "--store", "sqlite:"+other, file); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("while a service has it: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	before := contents(t, other)
	if _, err := commissaire(t, "", "import", "--store", "sqlite:"+other, file); err == nil || !strings.Contains(err.Error(), "event 1 differs in its id") {
		t.Errorf("imported: %v", err)
	}
	equal(t, contents(t, other), before)
}

func TestEventsAreShownAsSelected(t *testing.T) {
	dir, _ := aStore(t, 4) // 1 web, 2 db, 3 host, 4 joined web, 5 bootstrapped, 6 host, 7 joined db, …, 15 sweep
	for _, c := range []struct {
		flags string
		want  string
	}{
		{"", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"},
		{"--stream roster --type HostJoined", "4 7 10 13"},
		{"--type HostJoined,HostAdded --after 4 --until 10", "6 7 9 10"},
		{"--cluster web", "1 4 10"},
		{"--host 10.0.0.2", "6 7 8"},
		{"--host 10.0.0.2 --cluster db --after 3", "7"},
		{"--operation none", ""},
		{"--until " + began.Add(2500*time.Millisecond).Format(time.RFC3339Nano), "1 2 3"},
		{"--until 2026-03-01T12:00:02", "1 2 3"},
		{"--after 2026-03-01T12:00:12Z", "14 15"},
	} {
		for _, from := range []string{"store", "file"} {
			arguments := append(strings.Fields(c.flags), "--store", "sqlite:"+dir)
			if from == "file" {
				file := filepath.Join(t.TempDir(), "file.zst")
				must(t, "export", "--store", "sqlite:"+dir, file)
				arguments = append(strings.Fields(c.flags), "--file", file)
			}
			var got []string
			for line := range strings.Lines(must(t, append([]string{"show"}, arguments...)...)) {
				if strings.Contains(line, "\x1b") {
					t.Errorf("a terminal acts on %q", line)
				}
				got = append(got, strings.Fields(line)[0])
			}
			if list := strings.Join(got[1:], " "); list != c.want {
				t.Errorf("%s of a %s: %s, want %s", c.flags, from, list, c.want)
			}
		}
	}
	out := must(t, "show", "--store", "sqlite:"+dir, "-o", "json", "--until", "1")
	if !strings.HasPrefix(out, `{"position":1,"time":"2026-03-01T12:00:00.000000","type":"ClusterCreated","stream":"roster","actor":"admin"`) {
		t.Errorf("shown as %s", out)
	}
	for _, wrong := range [][]string{{"--type", "HostJoint"}, {"--after", "yesterday"}, {"-o", "yaml"}} {
		if out, err := commissaire(t, "", append([]string{"show", "--store", "sqlite:" + dir}, wrong...)...); err == nil {
			t.Errorf("%v shows %s", wrong, out)
		}
	}
}

func TestShownEventsAreFollowedByThoseThatCome(t *testing.T) {
	dir, store := aStore(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, out := io.Pipe()
	cmd := eventsCommand()
	cmd.SetOut(out)
	cmd.SetArgs([]string{"show", "--store", "sqlite:" + dir, "--follow", "--after", "3", "-o", "json"})
	ended := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		_ = out.Close()
		ended <- err
	}()
	lines := bufio.NewScanner(in)
	for position := 4; lines.Scan(); position++ {
		if want := fmt.Sprintf(`{"position":%d,`, position); !strings.HasPrefix(lines.Text(), want) {
			t.Errorf("shown is %s, want position %d", lines.Text(), position)
		}
		switch position {
		case 6: // the last there was
			raw, err := eventlog.Encode("watch", event.Decided{ID: uuid.New(), Event: event.SweepFinished{}})
			if err == nil {
				_, err = store.Append(ctx, "watch", 0, []eventlog.Raw{raw})
			}
			if err != nil {
				t.Fatal(err)
			}
		case 7:
			cancel()
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("interrupted: %v", err)
	}
}
