// Package arch holds the rules about who may know whom.
package arch

import (
	"bytes"
	"encoding/json"
	"os/exec"
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
}

// folders are all that may hold code.
var folders = []string{"cmd", "domain", "commands", "projections", "adapters", "api", "test"}

type goPackage struct {
	ImportPath string
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
