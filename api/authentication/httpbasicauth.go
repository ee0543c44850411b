package authentication

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
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

// UnmarshalJSON refuses keys that a user does not have: a misspelt roles would
// make an admin.
func (u *User) UnmarshalJSON(data []byte) error {
	type plain User
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode((*plain)(u))
}

// Held are the user's roles, that of the old form included.
func (u User) Held() []Role {
	if len(u.Roles) == 0 {
		return []Role{Admin}
	}
	return u.Roles
}

// How long a verified password is taken without bcrypt, and how many wrong ones
// an address may try for one user.
const (
	rememberFor = 5 * time.Minute
	wrongEvery  = 5 * time.Second
	wrongBurst  = 5
	few         = 100 // addresses and users, of which it is not worth to forget any
)

// HTTPBasicAuth knows users by name and password (RFC 7617). bcrypt is paid once
// per password and few minutes; what is remembered is a hash keyed for this
// process. Wrong passwords are limited per address and user; one that was
// verified is never delayed. A name that nobody has costs what the others cost.
type HTTPBasicAuth struct {
	// Logger hears of a users file that cannot be read any more; nil: none does.
	Logger *slog.Logger

	path string
	now  func() time.Time
	key  []byte
	cost singleflight.Group
	// compare is bcrypt's; it costs what the hash says.
	compare func(hash, password []byte) error

	mu       sync.Mutex
	seen     os.FileInfo // of the file, when it was last looked into
	users    map[string]User
	nobody   []byte              // a hash as costly as any, for unknown names
	verified map[string]verified // by name
	wrong    map[string]*rate.Limiter
	many     int // of wrong, before those that allow everything again are dropped
}

// verified is what is known of a user's right password.
type verified struct {
	digest string
	until  time.Time // later it is compared again, though never delayed
}

// NewHTTPBasicAuth reads users from a file {"NAME":{"hash":"…","roles":[…]}},
// and again when it changes, unless it became unreadable or wrong: then the
// users stay as they are. With path "" the users are those given.
func NewHTTPBasicAuth(path string, users map[string]User, now func() time.Time) (*HTTPBasicAuth, error) {
	b := &HTTPBasicAuth{
		path: path, now: now, key: make([]byte, sha256.Size), compare: bcrypt.CompareHashAndPassword,
		verified: map[string]verified{}, wrong: map[string]*rate.Limiter{}, many: few,
	}
	_, _ = rand.Read(b.key) // never fails
	load := b.refresh
	if path == "" {
		load = func() error { return b.take(users) }
	}
	if err := load(); err != nil {
		return nil, err
	}
	return b, nil
}

// take makes these the users, if they can be.
func (b *HTTPBasicAuth) take(users map[string]User) error {
	highest := bcrypt.MinCost
	for name, user := range users {
		cost, err := bcrypt.Cost([]byte(user.Hash))
		if err != nil {
			return fmt.Errorf("user %s: the hash is not bcrypt's; commissaire user password makes one", name)
		}
		highest = max(highest, cost)
		if user.Roles != nil && len(user.Roles) == 0 {
			return fmt.Errorf("user %s: roles is empty: name one, or leave roles out for an admin", name)
		}
		for _, role := range user.Roles {
			if !KnownRole(role) {
				return fmt.Errorf("user %s: there is no role %q: use viewer, operator, auditor, admin or join", name, role)
			}
		}
	}
	b.nobody = fmt.Appendf(nil, "$2a$%02d$%s", highest, strings.Repeat(".", 53)) // of no password that anyone knows
	b.users = users
	for name := range b.verified {
		if _, stays := users[name]; !stays {
			delete(b.verified, name)
		}
	}
	return nil
}

// refresh reads the file if it changed; a bad one leaves the users as they are.
func (b *HTTPBasicAuth) refresh() error {
	fail := func(err error) error { return fmt.Errorf("read users from %s: %w", b.path, err) }
	info, err := os.Stat(b.path)
	if err != nil {
		if b.users != nil && b.seen == nil {
			return nil // known already
		}
		b.seen = nil
		return fail(err)
	}
	if b.seen != nil && os.SameFile(b.seen, info) && b.seen.ModTime().Equal(info.ModTime()) && b.seen.Size() == info.Size() {
		return nil
	}
	b.seen = info // before it is read: what changes meanwhile is seen the next time
	text, err := os.ReadFile(b.path)
	if err != nil {
		return fail(err)
	}
	users := map[string]User{}
	if err := json.Unmarshal(text, &users); err != nil {
		return fail(err)
	}
	if err := b.take(users); err != nil {
		return fail(err)
	}
	return nil
}

