package event

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"commissaire/domain"
)

// Policy says how an operation crosses a cluster. Its JSON is what a client
// sends, what GET shows and what is stored.
type Policy struct {
	MaxUnavailable Amount   `json:"max_unavailable"`         // hosts in hand at once, at least 1
	Batches        []Amount `json:"batches,omitempty"`       // growing steps instead; the last repeats
	MaxFailures    Amount   `json:"max_failures"`            // more failed hosts than this stop it
	PauseAfter     int      `json:"pause_after,omitempty"`   // hosts, after which it pauses by itself; 0: it does not
	Delay          int      `json:"delay,omitempty"`         // seconds between batches
	Health         *Health  `json:"health,omitempty"`        // what a host must pass before its turn ends
	Drain          *Drain   `json:"drain,omitempty"`         // nil: with the defaults, where the cluster is managed
	Order          *Order   `json:"order,omitempty"`         // nil: by address
	Only           *Only    `json:"only,omitempty"`          // nil: all members
	Window         *Window  `json:"window,omitempty"`        // outside it no host is begun
	Timeout        int      `json:"timeout"`                 // seconds one host's command may take
	Reboot         Reboot   `json:"reboot,omitzero"`         // after a deploy or an upgrade
	Stage          bool     `json:"stage,omitempty"`         // ostree: download on all hosts before the first is begun
	BypassDriver   bool     `json:"bypass_driver,omitempty"` // ostree: also where another program drives the updates
}

// DefaultPolicy is one host after the other, stopping at the first that fails.
func DefaultPolicy() Policy { return Policy{MaxUnavailable: Amount{N: 1}, Timeout: 3600} }

// Equal tells whether both ask for the same.
func (p Policy) Equal(q Policy) bool { return reflect.DeepEqual(p, q) }

// Amount is a number of hosts, or a percentage of them. As JSON it is 3 or "25%".
type Amount struct {
	N       int
	Percent bool
}

// Of is the amount out of total hosts, a percentage rounded down.
func (a Amount) Of(total int) int {
	if a.Percent {
		return total * a.N / 100
	}
	return a.N
}

// MarshalJSON writes 3 or "25%".
func (a Amount) MarshalJSON() ([]byte, error) {
	if a.Percent {
		return json.Marshal(strconv.Itoa(a.N) + "%")
	}
	return json.Marshal(a.N)
}

// UnmarshalJSON reads 3 or "25%".
func (a *Amount) UnmarshalJSON(data []byte) error {
	var percent string
	if json.Unmarshal(data, &percent) != nil {
		*a = Amount{}
		return json.Unmarshal(data, &a.N)
	}
	n, ok := strings.CutSuffix(percent, "%")
	if !ok {
		return fmt.Errorf("%q is neither a number nor a percentage", percent)
	}
	value, err := strconv.Atoi(n)
	*a = Amount{N: value, Percent: true}
	return err
}

// Health is the gate that a host passes after its work. Exactly one of Command,
// TCP, HTTP and NodeReady is there.
type Health struct {
	Command   string `json:"command,omitempty"`    // run on the host by sh, as root; healthy is exit status 0
	TCP       int    `json:"tcp,omitempty"`        // a port of the host that takes connections
	HTTP      string `json:"http,omitempty"`       // a URL without a host, e.g. http://:8080/healthz; healthy is 2xx
	NodeReady bool   `json:"node_ready,omitempty"` // the container manager says that the node is ready
	Timeout   int    `json:"timeout"`              // seconds until the host must have passed
	StableFor int    `json:"stable_for"`           // seconds it must stay healthy
}

// Drain says how a host of a managed cluster is emptied before its work. As
// JSON it is false, true or an object.
type Drain struct {
	Off      bool
	Timeout  int  // seconds
	Grace    int  // seconds each pod has; -1: as long as the pod says
	Continue bool // when the time is over go on, instead of failing the host
}

// DefaultDrain is how hosts of managed clusters are emptied unless told otherwise.
func DefaultDrain() Drain { return Drain{Timeout: 300, Grace: -1} }

type drainForm struct {
	Timeout   int    `json:"timeout"`
	Grace     int    `json:"grace"`
	OnTimeout string `json:"on_timeout"`
}

// The values of on_timeout.
const (
	onTimeoutFail     = "fail"
	onTimeoutContinue = "continue"
)

