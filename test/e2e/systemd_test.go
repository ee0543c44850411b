package e2e

import (
	"encoding/base64"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"commissaire/test/systemd"
)

var realDisk = flag.String("systemd", "", "run the tests on real hosts, which begin with the disk in this tar file")

// TestRealHosts drives the program and real hosts: systemd, OpenSSH, apt, dnf. See
// make e2e-systemd. Hosts are few and are used by several tests each, one after the
// other.
func TestRealHosts(t *testing.T) {
	if *realDisk == "" {
		t.Skip("no -systemd: the tests on real hosts are left out")
	}
	for _, group := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Debian", debianHost},
		{"slow work", slowWork},
		{"a user of its own", userHost},
		{"Fedora's dnf", fedoraHost},
		{"a record in memory", recordInMemory},
		{"a roll", realRoll},
		{"one machine, two names", oneMachine},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			group.test(t)
		})
	}
}

// site is a service and the real hosts of its cluster c.
type site struct {
	*service
	hosts []*systemd.Machine
	begun time.Time
}

// newSite starts hosts and a service that manages them.
func newSite(t *testing.T, hosts ...systemd.Host) *site {
	t.Helper()
	s := &site{begun: time.Now()}
	for _, h := range hosts {
		s.hosts = append(s.hosts, systemd.Start(t, h))
	}
	s.service = newService(t, map[string]any{
		"bootstrap.profile": "none", "ssh.retry_delay": "500ms", "watch.interval": "10s",
		"operations.reboot-first-look": "1s", "operations.reboot-timeout": "120s", "operations.health-interval": "500ms",
	})
	s.put("/cluster/c", nil).is(201)
	for _, m := range s.hosts {
		s.put("/host/"+m.Address, added(m)).is(201)
	}
	for _, m := range s.hosts {
		s.ready(m.Address)
	}
	return s
}

// added is how a real host is added to the cluster c.
func added(m *systemd.Machine) map[string]any {
	return map[string]any{"cluster": "c", "ssh_priv_key": base64.StdEncoding.EncodeToString(m.PrivateKey()), "remote_user": m.User}
}

// then runs a test on the site, and logs how long it took.
func (s *site) then(t *testing.T, name string, test func(*site)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		began := time.Now()
		c := *s
		c.service = on(t, s.service)
		for i, m := range s.hosts {
			c.hosts[i] = m.On(t)
		}
		test(&c)
		s.cmd, s.ends, s.base = c.cmd, c.ends, c.base // it may have been started again
		t.Logf("%.1f s, %d hosts", time.Since(began).Seconds(), len(s.hosts))
	})
}

// ended waits for the end of an operation, checks how it ended and returns the turn
// of its first host.
func (s *site) ended(path, want string) map[string]any {
	s.t.Helper()
	o := s.until(path, status("finished", "failed"))
	turn := turnOf(o, 0)
	if o["status"] != want {
		log := s.get(path + "/host/" + sprint(turn["address"]) + "/log").body
		s.t.Fatalf("it is %v, not %s: %v\n%s", o["status"], want, o, log[max(0, len(log)-3000):])
	}
	return turn
}

// fails checks the reason for which the turn of an operation's first host failed.
func (s *site) fails(path string, with ...string) {
	s.t.Helper()
	reason := sprint(s.ended(path, "failed")["reason"])
	for _, part := range with {
		if !strings.Contains(reason, part) {
			s.t.Errorf("the reason %q has no %q", reason, part)
		}
	}
	s.t.Logf("the reason: %s", reason)
}

// printed waits until a host has printed a line in its turn.
func (s *site) printed(path string, m *systemd.Machine, line string) {
	s.t.Helper()
	s.await(func() bool {
		a := s.as("admin", http.MethodGet, path+"/host/"+m.Address+"/log", nil)
		return a.status == 200 && strings.Contains("\n"+string(a.body), "\n"+line+"\n")
	}, path)
}

