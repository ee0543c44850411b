package authentication_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"commissaire/api/authentication"

	"golang.org/x/crypto/bcrypt"
)

// clock is moved by hand.
type clock struct{ nanoseconds atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_700_000_000, c.nanoseconds.Load()) }
func (c *clock) advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }

func hash(t testing.TB, password string, cost int) string {
	t.Helper()
	out, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// withUser is a plugin with the user a, whose password is "secret".
func withUser(t testing.TB, cost int) (*authentication.HTTPBasicAuth, *clock) {
	t.Helper()
	c := &clock{}
	b, err := authentication.NewHTTPBasicAuth("", map[string]authentication.User{
		"a": {Hash: hash(t, "secret", cost), Roles: []authentication.Role{authentication.Viewer}},
	}, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return b, c
}

func request(remote, header string) *http.Request {
	r := &http.Request{RemoteAddr: remote, Header: http.Header{}}
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	return r
}

func with(remote, name, password string) *http.Request {
	return request(remote, "Basic "+base64.StdEncoding.EncodeToString([]byte(name+":"+password)))
}

const here, there = "192.0.2.1:1000", "192.0.2.2:1000"

// expect checks the answer: "" stands for success, else "denied" or "delayed".
func expect(t *testing.T, b *authentication.HTTPBasicAuth, r *http.Request, want string) {
	t.Helper()
	identity, err := b.Authenticate(r)
	got := ""
	var delayed *authentication.Delayed
	switch {
	case errors.Is(err, authentication.ErrDenied):
		got = "denied"
	case errors.As(err, &delayed):
		got = "delayed"
	case err != nil:
		t.Fatal(err)
	}
	if got != want || (got == "") != (identity.Name != "") {
		t.Errorf("answered %q as %+v; want %q", got, identity, want)
	}
}

func TestTheRightPasswordIsTakenAndNothingElse(t *testing.T) {
	c := &clock{}
	b, err := authentication.NewHTTPBasicAuth("", map[string]authentication.User{
		"colon":  {Hash: hash(t, "a:b:", bcrypt.MinCost), Roles: []authentication.Role{authentication.Operator}},
		"old":    {Hash: strings.Replace(hash(t, "pässword", bcrypt.MinCost), "$2a$", "$2b$", 1)},
		"nobody": {Hash: hash(t, "", bcrypt.MinCost)},
	}, c.now)
	if err != nil {
		t.Fatal(err)
	}
	code := base64.StdEncoding.EncodeToString
	for _, header := range []string{
		"", "Basic", "Basic ", "Basic !", "Bearer " + code([]byte("old:pässword")), code([]byte("old:pässword")),
		"Basic " + code([]byte("old")), "Basic " + code([]byte(":pässword")), "Basic " + code([]byte("old:")),
		"Basic " + code([]byte("OLD:pässword")), "Basic " + code([]byte("colon:a")), "Basic " + code([]byte("nobody:x")),
		"Basic " + code([]byte("unknown:pässword")), "Basic old:pässword", "Basic " + code([]byte("old:pässword"))[:8],
		"Basic \x00\xff",
	} {
		expect(t, b, request(here, header), "denied")
		c.advance(time.Minute)
	}
	for header, want := range map[string]authentication.Identity{
		"Basic " + code([]byte("colon:a:b:")):     {Name: "colon", Roles: []authentication.Role{authentication.Operator}},
		"bAsIc   " + code([]byte("old:pässword")): {Name: "old", Roles: []authentication.Role{authentication.Admin}},
	} {
		for range 2 { // compared, then remembered
			if got, err := b.Authenticate(request(here, header)); err != nil || got.Name != want.Name || got.Roles[0] != want.Roles[0] || len(got.Roles) != 1 {
				t.Errorf("%q: %+v, %v", header, got, err)
			}
		}
	}
}

func TestWrongPasswordsAreDelayedPerAddressAndUser(t *testing.T) {
	b, c := withUser(t, bcrypt.MinCost)
	for i := range 5 {
		expect(t, b, with(here, "a", fmt.Sprint("wrong", i)), "denied")
	}
	expect(t, b, with(here, "a", "wrong"), "delayed")
	expect(t, b, with(here, "a", "secret"), "delayed")            // not looked at
	expect(t, b, request(here, ""), "denied")                     // has none: not limited
	expect(t, b, with("192.0.2.1:2000", "a", "x"), "delayed")     // the port does not matter
	expect(t, b, with(here, "unknown", "x"), "denied")            // another user
	expect(t, b, with("[2001:db8::1]:1", "a", "wrong"), "denied") // another address
	expect(t, b, with(there, "a", "secret"), "")

	_, err := b.Authenticate(with(here, "unknown2", "x"))
	for range 5 {
		_, err = b.Authenticate(with(here, "unknown2", fmt.Sprint(c.now())))
	}
	var delayed *authentication.Delayed
	if !errors.As(err, &delayed) || delayed.RetryAfter != 5*time.Second {
		t.Fatalf("%v; want to wait 5 s", err)
	}
	c.advance(delayed.RetryAfter - time.Millisecond)
	expect(t, b, with(here, "unknown2", "y"), "delayed")
	c.advance(time.Millisecond)
	expect(t, b, with(here, "unknown2", "y"), "denied")
	expect(t, b, with(here, "unknown2", "z"), "delayed")
}

func TestAVerifiedPasswordIsNeverDelayed(t *testing.T) {
	b, c := withUser(t, bcrypt.MinCost)
	expect(t, b, with(here, "a", "secret"), "")
	for i := range 10 {
		want := "denied"
		if i >= 5 {
			want = "delayed"
		}
		expect(t, b, with(here, "a", fmt.Sprint("wrong", i)), want)
		expect(t, b, with(here, "a", "secret"), "")
	}
	c.advance(6 * time.Minute) // it is compared again
	for i := range 10 {
		_, _ = b.Authenticate(with(here, "a", fmt.Sprint("wrong", i)))
	}
	expect(t, b, with(here, "a", "secret"), "")
	expect(t, b, with(here, "a", "wrong"), "delayed")
}

func TestThoseWhoMustWaitAreNotForgottenForOthers(t *testing.T) {
	b, c := withUser(t, bcrypt.MinCost)
	for i := range 5 {
		expect(t, b, with(here, "a", fmt.Sprint("wrong", i)), "denied")
	}
	for i := range 120 {
		expect(t, b, with(here, fmt.Sprint("user", i), "wrong"), "denied")
		c.advance(10 * time.Millisecond)
	}
	expect(t, b, with(here, "a", "wrong"), "delayed")
}

func TestBcryptIsPaidOnceAndNotAboveTheLimit(t *testing.T) {
	b, c := withUser(t, bcrypt.MinCost)
	compared := b.CountComparisons()
	paid := func(what string, want int32) {
		t.Helper()
		if n := compared.Swap(0); n != want {
			t.Errorf("%s: compared %d times, want %d", what, n, want)
		}
	}
	expect(t, b, with(here, "a", "secret"), "")
	paid("a right password", 1)
	expect(t, b, with(there, "a", "secret"), "")
	paid("a verified password", 0)
	c.advance(6 * time.Minute)
	expect(t, b, with(here, "a", "secret"), "")
	paid("after its time, for it is not remembered for ever", 1)
	for i := range 5 {
		expect(t, b, with(here, "a", fmt.Sprint("wrong", i)), "denied")
	}
	paid("five wrong passwords", 5)
	expect(t, b, with(here, "a", "wrong"), "delayed")
	paid("a delayed password", 0)
	expect(t, b, with(here, "unknown", "wrong"), "denied")
	paid("an unknown user, who takes as long as a known one", 1)
}

func TestTheSamePasswordAtTheSameTimeIsComparedOnceAndNotDelayed(t *testing.T) {
	b, _ := withUser(t, bcrypt.MinCost)
	compared := b.CountComparisons()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() { expect(t, b, with(fmt.Sprintf("192.0.2.%d:1", i%20), "a", "secret"), "") })
	}
	all.Wait()
	if n := compared.Load(); n != 1 {
		t.Errorf("200 at once were compared %d times", n)
	}
}

