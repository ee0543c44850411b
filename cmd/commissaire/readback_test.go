package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/api"
	"commissaire/api/authentication"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
)

// anyJSON is what JSON may have in it, as somebody may write it: mostly valid.
func anyJSON(t *rapid.T, depth int) string {
	atom := rapid.SampledFrom([]string{
		"null", "true", "0", "-0", "-0.0", "0.10", "1e400", "-1E+400", "1e-400", "5e-324", "123456789012345678901234567890", "0.1000000000000000055511151231257827",
		"18446744073709551616", "[]", "{}", `""`,
	})
	if depth == 0 {
		return rapid.OneOf(atom, rapid.Custom(quoted)).Draw(t, "atom")
	}
	switch rapid.IntRange(0, 5).Draw(t, "value") {
	case 0:
		return atom.Draw(t, "atom")
	case 1:
		return quoted(t)
	case 2: // deep, and nothing beside it
		n := rapid.IntRange(1, 34).Draw(t, "levels")
		return strings.Repeat(`{"a":[`, n/2) + anyJSON(t, 0) + strings.Repeat(`]}`, n/2)
	case 3:
		parts := make([]string, rapid.IntRange(0, 3).Draw(t, "length"))
		for i := range parts {
			parts[i] = anyJSON(t, depth-1)
		}
		return "[" + strings.Join(parts, rapid.SampledFrom([]string{",", " , ", ",\n\t"}).Draw(t, "comma")) + "]"
	}
	return anyObject(t, depth)
}

func anyObject(t *rapid.T, depth int) string {
	var parts []string
	for range rapid.IntRange(0, 4).Draw(t, "members") {
		parts = append(parts, quoted(t)+":"+anyJSON(t, depth-1))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// quoted is a string: of letters that need no escape, of some that may have one, of
// halves of letters and of bytes that are none.
func quoted(t *rapid.T) string {
	usual := rapid.SampledFrom([]string{
		"a", "b", "c", "d", "A", "<", ">", "&", "'", "é", "€", "😀", "\u2028", "\ufffd", "\uffff", "\u0301", "\u200f", "\x7f", " ", "K", "\u212a", "ß",
		`\n`, `\t`, `\"`, `\\`, `\/`, `\b`, `\u0000`, `\u001b`, `\u0061`, `\u2029`, `\ud83d\ude00`, `\uD83D\uDE00`, `\uffff`, `\u003c`,
	})
	wrong := rapid.SampledFrom([]string{`\ud800`, `\udc00`, `\ude00\ud83d`, "\xff", "\xed\xa0\x80", "\xc0\x80", "\n", "\x00", `\x`, `\u12`})
	var b strings.Builder
	for range rapid.IntRange(0, 6).Draw(t, "letters") {
		if rapid.IntRange(0, 200).Draw(t, "wrong") == 0 {
			b.WriteString(wrong.Draw(t, "letter"))
			continue
		}
		b.WriteString(usual.Draw(t, "letter"))
	}
	return `"` + b.String() + `"`
}

type everybody struct{}

func (everybody) Authenticate(*http.Request) (authentication.Identity, error) {
	return authentication.Identity{Name: "ann", Roles: []authentication.Role{authentication.Admin}}, nil
}

// recorder is a service over a store, whose views have what was recorded.
type recorder struct {
	*eventlog.Log
	views  *projections.Views
	server *api.Server
}

func newRecorder(t *testing.T, store eventlog.Store, views *projections.Views) *recorder {
	t.Helper()
	secrets, err := credentials.Open(t.Context(), "", make([]byte, 32), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = secrets.Close() })
	s := &recorder{Log: eventlog.NewLog(store), views: views}
	s.server = api.New(api.Config{
		Commands: commands.New(commands.Config{
			Log: s, Credentials: secrets, TokenDigest: secrets.Digest, Shared: true,
			KeyFingerprint: func([]byte) (string, error) { return "SHA256:k", nil },
			Certificate:    func(text, _ string, _ time.Time) (string, error) { return text, nil },
			Denied:         func(domain.Address) error { return nil }, Now: time.Now, NewID: uuid.New,
		}),
		Views: s.views, Follow: s.Read, Authenticator: everybody{}, Metrics: prometheus.NewRegistry(),
		Ready: func(context.Context) error { return nil }, Now: time.Now, NewID: uuid.NewString, Logger: slog.New(slog.DiscardHandler),
	})
	s.follow(t)
	return s
}

// Append implements commands.Log.
func (s *recorder) Append(ctx context.Context, stream event.Stream, expected event.Revision, events []event.Decided) (event.Position, error) {
	pos, err := s.Log.Append(ctx, stream, expected, events)
	if err == nil {
		err = s.apply(ctx)
	}
	return pos, err
}

func (s *recorder) apply(ctx context.Context) error {
	for batch, err := range eventlog.UpToHead(ctx, s.Read(ctx, s.views.Snapshot().Position)) {
		if err != nil {
			return err
		}
		for _, r := range batch {
			s.views.Apply(r)
		}
	}
	return nil
}

func (s *recorder) follow(t *testing.T) {
	t.Helper()
	if err := s.apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *recorder) do(ctx context.Context, method, path, body string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, "/api/v0"+path, strings.NewReader(body))
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	s.server.ServeHTTP(w, r)
	return w
}

// sameJSON tells whether two texts say the same, to the last digit.
func sameJSON(a, b string) bool {
	var values [2]any
	for i, text := range []string{a, b} {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if decoder.Decode(&values[i]) != nil {
			return false
		}
	}
	return reflect.DeepEqual(values[0], values[1])
}

