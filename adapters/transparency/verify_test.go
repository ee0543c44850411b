package transparency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

func signedAt(t *testing.T, log recorded, sizes ...int) (all []Checkpoint) {
	t.Helper()
	tree := aTree(t, log)
	for _, size := range sizes {
		root, err := tree.Root(uint64(size))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Checkpoint{Size: uint64(size), Root: root, Name: fmt.Sprint("checkpoint of ", size)})
	}
	return all
}

func verify(t *testing.T, log recorded, savedTree *Tree, checkpoints []Checkpoint) Report {
	t.Helper()
	report, err := Verify(t.Context(), log, savedTree, checkpoints, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestACleanLogHasNoFinding(t *testing.T) {
	log := aLog(5000)
	checkpoints := signedAt(t, log, 0, 1, 99, 100, 101, 2048, 2500, 2500, 4999, 5000)
	for name, savedTree := range map[string]*Tree{"with the tree": aTree(t, log), "with one that is behind": aTree(t, log[:1234]), "without": nil} {
		r := verify(t, log, savedTree, checkpoints)
		if len(r.Findings) > 0 || r.Held != len(checkpoints) || r.Events != 5000 || !bytes.Equal(r.Root, checkpoints[9].Root[:]) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := verify(t, nil, nil, signedAt(t, nil, 0)); len(r.Findings) > 0 || r.Held != 1 {
		t.Errorf("an empty log: %+v", r)
	}
}

// mutations change a log at event i, and say which event is the first that is
// wrong then.
var mutations = map[string]func(log recorded, i int) (recorded, int){
	"a byte of data": func(log recorded, i int) (recorded, int) {
		log[i].Data = bytes.Clone(log[i].Data)
		log[i].Data[len(log[i].Data)-3] ^= 1
		return log, i
	},
	"a blank in data": func(log recorded, i int) (recorded, int) {
		log[i].Data = append(bytes.Clone(log[i].Data), ' ')
		return log, i
	},
	"the type": func(log recorded, i int) (recorded, int) {
		log[i].Type = "HostWentSilent"
		return log, i
	},
	"the actor": func(log recorded, i int) (recorded, int) {
		log[i].Meta = bytes.Replace(log[i].Meta, []byte(`"admin"`), []byte(`"nimda"`), 1)
		return log, i
	},
	"the time": func(log recorded, i int) (recorded, int) {
		log[i].Meta = bytes.Replace(log[i].Meta, []byte(`.5Z`), []byte(`.6Z`), 1)
		return log, i
	},
	"the id": func(log recorded, i int) (recorded, int) {
		log[i].ID = uuid.New()
		return log, i
	},
	"the stream": func(log recorded, i int) (recorded, int) {
		log[i].Stream += "x"
		return log, i
	},
	"the revision": func(log recorded, i int) (recorded, int) {
		log[i].Revision++
		return log, i
	},
	"bytes moved from metadata to data": func(log recorded, i int) (recorded, int) {
		last := len(log[i].Meta) - 1
		log[i].Data = append([]byte{log[i].Meta[last]}, log[i].Data...)
		log[i].Meta = log[i].Meta[:last]
		return log, i
	},
	"order of two streams": func(log recorded, i int) (recorded, int) {
		log[i], log[i+1] = log[i+1], log[i]
		log[i].Position, log[i+1].Position = log[i+1].Position, log[i].Position
		return log, i
	},
	"order in a stream": func(log recorded, i int) (recorded, int) {
		log[i], log[i+7] = log[i+7], log[i]
		log[i].Position, log[i+7].Position = log[i+7].Position, log[i].Position
		return log, i
	},
	"removed": func(log recorded, i int) (recorded, int) { return slices.Delete(log, i, i+1), i },
	"removed with all that follows in its stream": func(log recorded, i int) (recorded, int) {
		stream, from := log[i].Stream, log[i].Revision
		return slices.DeleteFunc(log, func(e eventlog.Raw) bool { return e.Stream == stream && e.Revision >= from }), i
	},
	"removed, and its stream numbered anew": func(log recorded, i int) (recorded, int) {
		stream, from := log[i].Stream, log[i].Revision
		log = slices.Delete(log, i, i+1)
		for j := range log {
			if log[j].Stream == stream && log[j].Revision > from {
				log[j].Revision--
			}
		}
		return log, i
	},
	"inserted": func(log recorded, i int) (recorded, int) {
		e := log[i]
		e.Position, e.Stream, e.Revision, e.ID = log[i].Position-5, "host-new", 0, uuid.New()
		return slices.Insert(log, i, e), i
	},
	"repeated": func(log recorded, i int) (recorded, int) {
		e := log[i]
		e.Position, e.Stream, e.Revision = log[i].Position+5, "host-new", 0
		return slices.Insert(log, i+1, e), i + 1
	},
	"the tail cut off": func(log recorded, i int) (recorded, int) { return log[:i], i },
	"all gone":         func(log recorded, _ int) (recorded, int) { return nil, 0 },
}

// TestEveryChangeIsFoundAndTheFirstBadPositionNamed changes a log everywhere: with
// the tree beside it the very event is named, with checkpoints from outside the
// events between two of them.
func TestEveryChangeIsFoundAndTheFirstBadPositionNamed(t *testing.T) {
	const n = 3000
	log := aLog(n)
	sizes := []int{500, 1000, 1000, 1777, 2500, n}
	checkpoints, savedTree := signedAt(t, log, sizes...), aTree(t, log)
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			places := []int{0, 99, 100, 499, 500, 1776, n - 8}
			for range 5 {
				places = append(places, rand.IntN(n-8))
			}
			for _, i := range places {
				changed, bad := mutate(slices.Clone(log), i)
				position := log[bad].Position // where it was
				if name == "inserted" || name == "repeated" {
					position = changed[bad].Position // and was not
				}
				first, found := verify(t, changed, savedTree, checkpoints).First()
				if !found || first.Position != position || first.From != 0 || first.Event != uint64(bad)+1 {
					t.Errorf("event %d, with the tree: %v, %t; want position %d", bad, first, found, position)
				}
				if first, found = verify(t, changed, savedTree, nil).First(); !found || first.Position != position {
					t.Errorf("event %d, with the tree alone: %v, %t; want position %d", bad, first, found, position)
				}
				first, found = verify(t, changed, nil, checkpoints).First()
				at, _ := slices.BinarySearch(sizes, bad+1)
				before := event.Position(0)
				if at > 0 {
					before = log[sizes[at-1]-1].Position
				}
				if !found || first.From != before+1 && (first.From != 0 || first.Position <= before) || first.Position < min(position, changed.last()) {
					t.Errorf("event %d, without the tree: %v, %t; want from %d up to %d at least", bad, first, found, before+1, position)
				}
			}
		})
	}
}

