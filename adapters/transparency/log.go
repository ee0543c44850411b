package transparency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// lag is how often the tree is brought up to the log.
const lag = time.Second

// Config is what a Log needs.
type Config struct {
	Feed     eventlog.Feed
	Dir      string // of the tree
	Key      *Key
	Interval time.Duration // between checkpoints, when there is something new
	File     string        // to which they are appended; "": none
	URL      string        // to which they are PUT; "": none
	Client   *http.Client
	Logger   *slog.Logger
}

// Log keeps the tree of a log and signs checkpoints of it. It signs nothing any
// more once the log is not what was signed before: what is in the file of
// checkpoints must hold.
type Log struct {
	config   Config
	tree     *Tree
	verifier note.Verifiers

	growing  chan struct{} // taken by who brings the tree up to the log, or publishes
	filed    uint64        // events of the last checkpoint in the file
	put      uint64        // and of the last that was PUT
	resumed  bool          // the log has the event of the tree's last leaf
	verified bool          // the checkpoints in the file hold
}

// ErrChanged says that the log is not what was signed.
var ErrChanged = errors.New("the log is not what was signed")

// ErrNoEvent says that there is no event at a position, or that it is not in the
// tree of that size.
var ErrNoEvent = errors.New("there is no such event")

// Open opens the tree of a log. It reads nothing of the log yet.
func Open(config Config) (*Log, error) {
	verifier, err := Verifiers(config.Key.Verifier())
	if err != nil {
		return nil, err
	}
	tree, discarded, err := OpenTree(config.Dir)
	if err != nil {
		return nil, err
	}
	if discarded != nil {
		config.Logger.Warn("the tree over the log is made anew", "error", discarded)
	}
	return &Log{config: config, tree: tree, verifier: verifier, growing: make(chan struct{}, 1)}, nil
}

// lock waits until nobody else uses the tree. done unlocks it.
func (l *Log) lock(ctx context.Context) (done func(), err error) {
	select {
	case l.growing <- struct{}{}:
		return func() { <-l.growing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// grow brings the tree up to the head of the log. What it did before ctx ended is
// not done again.
func (l *Log) grow(ctx context.Context) error {
	done, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer done()
	after := l.tree.Last()
	if !l.resumed && after > 0 {
		after--
	}
	for batch, err := range eventlog.UpToHead(ctx, l.config.Feed.Follow(ctx, after)) {
		if err != nil {
			return fmt.Errorf("bring the tree up to the log: %w", err)
		}
		if batch, err = l.resume(batch); err != nil {
			return err
		}
		if err := l.tree.Append(batch); err != nil {
			return err
		}
	}
	if _, err := l.resume(nil); err != nil { // where the log has nothing from there on
		return err
	}
	return l.verifyFile()
}

// resume returns what is to be added of a batch. The first must begin with the event
// of the last leaf, which is there already.
func (l *Log) resume(batch []eventlog.Raw) ([]eventlog.Raw, error) {
	size, last := l.tree.Size(), l.tree.Last()
	if size == 0 {
		l.resumed = true
	}
	if l.resumed {
		return batch, nil
	}
	leaves, err := l.tree.leaves(size-1, size)
	if err != nil {
		return nil, err
	}
	if len(batch) > 0 && batch[0].Position == last {
		if hash, _ := hashLeaf(nil, batch[0]); hash == leaves[0] {
			l.resumed = true
			return batch[1:], nil
		}
	}
	return nil, fmt.Errorf("%w: at position %d there is not the event that was last in %s; commissaire events verify says more", ErrChanged, last, l.config.Dir)
}

// verifyFile compares the checkpoints of the file with the tree, once.
func (l *Log) verifyFile() error {
	if l.verified || l.config.File == "" {
		return nil
	}
	text, err := os.ReadFile(l.config.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the checkpoints that were signed before: %w", err)
	}
	for i, signed := range Whole(text) {
		checkpoint, err := ParseCheckpoint(signed, l.verifier)
		if err != nil {
			if _, other := errors.AsType[*note.UnverifiedNoteError](err); other {
				continue // of an earlier key: verify looks at it
			}
			return fmt.Errorf("checkpoint %d in %s: %w", i+1, l.config.File, err)
		}
		if checkpoint.Size > l.tree.Size() {
			return fmt.Errorf("%w: checkpoint %d in %s is of %d events, and there are %d; commissaire events verify says more", ErrChanged, i+1, l.config.File, checkpoint.Size, l.tree.Size())
		}
		root, err := l.tree.Root(checkpoint.Size)
		if err != nil {
			return err
		}
		if root != checkpoint.Root {
			return fmt.Errorf("%w: checkpoint %d in %s, of %d events, does not hold; commissaire events verify says more", ErrChanged, i+1, l.config.File, checkpoint.Size)
		}
		l.filed = max(l.filed, checkpoint.Size)
	}
	l.verified = true
	return nil
}

// Checkpoint is a signed checkpoint of all that is recorded.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	if err := l.grow(ctx); err != nil {
		return nil, err
	}
	return l.sign(l.tree.Size())
}

func (l *Log) sign(size uint64) ([]byte, error) {
	root, err := l.tree.Root(size)
	if err != nil {
		return nil, err
	}
	return l.config.Key.Sign(size, root)
}

// Proof says that an event is in the log of which a checkpoint is.
type Proof struct {
	Index      uint64 // of the leaf, from 0
	Size       uint64 // of the checkpoint
	Leaf       Hash
	Hashes     [][]byte // as in RFC 6962, 2.1.1
	Checkpoint []byte
}

// Proof proves that the event at a position is in the log, by a checkpoint of size
// events; 0: of all.
func (l *Log) Proof(ctx context.Context, position event.Position, size uint64) (p Proof, err error) {
	if err := l.grow(ctx); err != nil {
		return p, err
	}
	if size == 0 {
		size = l.tree.Size()
	}
	index, leaf, found, err := l.tree.Index(position)
	switch {
	case err != nil:
		return p, err
	case !found:
		return p, fmt.Errorf("%w at position %d", ErrNoEvent, position)
	case index >= size || size > l.tree.Size():
		return p, fmt.Errorf("%w at position %d of the first %d, of %d", ErrNoEvent, position, size, l.tree.Size())
	}
	p = Proof{Index: index, Size: size, Leaf: leaf}
	if p.Hashes, err = l.tree.Inclusion(index, size); err != nil {
		return p, err
	}
	p.Checkpoint, err = l.sign(size)
	return p, err
}

// Run keeps the tree up to the log and publishes checkpoints, until ctx ends, and
// then once more.
func (l *Log) Run(ctx context.Context) {
	growth, due := time.NewTicker(lag), time.NewTicker(l.config.Interval)
	defer growth.Stop()
	defer due.Stop()
	said := ""
	say := func(err error) {
		switch {
		case err == nil || ctx.Err() != nil:
			said = ""
		case err.Error() != said: // once, as long as it is the same
			said = err.Error()
			l.config.Logger.Error("no checkpoint of the log is signed", "error", err)
		}
	}
	for ctx.Err() == nil {
		select {
		case <-growth.C:
			say(l.grow(ctx))
		case <-due.C:
			say(l.Publish(ctx))
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.Publish(last); err != nil {
		l.config.Logger.Error("the last checkpoint of the log was not published", "error", err)
	}
}

// Publish signs a checkpoint of all that is recorded and hands it to where it is
// kept, unless the last one that was is of the same events.
func (l *Log) Publish(ctx context.Context) error {
	if err := l.grow(ctx); err != nil {
		return err
	}
	if err := l.tree.Save(); err != nil {
		return err
	}
	size := l.tree.Size()
	done, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer done()
	signed, err := l.sign(size)
	if err == nil && l.config.File != "" && size != l.filed {
		if err = appendCheckpoint(l.config.File, signed); err == nil {
			l.filed = size
		}
	}
	if err == nil && l.config.URL != "" && size != l.put {
		if err = l.send(ctx, signed); err == nil {
			l.put = size
		}
	}
	if err != nil {
		return fmt.Errorf("publish a checkpoint of %d events: %w", size, err)
	}
	return nil
}

// appendCheckpoint appends a checkpoint to a file, durably, behind what a crash cut off.
func appendCheckpoint(path string, signed []byte) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644) // anyone may verify
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	end := len(text)
	if all := Split(text); len(all) > 0 && isTorn(all[len(all)-1]) {
		end -= len(all[len(all)-1])
	} else if len(all) > 0 {
		signed = append([]byte("\n"), signed...)
	}
	if err := file.Truncate(int64(end)); err != nil {
		return err
	}
	if _, err := file.WriteAt(signed, int64(end)); err != nil {
		return err
	}
	return file.Sync()
}

func (l *Log) send(ctx context.Context, signed []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, l.config.URL, bytes.NewReader(signed))
	if err != nil {
		return errors.New("log.checkpoint-url is no URL")
	}
	request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	response, err := l.config.Client.Do(request)
	if err != nil {
		return fmt.Errorf("PUT to log.checkpoint-url: %s", strings.ReplaceAll(err.Error(), l.config.URL, "…")) // it may have a password
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection is used again
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("PUT to log.checkpoint-url was answered %s", response.Status)
	}
	return nil
}

// Close saves the tree and gives it back.
func (l *Log) Close() error { return l.tree.Close() }
