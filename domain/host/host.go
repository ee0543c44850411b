// Package host decides what was learnt of a host and done to it, and what is
// still to be done. Whether it is a member somewhere is the roster's business.
package host

import (
	"slices"

	"commissaire/domain"
	"commissaire/domain/event"
)

// Host is what a host's events come to. Its zero value has no history.
type Host struct {
	facts        event.Facts
	investigated bool
	stale        bool // the facts are to be read again
	takeover     bool // before they are
	bootstrapped bool
	silent       bool
	failure      string
	manager      domain.ManagerID // that knows the host
	managerName  domain.ManagerName
	registering  domain.ManagerID // that was told of the host, or was about to be
	registerName domain.ManagerName
	registration string           // why that failed, or the opposite
	cordoned     domain.ManagerID // where a turn left the host's node cordoned
	uncordon     string           // why that could not be taken back
	key, shown   Key              // pinned; and the other one it shows
	others       []Key            // that it showed since the pinned one was pinned, the last mostOthers
}

// mostOthers is how many other keys that a host showed may still be accepted.
const mostOthers = 8

// Key is a host key.
type Key struct{ Type, Fingerprint string }

// ErrKeyNotShown refuses a host key that the host did not show.
var ErrKeyNotShown = domain.Refuse(domain.Conflict, "host-key-not-shown")

// Evolve brings the host up to e.
func (h *Host) Evolve(e event.HostEvent) {
	switch e := e.(type) {
	case event.HostInvestigated:
		h.facts, h.investigated, h.stale, h.silent, h.failure = e.Facts, true, false, false, ""
		h.takeover = false
	case event.HostInvestigationFailed:
		h.failure, h.stale = e.Reason, true
	case event.HostTakeoverOrdered:
		h.takeover, h.stale = true, true
	case event.HostBootstrapped:
		h.bootstrapped, h.failure = true, ""
	case event.HostBootstrapFailed:
		h.failure = e.Reason
	case event.HostRegistrationBegun:
		h.registering, h.registerName, h.registration = e.ManagerID, e.Manager, ""
	case event.HostRegistered:
		h.manager, h.managerName, h.registration = e.ManagerID, e.Manager, ""
		h.registering, h.registerName = "", ""
	case event.HostUnregistered:
		h.manager, h.managerName, h.registration = "", "", ""
		h.registering, h.registerName = "", ""
		h.cordoned, h.uncordon = "", "" // the node is gone
	case event.HostRegistrationFailed:
		h.registration = e.Reason
	case event.HostUncordonFailed:
		h.cordoned, h.uncordon = e.ManagerID, e.Reason
	case event.HostUncordoned:
		h.cordoned, h.uncordon = "", ""
	case event.HostKeyPinned:
		h.key, h.shown, h.others = Key{e.Type, e.Fingerprint}, Key{}, nil
	case event.HostKeyChanged:
		h.shown = Key{e.Type, e.Fingerprint}
		others := slices.DeleteFunc(slices.Clone(h.others), func(k Key) bool { return k == h.shown })
		h.others = append(others, h.shown)[max(0, len(others)+1-mostOthers):]
	case event.HostKeyShownAgain:
		h.shown, h.stale, h.failure = Key{}, true, ""
	case event.HostKeyAccepted:
		h.key, h.shown, h.stale, h.failure, h.others = Key{e.Type, e.Fingerprint}, Key{}, true, "", nil
	case event.HostWentSilent:
		h.silent = true
	case event.HostAnswered:
		h.silent, h.stale = false, true
	case event.HostRebooted:
		h.facts.BootID = e.BootID
	case event.HostCredentialsRead:
	}
}

// Facts are the latest known; false while there are none.
func (h *Host) Facts() (event.Facts, bool) { return h.facts, h.investigated }

// ToTakeOver tells whether the host is to be taken over before it is investigated
// next; added is what is recorded of it, and counts before the first time.
func (h *Host) ToTakeOver(added event.HostAdded) bool {
	return h.takeover || added.TakeOver && !h.investigated
}

// Pinned is the host's key; false before the first contact.
func (h *Host) Pinned() (Key, bool) { return h.key, h.key.Fingerprint != "" }

// Ready tells whether the host may join a cluster.
func (h *Host) Ready() bool {
	return h.bootstrapped && !h.silent && h.failure == "" && h.shown == Key{}
}

// OtherKey is the key that the host shows instead of the pinned one; false where it
// shows that.
func (h *Host) OtherKey() (Key, bool) { return h.shown, h.shown != Key{} }