func (r recorded) last() event.Position {
	if len(r) == 0 {
		return 1
	}
	return r[len(r)-1].Position
}

func TestWhatIsWrongInItselfIsFoundWithoutAnyCheckpoint(t *testing.T) {
	log := aLog(500)
	for name, c := range map[string]struct {
		change func(*eventlog.Raw)
		says   string
	}{
		"revision": {func(e *eventlog.Raw) { e.Revision += 2 }, "comes next"},
		"id":       {func(e *eventlog.Raw) { e.ID = log[3].ID }, "was there already"},
		"metadata": {func(e *eventlog.Raw) { e.Meta = []byte(`{"time":"noon"}`) }, "metadata"},
	} {
		changed := slices.Clone(log)
		c.change(&changed[321])
		first, found := verify(t, changed, nil, nil).First()
		if !found || first.Position != log[321].Position || !strings.Contains(first.What, c.says) {
			t.Errorf("%s: %v", name, first)
		}
	}
}

// TestATreeMadeAnewDoesNotHideAChange has the tree agree with a changed log.
func TestATreeMadeAnewDoesNotHideAChange(t *testing.T) {
	log := aLog(1000)
	checkpoints := signedAt(t, log, 400, 800)
	changed := slices.Clone(log)
	changed[600].Data = []byte("{}")
	first, found := verify(t, changed, aTree(t, changed), checkpoints).First()
	if !found || first.From != log[399].Position+1 || first.Position != log[799].Position {
		t.Errorf("%v", first)
	}
	// And a tree that was changed is no change of the log.
	changed[450].Data = []byte("{}")
	first, found = verify(t, log, aTree(t, changed), checkpoints).First()
	if !found || first.Position != log[450].Position || !strings.Contains(first.What, "tree that was changed") {
		t.Errorf("%v", first)
	}
}

// TestWhatCannotBeReadIsToldFromWhatWasChanged has events that this version cannot
// read, as they were recorded and not.
func TestWhatCannotBeReadIsToldFromWhatWasChanged(t *testing.T) {
	for name, spoil := range map[string]func(*eventlog.Raw){
		"of a later version": func(e *eventlog.Raw) { e.Type = "HostPainted" },
		"data":               func(e *eventlog.Raw) { e.Data = []byte(`{"host":"10.0.0.1","host":"10.0.0.2"}`) },
		"no JSON":            func(e *eventlog.Raw) { e.Data = []byte(`{"host":`) },
		"metadata":           func(e *eventlog.Raw) { e.Meta = []byte("{\"actor\":\"\xff\"}") },
	} {
		log := aLog(500)
		spoil(&log[321])
		for known, r := range map[string]Report{
			"the tree": verify(t, log, aTree(t, log), nil), "a checkpoint": verify(t, log, nil, signedAt(t, log, 400)), "nothing": verify(t, log, nil, nil),
		} {
			first, _ := r.First()
			if len(r.Findings) != 1 || first.Kind != Unreadable || first.Position != log[321].Position ||
				strings.Contains(first.What, "it was not changed") != (known != "nothing") || !strings.Contains(r.Err("log").Error(), "log has what cannot be read") {
				t.Errorf("%s, as recorded, with %s: %v, %v", name, known, r.Findings, r.Err("log"))
			}
		}
		was := aLog(500)
		changed := slices.Clone(was)
		spoil(&changed[321])
		r := verify(t, changed, aTree(t, was), signedAt(t, was, 400))
		if len(r.Findings) != 2 || r.Findings[0].Kind != Changed || r.Findings[1].Kind != Unreadable || strings.Contains(r.Findings[1].What, "not changed") ||
			!strings.Contains(r.Err("log").Error(), "log is not what it was") {
			t.Errorf("%s, changed: %v, %v", name, r.Findings, r.Err("log"))
		}
	}
	if err := verify(t, aLog(5), nil, nil).Err("log"); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
}

// failing is a log that cannot be read to its end.
type failing struct {
	recorded
	err error
}

func (f failing) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for batch := range f.recorded.Follow(ctx, after) {
			if len(batch) > 0 && !yield(batch, nil) {
				return
			}
			break
		}
		yield(nil, f.err)
	}
}

func TestALogThatCannotBeReadToItsEndWasNotCutOff(t *testing.T) {
	log := aLog(500)
	for _, c := range []struct {
		err  error
		kind string
	}{{errors.New("disk I/O error"), Unreadable}, {fmt.Errorf("line 101: %w", eventlog.ErrOrder), Changed}} {
		r, err := Verify(t.Context(), failing{log, c.err}, aTree(t, log), signedAt(t, log, 50, 500), func(int) {})
		if err != nil || r.Held != 1 || len(r.Findings) != 1 || r.Findings[0].Kind != c.kind || r.Findings[0].Event != r.Events+1 {
			t.Errorf("%v: %+v, %v", c.err, r, err)
		}
	}
}
