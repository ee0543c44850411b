package process

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAReasonIsCutBetweenRunes(t *testing.T) {
	for _, text := range []string{"short", strings.Repeat("é", 512), "x" + strings.Repeat("é", 600), "xy" + strings.Repeat("語", 400)} {
		got := reason(errors.New(text))
		if !utf8.ValidString(got) || !strings.HasPrefix(text, got) || len(got) > 1024 || len(got) < min(len(text), 1024-utf8.UTFMax) {
			t.Errorf("of %d bytes it keeps %d: …%q", len(text), len(got), got[max(0, len(got)-6):])
		}
	}
}
