package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/esdb"
	"commissaire/test/fleet"
)

var (
	faults = flag.Int("faults", 3, "how often an instance is killed or paused, or the store is away, with each number of instances")
	outage = flag.Duration("outage", 2*time.Second, "how long the store is away at most")
)

// instance is a program that shares a store with others.
type instance struct {
	*service
	name    string
	base    atomic.Pointer[url.URL] // where it listens; nil: it does not run
	answers atomic.Bool             // as the balancer sees it
	paused  atomic.Bool
}

// up starts the program, again and again while it cannot start.
func (i *instance) up(ctx context.Context) {
	for ctx.Err() == nil {
		base, ok := <-i.launch()
		if at, err := url.Parse(base); ok && err == nil {
			i.base.Store(at)
			return
		}
		<-i.ends
		pause(ctx, 50*time.Millisecond)
	}
}

// kill ends the program at once.
func (i *instance) kill() {
	i.base.Store(nil)
	i.answers.Store(false)
	i.stop(syscall.SIGKILL)
}

// stall stops the program without ending it; wake lets it go on.
func (i *instance) stall() {
	i.paused.Store(true)
	_ = i.cmd.Process.Signal(syscall.SIGSTOP)
}

func (i *instance) wake() {
	_ = i.cmd.Process.Signal(syscall.SIGCONT)
	i.paused.Store(false)
}

// alone is the instance as it answers without the balancer.
func (i *instance) alone() *service {
	s := *i.service
	s.base = strings.TrimSuffix(i.base.Load().String(), "/")
	s.client = &http.Client{Timeout: 20 * time.Second}
	return &s
}

// crew is several instances on one store behind a balancer. As a service it is
// what clients reach: each GET carries the greatest position that was answered.
type crew struct {
	*service
	store *esdb.Cluster
	all   []*instance
	lease time.Duration
	turn  atomic.Uint64 // of all, for the balancer

	transport http.RoundTripper
	rising    sync.WaitGroup
	settled   atomic.Uint64 // counts the changes that settle made

	mu       sync.Mutex
	position uint64
	nothing  map[string]string // calls that were answered 503 without doubt, by request id
}

// newCrew starts n instances on a new store.
func newCrew(t *testing.T, n int, lease time.Duration, settings map[string]any) *crew {
	t.Helper()
	c := &crew{
		store: esdb.StartCluster(t, 3), lease: lease, nothing: map[string]string{},
		transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true},
	}
	keys, output := filepath.Join(t.TempDir(), "keys"), t.TempDir()
	if err := os.Mkdir(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	for k := range n {
		name := fmt.Sprintf("instance-%d", k)
		config := map[string]any{
			"store": c.store.ConnectionString(), "credentials.keys": "file:" + keys, "instance": name,
			"eventstoredb.lease": lease.String(), "operations.output-dir": output,
		}
		maps.Copy(config, settings)
		i := &instance{service: unstarted(t, config), name: name}
		i.up(t.Context())
		c.all = append(c.all, i)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(*httputil.ProxyRequest) {},
		Transport:    balancer{c},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	front := httptest.NewUnstartedServer(proxy)
	front.Config.ErrorLog = proxy.ErrorLog
	front.Start()
	ctx, stop := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	for _, i := range c.all {
		looking.Go(func() { i.check(ctx) })
	}
	t.Cleanup(func() {
		stop()
		looking.Wait()
		c.rising.Wait()
		front.CloseClientConnections()
		for _, i := range c.all {
			i.kill()
		}
		front.Close()
	})
	s := *c.all[0].service
	s.base, s.client = front.URL, &http.Client{Transport: carrier{c}}
	c.service = &s
	c.await(func() bool {
		return !slices.ContainsFunc(c.all, func(i *instance) bool { return !i.answers.Load() })
	}, "/clusters")
	return c
}

// check looks again and again whether the instance answers.
func (i *instance) check(ctx context.Context) {
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for pause(ctx, 50*time.Millisecond) {
		base := i.base.Load()
		if base == nil {
			continue
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("/healthz").String(), nil)
		if err != nil {
			panic(err)
		}
		response, err := client.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		i.answers.Store(err == nil && i.base.Load() == base)
	}
}

// balancer passes requests on to the instances in turn, and over those that do
// not answer. What was passed on waits for its answer.
type balancer struct{ *crew }

var errNobody = errors.New("no instance answers")

// RoundTrip implements http.RoundTripper.
func (b balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	for range b.all {
		i := b.all[b.turn.Add(1)%uint64(len(b.all))]
		base := i.base.Load()
		if base == nil || !i.answers.Load() {
			continue
		}
		r.URL.Scheme, r.URL.Host = base.Scheme, base.Host
		response, err := b.transport.RoundTrip(r)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // it was not asked
		}
		return response, err
	}
	return nil, errNobody
}

