package event

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Policy says how an operation crosses a cluster.
type Policy struct {
	MaxUnavailable Amount `json:"max_unavailable"` // hosts in hand at once, at least 1
	MaxFailures    Amount `json:"max_failures"`    // more failed hosts than this stop it
	Timeout        int    `json:"timeout"`         // seconds one host's command may take
}

// DefaultPolicy is one host after the other, stopping at the first that fails.
func DefaultPolicy() Policy { return Policy{MaxUnavailable: Amount{N: 1}, Timeout: 3600} }

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
