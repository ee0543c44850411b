package fleet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// A family is what hosts of one OS have in common.
type family struct {
	release  string            // VERSION_ID
	about    string            // os-release without VERSION_ID
	packages map[string]string // what can be installed, and the unit that comes with it
	programs []string          // its own
	ostree   bool
	driver   string // what drives its updates
	sibling  string // a flavour of the kernel that comes with each of the flavour v8
}

var families = map[OS]family{
	Atomic: {
		release:  "41",
		about:    "NAME=\"Fedora Linux\"\nID=fedora\nVARIANT=\"Atomic Host\"\nVARIANT_ID=atomic.host\n",
		programs: []string{"rpm", "rpm-ostree"},
		ostree:   true,
	},
	CoreOS: {
		release:  "41",
		about:    "NAME=\"Fedora Linux\"\nID=fedora\nPRETTY_NAME=\"Fedora CoreOS 41\"\nVARIANT=\"CoreOS\"\nVARIANT_ID=coreos\n",
		programs: []string{"rpm", "rpm-ostree"},
		ostree:   true,
		driver:   "Zincati",
	},
	Bootc: {
		release:  "41",
		about:    "NAME=\"Fedora Linux\"\nID=fedora\nPRETTY_NAME=\"Fedora Linux 41 (bootc)\"\n",
		programs: []string{"rpm", "dnf"},
		ostree:   true,
	},
	Rocky: {
		release:  "9.4",
		about:    "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nPLATFORM_ID=\"platform:el9\"\n",
		packages: map[string]string{"flannel": "flanneld", "moby-engine": "docker"},
		programs: []string{"dnf", "yum", "rpm", "grubby"},
	},
	Raspbian: {
		release:  "12",
		about:    "PRETTY_NAME=\"Raspbian GNU/Linux 12 (bookworm)\"\nNAME=\"Raspbian GNU/Linux\"\nID=raspbian\nID_LIKE=debian\n",
		packages: map[string]string{"docker.io": "docker"},
		programs: []string{"apt-get", "dpkg", "dpkg-query"},
		sibling:  "2712",
	},
	Arch: {
		about: "NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n",
	},
	Fedora: {
		release:  "41",
		about:    "NAME=\"Fedora Linux\"\nID=fedora\nPRETTY_NAME=\"Fedora Linux (Server Edition)\"\n",
		packages: map[string]string{"flannel": "flanneld", "moby-engine": "docker"},
		programs: []string{"dnf", "yum", "rpm", "grubby"},
	},
	CentOS: {
		release:  "7",
		about:    "NAME=\"CentOS Linux\"\nID=\"centos\"\nID_LIKE=\"rhel fedora\"\n",
		packages: map[string]string{"flannel": "flanneld", "docker": "docker"},
		programs: []string{"yum", "rpm", "grubby"},
	},
	RHEL: {
		release:  "7.9",
		about:    "NAME=\"Red Hat Enterprise Linux Server\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\n",
		packages: map[string]string{"flannel": "flanneld", "docker": "docker"},
		programs: []string{"yum", "rpm", "grubby", "subscription-manager"},
	},
	Debian: {
		release:  "12",
		about:    "NAME=\"Debian GNU/Linux\"\nID=debian\n",
		packages: map[string]string{"docker.io": "docker"},
		programs: []string{"apt-get", "dpkg", "dpkg-query"},
	},
	Ubuntu: {
		release:  "24.04",
		about:    "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n",
		packages: map[string]string{"docker.io": "docker"},
		programs: []string{"apt-get", "dpkg", "dpkg-query"},
	},
}

// own are the programs that not every host has.
var own = map[string]bool{
	"apt-get": true, "dnf": true, "dpkg": true, "dpkg-query": true, "grubby": true, "rpm": true, "rpm-ostree": true, "subscription-manager": true, "yum": true,
}

