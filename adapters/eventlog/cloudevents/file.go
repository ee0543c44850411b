package cloudevents

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/google/uuid"
	fastgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// How events are read: a line has at most so many bytes, a batch so many events.
const (
	maxLine   = 64 << 20
	batchSize = 1000
)

// Compression is how a file is compressed: "" is not at all.
type Compression string

// The compressions.
const (
	None Compression = ""
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// CompressionOf is what a file's name says.
func CompressionOf(name string) Compression {
	switch {
	case strings.HasSuffix(name, ".gz"):
		return Gzip
	case strings.HasSuffix(name, ".zst"):
		return Zstd
	}
	return None
}

// Writer writes events. Close ends what is compressed, and not the file.
type Writer struct {
	out   io.WriteCloser
	lines []byte
}

// uncompressed is a file that is not compressed, which stays open.
type uncompressed struct{ io.Writer }

func (uncompressed) Close() error { return nil }

// NewWriter writes to a file.
func NewWriter(file io.Writer, how Compression) (*Writer, error) {
	switch how {
	case None:
		return &Writer{out: uncompressed{file}}, nil
	case Gzip:
		return &Writer{out: fastgzip.NewWriter(file)}, nil
	case Zstd:
		out, err := zstd.NewWriter(file)
		if err != nil {
			return nil, err
		}
		return &Writer{out: out}, nil
	}
	return nil, fmt.Errorf("there is no compression %q: use gzip or zstd", how)
}

// Write writes events.
func (w *Writer) Write(events []eventlog.Raw) error {
	w.lines = w.lines[:0]
	for _, raw := range events {
		var err error
		if w.lines, err = Append(w.lines, raw); err != nil {
			return err
		}
	}
	_, err := w.out.Write(w.lines)
	return err
}

// Flush hands over what was written, also if that is compressed worse.
func (w *Writer) Flush() error {
	if flusher, ok := w.out.(interface{ Flush() error }); ok {
		return flusher.Flush()
	}
	return nil
}

// Close ends what is compressed.
func (w *Writer) Close() error { return w.out.Close() }

// Damage is the first line of a file that is no event, or that does not follow
// those before it.
type Damage struct {
	File string
	Line int // counted from 1, in all that the file has unpacked
	Err  error
}

func (d *Damage) Error() string { return fmt.Sprintf("%s, line %d: %v", d.File, d.Line, d.Err) }

func (d *Damage) Unwrap() error { return d.Err }

// Files are events in files, which are read one after the other as if they were
// one. "-" is standard input, and can be read once.
type Files struct {
	names []string
	stdin io.Reader
	whole bool
}

var _ eventlog.Feed = (*Files)(nil)

// NewFiles is the events in files.
func NewFiles(stdin io.Reader, names ...string) *Files { return &Files{names: names, stdin: stdin} }

// Whole is the same files, of which it is damage if they are not a log from its
// first event on: a revision that does not follow the one before it, an id that was
// there already.
func (f *Files) Whole() *Files { return &Files{f.names, f.stdin, true} }

// Follow implements eventlog.Feed; nothing comes after the end of the last file.
// A *Damage is the last that it yields, after all that is before it. Positions must
// grow, so a file that is given twice, or in the wrong order, is damage, too.
func (f *Files) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for events, err := range f.readAll(ctx) {
			if selected := selectAfter(events, after); len(selected) > 0 && !yield(selected, nil) {
				return
			}
			if err != nil {
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			}
		}
		if ctx.Err() == nil && yield(nil, nil) {
			<-ctx.Done()
		}
	}
}

// readAll yields the events of all files in batches, as far as they follow one another,
// and with the last of them what is wrong after it.
func (f *Files) readAll(ctx context.Context) iter.Seq2[[]numbered, error] {
	return func(yield func([]numbered, error) bool) {
		before := sequence{next: map[event.Stream]event.Revision{}, ids: map[uuid.UUID]struct{}{}}
		for _, name := range f.names {
			for events, err := range f.read(ctx, name) {
				events, wrong := before.addAll(events, name, f.whole)
				if wrong != nil {
					err = wrong
				}
				if !yield(events, err) || err != nil {
					return
				}
			}
		}
	}
}

// sequence is what an event must follow.
type sequence struct {
	last event.Position
	next map[event.Stream]event.Revision
	ids  map[uuid.UUID]struct{}
}