// healthy checks that a host is as it should be between two operations.
func healthy(t *testing.T, m *systemd.Machine) {
	t.Helper()
	if out, err := m.Try("systemctl is-system-running --wait; systemctl --failed --plain --no-legend"); err != nil {
		t.Errorf("%s: %s", m.Name, out)
	}
}

// tool is a package of which version 2 does something.
func tool(name, does string) (old, upgraded systemd.Package) {
	return systemd.Package{Name: name, Version: "1"}, systemd.Package{Name: name, Version: "2", Post: does}
}

// slowly is a scriptlet that takes so many seconds, says so, and keeps how often it
// was run.
func slowly(seconds int) string {
	return fmt.Sprintf(`echo ran >>/root/ran
n=0
while [ "$n" -lt %d ] && [ ! -e /root/quick ]; do
	n=$((n + 1))
	sleep 1
	echo "second $n"
done
`, seconds)
}

func ran(t *testing.T, m *systemd.Machine) int {
	t.Helper()
	n, _ := strconv.Atoi(m.Run("cat /root/ran 2>/dev/null | wc -l"))
	return n
}

// debianHost is what apt and dpkg do on a host that root logs in to.
func debianHost(t *testing.T) {
	restarts, restarts2 := tool("restarts-ssh", "echo before\npkill -KILL sshd\nsystemctl restart ssh\nsleep 2\necho after\n")
	says, says2 := tool("says", "env | sort >/root/environment\n")
	daemon, daemon2 := tool("daemon", "setsid sh -c 'exec sleep 86413' </dev/null >/dev/null 2>&1 &\n")
	configured := systemd.Package{Name: "configured", Version: "1", Files: map[string]string{"/etc/configured.conf": "shipped 1\n"}}
	s := newSite(t, systemd.Host{Name: "debian", Number: 1, Packages: []systemd.Package{restarts, says, daemon, configured}})

	s.then(t, "an upgrade keeps a changed conffile and outlives a restart of SSH", func(s *site) {
		m := s.hosts[0]
		m.Run("echo ours >/etc/configured.conf")
		configured.Version, configured.Files = "2", map[string]string{"/etc/configured.conf": "shipped 2\n"}
		m.Offer(restarts2, says2, daemon2, configured)
		path := s.operate("upgrade", `{}`)
		s.ended(path, "finished")
		for _, name := range []string{"restarts-ssh", "says", "daemon", "configured"} {
			if got := m.State(name); got != "ii  2" {
				s.t.Errorf("%s: %s", name, got)
			}
		}
		if got := m.Run("cat /etc/configured.conf"); got != "ours" {
			s.t.Errorf("the conffile: %s", got)
		}
		log := s.log(path, m.Address)
		if printed := m.Run("cat /var/lib/commissaire/turn/*/output"); !strings.Contains(log, "\nbefore\nafter\n") || strings.TrimSpace(log) != printed {
			s.t.Errorf("it printed\n%s\nand served is\n%s", printed, log)
		}
		if n, _ := m.Try("pgrep -fc '^sleep 86413'"); n != "1" {
			s.t.Errorf("%s processes of the daemon are left", n)
		}
		environment := "\n" + m.Run("cat /root/environment") + "\n"
		for _, want := range []string{"HOME=/root", "USER=root", "LOGNAME=root"} {
			if !strings.Contains(environment, "\n"+want+"\n") {
				s.t.Errorf("no %s in the environment of a maintainer script:%s", want, environment)
			}
		}
		if !strings.Contains(environment, "/usr/sbin") || strings.Contains(environment, "LANG=en") {
			s.t.Errorf("the environment of a maintainer script:%s", environment)
		}
		healthy(s.t, m)
	})

	for _, lock := range []string{"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"} {
		s.then(t, "waits for "+lock, func(s *site) {
			m := s.hosts[0]
			version := m.Run("cat /root/version 2>/dev/null || echo 2")
			n, _ := strconv.Atoi(version)
			m.Run(fmt.Sprintf("echo %d >/root/version", n+1))
			m.Offer(systemd.Package{Name: "says", Version: strconv.Itoa(n + 1)})
			m.Run(`systemctl stop holder 2>/dev/null; rm -f /run/held; systemd-run -q --collect --unit=holder python3 -c '
import fcntl, time
f = open("` + lock + `", "w")
fcntl.lockf(f, fcntl.LOCK_EX)
open("/run/held", "w")
time.sleep(8)
'`)
			m.Until("rm /run/held")
			path := s.operate("upgrade", `{"timeout":60}`)
			waiting := s.until(path, func(o map[string]any) bool {
				w, ok := turnOf(o, 0)["waiting"].(map[string]any)
				return ok && strings.Contains(sprint(w["why"]), "lock") || o["status"] != "in_process"
			})
			s.t.Logf("it waits: %v", turnOf(waiting, 0)["waiting"])
			if why := sprint(turnOf(waiting, 0)["waiting"]); !strings.Contains(why, "python3") {
				s.t.Errorf("who holds the lock is not told: %s", why)
			}
			s.ended(path, "finished")
			if got := m.State("says"); got != fmt.Sprintf("ii  %d", n+1) {
				s.t.Errorf("the package: %s", got)
			}
		})
	}

	s.then(t, "a repository out of reach fails", func(s *site) {
		m := s.hosts[0]
		m.Run("echo 'deb [trusted=yes] http://10.213.0.253/debian ./' >/etc/apt/sources.list.d/away.list")
		s.fails(s.operate("upgrade", `{}`), "10.213.0.253")
		m.Run("rm /etc/apt/sources.list.d/away.list")
	})

	s.then(t, "a failing scriptlet is named, and put right", func(s *site) {
		m := s.hosts[0]
		_, broken := tool("daemon", "[ -e /root/quick ] || { echo it cannot be >&2; exit 3; }\n")
		broken.Version = "3"
		m.Offer(broken)
		s.fails(s.operate("upgrade", `{}`), "daemon")
		m.Run("touch /root/quick")
		s.ended(s.operate("upgrade", `{}`), "finished")
		if got := m.State("daemon"); got != "ii  3" {
			s.t.Errorf("the package: %s", got)
		}
		healthy(s.t, m)
	})
}

