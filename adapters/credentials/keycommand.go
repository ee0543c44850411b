package credentials

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"time"
)

// maxKey is how large what is kept of a key may be.
const maxKey = 64 << 10

// keyCommand has a command keep keys, such as one that talks to a vault. It is
// run by /bin/sh as COMMAND get|put|delete NAME or COMMAND list, for at most 30 s:
//
//   - get prints the key, in base64; nothing where there is none.
//   - put reads it, in base64, and keeps it whole or not at all. Of a name that
//     there is, it should fail.
//   - delete forgets it for good, older versions too; of what is not there it does so.
//   - list prints the names, one a line.
//
// Any exit status but 0 is a failure. What the command prints is told to nobody.
type keyCommand string

func (c keyCommand) run(ctx context.Context, input []byte, arguments ...string) ([]byte, error) {
	if len(arguments) > 1 {
		if err := checkName(arguments[1]); err != nil {
			return nil, err
		}
	}
	limited, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, "/bin/sh", append([]string{"-c", string(c) + ` "$@"`, "commissaire"}, arguments...)...)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = io.Discard
	cmd.WaitDelay = time.Second
	output, err := cmd.Output()
	switch {
	case err == nil:
		return bytes.TrimSpace(output), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		err = fmt.Errorf("it took more than %s", execTimeout)
	}
	// The error of a command that ran is its exit status; it repeats nothing.
	return nil, fmt.Errorf("the command of credentials.keys: %s: %w", arguments[0], err)
}

// Get implements Keys.
func (c keyCommand) Get(ctx context.Context, name string) ([]byte, error) {
	text, err := c.run(ctx, nil, "get", name)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, fs.ErrNotExist
	}
	key := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(key, text)
	if err != nil {
		return nil, errors.New("the command of credentials.keys: get: what it prints is not base64")
	}
	return key[:n], nil
}

// Put implements Keys. Between the look and the command another instance may
// have put the same name: the ids of credentials are new, and the check's key is
// the same everywhere.
func (c keyCommand) Put(ctx context.Context, name string, key []byte) error {
	switch _, err := c.Get(ctx, name); {
	case err == nil:
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	_, err := c.run(ctx, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), "put", name)
	if err == nil || name != checkID {
		return err
	}
	if _, getErr := c.Get(ctx, name); getErr == nil {
		return fs.ErrExist // another instance was faster
	}
	return err
}

// Delete implements Keys.
func (c keyCommand) Delete(ctx context.Context, name string) error {
	_, err := c.run(ctx, nil, "delete", name)
	return err
}

// List implements Keys.
func (c keyCommand) List(ctx context.Context) ([]string, error) {
	text, err := c.run(ctx, nil, "list")
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(text))
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, errors.New("the command of credentials.keys: list: it prints what cannot name a key")
		}
	}
	return names, nil
}
