package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"commissaire/test/sshd"
)

// behindOpenSSH is how a host behind OpenSSH is added.
func behindOpenSSH(h *sshd.Server) map[string]any {
	return map[string]any{
		"ssh_priv_key": base64.StdEncoding.EncodeToString(h.PrivateKey()),
		"ssh_port":     h.Port, "remote_user": h.User,
	}
}

// addServers adds hosts behind OpenSSH as members of the cluster c.
func (s *service) addServers(hosts ...*sshd.Server) {
	s.t.Helper()
	for _, h := range hosts {
		s.addHosts("c", func() map[string]any { return behindOpenSSH(h) }, h.Address)
	}
}

// looks are calls that change nothing on a host, and those that only carry others.
var looks = []string{"rpm -q ", "rpm-ostree status ", "subscription-manager repos --list-enabled", "systemctl is-active ", "systemctl is-enabled ", "systemd-run "}

// changes are the calls on a host, without looks.
func changes(h *sshd.Server) []string {
	return slices.DeleteFunc(h.Commands(), func(call string) bool {
		return slices.ContainsFunc(looks, func(look string) bool { return strings.HasPrefix(call, look) })
	})
}

// calls is how often a host was called with what begins so.
func calls(h *sshd.Server, prefix string) (n int) {
	for _, call := range h.Commands() {
		if strings.HasPrefix(call, prefix) {
			n++
		}
	}
	return n
}

// output is what a shell command prints on a host.
func output(t *testing.T, h *sshd.Server, command string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// settings are the variables that a file on a host sets.
func settings(t *testing.T, h *sshd.Server, path string) map[string]string {
	t.Helper()
	text, mode, err := h.File(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode != 0o644 {
		t.Errorf("%s of host %s has mode %o", path, h.Address, mode)
	}
	set := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			set[name] = strings.Trim(value, `"`)
		}
	}
	return set
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	x, _ := json.Marshal(got)
	y, _ := json.Marshal(want)
	if string(x) != string(y) {
		t.Errorf("%s: got\n%s, want\n%s", what, x, y)
	}
}

var timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$`)

// TestTheLifeOfHostsBehindOpenSSH takes hosts of three families from the first
// contact to the last and checks, at the end, all that was ever run on them.
func TestTheLifeOfHostsBehindOpenSSH(t *testing.T) {
	t.Parallel()
	atomic := sshd.Start(t, sshd.Host{Address: "127.0.15.1", OSTree: true, Booted: "41.5", Next: "41.6"})
	fedora := sshd.Start(t, sshd.Host{Address: "127.0.15.2", Systemd: true, Next: "42"})
	rhel := sshd.Start(t, sshd.Host{Address: "127.0.15.3", User: "operator", OS: sshd.RHEL7, Next: "7.10"})
	hosts := []*sshd.Server{atomic, fedora, rhel}
	addresses := []any{atomic.Address, fedora.Address, rhel.Address}

	pem := t.TempDir()
	for name, text := range map[string]string{"cert": "the certificate\n", "key": "the key of the etcd client\n", "ca": "the authority\n"} {
		if err := os.WriteFile(filepath.Join(pem, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newService(t, map[string]any{"bootstrap": map[string]any{
		"etcd-url": "https://etcd.test:2379", "registry-mirror": "https://mirror.test",
		"etcd-client-cert": filepath.Join(pem, "cert"), "etcd-client-key": filepath.Join(pem, "key"), "etcd-ca": filepath.Join(pem, "ca"),
	}})
	s.put("/containermanager/m", `{"type":"trivial"}`).is(201)
	s.put("/cluster/c", `{"container_manager":"m"}`).is(201)

	// Added, investigated and bootstrapped.
	for _, h := range hosts {
		b := behindOpenSSH(h)
		if h == rhel {
			b["ssh_host_key"] = h.HostKeyFingerprint()
		}
		a := s.put("/host/"+h.Address, b).is(201).keys(hostKeys...)
		if got := a.object(); got["address"] != h.Address || got["status"] != "investigating" {
			t.Errorf("a new host is %s", a.body)
		}
	}
	systems := map[string]string{atomic.Address: "atomic", fedora.Address: "fedora", rhel.Address: "rhel"}
	var cpus, memory, space float64 // those of the machine, for all hosts
	numbers := output(t, atomic, `nproc --all
awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo
df -Pkl | awk '$1 ~ "^/dev/" && $1 !~ "^/dev/loop" && !seen[$1]++ { sum += $2 } END { printf "%d", sum }'`)
	if _, err := fmt.Sscan(numbers, &cpus, &memory, &space); err != nil {
		t.Fatal(err)
	}
	isHost := func(record map[string]any, status string) {
		t.Helper()
		address := sprint(record["address"])
		if checked := sprint(record["last_check"]); !timeForm.MatchString(checked) {
			t.Errorf("host %s was checked at %q", address, checked)
		}
		same(t, "host "+address, record, map[string]any{
			"address": address, "status": status, "os": systems[address], "cpus": cpus, "memory": memory, "space": space,
			"source": "", "last_check": record["last_check"],
		})
	}
	for _, h := range hosts {
		isHost(s.until("/host/"+h.Address, status("disassociated", "failed")), "disassociated")
	}
	for _, h := range hosts {
		same(t, "flannel on "+h.Address, settings(t, h, "/etc/sysconfig/flanneld"), map[string]string{
			"FLANNEL_ETCD": "https://etcd.test:2379", "FLANNEL_ETCD_ENDPOINTS": "https://etcd.test:2379",
			"FLANNEL_ETCD_KEY": "/atomic01/network", "FLANNEL_ETCD_PREFIX": "/atomic01/network",
			"FLANNEL_OPTIONS": "--etcd-cafile=/etc/etcd/cacert.pem --etcd-certfile=/etc/etcd/client.crt --etcd-keyfile=/etc/etcd/key.crt",
		})
		same(t, "docker on "+h.Address, settings(t, h, "/etc/sysconfig/docker"), map[string]string{
			"OPTIONS": "--selinux-enabled --log-driver=journald --registry-mirror=https://mirror.test", "DOCKER_CERT_PATH": "/etc/docker",
		})
		for _, file := range []struct {
			path string
			mode fs.FileMode
			text string
		}{
			{"/etc/etcd/client.crt", 0o644, "the certificate\n"},
			{"/etc/etcd/key.crt", 0o600, "the key of the etcd client\n"},
			{"/etc/etcd/cacert.pem", 0o644, "the authority\n"},
		} {
			if text, mode, err := h.File(file.path); err != nil || mode != file.mode || string(text) != file.text {
				t.Errorf("%s of host %s: %q with mode %o, %v", file.path, h.Address, text, mode, err)
			}
		}
		if left := output(t, h, "find /etc /var/lib /root /home -name '.commissaire-*'"); left != "" {
			t.Errorf("left behind on host %s: %s", h.Address, left)
		}
	}

	// Joined.
	s.put("/cluster/c/hosts", map[string]any{"old": []any{}, "new": addresses}).is(200)
	for _, h := range hosts {
		isHost(s.until("/host/"+h.Address, status("active", "failed")), "active")
	}
	s.get("/cluster/c").is(200).says(`{"name":"c","status":"ok","network":"default","container_manager":"m","hosts":{"total":3,"available":3,"unavailable":0}}`)

	// Upgraded, restarted, deployed to.
	kernel := output(t, fedora, "uname -r")
	turns := map[string][][3]string{ // state, version before, after
		"upgrade": {{"succeeded", "41.5", "41.5"}, {"succeeded", "41 " + kernel, "42 " + kernel}, {"succeeded", "7.9 " + kernel, "7.10 " + kernel}},
		"restart": {{"succeeded", "41.5", "41.6"}, {"succeeded", "42 " + kernel, "42 " + kernel}, {"succeeded", "7.10 " + kernel, "7.10 " + kernel}},
		"deploy":  {{"succeeded", "41.6", "41.6"}, {"skipped", "", ""}, {"skipped", "", ""}},
	}
	boots := map[*sshd.Server]string{}
	for _, h := range hosts {
		boots[h] = h.BootID()
	}
	for _, kind := range []string{"upgrade", "restart", "deploy"} {
		keys := []string{"name", "status", "in_process", "started_at", "finished_at"}
		done := map[string]string{"upgrade": "upgraded", "restart": "restarted", "deploy": "deployed"}[kind]
		var wanted any
		if kind == "deploy" {
			keys, wanted = append(keys, "version"), `{"version":"41.4"}`
		}
		path := s.operate(kind, wanted)
		record := s.until("/cluster/c/"+kind, status("finished", "failed"))
		s.get("/cluster/c/" + kind).is(200).keys(append(keys, done)...)
		if record["name"] != "c" || record["status"] != "finished" || len(list(record["in_process"])) != 0 ||
			!timeForm.MatchString(sprint(record["started_at"])) || !timeForm.MatchString(sprint(record["finished_at"])) {
			t.Errorf("the %s: %v", kind, record)
		}
		same(t, "hosts of the "+kind, of(list(record[done]), "address"), addresses)
		for _, h := range list(record[done]) {
			isHost(h, "active")
		}
		var got [][3]string
		o := s.get(path).is(200).object()
		for _, turn := range list(o["hosts"]) {
			got = append(got, [3]string{sprint(turn["state"]), sprint(turn["version_before"]), sprint(turn["version_after"])})
			if turn["state"] == "succeeded" && turn["exit_status"] != 0.0 || turn["state"] == "skipped" && turn["reason"] == "" {
				t.Errorf("the %s of %s: %v", kind, turn["address"], turn)
			}
		}
		same(t, "turns of the "+kind, got, turns[kind])
		for _, h := range hosts {
			if rebooted := h.BootID() != boots[h]; rebooted != (kind != "upgrade") {
				t.Errorf("host %s after the %s: rebooted %t", h.Address, kind, rebooted)
			}
		}
	}
	if got := output(t, atomic, "rpm-ostree status --json"); !strings.Contains(got, `{"booted":false,"staged":true,"version":"41.4"`) {
		t.Errorf("the deploy left %s", got)
	}
	for _, h := range hosts {
		if got := output(t, h, "systemctl is-active flanneld; systemctl is-active docker"); got != "active\nactive" {
			t.Errorf("after the restart of host %s: %s", h.Address, got)
		}
	}

	// Left and removed.
	for _, h := range hosts {
		s.delete("/cluster/c/hosts/" + h.Address).is(200).says(`[]`)
		isHost(s.until("/host/"+h.Address, status("disassociated", "failed")), "disassociated")
		s.delete("/host/" + h.Address).is(200).says(`[]`)
		s.get("/host/" + h.Address).is(404)
		s.get("/host/" + h.Address + "/creds").is(404)
	}
	s.get("/hosts").is(200).says(`[]`)
	s.get("/cluster/c").is(200).says(`{"name":"c","status":"ok","network":"default","container_manager":"m","hosts":{"total":0,"available":0,"unavailable":0}}`)
	s.stop(syscall.SIGTERM)

	// All that was ever run.
	services := []string{"systemctl enable flanneld", "systemctl restart flanneld", "systemctl enable docker", "systemctl restart docker"}
	same(t, "commands on atomic", changes(atomic), slices.Concat(services, []string{
		"rpm-ostree upgrade", "systemctl reboot", "rpm-ostree deploy -- 41.4",
	}))
	same(t, "commands on fedora", changes(fedora), slices.Concat([]string{"dnf install -y flannel", "dnf install -y docker"}, services, []string{
		"dnf -y upgrade --setopt=*.skip_if_unavailable=False", "systemctl reboot",
	}))
	same(t, "commands on rhel", changes(rhel), slices.Concat([]string{
		"subscription-manager repos --enable=rhel-7-server-extras-rpms --enable=rhel-7-server-optional-rpms",
		"yum install -y flannel", "yum install -y docker",
	}, services, []string{"yum -y update --setopt=*.skip_if_unavailable=False", "systemctl reboot"}))
	// Where there is systemd each stretch of work has a unit of its own.
	units := map[string]bool{}
	for _, call := range fedora.Commands() {
		if unit, ok := strings.CutPrefix(call, "systemd-run --unit=commissaire-"); ok {
			name, _, _ := strings.Cut(unit, " ")
			units[name] = true
		}
	}
	if n := calls(fedora, "systemd-run "); n != 5 || len(units) != n { // two packages, the services, the upgrade, the reboot
		t.Errorf("%d calls of systemd-run for the units %v", n, slices.Sorted(maps.Keys(units)))
	}
	// The secrets of the bootstrap went to the hosts and nowhere else.
	kept, read := secrets{"the etcd client's key": "the key of the etcd client", "a private key": "PRIVATE KEY"}, 0
	for _, name := range []string{"store", "keys", "output", "log"} {
		if path := filepath.Join(s.dir, name); exists(path) { // each store has its own
			read += kept.nowhere(t, path)
		}
	}
	if s.esdb != nil {
		read += kept.nowhereIn(t, s.esdb)
	}
	if read < 4 {
		t.Errorf("only %d files were read", read)
	}
}

func TestABootstrapLooksBeforeItChanges(t *testing.T) {
	t.Parallel()
	h := sshd.Start(t, sshd.Host{Address: "127.0.16.1", OS: sshd.RHEL7})
	s := newService(t)
	s.put("/network/n", `{"type":"flannel_server","options":{"address":"10.0.0.1:8080"}}`).is(201)
	s.put("/cluster/c", `{"network":"n"}`).is(201)
	b := behindOpenSSH(h)
	b["cluster"] = "c"
	add := func() (did []string) {
		t.Helper()
		before := len(changes(h))
		s.put("/host/"+h.Address, b).is(201)
		s.until("/host/"+h.Address, status("disassociated", "failed"))
		s.delete("/host/" + h.Address).is(200)
		return changes(h)[before:]
	}
	state := func() string {
		t.Helper()
		return output(t, h, "stat -c '%n %a %i %y' /etc/sysconfig/* && cat /etc/sysconfig/*")
	}
	services := []string{"systemctl enable flanneld", "systemctl restart flanneld", "systemctl enable docker", "systemctl restart docker"}
	h.Fail("yum install -y docker", 1) // then the next name of the package is tried
	same(t, "the first time", add(), slices.Concat([]string{
		"subscription-manager repos --enable=rhel-7-server-extras-rpms --enable=rhel-7-server-optional-rpms",
		"yum install -y flannel", "yum install -y docker", "yum install -y moby-engine",
	}, services))
	same(t, "flannel", settings(t, h, "/etc/sysconfig/flanneld"), map[string]string{"FLANNEL_OPTIONS": "--remote=10.0.0.1:8080"})
	same(t, "docker", settings(t, h, "/etc/sysconfig/docker"), map[string]string{
		"OPTIONS": "--selinux-enabled --log-driver=journald", "DOCKER_CERT_PATH": "/etc/docker",
	})
	if _, _, err := h.File("/etc/etcd"); err == nil {
		t.Error("there are files for the etcd client, though none are configured")
	}

	first := state()
	same(t, "the second time", add(), []string{"systemctl restart flanneld", "systemctl restart docker"})
	if second := state(); second != first {
		t.Errorf("files were changed: from\n%s to\n%s", first, second)
	}

	output(t, h, "echo OPTIONS= >/etc/sysconfig/docker; chmod 600 /etc/sysconfig/*; systemctl disable docker")
	same(t, "after something changed", add(), []string{"systemctl restart flanneld", "systemctl enable docker", "systemctl restart docker"})
	if _, text, _ := strings.Cut(first, "\n#"); !strings.HasSuffix(state(), text) || strings.Contains(state(), " 600 ") {
		t.Errorf("files are not as they should be: %s", state())
	}
}

// killed kills the service while a host does what begins so, starts it again and
// waits until it has asked the host: another term is on record there.
func (s *service) killed(h *sshd.Server, prefix string) {
	s.t.Helper()
	term := func() string {
		text, _, err := h.File("/var/lib/commissaire/term")
		if err != nil {
			s.t.Fatal(err)
		}
		return string(text)
	}
	h.AwaitCommand(prefix)
	before := term()
	s.crash()
	within(s.t, "the service asks host "+h.Address+" again", func() bool { return term() != before })
}

// TestAServiceKilledAtAnyTimeRunsNothingTwice kills the service at each stretch
// of work on real hosts, with the work held until the next service is there.
func TestAServiceKilledAtAnyTimeRunsNothingTwice(t *testing.T) {
	t.Parallel()
	one := sshd.Start(t, sshd.Host{Address: "127.0.17.1", Systemd: true, Next: "42"})
	two := sshd.Start(t, sshd.Host{Address: "127.0.17.2", User: "operator", OSTree: true, Booted: "41.5", Next: "41.6"})
	hosts := []*sshd.Server{one, two}
	s := newService(t)

	// While a host is bootstrapped.
	release := one.Hold("dnf install -y flannel")
	s.put("/cluster/c", nil).is(201)
	s.addServers(hosts...)
	s.killed(one, "dnf install -y flannel")
	s.get("/host/" + one.Address).is(200)
	release()
	s.ready(one.Address, two.Address)

	// While each host is upgraded.
	releases := []func(){one.Hold("dnf -y upgrade"), two.Hold("rpm-ostree upgrade")}
	path := s.operate("upgrade", nil)
	for i, command := range []string{"dnf -y upgrade", "rpm-ostree upgrade"} {
		s.killed(hosts[i], command)
		record := s.get("/cluster/c/upgrade").is(200).object()
		if record["status"] != "in_process" || len(list(record["upgraded"])) != i {
			t.Errorf("the upgrade, host %d being in hand: %v", i, record)
		}
		same(t, "in process", of(list(record["in_process"]), "address"), []any{hosts[i].Address})
		releases[i]()
	}
	s.until("/cluster/c/upgrade", status("finished", "failed"))
	s.checkTurns(path, "succeeded succeeded")

	// While a host is down for its restart.
	boot := one.BootID()
	release = one.Hold("boot")
	path = s.operate("restart", nil)
	one.AwaitCommand("systemctl reboot")
	s.crash()
	asked(t, one, 6) // more often than a connection is tried
	release()
	one.AwaitReboot(boot)
	s.until("/cluster/c/restart", status("finished", "failed"))
	s.checkTurns(path, "succeeded succeeded")

	for h, want := range map[*sshd.Server][]string{
		one: {"dnf install -y flannel", "dnf install -y docker", "systemctl enable flanneld", "systemctl restart flanneld", "systemctl enable docker", "systemctl restart docker", "dnf -y upgrade --setopt=*.skip_if_unavailable=False", "systemctl reboot"},
		two: {"systemctl enable flanneld", "systemctl restart flanneld", "systemctl enable docker", "systemctl restart docker", "rpm-ostree upgrade", "systemctl reboot"},
	} {
		same(t, "commands on "+h.Address, changes(h), want)
	}
	if n := calls(one, "systemd-run "); n != 5 { // two packages, the services, the upgrade, the reboot
		t.Errorf("host %s was told to do %d stretches of work", one.Address, n)
	}
}

// asked stands at the place of a host that is down and returns when as many
// connections were tried.
func asked(t *testing.T, h *sshd.Server, times int) {
	t.Helper()
	var listener *net.TCPListener
	within(t, "host "+h.Address+" is down", func() (free bool) {
		var err error
		listener, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(h.Address), Port: h.Port})
		return err == nil
	})
	defer func() { _ = listener.Close() }()
	if err := listener.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range times {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatalf("nobody asks for host %s: %v", h.Address, err)
		}
		_ = conn.Close()
	}
}

// TestABrokenConnectionDoesNotEndTheWork cuts the connection to each host while
// it is upgraded.
func TestABrokenConnectionDoesNotEndTheWork(t *testing.T) {
	for _, c := range []struct {
		name, command string
		host          sshd.Host
		status        int
	}{
		{"dnf", "dnf -y upgrade --setopt=*.skip_if_unavailable=False", sshd.Host{Address: "127.0.18.1", User: "operator"}, 0},
		{"dnf that fails", "dnf -y upgrade --setopt=*.skip_if_unavailable=False", sshd.Host{Address: "127.0.18.2", Systemd: true}, 3},
		{"rpm-ostree", "rpm-ostree upgrade", sshd.Host{Address: "127.0.18.3", OSTree: true}, 0},
		{"rpm-ostree that fails", "rpm-ostree upgrade", sshd.Host{Address: "127.0.18.4", User: "operator", Systemd: true, OSTree: true}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := sshd.Start(t, c.host)
			s := newService(t, map[string]any{"bootstrap": map[string]any{"profile": "none"}})
			s.put("/cluster/c", nil).is(201)
			s.addServers(h)
			s.ready(h.Address)
			release := h.Hold(c.command)
			h.Fail(c.command, c.status)
			h.Print(c.command, `first ü\nheld`)
			path := s.operate("upgrade", nil)
			h.AwaitCommand(c.command)
			log := s.follow(path, c.host.Address)
			log.until("held")
			for range 2 {
				h.DropConnections()
				within(t, "the service connects again", func() bool {
					return output(t, h, "pgrep -c -f '[@]notty' || true") != "0"
				})
			}
			release()
			s.until("/cluster/c/upgrade", status("finished", "failed"))

			turn := list(s.get(path).is(200).object()["hosts"])[0]
			state := "succeeded"
			if c.status != 0 {
				state = "failed"
			}
			if turn["state"] != state || turn["exit_status"] != float64(c.status) {
				t.Errorf("the turn: %v", turn)
			}
			printed := []byte(output(t, h, "cat /var/lib/commissaire/turn/*/output") + "\n")
			if served := s.log(path, c.host.Address); served != string(printed) || !strings.HasPrefix(served, "first \u00fc\nheld\n") || strings.Count(served, "\n") != 3 {
				t.Errorf("it printed %q, and served is %q", printed, served)
			}
			if followed, err := log.rest(); err != nil || headings.ReplaceAllString(followed, "") != string(printed) {
				t.Errorf("it printed %q, and followed was %q, %v", printed, followed, err)
			}
			sum := sha256.Sum256(printed)
			history := s.get(path + "/history").is(200)
			if want := fmt.Sprintf(`{"size":%d,"sha256":"%s"}`, len(printed), hex.EncodeToString(sum[:])); len(printed) < 2 || !strings.Contains(string(history.body), want) {
				t.Errorf("no event has the output %s %q: %s", want, printed, history.body)
			}
			same(t, "commands", changes(h), []string{c.command})
		})
	}
}
