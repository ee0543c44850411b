package ssh

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/keys"
	"commissaire/test/vault"

	xssh "golang.org/x/crypto/ssh"
)

// site is a machine behind SSH and a Remote that may log in there.
type site struct {
	*machine
	server *server
	remote *Remote
	target process.Target
	log    *bytes.Buffer
}

func newSite(t *testing.T, config Config, change ...func(*machine)) *site {
	t.Helper()
	m := newMachine(t, "dash")
	secret, signer := keys.New(t)
	m.key = signer
	for _, f := range change {
		f(m)
	}
	config.Reach.Loopback = true
	server := m.serve(t)
	var log bytes.Buffer
	user := domain.Root
	if m.user != "" {
		user = domain.RemoteUser(m.user)
	}
	return &site{
		machine: m,
		server:  server,
		log:     &log,
		remote:  New(config, vault.Of("key", secret), slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		target:  process.Target{HostID: "host", Host: "127.0.0.1", Port: server.port, User: user, Credential: "key", Leader: process.Leader{Log: "log", Term: 1}},
	}
}

func (s *site) dial(t *testing.T) *Session {
	t.Helper()
	session, err := s.remote.Dial(t.Context(), s.target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session.(*Session)
}

// refusal is the reason of a *process.Refused, which err must be.
func refusal(t *testing.T, err error) string {
	t.Helper()
	var refused *process.Refused
	if !errors.As(err, &refused) {
		t.Fatalf("not refused: %v", err)
	}
	return refused.Reason
}

func unreachable(t *testing.T, err error) string {
	t.Helper()
	var reason *process.Unreachable
	if !errors.As(err, &reason) {
		t.Fatalf("not unreachable: %v", err)
	}
	return reason.Reason
}

func TestAHostIsInvestigatedInOneRoundTripWhateverItsShellPrints(t *testing.T) {
	s := newSite(t, Config{}, func(m *machine) {
		m.user = "cloud-user"
		m.noise = "Welcome! 0123 begin\n\x1b[31m" + strings.Repeat("noise ", 10_000) + "\nno newline"
	})
	session := s.dial(t)
	facts, err := session.Facts(t.Context())
	if err != nil || facts.OS != "fedora" || facts.BootID != firstBoot {
		t.Errorf("%+v, %v", facts, err)
	}
	if id, err := session.BootID(t.Context()); err != nil || id != firstBoot {
		t.Errorf("boot id %q, %v", id, err)
	}
	if want := []string{"sudo -n /bin/sh -s"}; !slices.Equal(s.server.commands(), want) {
		t.Errorf("it was told %q", s.server.commands())
	}
}

func TestOneShellServesAConnection(t *testing.T) {
	s := newSite(t, Config{}, func(m *machine) { m.user = "cloud-user" })
	session := s.dial(t)
	const id = "turn"
	for range 2 { // the boot id alone needs no sudo
		if id, err := session.BootID(t.Context()); err != nil || id != firstBoot {
			t.Fatalf("boot id %q, %v", id, err)
		}
	}
	if want := []string{"/bin/sh -s"}; !slices.Equal(s.server.commands(), want) {
		t.Errorf("it was told %q", s.server.commands())
	}
	var asked sync.WaitGroup
	for range 4 { // each gets its own answer
		asked.Go(func() {
			if facts, err := session.Facts(t.Context()); err != nil || facts.OS != "fedora" {
				t.Errorf("%+v, %v", facts, err)
			}
			if id, err := session.BootID(t.Context()); err != nil || id != firstBoot {
				t.Errorf("boot id %q, %v", id, err)
			}
			result, err := session.Run(t.Context(), id, process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}})
			if err != nil || result.Exit == nil || *result.Exit != 0 {
				t.Errorf("%+v, %v", result, err)
			}
		})
	}
	asked.Wait()
	if want := []string{"/bin/sh -s", "sudo -n /bin/sh -s"}; !slices.Equal(s.server.commands(), want) {
		t.Errorf("it was told %q", s.server.commands())
	}
	if calls := s.calls(); !slices.Equal(calls, []string{"dnf -y upgrade --setopt=*.skip_if_unavailable=False"}) {
		t.Errorf("called %q", calls)
	}
}

