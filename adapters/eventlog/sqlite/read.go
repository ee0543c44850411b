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

// query is the events that a condition and an order select, about so many. It goes
// past database/sql, which takes as long as SQLite does for it, and holds no
// transaction afterwards. What was read before an event that is none comes with the
// error, which names its position.
func query(ctx context.Context, db *sql.DB, about int, which string, arguments ...any) (events []eventlog.Raw, err error) {
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
		rows, err := queryer.QueryContext(ctx, "SELECT pos, rev, stream, type, id, CAST(data AS BLOB), CAST(meta AS BLOB) FROM events "+which, named)
		if err != nil {
			return err
		}
		events = make([]eventlog.Raw, 0, about)
		values := make([]driver.Value, 7)
		for err = rows.Next(values); err == nil; err = rows.Next(values) {
			var e eventlog.Raw
			if e, err = rawOf(values); err != nil {
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

// rawOf is the event that a row has.
func rawOf(values []driver.Value) (e eventlog.Raw, err error) {
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

// span is the events at page positions, or fewer.
type span struct {
	end    event.Position
	events []eventlog.Raw
	next   event.Position // where there are none: that of the next event; 0: there is none
	err    error
}

// readSpan reads what is after a position, up to another.
func readSpan(ctx context.Context, db *sql.DB, after, end event.Position) span {
	s := span{end: end}
	s.events, s.err = query(ctx, db, int(end-after), "WHERE pos > ? AND pos <= ? ORDER BY pos", int64(after), int64(end))
	if len(s.events) == 0 && s.err == nil {
		s.err = db.QueryRowContext(ctx, "SELECT COALESCE(MIN(pos), 0) FROM events WHERE pos > ?", int64(end)).Scan(&s.next)
	}
	return s
}

// spans are those after a position up to another, in order: the first alone, as
// often that is all that there is or is wanted, the others by several at once and
// while one is looked at.
func spans(ctx context.Context, after, end event.Position, read func(ctx context.Context, after, end event.Position) span) iter.Seq[span] {
	return func(yield func(span) bool) {
		first := read(ctx, after, min(after+page, end))
		if !yield(first) || first.end == end {
			return
		}
		ctx, stop := context.WithCancel(ctx)
		coming := make(chan chan span, runtime.GOMAXPROCS(0))
		defer func() {
			stop()
			for next := range coming { // until the log is let go
				<-next
			}
		}()
		go func() {
			defer close(coming)
			for from := first.end; from < end; from += page {
				next := make(chan span, 1)
				select {
				case coming <- next: // no more of these than it takes are read at once
				case <-ctx.Done():
					return
				}
				go func() { next <- read(ctx, from, min(from+page, end)) }()
			}
		}()
		for next := range coming {
			if !yield(<-next) {
				return
			}
		}
	}
}

// upTo yields what is after a position, up to another, and says how far it came; to
// where it was where there is nothing more. more is false when no more is wanted.
func upTo(ctx context.Context, after, end event.Position, read func(ctx context.Context, after, end event.Position) span, yield func([]eventlog.Raw, error) bool) (at event.Position, more bool, err error) {
	for s := range spans(ctx, after, end, read) {
		if n := len(s.events); n > 0 {
			after = s.events[n-1].Position
			if !yield(s.events, nil) {
				return after, false, nil
			}
		}
		switch {
		case s.err != nil:
			return after, true, s.err
		case len(s.events) > 0:
		case s.next == 0:
			return after, true, nil
		case s.next > s.end+page: // there is a gap; it may be of any size
			return s.next - 1, true, nil
		}
	}
	return after, true, ctx.Err()
}
