package authentication

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// User is a line of the users file. One without roles is an admin, as in files
// of the old form.
type User struct {
	Hash  string `json:"hash"` // bcrypt
	Roles []Role `json:"roles,omitempty"`
}

// How long a verified password is remembered, and how many wrong ones an
// address may try for one user.
const (
	rememberFor = 5 * time.Minute
	wrongEvery  = 5 * time.Second
	wrongBurst  = 5
)

// HTTPBasicAuth knows users by name and password (RFC 7617). bcrypt is paid once
// per password and few minutes; what is remembered is a keyed hash. Wrong
// passwords are limited per address and user; one that was verified is never
// delayed.
type HTTPBasicAuth struct {
	path string
	now  func() time.Time
	key  []byte
	cost singleflight.Group

	mu       sync.Mutex
	read     time.Time
	users    map[string]User
	verified map[string]time.Time
	wrong    map[string]*rate.Limiter
}

// NewHTTPBasicAuth reads users from a file {"NAME":{"hash":"…","roles":[…]}},
// and again when it changes; with path "" the users are those given.
func NewHTTPBasicAuth(path string, users map[string]User, now func() time.Time) (*HTTPBasicAuth, error) {
	b := &HTTPBasicAuth{path: path, now: now, key: make([]byte, 32), users: users, verified: map[string]time.Time{}, wrong: map[string]*rate.Limiter{}}
	_, _ = rand.Read(b.key) // never fails
	if err := b.refresh(); err != nil {
		return nil, err
	}
	return b, check(b.users)
}

func check(users map[string]User) error {
	for name, user := range users {
		if _, err := bcrypt.Cost([]byte(user.Hash)); err != nil {
			return fmt.Errorf("user %s: the hash is not bcrypt's", name)
		}
		for _, role := range user.Roles {
			if !KnownRole(role) {
				return fmt.Errorf("user %s: there is no role %q: use viewer, operator, auditor, admin or join", name, role)
			}
		}
	}
	return nil
}

// refresh reads the file if it changed; a bad one leaves the users as they are.
func (b *HTTPBasicAuth) refresh() error {
	if b.path == "" {
		return nil
	}
	info, err := os.Stat(b.path)
	if err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	if info.ModTime().Equal(b.read) {
		return nil
	}
	text, err := os.ReadFile(b.path)
	if err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	users := map[string]User{}
	if err := json.Unmarshal(text, &users); err != nil {
		return fmt.Errorf("read users from %s: %w", b.path, err)
	}
	if err := check(users); err != nil {
		return fmt.Errorf("read users from %s: %w", b.path, err)
	}
	b.users, b.read = users, info.ModTime()
	clear(b.verified)
	return nil
}

// dummy costs an unknown user what a known one costs.
var dummy = sync.OnceValue(func() []byte {
	hash, err := bcrypt.GenerateFromPassword([]byte("nobody"), bcrypt.DefaultCost)
	if err != nil {
		panic(err) // only for a password that is too long
	}
	return hash
})

// Authenticate implements Plugin.
func (b *HTTPBasicAuth) Authenticate(r *http.Request) (Identity, error) {
	name, password, ok := basic(r.Header.Get("Authorization"))
	if !ok {
		return Identity{}, ErrDenied
	}
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	b.mu.Lock()
	_ = b.refresh() // a bad file leaves the users as they are; writing one is checked by who writes it
	user, known := b.users[name]
	now := b.now()
	remembered := b.digest(name, user.Hash, password)
	if until, ok := b.verified[remembered]; ok && now.Before(until) {
		b.mu.Unlock()
		return user.identity(name), nil
	}
	limiter, ok := b.wrong[address+" "+name]
	if !ok {
		if len(b.wrong) > 10_000 {
			clear(b.wrong)
		}
		limiter = rate.NewLimiter(rate.Every(wrongEvery), wrongBurst)
		b.wrong[address+" "+name] = limiter
	}
	tokens := limiter.TokensAt(now)
	b.mu.Unlock()
	if tokens < 1 {
		return Identity{}, &Delayed{RetryAfter: wrongEvery}
	}
	right, _, _ := b.cost.Do(remembered, func() (any, error) {
		hash := []byte(user.Hash)
		if !known {
			hash = dummy()
		}
		return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known, nil
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if right != true {
		limiter.AllowN(now, 1)
		return Identity{}, ErrDenied
	}
	for key, until := range b.verified {
		if now.After(until) {
			delete(b.verified, key)
		}
	}
	b.verified[remembered] = now.Add(rememberFor)
	return user.identity(name), nil
}

func (u User) identity(name string) Identity {
	if len(u.Roles) == 0 {
		return Identity{Name: name, Roles: []Role{Admin}}
	}
	return Identity{Name: name, Roles: u.Roles}
}

func (b *HTTPBasicAuth) digest(parts ...string) string {
	mac := hmac.New(sha256.New, b.key)
	for _, part := range parts {
		_, _ = fmt.Fprintf(mac, "%d:%s", len(part), part) // a hash takes all
	}
	return string(mac.Sum(nil))
}

// basic splits at the first colon, so a password may have some.
func basic(header string) (name, password string, ok bool) {
	scheme, coded, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "basic") {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(coded))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}
