package commands

import (
	"context"
	"fmt"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/host"
	"commissaire/domain/roster"
)

// PutHost asks for a host to be known.
type PutHost struct {
	Address    domain.Address
	PrivateKey Secret              // text of an unencrypted private key; nil: the key of a known host is not compared
	KeyProblem error               // why what was given cannot be a private key; PrivateKey is not looked at then
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
	PrivateKey Secret
	RemoteUser domain.RemoteUser
}

// unreadable is in place of the fingerprint of what is no key: no key has it.
const unreadable = "unreadable"

// PutHost makes a host known, and a member where a cluster is named. For a
// known host it checks that what is given is the same, and changes nothing.
func (h *Handler) PutHost(ctx context.Context, who Who, cmd PutHost) (Receipt, error) {
	fingerprint, problem := "", cmd.KeyProblem
	if cmd.PrivateKey != nil && problem == nil {
		fingerprint, problem = h.config.KeyFingerprint(cmd.PrivateKey)
	}
	if problem != nil {
		fingerprint = unreadable
	}
	var receipt Receipt
	err := h.knowing(ctx, func(known roster.Known) (err error) {
		added := event.HostAdded{
			HostID: newID[domain.HostID](h), Host: cmd.Address, RemoteUser: cmd.RemoteUser,
			Credential: newID[domain.CredentialID](h), Port: cmd.Port, HostKey: cmd.HostKey, Fingerprint: fingerprint, TakeOver: cmd.TakeOver,
			Certificate: cmd.Certificate, // that of a known host may have expired, so it is checked for a new one only
		}
		check := func() (err error) {
			added.Certificate, err = h.checkHost(cmd, added.Fingerprint, problem)
			return err
		}
		secret := newSecret{id: added.Credential, text: cmd.PrivateKey, what: "the key of host " + string(cmd.Address)}
		receipt, err = h.recordSecret(ctx, who, secret, check, func(r *roster.Roster) ([]event.RosterEvent, error) {
			return r.AddHost(added, cmd.Cluster, known)
		})
		return err
	})
	return receipt, err
}

// checkHost refuses what is wrong with a new host, and gives its certificate in the
// form in which it is recorded.
func (h *Handler) checkHost(cmd PutHost, fingerprint string, problem error) (certificate string, err error) {
	if problem != nil {
		return "", domain.ErrInvalid.At("ssh_priv_key", "not the base64 of an unencrypted OpenSSH or PEM private key: %v", problem)
	}
	if cmd.Certificate != "" {
		if certificate, err = h.config.Certificate(cmd.Certificate, fingerprint, h.config.Now()); err != nil {
			return "", domain.ErrInvalid.At("ssh_certificate", "%v", err)
		}
	}
	return certificate, h.config.Denied(cmd.Address)
}

// CheckKey says what is wrong with the text of a private key, without any of it.
func (h *Handler) CheckKey(key Secret) error {
	_, err := h.config.KeyFingerprint(key)
	return err
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
	return HostCredentials{PrivateKey: key, RemoteUser: found.RemoteUser}, receipt, nil
}

// AcceptHostKey accepts the changed key that a host showed. It may be repeated.
func (h *Handler) AcceptHostKey(ctx context.Context, who Who, address domain.Address, fingerprint string) (Receipt, error) {
	found, err := h.hostAt(ctx, address)
	if err != nil {
		return Receipt{}, err
	}
	return h.onHost(ctx, who, found.HostID, func(state *host.Host) ([]event.HostEvent, error) {
		return state.AcceptKey(address, fingerprint)
	})
}

// TakeHostOver has a host taken over from another installation that manages it. It
// may be repeated.
func (h *Handler) TakeHostOver(ctx context.Context, who Who, address domain.Address) (Receipt, error) {
	found, err := h.hostAt(ctx, address)
	if err != nil {
		return Receipt{}, err
	}
	return h.onHost(ctx, who, found.HostID, func(state *host.Host) ([]event.HostEvent, error) {
		return state.OrderTakeover(address), nil
	})
}

// Host is what a host's own history comes to; a copy.
func (h *Handler) Host(ctx context.Context, id domain.HostID) (host.Host, error) {
	state, _, err := query(ctx, h.host(id), func(state *host.Host) host.Host { return *state })
	return state, err
}

// RecordHost records on a host's history what f decides on it; for the process
// that works on the host.
func (h *Handler) RecordHost(ctx context.Context, id domain.HostID, f func(*host.Host) []event.HostEvent) (Receipt, error) {
	return h.onHost(ctx, Who{Actor: Service}, id, func(state *host.Host) ([]event.HostEvent, error) { return f(state), nil })
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
	return record(ctx, h.watch, recordBy[event.WatchEvent](h, Who{Actor: Service}), func(struct{}) ([]event.WatchEvent, error) {
		return []event.WatchEvent{sweep}, nil
	})
}
