package ssh

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
)

// Script is what runs on hosts: definitions only. What it is asked to do is one
// line after it, made by call.
//
//go:embed host.sh
var Script string

var (
	plain    = regexp.MustCompile(`^[A-Za-z0-9+/=-]*$`)
	turnName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	bootID   = regexp.MustCompile(`^[0-9a-fA-F-]{1,64}$`)
)

// call is the script with one request. An argument that is not plain text is
// refused, so that nothing can leave its quotes.
func call(marker, verb string, arguments ...string) (string, error) {
	var line strings.Builder
	line.WriteString("commissaire")
	for _, word := range append([]string{marker, verb}, arguments...) {
		if !plain.MatchString(word) {
			return "", fmt.Errorf("an argument of %s is not plain text", verb)
		}
		line.WriteString(" '" + word + "'")
	}
	return Script + "\n" + line.String() + " </dev/null\n", nil
}

// data makes any text plain.
func data(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
