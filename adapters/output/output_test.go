package output

import (
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"commissaire/commands/process"
	"commissaire/domain"
)

const (
	operation = domain.OperationID("op")
	host      = domain.HostID("host")
	header    = "== 2026-11-25T09:00:00Z dnf -y upgrade\n"
)

var noon = time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, limit int64) *Store {
	t.Helper()
	s, err := Open(dir, Config{Limit: limit, MaxAge: time.Hour, MaxSize: 1 << 30, Now: func() time.Time { return noon }}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func begin(t *testing.T, s *Store, work string) process.Output {
	t.Helper()
	w := s.Begin(operation, host, work, "dnf -y upgrade")
	if w == nil {
		t.Fatal("nothing can be kept")
	}
	return w
}

// all is the whole text.
func (r *Reader) all(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for {
		text, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if len(text) == 0 {
			return all.String()
		}
		all.Write(text)
	}
}

func read(t *testing.T, s *Store) string {
	t.Helper()
	r := s.Read(operation, host)
	defer r.Close()
	return r.all(t)
}

func wantedFrom(w process.Output) int64 {
	from, _, _ := w.Wanted()
	return from
}

func TestWhatWasPrintedIsKeptAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<20)
	w := begin(t, s, "a")
	w.Write(0, []byte("one\ntw"))
	w.Write(0, []byte("one\ntw")) // again
	w.Write(4, []byte("two\nth")) // the beginning again
	w.Close(false)

	s = open(t, dir, 1<<20)
	if w = begin(t, s, "a"); wantedFrom(w) != 10 {
		t.Fatalf("reading goes on at %d", wantedFrom(w))
	}
	w.Write(10, []byte("ree"))
	w.Close(true)
	w.Write(13, []byte("late"))
	if w = begin(t, s, "b"); wantedFrom(w) != 0 {
		t.Errorf("reading of another piece of work begins at %d", wantedFrom(w))
	}
	w.Write(0, []byte("four\n"))
	w.Close(true)
	if got, want := read(t, s), header+"one\ntwo\nthree\n"+header+"four\n"; got != want {
		t.Errorf("kept %q\nwant %q", got, want)
	}
	if got, err := s.Last(operation, host, 2, 100); err != nil || got != "two\nthreefour" {
		t.Errorf("the last lines: %q, %v", got, err)
	}
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		info, _ := e.Info()
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
		return nil
	})
}

func TestHostileTextIsMadeHarmless(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":             "plain\ttext\n",
		"€ and ü stay \U0001F600\n": "€ and ü stay \U0001F600\n",
		"\x1b[2J\x1b]0;owned\x07":   "?[2J?]0;owned?",
		"\x00\x7f":                  "??",
		"\u202etxt.exe\u0085":       "???txt.exe??",
		"\xff\xfe\xe2\x82":          "????",
		"a\r\nb\rc\r":               "a \nb\nc\n",
	} {
		for chunk := 1; chunk <= len(in); chunk++ {
			s := open(t, t.TempDir(), 1<<20)
			w := begin(t, s, "a")
			for i := 0; i < len(in); i += chunk {
				w.Write(int64(i), []byte(in[i:min(i+chunk, len(in))]))
			}
			w.Close(true)
			got := strings.TrimPrefix(read(t, s), header)
			if got != want || len(got) != len(in) {
				t.Errorf("%q, %d bytes at a time: kept %q, want %q", in, chunk, got, want)
			}
		}
	}
}

// TestReadingGoesOnWhereItStopped stops at any byte, also in the middle of what
// is one character, and of a write.
func TestReadingGoesOnWhereItStopped(t *testing.T) {
	text := "ä€\U0001F600\r\n\xffü\n"
	for stop := range len(text) {
		for torn := range 4 {
			dir := t.TempDir()
			s := open(t, dir, 1<<20)
			w := begin(t, s, "a")
			w.Write(0, []byte(text[:stop]))
			piece := filepath.Join(dir, string(operation), string(host), pieceName(0))
			if info, err := os.Stat(piece); err == nil && torn > 0 {
				if err := os.Truncate(piece, max(0, info.Size()-int64(torn))); err != nil {
					t.Fatal(err)
				}
			}
			s = open(t, dir, 1<<20)
			w = begin(t, s, "a")
			w.Write(wantedFrom(w), []byte(text[wantedFrom(w):]))
			w.Close(true)
			if got, want := read(t, s), header+"ä€\U0001F600 \n?ü\n"; got != want {
				t.Errorf("stopped at %d, less %d: kept %q", stop, torn, got)
			}
		}
	}
}

