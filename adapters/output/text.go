package output

import (
	"unicode"
	"unicode/utf8"
)

// makeHarmless makes text fit to be shown anywhere, in place and byte for byte, and
// returns how much of it is done: what follows is the beginning of something that
// what comes next decides, unless nothing comes next (last).
func makeHarmless(text []byte, last bool) (done int) {
	for done < len(text) {
		c := text[done]
		switch {
		case c == '\r' && done+1 == len(text) && !last:
			return done
		case c == '\r' && done+1 < len(text) && text[done+1] == '\n':
			text[done] = ' '
			done++
			continue
		case c == '\r':
			text[done] = '\n'
			done++
			continue
		case c == '\n' || c == '\t' || c >= ' ' && c < 0x7f:
			done++
			continue
		case c >= utf8.RuneSelf && !last && !utf8.FullRune(text[done:]):
			return done
		}
		r, size := utf8.DecodeRune(text[done:])
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			for i := range size {
				text[done+i] = '?'
			}
		}
		done += size
	}
	return done
}

// wholeLength is how much of text is valid UTF-8 up to its end: a part of a character
// there is not.
func wholeLength(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if c := text[len(text)-n]; utf8.RuneStart(c) {
			if !utf8.FullRune(text[len(text)-n:]) {
				return len(text) - n
			}
			break
		}
	}
	return len(text)
}
