package credentials

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"commissaire/commands"
)

// Copy stores in to all that from keeps and to does not, reads each back and
// compares. It may be repeated, also after one that was stopped in the middle.
// What to keeps under the same id and is another secret is refused. count is told
// how many are there.
func Copy(ctx context.Context, from, to *Store, count func(int)) (all, copied int, err error) {
	stored, err := from.keeper.list(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("list credentials: %w", err)
	}
	delete(stored, checkID)
	begun, err := to.keeper.list(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("list credentials: %w", err)
	}
	var done, made atomic.Int64
	copying, ctx := errgroup.WithContext(ctx)
	copying.SetLimit(8)
	for id, since := range stored {
		copying.Go(func() error {
			secret, err := from.Read(ctx, id)
			if errors.Is(err, commands.ErrNoCredential) {
				return nil // it was stored or destroyed in part
			}
			if err != nil {
				return fmt.Errorf("the source: %w", err)
			}
			there, err := to.Read(ctx, id)
			if errors.Is(err, commands.ErrNoCredential) {
				err = nil
				if _, part := begun[id]; part { // whoever stored it was stopped
					err = to.Destroy(ctx, id)
				}
				if err == nil {
					err = to.store(ctx, id, secret, since)
				}
				if err == nil {
					there, err = to.Read(ctx, id)
				}
				made.Add(1)
			}
			if err != nil {
				return fmt.Errorf("the target: %w", err)
			}
			if !bytes.Equal(there, secret) {
				return fmt.Errorf("credential %s: the target keeps another secret under that id", id)
			}
			count(int(done.Add(1)))
			return nil
		})
	}
	err = copying.Wait()
	return int(done.Load()), int(made.Load()), err
}
