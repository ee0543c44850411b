package host

import (
	"fmt"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/test/scenario"
)

const address = domain.Address("10.0.0.1")

var (
	facts         = event.Facts{OS: "fedora", BootID: "b"}
	pinned        = event.HostKeyPinned{Host: address, Type: "ssh-ed25519", Fingerprint: "SHA256:a", AddedBy: "ann"}
	investigated  = event.HostInvestigated{Host: address, Facts: facts}
	bootstrapped  = event.HostBootstrapped{Host: address, Profile: "none"}
	registering   = event.HostRegistrationBegun{Host: address, ManagerID: "M", Manager: "m"}
	notRegistered = event.HostRegistrationFailed{Host: address, ManagerID: "M", Manager: "m", Reason: "no token"}
	registered    = event.HostRegistered{Host: address, ManagerID: "M", Manager: "m"}
	unregistered  = event.HostUnregistered{Host: address, ManagerID: "M", Manager: "m"}
	leftCordoned  = event.HostUncordonFailed{Host: address, ManagerID: "M", Manager: "m", Reason: "away"}
	uncordoned    = event.HostUncordoned{Host: address, ManagerID: "M", Manager: "m"}
	silent        = event.HostWentSilent{Host: address, Reason: "timeout"}
	answered      = event.HostAnswered{Host: address}
	changed       = event.HostKeyChanged{Host: address, Type: "ssh-ed25519", Fingerprint: "SHA256:b"}
	shownAgain    = event.HostKeyShownAgain{Host: address, Type: "ssh-ed25519", Fingerprint: "SHA256:a"}
	foreign       = event.HostInvestigationFailed{Host: address, Reason: "another installation"}
	takeover      = event.HostTakeoverOrdered{Host: address}
	accepted      = event.HostKeyAccepted{Host: address, Type: "ssh-ed25519", Fingerprint: "SHA256:b"}
)

func given(t *testing.T, events ...event.HostEvent) *scenario.Scenario[*Host, event.HostEvent] {
	t.Helper()
	return scenario.Given(t, &Host{}, (*Host).Evolve, events...)
}

type decision = func(*Host) ([]event.HostEvent, error)

func TestWhatAHostNeedsNext(t *testing.T) {
	for name, c := range map[string]struct {
		history []event.HostEvent
		wanted  domain.ManagerID
		next    Step
		ready   bool
	}{
		"a new host":                  {nil, "", Investigate, false},
		"facts are known":             {[]event.HostEvent{pinned, investigated}, "", Bootstrap, false},
		"it is fit":                   {[]event.HostEvent{pinned, investigated, bootstrapped}, "", Nothing, true},
		"its cluster is managed":      {[]event.HostEvent{investigated, bootstrapped}, "M", Register, true},
		"its manager may know it":     {[]event.HostEvent{investigated, bootstrapped, registering}, "M", Register, true},
		"it left, may be known":       {[]event.HostEvent{investigated, bootstrapped, registering}, "", Unregister, true},
		"another, the first may":      {[]event.HostEvent{investigated, bootstrapped, registering}, "N", Unregister, true},
		"it left, is not known":       {[]event.HostEvent{investigated, bootstrapped, registering, notRegistered}, "", Nothing, true},
		"another, the first does not": {[]event.HostEvent{investigated, bootstrapped, registering, notRegistered}, "N", Register, true},
		"it left, was unregistered":   {[]event.HostEvent{investigated, bootstrapped, registering, unregistered}, "", Nothing, true},
		"its manager knows it":        {[]event.HostEvent{investigated, bootstrapped, registered}, "M", Nothing, true},
		"it left the cluster":         {[]event.HostEvent{investigated, bootstrapped, registered}, "", Unregister, true},
		"another manager":             {[]event.HostEvent{investigated, bootstrapped, registered}, "N", Unregister, true},
		"it is silent":                {[]event.HostEvent{investigated, bootstrapped, silent}, "M", Nothing, false},
		"it answers again":            {[]event.HostEvent{investigated, bootstrapped, silent, answered}, "", Investigate, true},
		"it showed another host key":  {[]event.HostEvent{pinned, investigated, bootstrapped, changed}, "M", Nothing, false},
		"it shows its own again":      {[]event.HostEvent{pinned, investigated, bootstrapped, changed, shownAgain}, "", Investigate, true},
		"that was accepted":           {[]event.HostEvent{pinned, investigated, bootstrapped, changed, accepted}, "", Investigate, true},
		"it left while it is silent":  {[]event.HostEvent{investigated, bootstrapped, registered, silent}, "", Unregister, false},
		"its node is cordoned":        {[]event.HostEvent{investigated, bootstrapped, registered, leftCordoned}, "M", Uncordon, true},
		"that while it is silent":     {[]event.HostEvent{investigated, bootstrapped, registered, leftCordoned, silent}, "M", Uncordon, false},
		"that was taken back":         {[]event.HostEvent{investigated, bootstrapped, registered, leftCordoned, uncordoned}, "M", Nothing, true},
		"its cordoned node is gone":   {[]event.HostEvent{investigated, bootstrapped, registered, leftCordoned, unregistered}, "", Nothing, true},
		"another one's":               {[]event.HostEvent{investigated, bootstrapped, foreign}, "", Investigate, false},
		"it is to be taken over":      {[]event.HostEvent{investigated, bootstrapped, foreign, takeover}, "", Investigate, false},
		"it was":                      {[]event.HostEvent{investigated, bootstrapped, foreign, takeover, investigated}, "", Nothing, true},
		"its bootstrap failed":        {[]event.HostEvent{investigated, event.HostBootstrapFailed{Host: address, Reason: "r"}}, "", Bootstrap, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := &Host{}
			for _, e := range c.history {
				h.Evolve(e)
			}
			if got := h.Next(c.wanted); got != c.next {
				t.Errorf("next is %d, want %d", got, c.next)
			}
			if h.Ready() != c.ready {
				t.Errorf("ready is %t", h.Ready())
			}
		})
	}
}

