package ssh

import (
	"container/list"
	"errors"
	"sync"
	"time"

	"commissaire/commands/process"
	"commissaire/domain"
)

// pool are idle connections, at most one a host, for the next one who dials it.
// Who has a place keeps it, also while the connection is in use, until it ends:
// hosts are dialled in turn, and if each that finds no place took another's, none
// would be there when it is wanted. Those that nobody takes for a long time, of
// removed hosts for one, are ended.
type pool struct {
	most   int
	unused time.Duration // until one is ended

	mu     sync.Mutex
	closed bool
	byHost map[domain.HostID]*list.Element
	places map[*connection]struct{}
	recent list.List // of idle; the least recently used is the last
	expire *time.Timer
}

type idle struct {
	connection *connection
	target     process.Target
	since      time.Time
}

var (
	errReplaced = errors.New("the connection was not needed any more")
	errDropped  = errors.New("the service closed its connections")
)

func newPool(most int, unused time.Duration) *pool {
	p := &pool{most: most, unused: unused, byHost: map[domain.HostID]*list.Element{}, places: map[*connection]struct{}{}}
	p.expire = time.AfterFunc(unused, p.expired)
	p.expire.Stop()
	return p
}

// take gives the connection of a host away, if there is one to this target. One
// to another target of the same host is ended.
func (p *pool) take(target process.Target) *connection {
	if p.most <= 0 {
		return nil
	}
	p.mu.Lock()
	e := p.byHost[target.HostID]
	if e == nil {
		p.mu.Unlock()
		return nil
	}
	i := p.remove(e)
	fits := i.reaches(target)
	if !fits {
		delete(p.places, i.connection)
	}
	p.mu.Unlock()
	if !fits {
		i.connection.end(errReplaced)
		return nil
	}
	i.connection.hold()
	return i.connection
}

// reaches says whether a connection made now to target would be the same. That of
// a first contact proved nothing: target must have a pin.
func (i idle) reaches(target process.Target) bool {
	pin, key := target.Pinned, i.connection.key
	if pin == nil || pin.Fingerprint != key.Fingerprint || pin.Type != "" && pin.Type != key.Type {
		return false
	}
	was := i.target
	was.Pinned, was.Leader = pin, target.Leader
	return was == target
}

// put keeps a connection, unless there is no room for any.
func (p *pool) put(c *connection, target process.Target) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.most <= 0 || p.closed {
		return false
	}
	if e := p.byHost[target.HostID]; e != nil {
		p.drop(e)
	}
	if _, has := p.places[c]; !has && len(p.places) >= p.most {
		return false
	}
	p.places[c] = struct{}{}
	c.rest()
	p.byHost[target.HostID] = p.recent.PushFront(idle{c, target, time.Now()})
	if p.recent.Len() == 1 {
		p.expire.Reset(p.unused)
	}
	return c.over.Err() == nil || !p.gone(c, target.HostID) // it may have ended before it was in
}

// forget lets go of a connection that has ended.
func (p *pool) forget(c *connection, id domain.HostID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone(c, id)
}

// gone frees the place of a connection that has ended, and tells whether it was
// idle. The caller holds mu.
func (p *pool) gone(c *connection, id domain.HostID) bool {
	delete(p.places, c)
	e := p.byHost[id]
	if e == nil || e.Value.(idle).connection != c {
		return false
	}
	p.remove(e)
	return true
}

// drop ends an idle connection. The caller holds mu.
func (p *pool) drop(e *list.Element) {
	c := p.remove(e).connection
	delete(p.places, c)
	c.end(errReplaced)
}

// remove takes one out. The caller holds mu.
func (p *pool) remove(e *list.Element) idle {
	i := p.recent.Remove(e).(idle)
	delete(p.byHost, i.target.HostID)
	return i
}

// expired ends what was not taken for too long.
func (p *pool) expired() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for e := p.recent.Back(); e != nil; e = p.recent.Back() {
		if left := p.unused - time.Since(e.Value.(idle).since); left > 0 {
			p.expire.Reset(left)
			return
		}
		p.drop(e)
	}
}

// close ends all, and keeps none from now on.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.expire.Stop()
	for e := p.recent.Back(); e != nil; e = p.recent.Back() {
		p.remove(e).connection.end(errDropped)
	}
}
