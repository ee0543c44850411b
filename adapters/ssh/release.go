package ssh

import "strings"

// parseRelease reads what os-release says, as a POSIX shell that is fed with it
// would: quotes of both kinds, escapes, comments, the last of what is said twice. A
// line that is no assignment is left out. What a shell would expand stays as it is.
func parseRelease(text string) map[string]string {
	values := map[string]string{}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	for text != "" {
		said, rest := assignments(text)
		for _, word := range said {
			name, value, _ := strings.Cut(word, "=")
			values[name] = line(value, maxText/2)
		}
		text = rest
	}
	return values
}

// assignments reads one line of text, which goes on after a line break in quotes or
// behind a backslash, and what it assigns; nothing where there are other words.
func assignments(text string) (words []string, rest string) {
	var word strings.Builder
	begun, sound := false, true
	end := func() {
		if begun {
			words = append(words, word.String())
			sound = sound && isAssignment(word.String())
		}
		word.Reset()
		begun = false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n':
			end()
			return whole(words, sound), text[i+1:]
		case c == ' ' || c == '\t' || c == ';':
			end()
		case c == '#' && !begun:
			next := strings.IndexByte(text[i:], '\n')
			if next < 0 {
				next = len(text) - i
			}
			i += next - 1
		case c == '\'' || c == '"':
			length, content := quoted(text[i:])
			if length == 0 { // it is never closed: this line is lost, not the others
				_, rest, _ := strings.Cut(text[i:], "\n")
				return nil, rest
			}
			begun = true
			word.WriteString(content)
			i += length - 1
		case c == '\\' && i+1 < len(text):
			i++
			if text[i] != '\n' {
				begun = true
				word.WriteByte(text[i])
			}
		default:
			begun = true
			word.WriteByte(c)
		}
	}
	end()
	return whole(words, sound), ""
}

func whole(words []string, sound bool) []string {
	if !sound {
		return nil
	}
	return words
}

// quoted is how long the quoted string is with which text begins, and what is in it;
// 0 where its end is missing.
func quoted(text string) (length int, content string) {
	var said strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == text[0]:
			return i + 1, said.String()
		case c == '\\' && text[0] == '"' && i+1 < len(text) && strings.IndexByte("$\"\\`\n", text[i+1]) >= 0:
			i++
			if text[i] != '\n' {
				said.WriteByte(text[i])
			}
		default:
			said.WriteByte(c)
		}
	}
	return 0, ""
}

func isAssignment(word string) bool {
	name, _, found := strings.Cut(word, "=")
	if !found || name == "" || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) < 0
}
