package ssh

import (
	"strings"
	"testing"
)

func BenchmarkWordsOfALongOutput(b *testing.B) {
	text := strings.Repeat("Get:12 http://deb.debian.org/debian bookworm/main amd64 libacme amd64 1.2-3 [120 kB]\nUnpacking libacme:amd64 (1.2-3) over (1.2-2) ...\n", 8000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var s saying
		s.add(text)
		_ = s.String()
	}
}
