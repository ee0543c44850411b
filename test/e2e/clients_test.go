package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"commissaire/test/fleet"
)

// A client of the crowd lives from one start of the service to the next kill. It
// remembers what it was answered, and looks first of all whether that is still so.
type client interface {
	// look compares what the service shows with what the client was told. It
	// returns false when there is no answer.
	look() bool
	// step asks for something. It returns false when there is no answer.
	step(ctx context.Context) bool
}

// live lets a client act until it gets no answer, or ctx ends.
func live(ctx context.Context, c client) {
	for alive := c.look(); alive && ctx.Err() == nil; alive = c.step(ctx) {
	}
}

// crowd is what all clients of a service share: all that they were answered.
type crowd struct {
	*service
	mu      sync.Mutex
	replies map[string]reply // by request id
}

// reply is what a client knows of a change that it asked for.
type reply struct {
	call     string
	status   int    // 0: there was no answer
	position uint64 // as it was answered
	location string
	body     string
	unknown  bool // whether it was recorded
}

func (r reply) done() bool { return r.status >= 200 && r.status < 300 }

// change asks for a change.
func (c *crowd) change(method, path string, body any, headers ...string) reply {
	c.mu.Lock()
	id := fmt.Sprintf("request-%d", len(c.replies))
	r := reply{call: method + " " + path, unknown: true}
	c.replies[id] = r
	c.mu.Unlock()
	a, _ := c.try(c.request("admin", method, path, body, append(headers, "X-Request-Id", id)...)) // the status is an answer, whether or not the rest follows
	if a.status == 0 {
		return r
	}
	r.status, r.location, r.body, r.unknown = a.status, a.header.Get("Location"), string(a.body), a.isUnknown()
	r.position, _ = strconv.ParseUint(a.header.Get("X-Commissaire-Position"), 10, 64)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replies[id] = r
	return r
}

// count is how many changes were made, were not, and may have been.
func (c *crowd) count() (done, refused, unknown int) {
	for _, r := range c.replies {
		switch {
		case r.done():
			done++
		case r.unknown:
			unknown++
		default:
			refused++
		}
	}
	return done, refused, unknown
}

// both asks for two changes at the same time.
func (c *crowd) both(one, two func() reply) (first, second reply) {
	var both sync.WaitGroup
	both.Go(func() { first = one() })
	both.Go(func() { second = two() })
	both.Wait()
	return first, second
}

// shows reads what is at a path. status 0: there is no answer.
func (c *crowd) shows(path string, into any) (status int) {
	a, err := c.try(c.request("admin", http.MethodGet, path, nil))
	switch {
	case err != nil:
		return 0
	case a.status != http.StatusOK && a.status != http.StatusNotFound:
		c.t.Errorf("%s: %d %s", a.call, a.status, a.body)
	case a.status == http.StatusOK:
		if err := json.Unmarshal(a.body, into); err != nil {
			c.t.Errorf("%s: %v: %s", a.call, err, a.body)
		}
	}
	return a.status
}

// garden is a network, two clusters and a host, which one client alone changes.
type garden struct {
	server   string    // of the network; "": there is no network
	clusters [2]string // the network of each; "": there is no such cluster
	host     bool      // is known to the service
	in       int       // which cluster it is a member of, from 1; 0: none
}

// gardener changes a garden at random. It knows all forms that the garden may
// have: one as long as each change was answered, more where it is unknown whether
// a change was made.
type gardener struct {
	*crowd
	random  *rand.Rand
	network string
	cluster [2]string
	host    *fleet.Host
	body    func() map[string]any
	may     map[garden]bool
}

// alteration is a change to a garden.
type alteration struct {
	method, path string
	body         any
	make         func(garden) (after garden, allowed bool)
}

func (g *gardener) step(ctx context.Context) bool {
	a := g.alteration()
	r := g.change(a.method, a.path, a.body)
	next := map[garden]bool{}
	for before := range g.may {
		after, allowed := a.make(before)
		switch {
		case r.done() && allowed:
			next[after] = true
		case r.unknown && allowed:
			next[before], next[after] = true, true
		case r.unknown, !r.done() && (!allowed || r.status == http.StatusMethodNotAllowed): // 405: the host is not ready
			next[before] = true
		}
	}
	if len(next) == 0 {
		g.t.Errorf("%s: answered %d %s, on %v", r.call, r.status, r.body, slices.Collect(maps.Keys(g.may)))
		next = g.may
	}
	g.may = next
	return r.status != 0 && pause(ctx, time.Duration(g.random.IntN(20))*time.Millisecond)
}

func (g *gardener) look() bool {
	var network struct{ Options struct{ Address string } }
	var seen garden
	alive := g.shows("/network/"+g.network, &network) != 0
	seen.server = network.Options.Address
	for i, name := range g.cluster {
		var cluster struct{ Network string }
		var members []string
		alive = alive && g.shows("/cluster/"+name, &cluster) != 0 && g.shows("/cluster/"+name+"/hosts", &members) != 0
		seen.clusters[i] = cluster.Network
		if slices.Contains(members, g.host.Address()) {
			if seen.in != 0 {
				g.t.Errorf("%s is a member of two clusters", g.host.Address())
			}
			seen.in = i + 1
		}
	}
	var host struct{ Address string }
	if !alive || g.shows("/host/"+g.host.Address(), &host) == 0 {
		return false
	}
	seen.host = host.Address != ""
	if !g.may[seen] {
		g.t.Errorf("there is %+v, and by the answers it may be %+v", seen, slices.Collect(maps.Keys(g.may)))
	}
	g.may = map[garden]bool{seen: true}
	return true
}

