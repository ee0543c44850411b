package ssh

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestAChannelThatIsNeverAnsweredFailsWithItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over, end := context.WithCancelCause(t.Context())
		silent := make(chan struct{})
		defer close(silent)
		failed := make(chan error, 1)
		go func() {
			_, err := opened(over, func() (int, error) { <-silent; return 0, nil })
			failed <- err
		}()
		synctest.Wait()
		select {
		case err := <-failed:
			t.Fatalf("failed before the connection did: %v", err)
		default:
		}
		cut := errors.New("cut")
		end(cut)
		if err := <-failed; !errors.Is(err, cut) {
			t.Error(err)
		}
	})
}
