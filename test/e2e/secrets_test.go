package e2e

import (
	"bytes"
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"commissaire/test/esdb"
	"commissaire/test/fleet"
)

// secrets are texts that may be nowhere, by what they are.
type secrets map[string]string

// addKey makes a private key out of a name of 32 bytes: that is the secret half
// of an Ed25519 key, as it is. The comment and each line of the file are secrets
// too. What opens the file is "" or a passphrase.
func (s secrets) addKey(t *testing.T, name, passphrase string) (private []byte, public ssh.PublicKey) {
	t.Helper()
	key := ed25519.NewKeyFromSeed([]byte(name))
	comment := "comment of " + name
	block, err := ssh.MarshalPrivateKey(key, comment)
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, comment, []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private = pem.EncodeToMemory(block)
	s[name], s[comment] = name, comment
	lines := strings.Split(strings.TrimSpace(string(private)), "\n")
	for i, line := range lines[1 : len(lines)-1] {
		s[fmt.Sprintf("line %d of %s", i+1, name)] = line
	}
	return private, signer.PublicKey()
}

// A run may be broken into lines, also as JSON and logs write line breaks.
var (
	base64Run = regexp.MustCompile(`[A-Za-z0-9+/_-]{16,}(?:(?:\r?\n|\\n)[A-Za-z0-9+/_-]+)*`)
	hexRun    = regexp.MustCompile(`[0-9A-Fa-f]{32,}`)
	oneLine   = strings.NewReplacer("\r", "", "\n", "", `\n`, "", "-", "+", "_", "/")
)

// in are the secrets that are in data as they are, or in base64 or hex, also in
// one another, up to three deep.
func (s secrets) in(data []byte) []string {
	found := map[string]bool{}
	s.find(data, 3, found)
	return slices.Sorted(maps.Keys(found))
}

func (s secrets) find(data []byte, deep int, found map[string]bool) {
	for what, text := range s {
		if bytes.Contains(data, []byte(text)) {
			found[what] = true
		}
	}
	if deep == 0 || len(data) == 0 {
		return
	}
	base64Runs, hexRuns := base64Run.FindAll(data, -1), hexRun.FindAll(data, -1)
	for from := range 4 { // what was encoded may have begun before the run
		var plain []byte
		for _, run := range base64Runs {
			text := oneLine.Replace(string(run[from:]))
			if len(text)%4 == 1 { // no encoding has this length
				text = text[:len(text)-1]
			}
			plain, _ = base64.RawStdEncoding.AppendDecode(append(plain, 0), []byte(text)) // of these letters all can be decoded
		}
		s.find(plain, deep-1, found)
	}
	for from := range 2 {
		var plain []byte
		for _, run := range hexRuns {
			plain, _ = hex.AppendDecode(append(plain, 0), run[from:len(run)-(len(run)-from)%2])
		}
		s.find(plain, deep-1, found)
	}
}

