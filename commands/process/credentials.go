package process

import (
	"context"
	"time"

	"commissaire/domain"
)

// unnamedFor is how old a credential must be that the log does not name, before
// it is destroyed: younger ones may belong to a host that is being added.
const unnamedFor = time.Hour

func (p *Process) destroy(ctx context.Context, id domain.CredentialID) {
	p.report(ctx, "destroying credentials failed", p.config.Credentials.Destroy(ctx, id), "credential", id)
}

// sweepCredentials destroys what is left of hosts and container managers that
// are gone, at the start and every hour.
func (p *Process) sweepCredentials(ctx context.Context) {
	for ctx.Err() == nil {
		var stored map[domain.CredentialID]time.Time
		err := p.catchUp(ctx)
		if err == nil {
			stored, err = p.config.Credentials.List(ctx)
		}
		p.report(ctx, "listing credentials failed", err)
		for id, since := range stored {
			p.mu.Lock()
			inUse, named := p.world.named[id]
			p.mu.Unlock()
			if named && !inUse || !named && p.config.Now().Sub(since) > unnamedFor {
				p.destroy(ctx, id)
			}
		}
		pause(ctx, unnamedFor)
	}
}

// catchUp waits until all that is recorded by now was applied, or ctx ends.
func (p *Process) catchUp(ctx context.Context) error {
	recorded, err := p.config.Commands.BeginTerm(ctx, p.term) // it has: this says how far the log is
	if err != nil {
		return err
	}
	return p.reached(ctx, recorded.Position)
}
