package process

import (
	"context"
	"errors"
	"sync"
	"time"

	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/roster"
)

// watch looks at every host once an interval, spread evenly over it. Hosts that
// are being worked on are left alone.
func (p *Process) watch(ctx context.Context) {
	for ctx.Err() == nil {
		started := p.config.Now()
		p.sweep(ctx, started.UTC())
		if !pause(ctx, max(time.Millisecond, p.config.WatchInterval-p.config.Now().Sub(started))) {
			return
		}
	}
}

// sweep looks at all hosts and records what changed.
func (p *Process) sweep(ctx context.Context, started time.Time) {
	var watched []roster.Host
	p.mu.Lock()
	p.roster.Hosts(func(h roster.Host) bool {
		if p.host(h.HostID).Watched() {
			watched = append(watched, h)
		}
		return true
	})
	p.mu.Unlock()
	if len(watched) == 0 {
		return
	}
	sweep := event.SweepFinished{Started: started}
	var mu sync.Mutex
	var looks sync.WaitGroup
	places := make(chan struct{}, p.config.WatchConcurrency)
	gap := p.config.WatchInterval / time.Duration(len(watched))
	for _, h := range watched {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		looks.Go(func() {
			defer func() { <-places }()
			looked, answers := p.look(ctx, h)
			if !looked {
				return
			}
			p.mu.Lock()
			missing := p.missing[h.HostID]
			p.mu.Unlock()
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !answers && !missing:
				sweep.Missed = append(sweep.Missed, h.HostID)
			case answers && missing:
				sweep.Answered = append(sweep.Answered, h.HostID)
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

// look asks one host for its boot id.
func (p *Process) look(ctx context.Context, h roster.Host) (looked, answers bool) {
	p.mu.Lock()
	now, known := p.roster.Host(h.HostID)
	_, working := p.busy[h.HostID]
	facts, _ := p.host(h.HostID).Facts()
	silent := p.host(h.HostID).Silent()
	p.mu.Unlock()
	if !known || working || now.Claim != "" && now.Term == p.term {
		return false, false
	}
	bootID, err := p.bootID(ctx, h)
	if ctx.Err() != nil {
		return false, false
	}
	if _, ok := errors.AsType[*KeyChanged](err); ok {
		return true, false // on record by now
	}
	if ofStore(err) {
		p.report(ctx, "looking at a host failed", err, "host", h.Host)
		return false, false
	}
	if err != nil {
		p.missed(ctx, h, silent, err)
		return true, false
	}
	p.mu.Lock()
	delete(p.misses, h.HostID)
	p.mu.Unlock()
	if silent || bootID != facts.BootID {
		_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(one *host.Host) []event.HostEvent {
			return one.Seen(h.Host, bootID)
		})
		p.report(ctx, "recording a sign of life failed", err, "host", h.Host)
	}
	return true, true
}

func (p *Process) bootID(ctx context.Context, h roster.Host) (string, error) {
	session, err := p.again(ctx, h)
	if err != nil {
		return "", err
	}
	id, err := session.BootID(ctx)
	return id, errors.Join(err, session.Close())
}

func (p *Process) missed(ctx context.Context, h roster.Host, silent bool, why error) {
	p.mu.Lock()
	p.misses[h.HostID]++
	enough := p.misses[h.HostID] >= p.config.WatchMisses
	p.mu.Unlock()
	if silent || !enough {
		return
	}
	_, err := p.config.Commands.RecordHost(ctx, h.HostID, func(one *host.Host) []event.HostEvent {
		return one.WentSilent(h.Host, reason(why))
	})
	p.report(ctx, "recording a silent host failed", err, "host", h.Host)
}
