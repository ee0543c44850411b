package domain

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

const (
	fingerprintKind = "SHA256:"
	fingerprintSize = 32
)

// ParseFingerprint reads the SHA-256 fingerprint of a public key and brings it to
// its one form, that of ssh-keygen -l: SHA256: and base64 without padding. Padded
// base64 and 64 hexadecimal digits, which may have colons between the bytes, are
// taken too, and the digits also without SHA256: before them. A refusal repeats
// nothing of what was given.
func ParseFingerprint(s string) (string, error) {
	text, named := s, false
	if len(s) > len(fingerprintKind) && strings.EqualFold(s[:len(fingerprintKind)], fingerprintKind) {
		text, named = s[len(fingerprintKind):], true
	}
	digits := text
	if len(text) == 3*fingerprintSize-1 && strings.Count(text, ":") == fingerprintSize-1 {
		digits = strings.ReplaceAll(text, ":", "")
	}
	sum, err := hex.DecodeString(digits)
	if err != nil && named && !strings.ContainsAny(text, "\r\n") { // which the decoder skips
		sum, err = base64.RawStdEncoding.Strict().DecodeString(strings.TrimSuffix(text, "="))
	}
	if err != nil || len(sum) != fingerprintSize {
		return "", ErrInvalid.With("must be a SHA-256 fingerprint: SHA256: and 43 characters of base64, as ssh-keygen -l prints it, or 64 hexadecimal digits")
	}
	return fingerprintKind + base64.RawStdEncoding.EncodeToString(sum), nil
}
