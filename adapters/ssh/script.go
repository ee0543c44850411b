package ssh

import (
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// Script is what runs on hosts: definitions only. A shell reads it once; what it
// is asked to do then is one line each, made by call.
//
//go:embed host.sh
var Script string

var (
	plain    = regexp.MustCompile(`^[A-Za-z0-9+/=-]*$`)
	turnName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	bootID   = regexp.MustCompile(`^[0-9a-fA-F-]{1,64}$`)
)

// bootIDVerb is the one request that does without the script.
const bootIDVerb = "bootid"

// bootIDCall reads the boot id with what every POSIX shell has built in: it is
// asked of every host about once a minute, so neither a script is sent for it nor
// a process begun.
const bootIDCall = `id=; read -r id </proc/sys/kernel/random/boot_id; printf '\n%s begin\n\n%s boot-id\n%s\n\n%s end\n' ` +
	"MARKER MARKER \"$id\" MARKER\n"

// call is the line that asks for something. An argument that is not plain text
// is refused, so that nothing can leave its quotes.
func call(marker, verb string, arguments ...string) (string, error) {
	if verb == bootIDVerb {
		return strings.ReplaceAll(bootIDCall, "MARKER", marker), nil
	}
	var line strings.Builder
	line.WriteString("commissaire")
	for _, word := range append([]string{marker, verb}, arguments...) {
		if !plain.MatchString(word) {
			return "", fmt.Errorf("an argument of %s is not plain text", verb)
		}
		line.WriteString(" '" + word + "'")
	}
	return line.String() + " </dev/null\n", nil
}

// newMarker makes what frames one answer. Nothing that a host said before it
// was asked can hold it.
func newMarker() string {
	random := make([]byte, 16)
	rand.Read(random) // never fails
	return hex.EncodeToString(random)
}

// data makes any text plain.
func data(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
