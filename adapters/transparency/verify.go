package transparency

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/transparency-dev/merkle/compact"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// The kinds of findings.
const (
	Changed    = "changed"    // the log is not what it was
	Unreadable = "unreadable" // what is there cannot be read, which says nothing of a change
)

// Finding is something that is wrong with a log.
type Finding struct {
	Kind     string         `json:"kind"`
	Position event.Position `json:"position"`       // of the first event that is wrong, or where it should be
	Event    uint64         `json:"event"`          // its number, from 1
	From     event.Position `json:"from,omitempty"` // where only a range can be named: from there up to Position
	What     string         `json:"what"`
}

// Report is what Verify found.
type Report struct {
	Events   uint64         `json:"events"`
	Last     event.Position `json:"position"`
	Root     []byte         `json:"root"`
	Held     int            `json:"checkpoints_held"`
	Compared uint64         `json:"events_compared"` // with the tree that was saved
	Findings []Finding      `json:"findings"`        // by position
}

// maxFindings is how many findings of a kind are named.
const maxFindings = 20

// Verify reads a log to its end, folds its tree afresh and says what is wrong:
// revisions that do not follow one another, ids that are there twice, positions that
// do not grow; an event that is not the one in the tree that was saved (nil: there is
// none), and checkpoints that do not hold, which the caller has verified. These say
// that the log was changed. An event that this version cannot read is a finding of
// another kind: it may be what was recorded, and it is said where that is known.
//
// Where a checkpoint does not hold and the saved tree does, the first event that
// differs is named; else the events between the last checkpoint that holds and the
// first that does not. count is told how many events were read.
func Verify(ctx context.Context, log eventlog.Feed, saved *Tree, checkpoints []Checkpoint, count func(int)) (Report, error) {
	v := &verifier{
		saved: saved, next: map[event.Stream]event.Revision{}, ids: map[uuid.UUID]struct{}{},
		edge: ranges.NewEmptyRange(0), checkpoints: slices.SortedStableFunc(slices.Values(checkpoints), func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) }),
	}
	if saved != nil {
		v.savedSize = saved.Size()
	}
	if err := v.read(ctx, log, count); err != nil {
		return Report{}, err
	}
	return v.report()
}

type verifier struct {
	saved       *Tree
	savedSize   uint64
	checkpoints []Checkpoint // by size
	checked     int          // of these

	n    uint64
	last event.Position
	next map[event.Stream]event.Revision
	ids  map[uuid.UUID]struct{}
	edge *compact.Range

	broken []Finding // in events themselves
	cut    bool      // reading ended before the log did

	differs   bool // from the saved tree
	differ    uint64
	differPos event.Position // of that event
	previous  event.Position // of the one before it
	leaf      Hash
	following *Hash // the leaf after it

	failed    *Checkpoint // the first that does not hold
	failedPos event.Position
	held      int
	heldSize  uint64 // of the last that holds before that
	heldPos   event.Position
}

// hashed is a batch of events with their leaves.
type hashed struct {
	events []eventlog.Raw
	begin  uint64
	leaves []Hash
	edge   *compact.Range
	wrong  []Finding
	err    error
}

func (h *hashed) hash() {
	h.edge = ranges.NewEmptyRange(h.begin)
	h.leaves = make([]Hash, len(h.events))
	var scratch []byte
	for i, raw := range h.events {
		h.leaves[i], scratch = hashLeaf(scratch, raw)
		if h.err = h.edge.Append(h.leaves[i][:], nil); h.err != nil {
			return
		}
		if _, err := eventlog.Decode(raw); err != nil && len(h.wrong) < maxFindings {
			h.wrong = append(h.wrong, Finding{
				Kind: Unreadable, Position: raw.Position, Event: h.begin + uint64(i) + 1, What: fmt.Sprintf("it cannot be read: %v", err),
			})
		}
	}
}

// unhashed yields the batches of a log, with the number of the first event of each.
func unhashed(ctx context.Context, log eventlog.Feed) iter.Seq2[*hashed, error] {
	return func(yield func(*hashed, error) bool) {
		var begin uint64
		for batch, err := range eventlog.UpToHead(ctx, log.Follow(ctx, 0)) {
			if !yield(&hashed{events: batch, begin: begin}, err) {
				return
			}
			begin += uint64(len(batch))
		}
	}
}

// read hashes what is read by several at once, and checks it in its order.
func (v *verifier) read(ctx context.Context, log eventlog.Feed, count func(int)) error {
	for h, failure := range eventlog.Parallel(ctx,
		func(ctx context.Context) iter.Seq2[*hashed, error] { return unhashed(ctx, log) }, 2*runtime.GOMAXPROCS(0),
		func(_ context.Context, h *hashed) (*hashed, error) { h.hash(); return h, nil }, // its error is not the log's
	) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if failure != nil {
			v.breakOff(failure)
			break
		}
		if h.err != nil {
			return h.err
		}
		if err := v.add(h); err != nil {
			return err
		}
		count(int(v.n))
	}
	return ctx.Err()
}

