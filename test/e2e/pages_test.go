package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

// The pages of this repository are held against the program. A block of code in
// one of them is
//
//	sh                      run, on a service and simulated hosts, in the order of the page
//	sh not run: WHY         not run; what it names has to be there all the same
//	json configuration      read as a configuration
//	json policy             taken by a dry run of an upgrade
//	yaml, or no language    text
//
// and anything else is refused.

const repository = "../.."

// page is a page of documentation.
type page struct {
	path   string // below the repository
	text   string // without blocks of code
	blocks []block
}

// block is a block of code on a page.
type block struct {
	where    string // page and line
	language string // sh, json, yaml; "": text
	label    string // what comes after the language
	text     string
}

var (
	inlineCode = regexp.MustCompile("`([^`]+)`")
	link       = regexp.MustCompile(`\]\(([^)]+)\)`)
)

// spans are the pieces of code within the text, each on one line.
func (p page) spans() (all []string) {
	for _, match := range inlineCode.FindAllStringSubmatch(p.text, -1) {
		all = append(all, strings.Join(strings.Fields(match[1]), " "))
	}
	return all
}

// links are the files and anchors of this repository that the page refers to.
func (p page) links() (all []string) {
	for _, match := range link.FindAllStringSubmatch(p.text, -1) {
		if !strings.Contains(match[1], "://") {
			all = append(all, match[1])
		}
	}
	return all
}

// anchors are the names of the headings, as links have them.
func (p page) anchors() map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(p.text) {
		if heading := strings.TrimLeft(line, "#"); heading != line {
			anchor := strings.Map(func(r rune) rune {
				if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789- ", r) {
					return r
				}
				return -1
			}, strings.ToLower(strings.TrimSpace(heading)))
			all[strings.ReplaceAll(anchor, " ", "-")] = true
		}
	}
	return all
}

// commandLines are the shell commands of the blocks, one on each line, without
// comments.
func (p page) commandLines() (all []string) {
	comment := regexp.MustCompile(`(?m)(^|\s)#.*$`)
	for _, b := range p.blocks {
		if b.language == "sh" || b.language == "" {
			text := comment.ReplaceAllString(strings.ReplaceAll(b.text, "\\\n", " "), "")
			all = append(all, strings.Split(text, "\n")...)
		}
	}
	return all
}

func readPage(t *testing.T, name string) page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	p, number := page{path: name}, 0
	var open *block
	for line := range strings.Lines(string(text)) {
		number++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			language, label, _ := strings.Cut(fence, " ")
			open = &block{where: fmt.Sprintf("%s:%d", name, number), language: language, label: label}
		case isFence:
			p.blocks, open = append(p.blocks, *open), nil
		case open != nil:
			open.text += line
		default:
			p.text += line
		}
	}
	if open != nil {
		t.Fatalf("%s: a block of code does not end", open.where)
	}
	return p
}

// pages are all pages that links lead to: README first, and then in the order in
// which a reader comes to them from there.
func pages(t *testing.T) []page {
	t.Helper()
	all := []page{readPage(t, "README.md")}
	seen := map[string]bool{"README.md": true, "CHANGELOG.md": true}
	for i := 0; i < len(all); i++ {
		for _, to := range all[i].links() {
			file, _, _ := strings.Cut(to, "#")
			name := path.Join(path.Dir(all[i].path), file)
			if _, err := os.Stat(filepath.Join(repository, name)); err == nil && path.Ext(file) == ".md" && !seen[name] {
				seen[name] = true
				all = append(all, readPage(t, name))
			}
		}
	}
	return all
}