// carrier is a client's way to the balancer: it carries the position from answer
// to request, and holds answers against it. An instance that is busy is as one
// that does not answer.
type carrier struct{ *crew }

var errBusy = errors.New("answered 503")

// RoundTrip implements http.RoundTripper.
func (c carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	least := c.position
	c.mu.Unlock()
	r = r.Clone(r.Context())
	if r.Method == http.MethodGet {
		r.Header.Set("X-Commissaire-At-Least", strconv.FormatUint(least, 10))
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	call := r.Method + " " + r.URL.Path
	if response.StatusCode >= http.StatusInternalServerError {
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
			c.t.Errorf("%s: %d %s", call, response.StatusCode, text)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !strings.Contains(string(text), `"outcome":"unknown"`) {
			c.nothing[r.Header.Get("X-Request-Id")] = call
		}
		return nil, errBusy
	}
	pos, err := strconv.ParseUint(response.Header.Get("X-Commissaire-Position"), 10, 64)
	switch {
	case err != nil && response.StatusCode < 300 && r.URL.Path != "/api/v0/status":
		c.t.Errorf("%s: answered without a position", call)
	case err == nil && r.Method == http.MethodGet && pos < least:
		c.t.Errorf("%s: answered from position %d, after %d was seen", call, pos, least)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.position = max(c.position, pos)
	return response, nil
}

// settle waits until what has no answer so far has come to be or will not: each
// instance takes a change after it, or has been killed meanwhile.
func (c *crew) settle(ctx context.Context) {
	for _, i := range c.all {
		s := *c.service
		s.client = &http.Client{Timeout: 30 * time.Second}
		base := i.base.Load()
		for base != nil && i.base.Load() == base && ctx.Err() == nil {
			s.base = strings.TrimSuffix(base.String(), "/")
			network := fmt.Sprintf("settled-%d", c.settled.Add(1))
			if a, _ := s.try(s.request("admin", http.MethodPut, "/network/"+network, nil).WithContext(ctx)); a.status == http.StatusCreated {
				to, _ := strconv.ParseUint(a.header.Get("X-Commissaire-Position"), 10, 64)
				c.mu.Lock()
				c.position = max(c.position, to)
				c.mu.Unlock()
				break
			}
			pause(ctx, 50*time.Millisecond)
		}
		s.client.CloseIdleConnections()
	}
}

// live lets a client act until ctx ends. After a change without an answer it
// looks at what came of it.
func (c *crew) live(ctx context.Context, one client) {
	for known := true; ctx.Err() == nil; known = false {
		if !known {
			c.settle(ctx)
			if ctx.Err() != nil {
				return
			}
		}
		for alive := one.look(); alive && ctx.Err() == nil; alive = one.step(ctx) {
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// log is a log of the store that no instance has.
func (c *crew) log() (*eventlog.Log, func()) {
	c.t.Helper()
	store, err := eventstoredb.Open(c.store.ConnectionString(), slog.New(slog.DiscardHandler), eventstoredb.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	return eventlog.NewLog(store), func() { _ = store.Close() }
}

// recorded is all that was recorded.
func (c *crew) recorded() history {
	c.t.Helper()
	log, end := c.log()
	defer end()
	h := history{t: c.t, sparse: true}
	for batch, err := range eventlog.UpToHead(c.t.Context(), log.Follow(c.t.Context(), 0)) {
		if err != nil {
			c.t.Fatal(err)
		}
		h.events = append(h.events, batch...)
	}
	return h
}

// leader is the instance that leads, by its own word; nil: none does.
func (c *crew) leader() *instance {
	for _, i := range c.all {
		if i.base.Load() == nil || !i.answers.Load() || i.paused.Load() {
			continue
		}
		s := i.alone()
		if a, _ := s.try(s.request("admin", http.MethodGet, "/status", nil)); strings.Contains(string(a.body), `"leads":true`) {
			return i
		}
	}
	return nil
}

// disturbance is a time at which something was done to an instance or the store.
type disturbance struct {
	from, until time.Time
	leader      string // the instance that led and was killed or paused; "": it was not
}

// takeovers are how long it took, after something happened to the leader and
// nothing else, until another term began.
func (h history) takeovers(all []disturbance, limit time.Duration) (took []time.Duration) {
	h.t.Helper()
	for k, d := range all {
		if d.leader == "" {
			continue
		}
		begun := slices.IndexFunc(h.events, func(r event.Recorded) bool {
			_, term := r.Event.(event.TermBegun)
			return term && r.Meta.Time.After(d.from)
		})
		end := d.from.Add(limit)
		if begun >= 0 && h.events[begun].Meta.Time.Before(end) {
			end = h.events[begun].Meta.Time
		}
		alone := true
		for other, o := range all {
			alone = alone && (other == k || o.from.After(end) || o.until.Add(limit).Before(d.from))
		}
		switch {
		case !alone:
		case begun < 0 || h.events[begun].Meta.Time.After(d.from.Add(limit)):
			h.t.Errorf("%s led until %s, and nobody did for %s after", d.leader, d.from, limit)
		default:
			took = append(took, end.Sub(d.from))
		}
	}
	slices.Sort(took)
	return took
}

// upset does things to the instances and the store, one after the other.
type upset struct {
	*crew
	random *rand.Rand
	mu     sync.Mutex
	done   []disturbance
	counts map[string]int
	away   sync.WaitGroup // a store that is away
	isAway atomic.Bool
}

// begin takes down that something is done; end takes the number that it returns.
func (u *upset) begin(kind, leader string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.counts[kind]++
	u.done = append(u.done, disturbance{from: time.Now(), leader: leader})
	return len(u.done) - 1
}

func (u *upset) end(k int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done[k].until = time.Now()
}

// whom chooses an instance that runs, rather the one that leads.
func (u *upset) whom() (one *instance, leads bool) {
	leader := u.leader()
	running := slices.DeleteFunc(slices.Clone(u.all), func(i *instance) bool { return i.base.Load() == nil })
	if leader != nil && u.random.IntN(4) > 0 {
		return leader, true
	}
	if len(running) == 0 {
		return nil, false
	}
	one = running[u.random.IntN(len(running))]
	return one, one == leader
}

func (u *upset) fault(ctx context.Context, kind string) {
	if kind == "outage" {
		u.outage(ctx)
		return
	}
	instance, leads := u.whom()
	for ; instance == nil; instance, leads = u.whom() {
		if u.rising.Wait(); ctx.Err() != nil {
			return
		}
	}
	led := ""
	if leads && !u.isAway.Load() {
		led = instance.name
	}
	k := u.begin(kind, led)
	if kind == "pause" {
		instance.stall()
		pause(ctx, u.lease+u.lease/2+time.Duration(u.random.Int64N(int64(u.lease))))
		instance.wake()
		u.end(k)
		return
	}
	stillborn := u.random.IntN(6) == 0 // it may not even come to listen
	wait := time.Duration(u.random.IntN(60)) * time.Millisecond
	instance.kill()
	u.rising.Go(func() {
		defer u.end(k) // until then there is one fewer that could lead
		if stillborn {
			instance.launch()
			pause(ctx, wait)
			instance.stop(syscall.SIGKILL)
		}
		instance.up(ctx)
	})
	if u.random.IntN(3) > 0 { // else the next thing happens soon
		pause(ctx, 2*u.lease)
	}
}

// outage has the store be away, in one of the ways in which it may.
func (u *upset) outage(ctx context.Context) {
	u.away.Wait()
	way, took := u.random.IntN(5), time.Duration(u.random.Int64N(int64(*outage)))
	k := u.begin("outage", "")
	u.isAway.Store(true)
	away := func() {
		var back []func()
		for _, node := range u.store.Nodes {
			switch way {
			case 0:
				node.NotReady(true)
				back = append(back, func() { node.NotReady(false) })
			case 1:
				back = append(back, node.Stall())
			case 2:
				back = append(back, node.Freeze())
			case 3:
				node.Stop(u.t)
				back = append(back, func() { node.Restart(u.t) })
			case 4: // another node leads
				node.Disconnect()
			}
		}
		if way == 4 {
			u.store.Lead(u.random.IntN(len(u.store.Nodes)))
		} else {
			pause(ctx, took)
		}
		for _, f := range back {
			f()
		}
		u.isAway.Store(false)
		u.end(k)
	}
	if way == 4 || u.random.IntN(2) == 0 {
		away()
		return
	}
	u.away.Go(away) // and something else happens meanwhile
}

// TestNoFaultOfSeveralInstancesBreaksARule kills and pauses instances, and takes
// the store away from them, while clients change what there is and operations
// cross a cluster.
func TestNoFaultOfSeveralInstancesBreaksARule(t *testing.T) {
	for n := 2; n <= 3; n++ {
		t.Run(fmt.Sprintf("%d instances", n), func(t *testing.T) { survive(t, n) })
	}
}

func survive(t *testing.T, instances int) {
	const atOnce = 4
	began, seed := time.Now(), cmp.Or(*seed, rand.Uint64())
	random := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
	t.Logf("-seed=%d repeats what is asked for, and what happens when", seed)
	operated := 50
	if *faults < 20 {
		operated = 8
	}
	var specs []fleet.Spec
	for i := range operated + 6 {
		specs = append(specs, fleet.Spec{
			Address: fmt.Sprintf("127.0.%d.%d", 64+instances, i+1), OS: []fleet.OS{fleet.Atomic, fleet.Fedora}[i%2], Version: "41.0",
			Speed: fleet.Speed{Upgrade: 60 * time.Millisecond, Install: 60 * time.Millisecond, Reboot: 100 * time.Millisecond},
		})
	}
	f, body := startFleet(t, fleet.Config{Hosts: specs, Second: 200 * time.Millisecond})
	c := newCrew(t, instances, 1500*time.Millisecond, map[string]any{"watch.interval": "2s"})
	for _, name := range []string{"c", "r0", "r1"} {
		c.put("/cluster/"+name, nil).is(201)
	}
	c.addHosts("c", body, addresses(f.Hosts()[:operated])...)
	c.addHosts("", body, addresses(f.Hosts()[operated:operated+3])...)
	c.ready(addresses(f.Hosts()[:operated+3])...)

	all := &crowd{service: c.service, replies: map[string]reply{}}
	r := &rivals{crowd: all, random: random(1), cluster: [2]string{"r0", "r1"}, may: map[string]bool{"---": true}}
	for _, h := range f.Hosts()[operated : operated+3] {
		r.hosts = append(r.hosts, h.Address())
	}
	o := &operator{crowd: all, random: random(2), fleet: f, policy: map[string]any{"max_unavailable": atOnce}}
	for _, h := range f.Hosts()[:operated] {
		o.members = append(o.members, h.Address())
	}
	clients := []client{o, r}
	for i, h := range f.Hosts()[operated+3:] {
		h.Slow("systemctl restart flanneld", 100*time.Millisecond)
		clients = append(clients, &gardener{
			crowd: all, random: random(uint64(3 + i)), network: fmt.Sprintf("n%d", i),
			cluster: [2]string{fmt.Sprintf("g%d", i), fmt.Sprintf("h%d", i)},
			host:    h, body: body, may: map[garden]bool{{}: true},
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	var living sync.WaitGroup
	for _, client := range clients {
		living.Go(func() { c.live(ctx, client) })
	}

	u := &upset{crew: c, random: random(0), counts: map[string]int{}}
	kinds := []string{"kill", "pause", "outage", "kill", "pause"}
	if *faults < len(kinds) {
		kinds = kinds[:*faults]
	}
	for k := 0; k < *faults && !t.Failed(); k++ {
		pause(ctx, min(time.Duration(u.random.ExpFloat64()*float64(400*time.Millisecond)), 2*time.Second))
		if k%len(kinds) == 0 {
			u.random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		}
		u.fault(ctx, kinds[k%len(kinds)])
	}
	u.away.Wait()
	c.rising.Wait()
	// All is well again, and what the clients are about comes to an answer.
	stop()
	living.Wait()
	if t.Failed() {
		return
	}
	c.settle(t.Context())
	for _, client := range clients {
		c.await(client.look, "/clusters")
	}
	var running []any
	c.await(func() bool {
		return all.shows("/operations?status=in_process", &running) == http.StatusOK && len(running) == 0
	}, "/operations?status=in_process")
	h := c.recorded()
	for host, held := range h.held() {
		if held.Operation != "" { // a claim of an earlier term for upkeep that was done holds nobody up
			t.Errorf("no operation runs, and host %s is held by %+v", host, held)
		}
	}
	last := h.isWhole()
	h.keepsTheRules()
	h.explains(f)
	doOneThingAtATime(t, f)
	if most := f.MostInHand(time.Time{}); most > atOnce {
		t.Errorf("%d hosts were in hand at the same time", most)
	}
	for _, r := range all.replies {
		if r.done() && r.position > uint64(last) {
			t.Errorf("%s was answered at position %d, and the log ends at %d", r.call, r.position, last)
		}
	}
	h.hasWhatInstancesAnswered(all.replies, c.nothing)
	completed, resumed, failed := h.outcomes()
	if len(failed) > 0 {
		t.Errorf("all hosts are well, and operations failed: %s", strings.Join(failed, "\n"))
	}
	took := h.takeovers(u.done, 2*c.lease)
	done, refused, unknown := all.count()
	if completed == 0 || done == 0 {
		t.Error("nothing happened")
	}
	line := "none of a leader alone"
	if n := len(took); n > 0 {
		line = fmt.Sprintf("takeover after p50 %s, max %s (%d of them; lease %s)", took[n/2].Round(time.Millisecond), took[n-1].Round(time.Millisecond), n, c.lease)
	}
	t.Logf("%v in %s: %s; %d terms; %d changes answered 2xx, %d refused, %d of unknown outcome, %d known not to be made; %d operations, %d turns taken up again; %d commands on hosts, %d of them took one in hand; %d events",
		u.counts, time.Since(began).Round(time.Second), line, h.terms(), done, refused, unknown, len(c.nothing), completed+len(failed), resumed, len(f.Commands()), len(f.InHand()), len(h.events))
}

// terms is how many terms there were.
func (h history) terms() (n int) {
	for _, r := range h.events {
		if _, ok := r.Event.(event.TermBegun); ok {
			n++
		}
	}
	return n
}

// hasWhatInstancesAnswered checks that nothing came of what was refused, or
// answered not to have happened, and that what was answered stands where the
// answer says.
func (h history) hasWhatInstancesAnswered(replies map[string]reply, nothing map[string]string) {
	h.t.Helper()
	h.hasWhatWasAnswered(replies)
	for _, r := range h.events {
		if call, ok := nothing[r.Meta.RequestID]; ok && r.Meta.RequestID != "" {
			h.t.Errorf("%s was answered 503 without doubt, and left %s at position %d", call, r.Event.EventType(), r.Position)
		}
	}
}

// TestInstancesAgreeWhoLeads also takes the store away: then nobody leads, and
// what is not known is not said.
func TestInstancesAgreeWhoLeads(t *testing.T) {
	c := newCrew(t, 2, time.Second, nil)
	var leader *instance
	c.await(func() bool { leader = c.leader(); return leader != nil }, "/status")
	made := c.all[0].alone().put("/cluster/c", nil).is(201).header.Get("X-Commissaire-Position")
	var told []string
	for _, i := range c.all {
		o := i.alone().get("/status", "X-Commissaire-At-Least", made).is(200).object()
		if o["instance"] != i.name || o["leads"] != (i == leader) || o["age"] != 0.0 || o["lag"] == nil || o["store"] != "esdb" {
			t.Errorf("%s says %v", i.name, o)
		}
		told = append(told, sprint(o["leader"]))
	}
	if told[0] != told[1] || !strings.Contains(told[0], leader.name) {
		t.Errorf("one says that %s leads, the other %s", told[0], told[1])
	}
	for _, node := range c.store.Nodes {
		node.Stop(t)
	}
	for _, i := range c.all {
		i.alone().until("/status", func(o map[string]any) bool {
			return o["leads"] == false && o["age"].(float64) > 0 && o["lag"] == nil && o["log_position"] == nil
		})
	}
	for _, node := range c.store.Nodes {
		node.Restart(t)
	}
	for _, i := range c.all {
		i.alone().until("/status", func(o map[string]any) bool { return o["age"] == 0.0 && o["lag"] != nil })
	}
	c.await(func() bool { return c.leader() != nil }, "/status")
}

// TestALeaderThatWasPausedDoesNoHarm stops the leader in the middle of a turn,
// before and after it had the host begin, lets another finish, and wakes it.
func TestALeaderThatWasPausedDoesNoHarm(t *testing.T) {
	for name, held := range map[string]string{"before the command": "uname", "during the command": "rpm-ostree upgrade"} {
		t.Run(name, func(t *testing.T) {
			f, body := startFleet(t, fleet.Config{Hosts: atomics(69, 2)})
			c := newCrew(t, 2, 1500*time.Millisecond, map[string]any{"bootstrap.profile": "none", "watch.interval": "1h"})
			c.join(f, body)
			first, second := f.Hosts()[0], f.Hosts()[1]
			for _, h := range f.Hosts() {
				h.Release("41.9")
			}
			var old, other *instance
			c.await(func() bool { old = c.leader(); return old != nil }, "/status")
			if other = c.all[0]; other == old {
				other = c.all[1]
			}
			release := first.Hold(held)
			defer release()
			path := other.alone().operate("upgrade", nil)
			if held == "uname" {
				other.alone().until(path, func(o map[string]any) bool { return turnOf(o, 0)["state"] == "begun" })
			} else {
				awaitCommand(t, first, held)
			}
			stopped := time.Now()
			old.stall()
			defer old.wake()
			other.alone().until("/status", func(o map[string]any) bool { return o["leads"] == true })
			took := time.Since(stopped)
			if n := commands(first, "rpm-ostree upgrade"); n != strings.Count(held, "upgrade") {
				t.Fatalf("%d commands were sent until then", n)
			}
			release()
			if o := other.alone().until(path, status("finished", "failed")); o["status"] != "finished" {
				t.Errorf("the upgrade %v", o)
			}
			before := f.Commands()

			woken := time.Now()
			old.wake()
			old.alone().until("/status", func(o map[string]any) bool { return o["leads"] == false })
			stood := time.Since(woken)
			if stood > c.lease {
				t.Errorf("it led for another %s", stood)
			}
			// It follows: it takes changes, and shows those that the other took.
			made := old.alone().put("/cluster/by-the-woken", nil).is(201)
			other.alone().get("/cluster/by-the-woken", "X-Commissaire-At-Least", made.header.Get("X-Commissaire-Position")).is(200)
			made = other.alone().put("/cluster/by-the-other", nil).is(201)
			old.alone().get("/cluster/by-the-other", "X-Commissaire-At-Least", made.header.Get("X-Commissaire-Position")).is(200)
			old.alone().until(path, status("finished"))
			if o := other.alone().get("/status").is(200).object(); o["leads"] != true {
				t.Errorf("the other leads no longer: %v", o)
			}
			theirs, his := old.alone().get("/status").object(), other.alone().get("/status").object()
			if sprint(theirs["leader"]) != sprint(his["leader"]) || !strings.Contains(sprint(his["leader"]), other.name) {
				t.Errorf("one says that %v leads, the other %v", theirs["leader"], his["leader"])
			}
			if after := f.Commands(); len(after) != len(before) {
				t.Errorf("it sent %v", lines(after[len(before):]))
			}
			for _, h := range []*fleet.Host{first, second} {
				if n := commands(h, "rpm-ostree upgrade"); n != 1 {
					t.Errorf("%s was upgraded %d times", h.Address(), n)
				}
			}
			h := c.recorded()
			h.isWhole()
			h.keepsTheRules()
			terms := h.terms()
			for _, r := range h.events {
				if e, ok := r.Event.(event.HostTaken); ok && terms == 2 && e.Term == domain.Term(2) && r.Meta.Instance != other.name {
					t.Errorf("%s took a host in a term of another", r.Meta.Instance)
				}
			}
			t.Logf("taken over after %s; the woken one stood down after %s", took.Round(time.Millisecond), stood.Round(time.Millisecond))
		})
	}
}
