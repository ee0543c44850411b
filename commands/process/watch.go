package process

import (
	"context"
	"errors"
	"hash/fnv"
	"io"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/roster"
)

// watch looks at every host once an interval, spread evenly over it. Hosts that
// are being worked on are left alone.
//
// A login costs a host more than a look over a connection that was kept: sessions,
// processes, lines in its journal. Where look after look needs a login, because
// there is no room to keep the connection or the host does not let it live, the
// host is looked at in every second sweep, then in every fourth and so on, up to
// maxInterval and maxLonely, until a connection was kept, or the host missed.
func (p *Process) watch(ctx context.Context) {
	for ctx.Err() == nil {
		started := p.config.Now()
		p.sweep(ctx, started.UTC())
		if !pause(ctx, max(time.Millisecond, p.config.WatchInterval-p.config.Now().Sub(started))) {
			return
		}
	}
}

// sweep looks at all hosts that are due and records what changed.
func (p *Process) sweep(ctx context.Context, started time.Time) {
	due, left, watched := p.beginSweep()
	if !watched {
		return
	}
	sweep := event.SweepFinished{Started: started, Left: left}
	var mu sync.Mutex // of sweep
	var looks sync.WaitGroup
	places := make(chan struct{}, p.config.WatchConcurrency)
	gap := p.config.WatchInterval / time.Duration(max(1, len(due)))
	for _, h := range due {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		looks.Go(func() {
			defer func() { <-places }()
			if looked, answers := p.look(ctx, h); looked {
				mu.Lock()
				defer mu.Unlock()
				p.note(&sweep, h.HostID, answers)
			}
		})
		pause(ctx, gap)
	}
	looks.Wait()
	if ctx.Err() != nil {
		return
	}
	_, err := p.config.Commands.FinishSweep(ctx, sweep)
	p.report(ctx, "recording a sweep failed", err)
}

// beginSweep gives, of the hosts that are watched, if there are any, those that are
// due in this sweep, and those that are left alone in it and were not in the last one.
func (p *Process) beginSweep() (due []roster.Host, left []domain.HostID, watched bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeper.sweeps++
	p.world.roster.Hosts(func(h roster.Host) bool {
		switch id := h.HostID; {
		case !p.world.host(id).Watched():
			return true
		case p.sweeper.due(id):
			due = append(due, h)
		case !p.world.left[id]:
			left = append(left, id)
		}
		watched = true
		return true
	})
	return due, left, watched
}

// note notes what a look at a host changed.
func (p *Process) note(sweep *event.SweepFinished, id domain.HostID, answers bool) {
	p.mu.Lock()
	missing, left := p.world.missing[id], p.world.left[id]
	p.mu.Unlock()
	if left {
		sweep.Looked = append(sweep.Looked, id)
	}
	switch {
	case !answers && !missing:
		sweep.Missed = append(sweep.Missed, id)
	case answers && missing:
		sweep.Answered = append(sweep.Answered, id)
	}
}

const (
	maxInterval = 16               // sweeps
	maxLonely   = 15 * time.Minute // without a look
)

// sweeper is what is known of the sweeps of this term.
type sweeper struct {
	sweeps    int                   // so far
	intervals map[domain.HostID]int // in sweeps, between looks for which the host was logged in to
	misses    map[domain.HostID]int // in a row
}

func newSweeper() sweeper {
	return sweeper{intervals: map[domain.HostID]int{}, misses: map[domain.HostID]int{}}
}

func (s *sweeper) reset() {
	clear(s.intervals)
	clear(s.misses)
}

func (s *sweeper) forget(id domain.HostID) {
	delete(s.intervals, id)
	delete(s.misses, id)
}

// due tells whether a host is to be looked at in this sweep. Hosts of the same
// interval are spread over the sweeps.
func (s *sweeper) due(id domain.HostID) bool {
	interval := s.intervals[id]
	if interval < 2 {
		return true
	}
	spread := fnv.New32a()
	_, _ = io.WriteString(spread, string(id)) // never fails
	return (s.sweeps+int(spread.Sum32()%maxInterval))%interval == 0
}

// answered sets the interval of a host that was looked at, with a login or without,
// where sweeps are that far apart.
func (s *sweeper) answered(id domain.HostID, login bool, apart time.Duration) {
	delete(s.misses, id)
	longer := 2 * s.intervals[id]
	switch {
	case !login:
		delete(s.intervals, id)
	case longer == 0:
		s.intervals[id] = 1
	case longer <= maxInterval && time.Duration(longer)*apart <= maxLonely:
		s.intervals[id] = longer
	}
}

// missed counts how often a host in a row did not answer.
func (s *sweeper) missed(id domain.HostID) int {
	delete(s.intervals, id)
	s.misses[id]++
	return s.misses[id]
}

// look asks one host for its boot id.
func (p *Process) look(ctx context.Context, h roster.Host) (looked, answers bool) {
	p.mu.Lock()
	current, known := p.world.roster.Host(h.HostID)
	working := p.schedule.hosts.busy(h.HostID)
	state := *p.world.host(h.HostID)
	p.mu.Unlock()
	if !known || working || current.Claim != "" && current.Term == p.term {
		return false, false
	}
	bootID, login, err := p.bootID(ctx, h)
	if ctx.Err() != nil {
		return false, false
	}
	switch {
	case err == nil:
	case about(err) == theHostKey:
		return true, false // on record by now
	case about(err) == theStore:
		p.report(ctx, "looking at a host failed", err, "host", h.Host)
		return false, false
	default:
		p.missed(ctx, h, state.Silent(), err)
		return true, false
	}
	p.mu.Lock()
	p.sweeper.answered(h.HostID, login, p.config.WatchInterval)
	p.mu.Unlock()
	if facts, _ := state.Facts(); state.Silent() || bootID != facts.BootID {
		_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(state *host.Host) []event.HostEvent {
			return state.RecordContact(h.Host, bootID)
		})
		p.report(ctx, "recording a sign of life failed", err, "host", h.Host)
	}
	return true, true
}

func (p *Process) bootID(ctx context.Context, h roster.Host) (id string, login bool, err error) {
	session, err := p.again(ctx, h)
	if err != nil {
		return "", false, err
	}
	pooled, ok := session.(Reused)
	id, err = session.BootID(ctx)
	return id, ok && !pooled.Reused(), errors.Join(err, session.Close())
}

func (p *Process) missed(ctx context.Context, h roster.Host, silent bool, why error) {
	p.mu.Lock()
	enough := p.sweeper.missed(h.HostID) >= p.config.WatchMisses
	p.mu.Unlock()
	if silent || !enough {
		return
	}
	_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(state *host.Host) []event.HostEvent {
		return state.RecordSilence(h.Host, reason(why))
	})
	p.report(ctx, "recording a silent host failed", err, "host", h.Host)
}