// TestAPowerCutTakesTheEndOfWhatWasBefore cuts a file shorter than where the next
// piece of work begins: what was written is not synced, and the names are there
// before it.
func TestAPowerCutTakesTheEndOfWhatWasBefore(t *testing.T) {
	for _, left := range []int64{0, 4} {
		for _, again := range []string{"b", "c"} {
			dir := t.TempDir()
			s := open(t, dir, 1<<20)
			w := begin(t, s, "a")
			w.Write(0, []byte("one\ntwo\n"))
			w.Close(true)
			begin(t, s, "b").Close(false)
			if err := os.Truncate(filepath.Join(dir, string(operation), string(host), pieceName(0)), left); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, 1<<20)
			w = begin(t, s, again)
			w.Write(wantedFrom(w), []byte("three\n"))
			w.Write(wantedFrom(w), []byte("four\n"))
			w.Close(true)
			want := header + "one\ntwo\n"[:left] + fmt.Sprintf("[... %d bytes are left out here ...]\n", 8-left) + header
			if again == "c" {
				want += header
			}
			if got := read(t, s); got != want+"three\nfour\n" {
				t.Errorf("%d bytes were left: kept %q\nwant %q", left, got, want+"three\nfour\n")
			}
		}
	}
}

func TestOfMuchTheBeginningAndTheEndAreKept(t *testing.T) {
	const limit = 4096
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{limit / 2, limit, limit + 1, 3 * limit, 50 * limit} {
		for _, restarts := range []bool{false, true} {
			var all strings.Builder
			for all.Len() < size {
				fmt.Fprintf(&all, "%d €\n", all.Len())
			}
			text := all.String()
			dir := t.TempDir()
			s := open(t, dir, limit)
			w := begin(t, s, "a")
			for i := 0; i < len(text); {
				next := min(i+1+random.IntN(limit), len(text))
				w.Write(int64(i), []byte(text[i:next]))
				i = next
				if restarts {
					w.Close(false)
					w = begin(t, open(t, dir, limit), "a")
					i = int(wantedFrom(w))
				}
			}
			w.Close(true)
			kept := 0
			files, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*"))
			for _, name := range files {
				if !strings.Contains(filepath.Base(name), ".") {
					info, _ := os.Stat(name)
					kept += int(info.Size())
				}
			}
			got := strings.TrimPrefix(read(t, s), header)
			before, after, left := strings.Cut(got, "[... ")
			note, after, _ := strings.Cut(after, " bytes are left out here ...]\n")
			switch {
			case !left:
				if size > limit || got != text {
					t.Errorf("%d bytes: kept %d, and nothing is said to be left out", len(text), len(got))
				}
			case kept > limit || !strings.HasPrefix(text, strings.TrimSuffix(before, "\n")) || !strings.HasSuffix(text, after) || len(before) < limit/2-8 || len(after) < limit/4-8,
				note != fmt.Sprint(len(text)-kept), strings.Contains(after, "left out"):
				t.Errorf("%d bytes, restarts %v: %d kept, of the beginning %d, of the end %d, %q left out", len(text), restarts, kept, len(before), len(after), note)
			}
		}
	}
}

func TestLessIsKeptThanBefore(t *testing.T) {
	dir := t.TempDir()
	w := begin(t, open(t, dir, 64<<10), "a")
	w.Write(0, []byte(strings.Repeat("x", 20<<10)))
	w.Close(false)

	s := open(t, dir, 4<<10)
	w = begin(t, s, "a")
	w.Write(20<<10, []byte(strings.Repeat("y", 5<<10)))
	w.Close(true)
	got := read(t, s)
	if !strings.HasPrefix(got, header+strings.Repeat("x", 20<<10)) || !strings.HasSuffix(got, "y") || len(got) > 20<<10+2<<10+200 {
		t.Errorf("kept are %d bytes", len(got))
	}
}

func TestWhatTheHostLeavesOutIsSaid(t *testing.T) {
	s := open(t, t.TempDir(), 4096)
	w := begin(t, s, "a")
	from, head, tail := w.Wanted()
	if from != 0 || head != 2048 || tail != 2048 {
		t.Fatalf("wanted from %d: %d and %d", from, head, tail)
	}
	w.Write(0, []byte(strings.Repeat("a", 2048)))
	w.Write(2048, []byte(strings.Repeat("b", 100)))
	w.Write(1_000_000, []byte("the end \xe2\x82"))
	w.Write(1_000_010, []byte("\xac.\n"))
	w.Close(true)
	w = begin(t, s, "b")
	if from, head, _ := w.Wanted(); from != 0 || head != 0 {
		t.Errorf("of what comes next %d bytes are wanted from %d", head, from)
	}
	w.Write(0, []byte("more\n"))
	w.Write(1<<62, []byte("a lie"))
	w.Close(true)
	want := header + strings.Repeat("a", 2048) + "\n[... 997952 bytes are left out here ...]\nthe end €.\n" + header + "more\n"
	if got := read(t, s); got != want {
		t.Errorf("kept %q", got)
	}
	if got, err := s.Last(operation, host, 10, 1024); err != nil || got != "the end €.\nmore" {
		t.Errorf("the last lines: %q, %v", got, err)
	}
}

