package process

import (
	"context"
	"time"

	"commissaire/domain"
)

// Outputs keeps what hosts print while an operation works on them, beside the
// event log: one text a host and operation, bounded, piece of work by piece of
// work.
type Outputs interface {
	// Begin goes on with the output of a piece of work, or begins it where there is
	// none yet. work is a name that the operation has for it, command what people
	// call it. It is nil where nothing can be kept; why is reported by who keeps it.
	Begin(operation domain.OperationID, host domain.HostID, work, command string) Output

	// Sweep removes the output of operations that is too old, and of the oldest
	// where all is too much. What of a running operation is stays.
	Sweep(running func(domain.OperationID) bool) error
}

// Output takes what one piece of work prints. It never fails: what cannot be
// kept is lost, and who keeps it reports why.
type Output interface {
	// Wanted says from which byte on the output is wanted: what is before is there.
	// All is wanted that lies before the byte head, and of what lies beyond at most
	// the last tail bytes there are at a time.
	Wanted() (from, head, tail int64)

	// Write takes what was printed from a byte on. What is there already is passed
	// over; what is missing in between is left out for good.
	Write(from int64, text []byte)

	// Close ends writing. Whole says that nothing more will come of this work.
	Close(whole bool)
}

// sweepEvery is how often what hosts printed is looked through for what need not
// be kept any more.
const sweepEvery = time.Hour

// sweepOutputs has old output removed, at the start and every hour.
func (p *Process) sweepOutputs(ctx context.Context) {
	for ctx.Err() == nil {
		p.report(ctx, "removing old output failed", p.config.Outputs.Sweep(p.running))
		pause(ctx, sweepEvery)
	}
}
