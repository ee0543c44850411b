package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"commissaire/test/fleet"
	"commissaire/test/linear"
)

// asker is a client of one instance that asks for what the model knows.
type asker struct {
	*crew
	base  *url.URL
	hosts []*fleet.Host
}

// call asks, and says what was answered.
func (a asker) call(method, path string, body any, headers ...string) answer {
	s := *a.service
	s.base, s.client = strings.TrimSuffix(a.base.String(), "/"), http.DefaultClient
	ctx, cancel := context.WithTimeout(a.t.Context(), 20*time.Second)
	defer cancel()
	got, err := s.try(s.request("admin", method, path, body, headers...).WithContext(ctx))
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer{call: got.call, status: http.StatusServiceUnavailable} // it was not asked
	case err != nil:
		return answer{call: got.call}
	}
	return got
}

// ask asks for a change.
func (a asker) ask(q linear.Request) linear.Reply {
	cluster := fmt.Sprintf("/cluster/l%d", q.Cluster)
	member := cluster + "/hosts/" + a.hosts[q.Host].Address()
	method, path, body := http.MethodPut, cluster, any(nil)
	switch q.Verb {
	case linear.Create:
	case linear.Delete:
		method = http.MethodDelete
	case linear.Join:
		path = member
	case linear.Leave:
		method, path = http.MethodDelete, member
	case linear.Swap:
		path, body = cluster+"/hosts", map[string]any{"old": a.addresses(q.Old), "new": a.addresses(q.New)}
	case linear.Start:
		// No host is begun: it waits for a day that is not now.
		day := strings.ToLower(time.Now().Add(72 * time.Hour).UTC().Weekday().String()[:3])
		window := map[string]any{"days": []string{day}, "from": "11:00", "to": "11:01", "zone": "UTC"}
		path, body = cluster+"/"+q.Kind, map[string]any{"window": window}
	case linear.End:
		return a.end(q.Operation.ID)
	}
	got := a.call(method, path, body)
	reply := linear.Reply{Answer: linear.Unknown}
	switch {
	case got.status >= 200 && got.status < 300:
		reply.Answer = linear.Done
		reply.ID = strings.TrimPrefix(got.location(), "/operation/")
	case got.status == http.StatusNotFound:
		reply.Answer = linear.Missing
	case got.status == http.StatusConflict:
		reply.Answer = linear.Conflict
	case got.status == http.StatusServiceUnavailable && !got.isUnknown():
		reply.Answer = linear.Nothing
	case got.status != 0 && got.status != http.StatusServiceUnavailable:
		a.t.Errorf("%s: %d %s", got.call, got.status, got.body)
	}
	return reply
}

// end cancels an operation and waits until it has ended.
func (a asker) end(id string) linear.Reply {
	path := "/operation/" + id
	cancelled := a.call(http.MethodPut, path+"/cancel", nil)
	switch cancelled.status {
	case http.StatusOK, http.StatusConflict: // 409: it has ended
	default:
		if cancelled.status == http.StatusServiceUnavailable && !cancelled.isUnknown() {
			return linear.Reply{Answer: linear.Nothing}
		}
		return linear.Reply{Answer: linear.Unknown}
	}
	for range 400 {
		var o shownOperation
		got := a.call(http.MethodGet, path, nil, "X-Commissaire-At-Least", cmp.Or(cancelled.header.Get("X-Commissaire-Position"), "0"))
		if got.status == http.StatusOK && json.Unmarshal(got.body, &o) == nil && o.Status != "in_process" {
			return linear.Reply{Answer: linear.Done}
		}
		if got.status == 0 || !pause(a.t.Context(), 10*time.Millisecond) {
			break
		}
	}
	return linear.Reply{Answer: linear.Unknown}
}

func (a asker) addresses(s linear.Set) []string {
	all := []string{}
	for i, h := range a.hosts {
		if s.Has(i) {
			all = append(all, h.Address())
		}
	}
	return all
}

// TestInstancesAnswerChangesAsIfOneAfterTheOther has clients of two instances
// change members and start operations at the same time, while one of the
// instances is killed and the store is away for a moment.
func TestInstancesAnswerChangesAsIfOneAfterTheOther(t *testing.T) {
	f, body := startFleet(t, fleet.Config{Hosts: atomics(70, linear.Hosts)})
	c := newCrew(t, 2, 1500*time.Millisecond, map[string]any{"bootstrap.profile": "none", "watch.interval": "1h"})
	c.addHosts("", body, addresses(f.Hosts())...)
	c.ready(addresses(f.Hosts())...)
	h := linear.History{EndsAlone: true}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	run := func(first, n int, meanwhile func()) {
		var clients sync.WaitGroup
		for client := range 6 {
			a := asker{c, c.all[client%2].base.Load(), f.Hosts()}
			clients.Go(func() {
				h.Run(client, n, rand.New(rand.NewPCG(seed, uint64(first+client))), a.ask)
			})
		}
		meanwhile()
		clients.Wait()
	}
	run(0, 20, func() {
		for _, node := range c.store.Nodes {
			node.Disconnect()
		}
		c.store.Lead(1)
	})
	run(6, 12, func() {
		pause(t.Context(), 100*time.Millisecond)
		c.all[0].kill()
	})
	c.all[0].up(t.Context())
	run(12, 20, func() {})
	switch is, known := h.Linearizable(time.Minute); {
	case !known:
		t.Error("it was not found out in a minute whether there is such an order")
	case !is:
		t.Error("there is no such order")
	}
	if h.Count(linear.Done) < 50 || h.Count(linear.Conflict) == 0 {
		t.Error("too little happened to tell anything")
	}
	t.Logf("%d done, %d missing, %d in conflict, %d not done, %d unknown",
		h.Count(linear.Done), h.Count(linear.Missing), h.Count(linear.Conflict), h.Count(linear.Nothing), h.Count(linear.Unknown))
}
