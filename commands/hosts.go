package commands

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/roster"
)

// PutHost asks for a host to be known.
type PutHost struct {
	Address    domain.Address
	PrivateKey string              // base64 of an unencrypted private key; secret
	HasKey     bool                // false: the key of a known host is not compared
	RemoteUser domain.RemoteUser   // "": root; the user of a known host is not compared
	Cluster    *domain.ClusterName // nil: none
	Port       int                 // 0: 22
	HostKey    string              // fingerprint SHA256:… of the host's key; "": the first one that is trusted is pinned

	// Certificate is an SSH user certificate of the key, as one line; "": none. It
	// is no secret, so it is recorded with the host: the log then says what the
	// service could log in as, and nothing has to be destroyed.
	Certificate string

	// TakeOver takes the host over from another installation that manages it.
	TakeOver bool
}

// HostCredentials are how a host is logged in to.
type HostCredentials struct {
	PrivateKey string // base64; secret
	RemoteUser domain.RemoteUser
}

// PutHost makes a host known, and a member where a cluster is named. For a
// known host it checks that what is given is the same, and changes nothing.
// The key is sealed and kept before the host is recorded.
func (h *Handler) PutHost(ctx context.Context, who Who, cmd PutHost) (Receipt, error) {
	var key []byte
	var fingerprint string
	var keyErr error
	if cmd.HasKey {
		key, fingerprint, keyErr = h.readKey(cmd.PrivateKey)
	}
	added := event.HostAdded{
		HostID: newID[domain.HostID](h), Host: cmd.Address, RemoteUser: cmd.RemoteUser,
		Credential: newID[domain.CredentialID](h), Port: cmd.Port, HostKey: cmd.HostKey, Fingerprint: fingerprint, TakeOver: cmd.TakeOver,
	}
	if keyErr != nil {
		added.Fingerprint = "unreadable" // no key has this fingerprint
	}
	decide := func(r *roster.Roster) ([]event.RosterEvent, error) {
		compared := added
		if compared.Certificate == "" {
			compared.Certificate = cmd.Certificate // as it was sent: that of a known host may have expired
		}
		var failed error
		events, err := r.AddHost(compared, cmd.Cluster, h.pinned(ctx, &failed))
		if failed != nil {
			return nil, failed
		}
		return events, err
	}

	isNew := false
	receipt, err := h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) {
		events, err := decide(r)
		isNew = len(events) > 0
		return nil, err
	})
	if err != nil || !isNew {
		return receipt, err
	}
	if keyErr != nil {
		return Receipt{}, domain.ErrInvalid.At("ssh_priv_key", "not the base64 of an unencrypted OpenSSH or PEM private key: %v", keyErr)
	}
	if cmd.Certificate != "" {
		if added.Certificate, err = h.config.Certificate(cmd.Certificate, added.Fingerprint, h.config.Now()); err != nil {
			return Receipt{}, domain.ErrInvalid.At("ssh_certificate", "%v", err)
		}
	}
	if err := h.config.Denied(cmd.Address); err != nil {
		return Receipt{}, err
	}
	if err := h.config.Credentials.Store(ctx, added.Credential, key); err != nil {
		return Receipt{}, fmt.Errorf("keep the key of host %s: %w: %w", cmd.Address, ErrUnavailable, err)
	}
	used := false
	receipt, err = h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) {
		events, err := decide(r)
		used = len(events) > 0
		return events, err
	})
	// Where the outcome is unknown the sweep decides, once the log says more.
	if unrecorded(err) || err == nil && !used {
		if destroyErr := h.config.Credentials.Destroy(ctx, added.Credential); destroyErr != nil && err == nil {
			err = fmt.Errorf("forget the unused key of host %s: %w", cmd.Address, destroyErr)
		}
	}
	return receipt, err
}

// readKey reads a private key as clients send it, or says what is wrong, without any
// of it.
func (h *Handler) readKey(text string) (key []byte, fingerprint string, err error) {
	if key, err = base64.StdEncoding.DecodeString(text); err == nil {
		fingerprint, err = h.config.KeyFingerprint(key)
		return key, fingerprint, err
	}
	_, plain := h.config.KeyFingerprint([]byte(text))
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "=\r\n"))
	_, unpadded := base64.RawStdEncoding.DecodeString(standard)
	foreign := strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")
	switch {
	case plain == nil:
		return nil, "", errors.New("this is the private key itself; give its base64 (base64 -w0 FILE)")
	case unpadded == nil && strings.ContainsAny(text, "-_"):
		return nil, "", errors.New("this is base64 for URLs, with - and _; give it with + and / (base64 -w0 FILE)")
	case unpadded == nil:
		return nil, "", errors.New("this is base64 without the right number of = at its end (base64 -w0 FILE writes it)")
	case foreign == "":
		return nil, "", errors.New("this is base64 of which a part is missing, or that goes on after its end")
	case strings.TrimSpace(foreign) == "" || strings.Trim(foreign, " \t") != foreign:
		return nil, "", fmt.Errorf("there are blanks in it, which base64 does not have; as it is, %w", plain)
	}
	return nil, "", fmt.Errorf("there are characters in it that base64 does not have; as it is, %w", plain)
}

