package eventlog

import (
	"bytes"
	"context"
	"fmt"
	"iter"
)

// How much Copy appends at once: a server takes 1 MiB by default.
const (
	copyEvents = 500
	copyBytes  = 512 << 10
)

// Difference is the first place at which a log is not the copy of another.
type Difference struct {
	Event  int // counted from 1
	What   string
	Source Raw // without an id where there is no event
	Target Raw
}

func (d *Difference) Error() string {
	name := func(r Raw) string {
		if r.Stream == "" {
			return "nothing"
		}
		return fmt.Sprintf("%s %s at revision %d of %s", r.Type, r.ID, r.Revision, r.Stream)
	}
	return fmt.Sprintf("event %d differs in its %s: the source has %s, the target %s", d.Event, d.What, name(d.Source), name(d.Target))
}

// compareEvents says what two events at the same place differ in; nil: in nothing.
func compareEvents(n int, source, target Raw) error {
	what := ""
	switch {
	case source.Stream != target.Stream:
		what = "stream"
	case source.Revision != target.Revision:
		what = "revision"
	case source.ID != target.ID:
		what = "id"
	case source.Type != target.Type:
		what = "type"
	case !bytes.Equal(source.Data, target.Data):
		what = "data"
	case !bytes.Equal(source.Meta, target.Meta):
		what = "metadata"
	default:
		return nil
	}
	return &Difference{n, what, source, target}
}

// eachUpToHead yields all events of a feed, one by one, until its head.
func eachUpToHead(ctx context.Context, feed Feed) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		for batch, err := range UpToHead(ctx, feed.Follow(ctx, 0)) {
			if err != nil {
				yield(Raw{}, err)
				return
			}
			for _, raw := range batch {
				if !yield(raw, nil) {
					return
				}
			}
		}
	}
}

// remaining yields the events of source that target has not yet, after those that it
// has. A target that has others, or more, is a *Difference. count is told of each
// event that both have.
func remaining(ctx context.Context, source, target Feed, count func(int)) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		next, stop := iter.Pull2(eachUpToHead(ctx, target))
		defer stop()
		n := 0
		for raw, err := range eachUpToHead(ctx, source) {
			if err != nil {
				yield(Raw{}, fmt.Errorf("the source: %w", err))
				return
			}
			existing, err, exists := next()
			switch {
			case err != nil:
				err = fmt.Errorf("the target: %w", err)
			case exists:
				n++
				err = compareEvents(n, raw, existing)
			}
			switch {
			case err != nil:
				yield(Raw{}, err)
				return
			case exists:
				count(n)
			case !yield(raw, nil):
				return
			}
		}
		switch existing, err, exists := next(); {
		case err != nil:
			yield(Raw{}, fmt.Errorf("the target: %w", err))
		case exists:
			yield(Raw{}, &Difference{n + 1, "presence", Raw{}, existing})
		}
	}
}

// Compare returns how many events target has and whether that is all of source,
// where target has what source begins with: the same events in the same order, equal
// but for positions. Else it fails with a *Difference. count is told how far it is.
func Compare(ctx context.Context, source, target Feed, count func(int)) (n int, whole bool, err error) {
	for _, err := range remaining(ctx, source, target, func(i int) { n = i; count(i) }) {
		return n, false, err
	}
	return n, true, nil
}

// bulk is a store that takes events of several streams at once.
type bulk interface {
	// AppendAll records all events or none, in this order, at their revisions.
	AppendAll(ctx context.Context, events []Raw) error
}

// Copy appends to target what it does not have of source, in the same order, byte
// for byte, at the same revisions. It goes on where an earlier one ended, however
// that was. A target that has other events is a *Difference, and nothing is
// appended. count is told how many events the target has.
func Copy(ctx context.Context, source Feed, target Store, count func(int)) (copied int, err error) {
	c := copier{target: target, count: count}
	c.bulk, _ = target.(bulk)
	for raw, err := range remaining(ctx, source, target, func(n int) { c.had = n; count(n) }) {
		if err != nil {
			return c.copied, err
		}
		if !c.fits(raw) {
			if err := c.flush(ctx); err != nil {
				return c.copied, err
			}
		}
		c.add(raw)
	}
	err = c.flush(ctx)
	return c.copied, err
}

// copier appends events to a store, as many at once as it takes.
type copier struct {
	target Store
	bulk   bulk // the target, where it takes events of several streams at once; nil: it does not
	count  func(int)

	had    int   // events that the target had before
	group  []Raw // what is appended next
	size   int   // bytes of that
	copied int
}

func sizeOf(raw Raw) int { return len(raw.Data) + len(raw.Meta) }

// fits tells whether an event may be appended together with the group.
func (c *copier) fits(raw Raw) bool {
	if len(c.group) == 0 {
		return true
	}
	last := c.group[len(c.group)-1]
	follows := raw.Stream == last.Stream && raw.Revision == last.Revision+1
	return (follows || c.bulk != nil) && len(c.group) < copyEvents && c.size+sizeOf(raw) <= copyBytes
}

func (c *copier) add(raw Raw) {
	c.group = append(c.group, Raw{Stream: raw.Stream, Revision: raw.Revision, ID: raw.ID, Type: raw.Type, Data: raw.Data, Meta: raw.Meta})
	c.size += sizeOf(raw)
}

// flush appends the group.
func (c *copier) flush(ctx context.Context) error {
	if len(c.group) == 0 {
		return nil
	}
	err := ctx.Err()
	if err != nil {
		return err
	}
	if c.bulk != nil {
		err = c.bulk.AppendAll(ctx, c.group)
	} else { // one after the other: what is under way together may be recorded in any order
		_, err = c.target.Append(ctx, c.group[0].Stream, c.group[0].Revision-1, c.group)
	}
	if err != nil {
		return fmt.Errorf("the target: %w", err)
	}
	c.copied += len(c.group)
	c.count(c.had + c.copied)
	c.group, c.size = nil, 0
	return nil
}
