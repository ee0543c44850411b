package eventlog

import (
	"context"
	"iter"
)

// Parallel yields f of each value that values yields, in that order, and applies f
// to several at once: while the consumer has one, at most n more are worked on or
// done. An error of values or of f is the last that it yields, with what f returned
// beside it. It ends without error where values does.
//
// values and f get a context that ends with ctx, and also when the consumer leaves,
// so values is not a sequence but makes one: it may wait for what comes next. When
// Parallel returns, both have returned.
func Parallel[In, Out any](
	ctx context.Context, values func(context.Context) iter.Seq2[In, error], n int, f func(context.Context, In) (Out, error),
) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		results := make(chan chan result[Out], n)
		defer func() {
			stop()
			for next := range results {
				<-next
			}
		}()
		go apply(ctx, values(ctx), f, results)
		for next := range results {
			if r := <-next; !yield(r.out, r.err) || r.err != nil {
				return
			}
		}
	}
}

type result[Out any] struct {
	out Out
	err error
}

// apply applies f to each value in a goroutine, as soon as results takes a channel on
// which its result will come. It closes results.
func apply[In, Out any](ctx context.Context, values iter.Seq2[In, error], f func(context.Context, In) (Out, error), results chan<- chan result[Out]) {
	defer close(results)
	for in, err := range values {
		next := make(chan result[Out], 1)
		select {
		case results <- next:
		case <-ctx.Done():
			return
		}
		if err != nil {
			next <- result[Out]{err: err}
			return
		}
		go func() {
			out, err := f(ctx, in)
			next <- result[Out]{out, err}
		}()
	}
}

// UpToHead ends a sequence that follows a feed at the head, before the empty batch
// that says so. So no batch that it yields is empty, and when it ends without error,
// all there is was yielded. An error is the last that it yields; that ctx ends before
// the head is one, too. ctx is the context that the sequence was made with.
//
// It takes a sequence and not a Feed, so that it serves decoded events as well.
func UpToHead[E any](ctx context.Context, following iter.Seq2[[]E, error]) iter.Seq2[[]E, error] {
	return func(yield func([]E, error) bool) {
		for batch, err := range following {
			if err == nil && len(batch) == 0 {
				return
			}
			if !yield(batch, err) || err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}
