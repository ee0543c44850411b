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

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// Reader reads the log in a directory, also while a service has it: it takes no
// lock, keeps nobody waiting and records nothing. The files that SQLite keeps
// beside the log are made where they are missing.
type Reader struct{ db *sql.DB }

var _ eventlog.Feed = (*Reader)(nil)

// pollInterval is how long a Reader at the head waits before it looks again.
const pollInterval = 200 * time.Millisecond

// OpenReader opens a log to read it. A directory that has none is refused.
func OpenReader(ctx context.Context, dir string) (*Reader, error) {
	return openReader(ctx, dir, "mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)")
}

func openReader(ctx context.Context, dir, parameters string) (*Reader, error) {
	fail := func(err error) (*Reader, error) {
		return nil, fmt.Errorf("read the event log in %s: %w", dir, err)
	}
	path := filepath.Join(dir, File)
	if _, err := os.Stat(path); err != nil {
		return fail(err)
	}
	if err := inspect(ctx, path); err != nil {
		return fail(err)
	}
	db, err := sql.Open("sqlite", fileURI(path)+"?"+parameters)
	if err != nil {
		return fail(err)
	}
	version, err := readVersion(ctx, db)
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
	return followed{head: r.head, wait: r.wait, read: r.read}.follow(ctx, after)
}

func (r *Reader) read(ctx context.Context, s span) (found, error) {
	return readSpan(ctx, r.db, s)
}

func (r *Reader) head(ctx context.Context) (event.Position, error) {
	var head int64
	err := r.db.QueryRowContext(ctx, "SELECT COALESCE(MAX(pos), 0) FROM events").Scan(&head)
	return event.Position(head), err
}

// wait waits until there is more than what is up to a position.
func (r *Reader) wait(ctx context.Context, after event.Position) error {
	tick := time.NewTicker(pollInterval)
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