// breakOff records that the log cannot be read any further.
func (v *verifier) breakOff(failure error) {
	v.cut = true
	f := Finding{Kind: Unreadable, Position: v.last + 1, Event: v.n + 1, What: fmt.Sprintf("it cannot be read, and nothing after it was: %v", failure)}
	if errors.Is(failure, eventlog.ErrOrder) {
		f.Kind, f.What = Changed, fmt.Sprintf("it is not in its place, and nothing after it was read: %v", failure)
	}
	v.broken = append(v.broken, f)
}

func (v *verifier) add(h *hashed) error {
	v.broken = append(v.broken, h.wrong[:min(len(h.wrong), max(0, 10*maxFindings-len(v.broken)))]...)
	for i, raw := range h.events {
		v.check(raw, h.begin+uint64(i)+1)
	}
	if err := v.compare(h); err != nil {
		return err
	}
	end := h.begin + uint64(len(h.events))
	if v.checked < len(v.checkpoints) && v.checkpoints[v.checked].Size < end {
		for i, leaf := range h.leaves {
			if err := v.verifyCheckpoints(h.begin+uint64(i), v.last); err != nil {
				return err
			}
			if err := v.edge.Append(leaf[:], nil); err != nil {
				return err
			}
			v.last = h.events[i].Position
		}
	} else if err := v.edge.AppendRange(h.edge, nil); err != nil {
		return err
	}
	v.n, v.last = end, h.events[len(h.events)-1].Position
	return nil
}

// check checks an event by itself and against those before it.
func (v *verifier) check(raw eventlog.Raw, n uint64) {
	wrong := func(format string, arguments ...any) {
		if len(v.broken) < 10*maxFindings {
			v.broken = append(v.broken, Finding{Kind: Changed, Position: raw.Position, Event: n, What: fmt.Sprintf(format, arguments...)})
		}
	}
	if next := v.next[raw.Stream]; raw.Revision != next {
		wrong("it is revision %d of %s, and revision %d comes next", raw.Revision, raw.Stream, next)
	}
	v.next[raw.Stream] = raw.Revision + 1
	ids := len(v.ids)
	if v.ids[raw.ID] = struct{}{}; len(v.ids) == ids {
		wrong("an event with the id %s was there already", raw.ID)
	}
}

// compare compares leaves with the tree that was saved.
func (v *verifier) compare(h *hashed) error {
	if v.differs && v.following == nil && len(h.leaves) > 0 {
		v.following = &h.leaves[0]
	}
	end := min(h.begin+uint64(len(h.leaves)), v.savedSize)
	if v.differs || end <= h.begin {
		return nil
	}
	saved, err := v.saved.leaves(h.begin, end)
	if err != nil {
		return fmt.Errorf("the tree that was kept: %w", err)
	}
	for i, leaf := range saved {
		if h.leaves[i] == leaf {
			continue
		}
		v.differs, v.differ, v.differPos, v.leaf, v.previous = true, h.begin+uint64(i), h.events[i].Position, h.leaves[i], v.last
		if i > 0 {
			v.previous = h.events[i-1].Position
		}
		if i+1 < len(h.leaves) {
			v.following = &h.leaves[i+1]
		}
		return nil
	}
	return nil
}

// verifyCheckpoints compares the checkpoints of size events with the root. pos is the
// position of the last of these events.
func (v *verifier) verifyCheckpoints(size uint64, pos event.Position) error {
	for ; v.checked < len(v.checkpoints) && v.checkpoints[v.checked].Size == size; v.checked++ {
		root, err := rootOf(v.edge)
		if err != nil {
			return err
		}
		checkpoint := v.checkpoints[v.checked]
		holds := root == checkpoint.Root
		if holds {
			v.held++
		}
		switch {
		case v.failed != nil:
		case holds:
			v.heldSize, v.heldPos = size, pos
		default:
			v.failed, v.failedPos = &checkpoint, pos
		}
	}
	return nil
}

func (v *verifier) report() (Report, error) {
	if err := v.verifyCheckpoints(v.n, v.last); err != nil {
		return Report{}, err
	}
	root, err := rootOf(v.edge)
	if err != nil {
		return Report{}, err
	}
	r := Report{Events: v.n, Last: v.last, Root: root[:], Held: v.held, Compared: min(v.n, v.savedSize), Findings: v.broken}
	signed, err := v.savedIsSigned()
	if err != nil {
		return r, err
	}
	if v.differs || v.saved != nil && v.savedSize > v.n && !v.cut {
		f, err := v.findDifference()
		if err != nil {
			return r, err
		}
		r.Findings = append(r.Findings, f)
	}
	located := signed && len(r.Findings) > len(v.broken)
	if f, ok := v.findRange(); ok && !located {
		r.Findings = append(r.Findings, f)
	}
	for i, f := range r.Findings {
		if f.Kind == Unreadable && v.isUnchanged(f.Event) {
			r.Findings[i].What += "; it was not changed: it is what was recorded"
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Event, b.Event), cmp.Compare(a.Position, b.Position), strings.Compare(a.Kind, b.Kind))
	})
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
	return r, nil
}