func TestAHostMayRefuseAndGoOn(t *testing.T) {
	s := newSite(t, Config{}, func(m *machine) { m.user = "guest" })
	s.put(t, "run/do-sudo", "echo 'sudo: a password is required' >&2; exit 1")
	session := s.dial(t)
	_, err := session.Facts(t.Context())
	refusal(t, err)
	if id, err := session.BootID(t.Context()); err != nil || id != firstBoot {
		t.Errorf("boot id %q, %v", id, err)
	}
	s.put(t, "run/do-sudo", `[ "$1" = -n ] && shift && exec "$@"`)
	if _, err := session.Facts(t.Context()); err != nil {
		t.Errorf("sudo works now: %v", err)
	}
	record := filepath.Join(s.dir, "lib/commissaire")
	if err := os.Rename(record, record+".away"); err != nil {
		t.Fatal(err)
	}
	s.put(t, "lib/commissaire", "not a directory")
	_, err = session.Run(t.Context(), "turn", process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}})
	if why := refusal(t, err); !strings.Contains(why, "no record can be kept in /var/lib/commissaire") {
		t.Error(why)
	}
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Facts(t.Context()); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func TestKeepAlivesGoOnDuringALongCommand(t *testing.T) {
	s := newSite(t, Config{KeepAlive: 500 * time.Millisecond})
	s.put(t, "run/do-dnf", "until [ -e /run/go ]; do sleep 0.01; done")
	session := s.dial(t)
	ended := make(chan error)
	go func() {
		_, err := session.Run(t.Context(), "turn", process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}})
		ended <- err
	}()
	within(t, 10*time.Second, "signs of life are asked for", func() bool { return s.server.alive.Load() >= 5 && len(s.calls()) > 0 })
	s.put(t, "run/go", "")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAHostThatGivesNoAnswerIsRefusedWithItsWords(t *testing.T) {
	rule := "; the rule `guest ALL=(root) NOPASSWD: ALL` is wanted in its sudoers, or at least the command /bin/sh in place of the last ALL"
	for name, c := range map[string]struct{ sudo, want string }{
		"no rule":         {"echo 'sudo: a password is required' >&2; exit 1", "sudo: a password is required" + rule},
		"no rule for it":  {"echo 'Sorry, user guest is not allowed to execute '\\''/bin/sh -s'\\'' as root on web.' >&2; exit 1", "Sorry, user guest is not allowed to execute '/bin/sh -s' as root on web." + rule},
		"not in sudoers":  {"echo 'guest is not in the sudoers file.' >&2; exit 1", "guest is not in the sudoers file." + rule},
		"sudo-rs":         {"echo 'sudo: interactive authentication is required' >&2; exit 1", "sudo: interactive authentication is required" + rule},
		"another tongue":  {"echo 'sudo: Ein Passwort ist notwendig' >&2; exit 1", "sudo: Ein Passwort ist notwendig" + rule},
		"no terminal":     {"echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1", "sudo: sorry, you must have a tty to run sudo; `Defaults:guest !requiretty` is wanted in its sudoers, and the rule `guest ALL=(root) NOPASSWD: ALL`"},
		"no sudo":         {"echo 'bash: line 1: sudo: command not found' >&2; exit 127", "bash: line 1: sudo: command not found; install sudo there, or give root as remote_user"},
		"another user":    {`echo 'Please login as the user "ubuntu" rather than the user "guest".'; echo; exit 142`, `Please login as the user "ubuntu" rather than the user "guest".; give that user as remote_user`},
		"no shell":        {"echo 'This account is currently not available.'; exit 1", "This account is currently not available.; give guest a shell there (usermod -s /bin/sh guest)"},
		"expired":         {"echo 'WARNING: Your password has expired.' >&2; echo 'Password change required but no TTY available.' >&2; exit 1", "Password change required but no TTY available.; change the password of guest there, or let it not expire (chage -M -1 guest)"},
		"a warning, too":  {"echo 'bash: warning: setlocale: LC_ALL: cannot change locale (de_DE.UTF-8)' >&2; echo 'Only backups here.'; exit 1", "Only backups here."},
		"both of them":    {"echo 'error: no room'; echo 'gave up' >&2; exit 1", "error: no room … gave up"},
		"not a word":      {"exit 7", "it ended with exit status 7 and printed nothing"},
		"without failing": {"exit 0", "it ended with exit status 0 and printed nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{}, func(m *machine) { m.user = "guest" })
			s.put(t, "run/do-sudo", c.sudo)
			_, err := s.dial(t).Facts(t.Context())
			if why := refusal(t, err); why != "it does not run sudo -n /bin/sh -s: "+c.want {
				t.Error(why)
			}
		})
	}
}

