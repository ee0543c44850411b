package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
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
func OpenReader(ctx context.Context, dir string) (_ *Reader, err error) {
	fail := func(err error) (*Reader, error) {
		return nil, fmt.Errorf("read the event log in %s: %w", dir, err)
	}
	path := filepath.Join(dir, "events.db")
	if _, err := os.Stat(path); err != nil {
		return fail(err)
	}
	if err := look(ctx, path); err != nil {
		return fail(err)
	}
	db, err := sql.Open("sqlite", address(path)+"?mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)")
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
// comes before the error, which names its position.
func (r *Reader) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		fail := func(err error) {
			if ctx.Err() == nil {
				yield(nil, fmt.Errorf("follow after position %d: %w", after, err))
			}
		}
		for ctx.Err() == nil {
			events, err := r.page(ctx, after)
			if len(events) > 0 {
				after = events[len(events)-1].Position
			}
			if (err == nil || len(events) > 0) && ctx.Err() == nil && !yield(events, nil) {
				return
			}
			if err != nil {
				fail(err)
				return
			}
			if len(events) > 0 {
				continue
			}
			if err := r.wait(ctx, after); err != nil {
				fail(err)
				return
			}
		}
	}
}

func (r *Reader) page(ctx context.Context, after event.Position) (events []eventlog.Raw, err error) {
	rows, err := r.db.QueryContext(ctx, columns+"WHERE pos > ? ORDER BY pos LIMIT ?", int64(after), page)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	return scan(rows)
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
		var head int64
		if err := r.db.QueryRowContext(ctx, "SELECT COALESCE(MAX(pos), 0) FROM events").Scan(&head); err != nil {
			return err
		}
		if event.Position(head) > after {
			return nil
		}
	}
}

// scan is the events that rows have, up to the first that is none.
func scan(rows *sql.Rows) (events []eventlog.Raw, err error) {
	for rows.Next() {
		var position, revision int64 // types that Scan knows are read several times as fast
		var stream, id string
		var e eventlog.Raw
		if err := rows.Scan(&position, &stream, &revision, &e.Type, &id, &e.Data, &e.Meta); err != nil {
			return events, err
		}
		e.Position, e.Stream, e.Revision = event.Position(position), event.Stream(stream), event.Revision(revision)
		if e.ID, err = uuid.Parse(id); err != nil {
			return events, fmt.Errorf("position %d: %w", e.Position, err)
		}
		events = append(events, e)
	}
	return events, rows.Err()
}

// Close gives the log back.
func (r *Reader) Close() error { return r.db.Close() }
