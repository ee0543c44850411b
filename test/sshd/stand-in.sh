#!/bin/bash
# Stands in, on a host of the rig, for every program that would change a
# machine: it does what its name says to files of the rig only. What the rig and
# it share is in /run/stand-ins:
#
#   marker              tells that this is a host of the rig
#   commands            every call, one a line
#   knobs               lines "KIND<tab>VALUE<tab>PREFIX": what calls that begin
#                       with PREFIX do before anything else
#   next                the version that an upgrade brings
#   booted pending previous   deployments of an ostree
#   packages/NAME repositories/NAME units/NAME.enabled units/NAME.active

rig=/run/stand-ins
name=${0##*/}
if [ ! -e $rig/marker ]; then
	echo "$name: a stand-in, and this is no host of the rig" >&2
	exit 99
fi
call="$name${*:+ $*}"
printf '%s\n' "${call//$'\n'/ }" >>$rig/commands

knob() {
	local kind value prefix
	while IFS=$'\t' read -r kind value prefix; do
		if [ "$kind" = "$1" ] && [[ $call == "$prefix"* ]]; then
			printf '%s' "$value"
			return
		fi
	done <$rig/knobs
	return 1
}

refuse() {
	echo "$name: $1" >&2
	exit "${2:-1}"
}

as_root() { [ "$EUID" = 0 ] || refuse "only root may do this"; }

install_packages() {
	as_root
	[ $# -gt 0 ] || refuse "no package is named"
	for package; do
		: >"$rig/packages/$package" || exit
		echo "Installed: $package"
	done
}

upgrade_system() {
	as_root
	read -r next <$rig/next
	sed -i "s/^VERSION_ID=.*/VERSION_ID=$next/" /etc/os-release || exit
	echo "Upgraded to $next"
}

deployment() {
	local checksum
	checksum=$(printf '%s' "$2" | sha256sum)
	printf '{"booted":%s,"staged":%s,"version":"%s","checksum":"%s"}' "$1" "$3" "$2" "${checksum%% *}"
}

stage() {
	as_root
	if [ "$1" = "$(cat $rig/booted)" ]; then
		echo "No change."
		return
	fi
	printf '%s\n' "$1" >$rig/pending || exit
	echo "Staged deployment: $1. Run \"systemctl reboot\" to start a reboot"
}

end_with() {
	as_root
	kill -"$1" 1
}

if text=$(knob print); then
	printf '%b\n' "$text"
fi
while knob hold >/dev/null; do
	sleep 0.02
done
if seconds=$(knob take); then
	echo "$name: this takes $seconds s"
	sleep "$seconds"
fi
if status=$(knob fail); then
	refuse "fails, as it was told to" "$status"
fi

# Neither options nor the value of -o, which has its own word.
words=()
skip=
for word; do
	case $skip$word in
	-o) skip=x ;;
	x*) skip= ;;
	-*) ;;
	*) words+=("$word") ;;
	esac
done
verb=${words[0]}

case $name in
dnf | yum | apt-get | apt)
	case $verb in
	install) install_packages "${words[@]:1}" ;;
	upgrade | dist-upgrade) upgrade_system ;;
	update) case $name in apt*) echo "Reading package lists... Done" ;; *) upgrade_system ;; esac ;;
	*) refuse "the stand-in does not know: $*" 2 ;;
	esac
	;;
rpm)
	[[ $1 == -q* ]] || refuse "the stand-in does not know: $*" 2
	missing=0
	for package in "${words[@]}"; do
		if [ -e "$rig/packages/$package" ]; then
			echo "$package-1.0-1"
		else
			echo "package $package is not installed"
			missing=1
		fi
	done
	exit $missing
	;;
dpkg)
	[[ $* != *"--configure -a" ]] || exit 0
	[ "$1" = -s ] || refuse "the stand-in does not know: $*" 2
	[ -e "$rig/packages/$2" ] || refuse "package '$2' is not installed"
	printf 'Package: %s\nStatus: install ok installed\n' "$2"
	;;
rpm-ostree)
	[ -e /run/ostree-booted ] || refuse "this system was not booted with libostree"
	case $verb in
	status)
		read -r booted <$rig/booted
		list=$(deployment true "$booted" false)
		[ ! -e $rig/pending ] || list="$(deployment false "$(cat $rig/pending)" true),$list"
		[ ! -e $rig/previous ] || list="$list,$(deployment false "$(cat $rig/previous)" false)"
		printf '{"deployments":[%s],"transaction":null}\n' "$list"
		;;
	upgrade) stage "$(cat $rig/next)" ;;
	deploy)
		[ ${#words[@]} = 2 ] || refuse "one version must be named"
		stage "${words[1]#version=}"
		;;
	cleanup)
		as_root
		rm -f $rig/pending
		;;
	*) refuse "the stand-in does not know: $*" 2 ;;
	esac
	;;
systemctl)
	unit=$rig/units/${words[1]%.service}
	case $verb in
	enable | disable | start | restart | stop) as_root ;;&
	enable) : >"$unit.enabled" ;;
	disable) rm -f "$unit.enabled" ;;
	start | restart) : >"$unit.active" ;;
	stop) rm -f "$unit.active" ;;
	is-enabled) [ -e "$unit.enabled" ] && echo enabled || { echo disabled; exit 1; } ;;
	is-active) [ -e "$unit.active" ] && echo active || { echo inactive; exit 3; } ;;
	daemon-reload) ;;
	reboot) end_with TERM ;;
	poweroff | halt) end_with USR1 ;;
	*) refuse "the stand-in does not know: $*" 2 ;;
	esac
	;;
systemd-run)
	as_root
	while [[ $1 == -* ]]; do
		shift
	done
	[ $# -gt 0 ] || refuse "no command is named"
	setsid "$@" </dev/null >/dev/null 2>&1 &
	;;
reboot) [ -n "$*" ] && refuse "the stand-in knows no options" 2 || end_with TERM ;;
shutdown)
	case $1 in
	-r) end_with TERM ;;
	-h | -P) end_with USR1 ;;
	*) refuse "the stand-in does not know: $*" 2 ;;
	esac
	;;
halt | poweroff) [ -n "$*" ] && refuse "the stand-in knows no options" 2 || end_with USR1 ;;
subscription-manager)
	as_root
	[ "$verb" = repos ] || refuse "the stand-in does not know: $*" 2
	for option in "${@:2}"; do
		case $option in
		--enable=*) : >"$rig/repositories/${option#*=}" || exit ;;
		--list-enabled)
			for repository in $rig/repositories/*; do
				[ ! -e "$repository" ] || echo "Repo ID:   ${repository##*/}"
			done
			;;
		*) refuse "the stand-in does not know: $*" 2 ;;
		esac
	done
	;;
*) refuse "the stand-in does not know its name" 2 ;;
esac
