// Package arch holds the rules about who may know whom.
package arch

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "commissaire"

// rules say what packages below a folder must do without, themselves; what
// they may get through others is bound by the others' rules.
var rules = []struct {
	below   string
	without []string
	why     string
}{
	{"domain", []string{"context", "log", "log/slog", "os", "net/http", "database/sql", module + "/commands", module + "/projections", module + "/adapters", module + "/api"}, "a decision waits for nothing and does no I/O"},
	{"domain/event", []string{module + "/domain/roster", module + "/domain/host", module + "/domain/operation"}, "a fact does not know who decided it"},
	{"domain/policy", []string{module + "/domain/roster", module + "/domain/host", module + "/domain/operation"}, "what may be asked for does not depend on who carries it out"},
	{"domain/roster", []string{module + "/domain/host", module + "/domain/operation"}, "those who decide meet through facts"},
	{"domain/host", []string{module + "/domain/roster", module + "/domain/operation"}, "those who decide meet through facts"},
	{"domain/operation", []string{module + "/domain/roster", module + "/domain/host"}, "those who decide meet through facts"},
	{"commands", []string{module + "/adapters", module + "/api", module + "/projections", "net/http", "golang.org/x/crypto/ssh"}, "commands declare ports and decide on history"},
	{"commands/sleep", []string{module}, "all who wait import it"},
	{"projections", []string{module + "/commands", module + "/adapters", module + "/api", module + "/domain/roster", module + "/domain/host", module + "/domain/operation"}, "a view reads facts and changes nothing"},
	{"api", []string{module + "/adapters", module + "/domain/event", module + "/domain/roster", module + "/domain/host", module + "/domain/operation"}, "clients see views, and adapters are wired by cmd"},
	{"adapters", []string{module + "/api", module + "/projections"}, "adapters are called, they do not call up"},
	{"adapters/ssh", []string{module + "/adapters"}, "adapters do without one another"},
	{"adapters/credentials", []string{module + "/adapters"}, "adapters do without one another"},
	{"adapters/snapshots", []string{module + "/adapters"}, "adapters do without one another"},
	{"adapters/output", []string{module + "/adapters"}, "adapters do without one another"},
	{"adapters/containermanager", []string{module + "/adapters"}, "adapters do without one another"},
	{"domain", []string{module + "/cmd"}, "the program is built of the others, and known to none of them"},
	{"commands", []string{module + "/cmd"}, "the program is built of the others, and known to none of them"},
	{"projections", []string{module + "/cmd"}, "the program is built of the others, and known to none of them"},
	{"adapters", []string{module + "/cmd"}, "the program is built of the others, and known to none of them"},
	{"api", []string{module + "/cmd"}, "the program is built of the others, and known to none of them"},
	{"cmd/internal", []string{"github.com/spf13/cobra", module + "/cmd/commissaire"}, "what the program does can be used without its command line"},
	{"cmd/internal", []string{module + "/cmd/internal/demo"}, "the demo is a command and no part of anything"},
	{"cmd/internal/store", []string{module + "/cmd/internal/config", module + "/cmd/internal/service", module + "/cmd/internal/archive"}, "a store is opened by its URL, whatever is configured"},
	{"cmd/internal/config", []string{module + "/cmd/internal/service", module + "/cmd/internal/archive"}, "a configuration is read before anything runs"},
	{"cmd/internal/archive", []string{module + "/cmd/internal/service"}, "copies are made without a service"},
}

// folders are all that may hold code.
var folders = []string{"cmd", "domain", "commands", "projections", "adapters", "api", "test"}

type goPackage struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p goPackage
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list names %d packages only", len(all))
	}
	return all
}

func within(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func TestPackagesDoWithoutWhatTheyMustNotKnow(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, rule := range rules {
			if !within(path, rule.below) {
				continue
			}
			for _, imported := range p.Imports {
				for _, forbidden := range rule.without {
					if imported == forbidden || strings.HasPrefix(forbidden, module) && within(imported, forbidden) {
						t.Errorf("%s imports %s: %s", p.ImportPath, imported, rule.why)
					}
				}
			}
		}
	}
}

// TestWhatTheProgramIsBuiltOfIsThere has the rules about cmd speak of packages that exist.
func TestWhatTheProgramIsBuiltOfIsThere(t *testing.T) {
	known := map[string]bool{}
	for _, p := range packages(t) {
		known[strings.TrimPrefix(p.ImportPath, module+"/")] = true
	}
	for _, name := range []string{"store", "config", "service", "archive", "demo", "terminal"} {
		if !known["cmd/internal/"+name] {
			t.Errorf("there is no cmd/internal/%s", name)
		}
	}
}

func TestCodeLiesWhereAReaderLooksForIt(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		top, _, _ := strings.Cut(path, "/")
		known := false
		for _, folder := range folders {
			known = known || top == folder
		}
		if !known {
			t.Errorf("%s lies in none of %v", p.ImportPath, folders)
		}
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// routes are how texts name a request to the API.
var routes = regexp.MustCompile(`\b(GET|PUT|POST|DELETE) (/|it\b)|/(cluster|containermanager|host|network|operation)s?/|X-Commissaire-`)

// recorded are texts that name routes and stay as they are: they are reasons in
// events, which views show as they were recorded.
var recorded = []string{
	"or PUT /host/%s/hostkey accepts it", "stop it; then PUT /host/%s/takeover", "then take it over here: PUT /host/%s/takeover",
}

// TestWhoDecidesKnowsNoRoutes: a refusal has a code, and the API adds by it what to
// ask for instead.
func TestWhoDecidesKnowsNoRoutes(t *testing.T) {
	found := map[string]bool{}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		if !within(path, "domain") && !within(path, "commands") {
			continue
		}
		for _, name := range p.GoFiles {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				text, ok := n.(*ast.BasicLit)
				if !ok || text.Kind != token.STRING || !routes.MatchString(text.Value) {
					return true
				}
				if i := slices.IndexFunc(recorded, func(end string) bool { return strings.HasSuffix(strings.Trim(text.Value, "\"`"), end) }); i >= 0 {
					found[recorded[i]] = true
				} else {
					t.Errorf("%s: %s names a route: the API says what to ask for", files.Position(text.Pos()), text.Value)
				}
				return true
			})
		}
	}
	if len(found) != len(recorded) {
		t.Errorf("of the recorded texts there are only %v", found)
	}
}
