package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/domain/event"
)

// Export writes selected events to a new file.
type Export struct {
	Selection
	File        string // "-": to Out
	Out         io.Writer
	Compression cloudevents.Compression
	Count       func(int) // is called with the number of events that were written
}

// Run writes the events of a log, and returns how many, and the position of the last. When
// ctx ends, what was written is whole, and that is no error. A file that exists is
// refused; one with no event, because of an error, is removed.
func (e Export) Run(ctx context.Context, from eventlog.Feed) (n int, last event.Position, err error) {
	out, sync := e.Out, func() error { return nil }
	if e.File != "-" {
		file, openErr := os.OpenFile(e.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if openErr != nil {
			return 0, 0, openErr
		}
		out, sync = file, file.Sync
		defer func() {
			_ = file.Close() // it was synced
			if err != nil && n == 0 && ctx.Err() == nil {
				_ = os.Remove(e.File) // else it would be in the way of the next
			}
		}()
	}
	buffered := bufio.NewWriterSize(out, 256<<10)
	w, err := cloudevents.NewWriter(buffered, e.Compression)
	if err != nil {
		return 0, 0, err
	}
	err = e.Each(ctx, from, func(events []eventlog.Raw) error {
		if len(events) == 0 { // who follows sees all there is
			return errors.Join(w.Flush(), buffered.Flush())
		}
		if err := w.Write(events); err != nil {
			return err
		}
		n, last = n+len(events), events[len(events)-1].Position
		e.Count(n)
		return nil
	})
	if ctx.Err() != nil {
		err = nil
	}
	if err = errors.Join(err, w.Close(), buffered.Flush(), sync()); err != nil {
		return n, last, fmt.Errorf("after position %d: %w", last, err)
	}
	return n, last, nil
}