// TestWhatIsTakenFromClientsCanBeReadBack sends all sorts of bodies. What is not
// refused is what is served, and stays so when views are read from a snapshot or
// folded again, when events are exported, imported and replayed; and all of that is
// verified.
func TestWhatIsTakenFromClientsCanBeReadBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	store, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	s, n, taken, refused := newRecorder(t, store, projections.New()), 0, 0, 0
	served := map[string]string{} // by path
	key := base64.StdEncoding.EncodeToString([]byte("key"))
	rapid.Check(t, func(r *rapid.T) {
		n++
		options := anyObject(r, 3)
		reason := []string{strings.Trim(quoted(r), `"`)}
		header := http.Header{"X-Commissaire-Reason": reason, "X-Request-Id": reason, "Idempotency-Key": reason}
		for _, path := range []string{"network/n", "containermanager/m", "host/h", "cluster/c"} {
			path := fmt.Sprint("/", path, n)
			body := map[string]string{
				"n": `{"options":` + options + `,"more":` + anyJSON(r, 3) + `}`,
				"c": `{"type":"trivial","options":{"server_url":` + quoted(r) + `,"token":` + quoted(r) + `}}`,
				"h": `{"ssh_priv_key":"` + key + `","ssh_certificate":` + quoted(r) + `,"cluster":"","source":` + anyJSON(r, 2) + `}`,
			}[path[1:2]]
			if strings.HasPrefix(path, "/cluster") {
				body = `{"network":` + quoted(r) + `,"type":` + anyJSON(r, 2) + `}`
			}
			w := s.do(t.Context(), http.MethodPut, path, body, header)
			switch w.Code {
			case http.StatusCreated:
				taken++
				got := s.do(t.Context(), http.MethodGet, path, "", nil)
				served[path] = got.Body.String()
				var definition struct{ Options json.RawMessage }
				if got.Code != 200 || strings.HasPrefix(path, "/network") && (json.Unmarshal(got.Body.Bytes(), &definition) != nil || !sameJSON(string(definition.Options), options)) {
					r.Fatalf("%s: %d %s; sent was %s", path, got.Code, got.Body, body)
				}
			case http.StatusBadRequest:
				refused++
			default:
				r.Fatalf("PUT %s %q: %d %s", path, body, w.Code, w.Body)
			}
		}
		path := fmt.Sprint("/cluster/c", n, "/upgrade")
		if w := s.do(t.Context(), http.MethodPut, path, `{"health":{"command":`+quoted(r)+`,"timeout":5},"window":{"from":"01:00","to":`+quoted(r)+`,"zone":"UTC"}}`, header); w.Code >= 500 {
			r.Fatalf("%d %s", w.Code, w.Body)
		}
		if w := s.do(t.Context(), http.MethodPut, path, `{"health":{"command":`+quoted(r)+`,"timeout":5}}`, header); w.Code == http.StatusCreated {
			served[path] = s.do(t.Context(), http.MethodGet, path, "", nil).Body.String()
			location := strings.TrimPrefix(w.Header().Get("Location"), "/api/v0")
			served[location] = s.do(t.Context(), http.MethodGet, location, "", nil).Body.String()
		} else if w.Code >= 500 {
			r.Fatalf("%d %s", w.Code, w.Body)
		}
	})
	if taken < 50 || refused < 20 {
		t.Fatalf("%d were taken and %d refused: that tells little", taken, refused)
	}

	same := func(where string, s *recorder) {
		t.Helper()
		for path, want := range served {
			if w := s.do(t.Context(), http.MethodGet, path, "", nil); w.Body.String() != want {
				t.Errorf("%s: GET %s: %s, and it was %s", where, path, w.Body, want)
			}
		}
	}
	var snapshot bytes.Buffer
	if err := s.views.Snapshot().Write(&snapshot); err != nil {
		t.Fatal(err)
	}
	read, err := projections.ReadViews(&snapshot)
	if err != nil {
		t.Fatal(err)
	}
	same("from a snapshot", newRecorder(t, store, read))
	same("folded again", newRecorder(t, store, projections.New()))

	file, other := filepath.Join(t.TempDir(), "events.ndjson"), filepath.Join(t.TempDir(), "other")
	must(t, "export", "--store", "sqlite:"+dir, file)
	must(t, "import", "--store", "sqlite:"+other, file)
	equal(t, contents(t, other), contents(t, dir))
	paths := slices.Sorted(maps.Keys(served))
	for _, from := range []string{"--store=sqlite:" + dir, "--store=sqlite:" + other, "--file=" + file} {
		if _, clean, report := findings(t, from); !clean {
			t.Errorf("verify %s: %v", from, report.Findings)
		}
		out, said, err := replayed(t, "", append(paths, from)...)
		lines := strings.Split(out, "\n")
		if err != nil || len(lines) != len(paths)+1 {
			t.Fatalf("replay %s: %v %s", from, err, said)
		}
		for i, path := range paths {
			if want := served[path]; !strings.HasSuffix(lines[i], `"answer":`+strings.TrimSpace(want)+"}") {
				t.Errorf("replay %s %s: %s, and it was %s", from, path, lines[i], want)
			}
		}
	}
	imported, err := sqlite.Open(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = imported.Close() }()
	again := newRecorder(t, imported, projections.New())
	same("imported", again)
	if w := again.do(t.Context(), http.MethodPut, "/cluster/last", "", nil); w.Code != http.StatusCreated { // decided on all of it
		t.Errorf("after the import: %d %s", w.Code, w.Body)
	}
}
