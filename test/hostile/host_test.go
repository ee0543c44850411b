package hostile_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// host is a host in memory, behind real SSH. It does what it is asked for, as
// host.sh does, and departs from that as often as its wildness says, at each of its
// layers: the connection, the login, the shell and what that answers.
type host struct {
	address string
	wild    wildness
	wilder  wildness       // from a while on
	only    []string       // verbs that it gives other answers to; none: all
	right   map[string]int // how often its answers are right before that
	habits  bool           // what it did once in place of what is right it does again
	keys    []xssh.Signer
	system  string // ID of its os-release; atomic: with deployments
	user    xssh.PublicKey

	mu      sync.Mutex
	random  *rand.Rand
	from    time.Time // when it becomes wilder
	boot    int
	version int
	owner   string
	upAt    time.Time // it is down until then
	turns   map[string]*turn
	ran     []string // the commands that were run
	pipes   []*pipe
	gone    chan struct{}  // closed when the host is no longer needed
	seen    map[string]int // how often it departed from what is right, and how
	habit   map[string]string
	lies    map[string]lie
}

type wildness struct{ dial, login, shell, answer float64 }

// turn is a command that was begun.
type turn struct {
	ends   time.Time
	boot   int
	output string
	exit   string
}

// lie is what a section becomes.
type lie struct {
	how         int
	name, value string
}

// lie is the one that a host tells in place of a section of an answer.
func (h *host) lie(of string) lie {
	l := lie{h.number(9), h.name(), h.value()}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.lies[of]; ok && h.habits {
		return old
	}
	h.lies[of] = l
	return l
}

// departs tells whether it gives another answer to verb than the right one.
func (h *host) departs(verb string) bool {
	wild := h.wildness().answer
	h.mu.Lock()
	defer h.mu.Unlock()
	if wild == 0 || len(h.only) > 0 && !slices.Contains(h.only, verb) {
		return false
	}
	if h.right[verb]--; h.right[verb] >= 0 {
		return false
	}
	return h.random.Float64() < wild
}

// chance is true in so many of all cases.
func (h *host) chance(of float64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.random.Float64() < of
}

func (h *host) number(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.random.IntN(n)
}

func (h *host) wildness() wildness {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().After(h.from) {
		return h.wilder
	}
	return h.wild
}

// pick gives one of several, and a note of it.
func (h *host) pick(kind string, of ...string) string {
	what := of[h.number(len(of))]
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.habit[kind]; ok && h.habits {
		what = old
	}
	h.habit[kind] = what
	h.seen[kind+" "+what]++
	return what
}

// some is a time from a moment to hours.
func (h *host) some() time.Duration {
	return time.Duration(1+h.number(1000)) * []time.Duration{time.Millisecond, 20 * time.Millisecond, time.Second, 30 * time.Second}[h.number(4)]
}

// dial connects to the host.
func (h *host) dial(ctx context.Context) (net.Conn, error) {
	h.mu.Lock()
	down := time.Now().Before(h.upAt)
	h.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	if down {
		return nil, refused
	}
	var f fault
	if h.chance(h.wildness().dial) {
		switch h.pick("dial", "refused", "silent", "no route", "no name", "cut", "freeze") {
		case "refused":
			return nil, refused
		case "silent":
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		case "no route":
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EHOSTUNREACH}
		case "no name":
			return nil, &net.DNSError{Name: h.address, Err: "no such host", IsNotFound: true}
		case "cut":
			f = fault{"cut", h.number(6000)}
		case "freeze":
			f = fault{"freeze", h.number(6000)}
		}
	}
	p, theirs, ours := newPipe(f)
	h.mu.Lock()
	h.pipes = append(h.pipes, p)
	h.mu.Unlock()
	go h.login(ours)
	return theirs, nil
}

// pause waits as long as the host is needed.
func (h *host) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-h.gone:
	}
}

// end breaks all connections.
func (h *host) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pipes {
		p.cut()
	}
}