// slowWork is what may happen in the middle of an upgrade.
func slowWork(t *testing.T) {
	slow := systemd.Package{Name: "slow", Version: "1"}
	s := newSite(t, systemd.Host{Name: "slow", Number: 2, Packages: []systemd.Package{slow}})

	s.then(t, "the service is killed in the middle of it", func(s *site) {
		m := s.hosts[0]
		slow.Version, slow.Post = "2", slowly(20)
		m.Offer(slow)
		path := s.operate("upgrade", `{}`)
		s.printed(path, m, "second 5")
		s.crash()
		turn := s.ended(path, "finished")
		log := s.log(path, m.Address)
		if n := strings.Count(log, "\nsecond "); n != 20 || ran(s.t, m) != 1 || turn["attempts"] != 2.0 {
			s.t.Errorf("%d lines, run %d times, taken up %v times:\n%s", n, ran(s.t, m), turn["attempts"], log)
		}
	})

	s.then(t, "the power is cut in the middle of it", func(s *site) {
		m := s.hosts[0]
		slow.Version, slow.Post = "3", slowly(30)
		m.Offer(slow)
		path := s.operate("upgrade", `{}`)
		s.printed(path, m, "second 3")
		m.Cut()
		m.Boot()
		s.fails(path, "interrupted by a reboot")
		if n := ran(s.t, m); n != 2 {
			s.t.Errorf("the scriptlet was run %d times", n)
		}
		m.Run("touch /root/quick")
		s.ready(m.Address)
		s.ended(s.operate("upgrade", `{}`), "finished")
		if got := m.State("slow"); got != "ii  3" {
			s.t.Errorf("after it was started again: %s", got)
		}
	})

	s.then(t, "its time limit ends it", func(s *site) {
		m := s.hosts[0]
		m.Run("rm /root/quick")
		slow.Version, slow.Post = "4", "setsid sh -c 'exec sleep 86414' &\n"+slowly(90)
		m.Offer(slow)
		path := s.operate("upgrade", `{"timeout":7}`)
		s.fails(path, "7 s")
		if left, err := m.Try("pgrep -a 'apt|dpkg|slow|sleep|postinst'"); err == nil {
			s.t.Errorf("still running: %s", left)
		}
		healthy(s.t, m)
		m.Run("touch /root/quick")
		s.ended(s.operate("upgrade", `{}`), "finished")
		if got := m.State("slow"); got != "ii  4" {
			s.t.Errorf("after it was started again: %s", got)
		}
		healthy(s.t, m)
	})
}

