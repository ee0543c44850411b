package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// query returns the events that a condition and an order select; sizeHint is about how
// many these are. It bypasses database/sql, which takes as long as SQLite itself, and
// holds no transaction afterwards. With an error, which names the position of a row
// that is no event, it returns the events before that.
func query(ctx context.Context, db *sql.DB, sizeHint int, where string, arguments ...any) (events []eventlog.Raw, err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, conn.Close()); err != nil && ctx.Err() != nil {
			err = ctx.Err() // SQLite only says that it was interrupted
		}
	}()
	named := make([]driver.NamedValue, len(arguments))
	for i, argument := range arguments {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: argument}
	}
	err = conn.Raw(func(driven any) error {
		queryer, ok := driven.(driver.QueryerContext)
		if !ok {
			return errors.New("the driver has no queries")
		}
		rows, err := queryer.QueryContext(ctx, "SELECT pos, rev, stream, type, id, CAST(data AS BLOB), CAST(meta AS BLOB) FROM events "+where, named)
		if err != nil {
			return err
		}
		events = make([]eventlog.Raw, 0, sizeHint)
		values := make([]driver.Value, 7)
		for err = rows.Next(values); err == nil; err = rows.Next(values) {
			var e eventlog.Raw
			if e, err = parseRow(values); err != nil {
				break
			}
			events = append(events, e)
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return errors.Join(err, rows.Close())
	})
	return events, err
}

// parseRow reads the event of a row.
func parseRow(values []driver.Value) (e eventlog.Raw, err error) {
	position, isPosition := values[0].(int64)
	revision, isRevision := values[1].(int64)
	stream, isStream := values[2].(string)
	kind, isKind := values[3].(string)
	id, isID := values[4].(string)
	e = eventlog.Raw{Position: event.Position(position), Revision: event.Revision(revision), Stream: event.Stream(stream), Type: kind}
	if !isPosition || !isRevision || !isStream || !isKind || !isID {
		return e, fmt.Errorf("position %d: it has a column of another kind", e.Position)
	}
	e.Data, _ = values[5].([]byte) // nothing is nil
	e.Meta, _ = values[6].([]byte)
	if e.ID, err = uuid.Parse(id); err != nil {
		return e, fmt.Errorf("position %d: %w", e.Position, err)
	}
	return e, nil
}

// span is where to read: what is after a position, up to another.
type span struct{ after, end event.Position }

// found is the events in a span. With an error it has what is before that.
type found struct {
	span
	events []eventlog.Raw
	next   event.Position // where there are none: that of the next event; 0: there is none
}

// readSpan reads a span.
func readSpan(ctx context.Context, db *sql.DB, s span) (found, error) {
	f := found{span: s}
	var err error
	f.events, err = query(ctx, db, int(s.end-s.after), "WHERE pos > ? AND pos <= ? ORDER BY pos", int64(s.after), int64(s.end))
	if len(f.events) == 0 && err == nil {
		err = db.QueryRowContext(ctx, "SELECT COALESCE(MIN(pos), 0) FROM events WHERE pos > ?", int64(s.end)).Scan(&f.next)
	}
	return f, err
}

// pages are the spans of page positions, or fewer, that a span has.
func (s span) pages(context.Context) iter.Seq2[span, error] {
	return func(yield func(span, error) bool) {
		for after := s.after; after < s.end; after += pageSize {
			if !yield(span{after, min(after+pageSize, s.end)}, nil) {
				return
			}
		}
	}
}

// followed is what is followed: a Store, or a Reader.
type followed struct {
	head func(context.Context) (event.Position, error)
	wait func(ctx context.Context, after event.Position) error // until there may be more
	read func(context.Context, span) (found, error)
}

// follow implements eventlog.Feed.
func (f followed) follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for ctx.Err() == nil {
			var more bool
			var err error
			if after, more, err = f.advance(ctx, after, yield); !more {
				return
			}
			if err != nil {
				if ctx.Err() == nil {
					yield(nil, fmt.Errorf("follow after position %d: %w", after, err))
				}
				return
			}
		}
	}
}

// advance yields what is after a position, up to the head, and says how far it came.
// Where that is nothing, it says so and waits. more is false when no more is wanted.
func (f followed) advance(ctx context.Context, after event.Position, yield func([]eventlog.Raw, error) bool) (pos event.Position, more bool, err error) {
	head, err := f.head(ctx)
	if err != nil {
		return after, true, err
	}
	if after >= head {
		if !yield(nil, nil) {
			return after, false, nil
		}
		return after, true, f.wait(ctx, after)
	}
	pos, more, err = f.readUpTo(ctx, span{after, head}, yield)
	if more && err == nil && pos == after {
		err = fmt.Errorf("events up to %d are gone", head)
	}
	return pos, more, err
}

// pages reads the pages of a span, in order: the first alone, as often that is all
// that there is or is wanted, the others by several at once and while one is looked
// at. An error is the last that it yields.
func (f followed) pages(ctx context.Context, s span) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		first, err := f.read(ctx, span{s.after, min(s.after+pageSize, s.end)})
		if !yield(first, err) || err != nil {
			return
		}
		rest := span{first.end, s.end}
		if rest.after == rest.end {
			return
		}
		for page, err := range eventlog.Parallel(ctx, rest.pages, runtime.GOMAXPROCS(0), f.read) {
			if !yield(page, err) {
				return
			}
		}
	}
}

// readUpTo yields the events of a span, and says how far it came: to where the span
// begins where there is nothing more. more is false when no more is wanted.
func (f followed) readUpTo(ctx context.Context, s span, yield func([]eventlog.Raw, error) bool) (pos event.Position, more bool, err error) {
	pos = s.after
	for page, err := range f.pages(ctx, s) {
		if n := len(page.events); n > 0 {
			pos = page.events[n-1].Position
			if !yield(page.events, nil) {
				return pos, false, nil
			}
		}
		switch {
		case err != nil:
			return pos, true, err
		case len(page.events) > 0:
		case page.next == 0:
			return pos, true, nil
		case page.next > page.end+pageSize: // there is a gap; it may be of any size
			return page.next - 1, true, nil
		}
	}
	return pos, true, ctx.Err()
}