func (h *host) login(conn net.Conn) {
	defer conn.Close()
	config := &xssh.ServerConfig{
		Config: xssh.Config{KeyExchanges: []string{xssh.KeyExchangeCurve25519}, Ciphers: []string{xssh.CipherAES128GCM}},
		PublicKeyCallback: func(_ xssh.ConnMetadata, key xssh.PublicKey) (*xssh.Permissions, error) {
			if string(key.Marshal()) == string(h.user.Marshal()) {
				return nil, nil
			}
			return nil, errors.New("another key")
		},
	}
	key := h.keys[0]
	if h.chance(h.wildness().login) {
		refuse := func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) { return nil, errors.New("no") }
		switch h.pick("login", "hangs up", "says nothing", "greets", "another key", "refuses", "asks for more", "asks", "a banner", "slow") {
		case "hangs up":
			return
		case "says nothing":
			_, _ = io.Copy(io.Discard, conn)
			return
		case "greets":
			_, _ = io.WriteString(conn, h.value()+"\r\n")
			return
		case "another key":
			key = h.keys[1]
		case "refuses":
			config.PublicKeyCallback = refuse
		case "asks for more":
			config.PublicKeyCallback = func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) {
				return nil, &xssh.PartialSuccessError{Next: xssh.ServerAuthCallbacks{
					KeyboardInteractiveCallback: func(_ xssh.ConnMetadata, ask xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
						for range 1 + h.number(3) {
							var questions []string
							for range h.number(3) {
								questions = append(questions, h.value())
							}
							if _, err := ask(h.value(), h.value(), questions, make([]bool, len(questions))); err != nil {
								return nil, err
							}
						}
						return nil, errors.New("no")
					},
				}}
			}
		case "asks":
			config.PublicKeyCallback = refuse
			config.PasswordCallback = func(xssh.ConnMetadata, []byte) (*xssh.Permissions, error) { return nil, errors.New("no") }
		case "a banner":
			config.PublicKeyCallback = refuse
			config.BannerCallback = func(xssh.ConnMetadata) string { return h.value() }
		case "slow":
			h.pause(h.some())
		}
	}
	config.AddHostKey(key)
	_, channels, requests, err := xssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go func() {
		for r := range requests {
			if r.WantReply && !h.chance(h.wildness().login/4) {
				_ = r.Reply(false, nil)
			}
		}
	}()
	for c := range channels {
		if h.chance(h.wildness().shell) && h.pick("channel", "opened", "refused") == "refused" {
			_ = c.Reject(xssh.RejectionReason(h.number(6)), h.value())
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go h.session(conn, channel, requests)
	}
}

func (h *host) session(conn net.Conn, channel xssh.Channel, requests <-chan *xssh.Request) {
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		if h.chance(h.wildness().shell) {
			switch h.pick("exec", "refused", "silent", "says", "says and stays", "ends", "killed", "cut") {
			case "refused":
				_ = r.Reply(false, nil)
				continue
			case "silent":
				continue // without a reply
			case "says":
				_ = r.Reply(true, nil)
				_, _ = io.WriteString(channel, h.value()+"\n")
				_, _ = io.WriteString(channel.Stderr(), h.value()+"\n")
				h.exit(channel, uint32(h.number(256)))
			case "says and stays":
				_ = r.Reply(true, nil)
				_, _ = io.WriteString(channel, h.value()+"\n")
				continue
			case "ends":
				_ = r.Reply(true, nil)
				h.exit(channel, uint32(h.number(256)))
			case "killed":
				_ = r.Reply(true, nil)
				_, _ = channel.SendRequest("exit-signal", false, xssh.Marshal(struct {
					Signal string
					Core   bool
					Text   string
					Tongue string
				}{"KILL", false, h.value(), ""}))
				_ = channel.Close()
			case "cut":
				_ = conn.Close()
			}
			continue
		}
		_ = r.Reply(true, nil)
		go func() {
			h.shell(conn, channel)
			_ = channel.Close()
		}()
	}
}

