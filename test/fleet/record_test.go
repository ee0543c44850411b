package fleet

import (
	"slices"
	"sync"
	"testing"
	"time"
)

func TestAHostIsInHandWhileItIsUpgradedOrReboots(t *testing.T) {
	r := start(t, Config{Hosts: []Spec{
		{Address: "127.0.1.1", OS: Atomic, Version: "1", Next: "2"},
		{Address: "127.0.1.2", OS: Debian, Version: "1", Next: "2"},
	}})
	first, second := r.Hosts()[0], r.Hosts()[1]
	runScript(t, r.connect(t, first), "systemctl restart docker; rpm-ostree status; rpm-ostree upgrade")
	upgraded := time.Now()
	if n := r.MostInHand(time.Time{}); n != 1 {
		t.Errorf("%d hosts were in hand, want 1", n)
	}
	boot := first.BootID()
	runScript(t, r.connect(t, first), "systemctl reboot")
	await(t, first, func(h *Host) bool { return h.BootID() != boot && h.Listening() })
	back := time.Now()
	runScript(t, r.connect(t, second), "apt-get update && apt-get -y dist-upgrade")

	var lines []string
	for _, c := range r.InHand() {
		lines = append(lines, c.Host+" "+c.Line)
		if c.Time.IsZero() || !c.Until.After(c.Time) {
			t.Errorf("%s was in hand from %s until %s", c.Line, c.Time, c.Until)
		}
	}
	if want := []string{"127.0.1.1 rpm-ostree upgrade", "127.0.1.1 systemctl reboot", "127.0.1.2 apt-get update", "127.0.1.2 apt-get -y dist-upgrade"}; !slices.Equal(lines, want) {
		t.Errorf("in hand for %q, want %q", lines, want)
	}
	if all := r.Commands(); len(all) != 5 || all[0].Line != "systemctl restart docker" {
		t.Errorf("the commands are %+v", all)
	}
	if reboot := r.InHand()[1]; reboot.Until.Sub(reboot.Time) < Quick.Reboot || reboot.Until.After(back) {
		t.Errorf("the reboot took from %s until %s", reboot.Time, reboot.Until)
	}
	if n := most(r.InHand()[:1], upgraded); n != 0 {
		t.Errorf("%d hosts were in hand after the upgrade", n)
	}
}

func TestHowManyHostsWereInHandAtOnce(t *testing.T) {
	speed := Speed{Upgrade: time.Hour}
	r := start(t, Config{Hosts: []Spec{
		{Address: "127.0.1.1", OS: Atomic, Next: "2", Speed: speed},
		{Address: "127.0.1.2", OS: Atomic, Next: "2", Speed: speed},
		{Address: "127.0.1.3", OS: Atomic, Next: "2", Speed: speed},
	}})
	var wg sync.WaitGroup
	for _, h := range r.Hosts() {
		runScript(t, r.connect(t, h), "setsid rpm-ostree upgrade >/dev/null 2>&1 &")
		await(t, h, func(h *Host) bool { return len(h.Commands()) == 1 })
	}
	if n := r.MostInHand(time.Now()); n != 3 {
		t.Errorf("%d hosts are in hand, want 3", n)
	}
	for _, h := range r.Hosts()[:2] { // what was running ends with the boot
		boot := h.BootID()
		h.Reboot()
		wg.Go(func() { await(t, h, func(h *Host) bool { return h.BootID() != boot && h.Listening() }) })
	}
	wg.Wait()
	if n := r.MostInHand(time.Now()); n != 1 {
		t.Errorf("%d hosts are in hand after two rebooted, want 1", n)
	}
	r.Hosts()[2].SetFaults(Faults{StayDown: true})
	r.Hosts()[2].Reboot()
	await(t, r.Hosts()[2], func(h *Host) bool { return !h.Listening() })
	if n := r.MostInHand(time.Now()); n != 1 {
		t.Errorf("%d hosts are in hand, want the one that never came back", n)
	}

	second := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	commands := []Command{
		{Host: "a", Time: second(1), Until: second(4)},
		{Host: "b", Time: second(4), Until: second(6)}, // begins when a ends
		{Host: "b", Time: second(5), Until: second(7)}, // the same host twice
		{Host: "c", Time: second(6), Until: second(9)},
	}
	for _, c := range []struct{ from, want int }{{0, 2}, {7, 1}, {9, 0}} {
		if n := most(commands, second(c.from)); n != c.want {
			t.Errorf("from %d on, %d hosts at once, want %d", c.from, n, c.want)
		}
	}
}
