package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/users"
)

// user runs commissaire user on a file, with this on standard input.
func user(ctx context.Context, file string, in io.Reader, args ...string) (string, error) {
	cmd := userCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetIn(in)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{"--file", file}, args...))
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func mustUser(t *testing.T, file, in string, args ...string) string {
	t.Helper()
	out, err := user(t.Context(), file, strings.NewReader(in), args...)
	if err != nil {
		t.Fatalf("user %v: %v", args, err)
	}
	return out
}

// roles are what the plugin that the file is for says of a user; "" says no.
func rolesOf(t *testing.T, file, name, password string) string {
	t.Helper()
	plugin, err := authentication.NewHTTPBasicAuth(file, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{RemoteAddr: "192.0.2.1:1", Header: http.Header{}}
	r.SetBasicAuth(name, password)
	identity, err := plugin.Authenticate(r)
	if err != nil {
		return ""
	}
	return fmt.Sprint(identity.Roles)
}

func TestWhatUserWritesIsWhatThePluginReads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "made", "users.json")
	mustUser(t, file, "password of a\n", "add", "a")
	mustUser(t, file, "password of b\r\nignored\n", "add", "b", "--role", "operator,join", "--role", "auditor")
	mustUser(t, file, "password of c", "add", "c", "--role", "admin")
	for name, want := range map[string]string{"a": "[viewer]", "b": "[operator join auditor]", "c": "[admin]"} {
		if got := rolesOf(t, file, name, "password of "+name); got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	mustUser(t, file, "another password\n", "password", "b")
	if rolesOf(t, file, "b", "password of b") != "" || rolesOf(t, file, "b", "another password") != "[operator join auditor]" {
		t.Error("the password was not changed, or more than that was")
	}
	mustUser(t, file, "", "remove", "a")
	if rolesOf(t, file, "a", "password of a") != "" || rolesOf(t, file, "c", "password of c") != "[admin]" {
		t.Error("not a alone was removed")
	}
	if out := mustUser(t, file, "", "list"); strings.Join(strings.Fields(out), " ") != "NAME ROLES b operator join auditor c admin" {
		t.Errorf("listed %q", out)
	}
	var listed []struct {
		Name  string
		Roles []string
	}
	out := mustUser(t, file, "", "list", "-o", "json")
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed) != 2 || listed[0].Name != "b" || len(listed[0].Roles) != 3 || strings.Contains(out, "$2a$") {
		t.Errorf("listed %s, %v", out, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 2 { // and the lock
		t.Errorf("%v are left, %v", entries, err)
	}
}

func TestAFileOfTheOldFormIsKept(t *testing.T) {
	dir := t.TempDir()
	mustUser(t, filepath.Join(dir, "new.json"), "old password\n", "add", "old")
	made, err := users.File(filepath.Join(dir, "new.json")).Read()
	if err != nil {
		t.Fatal(err)
	}
	file, link := filepath.Join(dir, "users.json"), filepath.Join(dir, "link.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"old":{"hash":%q}}`, made["old"].Hash), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 12345, 23456); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	mustUser(t, link, "new password\n", "add", "new")
	if rolesOf(t, file, "old", "old password") != "[admin]" || rolesOf(t, file, "new", "new password") != "[viewer]" {
		t.Error("the users are others")
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	if info, err = os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want it to be closed to others, and no more", info.Mode(), err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && (owner.Uid != 12345 || owner.Gid != 23456) {
		t.Errorf("now it belongs to %d:%d, and its service cannot read it", owner.Uid, owner.Gid)
	}
}

func TestUserRefusesAndLeavesTheFileAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.json")
	mustUser(t, file, "password of a\n", "add", "a")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in, want string
		args     []string
	}{
		{"password\n", "already", []string{"add", "a"}},
		{"password\n", "is no name", []string{"add", "b:c"}},
		{"password\n", "is no name", []string{"add", ""}},
		{"password\n", "is no name", []string{"add", "b\nc"}},
		{"password\n", "use viewer, operator", []string{"add", "b", "--role", "root"}},
		{"password\n", "at least one role", []string{"add", "b", "--role="}},
		{"MARKER\n", "from 8 to 72 bytes", []string{"add", "b"}},
		{strings.Repeat("MARKER", 13), "from 8 to 72 bytes", []string{"add", "b"}},
		{"", "from 8 to 72 bytes", []string{"password", "a"}},
		{"password\n", "no user", []string{"password", "b"}},
		{"", "no user", []string{"remove", "b"}},
		{"password\n", "accepts 1 arg", []string{"add", "b", "password"}},
		{"", "table or json", []string{"list", "-o", "xml"}},
	} {
		_, err := user(t.Context(), file, strings.NewReader(c.in), c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "MARKER") {
			t.Errorf("%v: %v; want %q in it", c.args, err, c.want)
		}
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file became %s, %v", after, err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := user(t.Context(), file, strings.NewReader("password\n"), "add", "b"); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken file: %v", err)
	}
}

func TestUsersAddedAtTheSameTimeAreAllThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.json")
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if _, err := user(t.Context(), file, strings.NewReader("password\n"), "add", fmt.Sprint("user", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made, err := users.File(file).Read(); err != nil || len(made) != 4 {
		t.Errorf("%d are there, %v", len(made), err)
	}
}

func TestAskingForAPasswordCanBeInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, never := io.Pipe()
	defer func() { _ = never.Close() }()
	file := filepath.Join(t.TempDir(), "users.json")
	done := make(chan error)
	go func() {
		_, err := user(ctx, file, in, "add", "a")
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		t.Error("a user was made without a password")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file was written")
	}
}