// userHost is a host that another user than root logs in to, and that is strict
// with logins.
func userHost(t *testing.T) {
	slow := systemd.Package{Name: "slow", Version: "1"}
	s := newSite(t, systemd.Host{Name: "user", Number: 3, User: "keeper", Packages: []systemd.Package{slow}, Files: map[string]string{
		"/etc/systemd/logind.conf.d/test.conf": "[Login]\nKillUserProcesses=yes\n",
		// Logins are refused for some seconds of every boot, and of every shutdown.
		"/etc/systemd/system/systemd-user-sessions.service.d/test.conf": "[Service]\nExecStartPre=/bin/sleep 5\n",
		"/etc/systemd/system/stops.service":                             "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 4\n[Install]\nWantedBy=multi-user.target\n",
	}})
	boot := func(m *systemd.Machine) string { return m.Run("cat /proc/sys/kernel/random/boot_id") }

	s.then(t, "its processes are killed with its sessions", func(s *site) {
		m := s.hosts[0]
		slow.Version, slow.Post = "2", slowly(6)
		m.Offer(slow)
		path := s.operate("upgrade", `{}`)
		s.printed(path, m, "second 1")
		m.Run("loginctl terminate-user keeper; pkill -KILL -u keeper; true")
		s.ended(path, "finished")
		if n := strings.Count(s.log(path, m.Address), "\nsecond "); n != 6 || ran(s.t, m) != 1 {
			s.t.Errorf("%d lines, run %d times", n, ran(s.t, m))
		}
	})

	s.then(t, "a restart while logins are refused", func(s *site) {
		m := s.hosts[0]
		m.Run("systemctl start stops")
		before, boots := boot(m), m.Boots()
		s.ended(s.operate("restart", `{}`), "finished")
		if after := boot(m); after == before || m.Boots() != boots+1 {
			s.t.Errorf("boot %s after %s, %d boots", after, before, m.Boots()-boots)
		}
	})

	s.then(t, "it reboots where the distribution asks for it, and only there", func(s *site) {
		m := s.hosts[0]
		before := boot(m)
		s.ended(s.operate("upgrade", `{"reboot":"if-needed"}`), "finished")
		if after := boot(m); after != before {
			s.t.Error("it was rebooted, and nothing asks for that")
		}
		slow.Version, slow.Post = "3", "echo '*** System restart required ***' >/run/reboot-required\necho slow >>/run/reboot-required.pkgs\n"
		m.Offer(slow)
		s.ended(s.operate("upgrade", `{"reboot":"if-needed"}`), "finished")
		if after := boot(m); after == before {
			s.t.Error("it was not rebooted, though /run/reboot-required asks for it")
		}
	})

	s.then(t, "a reboot that the host refuses", func(s *site) {
		m := s.hosts[0]
		m.Run("systemctl mask --runtime --now reboot.target")
		before := boot(m)
		began := time.Now()
		s.fails(s.operate("restart", `{}`), "the order to reboot ended with exit status 1: ")
		if took := time.Since(began); took > 60*time.Second || boot(m) != before {
			s.t.Errorf("it failed after %s", took)
		}
		m.Run("systemctl unmask --runtime reboot.target")
	})
}

// fedoraHost is what dnf and rpm do.
func fedoraHost(t *testing.T) {
	configured := systemd.Package{Name: "configured", Version: "1", Files: map[string]string{"/etc/configured.conf": "shipped 1\n"}}
	s := newSite(t, systemd.Host{Name: "fedora", Number: 4, Fedora: true, Packages: []systemd.Package{configured}})
	s.then(t, "an upgrade", func(s *site) {
		m := s.hosts[0]
		m.Run("echo ours >/etc/configured.conf")
		configured.Version, configured.Files = "2", map[string]string{"/etc/configured.conf": "shipped 2\n"}
		m.Offer(configured)
		s.ended(s.operate("upgrade", `{}`), "finished")
		if got := m.Run("rpm -q configured; cat /etc/configured.conf"); got != "configured-2-1.noarch\nours" {
			s.t.Errorf("after it: %s", got)
		}
		healthy(s.t, m)
	})

	s.then(t, "waits for another dnf", func(s *site) {
		m := s.hosts[0]
		other := systemd.Package{Name: "other", Version: "1", Post: "touch /run/held; for i in $(seq 50); do [ ! -e /run/let-go ] || break; sleep 1; done"}
		m.Offer(configured, other)
		m.Run("systemd-run -q --unit=holder dnf -y install other")
		m.Until("rm /run/held")
		configured.Version = "3"
		m.Offer(configured, other)
		path := s.operate("upgrade", `{"timeout":60}`)
		waiting := s.until(path, func(o map[string]any) bool {
			w, ok := turnOf(o, 0)["waiting"].(map[string]any)
			return ok && strings.Contains(sprint(w["why"]), "dnf") || o["status"] != "in_process"
		})
		s.t.Logf("it waits: %v", turnOf(waiting, 0)["waiting"])
		if waiting["status"] != "in_process" {
			s.t.Error("it was not shown as waiting")
		}
		m.Run("touch /run/let-go")
		s.ended(path, "finished")
		if got := m.Run("rpm -q configured"); got != "configured-3-1.noarch" {
			s.t.Errorf("after it: %s", got)
		}
	})

	s.then(t, "a repository out of reach fails", func(s *site) {
		m := s.hosts[0]
		m.Run("printf '[away]\nname=away\nbaseurl=http://10.213.0.253/\nskip_if_unavailable=True\ngpgcheck=0\nretries=1\ntimeout=5\n' >/etc/yum.repos.d/away.repo")
		s.fails(s.operate("upgrade", `{}`), "away")
		m.Run("rm /etc/yum.repos.d/away.repo")
	})

	s.then(t, "a failing scriptlet is warned of", func(s *site) {
		m := s.hosts[0]
		configured.Version, configured.Post = "4", "echo it cannot be >&2; exit 3"
		m.Offer(configured)
		path := s.operate("upgrade", `{}`)
		turn := s.ended(path, "finished")
		if !strings.Contains(sprint(turn), "scriptlet") {
			s.t.Errorf("no warning in %v", turn)
		}
	})
}

// recordInMemory is a host that forgets with a loss of power what it was told.
func recordInMemory(t *testing.T) {
	slow := systemd.Package{Name: "slow", Version: "1"}
	s := newSite(t, systemd.Host{Name: "volatile", Number: 5, Packages: []systemd.Package{slow}, Volatile: []string{"/var/lib/commissaire"}})
	s.then(t, "a loss of power has nothing run twice", func(s *site) {
		m := s.hosts[0]
		slow.Version, slow.Post = "2", slowly(30)
		m.Offer(slow)
		path := s.operate("upgrade", `{}`)
		s.printed(path, m, "second 3")
		m.Cut()
		m.Boot()
		s.fails(path, "interrupted by a reboot")
		if n := ran(s.t, m); n != 1 {
			s.t.Errorf("the scriptlet was run %d times", n)
		}
	})
}