// alteration draws a change.
func (g *gardener) alteration() alteration {
	i := g.random.IntN(2)
	cluster, host := "/cluster/"+g.cluster[i], "/host/"+g.host.Address()
	switch n := g.random.IntN(42); {
	case n < 4:
		server := fmt.Sprintf("192.0.2.%d:80", 1+g.random.IntN(2))
		body := map[string]any{"type": "flannel_server", "options": map[string]any{"address": server}}
		return alteration{"PUT", "/network/" + g.network, body, func(g garden) (garden, bool) {
			allowed := g.server == "" || g.server == server
			g.server = server
			return g, allowed
		}}
	case n < 7:
		name := g.network
		return alteration{"DELETE", "/network/" + name, nil, func(g garden) (garden, bool) {
			allowed := g.server != "" && g.clusters[0] != name && g.clusters[1] != name
			g.server = ""
			return g, allowed
		}}
	case n < 14:
		name := g.network
		return alteration{"PUT", cluster, map[string]any{"network": name}, func(g garden) (garden, bool) {
			if g.clusters[i] = name; g.server == "" {
				g.clusters[i] = "default"
			}
			return g, true
		}}
	case n < 16:
		return alteration{"DELETE", cluster, nil, func(g garden) (garden, bool) {
			allowed := g.clusters[i] != ""
			if g.clusters[i] = ""; g.in == i+1 {
				g.in = 0
			}
			return g, allowed
		}}
	case n < 21:
		return alteration{"PUT", host, g.body(), func(g garden) (garden, bool) {
			g.host = true
			return g, true
		}}
	case n < 24:
		body := g.body()
		body["cluster"] = g.cluster[i]
		return alteration{"PUT", host, body, func(g garden) (garden, bool) {
			allowed := g.clusters[i] != "" && (!g.host || g.in == i+1)
			g.host, g.in = true, i+1
			return g, allowed
		}}
	case n < 26:
		return alteration{"DELETE", host, nil, func(g garden) (garden, bool) {
			allowed := g.host
			g.host, g.in = false, 0
			return g, allowed
		}}
	case n < 32:
		return alteration{"PUT", cluster + "/hosts/" + g.host.Address(), nil, func(g garden) (garden, bool) {
			allowed := g.clusters[i] != "" && g.host && (g.in == 0 || g.in == i+1)
			g.in = i + 1
			return g, allowed
		}}
	case n < 36:
		return alteration{"DELETE", cluster + "/hosts/" + g.host.Address(), nil, func(g garden) (garden, bool) {
			if g.in == i+1 {
				g.in = 0
			}
			return g, g.clusters[i] != ""
		}}
	}
	sets := [][]string{{}, {g.host.Address()}}
	before, after := g.random.IntN(2), g.random.IntN(2)
	return alteration{"PUT", cluster + "/hosts", map[string]any{"old": sets[before], "new": sets[after]}, func(g garden) (garden, bool) {
		is := g.in == i+1
		allowed := g.clusters[i] != "" && is == (before == 1) && (after == 0 || g.host && (g.in == 0 || is))
		switch {
		case after == 1:
			g.in = i + 1
		case is:
			g.in = 0
		}
		return g, allowed
	}}
}

// rivals want the same hosts at the same time, for two clusters.
type rivals struct {
	*crowd
	random  *rand.Rand
	cluster [2]string
	hosts   []string
	may     map[string]bool // where each host may be: "-", or the number of its cluster
}

func (r *rivals) look() bool {
	_, alive := r.see()
	return alive
}

// see is where each host is.
func (r *rivals) see() (seen string, alive bool) {
	where := []byte(strings.Repeat("-", len(r.hosts)))
	for i, name := range r.cluster {
		var members []string
		if r.shows("/cluster/"+name+"/hosts", &members) == 0 {
			return "", false
		}
		for _, m := range members {
			at := slices.Index(r.hosts, m)
			if where[at] != '-' {
				r.t.Errorf("%s is a member of two clusters", m)
			}
			where[at] = '0' + byte(i)
		}
	}
	seen = string(where)
	if !r.may[seen] {
		r.t.Errorf("the hosts are in %s, and by the answers they may be in %v", seen, slices.Collect(maps.Keys(r.may)))
	}
	r.may = map[string]bool{seen: true}
	return seen, true
}

func (r *rivals) step(ctx context.Context) bool {
	seen, alive := r.see()
	if !alive {
		return false
	}
	var one, two func() reply
	var first, second string // what each makes of it
	if free := strings.IndexByte(seen, '-'); free >= 0 && r.random.IntN(2) == 0 {
		join := func(i int) (func() reply, string) {
			path := "/cluster/" + r.cluster[i] + "/hosts/" + r.hosts[free]
			return func() reply { return r.change(http.MethodPut, path, nil) }, seen[:free] + strconv.Itoa(i) + seen[free+1:]
		}
		one, first = join(0)
		two, second = join(1)
	} else {
		i := r.random.IntN(2)
		one, first = r.swap(seen, i)
		two, second = r.swap(seen, i)
	}
	a, b := r.both(one, two)
	r.may = map[string]bool{}
	switch {
	case a.done() && b.done():
		r.t.Errorf("both won: %s and %s, from %s to %s and %s", a.call, b.call, seen, first, second)
	case a.done() || b.unknown && !a.unknown && !a.done(): // who was refused was so because the other had won
	case b.done() || a.unknown && !b.unknown:
	case !a.unknown && !b.unknown:
		r.t.Errorf("nobody won: %s %d %s, %s %d %s, from %s", a.call, a.status, a.body, b.call, b.status, b.body, seen)
	}
	if a.done() || a.unknown && !b.done() {
		r.may[first] = true
	}
	if b.done() || b.unknown && !a.done() {
		r.may[second] = true
	}
	if a.unknown && b.unknown {
		r.may[seen] = true
	}
	return a.status != 0 && b.status != 0 && pause(ctx, time.Duration(r.random.IntN(30))*time.Millisecond)
}

// swap is a compare-and-set of the members of a cluster to others, drawn from
// those that are not in the other cluster.
func (r *rivals) swap(seen string, i int) (func() reply, string) {
	var before, after []string
	where := []byte(seen)
	for slices.Equal(before, after) {
		before, after = []string{}, []string{}
		for at, host := range r.hosts {
			if seen[at] == '0'+byte(i) {
				before = append(before, host)
			}
			if seen[at] == '1'-byte(i) {
				continue
			}
			if where[at] = '-'; r.random.IntN(2) == 0 {
				after = append(after, host)
				where[at] = '0' + byte(i)
			}
		}
		if len(before) == 0 && !strings.Contains(seen, "-") {
			i = 1 - i // all are in the other one
			before, after = nil, nil
		}
	}
	body := map[string]any{"old": before, "new": after}
	return func() reply { return r.change(http.MethodPut, "/cluster/"+r.cluster[i]+"/hosts", body) }, string(where)
}

// operator runs one operation after the other over the cluster c, and now and
// then takes a member out of it for a moment.
type operator struct {
	*crowd
	random  *rand.Rand
	fleet   *fleet.Fleet
	members []string
	policy  map[string]any // of each operation
	started int
	told    []reply // that an operation was started
}

type shownOperation struct {
	ID, Kind, Status, Cause string
}

func (o *operator) look() bool {
	for _, r := range o.told {
		var shown shownOperation
		switch o.shows(strings.TrimPrefix(r.location, "/api/v0"), &shown) {
		case 0:
			return false
		case http.StatusNotFound:
			o.t.Errorf("%s was started and is gone", r.location)
		}
	}
	return o.complete()
}

// complete takes those in again that were left out when the service was killed.
func (o *operator) complete() bool {
	var members []string
	if o.shows("/cluster/c/hosts", &members) == 0 {
		return false
	}
	for _, m := range o.members {
		if !slices.Contains(members, m) && o.change(http.MethodPut, "/cluster/c/hosts/"+m, nil).status == 0 {
			return false
		}
	}
	return true
}

func (o *operator) step(ctx context.Context) bool {
	var latest []shownOperation
	if o.shows("/operations?cluster=c&limit=1", &latest) == 0 {
		return false
	}
	if len(latest) > 0 && latest[0].Status == "in_process" {
		if o.random.IntN(10) > 0 {
			return pause(ctx, 20*time.Millisecond)
		}
		member := "/cluster/c/hosts/" + o.members[o.random.IntN(len(o.members))]
		return o.change(http.MethodDelete, member, nil).status != 0 && o.complete()
	}
	// Two want something else at the same time: one of them at most gets it, or,
	// when asking took long, one after the other. keepsTheRules tells the two apart.
	o.started++
	version := fmt.Sprintf("41.%d", o.started)
	for _, h := range o.fleet.Hosts() {
		h.Release(version)
	}
	kinds := []string{"upgrade", "restart", "deploy"}
	o.random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	start := func(kind string) func() reply {
		body := map[string]any{}
		maps.Copy(body, o.policy)
		if kind == "deploy" {
			body["version"] = version + ".1"
		}
		key := fmt.Sprintf("%s-%d", kind, o.started)
		return func() reply {
			return o.change(http.MethodPut, "/cluster/c/"+kind, body, "Idempotency-Key", key)
		}
	}
	first := start(kinds[0])
	a, b := o.both(first, start(kinds[1]))
	for _, r := range []reply{a, b} {
		if r.done() {
			o.told = append(o.told, r)
		}
	}
	if a.done() {
		if again := first(); again.status != 0 && again.location != a.location {
			o.t.Errorf("%s started %s, and again with the same key %s", a.call, a.location, again.location)
		}
	}
	return a.status != 0 && b.status != 0
}
