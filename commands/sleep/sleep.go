// Package sleep waits for as long as a context allows. It imports nothing, so
// that all who wait may use it: commands, adapters, api and cmd.
package sleep

import (
	"context"
	"time"
)

// For waits for d. It returns ctx.Err() when ctx ends before that.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
