package credentials

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// makeOne is how a master key is made.
const makeOne = "make one with: (umask 077; openssl rand -base64 32 > PATH)"

// MasterKey reads the 32 bytes of the master key, in base64, from where spec
// says: file:PATH (readable by its owner alone), env:NAME or exec:COMMAND (run
// by /bin/sh).
func MasterKey(ctx context.Context, spec string) ([]byte, error) {
	kind, where, _ := strings.Cut(spec, ":")
	var text []byte
	var err error
	switch kind {
	case "file":
		info, statErr := os.Stat(where)
		if statErr != nil {
			return nil, fmt.Errorf("master key: %w; %s", statErr, makeOne)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("master key: %s may be read by others; chmod 600 it", where)
		}
		text, err = os.ReadFile(where)
	case "env":
		text = []byte(os.Getenv(where))
	case "exec":
		text, err = exec.CommandContext(ctx, "/bin/sh", "-c", where).Output()
	default:
		return nil, fmt.Errorf("master key: name it as file:PATH, env:NAME or exec:COMMAND; %s", makeOne)
	}
	if err != nil {
		return nil, fmt.Errorf("master key: read it from %s: %w", kind, err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("master key: what %s gives is not the base64 of 32 bytes; %s", kind, makeOne)
	}
	return key, nil
}