func TestTheLastLinesAreBounded(t *testing.T) {
	s := open(t, t.TempDir(), 4096)
	if got, err := s.Last(operation, host, 10, 1024); err != nil || got != "" {
		t.Errorf("of nothing: %q, %v", got, err)
	}
	w := begin(t, s, "a")
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	w.Write(0, []byte(text.String()))
	if got, err := s.Last(operation, host, 3, 1024); err != nil || got != "line 997\nline 998\nline 999" {
		t.Errorf("%q, %v", got, err)
	}
	w.Write(int64(text.Len()), []byte(strings.Repeat("ü", 2000)))
	if got, err := s.Last(operation, host, 3, 1023); err != nil || len(got) > 1023 || !utf8.ValidString(got) || strings.Trim(got, "ü") != "" {
		t.Errorf("of a long line: %d bytes, %v", len(got), err)
	}
}

func TestAReaderIsToldOfMore(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	r := s.Read(operation, host)
	if printed, err := r.Printed(); printed || err != nil {
		t.Errorf("before anything is printed: %v, %v", printed, err)
	}
	if got := r.all(t); got != "" {
		t.Errorf("before anything is there: %q", got)
	}
	more := r.Changed()
	w := begin(t, s, "a")
	<-more
	if got := r.all(t); got != header {
		t.Errorf("read %q", got)
	}
	if printed, err := r.Printed(); printed || err != nil {
		t.Errorf("with a heading only: %v, %v", printed, err)
	}
	for i, part := range []string{"one\n", "tw", "o\n"} {
		more = r.Changed()
		w.Write(wantedFrom(w), []byte(part))
		<-more
		if got := r.all(t); got != part {
			t.Errorf("part %d: %q", i, got)
		}
	}
	r.Close()
	if len(s.watches) > 0 {
		t.Error("a text is still watched")
	}
}

// TestAReaderSeesAllWhileItIsWritten reads while another writes more than is kept.
func TestAReaderSeesAllWhileItIsWritten(t *testing.T) {
	s := open(t, t.TempDir(), 4096)
	w := begin(t, s, "a")
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range 3000 {
			w.Write(wantedFrom(w), fmt.Appendf(nil, "€ %05d\n", i))
		}
		w.Close(true)
	}()
	r := s.Read(operation, host)
	defer r.Close()
	var got strings.Builder
	for ended := false; !ended; {
		more := r.Changed()
		select {
		case <-written:
			ended = true
		default:
		}
		text := r.all(t)
		got.WriteString(text)
		if text == "" && !ended {
			select {
			case <-more:
			case <-written:
			}
		}
	}
	last := ""
	for line := range strings.Lines(got.String()) {
		if strings.HasPrefix(line, "€ ") && len(line) == len("€ 00000\n") {
			if line <= last {
				t.Fatalf("%q comes after %q", line, last)
			}
			last = line
		}
	}
	if last != "€ 02999\n" || !utf8.ValidString(got.String()) || strings.ContainsFunc(got.String(), func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }) {
		t.Errorf("the last line is %q", last)
	}
}

func TestOldOutputIsRemovedAndThatOfARunningOperationNever(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<20)
	for i, name := range []string{"old-running", "old", "b", "c", "d-running", "e"} {
		w := s.Begin(domain.OperationID(name), host, "a", "true")
		w.Write(0, []byte(strings.Repeat("x", 1000)))
		w.Close(true)
		age := time.Duration(50-i) * time.Minute
		if strings.HasPrefix(name, "old") {
			age = 2 * time.Hour
		}
		filepath.WalkDir(filepath.Join(dir, name), func(path string, _ fs.DirEntry, _ error) error {
			return os.Chtimes(path, noon.Add(-age), noon.Add(-age))
		})
	}
	left := func() (names []string) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	running := func(id domain.OperationID) bool { return strings.HasSuffix(string(id), "running") }
	if err := s.Sweep(running); err != nil {
		t.Fatal(err)
	}
	if got, want := left(), []string{"b", "c", "d-running", "e", "old-running"}; !slices.Equal(got, want) {
		t.Errorf("by age: left %v", got)
	}
	s.config.MaxSize = 3500
	if err := s.Sweep(running); err != nil {
		t.Fatal(err)
	}
	if got, want := left(), []string{"d-running", "e", "old-running"}; !slices.Equal(got, want) {
		t.Errorf("by size: left %v", got)
	}
	s.config.MaxSize = 0
	if err := s.Sweep(running); err != nil {
		t.Fatal(err)
	}
	if got, want := left(), []string{"d-running", "old-running"}; !slices.Equal(got, want) {
		t.Errorf("of nothing: left %v", got)
	}
	r := s.Read("e", host)
	defer r.Close()
	if got := r.all(t); got != "" {
		t.Errorf("of what was removed: %q", got)
	}
}

func TestADiskThatIsFullDoesNotStopTheWork(t *testing.T) {
	dir := t.TempDir()
	var log strings.Builder
	s, err := Open(dir, Config{Limit: 4096, Now: time.Now}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, string(operation)), nil, 0o600); err != nil { // where a directory should be
		t.Fatal(err)
	}
	if w := s.Begin(operation, host, "a", "true"); w != nil {
		t.Error("it can be kept in a file")
	}
	w := s.Begin("other", host, "a", "true")
	if err := os.RemoveAll(filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	w.Write(0, []byte("text"))
	w.Write(4, []byte("text"))
	w.Close(true)
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors were reported: %s", n, log.String())
	}
}
