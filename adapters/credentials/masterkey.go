package credentials

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"commissaire/commands"

	"golang.org/x/crypto/chacha20poly1305"
)

// makeOne is how a master key is made.
const makeOne = "make one with: (umask 077; openssl rand -base64 32 > PATH)"

// execTimeout is how long the command of exec: may take.
const execTimeout = 30 * time.Second

// Source reads a secret from where spec says: file:PATH (for its owner alone),
// env:NAME or exec:COMMAND (run by /bin/sh, at most 30 s; what it says on standard
// error is shown there). Errors name the source and never what it gave.
func Source(ctx context.Context, spec string) (commands.Secret, error) {
	kind, where, _ := strings.Cut(spec, ":")
	switch kind {
	case "file":
		return readPrivate(where)
	case "env":
		value, set := os.LookupEnv(where)
		if !set {
			return nil, fmt.Errorf("the environment has no %s", where)
		}
		return commands.Secret(value), nil
	case "exec":
		return output(ctx, where)
	}
	return nil, errors.New("name it as file:PATH, env:NAME or exec:COMMAND")
}

// MasterKey reads the 32 bytes of the master key, as such or in base64, from a
// Source.
func MasterKey(ctx context.Context, spec string) ([]byte, error) {
	text, err := Source(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("master key: %w; %s", err, makeOne)
	}
	kind, _, _ := strings.Cut(spec, ":")
	if len(text) == chacha20poly1305.KeySize {
		return text, nil
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != chacha20poly1305.KeySize {
		return nil, fmt.Errorf("master key: what %s: gives is neither 32 bytes nor the base64 of 32 bytes; %s", kind, makeOne)
	}
	return key, nil
}

// readPrivate reads a file of which nobody but its owner may know.
func readPrivate(path string) (text []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so that others than its owner may use it: chmod 600 %s", path, mode, path)
	}
	return io.ReadAll(io.LimitReader(file, 64<<10)) // more is no key
}

func output(ctx context.Context, command string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the command of exec: failed: %w", err)
	}
	return text, nil
}
