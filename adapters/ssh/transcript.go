package ssh

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"

	xssh "golang.org/x/crypto/ssh"
)

// transcript is a connection, and what its other side says in its own words until it has
// let somebody in: it may hang up right after.
type transcript struct {
	net.Conn
	greeting []byte // in place of SSH's own, which is not in it
	greeted  bool   // no more of it comes

	early  saying   // banners for everybody
	banner saying   // banners since the key was shown
	wanted []string // after the key, which it took
	asked  saying   // of whoever is to answer
}

const maxGreeting = 4 << 10

// Read reads, and notes what is said before SSH begins.
func (t *transcript) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if !t.greeted {
		t.greeting = append(t.greeting, p[:n]...)
		ssh := bytes.Index(t.greeting, []byte("SSH-"))
		t.greeted = ssh >= 0 || len(t.greeting) > maxGreeting
		if ssh >= 0 {
			t.greeting = t.greeting[:ssh]
		}
	}
	return n, err
}

// note is an xssh.BannerCallback.
func (t *transcript) note(banner string) error {
	t.banner.add(banner + "\n")
	return nil
}

// next is an xssh.ClientAuthCallback. To a question that follows the key it listens
// and does not answer.
func (t *transcript) next(login *xssh.ClientAuthContext) (xssh.AuthMethod, error) {
	const question = "keyboard-interactive"
	switch {
	case slices.Contains(login.PartialSuccessMethods, "publickey"):
		if t.wanted == nil {
			t.wanted = append([]string{}, login.AllowedMethods...)
		}
		if slices.Contains(login.AllowedMethods, question) && !slices.Contains(login.TriedMethods, question) {
			return xssh.KeyboardInteractive(t.ask), nil
		}
	case !slices.Contains(login.TriedMethods, "publickey"):
		t.early, t.banner = t.banner, saying{}
	}
	return nil, nil
}

var errAsked = errors.New("nobody is there to answer")

func (t *transcript) ask(name, instruction string, questions []string, _ []bool) ([]string, error) {
	t.asked.add(strings.Join(append([]string{name, instruction}, questions...), "\n") + "\n")
	if len(questions) > 0 {
		return nil, errAsked
	}
	return nil, nil
}

// said is what there was to hear, "" or as the end of a sentence about user.
func (t *transcript) said(user string) string {
	for _, said := range []string{t.banner.String(), t.early.String(), words(string(t.greeting))} {
		if said != "" {
			return "; it said: " + said + remedy(said, user)
		}
	}
	return ""
}

// more is what the host wants besides the key, if it took that; else "".
func (t *transcript) more() string {
	if t.wanted == nil {
		return ""
	}
	wanted := words(strings.Join(t.wanted, ", "))
	if wanted == "" {
		wanted = "something that it does not name"
	}
	if asked := t.asked.String(); asked != "" {
		wanted += `: "` + asked + `"`
	}
	return wanted
}