// has says whether the host has a program.
func (h *Host) has(name string) bool {
	switch {
	case programs[name] == nil:
		return false
	case name == "rpm-ostree" && h.spec.OSTree && !h.family.ostree: // one of another OS that was made to be on OSTree
		return true
	case own[name]:
		return slices.Contains(h.family.programs, name) && (name == "rpm" || h.family.ostree || !h.spec.OSTree)
	}
	return true
}

// hasFile says whether a path is that of a program of the host. Programs are
// not in its file system.
func (h *Host) hasFile(name string) bool {
	switch path.Dir(name) {
	case "/bin", "/sbin", "/usr/bin", "/usr/sbin":
		return h.has(path.Base(name))
	}
	return false
}

// install makes the files that hosts are installed with.
func install(now func() time.Time, user string, ostree bool) *files {
	f := newFiles(now)
	nothing := func(*Host) []byte { return nil }
	for _, dir := range []string{"/etc/sysconfig", "/home", "/root", "/run/systemd/system", "/usr/lib", "/var/lib", "/var/log", "/tmp", "/dev"} {
		f.put(dir, 0o755, nil)
	}
	root := who{ctx: context.Background()}
	f.chmod(root, "/tmp", 0o777)
	f.chmod(root, "/root", 0o700)
	if user != "root" {
		f.put(home(user), 0o755, nil)
		f.own(home(user), 1000)
	}
	if ostree {
		f.put("/run/ostree-booted", 0o644, nothing)
	}
	release := func(h *Host) []byte {
		if h.spec.Release == "" {
			return []byte(h.family.about)
		}
		return []byte(h.family.about + "VERSION_ID=\"" + h.spec.Release + "\"\n")
	}
	f.put("/etc/os-release", 0o644, release)
	f.put("/usr/lib/os-release", 0o644, release)
	f.put("/dev/null", 0o666, nothing)
	f.put("/proc/sys/kernel/random/boot_id", 0o444, func(h *Host) []byte { return []byte(h.BootID() + "\n") })
	f.put("/proc/uptime", 0o444, func(h *Host) []byte { return fmt.Appendf(nil, "%d.00 0.00\n", h.fleet.clock.now().Unix()) })
	f.put("/proc/meminfo", 0o444, func(h *Host) []byte {
		return fmt.Appendf(nil, "MemTotal:       %8d kB\nMemFree:        %8d kB\n", h.spec.Memory, h.spec.Memory/2)
	})
	f.put("/proc/cpuinfo", 0o444, func(h *Host) (text []byte) {
		for i := range h.spec.CPUs {
			text = fmt.Appendf(text, "processor\t: %d\nmodel name\t: simulated\n\n", i)
		}
		return text
	})
	return f
}

// kernel is what uname -r prints.
func (h *Host) kernel() string {
	if h.spec.OSTree {
		return "6.11.4-301.fc41." + h.spec.Arch
	}
	return h.Version()
}

