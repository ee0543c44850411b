package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

var (
	errFull  = errors.New("no space left on device")
	errStuck = errors.New("the file is read-only")
)

// bringer is a command that brings a secret.
type bringer struct {
	bring   func(context.Context, *commands.Handler, string) (commands.Receipt, error)
	event   string // what it records
	differs error  // what it is refused with after the same with another secret
}

var bringers = map[string]bringer{
	"host": {
		func(ctx context.Context, h *commands.Handler, key string) (commands.Receipt, error) {
			return h.PutHost(ctx, ann, commands.PutHost{Address: "10.0.0.1", PrivateKey: commands.Secret(key)})
		}, "HostAdded", roster.ErrOtherKey,
	},
	"manager": {
		func(ctx context.Context, h *commands.Handler, token string) (commands.Receipt, error) {
			defined, err := h.PutManager(ctx, ann, commands.PutManager{
				Name: "m", Options: json.RawMessage(fmt.Sprintf(`{"server_url": "https://m", "token": %q}`, token)),
			})
			return defined.Receipt, err
		}, "ContainerManagerDefined", roster.ErrDiffers,
	},
}

// meanwhile has another instance carry out the command with a secret, after this one
// has asked whether it may and before it stores its own.
func (f *fixture) meanwhile(b bringer, secret string) {
	f.secrets.store = func() error {
		f.secrets.store = nil
		_, err := b.bring(f.t.Context(), f.otherInstance(), secret)
		return err
	}
}

func TestTheLifeOfASecret(t *testing.T) {
	for name, c := range map[string]struct {
		given             func(*fixture, bringer)
		refused           bool  // with what the bringer says
		err               error // otherwise; nil: none
		recorded          int   // events
		kept              []string
		stored, destroyed int
	}{
		"it is new": {
			given:    func(*fixture, bringer) {},
			recorded: 1, kept: []string{"new"}, stored: 1,
		},
		"it is there already": {
			given:    func(f *fixture, b bringer) { _, _ = b.bring(f.t.Context(), f.Handler, "new") },
			recorded: 1, kept: []string{"new"}, stored: 1,
		},
		"another one is there": {
			given:   func(f *fixture, b bringer) { _, _ = b.bring(f.t.Context(), f.Handler, "old") },
			refused: true, recorded: 1, kept: []string{"old"}, stored: 1,
		},
		"it cannot be stored": {
			given: func(f *fixture, _ bringer) { f.secrets.store = func() error { return errFull } },
			err:   errFull,
		},
		"it cannot be recorded": {
			given: func(f *fixture, _ bringer) { f.log.fault = unavailable },
			err:   commands.ErrUnavailable, stored: 1, destroyed: 1,
		},
		"it is not known that it was recorded": {
			given: func(f *fixture, _ bringer) { f.log.fault = unanswered },
			err:   commands.ErrOutcomeUnknown, recorded: 1, kept: []string{"new"}, stored: 1,
		},
		"it is not known that it was not recorded": {
			given: func(f *fixture, _ bringer) { f.log.fault = lost },
			err:   commands.ErrOutcomeUnknown, kept: []string{"new"}, stored: 1,
		},
		"it came by another instance in between": {
			given:    func(f *fixture, b bringer) { f.meanwhile(b, "new") },
			recorded: 1, kept: []string{"new"}, stored: 2, destroyed: 1,
		},
		"another one came in between": {
			given:   func(f *fixture, b bringer) { f.meanwhile(b, "other") },
			refused: true, recorded: 1, kept: []string{"other"}, stored: 2, destroyed: 1,
		},
		"it came in between and cannot be destroyed": {
			given: func(f *fixture, b bringer) { f.meanwhile(b, "new"); f.secrets.destroy = errStuck },
			err:   errStuck, recorded: 1, kept: []string{"new", "new"}, stored: 2,
		},
		"another one came in between and it cannot be destroyed": {
			given:   func(f *fixture, b bringer) { f.meanwhile(b, "other"); f.secrets.destroy = errStuck },
			refused: true, recorded: 1, kept: []string{"new", "other"}, stored: 2,
		},
	} {
		for what, b := range bringers {
			t.Run(name+"/"+what, func(t *testing.T) {
				f := newFixture(t)
				c.given(f, b)
				receipt, err := b.bring(t.Context(), f.Handler, "new")

				want := c.err
				if c.refused {
					want = b.differs
				}
				if !errors.Is(err, want) || want == nil && receipt.Position != 1 {
					t.Errorf("got %+v, %v, want %v", receipt, err, want)
				}
				if got := f.types(event.RosterStream); got != strings.TrimSpace(strings.Repeat(b.event+" ", c.recorded)) {
					t.Errorf("recorded are %s", got)
				}
				if got := f.secrets.texts(); !slices.Equal(got, c.kept) {
					t.Errorf("kept are %q, want %q", got, c.kept)
				}
				if f.secrets.stored != c.stored || f.secrets.destroyed != c.destroyed {
					t.Errorf("%d were stored and %d destroyed, want %d and %d", f.secrets.stored, f.secrets.destroyed, c.stored, c.destroyed)
				}
				for _, id := range f.named() {
					if _, ok := f.secrets.held[id]; !ok {
						t.Errorf("%s is recorded and not kept", id)
					}
				}
			})
		}
	}
}

