package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	at    *url.URL
	hosts []*fleet.Host
}

// call asks, and says what was answered; status 0: nothing was.
func (a asker) call(method, path string, body any, headers ...string) (status int, header http.Header, text string) {
	s := *a.service
	s.base = strings.TrimSuffix(a.at.String(), "/")
	ctx, cancel := context.WithTimeout(a.t.Context(), 20*time.Second)
	defer cancel()
	response, err := http.DefaultClient.Do(s.request("admin", method, path, body, headers...).WithContext(ctx))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return http.StatusServiceUnavailable, nil, "" // it was not asked
	}
	if err != nil {
		return 0, nil, ""
	}
	defer func() { _ = response.Body.Close() }()
	all, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, ""
	}
	return response.StatusCode, response.Header, string(all)
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
	status, header, text := a.call(method, path, body)
	reply := linear.Reply{Answer: linear.Unknown}
	switch {
	case status >= 200 && status < 300:
		reply.Answer = linear.Done
		reply.ID = strings.TrimPrefix(header.Get("Location"), "/api/v0/operation/")
	case status == http.StatusNotFound:
		reply.Answer = linear.Missing
	case status == http.StatusConflict:
		reply.Answer = linear.Conflict
	case status == http.StatusServiceUnavailable && !strings.Contains(text, `"outcome":"unknown"`):
		reply.Answer = linear.Nothing
	case status != 0 && status != http.StatusServiceUnavailable:
		a.t.Errorf("%s %s: %d %s", method, path, status, text)
	}
	return reply
}

// end cancels an operation and waits until it has ended.
func (a asker) end(id string) linear.Reply {
	at := "/operation/" + id
	status, header, text := a.call(http.MethodPut, at+"/cancel", nil)
	switch status {
	case http.StatusOK, http.StatusConflict: // 409: it has ended
	default:
		if status == http.StatusServiceUnavailable && !strings.Contains(text, `"outcome":"unknown"`) {
			return linear.Reply{Answer: linear.Nothing}
		}
		return linear.Reply{Answer: linear.Unknown}
	}
	for range 400 {
		var o shownOperation
		status, _, text := a.call(http.MethodGet, at, nil, "X-Commissaire-At-Least", cmp.Or(header.Get("X-Commissaire-Position"), "0"))
		if status == http.StatusOK && json.Unmarshal([]byte(text), &o) == nil && o.Status != "in_process" {
			return linear.Reply{Answer: linear.Done}
		}
		if status == 0 || !pause(a.t.Context(), 10*time.Millisecond) {
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
			a := asker{c, c.all[client%2].at.Load(), f.Hosts()}
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