// transact runs what changes the installed system: one at a time, and for
// a while. It gives the exit status; if that is not 0 nothing has changed.
func (p *process) transact(ctx context.Context, takes time.Duration, wait bool, change func()) int {
	h := p.host
	select {
	case <-h.busy:
	default:
		if !wait {
			return p.complain("error", errors.New("transaction in progress"))
		}
		select {
		case <-h.busy:
		case <-ctx.Done():
			return 143
		}
	}
	defer func() { h.busy <- struct{}{} }()
	h.mu.Lock()
	h.notify()
	h.mu.Unlock()
	if !pause(ctx, takes) {
		return 143
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil {
		return 143
	}
	change()
	h.notify()
	return 0
}

// root says whether p may change the system, and complains if it may not.
func (p *process) root(program string) bool {
	if p.uid != 0 {
		p.complain(program, errors.New("this command has to be run as root"))
	}
	return p.uid == 0
}

// images are the kernels that come with one.
func (h *Host) images(kernel string) []string {
	if h.family.sibling == "" {
		return []string{kernel}
	}
	return []string{kernel, strings.TrimSuffix(kernel, "v8") + h.family.sibling}
}

// grubby knows --default-kernel.
func grubby(_ context.Context, p *process, args []string) int {
	if !slices.Equal(args, []string{"--default-kernel"}) {
		return p.complain("grubby", errors.New("only --default-kernel is known"))
	}
	fmt.Fprintln(p.stdout, "/boot/vmlinuz-"+cmp.Or(p.host.Pending(), p.host.Version()))
	return 0
}

// dpkgQuery tells of the packages of kernels, whatever the pattern.
func dpkgQuery(_ context.Context, p *process, args []string) int {
	if len(args) != 4 || args[0] != "-W" || args[1] != "-f" || args[2] != "${db:Status-Abbrev} ${Package}\\n" {
		return p.complain("dpkg-query", errors.New("only -W is known"))
	}
	for _, kernel := range []string{p.host.Version(), p.host.Pending()} {
		if kernel == "" {
			continue
		}
		for _, image := range p.host.images(kernel) {
			fmt.Fprintln(p.stdout, "ii  linux-image-"+image)
		}
	}
	return 0
}

// dnf is dnf and yum: install, upgrade, update, check-update, makecache.
func dnf(ctx context.Context, p *process, args []string) int {
	verb, names, err := verbOf(args, []string{"-y", "--assumeyes", "-q", "--quiet", "-v"}, []string{"--setopt="})
	if err != nil {
		return p.complain("dnf", err)
	}
	switch verb {
	case "install":
		return p.install(ctx, "dnf", names, 1, "Error: Unable to find a match: %s\n")
	case "upgrade", "update":
		return p.upgrade(ctx, "dnf", "Nothing to do.", "Complete!")
	case "check-update":
		if p.host.nextKernel() != "" {
			fmt.Fprintln(p.stdout, "kernel "+p.host.nextKernel())
			return 100
		}
		return 0
	case "makecache", "clean":
		return 0
	}
	return p.complain("dnf", fmt.Errorf("no such command: %s", verb))
}

// aptGet knows update, upgrade, dist-upgrade and install.
func aptGet(ctx context.Context, p *process, args []string) int {
	verb, names, err := verbOf(args, []string{"-y", "-q", "-qq", "--yes", "-f"}, []string{"-o"})
	if err != nil {
		return p.complain("apt-get", err)
	}
	switch verb {
	case "update":
		if !p.root("apt-get") {
			return 100
		}
		fmt.Fprintln(p.stdout, "Reading package lists...")
		return 0
	case "upgrade", "dist-upgrade":
		return p.upgrade(ctx, "apt-get", "0 upgraded, 0 newly installed", "Setting up linux-image")
	case "install":
		return p.install(ctx, "apt-get", names, 100, "E: Unable to locate package %s\n")
	}
	p.complain("apt-get", fmt.Errorf("invalid operation %s", verb))
	return 100
}

// verbOf finds the first argument that is neither an option nor the value of one.
func verbOf(args, options, valued []string) (verb string, rest []string, err error) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case !strings.HasPrefix(arg, "-"):
			rest = append(rest, arg)
		case slices.Contains(valued, arg):
			i++
		case !slices.Contains(options, arg) && !slices.ContainsFunc(valued, func(v string) bool { return strings.HasPrefix(arg, v) }):
			return "", nil, fmt.Errorf("unknown option %s", arg)
		}
	}
	if len(rest) == 0 {
		return "", nil, errors.New("no command given")
	}
	return rest[0], rest[1:], nil
}

// nextKernel is what an upgrade would install; "" is nothing.
func (h *Host) nextKernel() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == h.version || h.next == h.pending {
		return ""
	}
	return h.next
}

