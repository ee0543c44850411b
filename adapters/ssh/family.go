package ssh

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

// A family is what differs between systems: by whose name hosts belong to it, and
// what brings them up to date. Supporting another system is another entry in
// families.
type family struct {
	ids   []string // as in event.Facts.OS
	tools []tool   // the first that a host has is its own
}

// A tool brings a system up to date. Its commands are shell scripts, by the words of
// command.sh, run by host.sh as root, in a directory where the file `argument` holds
// what they are about; none has anything of a request in it.
type tool struct {
	program string // a host that has it has the tool

	upgrade map[process.Act]string // brings the system up to date; never reboots
	deploy  map[process.Act]string // brings the version in `argument`; none where there is no such thing

	installed string // succeeds where package $name is installed; "" where packages are not installed
	install   string // installs package $name
}

//go:embed command.sh
var vocabulary string

// wrapped is a command as a host runs it.
func wrapped(command string) string {
	return vocabulary + "command_itself() {\n" + command + "}\ncommand_itself\nstatus=$?\nwarn\nexit \"$status\"\n"
}

const (
	rpmInstalled = `rpm -q "$name"`

	// What was interrupted is put right first; what of that needs other packages, by
	// apt-get -f.
	aptUpgrade = `export DEBIAN_FRONTEND=noninteractive
patiently dpkg --force-confold --configure -a
completely apt-get update -o APT::Update::Error-Mode=any && patiently apt-get -y -f -o Dpkg::Options::=--force-confold dist-upgrade && configured
`
	aptInstall = `{
		export DEBIAN_FRONTEND=noninteractive
		patiently dpkg --force-confold --configure -a
		patiently apt-get install -y -o Dpkg::Options::=--force-confold "$name"
	}`

	// The deployment that waits for a boot is dropped if it is the one whose checksum
	// is in argument, which is looked at just before: the first that rpm-ostree tells
	// of is that of the deployment which comes first.
	dropPending = `drop() {
	read -r wanted <argument
	said=$(rpm-ostree status --json) || return
	first=${said#*'"checksum"'}
	first=${first#*'"'}
	if [ "${first%%'"'*}" != "$wanted" ]; then
		echo "another deployment waits for a boot, or none: nothing is dropped"
		return 0
	fi
	rpm-ostree cleanup -p
}
patiently drop
`
)

var (
	rpmOSTree = tool{
		program: "rpm-ostree",
		upgrade: map[process.Act]string{
			process.Apply:       "patiently rpm-ostree upgrade\n",
			process.Stage:       "patiently rpm-ostree upgrade --download-only\n",
			process.ApplyStaged: "patiently rpm-ostree upgrade --cache-only\n",
			process.CleanUp:     dropPending,
		},
		deploy: map[process.Act]string{
			process.Apply:       "patiently rpm-ostree deploy -- \"$(cat argument)\"\n",
			process.Stage:       "patiently rpm-ostree deploy --download-only -- \"$(cat argument)\"\n",
			process.ApplyStaged: "patiently rpm-ostree deploy --cache-only -- \"$(cat argument)\"\n",
			process.CleanUp:     dropPending,
		},
	}
	dnf = tool{
		program:   "dnf",
		upgrade:   map[process.Act]string{process.Apply: "patiently dnf -y upgrade '--setopt=*.skip_if_unavailable=False'\n"},
		installed: rpmInstalled,
		install:   `patiently dnf install -y "$name"`,
	}
	yum = tool{
		program:   "yum",
		upgrade:   map[process.Act]string{process.Apply: "patiently yum -y update '--setopt=*.skip_if_unavailable=False'\n"},
		installed: rpmInstalled,
		install:   `patiently yum install -y "$name"`,
	}
	apt = tool{
		program:   "apt-get",
		upgrade:   map[process.Act]string{process.Apply: aptUpgrade},
		installed: `dpkg -s "$name"`,
		install:   aptInstall,
	}
)

var families = []family{
	{ids: []string{"atomic"}, tools: []tool{rpmOSTree}},
	{ids: []string{"fedora"}, tools: []tool{dnf, yum}},
	{ids: []string{"rhel", "centos"}, tools: []tool{yum, dnf}},
	{ids: []string{"debian", "ubuntu"}, tools: []tool{apt}},
}

// familyOf is the family of a host's system: that of its own name, else of the
// nearest that it says it is like.
func familyOf(facts event.Facts) (family, bool) {
	for _, id := range append([]string{facts.OS}, strings.Fields(facts.Like)...) {
		if i := slices.IndexFunc(families, func(f family) bool { return slices.Contains(f.ids, id) }); i >= 0 {
			return families[i], true
		}
	}
	return family{}, false
}

// named tells whether a host's system is one of those named: by its own name, or
// else as one of the family that it is like.
func named(names []string, facts event.Facts) bool {
	if slices.Contains(names, facts.OS) {
		return true
	}
	f, known := familyOf(facts)
	return known && !slices.Contains(f.ids, facts.OS) && slices.ContainsFunc(f.ids, func(id string) bool { return slices.Contains(names, id) })
}

