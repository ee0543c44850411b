# What the commands of families may use: it is set before each. They run in the
# directory of their turn, where host.sh writes what they print to `output`, tells
# what is in `waiting` while it is there, and at the end what is in `warnings`.

# waits_for WHAT: says it, or, without, that nothing is waited for any more.
waits_for() {
	if [ -n "$1" ]; then
		printf '%s\n' "$1" >waiting.new && mv waiting.new waiting
	else
		rm -f waiting
	fi
}

# whose PID: that process, as people know it.
whose() {
	comm=
	{ read -r comm <"/proc/$1/comm"; } 2>/dev/null
	case $1 in
	'' | *[!0-9]* | 0) printf 'a process that cannot be seen from here' ;;
	*) printf 'process %s%s' "$1" "${comm:+ ($comm)}" ;;
	esac
}

# locked FILE...: says which of these locks somebody holds, and who. Of a lock whose
# name ends in .pid that is the process named in it; else the kernel knows.
locked() {
	for file; do
		[ -e "$file" ] || continue
		case $file in
		*.pid)
			pid=
			{ read -r pid rest <"$file"; } 2>/dev/null
			case $pid in
			'' | *[!0-9]*) continue ;;
			esac
			[ -d "/proc/$pid" ] || continue
			;;
		*)
			inode=$(stat -c '%d %i' "$file" 2>/dev/null) || continue
			device=${inode% *}
			inode=$(printf '%02x:%02x:%s' $((device >> 8 & 4095)) $((device & 255 | device >> 12 & 1048320)) "${inode#* }")
			locks=$(cat /proc/locks 2>/dev/null)
			case $locks in
			*" $inode "*) locks=${locks%%" $inode "*} pid=${locks##* } ;;
			*) continue ;;
			esac
			;;
		esac
		printf 'the lock %s, which %s holds' "$file" "$(whose "$pid")"
		return
	done
	return 1
}

# printed: the end of what the last command printed.
printed() { tail -c "+$((from + 1))" output | tail -c 8192; }

# transaction: says which one keeps rpm-ostree busy, and who began it.
transaction() {
	said=$(rpm-ostree status 2>/dev/null | while read -r word rest; do
		case $word in
		Transaction:) printf '%s' "$rest" ;;
		Initiator:) printf ', begun by %s' "$rest" ;;
		esac
	done)
	[ -n "$said" ] && printf 'a transaction of rpm-ostree: %s' "$said"
}

# not_locked: whether the last command failed for want of a lock, and if so which.
not_locked() {
	said=$(printed)
	case $said in
	*'Transaction in progress'*)
		transaction || printf 'a transaction of rpm-ostree'
		;;
	*'Could not get lock'* | *'Unable to lock'* | *'Unable to acquire the dpkg'* | *'locked by another process'* | \
		*'holding the yum lock'* | *'create transaction lock'* | *'obtain rpm transaction lock'*)
		case $said in
		*'held by process '*) said=${said##*held by process } ;;
		*'with pid '*) said=${said##*with pid } ;;
		*) said= ;;
		esac
		printf 'the lock of the package manager, which %s holds' "$(whose "${said%%[!0-9]*}")"
		;;
	*) return 1 ;;
	esac
}

# patiently COMMAND...: runs it when nobody else holds a lock that a package manager
# needs, and again where it failed for want of one.
patiently() {
	while :; do
		while why=$(locked /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock \
			/run/yum.pid /var/run/yum.pid /var/cache/dnf/metadata_lock.pid /var/cache/dnf/download_lock.pid /var/lib/dnf/rpmdb_lock.pid \
			/var/lib/rpm/.rpm.lock /usr/lib/sysimage/rpm/.rpm.lock); do
			waits_for "$why"
			sleep 2
		done
		waits_for ''
		from=$(wc -c <output)
		"$@"
		status=$?
		if [ "$status" = 0 ] || ! why=$(not_locked); then
			return "$status"
		fi
		tries=0
		waits_for "$why"
		while [ "$tries" -lt 12 ]; do
			sleep 5
			case $why in
			*rpm-ostree*) why=$(transaction) && waits_for "$why" || break ;;
			*) break ;;
			esac
			tries=$((tries + 1))
		done
	done
}

# completely COMMAND...: patiently, and fails where not all repositories could be
# read, of which an older apt-get makes a warning.
completely() {
	patiently "$@" || return
	case $(printed) in
	*'Failed to fetch'* | *'Some index files failed to download'*)
		echo 'E: not all repositories could be read'
		return 100
		;;
	esac
}

# configured: fails where a package is installed by halves, and says which.
configured() {
	halves=$(dpkg-query -W -f '${Status} ${Package}\n' 2>/dev/null | while read -r want flag status name; do
		case $status in
		half-* | unpacked) printf ' %s' "$name" ;;
		esac
	done)
	if [ -n "$halves" ]; then
		echo "E: installed by halves:$halves"
		return 1
	fi
}

# warn: keeps the lines that people should see though the command succeeded: what
# was left out, and scriptlets that failed.
warn() {
	{
		tr -d '\000' <output | LC_ALL=C grep -E '^(W: |[Ww]arning: | *Problem( [0-9]+)?: |  - (nothing provides|cannot install|package )|Skipping packages with |Packages skipped because |Error in .*scriptlet|Non-fatal .*scriptlet|>>> )|scriptlet failed|unfinished transactions remaining'
		tr -d '\000' <output | LC_ALL=C grep -A 1 '^The following packages have been kept back'
	} | head -n 20 | head -c 8192 >warnings
}