// Authenticate implements Plugin.
func (b *HTTPBasicAuth) Authenticate(r *http.Request) (Identity, error) {
	name, password, ok := basic(r.Header.Get("Authorization"))
	if !ok {
		return Identity{}, ErrDenied
	}
	user, known, hash := b.find(name)
	digest := b.digest(name, user.Hash, password)
	before, fresh := b.remembered(name, digest)
	if fresh {
		return Identity{Name: name, Roles: user.Held()}, nil
	}
	who := host(r.RemoteAddr) + " " + name
	// Those who send the same password at the same time wait for one attempt of
	// their address, and all addresses for one bcrypt.
	_, err, _ := b.cost.Do(who+" "+digest, func() (any, error) {
		if !before {
			if err := b.attempt(who); err != nil {
				return nil, err
			}
		}
		right, _, _ := b.cost.Do(digest, func() (any, error) {
			if _, fresh := b.remembered(name, digest); fresh {
				return true, nil
			}
			if b.compare(hash, []byte(password)) != nil || !known {
				return false, nil
			}
			b.remember(name, digest)
			return true, nil
		})
		if right != true {
			return nil, ErrDenied
		}
		if !before {
			b.forgive(who)
		}
		return nil, nil
	})
	if err != nil {
		return Identity{}, err
	}
	return Identity{Name: name, Roles: user.Held()}, nil
}

// find is the user of a name, and the hash to compare with.
func (b *HTTPBasicAuth) find(name string) (user User, known bool, hash []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.path != "" {
		if err := b.refresh(); err != nil && b.Logger != nil {
			b.Logger.Error("the users could not be read again; those before stay", "error", err)
		}
	}
	if user, known = b.users[name]; known {
		return user, true, []byte(user.Hash)
	}
	return user, false, b.nobody
}

// remembered tells whether a password was verified before, and whether so
// lately that it need not be compared again.
func (b *HTTPBasicAuth) remembered(name, digest string) (before, fresh bool) {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	is, known := b.verified[name]
	before = known && hmac.Equal([]byte(is.digest), []byte(digest))
	return before, before && now.Before(is.until)
}

// remember notes that a password is the right one.
func (b *HTTPBasicAuth) remember(name, digest string) {
	until := b.now().Add(rememberFor)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verified[name] = verified{digest: digest, until: until}
}

// forgive gives back the attempts of who knew the password in the end.
func (b *HTTPBasicAuth) forgive(who string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.wrong, who)
}

// attempt takes one of the wrong passwords that may be tried, or fails with
// *Delayed.
func (b *HTTPBasicAuth) attempt(who string) error {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	limiter, known := b.wrong[who]
	if !known {
		if len(b.wrong) >= b.many {
			for who, limiter := range b.wrong {
				if limiter.TokensAt(now) >= wrongBurst {
					delete(b.wrong, who)
				}
			}
			b.many = max(few, 2*len(b.wrong))
		}
		limiter = rate.NewLimiter(rate.Every(wrongEvery), wrongBurst)
		b.wrong[who] = limiter
	}
	if !limiter.AllowN(now, 1) {
		missing := 1 - limiter.TokensAt(now)
		return &Delayed{RetryAfter: time.Duration(math.Ceil(missing*wrongEvery.Seconds())) * time.Second}
	}
	return nil
}

func (b *HTTPBasicAuth) digest(parts ...string) string {
	text := make([]byte, 0, 256)
	for _, part := range parts {
		text = binary.BigEndian.AppendUint64(text, uint64(len(part)))
		text = append(text, part...)
	}
	mac := hmac.New(sha256.New, b.key)
	_, _ = mac.Write(text) // a hash takes all
	return string(mac.Sum(nil))
}

func host(remote string) string {
	address, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return address
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