func (p *process) upgrade(ctx context.Context, program, nothing, complete string) int {
	if !p.root(program) {
		return 1
	}
	next := p.host.nextKernel()
	if next == "" {
		fmt.Fprintln(p.stdout, nothing)
		return 0
	}
	fmt.Fprintf(p.stdout, "Upgrading:\n kernel %s\n", next)
	for _, kernel := range []string{p.host.Version(), next} {
		for _, image := range p.host.images(kernel) {
			p.host.files.put("/boot/vmlinuz-"+image, 0o644, func(*Host) []byte { return nil })
		}
	}
	if exit := p.transact(ctx, p.host.spec.Speed.Upgrade, true, func() { p.host.pending = next }); exit != 0 {
		return exit
	}
	fmt.Fprintln(p.stdout, complete)
	return 0
}

func (p *process) install(ctx context.Context, program string, names []string, unknown int, message string) int {
	if !p.root(program) {
		return 1
	}
	for _, name := range names {
		if _, ok := p.host.family.packages[name]; !ok && !slices.Contains(p.host.spec.Packages, name) {
			fmt.Fprintf(p.stderr, message, name)
			return unknown
		}
	}
	exit := p.transact(ctx, p.host.spec.Speed.Install, true, func() {
		for _, name := range names {
			p.host.installed[name] = true
		}
	})
	if exit != 0 {
		return exit
	}
	fmt.Fprintln(p.stdout, "Installed: "+strings.Join(names, " "))
	return 0
}

// rpm knows -q NAME….
func rpm(_ context.Context, p *process, args []string) int {
	_, names, err := options(args, "q")
	if err != nil || len(args) == 0 || args[0] != "-q" {
		return p.complain("rpm", errors.New("only -q is known"))
	}
	missing := 0
	for _, name := range names {
		switch {
		case name == "kernel":
			fmt.Fprintln(p.stdout, "kernel-"+p.host.kernel())
		case slices.Contains(p.host.Installed(), name):
			fmt.Fprintf(p.stdout, "%s-1-1.%s\n", name, p.host.spec.Arch)
		default:
			fmt.Fprintf(p.stdout, "package %s is not installed\n", name)
			missing++
		}
	}
	return missing
}

// subscription takes note, as Commands tells, and does nothing.
func subscription(_ context.Context, p *process, _ []string) int {
	if !p.root("subscription-manager") {
		return 1
	}
	return 0
}

// dpkg knows -s NAME…, and --configure -a, which finds nothing to do.
func dpkg(_ context.Context, p *process, args []string) int {
	if strings.HasSuffix(strings.Join(args, " "), "--configure -a") {
		return 0
	}
	if len(args) < 2 || args[0] != "-s" {
		return p.complain("dpkg", errors.New("only -s and --configure -a are known"))
	}
	exit := 0
	for _, name := range args[1:] {
		if !slices.Contains(p.host.Installed(), name) {
			exit = p.complain("dpkg", fmt.Errorf("package '%s' is not installed", name))
			continue
		}
		fmt.Fprintf(p.stdout, "Package: %s\nStatus: install ok installed\n", name)
	}
	return exit
}

// deployment is an element of what rpm-ostree status --json prints.
type deployment struct {
	ID       string `json:"id"`
	OSName   string `json:"osname"`
	Checksum string `json:"checksum"`
	Version  string `json:"version"`
	Booted   bool   `json:"booted"`
	Staged   bool   `json:"staged"`
}

