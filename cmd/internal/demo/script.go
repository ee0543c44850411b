package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"commissaire/cmd/internal/client"
	"commissaire/cmd/internal/terminal"
	"commissaire/test/fleet"
)

// script is what the demo asks the service for, and what it shows of that.
type script struct {
	*terminal.Screen
	fleet           *fleet.Fleet
	key             string // that the hosts take, as PUT /host wants it
	admin, operator *client.Client
}

const (
	oldTree, newTree = "41.20250101.0", "41.20250215.0"
	broken           = "127.0.2.4" // the host whose first upgrade fails
)

// hostsOfScript are the hosts: ten of the cluster web, on ostree, and ten of db.
func hostsOfScript() []fleet.Spec {
	var specs []fleet.Spec
	speed := fleet.Speed{Upgrade: 200 * time.Millisecond, Install: 50 * time.Millisecond, Shutdown: 50 * time.Millisecond, Reboot: 200 * time.Millisecond}
	for n := range 20 {
		spec := fleet.Spec{OS: fleet.Atomic, Release: "41", Version: oldTree, Next: newTree, CPUs: 2, Memory: 4 << 20, Speed: speed}
		spec.Address = fmt.Sprintf("127.0.1.%d", n+1)
		if n >= 10 {
			spec = fleet.Spec{OS: fleet.Fedora, Release: "41", Version: "6.11.4-301.fc41", Next: "6.12.15-200.fc41", CPUs: 8, Memory: 32 << 20, Speed: speed}
			spec.Address = fmt.Sprintf("127.0.2.%d", n-9)
		}
		specs = append(specs, spec)
	}
	return specs
}