func TestAStoreOfSecretsThatFailsIsUnavailable(t *testing.T) {
	for what, b := range bringers {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			f.secrets.store = func() error { return errFull }
			if _, err := b.bring(t.Context(), f.Handler, "new"); !errors.Is(err, commands.ErrUnavailable) {
				t.Error(err)
			}
		})
	}
}

// TestTheSecretOfAClientThatWentAwayIsKept as nobody knows yet whether it is recorded.
func TestTheSecretOfAClientThatWentAwayIsKept(t *testing.T) {
	for what, b := range bringers {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan struct{})
			f.log.fault = func(record func() error) error {
				leave()
				<-left
				return record()
			}
			if _, err := b.bring(ctx, f.Handler, "new"); !errors.Is(err, commands.ErrOutcomeUnknown) {
				t.Error(err)
			}
			close(left)
			if _, err := b.bring(t.Context(), f.Handler, "new"); err != nil {
				t.Error(err)
			}
			if got := f.types(event.RosterStream); got != b.event {
				t.Errorf("recorded are %s", got)
			}
			if got := f.secrets.texts(); !slices.Equal(got, []string{"new"}) || f.secrets.destroyed > 0 {
				t.Errorf("kept are %q, and %d were destroyed", got, f.secrets.destroyed)
			}
		})
	}
}

func TestNothingIsStoredOfAHostThatIsRefused(t *testing.T) {
	nowhere := domain.ClusterName("nowhere")
	for name, c := range map[string]struct {
		change func(*commands.PutHost)
		err    error
	}{
		"without a key":           {func(h *commands.PutHost) { h.PrivateKey = nil }, domain.ErrInvalid},
		"what is no key":          {func(h *commands.PutHost) { h.PrivateKey = commands.Secret("not a key") }, domain.ErrInvalid},
		"what could not be read":  {func(h *commands.PutHost) { h.KeyProblem = errors.New("no base64") }, domain.ErrInvalid},
		"an expired certificate":  {func(h *commands.PutHost) { h.Certificate = "ssh expired" }, domain.ErrInvalid},
		"an address out of range": {func(h *commands.PutHost) { h.Address = "169.254.169.254" }, errDenied},
		"an unknown cluster":      {func(h *commands.PutHost) { h.Cluster = &nowhere }, roster.ErrUnknownCluster},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			cmd := commands.PutHost{Address: "10.0.0.1", PrivateKey: commands.Secret("key")}
			c.change(&cmd)
			if _, err := f.PutHost(t.Context(), ann, cmd); !errors.Is(err, c.err) {
				t.Error(err)
			}
			if f.secrets.stored > 0 || len(f.history(event.RosterStream)) > 0 {
				t.Errorf("%d secrets were stored, and recorded are %s", f.secrets.stored, f.types(event.RosterStream))
			}
		})
	}
}

