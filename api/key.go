package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"commissaire/commands"
)

// readKey reads the base64 of a private key, as clients send it, or says what is
// wrong with that, without any of it. check says what is wrong with a key itself.
func readKey(text string, check func(commands.Secret) error) (commands.Secret, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		return key, nil
	}
	plain := check(commands.Secret(text))
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "=\r\n"))
	_, unpadded := base64.RawStdEncoding.DecodeString(standard)
	foreign := strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")
	switch {
	case plain == nil:
		return nil, errors.New("this is the private key itself; give its base64 (base64 -w0 FILE)")
	case unpadded == nil && strings.ContainsAny(text, "-_"):
		return nil, errors.New("this is base64 for URLs, with - and _; give it with + and / (base64 -w0 FILE)")
	case unpadded == nil:
		return nil, errors.New("this is base64 without the right number of = at its end (base64 -w0 FILE writes it)")
	case foreign == "":
		return nil, errors.New("this is base64 of which a part is missing, or that goes on after its end")
	case strings.TrimSpace(foreign) == "" || strings.Trim(foreign, " \t") != foreign:
		return nil, fmt.Errorf("there are blanks in it, which base64 does not have; as it is, %w", plain)
	}
	return nil, fmt.Errorf("there are characters in it that base64 does not have; as it is, %w", plain)
}
