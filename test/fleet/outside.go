package fleet

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// The interpreter has ways to the machine that the simulation runs on, beside
// those that it lets others handle. They are closed here: by refusing scripts
// that would use them, and by having builtins do something else.

// userHome is ~name, where the interpreter would expand it: it looks into the
// machine's own list of users.
var userHome = regexp.MustCompile(`(^|[{,:=])~[^/:,}\s]`)

// confine refuses a script that would see the machine, and changes what it can
// change so that it does not.
func confine(text string, file *syntax.File) error {
	if strings.Contains(text, "PPID") {
		return errors.New("PPID is not simulated")
	}
	var err error
	documents := map[*syntax.Word]bool{} // here-documents: there is no ~ in them
	syntax.Walk(file, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Redirect:
			documents[n.Hdoc] = true
		case *syntax.ProcSubst:
			err = errors.New("process substitution is not simulated")
		case *syntax.Word:
			if lit, ok := n.Parts[0].(*syntax.Lit); ok && !documents[n] && userHome.MatchString(lit.Value) {
				err = fmt.Errorf("%s: the homes of users are not simulated", lit.Value)
			}
		case *syntax.ParamExp:
			if n.Param != nil && n.Param.Value == "$" { // $$ would be the simulation's own
				n.Param.Value, n.Short = pidVariable, false
			}
		}
		return err == nil
	})
	return err
}

// confined is what a builtin runs instead, which gets the text of a script as
// its argument at.
func confined(ctx context.Context, args []string, i int) []string {
	file, err := syntax.NewParser().Parse(strings.NewReader(args[i]), "")
	if err == nil {
		err = confine(args[i], file)
	}
	if err != nil {
		fmt.Fprintf(interp.HandlerCtx(ctx).Stderr, "sh: %v\n", err)
		return []string{"false"}
	}
	var text strings.Builder
	if err := syntax.NewPrinter().Print(&text, file); err != nil {
		return []string{"false"}
	}
	args = slices.Clone(args)
	args[i] = text.String()
	return args
}

// include is what the builtin . runs instead: the text of the file.
func include(ctx context.Context, args []string) []string {
	p := current(ctx)
	if len(args) != 2 {
		p.complain(args[0], errors.New("exactly one file is simulated"))
		return []string{"false"}
	}
	text, err := p.text(ctx, args[1])
	if err != nil {
		p.complain("sh", err)
		return []string{"false"}
	}
	return confined(ctx, []string{"eval", string(text)}, 1)
}
