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
func (h *transcript) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if !h.greeted {
		h.greeting = append(h.greeting, p[:n]...)
		ssh := bytes.Index(h.greeting, []byte("SSH-"))
		h.greeted = ssh >= 0 || len(h.greeting) > maxGreeting
		if ssh >= 0 {
			h.greeting = h.greeting[:ssh]
		}
	}
	return n, err
}

// note is an xssh.BannerCallback.
func (h *transcript) note(banner string) error {
	h.banner.add(banner + "\n")
	return nil
}

// next is an xssh.ClientAuthCallback. To a question that follows the key it listens
// and does not answer.
func (h *transcript) next(login *xssh.ClientAuthContext) (xssh.AuthMethod, error) {
	const question = "keyboard-interactive"
	switch {
	case slices.Contains(login.PartialSuccessMethods, "publickey"):
		if h.wanted == nil {
			h.wanted = append([]string{}, login.AllowedMethods...)
		}
		if slices.Contains(login.AllowedMethods, question) && !slices.Contains(login.TriedMethods, question) {
			return xssh.KeyboardInteractive(h.ask), nil
		}
	case !slices.Contains(login.TriedMethods, "publickey"):
		h.early, h.banner = h.banner, saying{}
	}
	return nil, nil
}

var errAsked = errors.New("nobody is there to answer")

func (h *transcript) ask(name, instruction string, questions []string, _ []bool) ([]string, error) {
	h.asked.add(strings.Join(append([]string{name, instruction}, questions...), "\n") + "\n")
	if len(questions) > 0 {
		return nil, errAsked
	}
	return nil, nil
}

// said is what there was to hear, "" or as the end of a sentence about user.
func (h *transcript) said(user string) string {
	for _, said := range []string{h.banner.String(), h.early.String(), words(string(h.greeting))} {
		if said != "" {
			return "; it said: " + said + remedy(said, user)
		}
	}
	return ""
}

// more is what the host wants besides the key, if it took that; else "".
func (h *transcript) more() string {
	if h.wanted == nil {
		return ""
	}
	wanted := words(strings.Join(h.wanted, ", "))
	if wanted == "" {
		wanted = "something that it does not name"
	}
	if asked := h.asked.String(); asked != "" {
		wanted += `: "` + asked + `"`
	}
	return wanted
}