func TestOfAKnownHostNothingIsChecked(t *testing.T) {
	f := newFixture(t)
	f.record(event.RosterStream, event.HostAdded{
		HostID: "h", Host: "169.254.169.254", Fingerprint: "SHA256:key", Certificate: "ssh expired",
	})
	if _, err := f.PutHost(t.Context(), ann, commands.PutHost{
		Address: "169.254.169.254", PrivateKey: commands.Secret("key"), Certificate: "ssh expired",
	}); err != nil {
		t.Error(err)
	}
	if f.secrets.stored > 0 {
		t.Error("a secret was stored")
	}
}

// TestAHostThatMustBeAskedInBetween was added by another instance in between, so that
// its own history must be asked which key it has: the secret that was stored before is
// destroyed.
func TestAHostThatMustBeAskedInBetween(t *testing.T) {
	f := newFixture(t)
	cmd := commands.PutHost{Address: "10.0.0.1", PrivateKey: commands.Secret("new"), HostKey: "SHA256:given"}
	f.secrets.store = func() error {
		f.secrets.store = nil
		_, err := f.otherInstance().PutHost(t.Context(), ann, cmd)
		return err
	}
	if _, err := f.PutHost(t.Context(), ann, cmd); err != nil {
		t.Error(err)
	}
	if got := f.secrets.texts(); !slices.Equal(got, []string{"new"}) || f.secrets.stored != 2 || f.secrets.destroyed != 1 {
		t.Errorf("kept are %q; %d were stored and %d destroyed", got, f.secrets.stored, f.secrets.destroyed)
	}
}

func TestCredentialsAreReadAfterThatIsRecorded(t *testing.T) {
	added := event.HostAdded{HostID: "h", Host: "10.0.0.1", RemoteUser: "core", Credential: "c"}
	for name, c := range map[string]struct {
		given   func(*fixture)
		address domain.Address
		err     error
		reads   int
		record  bool
	}{
		"it is read":                 {func(*fixture) {}, "10.0.0.1", nil, 1, true},
		"it cannot be recorded":      {func(f *fixture) { f.log.fault = unavailable }, "10.0.0.1", commands.ErrUnavailable, 0, false},
		"its record may be lost":     {func(f *fixture) { f.log.fault = lost }, "10.0.0.1", commands.ErrOutcomeUnknown, 0, false},
		"its record is not answered": {func(f *fixture) { f.log.fault = unanswered }, "10.0.0.1", commands.ErrOutcomeUnknown, 0, true},
		"it is gone":                 {func(f *fixture) { clear(f.secrets.held) }, "10.0.0.1", commands.ErrNoCredential, 1, true},
		"there is no such host":      {func(*fixture) {}, "10.0.0.2", roster.ErrNoHost, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.record(event.RosterStream, added)
			f.secrets.held["c"] = "key"
			c.given(f)
			reads := 0
			f.secrets.read = func() error {
				reads++
				if all := f.history(event.HostStream("h")); len(all) != 1 || all[0].Meta.Actor != "ann" {
					t.Errorf("before it is read, recorded are %+v", all)
				}
				return nil
			}
			credentials, receipt, err := f.ReadCredentials(t.Context(), ann, c.address)
			if !errors.Is(err, c.err) || reads != c.reads {
				t.Errorf("after %d reads: %v", reads, err)
			}
			if got := f.types(event.HostStream("h")) == "HostCredentialsRead"; got != c.record {
				t.Errorf("recorded are %s", f.types(event.HostStream("h")))
			}
			if (receipt.Position > 0) != (reads > 0) {
				t.Errorf("its position is %d", receipt.Position)
			}
			if (string(credentials.PrivateKey) == "key" && credentials.RemoteUser == "core") != (err == nil) {
				t.Errorf("given are %q of %s", []byte(credentials.PrivateKey), credentials.RemoteUser)
			}
		})
	}
}
