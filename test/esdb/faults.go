package esdb

import "sync"

// Fault is how an append goes wrong.
type Fault int

const (
	// Denied is an append that is refused as soon as it begins, while its events
	// are still on their way.
	Denied Fault = iota + 1
	// Busy is an append that the server has no time for.
	Busy
	// Aborted is an append that the server gave up before it recorded anything.
	Aborted
	// AbortedAfter is an append that the server gave up after it had recorded it.
	AbortedAfter
	// SilentAfter is an append that is recorded and never answered.
	SilentAfter
	// DisconnectedAfter is an append after which all connections break before it
	// is answered. The server takes new ones.
	DisconnectedAfter
	// ForgottenAfter is an append that is recorded and given up, and whose repeat
	// is not recognised as one but refused for its expected revision.
	ForgottenAfter
)

// FailAppends makes the next appends go wrong, one after the other.
func (s *Server) FailAppends(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// fault is how the append that begins now goes wrong; 0 when it does not.
func (s *Server) fault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return 0
	}
	f := s.faults[0]
	s.faults = s.faults[1:]
	return f
}

// NotReady makes the node answer every call that it is not ready, or no longer.
func (s *Server) NotReady(not bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notReady = not
}

// Stall makes the node take calls and say nothing. The function that it returns
// lets them go on.
func (s *Server) Stall() (release func()) {
	stalled := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = stalled
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stalled = nil
		close(stalled)
	})
}

// Freeze makes the node take connections and never look at what comes on them,
// as a process that was stopped. The function that it returns lets it go on.
func (s *Server) Freeze() (release func()) {
	frozen := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = frozen
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.frozen = nil
		close(frozen)
	})
}

// DropSubscriptions ends all subscriptions that run, as a server does whose
// reader is too slow.
func (s *Server) DropSubscriptions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.dropped)
	s.dropped = make(chan struct{})
}

// Disconnect breaks all connections. The node takes new ones.
func (s *Server) Disconnect() {
	s.open.Range(func(c, _ any) bool {
		_ = c.(*counted).Close() // it is to break
		return true
	})
}

// Deleted deletes a stream, which may be written to again.
func (s *Server) Deleted(stream string) { s.log.remove(stream, false) }

// Tombstoned deletes a stream for good, as an operator may.
func (s *Server) Tombstoned(stream string) { s.log.remove(stream, true) }