// run goes through the chapters.
func (s *script) run(ctx context.Context) error {
	s.Line(`Commissaire looks after clusters of container hosts: you ask over REST, it acts over SSH,
one host at a time, and records who asked for what, when and why, and what came of it.

Here: 20 simulated hosts (real SSH, on 127.0.1.* and 127.0.2.*, port %d) and the service
(%s). Two people use it: ada, who may do all, and otto, an operator.`, s.fleet.Port(), s.admin.Endpoint)
	for i, chapter := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"Two clusters of ten hosts: web (atomic) and db (fedora)", s.register},
		{"Deploy a version to web", s.deploy},
		{"Upgrade db, where one host is broken", s.upgrade},
		{"Mend that host and upgrade again", s.again},
		{"Restart both: clusters do not wait for one another", s.restart},
		{"History: who, when, why", s.history},
	} {
		s.Title(fmt.Sprintf("%d. %s", i+1, chapter.title))
		if err := chapter.run(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// put makes a request, with a reason, and shows it. It does not show the key.
func (s *script) put(ctx context.Context, c *client.Client, path, reason string, body map[string]any) error {
	status, text, err := s.quietly(ctx, c, path, reason, body)
	if err != nil {
		return err
	}
	s.Line("   %s: PUT %s%s %s", c.User, client.Base, path, strings.ReplaceAll(text, s.key, "…"))
	s.Line("   X-Commissaire-Reason: %s", reason)
	s.Line("   → %s", status)
	return nil
}

// quietly makes a request with a reason. It returns the status and the body that
// was sent.
func (s *script) quietly(ctx context.Context, c *client.Client, path, reason string, body map[string]any) (status, text string, err error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return "", "", fmt.Errorf("PUT %s: %w", path, err)
	}
	_, answer, err := c.Do(ctx, http.MethodPut, path, encoded, map[string]string{"X-Commissaire-Reason": reason})
	if err != nil {
		return "", "", err
	}
	return answer.Status, string(encoded), nil
}

// hostRecord is a host, as far as the demo reads it.
type hostRecord struct {
	Address, Status, OS string
	CPUs                int
	Memory              int64
}

func (s *script) register(ctx context.Context) error {
	const why = "the new rack is wired"
	for _, cluster := range []string{"web", "db"} {
		if err := s.put(ctx, s.admin, "/cluster/"+cluster, why, map[string]any{}); err != nil {
			return err
		}
	}
	for i, h := range s.fleet.Hosts() {
		cluster := "web"
		if h.Spec().OS != fleet.Atomic {
			cluster = "db"
		}
		path, body := "/host/"+h.Address(), map[string]any{"cluster": cluster, "ssh_port": s.fleet.Port(), "ssh_priv_key": s.key}
		var err error
		if i == 0 {
			err = s.put(ctx, s.admin, path, why, body)
		} else {
			_, _, err = s.quietly(ctx, s.admin, path, why, body)
		}
		if err != nil {
			return err
		}
	}
	s.Line("   … and 19 more. The service logs in, learns what each one is, and sets it up:\n")
	ready := map[string]bool{}
	err := client.Follow(ctx, s.admin, "/hosts", func(hosts []hostRecord) (bool, error) {
		for _, host := range hosts {
			switch {
			case host.Status == "failed":
				return false, fmt.Errorf("host %s could not be made ready", host.Address)
			case host.Status == "disassociated" && !ready[host.Address]:
				ready[host.Address] = true
				s.Line("   %-10s  %s  %d CPUs  %2d GiB  ready", host.Address, host.OS, host.CPUs, host.Memory>>20)
			}
		}
		s.Status(fmt.Sprintf("   %d of %d hosts are ready", len(ready), len(hosts)))
		return len(ready) == len(s.fleet.Hosts()), nil
	})
	if err != nil {
		return err
	}
	first := s.fleet.Hosts()[10]
	s.Line("\n   What was run on %s for that:", first.Address())
	for _, command := range first.Commands() {
		s.Line("      %-34s  exit status %d", command.Line, command.Exit)
	}
	s.Line("")
	const path = "/cluster/web"
	text, _, err := s.operator.Do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	s.Line("   %s: GET %s%s\n   → %s", s.operator.User, client.Base, path, strings.TrimSpace(string(text)))
	return nil
}

func (s *script) deploy(ctx context.Context) error {
	if err := s.put(ctx, s.operator, "/cluster/web/deploy", "this tree was tested on staging", map[string]any{"version": newTree}); err != nil {
		return err
	}
	if err := s.watch(ctx, 1, "finished"); err != nil {
		return err
	}
	s.Line("   A deploy reboots nothing: the hosts run %s until they are restarted.", oldTree)
	return nil
}

func (s *script) upgrade(ctx context.Context) error {
	s.fleet.Host(broken).FailNext("dnf -y upgrade", 1)
	if err := s.put(ctx, s.operator, "/cluster/db/upgrade", "security fixes of February", map[string]any{}); err != nil {
		return err
	}
	if err := s.watch(ctx, 1, "failed"); err != nil {
		return err
	}
	s.Line("   So says the default policy: one host at a time, stop at the first that fails.\n   Those that wait were not touched.")
	return nil
}

func (s *script) again(ctx context.Context) error {
	s.Line("   (The demo had told dnf on %s to fail once. It works again.)\n", broken)
	if err := s.put(ctx, s.operator, "/cluster/db/upgrade", "again: "+broken+" is mended", map[string]any{}); err != nil {
		return err
	}
	return s.watch(ctx, 1, "finished")
}

func (s *script) restart(ctx context.Context) error {
	for _, cluster := range []string{"web", "db"} {
		if err := s.put(ctx, s.operator, "/cluster/"+cluster+"/restart", "boot into what is new", map[string]any{}); err != nil {
			return err
		}
	}
	return s.watch(ctx, 2, "finished")
}

// operationRecord is an operation, as far as the demo reads it.
type operationRecord struct {
	ID, Kind, Cluster, Version, Actor, Reason, Status, Cause string

	StartedAt client.Time `json:"started_at"`
	Hosts     []turnRecord
}

type turnRecord struct {
	Address, State, Reason string

	StartedAt  client.Time `json:"started_at"`
	FinishedAt client.Time `json:"finished_at"`
	Before     string      `json:"version_before"`
	After      string      `json:"version_after"`
}

// watch shows the newest operations as they go on, until they have ended, all with the
// status that is expected.
func (s *script) watch(ctx context.Context, newest int, expected string) error {
	path := fmt.Sprintf("/operations?limit=%d", newest)
	s.Line("   %s: GET %s%s, again whenever there is news\n", s.operator.User, client.Base, path)
	shown := map[string]bool{}
	return client.Follow(ctx, s.operator, path, func(operations []operationRecord) (bool, error) {
		slices.Reverse(operations) // oldest first
		var lines []string
		for _, o := range operations {
			for _, t := range o.Hosts {
				turn := o.ID + " " + t.Address
				switch {
				case t.State == "begun":
					lines = append(lines, o.Kind+" of "+t.Address)
				case t.State != "waiting" && !shown[turn]:
					shown[turn] = true
					s.turn(t)
				}
			}
		}
		s.Status("   " + strings.Join(lines, ", "))
		if slices.ContainsFunc(operations, func(o operationRecord) bool { return o.Status == "in_process" }) {
			return false, nil
		}
		s.Line("")
		for _, o := range operations {
			s.Line("   → %s of %s: %s (%s)", o.Kind, o.Cluster, o.Status, count(o.Hosts))
			if o.Cause != "" {
				s.Line("     cause: %s", o.Cause)
			}
			if o.Status != expected {
				return false, fmt.Errorf("the %s of %s is %s, and was to be %s", o.Kind, o.Cluster, o.Status, expected)
			}
		}
		return true, nil
	})
}

// turn shows how a host's turn ended, and which command ran there.
func (s *script) turn(t turnRecord) {
	ran := ""
	if commands := s.fleet.Host(t.Address).Commands(); len(commands) > 0 {
		ran = commands[len(commands)-1].Line
	}
	outcome := "runs " + t.After
	switch {
	case t.State != "succeeded":
		outcome = t.Reason
	case t.Before != t.After:
		outcome = t.Before + " → " + t.After
	}
	s.Line("   %-10s  %-51s  %-9s %.1f s  %s", t.Address, ran, t.State, t.FinishedAt.Sub(t.StartedAt.Time).Seconds(), outcome)
}

// count is how many hosts are in which state.
func count(turns []turnRecord) string {
	var parts []string
	for _, state := range []string{"succeeded", "skipped", "failed", "begun", "waiting"} {
		n := 0
		for _, t := range turns {
			if t.State == state {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(parts, ", ")
}

// entryRecord is a line of the audit trail, as far as the demo reads it.
type entryRecord struct {
	Type, Actor, Reason string

	Time client.Time
	Data struct{ Reason string }
}

func (s *script) history(ctx context.Context) error {
	const path = "/operations"
	operations, err := client.Get[[]operationRecord](ctx, s.admin, path)
	if err != nil {
		return err
	}
	s.Line("   %s: GET %s%s\n", s.admin.User, client.Base, path)
	table := terminal.NewTable(s)
	for _, o := range slices.Backward(operations) {
		_, _ = fmt.Fprintf(table, "   %s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.StartedAt.Format(time.TimeOnly), o.Actor, o.Kind, o.Cluster, o.Status, count(o.Hosts), o.Reason)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("show the operations: %w", err)
	}
	if err := s.life(ctx, broken); err != nil {
		return err
	}
	status, err := client.Get[struct {
		Position uint64 `json:"log_position"`
	}](ctx, s.admin, "/status")
	if err != nil {
		return err
	}
	s.Line("\nAll that you saw is computed from the %d events in the log. To try it by hand: make run", status.Position)
	return nil
}

// life shows all that was recorded of a host: a line for each time that somebody did
// something with it.
func (s *script) life(ctx context.Context, host string) error {
	path := "/host/" + host + "/history"
	entries, err := client.Get[[]entryRecord](ctx, s.admin, path)
	if err != nil {
		return err
	}
	s.Line("\n   %s: GET %s%s\n", s.admin.User, client.Base, path)
	for len(entries) > 0 {
		first := entries[0]
		end := slices.IndexFunc(entries[1:], func(e entryRecord) bool { return e.Actor != first.Actor || e.Type == "HostTaken" }) + 1
		if end == 0 {
			end = len(entries)
		}
		var events []string
		why := first.Reason
		for _, e := range entries[:end] {
			events = append(events, e.Type)
			why = cmp.Or(why, e.Data.Reason)
		}
		s.Line("   %s  %-11s  %s", first.Time.Format(time.TimeOnly), first.Actor, strings.Join(events, ", "))
		if why != "" {
			s.Line("             why: %s", why)
		}
		entries = entries[end:]
	}
	return nil
}