func TestWhatAHostAsksForInPlaceOfAnAnswerIsTold(t *testing.T) {
	s := newSite(t, Config{Answer: 2 * time.Second}, func(m *machine) { m.user = "guest" })
	s.put(t, "run/do-sudo", "echo 'Choose a context: '; exec cat >/dev/null")
	_, err := s.dial(t).Facts(t.Context())
	if why := unreachable(t, err); why != "the connection to 127.0.0.1 broke: it gave no answer within 2s; it said: Choose a context" {
		t.Error(why)
	}
}

func TestFactsThatCannotBeReadAreToldWithTheHostsWords(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/ostree-booted", "")
	s.put(t, "run/do-rpm-ostree", "echo 'error: Loading sysroot: exit status: 1' >&2; exit 1")
	_, err := s.dial(t).Facts(t.Context())
	if why := refusal(t, err); !strings.HasSuffix(why, " (error: Loading sysroot: exit status: 1)") {
		t.Error(why)
	}
}

func TestARefusalIsToldWithTheHostsWords(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "lib/commissaire", "not a directory")
	_, err := s.dial(t).Run(t.Context(), "turn", process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}})
	if why := refusal(t, err); !strings.HasPrefix(why, "no record can be kept in /var/lib/commissaire") || !strings.Contains(why, " (mkdir: ") {
		t.Error(why)
	}
}

