package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
)

// Imported is what an import did.
type Imported struct {
	Events   int `json:"events"`
	Imported int `json:"events_imported"`
}

// Text says it in a line.
func (d Imported) Text() string {
	return fmt.Sprintf("%d events, %d of them imported now\n", d.Events, d.Imported)
}

// Import records the events of files that were exported, oldest first, in the log that
// open opens; - is stdin. Files that are not a whole log are refused before it is opened;
// standard input can be read only once and is refused at the line that is wrong. A log
// with other events is refused. When it failed, the same import goes on where it stopped.
func Import(ctx context.Context, stdin io.Reader, names []string, open func() (eventlog.Store, error), count func(int)) (done Imported, err error) {
	whole := cloudevents.NewFiles(stdin, names...).Whole()
	if !slices.Contains(names, "-") {
		if err := readThrough(ctx, whole); err != nil {
			return done, err
		}
	}
	target, err := open()
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	done.Imported, err = eventlog.Copy(ctx, whole, target, func(n int) {
		done.Events = n
		count(n)
	})
	if _, ok := errors.AsType[*eventlog.Difference](err); ok {
		err = fmt.Errorf("the store has events that are not those of the file: %w", err)
	}
	return done, err
}

// readThrough reads a feed to its end.
func readThrough(ctx context.Context, feed eventlog.Feed) error {
	for _, err := range eventlog.UpToHead(ctx, feed.Follow(ctx, 0)) {
		if err != nil {
			return err
		}
	}
	return nil
}