// toolOf is what brings a host up to date, or why nothing there does. Whether a
// host is supported is decided here, and by unsupported, alone.
func toolOf(facts event.Facts) (tool, string) {
	if problem := unsupported(facts); problem != "" {
		return tool{}, problem
	}
	f, _ := familyOf(facts)
	var wanted []string
	for _, t := range f.tools {
		if facts.Has(t.program) {
			return t, ""
		}
		wanted = append(wanted, t.program)
	}
	if facts.OSTree {
		return tool{}, "it is made from an image and has no rpm-ostree, so it can be restarted but neither upgraded nor deployed from here: what made it, such as bootc, brings it up to date"
	}
	return tool{}, osName(facts) + " is brought up to date by " + strings.Join(wanted, " or ") + ", which it does not have"
}

// unsupported is why nothing is installed on a host, or brought up to date; "" where
// something is.
func unsupported(facts event.Facts) string {
	if _, known := familyOf(facts); !known {
		return osName(facts) + " is not supported"
	}
	return ""
}

// commandOf is what a host runs for an act of an operation; or why there is nothing to
// do there, which is no failure, or why it cannot be done.
func commandOf(kind domain.OperationKind, act process.Act, version string, bypass bool, facts event.Facts) (text, skip, problem string) {
	if kind == domain.Deploy && !facts.OSTree {
		return "", "not an ostree host: there is no tree to deploy", unsupported(facts)
	}
	t, problem := toolOf(facts)
	if problem != "" {
		return "", "", problem
	}
	scripts := t.upgrade
	if kind == domain.Deploy {
		scripts = t.deploy
	}
	text, does := scripts[act]
	switch {
	case !does && act == process.Apply:
		return "", "", "no command does a " + string(kind) + " on " + osName(facts)
	case !does:
		return "", "", "nothing is downloaded in advance on " + osName(facts)
	case act == process.CleanUp:
		return text, "", ""
	case kind == domain.Deploy && !oneLine.MatchString(version):
		return "", "", strconv.Quote(clip(version, 64)) + " is no version"
	case facts.UpdateDriver == "":
		return text, "", ""
	case !bypass:
		return "", "", fmt.Sprintf("its updates are driven by %s: start the %s with \"bypass_driver\": true to do it nevertheless, or take %[1]s out of service on the host and reboot it", facts.UpdateDriver, kind)
	}
	command := "rpm-ostree " + string(kind)
	return strings.ReplaceAll(text, command, command+" --bypass-driver"), "", ""
}

// Plan is what an operation by that policy has a host do, one command after the
// other, for people; what depends on how the host then is, is followed by # and the
// condition. Or it says why there is nothing to do there, or why it cannot be done.
// The turn goes by the same.
func Plan(kind domain.OperationKind, version string, policy event.Policy, facts event.Facts) (commands []string, skip, problem string) {
	const reboot = "systemctl reboot"
	switch {
	case facts.OS == "":
		return nil, "", "nothing is known of the host yet"
	case kind == domain.Restart:
		return []string{reboot}, "", "" // which needs no family
	}
	acts := []process.Act{process.Apply}
	if policy.Stage && facts.OSTree {
		acts = []process.Act{process.Stage, process.ApplyStaged}
	}
	for _, act := range acts {
		text, skip, problem := commandOf(kind, act, version, policy.BypassDriver, facts)
		if skip != "" || problem != "" {
			return nil, skip, problem
		}
		commands = append(commands, people(text, version)...)
	}
	switch policy.Reboot {
	case event.AlwaysReboot:
		commands = append(commands, reboot)
	case event.RebootIfNeeded:
		commands = append(commands, reboot+" # where a new deployment or kernel is pending, or the distribution says so")
	case event.NoReboot:
	}
	return commands, "", ""
}

// packages is a script that sees to it that one of the packages named in
// `argument`, one a line, is installed: the first that can be.
func (t tool) packages() string {
	return `while read -r name; do
	` + t.installed + ` >/dev/null 2>&1 </dev/null && exit 0
done <argument
while read -r name; do
	` + t.install + ` </dev/null && exit 0
done <argument
exit 1
`
}

// services is a script that enables and restarts the services named in
// `argument`, one a line.
const services = `while read -r name; do
	systemctl is-enabled "$name" >/dev/null 2>&1 || systemctl enable "$name" || exit
	systemctl restart "$name" || exit
done <argument
`

// people are the commands of a script, for people, without what prepares and
// checks them.
func people(script, version string) (commands []string) {
	for line := range strings.Lines(script) {
		for command := range strings.SplitSeq(strings.TrimSpace(line), " && ") {
			word, command, _ := strings.Cut(command, " ")
			if word == "patiently" || word == "completely" {
				commands = append(commands, strings.ReplaceAll(command, `"$(cat argument)"`, version))
			}
		}
	}
	return commands
}