func TestTheFirstKeyIsPinnedAndAnotherStopsAllWork(t *testing.T) {
	show := func(fingerprint string) decision {
		return func(h *Host) ([]event.HostEvent, error) {
			return h.RecordKey(address, Key{"ssh-ed25519", fingerprint}, "ann"), nil
		}
	}
	given(t).When(show("SHA256:a")).Then(pinned)
	given(t, pinned).When(show("SHA256:a")).Then()
	given(t, pinned).When(show("SHA256:b")).Then(changed)
	given(t, pinned, changed).When(show("SHA256:a")).Then(shownAgain)
	given(t, pinned, changed, shownAgain).When(show("SHA256:b")).Then(changed)
}

func TestAKeyThatAnAuthorityVouchesForIsNoChangedKey(t *testing.T) {
	vouch := func(fingerprint string) decision {
		return func(h *Host) ([]event.HostEvent, error) {
			return h.RecordVouchedKey(address, Key{"ssh-ed25519", fingerprint}, "SHA256:ca", "ann"), nil
		}
	}
	first := pinned
	first.Authority = "SHA256:ca"
	second := first
	second.Fingerprint = "SHA256:b"
	given(t).When(vouch("SHA256:a")).Then(first)
	given(t, pinned).When(vouch("SHA256:a")).Then()
	given(t, pinned).When(vouch("SHA256:b")).Then(second)
	given(t, pinned, changed).When(vouch("SHA256:b")).Then(second)
	given(t, pinned, changed).When(vouch("SHA256:a")).Then(shownAgain)
}

func TestOnlyAKeyThatWasShownIsAccepted(t *testing.T) {
	accept := func(fingerprint string) decision {
		return func(h *Host) ([]event.HostEvent, error) { return h.AcceptKey(address, fingerprint) }
	}
	given(t, pinned, changed).When(accept("SHA256:b")).Then(accepted)
	given(t, pinned, changed).When(accept("SHA256:c")).ThenRefused(ErrKeyNotShown)
	given(t, pinned, changed).When(accept("")).ThenRefused(domain.ErrInvalid)
	given(t, pinned).When(accept("SHA256:b")).ThenRefused(ErrKeyNotShown)
	third := changed
	third.Fingerprint = "SHA256:d"
	given(t, pinned, changed, third).When(accept("SHA256:b")).Then(accepted)
	given(t, pinned, changed, shownAgain).When(accept("SHA256:b")).Then(accepted)
	given(t, pinned, changed, accepted, third).When(accept("SHA256:a")).ThenRefused(ErrKeyNotShown)
	// To name the pinned one is to keep it, shown or not.
	given(t, pinned).When(accept("SHA256:a")).Then()
	given(t, pinned, changed).When(accept("SHA256:a")).Then()
	given(t, pinned, changed, shownAgain).When(accept("SHA256:a")).Then()
}

