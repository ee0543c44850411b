package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// Reader reads the log in a directory, also while a service has it: it takes no
// lock, keeps nobody waiting and records nothing. The files that SQLite keeps
// beside the log are made where they are missing.
type Reader struct{ db *sql.DB }

var _ eventlog.Feed = (*Reader)(nil)

// looksAgain is how long a Reader at the head waits before it looks again.
const looksAgain = 200 * time.Millisecond

// OpenReader opens a log to read it. A directory that has none is refused.
func OpenReader(ctx context.Context, dir string) (*Reader, error) {
	return openReader(ctx, dir, "mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)")
}

func openReader(ctx context.Context, dir, how string) (*Reader, error) {
	fail := func(err error) (*Reader, error) {
		return nil, fmt.Errorf("read the event log in %s: %w", dir, err)
	}
	path := filepath.Join(dir, File)
	if _, err := os.Stat(path); err != nil {
		return fail(err)
	}
	if err := look(ctx, path); err != nil {
		return fail(err)
	}
	db, err := sql.Open("sqlite", address(path)+"?"+how)
	if err != nil {
		return fail(err)
	}
	version, err := recognise(ctx, db)
	if err == nil && version == 0 {
		err = errNoLog
	}
	if err != nil {
		return fail(errors.Join(err, db.Close()))
	}
	return &Reader{db}, nil
}

// Follow implements eventlog.Feed. What was read before an event that is none
// comes before the error, which names its position. What comes next is read
// meanwhile, by several at once.
func (r *Reader) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for ctx.Err() == nil {
			head, err := r.head(ctx)
			if err == nil && head > after {
				var more bool
				if after, more, err = r.upTo(ctx, after, head, yield); !more {
					return
				}
			}
			if err == nil && after >= head && ctx.Err() == nil {
				if !yield(nil, nil) {
					return
				}
				err = r.wait(ctx, after)
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

// span is the events at page positions, or fewer.
type span struct {
	end    event.Position
	events []eventlog.Raw
	err    error
}

// upTo yields what is after a position, up to another, and says up to where it did;
// more is false when nothing more is wanted.
func (r *Reader) upTo(ctx context.Context, after, head event.Position, yield func([]eventlog.Raw, error) bool) (at event.Position, more bool, err error) {
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
		for from := after; from < head; from += page {
			next := make(chan span, 1)
			select {
			case coming <- next: // no more of these than it takes are read at once
			case <-ctx.Done():
				return
			}
			go func() {
				s := span{end: min(from+page, head)}
				s.events, s.err = r.between(ctx, from, s.end)
				next <- s
			}()
		}
	}()
	for next := range coming {
		s := <-next
		if len(s.events) > 0 {
			after = s.events[len(s.events)-1].Position
			if !yield(s.events, nil) {
				return after, false, nil
			}
		}
		if s.err != nil {
			return after, true, s.err
		}
		if len(s.events) == 0 { // there is a gap; it may be of any size
			var first int64
			if err := r.db.QueryRowContext(ctx, "SELECT COALESCE(MIN(pos), 0) FROM events WHERE pos > ?", int64(s.end)).Scan(&first); err != nil {
				return after, true, err
			}
			if first := event.Position(first); first > s.end+page {
				return first - 1, true, nil
			}
		}
	}
	return max(after, head), true, ctx.Err()
}

// between reads what is after a position, up to another, past database/sql, which
// takes as long as SQLite does for it.
func (r *Reader) between(ctx context.Context, after, upTo event.Position) (events []eventlog.Raw, err error) {
	conn, err := r.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	err = conn.Raw(func(driven any) error {
		queryer, ok := driven.(driver.QueryerContext)
		if !ok {
			return errors.New("the driver has no queries")
		}
		rows, err := queryer.QueryContext(ctx, `SELECT pos, rev, stream, type, id, CAST(data AS BLOB), CAST(meta AS BLOB)
			FROM events WHERE pos > ? AND pos <= ? ORDER BY pos`, []driver.NamedValue{{Ordinal: 1, Value: int64(after)}, {Ordinal: 2, Value: int64(upTo)}})
		if err != nil {
			return err
		}
		events = make([]eventlog.Raw, 0, upTo-after)
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

func (r *Reader) head(ctx context.Context) (event.Position, error) {
	var head int64
	err := r.db.QueryRowContext(ctx, "SELECT COALESCE(MAX(pos), 0) FROM events").Scan(&head)
	return event.Position(head), err
}

// wait waits until there is more than what is up to a position.
func (r *Reader) wait(ctx context.Context, after event.Position) error {
	tick := time.NewTicker(looksAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if head, err := r.head(ctx); err != nil || head > after {
			return err
		}
	}
}

// Close gives the log back.
func (r *Reader) Close() error { return r.db.Close() }
