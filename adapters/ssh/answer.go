package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// maxAnswer bounds what is read of a host for one request, in bytes: noise of
// its login shell, and rpm-ostree's status, the longest of all sections.
const maxAnswer = 4 << 20

var errTooLong = fmt.Errorf("it printed more than %d bytes where an answer was expected: see what its user's shell prints at login", maxAnswer)

// answer is what the script printed, by section.
type answer map[string]string

// noAnswer says that an answer did not come, or not in full.
type noAnswer struct {
	began bool
	said  string // words of what came in its place; "" where it began
	err   error
}

func (e *noAnswer) Error() string { return e.err.Error() }
func (e *noAnswer) Unwrap() error { return e.err }

// readAnswer reads up to the end of the answer that marker frames, and drops what
// was read with it. It fails with *noAnswer: of io.ErrUnexpectedEOF where the end
// is missing; and with errTooLong where it does not come. What a command prints is
// given to printed, and what it waits for to waiting, unless they are nil, as it
// comes, and is not part of the answer; the text is that of the buffer.
func readAnswer(r io.Reader, marker string, printed func(from int64, text []byte), waiting func(why string)) (answer, error) {
	buffer := buffers.Get().(*[]byte)
	text := (*buffer)[:0]
	defer func() {
		if cap(text) <= mostBuffered {
			*buffer = text
			buffers.Put(buffer)
		}
	}()
	end := "\n" + marker + " end\n"
	for {
		text = slices.Grow(text, 512)
		n, err := r.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if printed != nil || waiting != nil {
			text = handOver(text, marker, printed, waiting)
		}
		fresh := max(0, len(text)-n-len(end))
		if i := bytes.Index(text[fresh:], []byte(end)); i >= 0 {
			return sections(string(text[:fresh+i]), marker)
		}
		switch {
		case len(text) > maxAnswer:
			return nil, errTooLong
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			if bytes.Contains(text, []byte("\n"+marker+" begin\n")) {
				return nil, &noAnswer{began: true, err: err}
			}
			return nil, &noAnswer{said: words(string(text[max(0, len(text)-mostBuffered):])), err: err}
		}
	}
}

// handOver gives the sections that tell what a command printed and what it waits
// for, as far as they are whole, to printed and waiting, unless those are nil, and
// returns text without them.
func handOver(text []byte, marker string, printed func(from int64, text []byte), waiting func(why string)) []byte {
	heading := []byte("\n" + marker + " ")
	for i := 0; ; {
		begin := bytes.Index(text[i:], heading)
		if begin < 0 {
			return text
		}
		begin += i
		name, body, _ := bytes.Cut(text[begin+len(heading):], []byte("\n"))
		size := bytes.Index(body, heading)
		if size < 0 {
			// The next heading may begin with the line break that ends this one.
			return text
		}
		next := len(text) - len(body) + size
		offset, told := bytes.CutPrefix(name, []byte("output "))
		switch {
		case told && printed != nil:
			if from, err := strconv.ParseInt(string(offset), 10, 64); err == nil {
				printed(from, body[:size])
			}
		case string(name) == "waiting" && waiting != nil:
			waiting(line(string(body[:size]), maxReason))
		}
		switch {
		case told, string(name) == "running", string(name) == "waiting":
			text = slices.Delete(text, begin, next)
			i = begin
		default:
			i = next
		}
	}
}

// buffers are for answers, which are mostly short and one after the other.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

const mostBuffered = 64 << 10 // bytes of a buffer that is used again

var errNoBeginning = errors.New("its answer has an end and no beginning")

func sections(text, marker string) (answer, error) {
	_, text, found := strings.Cut(text, "\n"+marker+" begin\n")
	if !found {
		return nil, errNoBeginning
	}
	said := answer{}
	for part := range strings.SplitSeq(text, "\n"+marker+" ") {
		if name, body, ok := strings.Cut(part, "\n"); ok {
			said[name] = body
		}
	}
	return said, nil
}

// line is the first line of text from a host, fit to be stored: valid UTF-8,
// printable, at most limit bytes.
func line(text string, limit int) string {
	first, _, _ := strings.Cut(strings.TrimSpace(clip(text, 4*limit)), "\n")
	return clip(printable(first), limit)
}

func printable(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(text, "\uFFFD")))
}

// clip cuts text to at most limit bytes, between runes.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