// Watched tells whether the host is to be looked at from time to time: also one
// that shows another key, which may show the pinned one again.
func (h *Host) Watched() bool { return h.bootstrapped || h.shown != Key{} }

// Silent tells whether the host does not answer.
func (h *Host) Silent() bool { return h.silent }

// Registered is the container manager that knows the host, or may know it as nothing
// says how its registration ended; "" if none does.
func (h *Host) Registered() (domain.ManagerID, domain.ManagerName) {
	if h.manager == "" && h.registration == "" {
		return h.registering, h.registerName
	}
	return h.manager, h.managerName
}

// LeftCordoned is the container manager where a turn had to leave the host's node
// cordoned, "" if none did.
func (h *Host) LeftCordoned() domain.ManagerID { return h.cordoned }

// Step is what a host's upkeep calls for next.
type Step int

// The steps.
const (
	Nothing Step = iota
	Investigate
	Bootstrap
	Unregister // from the manager that knows it
	Register   // with the manager it should have
	Uncordon   // the node that a turn left cordoned
)

// Next is the upkeep that history leaves outstanding, for a host whose cluster's
// container manager is wanted ("": none). While the host shows another key nothing
// is done on it; what a container manager is told does not wait for a host that may
// never answer again.
func (h *Host) Next(wanted domain.ManagerID) Step {
	known, _ := h.Registered()
	switch {
	case known != "" && known != wanted:
		return Unregister
	case h.cordoned != "" && h.cordoned == wanted:
		return Uncordon
	case h.shown != Key{}:
		return Nothing
	case !h.silent && (!h.investigated || h.stale):
		return Investigate
	case h.silent:
		return Nothing
	case !h.bootstrapped:
		return Bootstrap
	case h.manager == "" && wanted != "":
		return Register
	}
	return Nothing
}

// RecordFacts records facts.
func (h *Host) RecordFacts(address domain.Address, facts event.Facts) []event.HostEvent {
	if h.investigated && !h.stale && !h.silent && h.failure == "" && h.facts == facts {
		return nil
	}
	return []event.HostEvent{event.HostInvestigated{Host: address, Facts: facts}}
}

// RecordInvestigationFailure records why there are no facts; the same reason once.
func (h *Host) RecordInvestigationFailure(address domain.Address, reason string) []event.HostEvent {
	if h.failure == reason {
		return nil
	}
	return []event.HostEvent{event.HostInvestigationFailed{Host: address, Reason: reason}}
}

// RecordBootstrap records that the host is fit.
func (h *Host) RecordBootstrap(address domain.Address, profile string) []event.HostEvent {
	if h.bootstrapped {
		return nil
	}
	return []event.HostEvent{event.HostBootstrapped{Host: address, Profile: profile}}
}

// RecordBootstrapFailure records why it is not; the same reason once.
func (h *Host) RecordBootstrapFailure(address domain.Address, reason string) []event.HostEvent {
	if h.failure == reason {
		return nil
	}
	return []event.HostEvent{event.HostBootstrapFailed{Host: address, Reason: reason}}
}

// BeginRegistration records that a container manager is about to be told of the host.
func (h *Host) BeginRegistration(address domain.Address, id domain.ManagerID, name domain.ManagerName) []event.HostEvent {
	if h.manager == id || h.registering == id {
		return nil
	}
	return []event.HostEvent{event.HostRegistrationBegun{Host: address, ManagerID: id, Manager: name}}
}

// RecordRegistration records that a container manager knows the host.
func (h *Host) RecordRegistration(address domain.Address, id domain.ManagerID, name domain.ManagerName) []event.HostEvent {
	if h.manager == id {
		return nil
	}
	return []event.HostEvent{event.HostRegistered{Host: address, ManagerID: id, Manager: name}}
}

// RecordUnregistration records that a container manager no longer knows the host.
func (h *Host) RecordUnregistration(address domain.Address, id domain.ManagerID, name domain.ManagerName) []event.HostEvent {
	if known, _ := h.Registered(); known != id {
		return nil
	}
	return []event.HostEvent{event.HostUnregistered{Host: address, ManagerID: id, Manager: name}}
}

// RecordRegistrationFailure records why a container manager could not be told; the
// same reason once.
func (h *Host) RecordRegistrationFailure(address domain.Address, id domain.ManagerID, name domain.ManagerName, reason string) []event.HostEvent {
	if h.registration == reason {
		return nil
	}
	return []event.HostEvent{event.HostRegistrationFailed{Host: address, ManagerID: id, Manager: name, Reason: reason}}
}

