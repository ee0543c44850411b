package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// replay runs the program's replay, with the configuration of the service.
func (s *service) replay(args ...string) (out string, said string, err error) {
	cmd := exec.CommandContext(s.t.Context(), program, append([]string{"replay", "--config", filepath.Join(s.dir, "config.json")}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+masterKey)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// TestALogAnswersAsItsService asks a service for the past, and the program without
// it: of the store beside the service, and of exported files.
func TestALogAnswersAsItsService(t *testing.T) {
	for name, start := range map[string]func(*testing.T, ...map[string]any) *service{"configured": newService, "double": newOnDouble} {
		t.Run(name, func(t *testing.T) { logAnswers(t, start) })
	}
}

func logAnswers(t *testing.T, start func(*testing.T, ...map[string]any) *service) {
	f, body := hosts(t, atomics(43, 2)...)
	s := start(t, map[string]any{"bootstrap.profile": "none", "watch.interval": "1h"})
	one, two := "/host/"+f.Hosts()[0].Address(), "/host/"+f.Hosts()[1].Address()
	var cuts []string
	look := func() { cuts = append(cuts, s.get("/hosts").header.Get("X-Commissaire-Position")) }
	s.put("/network/n", nil).is(201)
	s.put("/containermanager/m", `{"type":"trivial"}`).is(201)
	s.put("/cluster/c", `{"network":"n","container_manager":"m"}`).is(201)
	look()
	with := body()
	with["cluster"] = "c"
	s.put(one, with, "X-Commissaire-Reason", "first <of> the rack").is(201)
	s.put(two, with).is(201)
	look()
	s.until(one, status("active"))
	s.until(two, status("active"))
	look()
	s.put("/cluster/c/upgrade", nil).is(201)
	look()
	s.until("/cluster/c/upgrade", status("finished"))
	operation := "/operation/" + sprint(s.get("/operations").list()[0].(map[string]any)["id"])
	look()
	s.delete(one).is(200)
	look()
	for _, e := range s.get("/cluster/c/history").list() { // and when things happened
		cuts = append(cuts, sprint(e.(map[string]any)["time"]))
	}
	cuts = append(cuts[:8], cuts[len(cuts)-1], "0", "2015-12-17T15:48Z")

	paths := []string{
		"/clusters", "/cluster/c", "/cluster/c/hosts", "/cluster/c/hosts/" + f.Hosts()[0].Address(), "/cluster/c/upgrade", "/cluster/c/deploy", "/cluster/c/restart",
		"/hosts", one, two, one + "/status", "/networks", "/network/n", "/containermanagers", "/containermanager/m",
		"/operations?cluster=c", "/operations?cluster=d&limit=1", operation,
		"/cluster/c/history", one + "/history?type=HostAdded,HostRemoved", "/cluster/c/diff?from=0", one + "/diff?from=0", operation + "/diff?from=0",
	}
	plain, packed := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "log.zst")
	for _, file := range []string{plain, packed} {
		if out, err := s.run("", "events", "export", "--config", filepath.Join(s.dir, "config.json"), file); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	compared := 0
	for _, cut := range cuts {
		var there []string
		want := map[string]string{}
		absent := ""
		for _, path := range paths {
			key := "at"
			if of, _, found := strings.Cut(strings.Replace(path, "/diff", "/history", 1), "/history"); found {
				key = "to"
				if len(s.get(of+"/history?to="+url.QueryEscape(cut)).list()) == 0 {
					continue // as of then it has none
				}
			}
			separator := "?"
			if strings.Contains(path, "?") {
				separator = "&"
			}
			a := s.get(path + separator + key + "=" + url.QueryEscape(cut))
			if a.status == http.StatusNotFound {
				absent = path
				continue
			}
			there, want[path] = append(there, path), string(a.is(200).body)
		}
		for _, source := range [][]string{nil, {"--file", plain}, {"--file", packed}} {
			arguments := append([]string{"--until", cut}, source...)
			out, said, err := s.replay(append(arguments, there...)...)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if err != nil || len(lines) != len(there) {
				t.Fatalf("%v: %v: %d answers, want %d: %s", arguments, err, len(lines), len(there), said)
			}
			for i, path := range there {
				var line struct {
					Path   string
					Answer json.RawMessage
				}
				if err := json.Unmarshal([]byte(lines[i]), &line); err != nil || line.Path != path || string(line.Answer)+"\n" != want[path] {
					t.Fatalf("%v %s: %v\n%s\nthe service: %s", arguments, path, err, lines[i], want[path])
				}
				compared++
			}
			last := there[len(there)-1]
			if out, said, err := s.replay(append(arguments, last)...); err != nil || out != want[last] {
				t.Fatalf("%v %s: %v: %s%s\nthe service: %s", arguments, last, err, out, said, want[last])
			}
			if absent == "" {
				continue
			}
			if out, said, err := s.replay(append(arguments, absent)...); exit(err) != 1 || out != "" || !strings.HasPrefix(said, "commissaire: replay: "+strings.Split(absent, "?")[0]+", as of position ") {
				t.Fatalf("%v %s: %v: %s%s", arguments, absent, err, out, said)
			}
		}
	}
	t.Logf("%d answers were compared, as of %v", compared, cuts)
	for _, arguments := range [][]string{{"--until", "999999999999"}, {"--until", "2999-01-01T00:00:00Z"}, {"--until", "noon"}, {one + "/creds"}, {"/events"}} {
		if out, said, err := s.replay(arguments...); exit(err) != 1 || out != "" || strings.Count(said, "\n") != 1 {
			t.Errorf("%v: %v: %s%s", arguments, err, out, said)
		}
	}
}

// exit is the status that a program ended with.
func exit(err error) int {
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		return ended.ExitCode()
	}
	return 0
}

// TestReplayFollowsAService ends it as Ctrl-C does.
func TestReplayFollowsAService(t *testing.T) {
	s := newService(t, map[string]any{"watch.interval": "1h"})
	s.leads() // which is recorded
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "replay", "--config", filepath.Join(s.dir, "config.json"), "--follow", "/cluster/c", "/clusters")
	cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+masterKey)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	expect := func(position uint64, path, answer string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("it ended: %v: %s", cmd.Wait(), said.String())
		}
		var line struct {
			Position uint64
			Path     string
			Answer   json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || position > 0 && line.Position != position || line.Path != path || string(line.Answer) != answer {
			t.Fatalf("%s is not %s at %d, %s: %v", lines.Text(), path, position, answer, err)
		}
	}
	expect(0, "/cluster/c", "null")
	expect(0, "/clusters", "[]")
	pos := s.put("/cluster/c", nil).is(201).position()
	expect(pos, "/cluster/c", strings.TrimSpace(string(s.get("/cluster/c").body)))
	expect(pos, "/clusters", `["c"]`)
	s.put("/cluster/c", nil).is(201) // changes nothing
	s.put("/network/n", nil).is(201)
	pos = s.put("/cluster/d", nil).is(201).position()
	expect(pos, "/clusters", `["c","d"]`)
	pos = s.delete("/cluster/c").is(200).position()
	expect(pos, "/cluster/c", "null")
	expect(pos, "/clusters", `["d"]`)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		t.Errorf("more: %s", lines.Text())
	}
	if err := cmd.Wait(); err != nil || said.Len() > 0 {
		t.Errorf("interrupted: %v: %s", err, said.String())
	}
}