func (h *host) exit(channel xssh.Channel, status uint32) {
	_, _ = channel.SendRequest("exit-status", false, xssh.Marshal(struct{ Status uint32 }{status}))
	_ = channel.Close()
}

var request = regexp.MustCompile(`^commissaire '([0-9a-f]{32})' '([a-z-]+)'((?: '[A-Za-z0-9+/=-]*')*) </dev/null$`)

// shell answers line by line what is asked for.
func (h *host) shell(conn net.Conn, channel xssh.Channel) {
	lines := bufio.NewScanner(channel)
	lines.Buffer(make([]byte, 0, 4<<10), 1<<20)
	for lines.Scan() {
		line := lines.Text()
		var marker, verb string
		var arguments []string
		if words := strings.Fields(line); strings.HasPrefix(line, "id=; read -r id ") {
			marker, verb = words[len(words)-1], "bootid"
		} else if m := request.FindStringSubmatch(line); m != nil {
			marker, verb = m[1], m[2]
			for word := range strings.FieldsSeq(m[3]) {
				arguments = append(arguments, strings.Trim(word, "'"))
			}
		} else {
			continue // of the script
		}
		w := &writer{h: h, conn: conn, channel: channel, marker: marker, verb: verb}
		if h.departs(verb) {
			w.wild = h.pick("answer of "+verb, "instead", "instead", "instead", "sections", "sections", "sections", "sections", "late", "noise", "cut", "no end", "no beginning", "endless", "flood", "huge", "silent", "ends")
		}
		w.section("begin", "")
		if w.wild == "instead" {
			l := h.lie(verb)
			w.put(refusals[l.how%len(refusals)], l.value)
		} else {
			h.answer(w, verb, arguments)
		}
		w.end()
		if w.broken {
			return
		}
	}
}

// writer writes an answer, in the way that is wrong with it.
type writer struct {
	h       *host
	conn    net.Conn
	channel xssh.Channel
	marker  string
	verb    string
	wild    string
	broken  bool
	count   int
}

// section writes one, or what comes in its place.
func (w *writer) section(name, text string) {
	h := w.h
	if w.count++; w.wild != "" && (h.habits || h.number(3) == 0) {
		switch w.wild {
		case "sections":
			if h.habits && name == "begin" {
				break
			}
			switch l := h.lie(w.verb + name); l.how {
			case 0:
				return // missing
			case 1:
				w.put(name, text) // doubled
				text = l.value
			case 2:
				name = l.name
			case 3, 4:
				text = l.value
			case 5:
				w.put(l.name, l.value)
			case 6:
				w.put(l.name, text)
			case 7:
				w.put("begin", "")
			case 8: // as it should be
			}
		case "late":
			h.pause(h.some())
		case "noise":
			w.write(h.value() + strings.Repeat("\n"+h.value(), h.number(20)))
		case "cut":
			_ = w.conn.Close()
		case "huge":
			for range h.number(80) {
				w.write(strings.Repeat("x", 64<<10))
			}
		case "endless": // a command that runs and runs
			for !w.broken {
				w.put([]string{"running", "output " + strconv.Itoa(h.number(1000)), "waiting"}[h.number(3)], h.value())
				h.pause(h.some() / 10)
			}
		case "flood":
			for n := 0; !w.broken; n += 16 << 10 {
				w.put("output "+strconv.Itoa(n), strings.Repeat(h.value()+"\n", 10))
				h.pause(300 * time.Millisecond)
			}
		case "silent":
			_, _ = io.Copy(io.Discard, w.channel)
			w.broken = true
		case "ends":
			_, _ = io.WriteString(w.channel.Stderr(), h.value()+"\n")
			h.exit(w.channel, uint32(h.number(256)))
			w.broken = true
		}
	}
	if w.wild == "no beginning" && name == "begin" {
		return
	}
	w.put(name, text)
}

func (w *writer) end() {
	if w.wild == "no end" {
		return
	}
	w.section("end", "")
}