func TestOfTheOtherKeysThatWereShownTheLastOnesMayBeAccepted(t *testing.T) {
	h := &Host{}
	h.Evolve(pinned)
	show := func(i int) event.HostKeyChanged {
		return event.HostKeyChanged{Host: address, Type: "ssh-ed25519", Fingerprint: fmt.Sprint("SHA256:", i)}
	}
	for i := range 100 {
		h.Evolve(show(i))
		h.Evolve(show(99))
	}
	if len(h.others) != mostOthers {
		t.Errorf("%d keys are kept", len(h.others))
	}
	if events, err := h.AcceptKey(address, "SHA256:98"); err != nil || len(events) != 1 {
		t.Errorf("%v, %v", events, err)
	}
}

// same is a decision that refuses nothing.
func same(f func(h *Host) []event.HostEvent) decision {
	return func(h *Host) ([]event.HostEvent, error) { return f(h), nil }
}

func TestOnlyChangesAreRecorded(t *testing.T) {
	failed := event.HostInvestigationFailed{Host: address, Reason: "no route"}
	given(t).When(same(func(h *Host) []event.HostEvent { return h.RecordInvestigationFailure(address, "no route") })).Then(failed)
	given(t, failed).When(same(func(h *Host) []event.HostEvent { return h.RecordFacts(address, facts) })).Then(investigated)
	given(t, investigated).When(same(func(h *Host) []event.HostEvent { return h.RecordContact(address, "b") })).Then()
	given(t, investigated).When(same(func(h *Host) []event.HostEvent { return h.RecordContact(address, "c") })).
		Then(event.HostRebooted{Host: address, Before: "b", BootID: "c"})
	given(t, investigated, silent).When(same(func(h *Host) []event.HostEvent { return h.RecordContact(address, "b") })).Then(answered)
	given(t, silent).When(same(func(h *Host) []event.HostEvent { return h.RecordSilence(address, "timeout") })).Then()
	given(t).When(same(func(h *Host) []event.HostEvent { return h.RecordUncordonFailure(address, "M", "m", "away") })).Then(leftCordoned)
	given(t, leftCordoned).When(same(func(h *Host) []event.HostEvent { return h.RecordUncordonFailure(address, "M", "m", "away") })).Then()
	given(t, leftCordoned).When(same(func(h *Host) []event.HostEvent { return h.RecordUncordon(address, "M", "m") })).Then(uncordoned)
	given(t, registered).When(same(func(h *Host) []event.HostEvent { return h.RecordUncordon(address, "M", "m") })).Then()
}

func TestAHostIsTakenOverFromAnotherInstallation(t *testing.T) {
	order := func(h *Host) ([]event.HostEvent, error) { return h.OrderTakeover(address), nil }
	given(t).When(order).Then(takeover)
	given(t, pinned, foreign).When(order).Then(takeover)
	given(t, pinned, foreign, takeover).When(order).Then()
	given(t, investigated, bootstrapped).When(order).Then()
	given(t, investigated, foreign).When(order).Then(takeover)
	given(t, investigated, foreign, takeover, investigated).When(order).Then()

	var h Host
	added := event.HostAdded{TakeOver: true}
	for i, want := range []bool{true, true, false, false, true, true} {
		if got := h.ToTakeOver(added); got != want {
			t.Errorf("after %d events it is to be taken over: %v", i, got)
		}
		h.Evolve([]event.HostEvent{foreign, investigated, foreign, takeover, foreign, investigated}[i])
	}
	if h.ToTakeOver(added) {
		t.Error("it was taken over, and is to be again")
	}
}

func TestItIsRecordedOnceThatARegistrationBegins(t *testing.T) {
	begin := func(h *Host) []event.HostEvent { return h.BeginRegistration(address, "M", "m") }
	unregister := func(h *Host) []event.HostEvent { return h.RecordUnregistration(address, "M", "m") }
	given(t).When(same(begin)).Then(registering)
	given(t, registering).When(same(begin)).Then()
	given(t, registering, notRegistered).When(same(begin)).Then()
	given(t, registered).When(same(begin)).Then()
	given(t, registering).When(same(unregister)).Then(unregistered)
	given(t, registering, notRegistered).When(same(unregister)).Then()
	given(t, registering, unregistered).When(same(begin)).Then(registering)
}
