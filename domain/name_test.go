package domain

import (
	"errors"
	"strings"
	"testing"
)

func TestAVersionHasOneForm(t *testing.T) {
	for _, text := range []string{"7", "41.20250101.0", "1:2.3~rc1+b-4_5", strings.Repeat("a", 128)} {
		if got, err := ParseVersion(text); err != nil || got != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-v1", ".1", "1 2", "1\n", "1;reboot", "$(reboot)", "é", strings.Repeat("a", 129)} {
		if _, err := ParseVersion(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
