package roster

import (
	"cmp"
	"strings"

	"commissaire/domain"
	"commissaire/domain/event"
)

// The rules about hosts.
var (
	ErrNoHost   = domain.ErrNoHost
	ErrOtherKey = domain.Refuse(domain.Conflict, "host-has-another-key")
	// ErrKnownOtherwise refuses what is given of a host that is known otherwise.
	ErrKnownOtherwise = domain.Refuse(domain.Conflict, "host-known-otherwise")
	ErrOtherMember    = domain.Refuse(domain.Conflict, "host-in-another-cluster")
	ErrHostInHand     = domain.Refuse(domain.Conflict, "host-in-hand")
	ErrTaken          = domain.Refuse(domain.Conflict, "host-taken")
	ErrLeft           = domain.Refuse(domain.Conflict, "host-left")
	ErrOldTerm        = domain.Refuse(domain.Conflict, "old-term")
)

// AddHost makes a host known, and a member of a cluster where one is named. For a
// host that is known already nothing changes, and what is given of it (neither ""
// nor 0) must be as it is known.
func (r *Roster) AddHost(host event.HostAdded, cluster *domain.ClusterName, known Known) ([]event.RosterEvent, error) {
	var c Cluster
	if cluster != nil {
		var err error
		if c, err = r.cluster(*cluster); err != nil {
			return nil, ErrUnknownCluster.With("there is no cluster %q; create it first", *cluster)
		}
	}
	if old, ok := r.HostAt(host.Host); ok {
		switch {
		case host.Fingerprint != "" && old.Fingerprint != host.Fingerprint:
			return nil, ErrOtherKey.With("host %s is known with another key", host.Host)
		case cluster != nil && old.Cluster != c.ID:
			return nil, ErrOtherMember.With("host %s is known and not a member of cluster %s", host.Host, c.Name).
				Naming("cluster", string(c.Name)).Naming("host", string(host.Host))
		}
		return nil, old.contradicted(host, known)
	}
	if host.RemoteUser == "" {
		host.RemoteUser = domain.Root
	}
	if host.Fingerprint == "" {
		return nil, domain.ErrInvalid.At("ssh_priv_key", "a new host needs the base64 of an unencrypted private key")
	}
	events := []event.RosterEvent{host}
	if cluster != nil {
		events = append(events, event.HostJoined{HostID: host.HostID, Host: host.Host, ClusterID: c.ID, Cluster: c.Name})
	}
	return events, nil
}

// contradicted refuses what is given of a host and is not as it is known.
func (h Host) contradicted(given event.HostAdded, known Known) error {
	differs := func(field string, known, given any) error {
		return ErrKnownOtherwise.At(field, "host %s is known with %v, not with %v, and stays so", h.Host, known, given)
	}
	switch {
	case given.TakeOver && !h.TakeOver:
		return ErrKnownOtherwise.At("take_over", "host %s is known", h.Host).Naming("host", string(h.Host))
	case given.Port != 0 && given.Port != cmp.Or(h.Port, sshPort):
		return differs("ssh_port", cmp.Or(h.Port, sshPort), given.Port)
	case given.RemoteUser != "" && given.RemoteUser != cmp.Or(h.RemoteUser, domain.Root):
		return differs("remote_user", cmp.Or(h.RemoteUser, domain.Root), given.RemoteUser)
	}
	if given.HostKey != "" {
		if err := known.missing(h); err != nil {
			return err
		}
		switch key := cmp.Or(known.Hosts[h.HostID].Pinned, h.HostKey); key {
		case given.HostKey:
		case "":
			return differs("ssh_host_key", "none", given.HostKey)
		default:
			return ErrKnownOtherwise.At("ssh_host_key", "the key of host %s is %s, not %s", h.Host, key, given.HostKey).Naming("host", string(h.Host))
		}
	}
	if given.Certificate != "" && !sameCertificate(given.Certificate, h.Certificate) {
		return ErrKnownOtherwise.At("ssh_certificate", "host %s is known with another one, or without", h.Host)
	}
	return nil
}