// DeleteHost makes a host unknown. Its credentials are destroyed in response.
func (h *Handler) DeleteHost(ctx context.Context, who Who, address domain.Address) (Receipt, error) {
	return h.onRoster(ctx, who, func(r *roster.Roster) ([]event.RosterEvent, error) { return r.RemoveHost(address) })
}

// ReadCredentials gives out a host's private key, after it is recorded who reads it.
func (h *Handler) ReadCredentials(ctx context.Context, who Who, address domain.Address) (HostCredentials, Receipt, error) {
	found, err := h.hostAt(ctx, address)
	if err != nil {
		return HostCredentials{}, Receipt{}, err
	}
	receipt, err := h.onHost(ctx, who, found.HostID, func(*host.Host) ([]event.HostEvent, error) {
		return []event.HostEvent{event.HostCredentialsRead{Host: address}}, nil
	})
	if err != nil {
		return HostCredentials{}, Receipt{}, err
	}
	key, err := h.config.Credentials.Read(ctx, found.Credential)
	if err != nil {
		return HostCredentials{}, receipt, fmt.Errorf("read the credentials of host %s: %w", address, err)
	}
	return HostCredentials{PrivateKey: base64.StdEncoding.EncodeToString(key), RemoteUser: found.RemoteUser}, receipt, nil
}

// AcceptHostKey accepts the changed key that a host showed. It may be repeated.
func (h *Handler) AcceptHostKey(ctx context.Context, who Who, address domain.Address, fingerprint string) (Receipt, error) {
	found, err := h.hostAt(ctx, address)
	if err != nil {
		return Receipt{}, err
	}
	return h.onHost(ctx, who, found.HostID, func(one *host.Host) ([]event.HostEvent, error) {
		return one.AcceptKey(address, fingerprint)
	})
}

// TakeHostOver has a host taken over from another installation that manages it. It
// may be repeated.
func (h *Handler) TakeHostOver(ctx context.Context, who Who, address domain.Address) (Receipt, error) {
	found, err := h.hostAt(ctx, address)
	if err != nil {
		return Receipt{}, err
	}
	return h.onHost(ctx, who, found.HostID, func(one *host.Host) ([]event.HostEvent, error) {
		return one.OrderTakeover(address), nil
	})
}

// RecordHost records on a host's history what f decides on it; for the process
// that works on the host.
func (h *Handler) RecordHost(ctx context.Context, id domain.HostID, f func(*host.Host) []event.HostEvent) (Receipt, error) {
	return h.onHost(ctx, Who{Actor: Service}, id, func(one *host.Host) ([]event.HostEvent, error) { return f(one), nil })
}

// BeginTerm begins the term of a leader; a later one must not have begun. It may
// be repeated.
func (h *Handler) BeginTerm(ctx context.Context, term domain.Term) (Receipt, error) {
	log := newID[domain.LogID](h)
	return h.onRoster(ctx, Who{Actor: Service}, func(r *roster.Roster) ([]event.RosterEvent, error) {
		return r.BeginTerm(term, h.config.Instance, log)
	})
}

// TakeHost claims a host for a stretch of work, for an operation or ("") for
// its upkeep.
func (h *Handler) TakeHost(ctx context.Context, id domain.HostID, claim domain.ClaimID, by domain.OperationID, term domain.Term) (Receipt, error) {
	return h.onRoster(ctx, Who{Actor: Service}, func(r *roster.Roster) ([]event.RosterEvent, error) {
		return r.TakeHost(id, claim, by, term)
	})
}

// ReleaseHost ends a claim, as the leader of a term. It may be repeated.
func (h *Handler) ReleaseHost(ctx context.Context, id domain.HostID, claim domain.ClaimID, term domain.Term) (Receipt, error) {
	return h.onRoster(ctx, Who{Actor: Service}, func(r *roster.Roster) ([]event.RosterEvent, error) {
		return r.ReleaseHost(id, claim, term)
	})
}

// FinishSweep records that all hosts were looked at.
func (h *Handler) FinishSweep(ctx context.Context, sweep event.SweepFinished) (Receipt, error) {
	at, err := h.watch.transact(ctx, recordBy[event.WatchEvent](h, Who{Actor: Service}), func(struct{}) ([]event.WatchEvent, error) {
		return []event.WatchEvent{sweep}, nil
	})
	return Receipt{at}, err
}