// RecordUncordonFailure records why a turn had to leave the host's node cordoned; the
// same reason once.
func (h *Host) RecordUncordonFailure(address domain.Address, id domain.ManagerID, name domain.ManagerName, reason string) []event.HostEvent {
	if h.cordoned == id && h.uncordon == reason {
		return nil
	}
	return []event.HostEvent{event.HostUncordonFailed{Host: address, ManagerID: id, Manager: name, Reason: reason}}
}

// RecordUncordon records that the node which a turn had left cordoned no longer is.
func (h *Host) RecordUncordon(address domain.Address, id domain.ManagerID, name domain.ManagerName) []event.HostEvent {
	if h.cordoned != id {
		return nil
	}
	return []event.HostEvent{event.HostUncordoned{Host: address, ManagerID: id, Manager: name}}
}

// RecordKey records the key a host showed: the first one is pinned, trusted by
// who added the host; another one stops all work, until the pinned one is shown
// again.
func (h *Host) RecordKey(address domain.Address, key Key, addedBy string) []event.HostEvent {
	switch {
	case h.key.Fingerprint == "":
		return []event.HostEvent{event.HostKeyPinned{Host: address, Type: key.Type, Fingerprint: key.Fingerprint, AddedBy: addedBy}}
	case h.key.Fingerprint == key.Fingerprint && h.shown != Key{}:
		return []event.HostEvent{event.HostKeyShownAgain{Host: address, Type: key.Type, Fingerprint: key.Fingerprint}}
	case h.key.Fingerprint == key.Fingerprint || h.shown == key:
		return nil
	}
	return []event.HostEvent{event.HostKeyChanged{Host: address, Type: key.Type, Fingerprint: key.Fingerprint}}
}

// RecordVouchedKey records a key that a certificate authority vouches for: it is the
// host's from now on, whatever was pinned before.
func (h *Host) RecordVouchedKey(address domain.Address, key Key, authority, addedBy string) []event.HostEvent {
	if h.key == key {
		return h.RecordKey(address, key, addedBy)
	}
	return []event.HostEvent{event.HostKeyPinned{Host: address, Type: key.Type, Fingerprint: key.Fingerprint, AddedBy: addedBy, Authority: authority}}
}

// AcceptKey makes a key that the host showed its key. To name the pinned one is to
// keep it, which changes nothing: the host recovers when it shows that.
func (h *Host) AcceptKey(address domain.Address, fingerprint string) ([]event.HostEvent, error) {
	if fingerprint == "" {
		return nil, domain.ErrInvalid.At("fingerprint", "name the host key to accept, as SHA256:…")
	}
	if fingerprint == h.key.Fingerprint {
		return nil, nil
	}
	for _, key := range slices.Backward(h.others) {
		if key.Fingerprint == fingerprint {
			return []event.HostEvent{event.HostKeyAccepted{Host: address, Type: key.Type, Fingerprint: fingerprint}}, nil
		}
	}
	return nil, ErrKeyNotShown.With("host %s did not show the key %.64q", address, fingerprint).Naming("host", string(address))
}

// OrderTakeover orders that the host be taken over from another installation. For
// a host of which nothing says that another one has it, nothing changes; nor does
// asking again.
func (h *Host) OrderTakeover(address domain.Address) []event.HostEvent {
	if h.takeover || h.investigated && !h.stale && h.failure == "" {
		return nil
	}
	return []event.HostEvent{event.HostTakeoverOrdered{Host: address}}
}

// RecordSilence records that the host no longer answers.
func (h *Host) RecordSilence(address domain.Address, reason string) []event.HostEvent {
	if h.silent {
		return nil
	}
	return []event.HostEvent{event.HostWentSilent{Host: address, Reason: reason}}
}

// RecordContact records a sign of life: that the host answers again, or was rebooted
// outside an operation. Nothing when all is as before.
func (h *Host) RecordContact(address domain.Address, bootID string) []event.HostEvent {
	var events []event.HostEvent
	if h.silent {
		events = append(events, event.HostAnswered{Host: address})
	}
	if h.investigated && h.facts.BootID != bootID {
		events = append(events, event.HostRebooted{Host: address, Before: h.facts.BootID, BootID: bootID})
	}
	return events
}

// Settling tells whether the host's first investigation and bootstrap are still
// under way, and have not failed.
func (h *Host) Settling() bool {
	return !h.bootstrapped && !h.silent && h.failure == "" && h.shown == Key{}
}
