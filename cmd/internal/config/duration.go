package config

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Duration is written "90s", or as a number of seconds.
type Duration time.Duration

// UnmarshalJSON reads "90s" or 90.
func (d *Duration) UnmarshalJSON(data []byte) error {
	bad := fmt.Errorf("%s is no duration: write \"90s\", \"5m\" or a number of seconds", data)
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		if math.Abs(seconds) > math.MaxInt32 {
			return bad
		}
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		return bad
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		return bad
	}
	*d = Duration(value)
	return nil
}

// MarshalJSON writes "1m30s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }
