package terminal

import (
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// NewTable aligns cells that end with a tab, two blanks apart. Nothing is written
// before Flush, which returns the error of writing it.
func NewTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

// Escape returns text without control characters, which a terminal would act on;
// text that has none is returned as it is.
func Escape(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	if inside := quoted[1 : len(quoted)-1]; strings.Contains(inside, `\x`) || strings.Contains(inside, `\u`) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
		return strings.ReplaceAll(inside, `\"`, `"`)
	}
	return text
}
