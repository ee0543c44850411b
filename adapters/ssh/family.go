package ssh

import (
	_ "embed"
	"slices"
	"strings"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

// A family is what differs between systems. Its commands are shell scripts, by
// the words of command.sh, run by host.sh as root, in a directory where the file
// `argument` holds what they are about; none has anything of a request in it.
// Supporting another system is another entry in families.
type family struct {
	ids []string // as in event.Facts.OS

	upgrade map[process.Act]string // brings the system up to date; never reboots
	deploy  map[process.Act]string // brings the version in `argument`; none where there is no such thing

	installed string // succeeds where package $name is installed; "" where packages are not installed
	install   string // installs package $name
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
)

//go:embed command.sh
var vocabulary string

// script is a command as a host runs it.
func script(command string) string {
	return vocabulary + "command_itself() {\n" + command + "}\ncommand_itself\nstatus=$?\nwarn\nexit \"$status\"\n"
}

var families = []family{
	{
		ids: []string{"atomic"},
		upgrade: map[process.Act]string{
			process.Apply:       "patiently rpm-ostree upgrade\n",
			process.Stage:       "patiently rpm-ostree upgrade --download-only\n",
			process.ApplyStaged: "patiently rpm-ostree upgrade --cache-only\n",
			process.CleanUp:     "patiently rpm-ostree cleanup -p\n",
		},
		deploy: map[process.Act]string{
			process.Apply:       "patiently rpm-ostree deploy -- \"$(cat argument)\"\n",
			process.Stage:       "patiently rpm-ostree deploy --download-only -- \"$(cat argument)\"\n",
			process.ApplyStaged: "patiently rpm-ostree deploy --cache-only -- \"$(cat argument)\"\n",
			process.CleanUp:     "patiently rpm-ostree cleanup -p\n",
		},
	},
	{
		ids:       []string{"fedora"},
		upgrade:   map[process.Act]string{process.Apply: "patiently dnf -y upgrade '--setopt=*.skip_if_unavailable=False'\n"},
		installed: rpmInstalled,
		install:   `patiently dnf install -y "$name"`,
	},
	{
		ids:       []string{"rhel", "centos"},
		upgrade:   map[process.Act]string{process.Apply: "patiently yum -y update '--setopt=*.skip_if_unavailable=False'\n"},
		installed: rpmInstalled,
		install:   `patiently yum install -y "$name"`,
	},
	{
		ids:       []string{"debian", "ubuntu"},
		upgrade:   map[process.Act]string{process.Apply: aptUpgrade},
		installed: `dpkg -s "$name"`,
		install:   aptInstall,
	},
}

func familyOf(os string) (family, bool) {
	i := slices.IndexFunc(families, func(f family) bool { return slices.Contains(f.ids, os) })
	if i < 0 {
		return family{}, false
	}
	return families[i], true
}

// packages is a script that sees to it that one of the packages named in
// `argument`, one a line, is installed: the first that can be.
func (f family) packages() string {
	return `while read -r name; do
	` + f.installed + ` >/dev/null 2>&1 </dev/null && exit 0
done <argument
while read -r name; do
	` + f.install + ` </dev/null && exit 0
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

// Commands are what an operation by that policy has a host of that OS do, one
// after the other, for people. What depends on how the host then is, is followed
// by # and the condition.
func Commands(kind domain.OperationKind, policy event.Policy, os, version string) []string {
	const reboot = "systemctl reboot"
	family, _ := familyOf(os)
	var scripts map[process.Act]string
	switch kind {
	case domain.Deploy:
		scripts = family.deploy
	case domain.Upgrade:
		scripts = family.upgrade
	case domain.Restart:
		return []string{reboot}
	}
	if len(scripts) == 0 {
		return nil
	}
	acts := []process.Act{process.Apply}
	if _, stages := scripts[process.Stage]; stages && policy.Stage {
		acts = []process.Act{process.Stage, process.ApplyStaged}
	}
	var all []string
	for _, act := range acts {
		all = append(all, people(scripts[act], version)...)
	}
	switch policy.Reboot {
	case event.AlwaysReboot:
		all = append(all, reboot)
	case event.RebootIfNeeded:
		all = append(all, reboot+" # where a new deployment or kernel is pending")
	case event.NoReboot:
	}
	return all
}

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