// addAll adds the events of a file up to the first that does not follow, which is
// damage, and returns those before it.
func (s *sequence) addAll(events []numbered, name string, whole bool) ([]numbered, error) {
	for i, e := range events {
		if err := s.add(e.Raw, whole); err != nil {
			return events[:i], &Damage{name, e.line, err}
		}
	}
	return events, nil
}

func (s *sequence) add(raw eventlog.Raw, whole bool) error {
	if raw.Position <= s.last {
		return fmt.Errorf("position %d comes after position %d: %w", raw.Position, s.last, eventlog.ErrOrder)
	}
	s.last = raw.Position
	if !whole {
		return nil
	}
	if next := s.next[raw.Stream]; raw.Revision != next {
		return fmt.Errorf("it is revision %d of %s, and revision %d comes next", raw.Revision, raw.Stream, next)
	}
	if _, there := s.ids[raw.ID]; there {
		return fmt.Errorf("an event with the id %s was there already", raw.ID)
	}
	s.next[raw.Stream], s.ids[raw.ID] = raw.Revision+1, struct{}{}
	return nil
}

// numbered is an event and the line that it is on.
type numbered struct {
	eventlog.Raw
	line int
}

// selectAfter returns the events after a position.
func selectAfter(events []numbered, after event.Position) []eventlog.Raw {
	all := make([]eventlog.Raw, 0, len(events))
	for _, e := range events {
		if e.Position > after {
			all = append(all, e.Raw)
		}
	}
	return all
}

// read yields the events of a file in batches, and with the last of them what is
// wrong after it.
func (f *Files) read(ctx context.Context, name string) iter.Seq2[[]numbered, error] {
	return func(yield func([]numbered, error) bool) {
		in := f.stdin
		if name != "-" {
			file, err := os.Open(name)
			if err != nil {
				yield(nil, err)
				return
			}
			defer func() { _ = file.Close() }() // it was only read
			in = file
		}
		in, done, err := unpack(in)
		if err != nil {
			yield(nil, &Damage{name, 1, err})
			return
		}
		defer done()
		lines := lines{name: name, in: bufio.NewReaderSize(in, 1<<20)}
		for ctx.Err() == nil {
			events, more, err := lines.batch()
			if (len(events) > 0 || err != nil) && !yield(events, err) || err != nil || !more {
				return
			}
		}
	}
}

// lines are the lines of a file.
type lines struct {
	name string
	in   *bufio.Reader
	n    int // that were read
}

// batch is the next events. more is false at the end of the file. With an error,
// which is a *Damage, it has what is before that.
func (l *lines) batch() (events []numbered, more bool, err error) {
	for len(events) < batchSize {
		e, more, err := l.next()
		if err != nil || !more {
			return events, false, err
		}
		events = append(events, e)
	}
	return events, true, nil
}

// next is the next event. more is false where there is none.
func (l *lines) next() (e numbered, more bool, err error) {
	text, err := readLine(l.in)
	ended := errors.Is(err, io.EOF)
	if ended && len(text) == 0 {
		return e, false, nil
	}
	l.n++
	var raw eventlog.Raw
	switch {
	case ended:
		err = errors.New("it has no end: the file was cut off")
	case err == nil:
		raw, err = Parse(text)
	}
	if err != nil {
		return e, true, &Damage{l.name, l.n, err}
	}
	return numbered{raw, l.n}, true, nil
}

// readLine reads a line without its end.
func readLine(lines *bufio.Reader) ([]byte, error) {
	text, err := lines.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := bytes.Clone(text)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) < maxLine {
			text, err = lines.ReadSlice('\n')
			long = append(long, text...)
		}
		if text = long; len(text) >= maxLine {
			return nil, fmt.Errorf("it has more than %d bytes", maxLine)
		}
	}
	return bytes.TrimSuffix(text, []byte("\n")), err
}

// unpack reads a file whatever it is compressed with: the first bytes say that, not
// the name.
func unpack(file io.Reader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(file, 256<<10)
	magic, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		out, err := fastgzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return trueEnd{out}, func() { _ = out.Close() }, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		out, err := zstd.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return trueEnd{out}, out.Close, nil
	}
	return in, func() {}, nil
}

// trueEnd says io.EOF only where what is compressed ends as it should.
type trueEnd struct{ io.Reader }

func (t trueEnd) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the file was cut off")
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, zstd.ErrCRCMismatch):
		err = errors.New("what it is compressed from was something else: the file is damaged")
	}
	return n, err
}
