package ssh

import "slices"

// A family is what differs between systems. Its commands are shell scripts run
// by host.sh as root, in a directory where the file `argument` holds what they
// are about; none has anything of a request in it. Supporting another system is
// another entry in families.
type family struct {
	ids []string // as in event.Facts.OS

	upgrade string // brings the system up to date; never reboots
	deploy  string // brings the version in `argument`; "" where there is no such thing

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
		ids:     []string{"atomic"},
		upgrade: "exec rpm-ostree upgrade\n",
		deploy:  "exec rpm-ostree deploy -- \"$(cat argument)\"\n",
	},
	{
		ids:       []string{"fedora"},
		upgrade:   "exec dnf -y upgrade\n",
		installed: rpmInstalled,
		install:   `dnf install -y "$name"`,
	},
	{
		ids:       []string{"rhel", "centos"},
		upgrade:   "exec yum -y update\n",
		installed: rpmInstalled,
		install:   `yum install -y "$name"`,
	},
	{
		ids:       []string{"debian", "ubuntu"},
		upgrade:   aptUpgrade,
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