func (w *writer) put(name, text string) { w.write("\n" + w.marker + " " + name + "\n" + text) }

func (w *writer) write(text string) {
	if w.broken {
		return
	}
	if _, err := io.WriteString(w.channel, text); err != nil {
		w.broken = true
	}
}

// answer does what is asked for and says so.
func (h *host) answer(w *writer, verb string, arguments []string) {
	argument := func(i int) string {
		if i < len(arguments) {
			return arguments[i]
		}
		return ""
	}
	if verb != "bootid" && verb != "look" && verb != "needs-reboot" {
		h.mu.Lock()
		if h.owner == "" || verb == "take" {
			h.owner = argument(0)
		}
		foreign := h.owner != argument(0)
		h.mu.Unlock()
		if foreign {
			w.section("foreign", "another - 1\n")
			return
		}
	}
	switch verb {
	case "bootid":
		w.section("boot-id", h.bootID()+"\n")
	case "take":
		w.section("taken", "\n")
	case "needs-reboot":
		w.section("reboot-needed", "\n")
	case "facts":
		h.facts(w)
	case "write":
		w.section("written", "changed\n")
	case "check":
		w.section("output", "well\n")
		w.section("exit", "0\n")
	case "reboot":
		w.section("reboot", h.reboot(argument(2))+"\n")
	case "run", "look":
		name := argument(2)
		if verb == "look" {
			name = argument(0)
		}
		h.run(w, name, plain(argument(5))+plain(argument(6)))
	default:
		w.section("refused", "there is no verb "+verb+"\n")
	}
}

func (h *host) bootID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%08d-0000-4000-8000-000000000000", h.boot)
}

func (h *host) facts(w *writer) {
	h.mu.Lock()
	system, version, boot := h.system, h.version, h.boot
	h.mu.Unlock()
	id := system
	if system == "atomic" {
		id = "fedora"
	}
	w.section("os-release", "ID="+id+"\nVERSION_ID=41\n")
	w.section("machine", "x86_64\n")
	w.section("machine-id", hex.EncodeToString([]byte(h.address))+"\n")
	w.section("kernel", fmt.Sprintf("6.%d.0\n", boot))
	w.section("boot-id", h.bootID()+"\n")
	w.section("cpus", "4\n")
	w.section("memory", "MemTotal: 4000000 kB\n")
	w.section("space", "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 1000 1 1 1% /\n")
	if system != "atomic" {
		w.section("kernels", fmt.Sprintf("6.%d.0\n", boot))
		return
	}
	booted := fmt.Sprintf(`{"booted":true,"version":"41.%d","checksum":"%064d"}`, boot, boot)
	if version != boot {
		booted = fmt.Sprintf(`{"booted":false,"staged":true,"version":"41.%d","checksum":"%064d"},`, version, version) + booted
	}
	w.section("rpm-ostree", `{"deployments":[`+booted+"]}\n")
}

// reboot takes the host down for a while.
func (h *host) reboot(name string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turns[name] != nil {
		return "old"
	}
	h.turns[name] = &turn{}
	h.ran = append(h.ran, "reboot")
	time.AfterFunc(time.Second, func() {
		h.mu.Lock()
		h.boot++
		h.version = max(h.version, h.boot)
		h.upAt = time.Now().Add(8 * time.Second)
		h.mu.Unlock()
		h.end()
	})
	return "new"
}

// run runs a command once, and waits for its end.
func (h *host) run(w *writer, name, command string) {
	h.mu.Lock()
	t := h.turns[name]
	if t == nil {
		t = &turn{ends: time.Now().Add(time.Duration(1+h.random.IntN(5)) * time.Second), boot: h.boot, output: "upgrading\nComplete!\n", exit: "exit 0"}
		h.turns[name] = t
		h.ran = append(h.ran, command)
		if h.system == "atomic" {
			h.version = h.boot + 1
		}
	}
	h.mu.Unlock()
	for from := 0; time.Now().Before(t.ends) && !w.broken; {
		time.Sleep(time.Second)
		if from < len(t.output) {
			w.section("output "+strconv.Itoa(from), t.output[from:from+1])
			from++
		}
		w.section("running", "")
	}
	sum := sha256.Sum256([]byte(t.output))
	w.section("state", t.exit+"\n")
	w.section("size", strconv.Itoa(len(t.output))+"\n")
	w.section("sha256", hex.EncodeToString(sum[:])+"  -\n")
	w.section("tail", t.output)
}

