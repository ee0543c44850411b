package domain

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestAFingerprintHasOneForm(t *testing.T) {
	sum := make([]byte, 32)
	for i := range sum {
		sum[i] = byte(7*i + 190)
	}
	raw, digits := base64.RawStdEncoding.EncodeToString(sum), hex.EncodeToString(sum)
	var pairs []string
	for i := range sum {
		pairs = append(pairs, digits[2*i:2*i+2])
	}
	colons := strings.Join(pairs, ":")
	for _, text := range []string{
		"SHA256:" + raw, "SHA256:" + raw + "=", "sha256:" + raw,
		digits, strings.ToUpper(digits), "SHA256:" + digits, colons, "SHA256:" + strings.ToUpper(colons),
	} {
		if got, err := ParseFingerprint(text); err != nil || got != "SHA256:"+raw {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}

	last := raw[:42]
	for _, text := range []string{
		"", "SHA256:", "SHA256:x", raw, raw + "=",
		"SHA256:" + raw + "==", "SHA256:=" + raw, "SHA256:" + raw + "\n", "SHA256:" + raw[:20] + "\n" + raw[20:], " SHA256:" + raw,
		"SHA256:" + raw[:42], "SHA256:" + raw + "A", "SHA256:" + last + "*", "SHA256:" + strings.Repeat("_", 43),
		"SHA256:" + last + string(raw[42]+1), // bits that are of no byte
		"SHA256:SHA256:" + raw, "MD5:" + colons[:47], colons[:47], "SHA1:" + raw, "SHA512:" + raw,
		digits[:62], digits + "00", digits[:63] + "g", colons + ":00", strings.Replace(colons, ":", "", 1), "0x" + digits,
		"256 SHA256:" + raw + " root@host (ED25519)", "ssh-ed25519 AAAA",
	} {
		_, err := ParseFingerprint(text)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "ssh-keygen -l") {
			t.Errorf("%q: %v", text, err)
		} else if len(text) > 8 && strings.Contains(err.Error(), text) {
			t.Errorf("%q is repeated: %v", text, err)
		}
	}
}