func TestTheErrorIsToldHoweverMuchIsPrintedAfterIt(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/do-dnf", `echo 'error: no space left on /boot'
i=0
while [ $i -lt 2000 ]; do echo "cleaning up after $i"; i=$((i + 1)); done
exit 1`)
	work := process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}, Output: func(string) process.Output { return nowhere{} }}
	result, err := s.dial(t).Run(t.Context(), "turn", work)
	if err != nil || result.Said != "error: no space left on /boot … cleaning up after 1999" {
		t.Errorf("%+v, %v", result, err)
	}
}

// nowhere is output that all is wanted of and nothing kept.
type nowhere struct{}

func (nowhere) Wanted() (from, head, tail int64) { return 0, 1 << 20, 1 << 10 }
func (nowhere) Write(int64, []byte)              {}
func (nowhere) Close(bool)                       {}

func TestAHealthCommandIsToldWithItsWords(t *testing.T) {
	s := newSite(t, Config{})
	exit, said, err := s.dial(t).Check(t.Context(), `echo 'error: 2 of 3 disks are gone' >&2; echo one; echo 'two: '; exit 4`)
	if err != nil || exit != 4 || said != "error: 2 of 3 disks are gone … two" {
		t.Errorf("%d, %q, %v", exit, said, err)
	}
}

func TestWhatIsSaidInPlaceOfSSHIsTold(t *testing.T) {
	for greeting, want := range map[string]string{
		"Not allowed at this time\r\n": "it said: Not allowed at this time",
		"Exceeded MaxStartups\r\n":     "it said: Exceeded MaxStartups",
		"220 mail.example ESMTP\r\n":   "it said: 220 mail.example ESMTP",
		"":                             "no SSH with ",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				io.WriteString(conn, greeting)
				io.ReadFull(conn, make([]byte, len("SSH-2.0-Commissaire\r\n")))
				conn.Close()
			}
		}()
		secret, _ := keys.New(t)
		remote := New(Config{Reach: Reach{Loopback: true}}, vault.Of("key", secret), slog.New(slog.DiscardHandler))
		_, err = remote.Dial(t.Context(), process.Target{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, User: domain.Root, Credential: "key"})
		if why := unreachable(t, err); !strings.Contains(why, want) {
			t.Error(why)
		}
	}
}

func TestHostKeys(t *testing.T) {
	edKey := newKey(t)
	ecPrivate, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := xssh.NewSignerFromKey(ecPrivate)
	if err != nil {
		t.Fatal(err)
	}
	rsaPrivate, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := xssh.NewSignerFromKey(rsaPrivate)
	if err != nil {
		t.Fatal(err)
	}
	pin := func(key xssh.Signer) *process.HostKey { k := hostKey(key.PublicKey()); return &k }
	bare := func(key xssh.Signer) *process.HostKey {
		return &process.HostKey{Fingerprint: xssh.FingerprintSHA256(key.PublicKey())}
	}
	for name, c := range map[string]struct {
		has    []xssh.Signer
		pinned *process.HostKey
		shown  xssh.Signer
		ok     bool
	}{
		"first contact":                      {has: []xssh.Signer{rsaKey, edKey}, shown: edKey, ok: true},
		"the pinned key":                     {has: []xssh.Signer{edKey}, pinned: pin(edKey), shown: edKey, ok: true},
		"the pinned one of several":          {has: []xssh.Signer{edKey, ecKey, rsaKey}, pinned: pin(rsaKey), shown: rsaKey, ok: true},
		"another of the same type":           {has: []xssh.Signer{newKey(t)}, pinned: pin(edKey)},
		"only another type":                  {has: []xssh.Signer{ecKey}, pinned: pin(edKey), shown: ecKey},
		"the pinned fingerprint":             {has: []xssh.Signer{edKey, rsaKey}, pinned: bare(rsaKey), shown: rsaKey, ok: true},
		"not the pinned fingerprint":         {has: []xssh.Signer{ecKey}, pinned: bare(edKey), shown: ecKey},
		"a pinned type that nobody supports": {has: []xssh.Signer{ecKey}, pinned: &process.HostKey{Type: "ssh-dss", Fingerprint: "SHA256:x"}, shown: ecKey},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{}, func(m *machine) { m.hostKey = c.has })
			s.target.Pinned = c.pinned
			session, err := s.remote.Dial(t.Context(), s.target)
			if c.ok {
				if err != nil {
					t.Fatal(err)
				}
				defer session.Close()
				if session.HostKey() != hostKey(c.shown.PublicKey()) {
					t.Errorf("shown %v", session.HostKey())
				}
				return
			}
			var changed *process.KeyChanged
			if !errors.As(err, &changed) {
				t.Fatalf("not noticed: %v", err)
			}
			if c.shown != nil && changed.Shown != hostKey(c.shown.PublicKey()) {
				t.Errorf("shown %v", changed.Shown)
			}
		})
	}
}

// damaged are credentials of which none opens.
type damaged struct{ vault.Vault }

func (*damaged) Read(context.Context, domain.CredentialID) (commands.Secret, error) {
	return nil, fmt.Errorf("read credential key: %w", commands.ErrDamagedCredential)
}

func TestAKeyThatTheHostDoesNotTakeIsRefused(t *testing.T) {
	s := newSite(t, Config{})
	secret, signer := keys.New(t)
	s.remote.credentials = vault.Of("key", secret)
	_, err := s.remote.Dial(t.Context(), s.target)
	why := refusal(t, err)
	if !strings.Contains(why, "root") || !strings.Contains(why, xssh.FingerprintSHA256(signer.PublicKey())) {
		t.Error(why)
	}
	s.remote.credentials = &damaged{}
	if _, err = s.remote.Dial(t.Context(), s.target); !strings.Contains(refusal(t, err), "cannot be opened") {
		t.Error(err)
	}
	s.remote.credentials = &vault.Vault{}
	if _, err = s.remote.Dial(t.Context(), s.target); !strings.Contains(refusal(t, err), "no private key") {
		t.Error(err)
	}
}

func TestWhatCannotBeReachedIsSaid(t *testing.T) {
	secret, _ := keys.New(t)
	config := Config{Handshake: 50 * time.Millisecond, Reach: Reach{Loopback: true}}
	remote := New(config, vault.Of("key", secret), slog.New(slog.DiscardHandler))
	target := process.Target{Host: "127.0.0.1", User: domain.Root, Credential: "key", Leader: process.Leader{Log: "log", Term: 1}}

	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes the connection, nobody speaks
	if err != nil {
		t.Fatal(err)
	}
	target.Port = silent.Addr().(*net.TCPAddr).Port
	_, err = remote.Dial(t.Context(), target)
	if why := unreachable(t, err); !strings.Contains(why, "within 50ms") {
		t.Error(why)
	}
	silent.Close()
	_, err = remote.Dial(t.Context(), target)
	if why := unreachable(t, err); !strings.Contains(why, "nothing listens on 127.0.0.1:") {
		t.Error(why)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = remote.Dial(ended, target); !errors.Is(err, context.Canceled) {
		t.Errorf("the context had ended: %v", err)
	}

	remote.config.Reach = Reach{}
	_, err = remote.Dial(t.Context(), target)
	if why := refusal(t, err); !strings.Contains(why, "127.0.0.1 is in a range") {
		t.Error(why)
	}
	target.Host = "localhost" // known only when it is resolved
	_, err = remote.Dial(t.Context(), target)
	refusal(t, err)
}

func TestWorkOutlivesTheConnection(t *testing.T) {
	s := newSite(t, Config{})
	s.put(t, "run/do-dnf", "echo upgrading; until [ -e /run/go ]; do sleep 0.01; done; echo Complete!")
	const id = "claim"
	work := process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}}

	first := s.dial(t)
	broken := make(chan error)
	go func() {
		_, err := first.Run(t.Context(), id, work)
		broken <- err
	}()
	within(t, 10*time.Second, "the upgrade begins", func() bool { return len(s.calls()) > 0 })
	s.server.cut()
	unreachable(t, <-broken)
	if _, err := first.BootID(t.Context()); err == nil {
		t.Error("a broken connection answers")
	}

	s.put(t, "run/go", "")
	for range 2 {
		result, err := s.dial(t).Run(t.Context(), id, work)
		if err != nil || result.Exit == nil || *result.Exit != 0 || result.Said != "Complete!" || result.Output.Size != 20 {
			t.Errorf("%+v, %v", result, err)
		}
	}
	if calls := s.calls(); !slices.Equal(calls, []string{"dnf -y upgrade --setopt=*.skip_if_unavailable=False"}) {
		t.Errorf("called %q", calls)
	}
}

func TestALaterLeaderIsToldApart(t *testing.T) {
	s := newSite(t, Config{})
	work := process.Work{Kind: domain.Upgrade, Facts: event.Facts{OS: "fedora"}}
	s.target.Leader.Term = 7
	if _, err := s.dial(t).Run(t.Context(), "a", work); err != nil {
		t.Fatal(err)
	}
	s.target.Leader.Term = 6
	session := s.dial(t)
	_, err := session.Run(t.Context(), "b", work)
	var fenced *process.Fenced
	if !errors.As(err, &fenced) || fenced.Seen != 7 || fenced.Ours != 6 {
		t.Errorf("%v", err)
	}
	if err := session.Reboot(t.Context(), "c", firstBoot); !errors.As(err, &fenced) {
		t.Errorf("%v", err)
	}
	s.target.Leader.Log = "another-log"
	session = s.dial(t)
	_, err = session.Facts(t.Context())
	var foreign *process.Foreign
	if !errors.As(err, &foreign) || foreign.Owner != "log" || foreign.Term != 7 || time.Since(foreign.Since).Abs() > time.Hour {
		t.Errorf("%v", err)
	}
	if err := session.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Facts(t.Context()); err != nil {
		t.Error(err)
	}
	s.target.Leader = process.Leader{Log: "log", Term: 8}
	if _, _, err := s.dial(t).Check(t.Context(), "true"); !errors.As(err, &foreign) || foreign.Owner != "another-log" || foreign.Term != 6 {
		t.Errorf("%v", err)
	}
}

func TestWhatAHostSaysOfItsOwnerIsOnlyItsWord(t *testing.T) {
	s := &Session{target: process.Target{Host: "10.0.0.1"}}
	for _, c := range []struct {
		said  string
		owner domain.LogID
		since string
		term  domain.Term
	}{
		{"log-1 2026-11-29T10:00:00Z 7\n", "log-1", "2026-11-29T10:00:00Z", 7},
		{"- - 9223372036854775807", "", "", math.MaxInt64},
		{"log-1 yesterday -7", "log-1", "", 0},
		{"\x1b[2J 99999-11-29T10:00:00Z 9223372036854775808", "", "", 0},
		{"", "", "", 0},
		{strings.Repeat("x", 100_000), "", "", 0},
	} {
		var foreign *process.Foreign
		if err := s.foreign(c.said); !errors.As(err, &foreign) || foreign.Owner != c.owner || foreign.Term != c.term ||
			foreign.Since.IsZero() != (c.since == "") || !strings.Contains(err.Error(), c.since) || !strings.Contains(err.Error(), "PUT /host/10.0.0.1/takeover") {
			t.Errorf("%.64q was read as %v", c.said, err)
		}
	}
}

func TestWhatEachSystemIsTold(t *testing.T) {
	for os, want := range map[string][]string{
		"atomic": {"rpm-ostree upgrade", "rpm-ostree deploy -- -v1 $(reboot);'\""},
		"fedora": {"dnf -y upgrade --setopt=*.skip_if_unavailable=False"},
		"rhel":   {"yum -y update --setopt=*.skip_if_unavailable=False"},
		"centos": {"yum -y update --setopt=*.skip_if_unavailable=False"},
		"debian": {"dpkg --force-confold --configure -a", "apt-get update -o APT::Update::Error-Mode=any", "apt-get -y -f -o Dpkg::Options::=--force-confold dist-upgrade"},
		"ubuntu": {"dpkg --force-confold --configure -a", "apt-get update -o APT::Update::Error-Mode=any", "apt-get -y -f -o Dpkg::Options::=--force-confold dist-upgrade"},
		"plan9":  nil,
	} {
		t.Run(os, func(t *testing.T) {
			s := newSite(t, Config{})
			session := s.dial(t)
			facts := event.Facts{OS: os, OSTree: os == "atomic"}
			_, err := session.Run(t.Context(), "u", process.Work{Kind: domain.Upgrade, Facts: facts})
			if want == nil {
				if why := refusal(t, err); !strings.Contains(why, `"plan9" is not supported`) {
					t.Error(why)
				}
			} else if err != nil {
				t.Error(err)
			}
			_, err = session.Run(t.Context(), "d", process.Work{Kind: domain.Deploy, Version: "-v1 $(reboot);'\"", Facts: facts})
			if os != "atomic" {
				refusal(t, err)
			}
			if calls := s.calls(); !slices.Equal(calls, want) {
				t.Errorf("called %q", calls)
			}
		})
	}
}

func TestARebootIsAskedForOverSSH(t *testing.T) {
	s := newSite(t, Config{})
	session := s.dial(t)
	for range 2 {
		if err := session.Reboot(t.Context(), "r", firstBoot); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 10*time.Second, "the reboot", func() bool { return len(s.calls()) > 0 })
	if calls := s.calls(); !slices.Equal(calls, []string{"systemctl reboot"}) {
		t.Errorf("called %q", calls)
	}
}

const rpmDatabase = `
[ -e "/run/installed-$2" ] && exit 0
exit 1`

func TestBootstrapOfAFedoraHost(t *testing.T) {
	dir := t.TempDir()
	config := Config{}
	for name, path := range map[string]*string{"crt": &config.Bootstrap.EtcdCertificate, "key": &config.Bootstrap.EtcdKey, "ca": &config.Bootstrap.EtcdCA} {
		*path = filepath.Join(dir, name)
		if err := os.WriteFile(*path, []byte("the "+name+" of etcd\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config.Bootstrap.RegistryMirror = "https://mirror.example:5000"
	s := newSite(t, config)
	s.put(t, "run/do-rpm", rpmDatabase)
	s.put(t, "run/do-dnf", `[ "$3" = docker ] && exit 1; : >"/run/installed-$3"`)
	s.put(t, "run/do-systemctl", `[ "$1" != is-enabled ]`)
	b := process.Bootstrap{Facts: event.Facts{OS: "fedora", OSRelease: "fedora 41"}}
	session := s.dial(t)

	want := []string{
		"rpm -q flannel", "dnf install -y flannel",
		"rpm -q docker", "rpm -q moby-engine", "dnf install -y docker", "dnf install -y moby-engine",
		"systemctl is-enabled flanneld", "systemctl enable flanneld", "systemctl restart flanneld",
		"systemctl is-enabled docker", "systemctl enable docker", "systemctl restart docker",
	}
	for range 2 { // the second time answers from the record
		if err := session.Bootstrap(t.Context(), "first", b); err != nil {
			t.Fatal(err)
		}
		if calls := s.calls(); !slices.Equal(calls, want) {
			t.Errorf("called %q", calls)
		}
	}
	if err := session.Bootstrap(t.Context(), "second", b); err != nil {
		t.Fatal(err)
	}
	if more := s.calls()[len(want):]; slices.ContainsFunc(more, func(call string) bool { return strings.HasPrefix(call, "dnf") }) {
		t.Errorf("installed again: %q", more)
	}

	for name, text := range map[string]string{
		"etc/sysconfig/flanneld": `# Written by Commissaire. Changes made here are lost.
FLANNEL_ETCD="http://127.0.0.1:2379"
FLANNEL_ETCD_ENDPOINTS="http://127.0.0.1:2379"
FLANNEL_ETCD_KEY="/atomic01/network"
FLANNEL_ETCD_PREFIX="/atomic01/network"
FLANNEL_OPTIONS="--etcd-cafile=/etc/etcd/cacert.pem --etcd-certfile=/etc/etcd/client.crt --etcd-keyfile=/etc/etcd/key.crt"
`,
		"etc/sysconfig/docker": `# Written by Commissaire. Changes made here are lost.
OPTIONS="--selinux-enabled --log-driver=journald --registry-mirror=https://mirror.example:5000"
DOCKER_CERT_PATH=/etc/docker
`,
		"etc/etcd/client.crt": "the crt of etcd\n",
		"etc/etcd/key.crt":    "the key of etcd\n",
		"etc/etcd/cacert.pem": "the ca of etcd\n",
	} {
		if got := s.get(name); got != text {
			t.Errorf("%s is %q", name, got)
		}
	}
	if info, err := os.Stat(filepath.Join(s.dir, "etc/etcd/key.crt")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	if strings.Contains(s.log.String(), "the key") {
		t.Error("the key is in the log")
	}
}

func TestBootstrapOfOtherHosts(t *testing.T) {
	server := json.RawMessage(`{"address":"10.0.0.9:8888"}`)
	for name, c := range map[string]struct {
		facts   event.Facts
		network string
		options json.RawMessage
		profile Profile
		rpm     string
		why     string
		calls   []string
		has     string // in /etc/sysconfig/flanneld
	}{
		"ostree hosts carry the packages": {
			facts: event.Facts{OS: "atomic", OSTree: true}, network: "flannel_server", options: server,
			calls: []string{"systemctl is-enabled flanneld", "systemctl restart flanneld", "systemctl is-enabled docker", "systemctl restart docker"},
			has:   `FLANNEL_OPTIONS="--remote=10.0.0.9:8888"` + "\n",
		},
		"flannel-docker is not for debian": {
			facts: event.Facts{OS: "debian", OSRelease: "debian 12"},
			why:   `flannel-docker is for atomic, fedora, rhel, centos, not for "debian 12"`,
		},
		"a system without an entry": {facts: event.Facts{OS: "haiku"}, why: `"haiku" is not supported`},
		"none does nothing":         {facts: event.Facts{OS: "haiku"}, profile: NoProfile},
		"an address that is more than one": {
			facts: event.Facts{OS: "atomic", OSTree: true}, network: "flannel_server", options: json.RawMessage(`{"address":"x\"; reboot; \""}`),
			why: "the network's address has characters",
		},
		"a server without address": {
			facts: event.Facts{OS: "atomic", OSTree: true}, network: "flannel_server", options: json.RawMessage(`{}`),
			why: "needs the option address",
		},
		"a package that cannot be had": {
			facts: event.Facts{OS: "centos", OSRelease: "centos 7"}, rpm: "exit 1",
			why:   "install flannel: exit status 1: no such package",
			calls: []string{"rpm -q flannel", "yum install -y flannel"},
		},
		"a profile of the site": {
			facts:   event.Facts{OS: "debian"},
			profile: Profile{Name: "site", Steps: []Step{{Name: "docker", Packages: []string{"docker.io"}}, {Name: "sh", Command: "dnf it"}}},
			calls:   []string{"dpkg -s docker.io", "dnf it"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{Bootstrap: Bootstrap{Profile: c.profile}})
			s.put(t, "run/do-rpm", c.rpm)
			s.put(t, "run/do-yum", "echo some talk; echo no such package; exit 1")
			err := s.dial(t).Bootstrap(t.Context(), "turn",
				process.Bootstrap{Facts: c.facts, NetworkType: c.network, NetworkOptions: c.options})
			if c.why == "" && err != nil {
				t.Error(err)
			}
			if c.why != "" {
				if why := refusal(t, err); !strings.Contains(why, c.why) {
					t.Error(why)
				}
			}
			if calls := s.calls(); !slices.Equal(calls, c.calls) {
				t.Errorf("called %q", calls)
			}
			if !strings.Contains(s.get("etc/sysconfig/flanneld"), c.has) {
				t.Errorf("flanneld: %q", s.get("etc/sysconfig/flanneld"))
			}
		})
	}
}

// hostile is an SSH server that answers every command as it likes.
func hostile(t *testing.T, answer func(channel xssh.Channel)) (*Remote, int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	config := &xssh.ServerConfig{NoClientAuth: true, PublicKeyCallback: func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(newKey(t))
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, channels, _, err := xssh.NewServerConn(conn, config) // keep-alives are not answered
				if err != nil {
					return
				}
				for incoming := range channels {
					channel, requests, err := incoming.Accept()
					if err != nil {
						return
					}
					(<-requests).Reply(true, nil)
					go xssh.DiscardRequests(requests)
					go answer(channel)
				}
			}()
		}
	}()
	secret, _ := keys.New(t)
	remote := New(Config{Reach: Reach{Loopback: true}}, vault.Of("key", secret), slog.New(slog.DiscardHandler))
	return remote, listener.Addr().(*net.TCPAddr).Port
}

// askedWith is the marker of a request for the boot id; "" when there is none.
func askedWith(lines io.Reader) string {
	line, _ := bufio.NewReader(lines).ReadString('\n')
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}

func TestAHostileHostIsNotWaitedForAndNotBelieved(t *testing.T) {
	dial := func(t *testing.T, remote *Remote, port int) process.Session {
		session, err := remote.Dial(t.Context(), process.Target{Host: "127.0.0.1", Port: port, User: domain.Root, Credential: "key", Leader: process.Leader{Log: "log", Term: 1}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { session.Close() })
		return session
	}
	t.Run("talks without end", func(t *testing.T) {
		remote, port := hostile(t, func(channel xssh.Channel) {
			for {
				if _, err := channel.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		})
		_, err := dial(t, remote, port).BootID(t.Context())
		if why := refusal(t, err); !strings.Contains(why, "more than 4194304 bytes") {
			t.Error(why)
		}
	})
	t.Run("says nothing", func(t *testing.T) {
		remote, port := hostile(t, func(xssh.Channel) {})
		remote.config.Answer = 50 * time.Millisecond
		_, err := dial(t, remote, port).BootID(t.Context())
		if why := unreachable(t, err); !strings.Contains(why, "no answer within 50ms") {
			t.Error(why)
		}
	})
	t.Run("gives no sign of life", func(t *testing.T) {
		remote, port := hostile(t, func(xssh.Channel) {})
		remote.config.KeepAlive = 20 * time.Millisecond
		_, err := dial(t, remote, port).BootID(t.Context())
		if why := unreachable(t, err); !strings.Contains(why, "no sign of life for 20ms") {
			t.Error(why)
		}
	})
	t.Run("says what cannot be", func(t *testing.T) {
		remote, port := hostile(t, func(channel xssh.Channel) {
			m := askedWith(channel)
			io.WriteString(channel, "\n"+m+" begin\n\n"+m+" boot-id\n\x1b]0;evil\x07\xff\xfe\n\n"+m+" end\n")
			channel.Close()
		})
		_, err := dial(t, remote, port).BootID(t.Context())
		if why := refusal(t, err); !strings.Contains(why, "boot id cannot be read") {
			t.Error(why)
		}
	})
	t.Run("answers with what it was asked before", func(t *testing.T) {
		remote, port := hostile(t, func(channel xssh.Channel) {
			var first string
			for m := askedWith(channel); m != ""; m = askedWith(channel) {
				if first == "" {
					first = m
					io.WriteString(channel, "\n"+m+" begin\n\n"+m+" boot-id\n"+firstBoot+"\n\n"+m+" end\n\n"+m+" boot-id\nleft over")
					continue
				}
				io.WriteString(channel, "\n"+first+" begin\n\n"+first+" boot-id\nold\n\n"+first+" end\n")
				io.WriteString(channel, "\n"+m+" begin\n\n"+m+" boot-id\n"+otherBoot+"\n\n"+m+" end\n")
			}
		})
		session := dial(t, remote, port)
		for _, want := range []string{firstBoot, otherBoot} {
			if id, err := session.BootID(t.Context()); err != nil || id != want {
				t.Errorf("boot id %q, %v", id, err)
			}
		}
	})
	t.Run("is asked again after it gave no answer", func(t *testing.T) {
		remote, port := hostile(t, func(xssh.Channel) {})
		remote.config.Answer = 50 * time.Millisecond
		session := dial(t, remote, port)
		for range 2 {
			_, err := session.BootID(t.Context())
			unreachable(t, err)
		}
	})
	t.Run("stops in the middle", func(t *testing.T) {
		remote, port := hostile(t, func(channel xssh.Channel) {
			io.WriteString(channel, "\n"+askedWith(channel)+" begin\n")
			channel.Close()
		})
		_, err := dial(t, remote, port).BootID(t.Context())
		unreachable(t, err)
	})
	t.Run("is killed, as when the host goes down", func(t *testing.T) {
		remote, port := hostile(t, func(channel xssh.Channel) {
			askedWith(channel)
			channel.SendRequest("exit-signal", false, xssh.Marshal(struct {
				Signal    string
				Core      bool
				Text, Tag string
			}{Signal: "TERM"}))
			channel.Close()
		})
		_, err := dial(t, remote, port).BootID(t.Context())
		unreachable(t, err)
	})
	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		remote, port := hostile(t, func(xssh.Channel) { cancel() })
		if _, err := dial(t, remote, port).BootID(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestHandshakesBeyondTheMostAtOnceWait(t *testing.T) {
	s := newSite(t, Config{AtOnce: 1, Handshake: time.Minute})
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	hangs := s.target
	hangs.HostID, hangs.Port = "silent", silent.Addr().(*net.TCPAddr).Port
	ended := make(chan error, 1)
	go func() {
		_, err := s.remote.Dial(t.Context(), hangs)
		ended <- err
	}()
	conn, err := silent.Accept()
	if err == nil {
		_, err = conn.Read(make([]byte, 1)) // the handshake is under way
	}
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.remote.Dial(soon, s.target); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it did not wait: %v", err)
	}
	conn.Close()
	unreachable(t, <-ended)
	s.dial(t)
}
