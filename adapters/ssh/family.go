package ssh

import (
	"slices"
	"strings"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

// A family is what differs between systems. Its commands are shell scripts run
// by host.sh as root, in a directory where the file `argument` holds what they
// are about; none has anything of a request in it. Supporting another system is
// another entry in families.
type family struct {
	ids []string // as in event.Facts.OS

	upgrade map[process.Act]string // brings the system up to date; never reboots
	deploy  map[process.Act]string // brings the version in `argument`; none where there is no such thing

	installed string // succeeds where package $name is installed; "" where packages are not installed
	install   string // installs package $name
}

const (
	rpmInstalled = `rpm -q "$name"`

	aptUpgrade = `export DEBIAN_FRONTEND=noninteractive
apt-get update && exec apt-get -y -o Dpkg::Options::=--force-confold dist-upgrade
`
)

var families = []family{
	{
		ids: []string{"atomic"},
		upgrade: map[process.Act]string{
			process.Apply:       "exec rpm-ostree upgrade\n",
			process.Stage:       "exec rpm-ostree upgrade --download-only\n",
			process.ApplyStaged: "exec rpm-ostree upgrade --cache-only\n",
			process.CleanUp:     "exec rpm-ostree cleanup -p\n",
		},
		deploy: map[process.Act]string{
			process.Apply:       "exec rpm-ostree deploy -- \"$(cat argument)\"\n",
			process.Stage:       "exec rpm-ostree deploy --download-only -- \"$(cat argument)\"\n",
			process.ApplyStaged: "exec rpm-ostree deploy --cache-only -- \"$(cat argument)\"\n",
			process.CleanUp:     "exec rpm-ostree cleanup -p\n",
		},
	},
	{
		ids:       []string{"fedora"},
		upgrade:   map[process.Act]string{process.Apply: "exec dnf -y upgrade\n"},
		installed: rpmInstalled,
		install:   `dnf install -y "$name"`,
	},
	{
		ids:       []string{"rhel", "centos"},
		upgrade:   map[process.Act]string{process.Apply: "exec yum -y update\n"},
		installed: rpmInstalled,
		install:   `yum install -y "$name"`,
	},
	{
		ids:       []string{"debian", "ubuntu"},
		upgrade:   map[process.Act]string{process.Apply: aptUpgrade},
		installed: `dpkg -s "$name"`,
		install:   `DEBIAN_FRONTEND=noninteractive apt-get install -y "$name"`,
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

// people are the commands of a script, for people; what only prepares them is
// left out.
func people(script, version string) (commands []string) {
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "export ") {
			continue
		}
		for command := range strings.SplitSeq(strings.TrimSpace(line), " && ") {
			command = strings.TrimPrefix(command, "exec ")
			commands = append(commands, strings.ReplaceAll(command, `"$(cat argument)"`, version))
		}
	}
	return commands
}