// rpmOSTree knows status, upgrade, deploy and cleanup.
func rpmOSTree(ctx context.Context, p *process, args []string) int {
	verb, names, err := verbOf(args, []string{"--bypass-driver", "--json", "-b", "--booted", "-p", "--pending", "-m", "-r", "--reboot", "--unchanged-exit-77", "--download-only", "--cache-only"}, nil)
	if err != nil {
		return p.complain("error", err)
	}
	h := p.host
	download := slices.Contains(args, "--download-only")
	if verb == "status" {
		return p.deployments(slices.Contains(args, "--json"))
	}
	if !p.root("error") {
		return 1
	}
	if driver := h.family.driver; driver != "" && (verb == "upgrade" || verb == "deploy") && !slices.Contains(args, "--bypass-driver") {
		fmt.Fprintf(p.stderr, "error: Updates and deployments are driven by %s (%s.service)\nSee %[1]s's documentation\nUse --bypass-driver to bypass %[1]s and perform the operation anyways\n", driver, strings.ToLower(driver))
		return 1
	}
	want := ""
	unchanged := "No upgrade available."
	switch verb {
	case "upgrade":
		h.mu.Lock()
		want = h.next
		h.mu.Unlock()
	case "deploy":
		if len(names) != 1 || names[0] == "" {
			return p.complain("error", errors.New("revision must be specified"))
		}
		want, unchanged = names[0], "No change."
	case "cleanup":
		h.mu.Lock()
		h.pending = ""
		h.notify()
		h.mu.Unlock()
		return 0
	default:
		return p.complain("error", fmt.Errorf("unknown command '%s'", verb))
	}
	h.mu.Lock()
	nothing := want == "" || want == h.pending || want == h.version && h.pending == ""
	missing := slices.Contains(args, "--cache-only") && want != h.downloaded
	h.mu.Unlock()
	if nothing {
		fmt.Fprintln(p.stdout, unchanged)
		if slices.Contains(args, "--unchanged-exit-77") {
			return 77
		}
		return 0
	}
	if missing {
		return p.complain("error", fmt.Errorf("version %s was not downloaded", want))
	}
	fmt.Fprintf(p.stdout, "Receiving objects\nStaging deployment... done\n")
	exit := p.transact(ctx, h.spec.Speed.Upgrade, false, func() {
		if h.downloaded = want; download {
			return
		}
		h.pending = want
		if want == h.version {
			h.pending = ""
		}
	})
	if exit != 0 || download {
		return exit
	}
	fmt.Fprintf(p.stdout, "Version %s; run \"systemctl reboot\" to start it\n", want)
	if slices.Contains(args, "--reboot") || slices.Contains(args, "-r") {
		h.Reboot()
	}
	return 0
}

func (p *process) deployments(asJSON bool) int {
	h := p.host
	h.mu.Lock()
	pending, booted, rollback := h.pending, h.version, h.rollback
	h.mu.Unlock()
	var all []deployment
	for i, version := range []string{pending, booted, rollback} {
		if version != "" {
			checksum := fmt.Sprintf("%x", sha256.Sum256([]byte(version)))
			all = append(all, deployment{
				"fedora-atomic-" + checksum + ".0", "fedora-atomic", checksum, version,
				i == 1, i == 0,
			})
		}
	}
	if asJSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		var driver any
		if name := h.family.driver; name != "" {
			driver = map[string]string{"driver-name": name, "driver-sd-unit": strings.ToLower(name) + ".service"}
		}
		status := struct { // in the order of the real one
			Deployments  []deployment `json:"deployments"`
			Transaction  any          `json:"transaction"`
			CachedUpdate any          `json:"cached-update"`
			UpdateDriver any          `json:"update-driver"`
		}{all, nil, nil, driver}
		if err := out.Encode(status); err != nil {
			return p.complain("error", err)
		}
		return 0
	}
	fmt.Fprintln(p.stdout, "State: idle\nDeployments:")
	for _, d := range all {
		mark := " "
		if d.Booted {
			mark = "*"
		}
		fmt.Fprintf(p.stdout, "%s fedora-atomic\n  Version: %s\n  Commit: %s\n", mark, d.Version, d.Checksum)
	}
	return 0
}

// hasUnit tells whether a unit comes with what is installed. The caller holds h.mu.
func (h *Host) hasUnit(name string) bool {
	if name == "sshd" {
		return true
	}
	for installed := range h.installed {
		if h.family.packages[installed] == name || h.spec.OSTree && (name == installed || name == installed+"d") {
			return true
		}
	}
	return false
}