// nowhere checks that no file below a directory holds a secret, and returns how
// many files it read.
func (s secrets) nowhere(t *testing.T, dir string) (files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		files++
		for _, what := range s.in(text) {
			t.Errorf("%s holds %s", path, what)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// nowhereIn checks all that a double of EventStoreDB holds, and returns how many
// streams there are.
func (s secrets) nowhereIn(t *testing.T, server *esdb.Server) int {
	t.Helper()
	streams := map[string]bool{}
	for stream, text := range server.Records() {
		streams[stream] = true
		for _, what := range append(s.in(text), s.in([]byte(stream))...) {
			t.Errorf("%s holds %s", stream, what)
		}
	}
	return len(streams)
}

// credentials are what damages all that a service has, and what then keeps it
// from having more.
func (s *service) credentials() (damage, shut func()) {
	t := s.t
	t.Helper()
	if s.esdb != nil {
		return func() {
			for _, path := range s.keys() {
				if err := os.WriteFile(path, []byte(`{"made_at":"2020-01-01T00:00:00Z","wrapped_key":"AAAA"}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, func() { s.esdb.NotReady(true) }
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "store", "credentials.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	do := func(statement string) func() {
		return func() {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	return do("UPDATE credentials SET sealed = substr(sealed, 2)"), do("ALTER TABLE credentials RENAME TO moved")
}

// keys are the files of the data keys that a service on a double has, without
// that of its check.
func (s *service) keys() []string {
	s.t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.dir, "keys", "*.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.DeleteFunc(paths, func(path string) bool { return strings.Contains(path, "check") })
}

// nowhereInProcess checks the program and its children: their arguments and
// environment, and all files they have open, deleted ones too.
func (s secrets) nowhereInProcess(t *testing.T, pid int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, stat := range all {
		text, err := os.ReadFile(stat)
		var parent int
		if end := bytes.LastIndexByte(text, ')'); err != nil || end < 0 {
			continue // it has ended
		} else if _, err := fmt.Sscanf(string(text[end+1:]), " %s %d", new(string), &parent); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(stat)
		if parent != pid && dir != fmt.Sprintf("/proc/%d", pid) {
			continue
		}
		files, err := filepath.Glob(dir + "/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range append(files, dir+"/cmdline", dir+"/environ") {
			if link, err := os.Readlink(file); err == nil && !strings.HasPrefix(link, "/") {
				continue // no file but a socket, or the like
			}
			if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			looked++
			for _, what := range s.in(text) {
				t.Errorf("%s holds %s", file, what)
			}
		}
	}
	if looked < 4 { // arguments, environment, two databases
		t.Errorf("only %d files of process %d were looked at", looked, pid)
	}
}

// recorder keeps all answers, except those that may hold a key.
type recorder struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil || strings.HasSuffix(request.URL.Path, "/creds") && response.StatusCode == http.StatusOK {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, "%v\n%s\n", response.Header, body)
	return response, err
}

// TestSecretsAreFoundInEveryForm is why TestSecretsAreNowhere can be believed.
func TestSecretsAreFoundInEveryForm(t *testing.T) {
	s := secrets{}
	private, _ := s.addKey(t, "a private key in thirty-two byte", "")
	s["password"] = "a password to be found"
	quoted := func(text []byte) []byte {
		q, err := json.Marshal(string(text))
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	outer := base64.StdEncoding.EncodeToString(private)
	der, _ := pem.Decode(private)
	for form, c := range map[string]struct {
		text string
		want string
	}{
		"as it is":               {"… a password to be found …", "password"},
		"as the file":            {string(private), "a private key in thirty-two byte"},
		"as the file, quoted":    {string(quoted(private)), "a private key in thirty-two byte"},
		"as a client sends it":   {`{"ssh_priv_key":"` + outer + `"}`, "a private key in thirty-two byte"},
		"a part of that":         {outer[101 : len(outer)-30], "a private key in thirty-two byte"},
		"without its armour":     {string(der.Bytes), "comment of a private key in thirty-two byte"},
		"one line of the file":   {"last words: " + strings.Split(string(private), "\n")[3], "line 3 of a private key in thirty-two byte"},
		"in base64 in base64":    {base64.StdEncoding.EncodeToString([]byte(base64.URLEncoding.EncodeToString([]byte("a password to be found")))), "password"},
		"in hex":                 {hex.EncodeToString([]byte("xx a password to be found")), "password"},
		"in hex, in upper case":  {strings.ToUpper(hex.EncodeToString([]byte("a password to be found"))), "password"},
		"the secret half in hex": {"seed=" + hex.EncodeToString([]byte("a private key in thirty-two byte")), "a private key in thirty-two byte"},
		"as an Authorization":    {"Basic " + base64.StdEncoding.EncodeToString([]byte("admin:a password to be found")), "password"},
	} {
		if found := s.in([]byte(c.text)); !slices.Contains(found, c.want) {
			t.Errorf("%s: found are %q", form, found)
		}
	}
	if found := s.in([]byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("no secret "), 100)))); len(found) > 0 {
		t.Errorf("found where there is none: %q", found)
	}
}

// TestSecretsAreNowhere sends keys, passwords and tokens in every way, good and
// bad, and then looks for them in all that is kept, said and logged.
func TestSecretsAreNowhere(t *testing.T) {
	all := secrets{"password": password}
	private, public := all.addKey(t, "the private key of all the hosts", "")
	stranger, _ := all.addKey(t, "a private key that opens nothing", "")
	sealed, _ := all.addKey(t, "a private key with a passphrase.", "the passphrase of a private key")
	etcd, _ := all.addKey(t, "the private key of the etcd user", "")
	for _, name := range []string{
		"the token of a manager", "another token of a manager", "a password in a URL", "a wrong password", "another wrong password",
		"the passphrase of a private key", "the password of a new user", "a password in a body",
	} {
		all[name] = strings.ReplaceAll(name, " ", "-") + "-0123456789"
	}
	all["the passphrase of a private key"] = "the passphrase of a private key"

	f, err := fleet.Start(fleet.Config{
		Authorized: []ssh.PublicKey{public}, Second: 200 * time.Millisecond, Hosts: []fleet.Spec{
			{Address: "127.0.18.1", OS: fleet.Atomic, Version: "41.1", Next: "41.2"},
			{Address: "127.0.18.2", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
			{Address: "127.0.18.3", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	files := t.TempDir() // where the secrets that the service reads are
	for name, text := range map[string][]byte{"key": etcd, "certificate": []byte("a certificate")} {
		if err := os.WriteFile(filepath.Join(files, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("SQLITE_TMPDIR", temporary)
	heard := &recorder{}
	s := newService(t, map[string]any{
		"debug": true, "bootstrap.etcd-client-key": filepath.Join(files, "key"),
		"bootstrap.etcd-client-cert": filepath.Join(files, "certificate"),
	})
	s.client = &http.Client{Transport: heard}
	encoded := base64.StdEncoding.EncodeToString
	host := func(key []byte, more ...any) map[string]any {
		body := map[string]any{"ssh_priv_key": encoded(key), "ssh_port": f.Port()}
		for i := 0; i+1 < len(more); i += 2 {
			body[more[i].(string)] = more[i+1]
		}
		return body
	}
	text := func(value any) string {
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}

	// Who asks.
	for _, wrong := range []string{"a wrong password", "another wrong password"} {
		for range 8 { // until they are delayed
			r := s.request("", "GET", "/hosts", nil)
			r.SetBasicAuth("auditor", all[wrong])
			s.do(r).is(403)
		}
	}
	if out, err := s.run(all["the password of a new user"], "user", "add", "new", "--role", "viewer", "--file", filepath.Join(s.dir, "users.json")); err != nil || len(all.in([]byte(out))) > 0 {
		t.Errorf("adding a user: %v: %s", err, out)
	}
	if out, err := s.run("", "serve", "--config", filepath.Join(s.dir, "config.json"), "--print-config"); err != nil || len(all.in([]byte(out))) > 0 {
		t.Errorf("the configuration: %v: %s", err, out)
	}

	// Hosts.
	s.put("/cluster/c", nil).is(201)
	one, two, three := "/host/127.0.18.1", "/host/127.0.18.2", "/host/127.0.18.3"
	for _, body := range []any{
		text(host(private))[:400], text([]any{host(private)}), encoded(private), string(private),
		host(private[:len(private)/2]), host(sealed), host(append([]byte("x"), private...)),
		map[string]any{"ssh_priv_key": string(private)},
		map[string]any{"ssh_priv_key": []string{encoded(private)}},
		map[string]any{"ssh_priv_key": map[string]any{"key": encoded(private)}},
		host(private, "remote_user", encoded(private)), host(private, "remote_user", []string{encoded(private)}),
		host(private, "ssh_host_key", string(private)), host(private, "ssh_port", encoded(private)), host(private, "address", encoded(private)),
		host(private, "cluster", encoded(private)),
	} {
		s.put(one, body).is(400)
	}
	s.put(one, text(host(private, "padding", strings.Repeat(" ", 1<<20)))).is(413)
	s.put(one, text(host(private)), "Content-Encoding", "gzip").is(400)
	s.put(one, host(private, "cluster", "c", "password", all["a password in a body"])).is(201)
	s.put(one, host(stranger)).is(409)
	s.put(two, host(private, "cluster", "c")).is(201)
	s.until(one, status("disassociated"))
	s.until(two, status("disassociated"))
	s.put(three, host(stranger)).is(201)
	s.until(three, status("failed"))
	s.delete(three).is(200)
	f.Host("127.0.18.3").SetFaults(fleet.Faults{RefuseKey: true})
	s.put(three, host(private)).is(201)
	s.until(three, status("failed"))
	if found := all.in(s.get(one + "/creds").is(200).body); !slices.Contains(found, "the private key of all the hosts") {
		t.Errorf("in the answer that holds the key, found are %q", found)
	}
	s.as("viewer", "GET", one+"/creds", nil).is(403)
	s.get("/host/127.0.18.9/creds").is(404)

	// Container managers.
	manager := func(options map[string]any) string {
		return text(map[string]any{"type": "openshift", "options": options})
	}
	token, url := all["the token of a manager"], "https://k:1"
	s.put("/containermanager/m", manager(map[string]any{"server_url": url, "token": []string{token}})).is(400)
	s.put("/containermanager/m", manager(map[string]any{"token": token})).is(400)
	s.put("/containermanager/m", manager(map[string]any{"server_url": url, "token": token, "colour": token})).is(400)
	s.put("/containermanager/m", manager(map[string]any{"server_url": url, "token": token, "ca_path": token})).is(400)
	s.put("/containermanager/m", manager(map[string]any{"server_url": "https://user:" + all["a password in a URL"] + "@k:1", "token": token})).is(400)
	s.put("/containermanager/m", manager(map[string]any{"server_url": url, "token": token})).is(201)
	s.put("/containermanager/m", manager(map[string]any{"server_url": url, "token": token})).is(201)
	s.put("/containermanager/m", manager(map[string]any{"server_url": url, "token": all["another token of a manager"]})).is(409)
	s.put("/cluster/c", `{"container_manager":"m"}`).is(201)
	s.await(func() bool { return strings.Contains(string(s.get(one+"/history").body), "HostRegistrationFailed") }, one+"/history")
	s.get(one + "/status").is(200)
	s.put("/cluster/c", `{"container_manager":""}`).is(201)

	// Operations, also with a body for something else, a host that fails, and a crash.
	s.put("/cluster/c/upgrade", host(private)).is(400)
	s.put("/cluster/c/deploy", map[string]any{"version": string(private)}).is(400)
	s.put("/cluster/c/upgrade", nil).is(201)
	s.until("/cluster/c/upgrade", status("finished"))
	f.Host("127.0.18.1").SetFaults(fleet.Faults{RefuseKey: true})
	f.Host("127.0.18.1").DropConnections()
	s.put("/cluster/c/restart", nil).is(201)
	s.until("/cluster/c/restart", status("failed"))
	f.Host("127.0.18.1").SetFaults(fleet.Faults{})
	s.put("/cluster/c/restart", nil).is(201)
	s.crash()
	s.until("/cluster/c/restart", status("finished"))

	// All that is shown.
	for _, path := range []string{
		"/clusters", "/cluster/c", "/cluster/c/hosts", "/cluster/c/upgrade", "/cluster/c/history", "/hosts", one, one + "/history", three,
		three + "/history", "/containermanagers", "/containermanager/m", "/networks", "/network/default", "/operations", "/status", "//metrics",
	} {
		s.get(path).is(200)
	}
	told := map[string]bool{}
	for _, m := range s.listen("?after=0").await(t, s.get("/status").is(200).position()) {
		told[m.event] = true
		for _, what := range all.in([]byte(m.data)) {
			t.Errorf("%s at position %d holds %s", m.event, m.id, what)
		}
	}
	for _, what := range []string{"HostAdded", "HostCredentialsRead", "ContainerManagerDefined", "HostRegistrationFailed", "UpgradeStarted", "HostTurnFailed", "HostTurnSucceeded"} {
		if !told[what] {
			t.Errorf("the stream of events does not have %s: %v", what, told)
		}
	}

	// Backups, beside the rest of what is looked at.
	if s.esdb == nil {
		log, keys := filepath.Join(s.dir, "backup"), filepath.Join(s.dir, "backup-keys")
		config := []string{"--config", filepath.Join(s.dir, "config.json")}
		for _, args := range [][]string{{"backup", log, "--credentials", keys}, {"restore", log, "--credentials", keys, "--store", "sqlite:" + filepath.Join(s.dir, "restored")}} {
			if out, err := s.run("", append(args, config...)...); err != nil || len(all.in([]byte(out))) > 0 || !strings.Contains(out, "each was opened") {
				t.Errorf("%s: %v: %s", args[0], err, out)
			}
		}
		if text, err := os.ReadFile(filepath.Join(log, "events.db")); err != nil || bytes.Contains(text, []byte("wrapped_key")) {
			t.Errorf("the backup of the log has credentials, %v", err)
		}
	}

	// A credential that was damaged, and a store that cannot be written.
	damage, shut := s.credentials()
	damage()
	s.get(one + "/creds").is(500)
	shut()
	s.put("/host/127.0.18.4", host(private)).is(503)
	s.put("/containermanager/n", manager(map[string]any{"server_url": url, "token": token})).is(503)
	all.nowhereInProcess(t, s.cmd.Process.Pid)

	// Before it ends, and after: the write-ahead logs are gone then.
	read := all.nowhere(t, s.dir)
	s.stop(syscall.SIGTERM)
	if s.esdb != nil {
		read += all.nowhereIn(t, s.esdb)
	}
	if read += all.nowhere(t, s.dir); read < 8 {
		t.Errorf("only %d files were read", read)
	}
	if left := all.nowhere(t, temporary); left > 0 {
		t.Errorf("%d temporary files are left", left)
	}
	for _, what := range all.in(heard.text.Bytes()) {
		t.Errorf("an answer holds %s", what)
	}
	if heard.text.Len() < 10_000 {
		t.Errorf("only %d bytes of answers were heard", heard.text.Len())
	}
	for _, c := range f.Commands() {
		for _, what := range all.in([]byte(c.Line)) {
			t.Errorf("a command on %s holds %s", c.Host, what)
		}
	}
	if key, err := f.Host("127.0.18.2").ReadFile("/etc/etcd/key.crt"); err != nil || !bytes.Equal(bytes.TrimSpace(key), bytes.TrimSpace(etcd)) {
		t.Errorf("the etcd key did not come to the host: %v", err)
	}
}
