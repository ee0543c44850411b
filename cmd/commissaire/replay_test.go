package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// replayed is what replay prints, and says on standard error.
func replayed(t *testing.T, stdin string, arguments ...string) (out, said string, err error) {
	t.Helper()
	cmd := replayCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	var stdout, stderr bytes.Buffer
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(arguments)
	err = cmd.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func TestALogTellsWhatWasAnsweredThen(t *testing.T) {
	dir, _ := aStore(t, 4) // 1 web, 2 db, 3 host, 4 joined web, 5 bootstrapped, 6 host, 7 joined db, …, 15 sweep
	text := must(t, "export", "--store", "sqlite:"+dir)
	const web = `{"name":"web","status":"failed","network":"default","container_manager":"","hosts":{"total":1,"available":0,"unavailable":1}}`
	const host = `{"address":"10.0.0.1","status":"investigating","os":"","cpus":0,"memory":0,"space":0,"last_check":"","source":""}`
	line := func(path, answer string) string {
		return fmt.Sprintf(`{"position":4,"time":"2026-03-01T12:00:03.000000","path":%q,"answer":%s}`+"\n", path, answer)
	}
	for _, c := range []struct{ arguments, out, said string }{
		{"--until 1", `{"clusters":[{"name":"web","status":"ok","network":"default","container_manager":"","hosts":{"total":0,"available":0,"unavailable":0}}],"hosts":0,"operations":0}` + "\n", "as of position 1, after the event recorded 2026-03-01T12:00:00Z\n"},
		{"--until 2026-03-01T11:59 /clusters", "[]\n", "as of position 0, before the first event\n"},
		{"--until 2026-03-01T12:00 /clusters", `["web"]` + "\n", "as of position 1,"},
		{"--until 2026-03-01T13:00:01.5+01:00 /clusters", `["db","web"]` + "\n", "as of position 2,"},
		{"--until 4 /cluster/web", web + "\n", "as of position 4,"},
		{"--until 4 /cluster/web/", web + "\n", "as of position 4,"},
		{"/cluster/web/hosts", `["10.0.0.1","10.0.0.3"]` + "\n", "as of position 15,"},
		{"--until 4 --cluster web", line("/cluster/web", web) + line("/cluster/web/hosts", `["10.0.0.1"]`) + line("/host/10.0.0.1", host) +
			line("/cluster/web/deploy", "null") + line("/cluster/web/upgrade", "null") + line("/cluster/web/restart", "null"), "as of position 4,"},
		{"--until 4 /networks /clusters", line("/networks", `["default"]`) + line("/clusters", `["db","web"]`), "as of position 4,"},
	} {
		for _, source := range []string{"--store=sqlite:" + dir, "--file=-"} {
			out, said, err := replayed(t, text, append(strings.Fields(c.arguments), source)...)
			if err != nil || out != c.out || !strings.HasPrefix(said, c.said) {
				t.Errorf("%s of %s: %v\n%s%s", c.arguments, source, err, out, said)
			}
		}
	}
	history, said, err := replayed(t, "", "--store=sqlite:"+dir, "--until=10", "/cluster/web/history?limit=2")
	var entries []struct{ Position int }
	if err != nil || json.Unmarshal([]byte(history), &entries) != nil || fmt.Sprint(entries) != "[{1} {4}]" || !strings.HasSuffix(said, "goes on with '/cluster/web/history?after=4&limit=2'\n") {
		t.Errorf("%v\n%s%s", err, history, said)
	}
}

func TestWhatNoLogTellsIsNotReplayed(t *testing.T) {
	dir, _ := aStore(t, 4)
	store := "--store=sqlite:" + dir
	text := must(t, "export", "--store", "sqlite:"+dir)
	part := filepath.Join(t.TempDir(), "part")
	must(t, "export", "--store", "sqlite:"+dir, "--after", "3", part)
	for _, c := range []struct{ arguments, want string }{
		{store + " --until 16 /hosts", "position 16 is not there yet: the log is at 15"},
		{"--file - --until 16 /hosts", "position 16 is not there yet: the log is at 15"},
		{store + " --until 2999-01-01T00:00:00Z /hosts", "2999-01-01T00:00:00Z has not come yet"},
		{store + " --until yesterday", `--until: "yesterday" is neither a position nor a time`},
		{store + " --until 1 /hosts /cluster/db", `/cluster/db, as of position 1: there is no cluster "db"`},
		{store + " --cluster wep", `/cluster/wep, as of position 15: there is no cluster "wep"`},
		{store + " --cluster w/b", "--cluster: "},
		{store + " /host/10.0.0.1/creds", "credentials"},
		{store + " /operation/00000000-0000-4000-8000-000000000000/host/10.0.0.1/log", "what hosts print"},
		{store + " /events", "streams"},
		{store + " /status", "how a service is"},
		{store + " clusters", "no path such as"},
		{store + " /operations?limit=0", "limit: must be from 1"},
		{store + " -o yaml", "use json"},
		{store + " --follow --until 3", "--follow and --until"},
		{"--follow --file " + part, "--follow and --file"},
		{store + " --file " + part, "--file and --store"},
		{"--file " + part, "revision"},
		{"--file - /cluster/web/history", "standard input is there once"},
		{"--file - /clusters?at=3", "standard input is there once"},
		{"--store sqlite:" + part + "none", "no such file"},
	} {
		if out, _, err := replayed(t, text, strings.Fields(c.arguments)...); err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s: %v %s", c.arguments, err, out)
		}
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, []byte(text[:len(text)-3]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, err := replayed(t, "", "--file", cut); err == nil || out != "" {
		t.Errorf("a file that was cut off tells %s", out)
	}
}

func TestAnswersAreFollowed(t *testing.T) {
	dir, store := aStore(t, 1) // 1 web, 2 db, 3 host, 4 joined web, 5 bootstrapped, 6 sweep
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, out := io.Pipe()
	cmd := replayCommand()
	cmd.SetOut(out)
	cmd.SetArgs([]string{"--store", "sqlite:" + dir, "--follow", "--cluster", "web", "/host/10.0.0.2"})
	ended := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		_ = out.Close()
		ended <- err
	}()
	lines := bufio.NewScanner(in)
	missing := []string{"6 /host/10.0.0.2", "6 /cluster/web/deploy", "6 /cluster/web/upgrade", "6 /cluster/web/restart"}
	expect := func(want ...string) {
		t.Helper()
		for i := range want {
			if !lines.Scan() {
				t.Fatalf("it ended before %s", want[i])
			}
			var line struct {
				Position int
				Path     string
				Answer   json.RawMessage
			}
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(line.Position, " ", line.Path); got != want[i] || (string(line.Answer) == "null") != slices.Contains(missing, got) {
				t.Fatalf("%s, want %s", lines.Text(), want[i])
			}
		}
	}
	expect("6 /host/10.0.0.2", "6 /cluster/web", "6 /cluster/web/hosts", "6 /host/10.0.0.1", "6 /cluster/web/deploy", "6 /cluster/web/upgrade", "6 /cluster/web/restart")
	record := func(revision event.Revision, events ...event.Event) {
		t.Helper()
		var raws []eventlog.Raw
		for _, e := range events {
			raw, err := eventlog.Encode(event.RosterStream, event.Decided{ID: uuid.New(), Event: e})
			if err != nil {
				t.Fatal(err)
			}
			raws = append(raws, raw)
		}
		if _, err := store.Append(ctx, event.RosterStream, revision, raws); err != nil {
			t.Fatal(err)
		}
	}
	record(3, event.HostAdded{HostID: "h2", Host: "10.0.0.2"}, event.ClusterCreated{ClusterID: "c", Cluster: "c"}, event.HostJoined{HostID: "h2", Host: "10.0.0.2", ClusterID: "web", Cluster: "web"})
	expect("7 /host/10.0.0.2", "9 /cluster/web", "9 /cluster/web/hosts")
	record(6, event.UpgradeStarted{Started: event.Started{Operation: "o", ClusterID: "web", Cluster: "web"}})
	expect("10 /cluster/web/upgrade")
	cancel()
	if lines.Scan() {
		t.Errorf("it goes on with %s", lines.Text())
	}
	if err := <-ended; err != nil {
		t.Errorf("interrupted: %v", err)
	}
}
