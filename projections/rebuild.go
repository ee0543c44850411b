package projections

import (
	"context"
	"fmt"
	"iter"
	"runtime/debug"
	"strings"

	"commissaire/domain/event"
)

// RebuildOptions says how views are folded afresh beside those that are served.
type RebuildOptions struct {
	Read   Read
	Serve  bool                   // serve what was folded from then on
	Folded func([]event.Recorded) // called with what was folded, in order; may be nil
	Joined func()                 // called at the join, before anything else is applied; may be nil
}

// Rebuild folds the whole log afresh, while what there is is served and goes on
// being applied, joins it at a position, and compares the two: different names
// the first record that was not as it should be, "" where all were. Nothing
// changes before the join, so it may be ended by ctx at any time, and done again.
//
// All views are folded together: they are one cut through history, and read each
// other. Only one caller at a time may rebuild.
func (v *Views) Rebuild(ctx context.Context, options RebuildOptions) (different string, err error) {
	defer Hurry()()
	fresh, near, joins := New(), false, event.Position(0)
	defer v.dropTail()
	for batch, err := range options.Read(ctx, 0) {
		if err != nil {
			return "", fmt.Errorf("fold the log afresh after position %d: %w", fresh.state.Position, err)
		}
		fresh.applyBatch(batch, options.Folded)
		if len(batch) == 0 && !near {
			near, joins = true, v.recordTail()
		}
		if near && fresh.state.Position >= joins {
			break
		}
	}
	// What is served may be behind the log.
	if err := v.WaitFor(ctx, fresh.state.Position); err != nil {
		return "", fmt.Errorf("fold the log afresh: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("fold the log afresh: %w", err)
	}
	served, afresh := v.join(fresh, options)
	return Difference(served, afresh), nil
}

// Hurry has garbage collected half as often, until what it returns is called: a
// long log is folded faster by a sixth, and takes a quarter more memory meanwhile.
// Only one caller at a time may fold so. Where garbage is collected less often still,
// it stays so.
func Hurry() (relax func()) {
	const percent = 200
	before := debug.SetGCPercent(percent)
	if before < 0 || before > percent {
		debug.SetGCPercent(before)
		return func() {}
	}
	return func() { debug.SetGCPercent(before) }
}

// applyBatch applies what is not applied yet, and calls folded with it.
func (v *Views) applyBatch(batch []event.Recorded, folded func([]event.Recorded)) {
	for _, r := range batch {
		v.Apply(r)
	}
	if folded != nil && len(batch) > 0 {
		folded(batch)
	}
}

// recordTail records what is applied from now on, for a rebuild that has folded all
// up to the position it returns.
func (v *Views) recordTail() event.Position {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tail = &[]event.Recorded{}
	return v.state.Position
}

func (v *Views) dropTail() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tail = nil
}

// join brings the fresh views up to v, and puts them in its place.
func (v *Views) join(fresh *Views, options RebuildOptions) (served, afresh *Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fresh.applyBatch(*v.tail, options.Folded)
	served, afresh = v.publish(), fresh.Snapshot()
	if options.Serve {
		v.state, v.retained = fresh.state, fresh.retained
		v.latest.Store(afresh)
	}
	if options.Joined != nil {
		options.Joined()
	}
	return served, afresh
}

// Difference names the first record in which two snapshots differ; "" when they
// do not.
func Difference(served, afresh *Snapshot) string {
	next, stop := iter.Pull(afresh.records())
	defer stop()
	for s := range served.records() {
		f, ok := next()
		if !ok {
			return fmt.Sprintf("%s %s is served, and nothing should be", s.view, s.key)
		}
		if s.view != f.view || s.key != f.key {
			return fmt.Sprintf("%s %s is served where %s %s should be", s.view, s.key, f.view, f.key)
		}
		if is, should := s.text(), f.text(); is != should {
			return fmt.Sprintf("%s %s: …%s is served where …%s should be", s.view, s.key, around(is, should), around(should, is))
		}
	}
	if f, ok := next(); ok {
		return fmt.Sprintf("%s %s should be served, and is not", f.view, f.key)
	}
	return ""
}

// text is the record's line.
func (r record) text() string {
	line, err := r.line()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(line))
}

// around is what a text has from shortly before the place where another differs.
func around(text, other string) string {
	const before, length = 30, 120
	i := 0
	for i < min(len(text), len(other)) && text[i] == other[i] {
		i++
	}
	i = max(0, i-before)
	return strings.ToValidUTF8(text[i:min(len(text), i+length)], "")
}
