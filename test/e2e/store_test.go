package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "modernc.org/sqlite" // to look at stores, and to spoil them

	"commissaire/test/fleet"
)

// in runs statements on a database file.
func in(t *testing.T, path string, statements string, arguments ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err == nil {
		_, err = db.ExecContext(t.Context(), statements, arguments...)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unheardOf records an event of a type that nobody knows, behind all others, and
// returns its position.
func (s *service) unheardOf() int {
	t := s.t
	t.Helper()
	if s.esdb != nil {
		return int(s.unheardOfInDouble())
	}
	path := filepath.Join(s.dir, "store", "events.db")
	in(t, path, `INSERT INTO events (pos, stream, rev, type, id, data, meta)
		SELECT MAX(pos) + 1, 'later', 0, 'HostTeleported', ?, '{}', '{"schema":1}' FROM events`, uuid.NewString())
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var pos int
	if err := db.QueryRowContext(t.Context(), "SELECT pos FROM events WHERE type = 'HostTeleported'").Scan(&pos); err != nil {
		t.Fatal(err)
	}
	return pos
}

// tree is all that is below a path, with modes and contents.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var text []byte
		if info.Mode().IsRegular() {
			text, err = os.ReadFile(path)
		}
		all[path] = info.Mode().String() + " " + string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// refused runs the service and returns why it did not start: one line.
func (s *service) refused(user *syscall.Credential) string {
	s.t.Helper()
	config, err := os.ReadFile(filepath.Join(s.dir, "config.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(s.t.Context(), program, "serve", "--config", "-")
	cmd.Stdin = bytes.NewReader(config)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TEST_MASTER_KEY="+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user, Pdeathsig: syscall.SIGKILL}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() <= 0 {
		s.t.Errorf("the service ended with %v, want an exit status", err)
	}
	line := complaint.String()
	if out.Len() > 0 || !strings.HasPrefix(line, "commissaire: ") || strings.Count(line, "\n") != 1 {
		s.t.Errorf("it said %q on standard output, %q on standard error; want one line there", out.String(), line)
	}
	return line
}

// shut lets nobody write to a directory, but root.
func shut(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(path, 0o700) })
}

func TestAStoreThatCannotBeUsedIsRefusedAndNotTouched(t *testing.T) {
	onSQLite(t, "it spoils the files of the store")
	var nobody *syscall.Credential // a test that runs as root may read everything
	if os.Geteuid() == 0 {
		nobody = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	directory := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	used := func(t *testing.T, s *service) { // a store of ours
		t.Helper()
		s.start()
		s.put("/cluster/c", nil).is(201)
		s.stop(syscall.SIGTERM)
	}
	for _, test := range []struct {
		name, want string
		as         *syscall.Credential
		make       func(t *testing.T, s *service, store string)
	}{
		{"not readable", "permission denied", nobody, func(t *testing.T, _ *service, store string) {
			directory(t, store)
			file(t, filepath.Join(store, "events.db"), "")
			shut(t, store)
		}},
		{"nowhere to make it", "permission denied", nobody, func(t *testing.T, s *service, _ string) {
			shut(t, s.dir)
		}},
		{"a file for the directory", "not a directory", nil, func(t *testing.T, _ *service, store string) { file(t, store, "x") }},
		{"a directory for the log", "is a directory", nil, func(t *testing.T, _ *service, store string) {
			directory(t, store)
			directory(t, filepath.Join(store, "events.db"))
		}},
		{"no database", "no SQLite database", nil, func(t *testing.T, _ *service, store string) {
			directory(t, store)
			file(t, filepath.Join(store, "events.db"), strings.Repeat("no database ", 50))
		}},
		{"another database", "no event log", nil, func(t *testing.T, _ *service, store string) {
			directory(t, store)
			in(t, filepath.Join(store, "events.db"), "PRAGMA journal_mode = WAL; CREATE TABLE pets (name TEXT); INSERT INTO pets VALUES ('Rex')")
		}},
		{"of a newer version", "version 99", nil, func(t *testing.T, s *service, store string) {
			used(t, s)
			in(t, filepath.Join(store, "events.db"), "PRAGMA user_version = 99")
		}},
		{"sealed with another master key", "the master key is not the one", nil, func(t *testing.T, s *service, store string) {
			used(t, s)
			in(t, filepath.Join(store, "credentials.db"), "UPDATE credentials SET sealed = zeroblob(64)")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := unstarted(t)
			store := filepath.Join(s.dir, "store")
			test.make(t, s, store)
			_ = os.Remove(filepath.Join(s.dir, "log"))
			var before map[string]string
			if os.Geteuid() == 0 || test.want != "permission denied" {
				before = tree(t, s.dir)
			}
			if line := s.refused(test.as); !strings.Contains(line, test.want) || !strings.Contains(line, store) && !strings.Contains(line, "credentials") {
				t.Errorf("it says %q; want %q and the directory in it", line, test.want)
			}
			if before == nil {
				return
			}
			if after := tree(t, s.dir); !maps.Equal(after, before) {
				t.Errorf("the directory was changed: before %q, after %q", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
		})
	}
}

func TestAnEventOfUnknownTypeIsNamedAndNotLeftOut(t *testing.T) {
	s := newService(t)
	s.put("/cluster/before", nil).is(201)
	pos := s.unheardOf()
	name := fmt.Sprintf("HostTeleported at position %d", pos)

	s.put("/cluster/after", nil).is(201) // recorded, though no view will show it
	s.get("/clusters").is(200).says(`["before"]`)
	if detail := sprint(s.as("", "GET", "//readyz", nil).is(503).object()["detail"]); !strings.Contains(detail, name) {
		t.Errorf("/readyz says %q; want %q in it", detail, name)
	}
	s.as("", "GET", "//healthz", nil).is(200)
	s.stop(syscall.SIGTERM)
	log := s.logged()
	if !strings.Contains(log, name) {
		t.Errorf("the log does not name the event:\n%s", log)
	}
	if n := strings.Count(log, name); n > 3 {
		t.Errorf("the log names it %d times", n)
	}
	if line := s.refused(nil); !strings.Contains(line, name) {
		t.Errorf("started anew it says %q; want %q in it", line, name)
	}
}

func TestATornLastWriteLosesNothingElse(t *testing.T) {
	onSQLite(t, "it tears the file of the log")
	s := newService(t)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("c%02d", i))
		s.put("/cluster/"+names[i], nil).is(201)
	}
	s.put("/cluster/last", nil).is(201)
	s.stop(syscall.SIGKILL)
	wal := filepath.Join(s.dir, "store", "events.db-wal")
	info, err := os.Stat(wal)
	if err == nil {
		err = os.Truncate(wal, info.Size()-100)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	if got, want := sprint(s.get("/clusters").is(200).list()), sprint(names); got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	s.put("/cluster/last", nil).is(201)
	s.crash()
	if got, want := sprint(s.get("/clusters").is(200).list()), sprint(append(names, "last")); got != want {
		t.Errorf("after the next start there are %s, want %s", got, want)
	}
}

// disk is a small file system that only the service sees.
type disk struct {
	t    *testing.T
	path string // of its root, as this process sees it
}

// onSmallDisk puts the service's store on a disk of 1 MiB, in a mount namespace
// that lasts as long as the test.
func onSmallDisk(t *testing.T, s *service) disk {
	t.Helper()
	store := filepath.Join(s.dir, "store")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	holder := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t tmpfs -o size=1m,mode=0700 commissaire "$1" && echo mounted && exec cat`, "sh", store)
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	input, err := holder.StdinPipe() // cat ends with it
	if err != nil {
		t.Fatal(err)
	}
	output, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	holder.Stderr = &complaint
	if err := holder.Start(); err != nil {
		t.Skipf("no mount namespace can be had (%v): the full disk is left out", err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = holder.Wait()
	})
	if n, _ := output.Read(make([]byte, 64)); n == 0 {
		_ = input.Close()
		_ = holder.Wait()
		t.Skipf("no small file system can be mounted (%s): the full disk is left out", complaint.String())
	}
	pid := strconv.Itoa(holder.Process.Pid)
	s.within = []string{"nsenter", "--mount=/proc/" + pid + "/ns/mnt"}
	return disk{t, filepath.Join("/proc", pid, "root", store)}
}

func (d disk) fill() {
	d.t.Helper()
	ballast, err := os.Create(filepath.Join(d.path, "ballast"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = ballast.Close() }()
	for page := make([]byte, 4096); err == nil; {
		_, err = ballast.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
}

func (d disk) free() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.path, "ballast")); err != nil {
		d.t.Fatal(err)
	}
}

// TestAFullDiskStopsChangesAndNothingElse fills the disk while a host is being
// upgraded.
func TestAFullDiskStopsChangesAndNothingElse(t *testing.T) {
	onSQLite(t, "it fills the disk that the store's files are on")
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.15.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.15.2", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
	)
	s := unstarted(t)
	d := onSmallDisk(t, s)
	s.start()
	t.Cleanup(func() { s.stop(syscall.SIGKILL) })
	host, other := f.Host("127.0.15.1"), "/host/127.0.15.2"
	s.put("/cluster/c", nil).is(201)
	s.put("/network/unused", nil).is(201)
	s.addHosts("c", body, host.Address())
	s.ready(host.Address())
	release := host.Hold("dnf -y upgrade")
	s.put("/cluster/c/upgrade", nil).is(201)
	upgrade := func(is func(fleet.Command) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := host.Await(ctx, func(h *fleet.Host) bool {
			return slices.ContainsFunc(h.Commands(), func(c fleet.Command) bool {
				return strings.HasPrefix(c.Line, "dnf -y upgrade") && is(c)
			})
		}); err != nil {
			t.Fatal(err)
		}
	}
	upgrade(func(fleet.Command) bool { return true })
	d.fill()
	refused := func(a answer) {
		t.Helper()
		if a.is(503); a.header.Get("Retry-After") == "" || strings.Contains(string(a.body), "outcome") {
			t.Errorf("%s: Retry-After %q, %s", a.call, a.header.Get("Retry-After"), a.body)
		}
	}
	for i := range 5 {
		refused(s.put(fmt.Sprintf("/network/refused%d", i), nil))
	}
	refused(s.put("/containermanager/refused", `{"options":{"server_url":"https://k:1","token":"t"}}`))
	refused(s.put("/cluster/refused", nil))
	refused(s.put(other, body()))
	refused(s.delete("/network/unused"))
	refused(s.get("/host/" + host.Address() + "/creds")) // its reading cannot be recorded
	s.get("/networks").is(200).says(`["default","unused"]`)
	s.get("/containermanagers").is(200).says(`[]`)
	s.get("/hosts").is(200)
	s.get(other).is(404)
	s.get("/cluster/c/upgrade").is(200)
	s.get("/cluster/c/history").is(200)
	s.as("", "GET", "//readyz", nil).is(200)
	release()
	upgrade(func(c fleet.Command) bool { return c.Done })
	refused(s.put("/network/refused", nil))
	if record := s.get("/cluster/c/upgrade").object(); record["status"] != "in_process" {
		t.Errorf("the upgrade is shown to have ended: %v", record)
	}
	d.free()
	if record := s.until("/cluster/c/upgrade", status("finished", "failed")); record["status"] != "finished" {
		t.Errorf("the upgrade %v: %s", record["status"], s.get("/operations").body)
	}
	if n := commands(host, "dnf -y upgrade"); n != 1 {
		t.Errorf("the host was upgraded %d times", n)
	}
	s.put("/network/taken", nil).is(201)
	s.put(other, body()).is(201)
	for range 2 {
		s.get("/clusters").is(200).says(`["c"]`)
		s.get("/networks").is(200).says(`["default","taken","unused"]`)
		s.get("/containermanagers").is(200).says(`[]`)
		s.get("/cluster/c/hosts").is(200).says(`["127.0.15.1"]`)
		s.get("/host/" + host.Address() + "/creds").is(200)
		s.until(other, status("disassociated"))
		s.crash()
	}
	s.stop(syscall.SIGTERM)
	text, err := os.ReadFile(filepath.Join(d.path, "credentials.db"))
	copied := filepath.Join(t.TempDir(), "credentials.db") // SQLite resolves links, and /proc has one that leads elsewhere
	if err == nil {
		err = os.WriteFile(copied, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", copied)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var recorded int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM credentials WHERE id <> 'master-key-check'").Scan(&recorded); err != nil || recorded != 2 {
		t.Errorf("%d credentials are kept, %v; want those of the two hosts", recorded, err)
	}
	if lines := strings.Count(s.logged(), "\n"); lines > 1000 {
		t.Errorf("%d lines were logged", lines)
	}
}
