package snapshots

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"commissaire/domain/event"
)

// rig is a directory of snapshots and what is said of it.
type rig struct {
	t   *testing.T
	dir string
	now time.Time
	log bytes.Buffer
}

func newRig(t *testing.T) *rig {
	return &rig{t: t, dir: filepath.Join(t.TempDir(), "snapshots"), now: time.Now()}
}

func (r *rig) open(build string) *Store {
	r.t.Helper()
	return Open(r.dir, Config{Build: build, MaxAge: time.Hour, MaxSize: 1 << 20, Now: func() time.Time { return r.now }}, slog.New(slog.NewTextHandler(&r.log, nil)))
}

var id = uuid.MustParse("00000000-0000-4000-8000-000000000001")

func (r *rig) save(s *Store, pos event.Position, text string) {
	r.t.Helper()
	err := s.Save(pos, id, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// loaded is the text of the snapshot that is loaded; "" where there is none.
func (r *rig) loaded(s *Store) string {
	r.t.Helper()
	var text string
	info, ok, err := s.Load(func(cut Cut, in io.Reader) error {
		got, err := io.ReadAll(in)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBad, err)
		}
		if cut.ID != id {
			r.t.Errorf("it is of the event %s", cut.ID)
		}
		text = fmt.Sprint(cut.Position, " ", string(got))
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if !ok {
		return ""
	}
	if !strings.HasPrefix(text, fmt.Sprint(info.Position, " ")) {
		r.t.Errorf("it says that it loaded position %d", info.Position)
	}
	return text
}

func (r *rig) files() []string {
	r.t.Helper()
	all, err := filepath.Glob(filepath.Join(r.dir, "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func TestTheLatestIsLoaded(t *testing.T) {
	r := newRig(t)
	s := r.open("a")
	if got := r.loaded(s); got != "" {
		t.Errorf("of nothing %q is loaded", got)
	}
	r.save(s, 9, "nine\n")
	r.save(s, 10, "ten\n")
	if got := r.loaded(r.open("a")); got != "10 ten\n" {
		t.Errorf("%q is loaded", got)
	}
	for _, path := range r.files() {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestWhatIsOfNoUseIsThrownAwayAndSaidSo(t *testing.T) {
	for name, spoil := range map[string]func(string){
		"a byte is another": func(path string) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)/2] ^= 1
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"its end is missing": func(path string) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, info.Size()-1); err != nil {
				t.Fatal(err)
			}
		},
		"it is empty": func(path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
		"it is of another position": func(path string) {
			if err := os.Rename(path, strings.Replace(path, "10.snap", "11.snap", 1)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s := r.open("a")
			r.save(s, 9, "nine")
			r.save(s, 10, strings.Repeat("ten ", 1000))
			spoil(r.files()[1])
			if got := r.loaded(s); got != "9 nine" {
				t.Errorf("%q is loaded", got)
			}
			if len(r.files()) != 1 || !strings.Contains(r.log.String(), "thrown away") {
				t.Errorf("there are %v; it says %s", r.files(), r.log.String())
			}
		})
	}
	t.Run("another build made it", func(t *testing.T) {
		r := newRig(t)
		r.save(r.open("a"), 9, "nine")
		if got := r.loaded(r.open("b")); got != "" || len(r.files()) != 0 || !strings.Contains(r.log.String(), "another build") {
			t.Errorf("%q is loaded; it says %s", got, r.log.String())
		}
	})
}

func TestWhatCannotBeJudgedIsKept(t *testing.T) {
	r := newRig(t)
	s := r.open("a")
	r.save(s, 9, "nine")
	away := errors.New("the store is away")
	if _, _, err := s.Load(func(Cut, io.Reader) error { return away }); !errors.Is(err, away) {
		t.Errorf("it says %v", err)
	}
	if got := r.loaded(s); got != "9 nine" {
		t.Errorf("%q is loaded", got)
	}
}

// TestWhatCannotBeReadStopsNoStart has another program remove a snapshot in the
// middle, and another user make one: a service that starts does without.
func TestWhatCannotBeReadStopsNoStart(t *testing.T) {
	r := newRig(t)
	s := r.open("a")
	r.save(s, 8, "eight")
	r.save(s, 9, "nine")
	r.save(s, 10, "ten")
	taken := func(_ Cut, in io.Reader) error {
		_, err := io.Copy(io.Discard, in)
		return err
	}
	info, ok, err := s.Load(func(cut Cut, in io.Reader) error {
		if cut.Position == 10 {
			return errors.Join(ErrBad, os.Remove(r.files()[1])) // that of 9
		}
		return taken(cut, in)
	})
	if err != nil || !ok || info.Position != 8 {
		t.Errorf("one vanished: %v, %v, %v", info.Position, ok, err)
	}
	r.save(s, 9, "nine")
	user := os.Geteuid()
	if user == 0 {
		user = 12345
		for _, path := range []string{filepath.Dir(filepath.Dir(r.dir)), filepath.Dir(r.dir), r.dir} {
			if err := os.Chown(path, user, -1); err != nil {
				t.Fatal(err)
			}
		}
	}
	shut := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	load := func() (info Info, ok bool, err error) {
		asUser(t, user, func() { info, ok, err = s.Load(taken) })
		return info, ok, err
	}
	shut(r.files()[0], 0)
	shut(r.files()[1], 0)
	shut(r.dir, 0o500)
	if _, ok, err := load(); ok || err != nil || len(r.files()) != 2 {
		t.Errorf("others' and in a directory that cannot be written: %v, %v", ok, err)
	}
	shut(r.dir, 0)
	if _, ok, err := load(); ok || err != nil {
		t.Errorf("in a directory that cannot be read: %v, %v", ok, err)
	}
	shut(r.dir, 0o700)
	if _, ok, err := load(); ok || err != nil || len(r.files()) != 0 {
		t.Errorf("others': %v, %v, and %v are left", ok, err, r.files())
	}
}

func TestOldOnesAreDropped(t *testing.T) {
	r := newRig(t)
	s := r.open("a")
	r.save(s, 1, "old")
	r.now = r.now.Add(2 * time.Hour)
	r.save(s, 2, "new")
	if files := r.files(); len(files) != 1 || !strings.Contains(files[0], "2.snapshot") {
		t.Errorf("there are %v", files)
	}
	r.now = time.Now()
	s.config.MaxSize = 1
	r.save(s, 3, "newer")
	if files := r.files(); len(files) != 1 || !strings.Contains(files[0], "3.snapshot") {
		t.Errorf("there are %v", files)
	}
}

func TestWhatIsNotWrittenWholeIsNotThere(t *testing.T) {
	r := newRig(t)
	s := r.open("a")
	broken := errors.New("broken")
	if err := s.Save(1, id, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("it says %v", err)
	}
	if files := r.files(); len(files) != 0 {
		t.Errorf("there are %v", files)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "00000000000000000007.snapshot.123"+unfinished), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, files := r.loaded(r.open("a")), r.files(); len(files) != 0 || got != "" {
		t.Errorf("after an interruption there are %v, and %q is loaded", files, got)
	}
}

func TestWhatAnotherProgramIsWritingIsNoLeftover(t *testing.T) {
	r := newRig(t)
	s, starting := r.open("a"), r.open("a")
	err := s.Save(1, id, func(w io.Writer) error {
		r.loaded(starting)
		_, err := io.WriteString(w, "one")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.loaded(starting); got != "1 one" {
		t.Errorf("%q is loaded", got)
	}
}

// asUser does something as another user, who has nothing that root may do.
func asUser(t *testing.T, id int, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(id); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setfsuid(os.Geteuid()); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}