func TestEveryPageIsReachedFromREADME(t *testing.T) {
	t.Parallel()
	known := map[string]page{}
	for _, p := range pages(t) {
		known[p.path] = p
	}
	if lines := strings.Count(string(read(t, "README.md")), "\n"); lines > 150 {
		t.Errorf("README.md has %d lines; what binds in one folder belongs to a page there", lines)
	}
	if err := filepath.WalkDir(repository, func(file string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(repository, file)
		_, reached := known[name]
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || name == "bin" || name == "var"):
			return fs.SkipDir
		case filepath.Ext(name) == ".md" && !reached && name != "CHANGELOG.md":
			t.Errorf("no page that README.md leads to has a link to %s", name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range known {
		for _, to := range p.links() {
			if err := p.leads(to, known); err != nil {
				t.Errorf("%s: a link to %s: %v", p.path, to, err)
			}
		}
	}
}

// leads says what is wrong with a link of the page.
func (p page) leads(to string, known map[string]page) error {
	file, anchor, _ := strings.Cut(to, "#")
	name := path.Join(path.Dir(p.path), file)
	if file == "" {
		name = p.path
	}
	if _, err := os.Stat(filepath.Join(repository, name)); err != nil {
		return err
	}
	if anchor != "" && !known[name].anchors()[anchor] {
		return errors.New("there is no such heading")
	}
	return nil
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPagesNameTargetsThatThereAre(t *testing.T) {
	t.Parallel()
	target := regexp.MustCompile(`^make ([a-z][a-z0-9-]*)`)
	makefile := string(read(t, "Makefile"))
	found := 0
	for _, p := range pages(t) {
		for _, text := range slices.Concat(p.spans(), p.commandLines()) {
			if match := target.FindStringSubmatch(text); match != nil {
				found++
				if !strings.Contains("\n"+makefile, "\n"+match[1]+":") {
					t.Errorf("%s: there is no target for %s", p.path, match[0])
				}
			}
		}
	}
	if found < 5 {
		t.Errorf("found %d targets only", found)
	}
}

// help is what the program says of a command; "" where there is no such command.
var help = func() func(command string) string {
	var mu sync.Mutex
	known := map[string]string{}
	available := regexp.MustCompile(`(?s)Available Commands:\n(.*?)\n\n`)
	return func(command string) string {
		mu.Lock()
		defer mu.Unlock()
		if text, ok := known[command]; ok {
			return text
		}
		words := strings.Fields(command)
		ask := func(words []string) string {
			out, _ := exec.Command(program, append(slices.Clone(words), "--help")...).Output()
			return string(out)
		}
		text := ask(words)
		if len(words) > 0 {
			list := available.FindString(ask(words[:len(words)-1]))
			if !strings.Contains(list, "\n  "+words[len(words)-1]+" ") {
				text = ""
			}
		}
		known[command] = text
		return text
	}
}()

var word = regexp.MustCompile(`^[a-z][a-z-]*$`)

// flagsOf checks that a command line, without the program's name, is of a command
// that there is, and has flags of that command. It says what is wrong.
func flagsOf(line string) error {
	words := strings.Fields(line)
	command := ""
	for len(words) > 0 && word.MatchString(words[0]) && strings.Contains(help(command), "Available Commands:") {
		command, words = strings.TrimSpace(command+" "+words[0]), words[1:]
		if help(command) == "" {
			return fmt.Errorf("there is no command %q", command)
		}
	}
	for _, flag := range words {
		name, _, _ := strings.Cut(strings.Trim(flag, "\"'`),."), "=")
		if len(name) > 1 && strings.HasPrefix(name, "-") && !regexp.MustCompile(`(?m)(^|\s)`+regexp.QuoteMeta(name)+`\b`).MatchString(help(command)) {
			return fmt.Errorf("%q has no flag %s", command, name)
		}
	}
	return nil
}

func TestPagesNameCommandsAndFlagsThatThereAre(t *testing.T) {
	t.Parallel()
	invoked := regexp.MustCompile(`(?:^|[|;&(]\s*|\./cmd/)commissaire\s+([^|;&)>]*)`)
	substituted := regexp.MustCompile(`\$\((?:date|cat|base64)[^()]*\)`)
	found := 0
	for _, p := range pages(t) {
		for _, text := range slices.Concat(p.spans(), p.commandLines()) {
			for _, match := range invoked.FindAllStringSubmatch(substituted.ReplaceAllString(text, "X"), -1) {
				found++
				if err := flagsOf(match[1]); err != nil {
					t.Errorf("%s: %s: %v", p.path, text, err)
				}
			}
		}
		for _, span := range p.spans() {
			if err := abbreviated(span); err != nil {
				t.Errorf("%s: %s: %v", p.path, span, err)
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d commands only", found)
	}
}

// abbreviated says what is wrong with code that is a command without the program's
// name, or a flag without its command.
func abbreviated(span string) error {
	first, rest, _ := strings.Cut(span, " ")
	switch {
	case strings.HasPrefix(first, "--") && !someCommandHas(first):
		return errors.New("no command has that flag")
	case strings.HasPrefix(rest, "-") && word.MatchString(first) && help(first) != "":
		return flagsOf(span)
	}
	return nil
}

// someCommandHas tells whether any command has a flag.
func someCommandHas(flag string) bool {
	listed := regexp.MustCompile(`(?m)^  ([a-z-]+) `)
	commands := []string{""}
	for i := 0; i < len(commands); i++ {
		text := help(commands[i])
		if regexp.MustCompile(`(?m)\s` + regexp.QuoteMeta(flag) + `\b`).MatchString(text) {
			return true
		}
		_, list, _ := strings.Cut(text, "Available Commands:\n")
		list, _, _ = strings.Cut(list, "\n\n")
		for _, match := range listed.FindAllStringSubmatch(list, -1) {
			if match[1] != "help" && match[1] != "completion" {
				commands = append(commands, strings.TrimSpace(commands[i]+" "+match[1]))
			}
		}
	}
	return false
}

// configurationKeys are all keys, dotted, and their sections.
func configurationKeys(t *testing.T) (keys, sections map[string]bool) {
	t.Helper()
	out, err := configured(t, "{}")
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(out, &config); err != nil {
		t.Fatal(err)
	}
	keys, sections = map[string]bool{}, map[string]bool{}
	var add func(prefix string, object map[string]any)
	add = func(prefix string, object map[string]any) {
		for name, value := range object {
			keys[prefix+name] = true
			if nested, ok := value.(map[string]any); ok {
				sections[prefix+name] = true
				add(prefix+name+".", nested)
			}
		}
	}
	add("", config)
	return keys, sections
}

// configured is what the program makes of a configuration.
func configured(t *testing.T, text string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "serve", "--config", "-", "--print-config")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return out, err
}

func TestPagesNameKeysOfTheConfigurationThatThereAre(t *testing.T) {
	t.Parallel()
	keys, sections := configurationKeys(t)
	variables := map[string]bool{}
	for key := range keys {
		variables["COMMISSAIRE_"+strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(key))] = true
	}
	dotted := regexp.MustCompile(`^([a-z-]+)\.[a-z.-]+$`)
	file := regexp.MustCompile(`\.(db|json|sh|yaml|md|go)$`)
	variable := regexp.MustCompile(`COMMISSAIRE_[A-Z_]+[A-Z]`)
	found := 0
	for _, p := range pages(t) {
		for _, span := range p.spans() {
			match := dotted.FindStringSubmatch(span)
			if match == nil || !sections[match[1]] || file.MatchString(span) {
				continue
			}
			found++
			if !keys[span] {
				t.Errorf("%s: there is no key %s", p.path, span)
			}
		}
		for _, name := range slices.Concat(variable.FindAllString(p.text, -1), variable.FindAllString(strings.Join(p.commandLines(), "\n"), -1)) {
			if !variables[name] && !namedInCode(t, name) {
				t.Errorf("%s: there is no variable %s", p.path, name)
			}
		}
		for _, b := range p.blocks {
			if b.language == "json" && b.label == "configuration" {
				if _, err := configured(t, b.text); err != nil {
					t.Errorf("%s: %v", b.where, err)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d keys only", found)
	}
}

// namedInCode tells whether a variable for tests is read anywhere.
func namedInCode(t *testing.T, variable string) bool {
	t.Helper()
	if !strings.HasPrefix(variable, "COMMISSAIRE_TEST_") {
		return false
	}
	err := exec.CommandContext(t.Context(), "grep", "-rqw", "--include=*.go", "--include=Makefile", variable, repository).Run()
	return err == nil
}

func TestPagesNameRoutesThatThereAre(t *testing.T) {
	t.Parallel()
	document, err := openapi3.NewLoader().LoadFromFile(filepath.Join(repository, "api", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`^(?:(GET|PUT|DELETE) )?(…?/[^ ?]+)(\?\S*)?$`)
	asked := regexp.MustCompile(`\$api(/[^\s"'?]*)`)
	found := 0
	check := func(p page, method, route string) {
		found++
		if !routed(document, method, route) {
			t.Errorf("%s: there is no route %s %s", p.path, method, route)
		}
	}
	for _, p := range pages(t) {
		for _, span := range p.spans() {
			match := named.FindStringSubmatch(span)
			if match != nil && (match[1] != "" || strings.HasPrefix(match[2], "…")) {
				check(p, match[1], match[2])
			}
		}
		for _, line := range p.commandLines() {
			method := "GET"
			if strings.Contains(line, "-X PUT") {
				method = "PUT"
			}
			for _, match := range asked.FindAllStringSubmatch(line, -1) {
				check(p, method, match[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("found %d routes only", found)
	}
}

// routed tells whether the API document has a route. Where the route begins with
// … that is its end; method "" is any.
func routed(document *openapi3.T, method, route string) bool {
	wanted := strings.Split(strings.TrimPrefix(route, "…"), "/")[1:]
	for documented, item := range document.Paths.Map() {
		if method != "" && item.GetOperation(method) == nil {
			continue
		}
		has := strings.Split(strings.TrimPrefix(documented, "/api/v0"), "/")[1:]
		if strings.HasPrefix(route, "…") && len(has) > len(wanted) {
			has = has[len(has)-len(wanted):]
		}
		if slices.EqualFunc(has, wanted, func(has, wanted string) bool { return has == wanted || strings.HasPrefix(has, "{") }) {
			return true
		}
	}
	return false
}

// story is a directory in which the commands of pages are run, with a service and
// simulated hosts that the pages say how to start.
type story struct {
	t     *testing.T
	dir   string
	names *strings.Replacer // what the pages call things, and what they are called here
	given string            // what README.md sets, as shell commands
	vars  string            // that, and what the page has set so far
}

// What the commands of pages mean here. Streams of events, and what follows them,
// are looked at for a second. The program is built already, and runs already where
// a page starts it; the other targets of make have tests of their own.
const meaning = `set -eu -o pipefail
make() {
	case $1 in
	build) go build -o bin/ ./cmd/commissaire ;;
	esac
}
go() {
	case "$*" in
	"build -o bin/ ./cmd/commissaire") mkdir -p bin && cp "$PROGRAM" bin/ ;;
	"run ./cmd/commissaire demo --hold") ;;
	*) echo "what is go $*?" >&2; return 1 ;;
	esac
}
briefly() { timeout -s INT 1 "$@" || [ $? = 124 ]; }
commissaire() {
	case " $* " in
	*" --follow "*) briefly "$PROGRAM" "$@" ;;
	*) "$PROGRAM" "$@" ;;
	esac
}
curl() {
	case " $* " in
	*" -N "*) briefly curl --fail-with-body "$@" ;;
	*) command curl --fail-with-body "$@" ;;
	esac
}
`

func TestTheCommandsOfPagesWork(t *testing.T) {
	t.Parallel()
	if *storeKind != "sqlite" {
		t.Skip("what is tried by hand has its log in SQLite")
	}
	for _, tool := range []string{"bash", "curl", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not there, and the pages use it", tool)
		}
	}
	s := newStory(t)
	ran := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if s.try(b) {
				ran++
			}
		}
		if p.path == "README.md" {
			s.given = s.vars
		}
		s.vars = s.given
	}
	if ran < 15 {
		t.Errorf("ran %d blocks only", ran)
	}
}

// try does with a block what its kind says, and tells whether it was run.
func (s *story) try(b block) bool {
	s.t.Helper()
	switch kind := strings.TrimSpace(b.language + " " + b.label); {
	case kind == "sh":
		s.shell(b.where, b.text)
		s.vars += strings.Join(assigned.FindAllString(b.text, -1), "")
		return true
	case kind == "json policy":
		body := strings.Replace(b.text, "{", `{"dry_run": true, `, 1)
		s.shell(b.where, "curl -K var/curlrc -X PUT $api/cluster/web/upgrade -d @- <<'END'\n"+body+"END\n")
		return true
	case kind == "json configuration", kind == "yaml", kind == "":
	case strings.HasPrefix(kind, "sh not run: "):
	default:
		s.t.Errorf("%s: what is to be done with a block %q?", b.where, kind)
	}
	return false
}

// assigned are variables that a block sets for those after it.
var assigned = regexp.MustCompile(`(?m)^[a-z]+=.*\n`)

func newStory(t *testing.T) *story {
	t.Helper()
	if !strings.Contains(string(read(t, "Makefile")), "\tgo run ./cmd/commissaire serve --dev\n") {
		t.Fatal("make run does something else than what is started here")
	}
	s := &story{t: t, dir: t.TempDir()}
	for _, dir := range []string{"etc", "srv", "backup/log", "backup-keys", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	s.start("listens on ", "serve", "--dev", "--listen-port", port)
	hosts := freePort(t)
	s.start("all on port ", "demo", "--hold", "--port", hosts)
	s.names = strings.NewReplacer(
		"/etc/commissaire", s.dir+"/etc/commissaire", "/var/lib/commissaire", s.dir+"/var/lib/commissaire",
		"/usr/local/", s.dir+"/usr/local/", "/srv/", s.dir+"/srv/", "/backup", s.dir+"/backup",
		"127.0.0.1:8000", "127.0.0.1:"+port, `"ssh_port\": 2222`, `"ssh_port\": `+hosts,
	)
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// start runs the program until the test ends, and waits until it says something.
func (s *story) start(until string, arguments ...string) {
	s.t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), program, arguments...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "COMMISSAIRE_OPERATIONS_REBOOT_FIRST_LOOK=100ms", "COMMISSAIRE_SSH_RETRY_DELAY=100ms")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), until) {
			return
		}
	}
	s.t.Fatalf("commissaire %s did not say %q", strings.Join(arguments, " "), until)
}

// shell runs commands, all of which have to succeed.
func (s *story) shell(where, commands string) {
	s.t.Helper()
	script := s.names.Replace(s.vars + commands)
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", meaning+script)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PROGRAM="+program,
		"COMMISSAIRE_STORE=sqlite:var/store", "COMMISSAIRE_CREDENTIALS_MASTER_KEY=file:"+filepath.Join(s.dir, "var", "master-key"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("%s: %v\n%s\n%s", where, err, script, out)
	} else if testing.Verbose() {
		s.t.Logf("%s\n%s", where, out)
	}
}
