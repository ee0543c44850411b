package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

// Connections is how many idle connections to hosts are kept open. It is written as a
// number that is not negative, or "automatic": what files and memory have room for.
type Connections int

// Automatic is as many as there is room for.
const Automatic Connections = -1

// UnmarshalJSON reads "automatic" or a number.
func (c *Connections) UnmarshalJSON(data []byte) error {
	if string(data) == `"automatic"` {
		*c = Automatic
		return nil
	}
	var number int
	if err := json.Unmarshal(data, &number); err != nil || number < 0 {
		return errors.New("it must be \"automatic\", or a number of connections that is not less than 0")
	}
	*c = Connections(number)
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (c Connections) MarshalJSON() ([]byte, error) {
	if c == Automatic {
		return []byte(`"automatic"`), nil
	}
	return json.Marshal(int(c))
}

// Number is how many connections that is here and now.
func (c Connections) Number() int {
	if c != Automatic {
		return int(c)
	}
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		files.Cur = 1024
	}
	return room(files.Cur, usableMemory(os.ReadFile))
}

// room is how many idle connections take half of the files that may be open and an
// eighth of memory. One takes about 110 KiB.
func room(files, memory uint64) int {
	return int(min(files/2, memory/8/(128<<10), math.MaxInt32))
}

// usableMemory is what this process may use, in bytes: what the machine has, the limits of
// its control group, that of Go.
func usableMemory(read func(path string) ([]byte, error)) uint64 {
	bytes := uint64(max(0, debug.SetMemoryLimit(-1)))
	for _, limit := range []struct{ path, form string }{
		{"/proc/meminfo", "MemTotal: %d kB"},
		{"/sys/fs/cgroup/memory.max", "%d"},                   // version 2
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "%d"}, // version 1
	} {
		text, err := read(limit.path)
		if err != nil {
			continue
		}
		var n uint64
		if _, err := fmt.Sscanf(string(text), limit.form, &n); err != nil {
			continue // max: there is none
		}
		if strings.HasSuffix(limit.form, "kB") {
			n <<= 10
		}
		bytes = min(bytes, n)
	}
	return bytes
}
