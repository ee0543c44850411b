package e2e

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"commissaire/test/fleet"
)

var (
	kills = flag.Int("kills", 8, "how often the service is killed at a random moment")
	seed  = flag.Uint64("seed", 0, "what the moments, and what is asked for, follow from; 0: others each time")
)

// TestNoKillBreaksARule kills the service again and again while clients change
// what there is and operations cross a cluster. After each start the clients find
// what they were answered; in the end the log and the hosts agree on what was
// done, once each and one after the other.
func TestNoKillBreaksARule(t *testing.T) {
	began, seed := time.Now(), cmp.Or(*seed, rand.Uint64())
	random := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
	t.Logf("-seed=%d repeats what is asked for, and when the service is killed", seed)

	var specs []fleet.Spec
	for i := range 16 {
		specs = append(specs, fleet.Spec{
			Address: fmt.Sprintf("127.0.15.%d", i+1), OS: []fleet.OS{fleet.Atomic, fleet.Fedora}[i%2], Version: "41.0",
			Speed: fleet.Speed{Upgrade: 60 * time.Millisecond, Install: 60 * time.Millisecond, Reboot: 100 * time.Millisecond},
		})
	}
	f, body := startFleet(t, fleet.Config{Hosts: specs, Second: 200 * time.Millisecond})
	operated, wanted, tended := f.Hosts()[:10], f.Hosts()[10:13], f.Hosts()[13:]
	s := newService(t, map[string]any{"snapshots.events": 50}) // most starts are from one
	for _, name := range []string{"c", "r0", "r1"} {
		s.put("/cluster/"+name, nil).is(201)
	}
	s.addHosts("c", body, addresses(operated)...)
	s.addHosts("", body, addresses(wanted)...)
	s.ready(addresses(f.Hosts()[:13])...)

	all := &crowd{service: s, replies: map[string]reply{}}
	r := &rivals{crowd: all, random: random(1), cluster: [2]string{"r0", "r1"}, may: map[string]bool{"---": true}}
	for _, h := range wanted {
		r.hosts = append(r.hosts, h.Address())
	}
	o := &operator{crowd: all, random: random(2), fleet: f}
	for _, h := range operated {
		o.members = append(o.members, h.Address())
	}
	clients := []client{o, r}
	for i, h := range tended {
		h.Slow("systemctl restart flanneld", 100*time.Millisecond) // so that it may be removed, and added again, meanwhile
		clients = append(clients, &gardener{
			crowd: all, random: random(uint64(3 + i)), network: fmt.Sprintf("n%d", i),
			cluster: [2]string{fmt.Sprintf("g%d", i), fmt.Sprintf("h%d", i)},
			host:    h, body: body, may: map[garden]bool{{}: true},
		})
	}

	o.step(t.Context()) // whatever happens then, there is an operation
	moments := random(0)
	for killed := 0; killed < *kills && !t.Failed(); killed++ {
		ctx, stop := context.WithCancel(t.Context())
		var living sync.WaitGroup
		for _, c := range clients {
			living.Go(func() { live(ctx, c) })
		}
		pause(ctx, min(time.Duration(moments.ExpFloat64()*float64(300*time.Millisecond)), 2*time.Second))
		s.stop(syscall.SIGKILL)
		stop()
		living.Wait()
		if moments.IntN(6) == 0 { // it may not even come to listen
			s.launch()
			pause(t.Context(), time.Duration(moments.IntN(60))*time.Millisecond)
			s.stop(syscall.SIGKILL)
			killed++
		}
		s.start()
	}
	for _, c := range clients {
		c.look()
	}
	running := "/operations?status=in_process"
	s.await(func() bool { return strings.TrimSpace(string(s.get(running).body)) == "[]" }, running)

	h := s.recorded()
	h.isWhole()
	h.hasWhatWasAnswered(all.replies)
	h.keepsTheRules()
	h.explains(f)
	doOneThingAtATime(t, f)
	if most := f.MostInHand(time.Time{}); most > 1 {
		t.Errorf("%d hosts were in hand at the same time", most)
	}
	completed, resumed, failed := h.outcomes()
	if len(failed) > 0 {
		t.Errorf("all hosts are well, and operations failed: %s", strings.Join(failed, "\n"))
	}
	done, refused, unknown := all.count()
	if completed == 0 || done == 0 {
		t.Error("nothing happened")
	}
	t.Logf("%d kills in %s: %d changes answered 2xx, %d refused, %d of unknown outcome; %d operations, %d turns taken up again; %d commands on hosts, %d of them took one in hand; %d events",
		*kills, time.Since(began).Round(time.Second), done, refused, unknown, completed+len(failed), resumed, len(f.Commands()), len(f.InHand()), len(h.events))
}

// TestAKilledServiceFinishesItsOperation kills the service while a host is being
// upgraded, and again while it reboots: each was asked for once.
func TestAKilledServiceFinishesItsOperation(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.12.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.12.2", OS: fleet.Atomic, Version: "41.1", Next: "41.2"},
	)
	s := newService(t)
	s.join(f, body)
	for kind, command := range map[string]string{"upgrade": "dnf -y upgrade", "restart": "systemctl reboot"} {
		first := f.Host("127.0.12.1")
		release := first.Hold(command)
		s.operate(kind, nil)
		awaitCommand(t, first, command)
		s.crash()
		release()
		record := s.until("/cluster/c/"+kind, status("finished", "failed"))
		if record["status"] != "finished" {
			t.Errorf("the %s %v: %s", kind, record["status"], s.get("/operations?limit=1").body)
		}
		for _, h := range f.Hosts() {
			if n := commands(h, command); h == first && n != 1 {
				t.Errorf("%s was sent %d times to %s", command, n, h.Address())
			}
		}
	}
}

// TestAHostAddedAgainWaitsForWhatWasBegun removes a host while a package is being
// installed on it and adds it again: to the service that is another host, and it
// is the same machine.
func TestAHostAddedAgainWaitsForWhatWasBegun(t *testing.T) {
	for name, between := range map[string]func(*service){
		"by the same service":    func(*service) {},
		"by one that was killed": func(s *service) { s.crash() },
	} {
		t.Run(name, func(t *testing.T) {
			// Time runs so fast there that the second install waits for longer than one
			// whose own runner does not start.
			f, body := startFleet(t, fleet.Config{
				Hosts: []fleet.Spec{{Address: "127.0.19.1", OS: fleet.Fedora, Version: "6.1"}}, Second: 20 * time.Millisecond,
			})
			s := newService(t)
			h := f.Hosts()[0]
			h.Slow("dnf install -y flannel", 1500*time.Millisecond)
			path := "/host/" + h.Address()
			s.put(path, body()).is(201)
			awaitCommand(t, h, "dnf install -y flannel")
			s.delete(path).is(200)
			between(s)
			s.put(path, body()).is(201)
			s.until(path, status("disassociated"))
			doOneThingAtATime(t, f)
			if n := commands(h, "systemctl restart docker"); n != 1 {
				t.Errorf("docker was restarted %d times: the bootstrap of the removed host went on", n)
			}
		})
	}
}

func TestAHostThatFailsStopsTheOperation(t *testing.T) {
	f, body := hosts(t,
		fleet.Spec{Address: "127.0.13.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
		fleet.Spec{Address: "127.0.13.2", OS: fleet.Fedora, Version: "6.1", Next: "6.2"},
	)
	s := newService(t)
	s.join(f, body)
	f.Host("127.0.13.1").FailNext("dnf -y upgrade", 3)
	o := s.until(s.operate("upgrade", nil), status("failed"))
	if !strings.Contains(sprint(o["cause"]), "127.0.13.1: the upgrade ended with exit status 3") {
		t.Errorf("the cause is %v", o["cause"])
	}
	if n := commands(f.Host("127.0.13.2"), "dnf -y upgrade"); n != 0 {
		t.Error("the second host was upgraded though the first had failed")
	}
	s.get("/cluster/c/upgrade").is(200).keys("name", "status", "upgraded", "in_process", "started_at", "finished_at")
	s.ready("127.0.13.1")
}

func TestAChangedHostKeyStopsAllWorkUntilItIsAccepted(t *testing.T) {
	f, body := hosts(t, fleet.Spec{Address: "127.0.14.1", OS: fleet.Fedora, Version: "6.1", Next: "6.2"})
	s := newService(t)
	path := "/host/127.0.14.1"
	s.put(path, body()).is(201)
	s.until(path, status("disassociated"))
	h := f.Host("127.0.14.1")
	if err := h.ChangeHostKey(); err != nil {
		t.Fatal(err)
	}
	h.DropConnections()
	s.until(path, status("failed"))
	s.put(path+"/hostkey", `{"fingerprint":"SHA256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxw"}`).is(409)
	s.put(path+"/hostkey", `{"fingerprint":"`+fingerprint(h)+`"}`).is(201)
	s.until(path, status("disassociated"))
}

func TestAStoreInUseIsRefused(t *testing.T) {
	onSQLite(t, "several instances may use EventStoreDB")
	s := newService(t)
	second := &service{t: t, dir: s.dir}
	out, err := second.run("", "serve", "--config", filepath.Join(s.dir, "config.json"))
	if err == nil || !strings.Contains(out, "another process is using it") || strings.Count(strings.TrimSpace(out), "\n") != 0 {
		t.Errorf("a second service on the same store: %v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "store", "events.db")); err != nil {
		t.Error(err)
	}
	s.get("/clusters").is(200)
}
