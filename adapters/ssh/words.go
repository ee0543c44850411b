package ssh

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// words are those of a text from a host that say why something failed, on one line
// that is fit to be stored, of at most maxReason bytes: the first line that calls
// itself an error and the last that says anything, with " … " between them where
// they are two. They are "" where the text says nothing.
func words(text string) string {
	var said saying
	said.add(text)
	return said.String()
}

// saying finds words in a text that comes piece by piece. It holds a few lines,
// however long the text is. The zero value has heard nothing yet.
type saying struct {
	next int64  // byte that comes next
	row  []byte // the line that has not ended
	said string // the statement that may go on in the next line
	goes bool   // it ends with a colon: what is indented below belongs to it

	mistake string // the first statement that is an error
	failing string // the last one before it that something did not work
	last    string // of any weight
	any     string // of none

	key    string // of the setting that was said last
	run    int    // how many settings were said one after the other
	before string // last, before those
}

const maxRow = 2 << 10 // bytes of a line that are held, of its beginning and its end

// addFrom adds what comes from a byte on. What was added already is passed over.
func (s *saying) addFrom(from int64, text []byte) {
	if skip := s.next - from; skip > 0 {
		text = text[min(skip, int64(len(text))):]
		from = s.next
	}
	if from > s.next {
		s.end()
	}
	s.add(string(text))
	s.next = from + int64(len(text))
}

func (s *saying) add(text string) {
	for text != "" {
		end := strings.IndexAny(text, "\n\r")
		if end < 0 {
			s.grow(text)
			return
		}
		s.grow(text[:end])
		s.end()
		text = text[end+1:]
	}
}

func (s *saying) grow(text string) {
	if len(text) > maxRow {
		text = text[:maxRow/2] + text[len(text)-maxRow/2:]
	}
	s.row = append(s.row, text...)
	if over := len(s.row) - maxRow; over > 0 {
		s.row = append(s.row[:maxRow/2], s.row[maxRow/2+over:]...)
	}
}

// end ends a line. One that is indented, or the first, belongs to the statement
// before it, if that ended with a colon.
func (s *saying) end() {
	row := strings.ToValidUTF8(string(s.row), "\uFFFD")
	s.row = s.row[:0]
	text := row
	if strings.ContainsAny(row, "\x1b\u009b") {
		text = escapes.ReplaceAllString(row, "")
	}
	text = strings.Join(strings.Fields(printable(text)), " ")
	if !strings.ContainsFunc(text, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
		return
	}
	text = shorten(text, maxReason)
	indented := strings.HasPrefix(row, " ") || strings.HasPrefix(row, "\t")
	if s.goes && (indented || strings.HasSuffix(s.said, ":")) {
		s.said = shorten(s.said+" "+text, maxReason)
		return
	}
	s.weigh()
	s.said, s.goes = text, strings.HasSuffix(text, ":") && (setting(text)+":" != text || mistake.MatchString(text))
}

// weigh takes note of the statement that is whole now.
func (s *saying) weigh() {
	text := s.said
	s.said, s.goes = "", false
	if text == "" {
		return
	}
	lower := strings.ToLower(text)
	if !slices.ContainsFunc(signs, func(sign string) bool { return strings.Contains(lower, sign) }) &&
		!slices.ContainsFunc(starts, func(start string) bool { return strings.HasPrefix(lower, start) }) {
		s.note(text)
		return
	}
	switch {
	case mistake.MatchString(text):
		if s.mistake == "" {
			s.mistake = text
		}
		s.last, s.run = text, 0
	case aside.MatchString(text):
		s.any = text
	case failing.MatchString(text):
		if s.mistake == "" {
			s.failing = text
		}
		s.last, s.run = text, 0
	default:
		s.note(text)
	}
}

// note takes note of a statement that need not be about a failure. Three settings
// in a row are a list of them, of which none says anything.
func (s *saying) note(text string) {
	key := setting(text)
	switch {
	case key == "" || key == s.key:
		s.run = 0
	case s.run == 0:
		s.run, s.before = 1, s.last
	default:
		s.run++
	}
	s.key = key
	if s.run < 3 {
		s.last = text
		return
	}
	s.last, s.any = s.before, text
}

// String is what was found so far.
func (s *saying) String() string {
	found := *s
	found.row = append([]byte(nil), s.row...)
	found.end()
	found.weigh()
	first, last := found.mistake, found.last
	switch {
	case last == "":
		last = found.any
	case first == "" || first == last:
		first = found.failing
	}
	last = strings.TrimRight(last, ": ")
	first = strings.TrimRight(first, ": ")
	if first == "" || strings.Contains(last, first) {
		return last
	}
	const between = " … "
	room := maxReason - len(between)
	switch half := room / 2; {
	case len(first) <= half:
		last = shorten(last, room-len(first))
	case len(last) <= half:
		first = shorten(first, room-len(last))
	default:
		first, last = shorten(first, half), shorten(last, half)
	}
	return first + between + last
}