// refusals are the sections that say that nothing was done.
var refusals = []string{"refused", "fenced", "foreign"}

// name is that of any section.
func (h *host) name() string {
	names := []string{
		"begin", "end", refusals[h.number(len(refusals))], "state", "exit", "ended", "running", "waiting", "warnings", "output", "output 0", "output 7", "output -1",
		"output 9223372036854775807", "size", "sha256", "tail", "reboot", "written", "taken", "boot-id", "os-release", "rpm-ostree", "kernel", "kernels", "machine", "machine-id",
		"ostree", "programs", "reboot-needed", "reboot-required", "boot-loader", "kernel-packages", "",
	}
	return names[h.number(len(names))]
}

// values are what may stand in any section, and in any other text.
var values = []string{
	"", "0\n", "-1\n", "1\n", "9223372036854775806\n", "9223372036854775807\n", "99999999999999999999999\n", "0x10\n", "1e9\n", "NaN\n",
	"exit 0\n", "exit 7\n", "exit 256\n", "exit -1\n", "exit \n", "ended killed\n", "ended interrupted by a reboot\n", "ended \n", "ended stopped at its time limit of 1 s\n",
	"running\n", "waiting\n", "unknown\n", "none\n", "new\n", "old\n", "booted\n", "changed\n", "same\n", "done\n",
	"another 2026-11-29T20:00:00Z 7\n", "- - -\n", "another - 9223372036854775807\n",
	"ID=debian\nVERSION_ID=12\n", "ID=haiku\n", "ID=\"fedora\nVERSION_ID='\n", "ID=" + strings.Repeat("x", 5000) + "\n",
	`{"deployments":[]}`, `{"deployments":[{"booted":true,"version":"","checksum":""}]}`, `{"deployments":[{"booted":true,"version":"41.9","checksum":"9"},{"booted":true,"version":"41.8"}]}`,
	`{"deployments":[{"booted":false,"version":"42"},{"booted":true,"version":"41"}]}`, `{"deployments":` + strings.Repeat("[", 10_000),
	strings.Repeat("0", 64) + "  -\n", "error: no space left on device\nat all\n", "E: Could not get lock\n", "Please login as the user \"core\" rather than the user \"root\".\n",
	"\x1b[2J\x1b]0;owned\a\x00\xff\xfe", "\r\r\r\r", strings.Repeat("é", 3000), strings.Repeat("line\n", 3000), "\u202e\u2028\ufeff", "could not make /var/lib/commissaire\n", "Verification code: ",
}

func (h *host) value() string {
	switch n := h.number(len(values) + 8); {
	case n < len(values):
		return values[n]
	case n == len(values):
		return h.bootID() + "\n"
	case n < len(values)+4:
		return fmt.Sprintf("%08d-1111-4000-8000-000000000000\n", h.number(100_000_000))
	}
	b := make([]byte, h.number(300))
	for i := range b {
		b[i] = byte(h.number(256))
	}
	return string(b)
}

// plain is the text of an argument.
func plain(data string) string {
	text, _ := base64.StdEncoding.DecodeString(data)
	return string(text)
}

// twice are the commands that were run more than once. A download may be begun anew
// by who takes up an operation that was paused meanwhile.
func (h *host) twice() (twice []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, c := range h.ran {
		if slices.Contains(h.ran[:i], c) && !strings.Contains(c, "--download-only") {
			twice = append(twice, c)
		}
	}
	return twice
}