// sshPort is where hosts are reached unless told otherwise.
const sshPort = 22

// sameCertificate compares two lines without their comments.
func sameCertificate(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) >= 2 && len(y) >= 2 && x[0] == y[0] && x[1] == y[1]
}

// RemoveHost makes a host unknown; if it is a member somewhere it leaves before.
func (r *Roster) RemoveHost(address domain.Address) ([]event.RosterEvent, error) {
	h, ok := r.HostAt(address)
	switch {
	case !ok:
		return nil, ErrNoHost.With("there is no host %s", address)
	case r.InHand(h):
		return nil, inHand(h)
	}
	return append(r.leave(h), event.HostRemoved{HostID: h.HostID, Host: address}), nil
}

// BeginTerm begins a term, which must be later than any before. Beginning the
// present one again changes nothing. A log that has no identity yet gets log.
func (r *Roster) BeginTerm(term domain.Term, instance string, log domain.LogID) ([]event.RosterEvent, error) {
	switch {
	case term < r.term:
		return nil, oldTerm(term, r.term)
	case term == r.term:
		return nil, nil
	}
	return []event.RosterEvent{event.TermBegun{Term: term, Instance: instance, Log: cmp.Or(r.log, log)}}, nil
}

func oldTerm(term, present domain.Term) error {
	return ErrOldTerm.With("term %d is over: %d has begun", term, present)
}

// TakeHost claims a host for a stretch of work. It is refused while another
// claim is held, unless that one is of an earlier term: its holder is gone; and
// for an operation where the host is no longer a member of its cluster. Taking
// again under the same claim changes nothing.
func (r *Roster) TakeHost(id domain.HostID, claim domain.ClaimID, by domain.OperationID, term domain.Term) ([]event.RosterEvent, error) {
	h, ok := r.hosts.Get(id)
	o, _ := r.operations.Get(by)
	switch {
	case !ok:
		return nil, ErrNoHost.With("the host was removed")
	case term < r.term:
		return nil, oldTerm(term, r.term)
	case h.Claim == claim && h.Term == term:
		return nil, nil
	case by != "" && h.Cluster != o.ClusterID:
		return nil, ErrLeft.With("host %s is no member of the cluster of operation %s", h.Host, by)
	case h.Claim != "" && h.Claim != claim && h.Term == term:
		return nil, ErrTaken.With("host %s is being worked on", h.Host)
	}
	return []event.RosterEvent{event.HostTaken{HostID: id, Host: h.Host, Claim: claim, Operation: by, Term: term}}, nil
}

// ReleaseHost ends a claim. Releasing what is not held changes nothing, nor does
// an earlier leader that releases what was taken again under the same claim, by a
// later one that carries the work on.
func (r *Roster) ReleaseHost(id domain.HostID, claim domain.ClaimID, term domain.Term) ([]event.RosterEvent, error) {
	h, ok := r.hosts.Get(id)
	if !ok || h.Claim != claim || h.Term > term {
		return nil, nil
	}
	return []event.RosterEvent{event.HostReleased{HostID: id, Host: h.Host, Claim: claim}}, nil
}

// InHand tells whether an operation that has not ended has the host in hand.
func (r *Roster) InHand(h Host) bool {
	o, ok := r.operations.Get(h.By)
	if !ok {
		return false
	}
	c, _ := r.clusters.Get(o.ClusterID)
	return c.Running == h.By
}

func (r *Roster) leave(h Host) []event.RosterEvent {
	c, ok := r.clusters.Get(h.Cluster)
	if !ok {
		return nil
	}
	return []event.RosterEvent{event.HostLeft{HostID: h.HostID, Host: h.Host, ClusterID: c.ID, Cluster: c.Name}}
}

func inHand(h Host) error {
	return ErrHostInHand.With("operation %s has host %s in hand; wait until its turn ends", h.By, h.Host).Naming("operation", string(h.By))
}