// realRoll is several hosts.
func realRoll(t *testing.T) {
	slow := systemd.Package{Name: "slow", Version: "1"}
	var all []systemd.Host
	for i := range 3 {
		all = append(all, systemd.Host{Name: fmt.Sprintf("roll%d", i+1), Number: 11 + i, Packages: []systemd.Package{slow}})
	}
	s := newSite(t, all...)
	s.then(t, "pauses, goes on and is cancelled", func(s *site) {
		slow.Version, slow.Post = "2", slowly(3)
		for _, m := range s.hosts {
			m.Offer(slow)
		}
		path := s.operate("upgrade", `{"pause_after":1}`)
		s.until(path, state("paused"))
		s.checkTurns(path, "succeeded waiting waiting")
		s.put(path+"/resume", nil).is(200)
		s.printed(path, s.hosts[1], "second 1")
		s.put(path+"/cancel", nil).is(200)
		s.until(path, state("ended"))
		s.checkTurns(path, "succeeded succeeded waiting")
		for i, want := range []string{"ii  2", "ii  2", "ii  1"} {
			if got := s.hosts[i].State("slow"); got != want {
				s.t.Errorf("%s has %s", s.hosts[i].Name, got)
			}
		}
	})
	s.then(t, "passes gates of health", func(s *site) {
		path := s.operate("upgrade", `{"max_unavailable":3,"health":{"command":"systemctl is-active ssh && dpkg-query -W slow","timeout":20}}`)
		s.until(path, status("finished"))
		path = s.operate("restart", `{"only":["`+s.hosts[0].Address+`"],"health":{"tcp":22,"stable_for":2,"timeout":60}}`)
		s.ended(path, "finished")
		path = s.operate("upgrade", `{"health":{"command":"echo not today; false","timeout":2}}`)
		s.fails(path, "not today")
		s.checkTurns(path, "failed waiting waiting")
		path = s.operate("upgrade", `{"health":{"tcp":81,"timeout":2}}`)
		s.fails(path, "port 81")
	})
}

// oneMachine is machines that have more than one name, or manager, or a twin.
func oneMachine(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 2)
	s := newSite(t, systemd.Host{Name: "first", Number: 21, MachineID: id}, systemd.Host{Name: "twin", Number: 22, MachineID: id})

	s.then(t, "its second name is not worked on until one is removed", func(s *site) {
		m := s.hosts[0]
		const second = "10.213.0.121"
		m.Run("ip address add " + second + "/24 dev host0")
		s.put("/host/"+second, added(m)).is(201)
		s.failedFor(second, m.Address)
		s.delete("/host/" + m.Address).is(200)
		s.ready(second)
		s.delete("/host/" + second).is(200)
		s.put("/host/"+m.Address, added(m)).is(201)
		s.ready(m.Address)
	})

	s.then(t, "another installation takes it over", func(s *site) {
		m := s.hosts[0]
		other := *s
		other.service = newService(s.t, map[string]any{"bootstrap.profile": "none"})
		other.put("/cluster/c", nil).is(201)
		other.put("/host/"+m.Address, added(m)).is(201)
		other.failedFor(m.Address, "another installation")
		other.fails(other.operate("upgrade", `{}`), "another installation")
		other.put("/host/"+m.Address+"/takeover", nil).is(200)
		other.ready(m.Address)
		other.ended(other.operate("upgrade", `{}`), "finished")
		s.fails(s.operate("upgrade", `{"only":["`+m.Address+`"]}`), "another installation")
	})
}
