package terminal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// ReadPassword reads a password: from a terminal twice and unseen, asking for it on
// out, else the first line of in. When ctx ends before, it returns an error, and the
// terminal is as it was.
func ReadPassword(ctx context.Context, in io.Reader, out io.Writer) ([]byte, error) {
	read := func() ([]byte, error) { return readLine(in) }
	restore := func() error { return nil }
	if file, ok := in.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		state, err := term.GetState(int(file.Fd()))
		if err != nil {
			return nil, fmt.Errorf("read the password: %w", err)
		}
		read = func() ([]byte, error) { return readTwice(int(file.Fd()), out) }
		restore = func() error { return term.Restore(int(file.Fd()), state) }
	}
	type answer struct {
		password []byte
		err      error
	}
	given := make(chan answer, 1)
	go func() {
		password, err := read()
		given <- answer{password, err}
	}()
	select {
	case a := <-given:
		if a.err != nil {
			return nil, fmt.Errorf("read the password: %w", a.err)
		}
		return a.password, nil
	case <-ctx.Done(): // a read cannot be interrupted
		return nil, errors.Join(errors.New("read the password: interrupted"), restore())
	}
}

func readLine(in io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

func readTwice(terminal int, out io.Writer) ([]byte, error) {
	var given [2][]byte
	for i, prompt := range []string{"Password: ", "Again: "} {
		_, _ = fmt.Fprint(out, prompt)
		password, err := term.ReadPassword(terminal)
		_, _ = fmt.Fprintln(out)
		if err != nil {
			return nil, err
		}
		given[i] = password
	}
	if !bytes.Equal(given[0], given[1]) {
		return nil, errors.New("the two are not the same")
	}
	return given[0], nil
}
