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
	k := &pool{most: most, unused: unused, byHost: map[domain.HostID]*list.Element{}, places: map[*connection]struct{}{}}
	k.expire = time.AfterFunc(unused, k.expired)
	k.expire.Stop()
	return k
}

// take gives the connection of a host away, if there is one to this target. One
// to another target of the same host is ended.
func (k *pool) take(target process.Target) *connection {
	if k.most <= 0 {
		return nil
	}
	k.mu.Lock()
	e := k.byHost[target.HostID]
	if e == nil {
		k.mu.Unlock()
		return nil
	}
	i := k.remove(e)
	fits := i.reaches(target)
	if !fits {
		delete(k.places, i.connection)
	}
	k.mu.Unlock()
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
func (k *pool) put(c *connection, target process.Target) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.most <= 0 || k.closed {
		return false
	}
	if e := k.byHost[target.HostID]; e != nil {
		k.drop(e)
	}
	if _, has := k.places[c]; !has && len(k.places) >= k.most {
		return false
	}
	k.places[c] = struct{}{}
	c.rest()
	k.byHost[target.HostID] = k.recent.PushFront(idle{c, target, time.Now()})
	if k.recent.Len() == 1 {
		k.expire.Reset(k.unused)
	}
	return c.over.Err() == nil || !k.gone(c, target.HostID) // it may have ended before it was in
}

// forget lets go of a connection that has ended.
func (k *pool) forget(c *connection, id domain.HostID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone(c, id)
}

// gone frees the place of a connection that has ended, and tells whether it was
// idle. The caller holds mu.
func (k *pool) gone(c *connection, id domain.HostID) bool {
	delete(k.places, c)
	e := k.byHost[id]
	if e == nil || e.Value.(idle).connection != c {
		return false
	}
	k.remove(e)
	return true
}

// drop ends an idle connection. The caller holds mu.
func (k *pool) drop(e *list.Element) {
	c := k.remove(e).connection
	delete(k.places, c)
	c.end(errReplaced)
}

// remove takes one out. The caller holds mu.
func (k *pool) remove(e *list.Element) idle {
	i := k.recent.Remove(e).(idle)
	delete(k.byHost, i.target.HostID)
	return i
}

// expired ends what was not taken for too long.
func (k *pool) expired() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for e := k.recent.Back(); e != nil; e = k.recent.Back() {
		if left := k.unused - time.Since(e.Value.(idle).since); left > 0 {
			k.expire.Reset(left)
			return
		}
		k.drop(e)
	}
}

// close ends all, and keeps none from now on.
func (k *pool) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.expire.Stop()
	for e := k.recent.Back(); e != nil; e = k.recent.Back() {
		k.remove(e).connection.end(errDropped)
	}
}
