package eventlog_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"commissaire/adapters/eventlog"
)

// counting yields 0, 1, … n-1, and then the error; with nil it waits for the end of
// its context, as a feed does.
func counting(n int, err error) func(context.Context) iter.Seq2[int, error] {
	return func(ctx context.Context) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range n {
				if !yield(i, nil) {
					return
				}
			}
			if err != nil {
				yield(0, err)
				return
			}
			<-ctx.Done()
		}
	}
}

var (
	errEnd    = errors.New("the end")
	errBroken = errors.New("broken")
)

// Each test runs in a bubble, which fails when a goroutine is left in it.

func TestParallelKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, next := time.Now(), 0
		for out, err := range eventlog.Parallel(t.Context(), counting(60, errEnd), 9, func(_ context.Context, i int) (int, error) {
			time.Sleep(time.Duration(i*7%10) * time.Second) // later ones are done first
			return i * i, nil
		}) {
			if next == 60 {
				if !errors.Is(err, errEnd) {
					t.Errorf("it ended with %v", err)
				}
				next++
				continue
			}
			if err != nil || out != next*next {
				t.Fatalf("value %d is %d, %v", next, out, err)
			}
			next++
		}
		if next != 61 {
			t.Errorf("it yielded %d values and errors, want 61", next)
		}
		if took := time.Since(began); took >= 60*9/2*time.Second/3 { // a third of what one after the other takes
			t.Errorf("it took %v", took)
		}
	})
}

func TestParallelWorksOnNoMoreThanIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3
		begun, taken := 0, 0
		for _, err := range eventlog.Parallel(t.Context(), func(ctx context.Context) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) {
				for in, err := range counting(20, errEnd)(ctx) {
					begun = in
					if !yield(in, err) {
						return
					}
				}
			}
		}, n, func(_ context.Context, i int) (int, error) { return i, nil }) {
			if errors.Is(err, errEnd) {
				break
			}
			synctest.Wait()
			if taken++; begun > taken+n { // of these the last waits to be worked on
				t.Fatalf("value %d was asked for when the consumer had %d", begun+1, taken)
			}
		}
		if taken != 20 {
			t.Errorf("it yielded %d values", taken)
		}
	})
}

func TestAnErrorIsTheLastThatParallelYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int
		var failure error
		for out, err := range eventlog.Parallel(t.Context(), counting(100, nil), 4, func(_ context.Context, i int) (int, error) {
			if i == 7 {
				return 700, errBroken
			}
			return i, nil
		}) {
			if failure != nil {
				t.Fatalf("%d, %v after an error", out, err)
			}
			got, failure = append(got, out), err
		}
		if !errors.Is(failure, errBroken) || !slices.Equal(got, []int{0, 1, 2, 3, 4, 5, 6, 700}) {
			t.Errorf("%v, %v", got, failure)
		}
	})
}

func TestParallelEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		for _, err := range eventlog.Parallel(ctx, counting(2, nil), 4, func(_ context.Context, i int) (int, error) { return i, nil }) {
			if err != nil {
				t.Errorf("it ended with %v", err)
			}
			if n++; n == 2 {
				go func() { // while it waits
					time.Sleep(time.Second)
					cancel()
				}()
			}
		}
		if n != 2 || ctx.Err() == nil {
			t.Errorf("it yielded %d values", n)
		}
	})
}

func TestAConsumerOfParallelMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var working atomic.Int32
		for out, err := range eventlog.Parallel(t.Context(), counting(10, nil), 4, func(ctx context.Context, i int) (int, error) {
			if i == 0 {
				return i, nil
			}
			working.Add(1)
			defer working.Add(-1)
			<-ctx.Done()
			return i, ctx.Err()
		}) {
			if out != 0 || err != nil {
				t.Fatalf("it yielded %d, %v", out, err)
			}
			synctest.Wait()
			if working.Load() == 0 {
				t.Error("nothing is worked on while the consumer has a value")
			}
			break
		}
		if n := working.Load(); n != 0 {
			t.Errorf("%d are worked on when it has returned", n)
		}
	})
}

func TestUpToHeadEndsAtTheHead(t *testing.T) {
	following := func(batches [][]int, err error) iter.Seq2[[]int, error] {
		return func(yield func([]int, error) bool) {
			for _, batch := range batches {
				if !yield(batch, nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
			}
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx     context.Context
		batches [][]int
		fails   error
		want    []int
		err     error
	}{
		"at the head":       {t.Context(), [][]int{{1, 2}, {3}, {}, {4}}, nil, []int{1, 2, 3}, nil},
		"nothing there":     {t.Context(), [][]int{{}, {4}}, nil, nil, nil},
		"an error":          {t.Context(), [][]int{{1}}, errBroken, []int{1}, errBroken},
		"its context ended": {ended, [][]int{{1}}, nil, []int{1}, context.Canceled},
	} {
		var got []int
		var failure error
		for batch, err := range eventlog.UpToHead(test.ctx, following(test.batches, test.fails)) {
			if failure != nil || err == nil && len(batch) == 0 {
				t.Errorf("%s: %v, %v after %v", name, batch, err, failure)
			}
			got, failure = append(got, batch...), err
		}
		if !slices.Equal(got, test.want) || !errors.Is(failure, test.err) || (failure == nil) != (test.err == nil) {
			t.Errorf("%s: %v, %v", name, got, failure)
		}
	}
	for range eventlog.UpToHead(t.Context(), following([][]int{{1}, {2}}, nil)) {
		break // a consumer may leave
	}
}