// shorten takes out of the middle of text what is more than limit bytes, between
// runes.
func shorten(text string, limit int) string {
	const gap = "…"
	if len(text) <= limit {
		return text
	}
	end := max(0, limit-len(gap)) / 3
	from := len(text) - end
	for from < len(text) && !utf8.RuneStart(text[from]) {
		from++
	}
	return clip(text, max(0, limit-len(gap))-end) + gap + text[from:]
}

// setting is the name in a line of a list of settings, such as `enabled = 1` or
// `baseurl: file:///srv`; "" in any other line.
func setting(text string) string {
	name := strings.TrimRight(text[:max(0, strings.IndexAny(text, ":="))], " ")
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789_.", r) }) {
		return ""
	}
	value := strings.TrimLeft(text[len(name):], " ")[1:]
	if value != "" && value[0] != ' ' {
		return ""
	}
	return name
}

// A line that one of the expressions below is in has one of these in it, or begins
// with one, in lower case: most lines do not, and long outputs have many.
var (
	signs = []string{
		"fatal", "err", "panic", "fehler", "fout", "fel", "ошибка", "错误", "エラー", "exception", "critical", "level=",
		"fail", "cannot", "can't", "could", "unable", " not", "no such", "no space", "nothing provides", "denied", "refused", "reject",
		"time", "unreachable", "unauthori", "forbidden", "invalid", "missing", "expired", "unmet", "conflict", "corrupt", "killed", "aborted",
		"warn", "note", "notice", "info", "debug", "locale",
	}
	starts = []string{"e: ", "w: ", "n: ", "i: ", "not ", "see", "try", "run", "us", "for ", "debconf", "["}
)

var (
	// escapes are those of terminals: of colours, of titles, and the rest.
	escapes = regexp.MustCompile("(?:\x1b\\[|\u009b)[0-?]*[ -/]*[@-~]|\x1b\\][^\a\x1b]*(?:\a|\x1b\\\\)?|\x1b[ -/]*[0-~]")

	// mistake is how programs begin to say that something is an error, be it after
	// their names.
	mistake = regexp.MustCompile(`^E: |^(?:[^\s:]+: ){0,3}(?i:fatal|errors?|fatal error|panic|fehler|erreur|errore|fout|fel|ошибка|错误|エラー)(?:[:!,]|\s|$)` +
		`|^[\w.]+(?:Error|Exception): |\blevel=(?:error|fatal|panic)\b|\b(?:ERROR|FATAL|CRITICAL)\b`)

	// failing is what programs say that do not call it an error.
	failing = regexp.MustCompile(`(?i)\b(?:fail(?:ed|s|ure)?|cannot|can(?:'|no)t|could(?: no|n'|n’)t|unable|do(?:es)? not|did not|no such|no space|nothing provides|` +
		`not (?:found|installed|signed|allowed|permitted|authori[sz]ed|available|running|supported|trusted|valid|enough)|` +
		`denied|refused|rejected|time[d-]? ?out|unreachable|unauthori[sz]ed|forbidden|invalid|missing|expired|unmet|conflicts?|corrupt(?:ed)?|killed|aborted)\b`)

	// aside are warnings, what is said of every failure, and where to read on.
	aside = regexp.MustCompile(`^[WNI]: |(?i)^(?:[^\s:]+: ){0,3}\[?(?:warning|warn|notice|note|info|debug)\b|\bwarning: |\blocale|^debconf: |unable to resolve host|` +
		`^(?:see|try|run|use|usage)\b.*(?:--help|for (?:more )?(?:details|information))|^for (?:more|further) (?:details|information)\b|^\[[^\]]*\]$`)
)

// remedy is what can be done about what a host said to a user in place of an answer;
// "" where nobody knows.
func remedy(said, user string) string {
	for _, r := range remedies {
		if r.said.MatchString(said) {
			return "; " + strings.ReplaceAll(r.wanted, "USER", user)
		}
	}
	return ""
}

var remedies = []struct {
	said   *regexp.Regexp
	wanted string
}{
	{regexp.MustCompile(`(?i)\bsudo: (?:command )?not found|sudo.*: No such file`), "install sudo there, or give root as remote_user"},
	{regexp.MustCompile(`(?i)must have a tty|no tty present`), "`Defaults:USER !requiretty` is wanted in its sudoers, and the rule `USER ALL=(root) NOPASSWD: ALL`"},
	{regexp.MustCompile(`(?i)^(?:.* )?sudo(?:-rs)?: |\bsudoers\b|may not run sudo|not allowed to (?:execute|run)`), "the rule `USER ALL=(root) NOPASSWD: ALL` is wanted in its sudoers, or at least the command /bin/sh in place of the last ALL"},
	{regexp.MustCompile(`(?i)password (?:has |is )?expired|password change required|change your password|password aging`), "change the password of USER there, or let it not expire (chage -M -1 USER)"},
	{regexp.MustCompile(`(?i)account (?:has |is )?expired`), "let the account of USER not expire there (chage -E -1 USER)"},
	{regexp.MustCompile(`(?i)account is (?:currently )?not available`), "give USER a shell there (usermod -s /bin/sh USER)"},
	{regexp.MustCompile(`(?i)log ?in as (?:the )?(?:user )?["'\x60]`), "give that user as remote_user"},
}