func TestManyWrongPasswordsAtTheSameTimeAreLimited(t *testing.T) {
	b, _ := withUser(t, bcrypt.MinCost)
	var denied atomic.Int32
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			if _, err := b.Authenticate(with(here, "a", fmt.Sprint("wrong", i))); errors.Is(err, authentication.ErrDenied) {
				denied.Add(1)
			}
		})
	}
	all.Wait()
	if n := denied.Load(); n != 5 {
		t.Errorf("%d were compared; want 5", n)
	}
}

func write(t *testing.T, path string, users any) {
	t.Helper()
	text, ok := users.(string)
	if !ok {
		data, err := json.Marshal(users)
		if err != nil {
			t.Fatal(err)
		}
		text = string(data)
	}
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func TestTheUsersFileIsReadAgainWhenItChanges(t *testing.T) {
	type users map[string]authentication.User
	path := filepath.Join(t.TempDir(), "users.json")
	a := authentication.User{Hash: hash(t, "secret", bcrypt.MinCost), Roles: []authentication.Role{authentication.Viewer}}
	write(t, path, users{"a": a})
	b, err := authentication.NewHTTPBasicAuth(path, nil, (&clock{}).now)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b.Logger = slog.New(slog.NewTextHandler(&log, nil))
	expect(t, b, with(here, "a", "secret"), "")
	expect(t, b, with(here, "b", "second"), "denied")

	write(t, path, users{"a": a, "b": {Hash: hash(t, "second", bcrypt.MinCost)}})
	expect(t, b, with(here, "b", "second"), "")

	for _, bad := range []string{"{", `{"a":{"hash":"x"}}`, ""} { // the users stay
		write(t, path, bad)
		log.Reset()
		for range 3 {
			expect(t, b, with(here, "a", "secret"), "")
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), path) {
			t.Errorf("a bad file %q was reported %d times: %s", bad, n, log.String())
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	for range 3 {
		expect(t, b, with(here, "a", "secret"), "")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("a missing file was reported %d times: %s", n, log.String())
	}

	changed := a
	changed.Hash, changed.Roles = hash(t, "changed", bcrypt.MinCost), []authentication.Role{authentication.Join}
	write(t, path, users{"a": changed})
	expect(t, b, with(here, "a", "secret"), "denied")
	expect(t, b, with(here, "b", "second"), "denied")
	if got, err := b.Authenticate(with(here, "a", "changed")); err != nil || got.May(authentication.Read) || !got.May(authentication.AddSelf) {
		t.Errorf("after the role was changed: %+v, %v", got, err)
	}
	write(t, path, users{})
	expect(t, b, with(here, "a", "changed"), "denied")
}

func TestUsersThatCannotBeMeantAreRefused(t *testing.T) {
	good := hash(t, "secret", bcrypt.MinCost)
	for users, want := range map[string]string{
		`[]`:                      "cannot unmarshal",
		`{"a":{}}`:                "commissaire user password",
		`{"a":{"hash":"secret"}}`: "commissaire user password",
		`{"a":{"hash":"` + good + `","role":["viewer"]}}`: `unknown field "role"`,
		`{"a":{"hash":"` + good + `","roles":[]}}`:        "roles is empty",
		`{"a":{"hash":"` + good + `","roles":["viewr"]}}`: "use viewer, operator, auditor, admin or join",
		`{"a":{"hash":"` + good + `","roles":"viewer"}}`:  "cannot unmarshal",
	} {
		path := filepath.Join(t.TempDir(), "users.json")
		write(t, path, users)
		if b, err := authentication.NewHTTPBasicAuth(path, nil, time.Now); err == nil || b != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want %q in it", users, err, want)
		}
	}
	if _, err := authentication.NewHTTPBasicAuth(filepath.Join(t.TempDir(), "none"), nil, time.Now); err == nil {
		t.Error("a file that is not there was taken")
	}
}

func BenchmarkAVerifiedPassword(b *testing.B) {
	plugin, _ := withUser(b, bcrypt.MinCost)
	r := with(here, "a", "secret")
	for b.Loop() {
		if _, err := plugin.Authenticate(r); err != nil {
			b.Fatal(err)
		}
	}
}