// isUnchanged tells whether it is known that an event is what was recorded.
func (v *verifier) isUnchanged(n uint64) bool {
	return n <= v.heldSize || n <= min(v.n, v.savedSize) && (!v.differs || n <= v.differ)
}

// savedIsSigned tells whether the tree that was saved is what the first checkpoint that
// does not hold was signed of; so it tells what was there.
func (v *verifier) savedIsSigned() (bool, error) {
	first := v.failed
	if first == nil && v.checked < len(v.checkpoints) {
		first = &v.checkpoints[v.checked]
	}
	if first == nil || v.saved == nil || first.Size > v.savedSize {
		return false, nil
	}
	root, err := v.saved.Root(first.Size)
	if err != nil {
		return false, fmt.Errorf("the tree that was kept: %w", err)
	}
	return root == first.Root, nil
}

// findDifference returns the first place at which the log is not what the saved tree has.
func (v *verifier) findDifference() (Finding, error) {
	if !v.differs {
		pos, err := v.saved.position(v.n)
		return Finding{Kind: Changed, Position: pos, Event: v.n + 1, What: fmt.Sprintf("it is missing: the log ends before it, and %d more were there", v.savedSize-v.n)}, err
	}
	f := Finding{Kind: Changed, Position: v.differPos, Event: v.differ + 1, What: "it was changed"}
	was, err := v.saved.leaves(v.differ, min(v.differ+2, v.savedSize))
	if err != nil {
		return f, fmt.Errorf("the tree that was kept: %w", err)
	}
	savedPos, err := v.saved.position(v.differ)
	if err != nil {
		return f, fmt.Errorf("the tree that was kept: %w", err)
	}
	same := v.differ == 0 // the positions are those of the store that the tree is of
	if !same {
		previous, err := v.saved.position(v.differ - 1)
		if err != nil {
			return f, fmt.Errorf("the tree that was kept: %w", err)
		}
		same = previous == v.previous
	}
	before := v.following != nil && *v.following == was[0]
	after := len(was) > 1 && v.leaf == was[1]
	switch {
	case v.heldSize > v.differ:
		f.What = "the tree that was kept has another here, and a checkpoint of what the log has holds: it is the tree that was changed"
	case before && after:
		f.What = "it was behind the one after it"
	case before:
		f.What = "it was not there"
	case after || same && v.differPos > savedPos:
		f.Position, f.What = savedPos, "it is missing"
	}
	return f, nil
}

// findRange returns what can be said of checkpoints that do not hold, or are of more events
// than there are.
func (v *verifier) findRange() (Finding, bool) {
	since := fmt.Sprintf("the last checkpoint that holds is of %d events, up to position %d", v.heldSize, v.heldPos)
	if v.held == 0 || v.heldSize == 0 {
		since = "no checkpoint before it holds"
	}
	switch {
	case v.failed != nil:
		return Finding{
			Kind: Changed, From: v.heldPos + 1, Position: v.failedPos, Event: v.heldSize + 1,
			What: fmt.Sprintf("between these the log was changed: %s does not hold, which is of %d events; %s", v.failed.Name, v.failed.Size, since),
		}, true
	case v.checked < len(v.checkpoints) && !v.cut: // else there may be more
		c := v.checkpoints[v.checked]
		return Finding{
			Kind: Changed, From: v.heldPos + 1, Position: v.last + 1, Event: v.heldSize + 1,
			What: fmt.Sprintf("between these events are missing: %s is of %d events, and there are %d; %s", c.Name, c.Size, v.n, since),
		}, true
	}
	return Finding{}, false
}

// String is the finding in a line.
func (f Finding) String() string {
	if f.From > 0 && f.From < f.Position {
		return fmt.Sprintf("positions %d to %d (from event %d on): %s", f.From, f.Position, f.Event, f.What)
	}
	return fmt.Sprintf("position %d (event %d): %s", f.Position, f.Event, f.What)
}

// First is the first finding; false where there is none.
func (r Report) First() (Finding, bool) {
	if len(r.Findings) == 0 {
		return Finding{}, false
	}
	return r.Findings[0], true
}

// Err says what is wrong with the log of that name, as a sentence, and what to do;
// nil where nothing is. A change is worse than what cannot be read.
func (r Report) Err(name string) error {
	if i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Kind == Changed }); i >= 0 {
		return fmt.Errorf("%s is not what it was; the first that is wrong: %s; keep it as it is for whoever finds out how, and go on with a backup or an export that verifies",
			name, r.Findings[i])
	}
	if first, found := r.First(); found {
		return fmt.Errorf("%s has what cannot be read, which is no sign that it was changed; the first: %s; "+
			"run the version that wrote it, or a later one; where a disk or a file is damaged, go on with a backup or an export that verifies", name, first)
	}
	return nil
}