// MarshalJSON writes false or an object.
func (d Drain) MarshalJSON() ([]byte, error) {
	if d.Off {
		return []byte("false"), nil
	}
	form := drainForm{d.Timeout, d.Grace, onTimeoutFail}
	if d.Continue {
		form.OnTimeout = onTimeoutContinue
	}
	return json.Marshal(form)
}

// UnmarshalJSON reads false, true or an object, in which what is absent is as in
// DefaultDrain.
func (d *Drain) UnmarshalJSON(data []byte) error {
	*d = DefaultDrain()
	switch string(data) {
	case "true":
		return nil
	case "false":
		*d = Drain{Off: true}
		return nil
	}
	form := drainForm{d.Timeout, d.Grace, onTimeoutFail}
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	if form.OnTimeout != onTimeoutFail && form.OnTimeout != onTimeoutContinue {
		return fmt.Errorf("on_timeout must be %q or %q", onTimeoutFail, onTimeoutContinue)
	}
	*d = Drain{Timeout: form.Timeout, Grace: form.Grace, Continue: form.OnTimeout == onTimeoutContinue}
	return nil
}

// Order is in which order hosts have their turn. As JSON it is "address",
// "random", or a list of addresses that go first.
type Order struct {
	Random bool
	First  []domain.Address
}

const (
	byAddress = "address"
	random    = "random"
)

// MarshalJSON writes "address", "random" or a list.
func (o Order) MarshalJSON() ([]byte, error) {
	switch {
	case o.Random:
		return json.Marshal(random)
	case len(o.First) > 0:
		return json.Marshal(o.First)
	}
	return json.Marshal(byAddress)
}

// UnmarshalJSON reads "address", "random" or a list.
func (o *Order) UnmarshalJSON(data []byte) error {
	*o = Order{}
	switch string(data) {
	case `"` + byAddress + `"`:
		return nil
	case `"` + random + `"`:
		o.Random = true
		return nil
	}
	if err := json.Unmarshal(data, &o.First); err != nil || o.First == nil {
		return fmt.Errorf("neither %q nor %q nor a list of addresses", byAddress, random)
	}
	return nil
}

// Only is to which members an operation is limited. As JSON it is a list of
// addresses, or "failed": those that the last operation of the same kind failed
// on or did not reach.
type Only struct {
	Failed bool
	Hosts  []domain.Address
}

const onlyFailed = "failed"

// MarshalJSON writes "failed" or a list.
func (o Only) MarshalJSON() ([]byte, error) {
	if o.Failed {
		return json.Marshal(onlyFailed)
	}
	return json.Marshal(o.Hosts)
}

// UnmarshalJSON reads "failed" or a list.
func (o *Only) UnmarshalJSON(data []byte) error {
	*o = Only{}
	if string(data) == `"`+onlyFailed+`"` {
		o.Failed = true
		return nil
	}
	if err := json.Unmarshal(data, &o.Hosts); err != nil || o.Hosts == nil {
		return fmt.Errorf("neither %q nor a list of addresses", onlyFailed)
	}
	return nil
}

// Window is when hosts may be begun: on these days, from a time of day to
// another, as clocks in the zone show it. Where To is before From the window ends
// on the day after.
type Window struct {
	Days []string `json:"days,omitempty"` // mon, tue, wed, thu, fri, sat, sun; none: all
	From string   `json:"from"`           // 22:00
	To   string   `json:"to"`             // 04:30
	Zone string   `json:"zone"`           // of the IANA database, e.g. Europe/Berlin
}

// Reboot is whether a host is rebooted after its work. As JSON it is false, true
// or "if-needed".
type Reboot int

// The values of Reboot.
const (
	NoReboot Reboot = iota
	AlwaysReboot
	RebootIfNeeded // where a new deployment or kernel is pending, or the distribution says so
)

const ifNeeded = "if-needed"

// MarshalJSON writes false, true or "if-needed".
func (r Reboot) MarshalJSON() ([]byte, error) {
	if r == RebootIfNeeded {
		return json.Marshal(ifNeeded)
	}
	return json.Marshal(r == AlwaysReboot)
}

// UnmarshalJSON reads false, true or "if-needed".
func (r *Reboot) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "false":
		*r = NoReboot
	case "true":
		*r = AlwaysReboot
	case `"` + ifNeeded + `"`:
		*r = RebootIfNeeded
	default:
		return fmt.Errorf("neither false nor true nor %q", ifNeeded)
	}
	return nil
}
