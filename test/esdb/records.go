package esdb

import "iter"

// Records are all that the node ever recorded and still holds, deleted streams and
// metadata too: the name of the stream, and what the event says.
func (s *Server) Records() iter.Seq2[string, []byte] {
	s.log.mu.Lock()
	all := s.log.all
	s.log.mu.Unlock()
	return func(yield func(string, []byte) bool) {
		for _, e := range all {
			if !yield(e.stream, e.data) || !yield(e.stream, e.custom) {
				return
			}
		}
	}
}

// Edit changes the metadata of the event at a position, as somebody may who has the
// server's files.
func (s *Server) Edit(pos uint64, change func(metadata []byte) []byte) {
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.all[after(l.all, pos-1)]
	e.custom = change(e.custom)
}

// Cut drops all that was recorded from a position on, as if it never had been.
// Nothing may be reading or appending.
func (s *Server) Cut(from uint64) {
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	first := after(l.all, from-1)
	for _, e := range l.all[first:] {
		of := l.streams[e.stream]
		of.events = of.events[:len(of.events)-1]
		of.before = min(of.before, len(of.events))
	}
	l.all = l.all[:first:first]
}