// systemctl knows what it takes to enable, start and ask for units, and reboot.
func systemctl(_ context.Context, p *process, args []string) int {
	verb, names, err := verbOf(args, []string{"--now", "-q", "--quiet", "--no-block", "-f", "--force", "--no-wall"}, nil)
	if err != nil {
		return p.complain("systemctl", err)
	}
	ask := strings.HasPrefix(verb, "is-")
	if !ask && p.uid != 0 {
		return p.complain("systemctl", errors.New("interactive authentication required"))
	}
	quiet := slices.Contains(args, "-q") || slices.Contains(args, "--quiet")
	h := p.host
	switch verb {
	case "reboot":
		h.Reboot()
		return 0
	case "daemon-reload":
		return 0
	case "is-system-running":
		fmt.Fprintln(p.stdout, "running")
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b := p.boot
	b.mu.Lock()
	defer b.mu.Unlock()
	exit := 0
	say := func(yes bool, is, not string, code int) {
		word := is
		if !yes {
			word, exit = not, code
		}
		if !quiet {
			fmt.Fprintln(p.stdout, word)
		}
	}
	for _, name := range names {
		unit := strings.TrimSuffix(name, ".service")
		if !ask && !h.hasUnit(unit) && !b.active[unit] {
			fmt.Fprintf(p.stderr, "Unit %s.service not found.\n", unit)
			exit = 5
			continue
		}
		switch verb {
		case "start", "restart", "reload", "try-restart":
			b.active[unit] = true
		case "stop":
			delete(b.active, unit)
		case "enable":
			h.enabled[unit] = true
			if slices.Contains(args, "--now") {
				b.active[unit] = true
			}
		case "disable":
			delete(h.enabled, unit)
			if slices.Contains(args, "--now") {
				delete(b.active, unit)
			}
		case "is-active":
			say(b.active[unit] || unit == "sshd", "active", "inactive", 3)
		case "is-enabled":
			say(h.enabled[unit] || unit == "sshd", "enabled", "disabled", 1)
		case "is-failed":
			say(false, "failed", "active", 1)
		default:
			fmt.Fprintf(p.stderr, "Unknown command verb %s.\n", verb)
			return 1
		}
	}
	h.notify()
	return exit
}

// systemdRun starts a transient unit: systemd-run [--unit=NAME] COMMAND [ARGUMENT…].
func systemdRun(_ context.Context, p *process, args []string) int {
	unit := "run-" + fmt.Sprint(p.host.fleet.clock.now().UnixNano())
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, value, _ := strings.Cut(args[0], "=")
		switch name {
		case "--unit":
			unit = strings.TrimSuffix(value, ".service")
		case "--property", "--description", "--setenv", "--slice", "--quiet", "--remain-after-exit", "--no-block":
		default:
			return p.complain("systemd-run", fmt.Errorf("unrecognized option '%s'", args[0]))
		}
		args = args[1:]
	}
	switch {
	case len(args) == 0:
		return p.complain("systemd-run", errors.New("command line to execute required"))
	case p.uid != 0:
		return p.complain("systemd-run", errors.New("interactive authentication required"))
	}
	b := p.boot
	b.mu.Lock()
	exists := b.active[unit]
	b.active[unit] = true
	b.mu.Unlock()
	if exists {
		return p.complain("systemd-run", fmt.Errorf("unit %s.service already exists", unit))
	}
	q := &process{
		host: p.host, boot: b, user: "root", dir: "/", umask: 0o022,
		env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"}, stdout: sink{io.Discard}, stderr: sink{io.Discard},
	}
	done := q.detached(args)
	p.host.fleet.start(func() {
		<-done
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.active, unit)
	})
	fmt.Fprintf(p.stderr, "Running as unit: %s.service\n", unit)
	return 0
}

// reboot is reboot, and shutdown -r.
func reboot(_ context.Context, p *process, args []string) int {
	if !p.root("reboot") {
		return 1
	}
	p.host.Reboot()
	return 0
}
