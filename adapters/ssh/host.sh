# What Commissaire does on a host. Fed on standard input to `/bin/sh -s` (or
# `sudo -n /bin/sh -s`), and after it, one line each, what is asked for:
#
#   commissaire 'MARKER' 'VERB' 'ARGUMENT'... </dev/null
#
# MARKER is 32 random hexadecimal digits, others each time, and frames the answer,
# because login shells and banners print as well. Each ARGUMENT is in single quotes and of
# letters, digits, "+", "/", "=" and "-" only: it is data, whatever it holds.
#
#   facts  OWNER TERM                             all that is known of the host
#   run    OWNER TERM TURN SECONDS BOOT_ID COMMAND64 ARGUMENT64 [FROM HEAD TAIL]
#                                                 once a turn; answers at its end
#   look   TURN [FROM HEAD TAIL]                  answers at once, starts nothing
#   write  OWNER TERM SECONDS MODE PATH64 CONTENT64
#                                                 a whole file, if it differs
#   reboot OWNER TERM TURN SECONDS BOOT_ID        once a turn, from that boot only;
#                                                 answers when it was ordered
#   check  OWNER TERM SECONDS COMMAND64           a health command, as often as asked
#   take   OWNER TERM                             makes the host OWNER's, whosever it was
#   needs-reboot                                  why, by the package manager
#
# (OWNER is the identity of the log whose leader asks, TERM that leader's term. A host
# without an owner becomes that of the first who asks, unless it has seen a later term:
# an earlier version of this script kept terms only, and somebody manages that host.
# SECONDS bound what is done, the wait for other work on the host included. BOOT_ID is
# that of the boot in which a turn is begun: in another one, or where that is not known
# "-", what has no record is not begun any more.
# …64: base64 without line breaks. COMMAND is a shell script; it runs in the
# turn's directory, where the file `argument` holds ARGUMENT. Of what it prints,
# from the byte FROM on, all is told that lies before the byte HEAD, and of what
# lies beyond at most the TAIL bytes that are the last at the time.)
#
# The answer is a sequence of sections, each headed by a line "MARKER name":
# begin, the sections of the verb, end. A section ends before the line break
# that comes before the next heading. Where nothing was done, there is one of these:
# `fenced` holds the term of a later leader of the same log, which was here before;
# `foreign` holds another owner, since when it is that, and the term seen, each "-"
# where it is not known; `refused` holds why nothing could be done. While a command
# runs there come, as it prints, sections `output BYTE`, which hold what it printed
# from that byte on, `running`, which are empty, and, whenever that changes,
# `waiting`, which hold what it waits for, or nothing; of the end of the output, which
# is in `tail` as well, there may be none.
#
# What is kept, in /var/lib/commissaire (0700), for 7 days a turn:
#
#   lock, term      whoever decides holds lock; term is the highest seen
#   owner           identity of the log that the turns are of, and since when
#   work            held by whoever does something to the host, so that nothing
#                   else is done at the same time, whoever asked; says who that is
#   turn/NAME/      boot, limit, command, argument, runner and its scripts: written
#                   before the turn is claimed by renaming the directory to its name
#       running     held by the runner from its start to the end of the command
#       started     the runner holds, or held, `running`
#       waiting     what is waited for at the time
#       begun       the runner holds, or held, `work`, and began the command
#       output      standard output and standard error of the command
#       warnings    what of it people should see though the command succeeded
#       exit, ended exit status; why there is none
#       refused     why the command was never begun
#       hold        the command is a reboot: work is held until the host goes down
#       late        whoever waited gave up before the runner started: it must not
#
# A command has the environment of a login of root's, and in it COMMISSAIRE_TURN.
# What it leaves behind when it ends by itself goes on, in the unit of the turn where
# there is systemd, and holds no lock. Of a command that was stopped nothing goes on.
#
# Programs besides those of the shell: base64 cat chmod date df env find flock head mkdir
# mv nproc readlink reboot rm setsid sh sha256sum sleep sync systemctl systemd-run
# tail timeout uname wc; and where they are there dnf dpkg-query grubby
# needs-restarting rpm-ostree. POSIX, and runs in interpreters that know
# redirections of 0, 1 and 2 only.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
export PATH LC_ALL
state=/var/lib/commissaire
boot_id=/proc/sys/kernel/random/boot_id

section() { printf '\n%s %s\n' "$marker" "$1"; }

# refuse WHY fails, so that `… || refuse WHY || return` reads as it is meant.
refuse() {
	section refused
	printf '%s\n' "$1"
	return 1
}

# keep FILE TEXT, in $state: there is always a whole one, also where power is lost.
keep='
keep() { echo "$2" >"$1.new" && sync "$1.new" && mv "$1.new" "$1"; }
own() { keep owner "$owner $(date -u +%Y-%m-%dT%H:%M:%SZ)"; }
read -r owner
read -r term
'

# Under lock, in $state. Standard input: owner, term. Where the file of one of them
# holds something else, nobody is admitted: it may have been anybody.
fence="$keep"'
seen=0 theirs=- since=-
if [ -e term ]; then
	seen=
	read -r seen <term
fi
if [ -e owner ]; then
	theirs=
	read -r theirs since <owner
fi
case $seen in
"" | *[!0-9]* | ????????????????????*)
	echo "spoilt term"
	exit
	;;
esac
case $theirs in
"" | *[!A-Za-z0-9-]*)
	echo "spoilt owner"
	exit
	;;
esac
[ "$seen" -gt "$term" ] 2>/dev/null
case $?$theirs in
1"$owner" | 1-) ;;
0"$owner")
	echo "fenced $seen"
	exit
	;;
[01]*)
	echo "foreign $theirs $since $seen"
	exit
	;;
*)
	echo "spoilt term"
	exit
	;;
esac
[ "$seen" = "$term" ] || keep term "$term" || exit
[ "$theirs" = "$owner" ] || own || exit
'

admit="$fence"'echo admitted'

# The term first: with half of it done the host is still the other one's.
take="$keep"'keep term "$term" && own && echo taken'

# Under lock, in $state. Standard input: owner, term, turn, directory made for it,
# boot id that must still be the current one (or -). A turn of that name is old.
claim="$fence"'
read -r turn
read -r new
read -r boot
read -r now </proc/sys/kernel/random/boot_id
if [ -d "turn/$turn" ]; then
	echo old
elif [ "$boot" != - ] && [ "$boot" != "$now" ]; then
	echo booted
else
	find turn -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} +
	mv "turn/$new" "turn/$turn" && sync && echo new
fi
'

# Under work and lock, in $state. Standard input: owner, term, new file, path.
replace="$fence"'echo "the writing of a file (process $$)" >work

read -r new
read -r path
if [ -f "$path" ] && [ "$(sha256sum <"$new")" = "$(sha256sum <"$path")" ]; then
	echo same
else
	mv -f "$new" "$path" && echo changed
fi
'

# In the directory of a turn, whose name is $1: stops what its command started and
# left behind, at once or, where $2 is there, after 10 s to end by itself. That is
# what has the turn in its environment or is in its unit, and what that started.
stop='
name=$1
grace=$2
parent_of() {
	while read -r key parent; do
		case $key in PPid:) echo "$parent" && break ;; esac
	done <"/proc/$1/status"
}
marked() {
	while read -r line || [ -n "$line" ]; do
		case $line in *"COMMISSAIRE_TURN=$name/"*) return ;; esac
	done <"/proc/$1/environ"
	while read -r line; do
		case $line in */"commissaire-$name.service"*) return ;; esac
	done <"/proc/$1/cgroup"
	return 1
}
alive() {
	while read -r key value; do
		case $key$value in State:[ZX]*) return 1 ;; State:*) return ;; esac
	done <"/proc/$1/status"
	return 1
}
find_members() {
	above=" " pid=$$
	while [ "${pid:-0}" -gt 0 ]; do
		above="$above$pid "
		pid=$(parent_of "$pid")
	done
	members=" " others=
	for process in /proc/[0-9]*; do
		pid=${process#/proc/}
		case $above in *" $pid "*) continue ;; esac
		if [ ! -e "$process/status" ]; then
			continue
		elif marked "$pid"; then
			members="$members$pid "
		else
			others="$others $(parent_of "$pid"):$pid"
		fi
	done
	more=x
	while [ -n "$more" ]; do
		more=
		for other in $others; do
			case $members in *" ${other#*:} "*) continue ;; esac
			case $members in *" ${other%:*} "*) members="$members${other#*:} " more=x ;; esac
		done
	done
}
find_members
if [ -n "$grace" ] && [ "$members" != " " ]; then
	kill -TERM $members
	tries=0
	waiting=x
	while [ -n "$waiting" ] && [ "$tries" -lt 50 ]; do
		waiting=
		for pid in $members; do
			! alive "$pid" || waiting=x
		done
		[ -z "$waiting" ] || sleep 0.2
		tries=$((tries + 1))
	done
	find_members
fi
tries=0
while [ "$tries" -lt 10 ] && [ "$members" != " " ]; do
	kill -KILL $members
	sleep 0.1
	tries=$((tries + 1))
	dying=$members
	find_members
	for pid in $dying; do # what is dying may be known by nothing of the turn any more
		case $members in *" $pid "*) continue ;; esac
		! alive "$pid" || members="$members$pid "
	done
done
'

# Under running, in the directory of a turn, whose name is $1: says "done" and why,
# or "waiting" where the runner has yet to start.
settle='
read -r boot <boot
read -r now </proc/sys/kernel/random/boot_id
if [ -s exit ] || [ -e ended ] || [ -s refused ]; then
	:
elif [ "$boot" != "$now" ]; then
	echo "interrupted by a reboot" >ended
elif [ -e started ]; then
	sh ./stop "$1" 2>/dev/null
	echo killed >ended
elif [ -e late ]; then
	echo "never started" >ended
else
	echo waiting
	exit
fi
echo done
'

# What the runner of the turn $1 does under running, in the directory of its turn:
# it waits for what others do to the host, until its time limit.
run='[ ! -e started ] && [ ! -e ended ] || exit 0
: >started
umask 022
read -r limit <limit
read -r began idle </proc/uptime
echo "${began%.*}" >began
flock -n -o ../../work sh ./carry "$1"
while [ ! -e begun ]; do
	who=$(cat ../../work)
	read -r now idle </proc/uptime
	if [ $((${now%.*} - ${began%.*})) -ge "$limit" ]; then
		echo "another piece of work runs on this host: $who" >refused
		exit
	fi
	echo "another piece of work on this host: $who" >waiting.new && mv waiting.new waiting
	flock -w 1 -o ../../work sh ./carry "$1"
	[ "$?" = 1 ] || sleep 1
done
'

# What it does under running and work. The exit status has its room on the disk
# before the command can fill that, and the time limit does not go by a clock that
# may be set meanwhile.
carry=': >begun || exit
echo "turn $1 (process $$)" >../../work
rm -f waiting
echo none >exit.new
read -r limit <limit
read -r began <began
read -r now idle </proc/uptime
left=$((limit - (${now%.*} - began)))
[ "$left" -gt 0 ] || left=1
home=/root
while IFS=: read -r user password uid gid about directory shell; do
	[ "$user" != root ] || home=$directory
done </etc/passwd
lang=C
for locale in /usr/lib/locale/C.utf8 /usr/lib/locale/C.UTF-8; do
	[ ! -e "$locale" ] || lang=C.UTF-8
done
timeout -k 30 "$left" env -i "COMMISSAIRE_TURN=$1/" "PATH=$PATH" "HOME=$home" USER=root LOGNAME=root SHELL=/bin/sh "LANG=$lang" \
	sh ./command </dev/null >output 2>&1
status=$?
case $status in 124 | 137 | 143) # differ between implementations of timeout
	read -r now idle </proc/uptime
	if [ $((${now%.*} - began)) -ge "$limit" ]; then
		sh ./stop "$1" gently 2>/dev/null
		why=$(head -c 300 waiting 2>/dev/null)
		echo "stopped at its time limit of $limit s${why:+, while it waited for $why}" >ended
	fi
esac
echo "$status" >exit.new && mv exit.new exit
rm -f waiting
if [ -e hold ] && [ "$status" = 0 ]; then
	read -r boot <boot
	now=$boot tries=0
	while [ "$now" = "$boot" ] && [ "$tries" -lt 300 ]; do
		sleep 1
		read -r now </proc/sys/kernel/random/boot_id
		tries=$((tries + 1))
	done
fi
'

# Under work: says the exit status of the health command on standard input,
# which has the rest of $1 seconds from $2 on; what it prints is in $3. $4 is work.
check='
echo "a health command (process $$)" >"$4"
read -r now idle </proc/uptime
left=$(($1 - (${now%.*} - $2)))
[ "$left" -gt 0 ] || left=1
timeout -k 5 "$left" sh -s >"$3" 2>&1
echo "$?"
'

has() { command -v "$1" >/dev/null 2>&1; }

decode() { printf '%s' "$1" | base64 -d; }

is_turn() {
	case $1 in
	'' | *[!A-Za-z0-9-]*) refuse 'this is no name of a turn' ;;
	esac
}

enter_state() {
	mkdir -p "$state/turn" && chmod 700 "$state" && cd "$state" && true >>lock ||
		refuse "no record can be kept in $state, without which nothing is done here: is there room, and may it be written to?"
}

# verdict TEXT OWNER TERM...: standard output of $1 under lock, and under work too where
# it is to be had within $alone seconds, or why there is none.
verdict() {
	text=$1 busy=
	shift
	if [ -z "$alone" ]; then
		said=$(printf '%s\n' "$@" | flock lock sh -c "$text")
	else
		said=$(printf '%s\n' "$@" | flock -o -w "$alone" work flock lock sh -c "$text")
		[ "$?" != 1 ] || busy=1
	fi
	case $busy$said in
	1) refuse "another piece of work runs on this host: $(cat work)" ;;
	'fenced '*)
		section fenced
		printf '%s\n' "${said#fenced }"
		return 1
		;;
	'foreign '*)
		section foreign
		printf '%s\n' "${said#foreign }"
		return 1
		;;
	'spoilt '*) refuse "who manages this host is not known, $state/${said#spoilt } holds something else: look at it, then take the host over, which writes it anew" ;;
	'') refuse "could not keep its record in $state" ;;
	esac
}

# detach DIRECTORY: runs its runner where neither the end of this connection nor
# of the login session reaches it. A runner that is started twice runs once.
detach() {
	if [ -d /run/systemd/system ] &&
		systemd-run --unit="commissaire-$turn" --property=KillMode=process /bin/sh "$1/runner" >/dev/null 2>&1; then
		return
	fi
	(setsid sh "$1/runner" >/dev/null 2>&1 &)
}

# part BYTE SIZE: that much of the output from that byte on.
part() {
	if [ "$1" = 0 ]; then
		head -c "$2" output
	else
		tail -c +$(($1 + 1)) output | head -c "$2"
	fi
}

# tell END: what is wanted of the output from $from to END.
tell() {
	while [ "$from" -lt "$1" ]; do
		size=$((head - from))
		if [ "$size" -le 0 ]; then
			[ $(($1 - from)) -le "$tail" ] || from=$(($1 - tail))
			size=65536
		fi
		[ "$size" -le 65536 ] || size=65536
		[ "$size" -le $(($1 - from)) ] || size=$(($1 - from))
		section "output $from"
		part "$from" "$size"
		from=$((from + size))
	done
}

# tell_waiting: what the turn waits for, if that is not what was told last.
tell_waiting() {
	why=
	[ ! -e waiting ] || why=$(head -c 300 waiting 2>/dev/null)
	[ "$why" != "$told" ] || return 0
	told=$why
	section waiting
	printf '%s\n' "$why"
}

# tell_others: who does something to the host already, if anybody does.
tell_others() {
	if ! flock -n "$state/work" true; then
		section waiting
		printf 'another piece of work on this host: %s\n' "$(cat "$state/work")"
	fi
}

# forget_unit: one that failed because it was killed is not left to make the host
# count as degraded.
forget_unit() {
	unit=commissaire-$turn.service tries=0
	while [ "$tries" -lt 50 ] && { [ -e "/run/systemd/transient/$unit" ] || [ -e "/run/systemd/system/$unit" ]; }; do
		case $(systemctl is-active "$unit" 2>/dev/null) in
		active | activating | deactivating) ;;
		failed) systemctl reset-failed "$unit" >/dev/null 2>&1 ;;
		*) break ;;
		esac
		tries=$((tries + 1))
		sleep 0.1
	done
}

report() {
	if [ -s exit ] || [ -e ended ] || [ -s refused ]; then
		forget_unit
	fi
	if [ -s refused ]; then
		refuse "$(head -c 300 refused)"
		return
	fi
	section state
	if [ -e ended ]; then
		printf 'ended %s\n' "$(cat ended)"
	elif [ -s exit ]; then
		printf 'exit %s\n' "$(cat exit)"
	else
		printf 'running\n'
	fi
	if [ -s warnings ]; then
		section warnings
		head -c 8192 warnings
	fi
	if [ ! -e output ]; then
		return
	fi
	# What the command left behind may go on to print: that is not looked at.
	whole=$(wc -c <output)
	section size
	printf '%s\n' "$whole"
	end=$((whole - 8192))
	[ "$end" -gt 0 ] || end=0
	[ -z "$from" ] || tell "$end"
	section sha256
	part 0 "$whole" | sha256sum
	section tail
	part "$end" $((whole - end))
}

# admitted OWNER TERM: whether they may do something here.
admitted() (
	enter_state && verdict "$admit" "$@"
)

# make_turn SECONDS BOOT_ID COMMAND64 ARGUMENT64 [hold]: makes $turn, unless it is there,
# in the name of $owner and $term. $said is as claim has it.
make_turn() {
	is_turn "$turn" || return
	enter_state || return
	if [ ! -d "turn/$turn" ]; then
		new=turn/.new-$short
		mkdir -m 700 "$new" &&
			decode "$3" >"$new/command" &&
			decode "$4" >"$new/argument" &&
			cat "$boot_id" >"$new/boot" &&
			echo "$1" >"$new/limit" &&
			printf '%s' "$run" >"$new/run" &&
			printf '%s' "$carry" >"$new/carry" &&
			printf '%s' "$stop" >"$new/stop" &&
			{ [ -z "$5" ] || true >"$new/$5"; } &&
			printf 'PATH=%s LC_ALL=C\nexport PATH LC_ALL\ncd %s && exec flock -o running sh ./run %s\n' "$PATH" "$state/turn/$turn" "$turn" >"$new/runner" ||
			refuse "could not write to $state" || return
	fi
	if ! verdict "$claim" "$owner" "$term" "$turn" ".new-$short" "$2"; then
		rm -rf "turn/.new-$short"
		return 1
	fi
	[ "$said" = new ] || rm -rf "turn/.new-$short"
}

run_turn() {
	owner=$1 term=$2 turn=$3
	shift 3
	from=$5 head=$6 tail=$7
	make_turn "$1" "$2" "$3" "$4" || return
	if [ "$said" = booted ]; then
		section state
		printf 'ended interrupted by a reboot\n'
		return
	fi
	cd "turn/$turn" || return
	[ "$said" != new ] || detach "$state/turn/$turn"
	# 1 s of short waits, 20 s of longer ones, if the runner does not start. Once it
	# runs, what it prints, and waits for, is told after a fifth of a second, then
	# every second.
	tries=0 looks=0 wait=0.2 told=
	while :; do
		said=$(flock -w "$wait" running sh -c "$settle" sh "$turn")
		status=$?
		[ -e boot ] || refuse 'its record is gone' || return
		case $status$said in
		0done) break ;;
		1)
			[ -z "$from" ] || [ ! -s output ] || tell "$(wc -c <output)"
			tell_waiting
			section running || return # nobody listens any more
			looks=$((looks + 1))
			[ "$looks" -ne 5 ] || wait=1
			;;
		*)
			if [ "$tries" -lt 50 ]; then
				tries=$((tries + 1))
				sleep 0.02
			elif [ "$tries" -lt 150 ]; then
				tries=$((tries + 1))
				sleep 0.2
			else
				true >late || refuse "could not keep its record in $state" || return
			fi
			;;
		esac
	done
	report
}

look_turn() {
	turn=$1 from=$2 head=$3 tail=$4
	is_turn "$turn" || return
	if ! cd "$state/turn/$turn" 2>/dev/null; then
		section state
		printf 'unknown\n'
		return
	fi
	flock -n running sh -c "$settle" sh "$turn" >/dev/null
	report
}

write_file() {
	path=$(decode "$5")
	case $path in
	/*[!/]) ;;
	*) refuse 'this is no path of a file' || return ;;
	esac
	[ ! -d "$path" ] || refuse "$path is a directory" || return
	enter_state || return
	# The file grows in a directory of its own, so that nobody else opens it
	# before it has its mode.
	directory=${path%/*}
	new=$directory/.commissaire-$short
	if mkdir -p "$directory/" && mkdir -m 700 "$new" &&
		decode "$6" >"$new/file" && chmod "$4" "$new/file"; then
		alone=$3
		tell_others
		if verdict "$replace" "$1" "$2" "$new/file" "$path"; then
			if [ "$said" = same ]; then
				chmod "$4" "$path"
			fi
			section written
			printf '%s\n' "$said"
		fi
	else
		refuse "could not write $path"
	fi
	rm -rf "$new"
}

reboot_turn() {
	owner=$1 term=$2 turn=$3
	make_turn "$4" "$5" "$(printf 'systemctl reboot || reboot\n' | base64)" '' hold || return
	if [ "$said" = booted ]; then
		section reboot
		printf 'booted\n'
		return
	fi
	cd "turn/$turn" || return
	[ "$said" != new ] || detach "$state/turn/$turn"
	# The order is given at once, or refused; one that is not may never return. What
	# is waited for before that has its own limit.
	tries=0 most=$((10 * ($4 + 10))) told=
	until [ -s exit ] || [ -s refused ] || [ "$tries" -ge "$most" ]; do
		tell_waiting
		section running || return # nobody listens any more
		[ -z "$told" ] && [ "$tries" -ge 100 ] && break
		tries=$((tries + 1))
		sleep 0.1
	done
	status=
	[ ! -s exit ] || read -r status <exit
	if [ -s refused ] || [ "${status:-0}" != 0 ]; then
		from=
		report
		return
	fi
	section reboot
	printf '%s\n' "$said"
}

# What is printed goes to a file, so that a process which the command leaves behind
# is not waited for; where there is no room for one, it is not told.
check_health() {
	admitted "$1" "$2" || return
	said=$state/turn/.said-$short
	printf '%8192s' '' >"$said" 2>/dev/null || {
		rm -f "$said"
		said=/dev/null
	}
	tell_others
	read -r began idle </proc/uptime
	status=$(decode "$4" | flock -o -w "$3" "$state/work" sh -c "$check" check "$3" "${began%.*}" "$said" "$state/work")
	if [ -n "$status" ]; then
		section output
		tail -c 8192 "$said"
		section exit
		printf '%s\n' "$status"
	else
		refuse "another piece of work runs on this host: $(cat "$state/work")"
	fi
	[ "$said" = /dev/null ] || rm -f "$said"
}

take_over() {
	enter_state && verdict "$take" "$@" || return
	section taken
}

read_facts() {
	admitted "$@" || return
	section os-release
	cat /etc/os-release || cat /usr/lib/os-release
	section machine
	uname -m
	section kernel
	uname -r
	section boot-id
	cat "$boot_id"
	section machine-id
	{ cat /etc/machine-id || cat /var/lib/dbus/machine-id; } 2>/dev/null
	section programs
	for program in apt-get bootc dnf journalctl rpm-ostree systemctl yum; do
		! has "$program" || printf '%s\n' "$program"
	done
	if [ -e /run/reboot-required ]; then
		section reboot-required
		head -c 8192 /run/reboot-required.pkgs 2>/dev/null
	fi
	section cpus
	nproc --all
	section memory
	head -n 1 /proc/meminfo
	section space
	disks=$(df -Pkl) # which fails also where only one of them cannot be looked at
	if [ -n "$disks" ]; then
		printf '%s\n' "$disks"
	else
		df -Pk
	fi
	if [ ! -e /run/ostree-booted ]; then
		read_kernels
	elif has rpm-ostree; then
		section rpm-ostree
		timeout 60 rpm-ostree status --json
	else
		section ostree
	fi
}

# read_kernels tells of the kernels that are there, what the boot loader says of the
# one it starts, and what the package manager has installed.
read_kernels() {
	section kernels
	for image in /boot/vmlinuz-* /boot/vmlinux-*; do
		[ ! -f "$image" ] || printf '%s\n' "${image#/boot/vmlinu?-}"
	done
	for image in /lib/modules/*/vmlinuz; do
		image=${image%/vmlinuz}
		[ ! -f "$image/vmlinuz" ] || printf '%s\n' "${image##*/}"
	done
	section boot-loader
	! has grubby || timeout 10 grubby --default-kernel 2>/dev/null
	for file in /boot/grub2/grubenv /boot/grub/grubenv; do
		[ -f "$file" ] || continue
		while read -r entry; do
			case $entry in
			saved_entry=*) printf '%s\n' "$entry" ;;
			esac
		done <"$file"
	done
	for link in /vmlinuz /boot/vmlinuz; do
		[ ! -h "$link" ] || readlink "$link"
	done
	if has dpkg-query; then
		section kernel-packages
		timeout 10 dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'linux-image-*' 2>/dev/null
	fi
}

# needs_reboot tells why the package manager wants a reboot, where it can say so. The
# exit status is 1 where it does, and where it cannot.
needs_reboot() {
	section reboot-needed
	if has needs-restarting; then
		said=$(timeout 60 needs-restarting -r 2>&1)
	elif has dnf; then
		said=$(timeout 60 dnf needs-restarting -r 2>&1)
	else
		return
	fi
	case $?$said in
	1 | 1*eboot*) printf 'needs-restarting: %s\n' "$said" ;;
	esac
}

# In a shell of its own, so that it leaves nothing behind for the next one.
commissaire() (
	marker=$1
	verb=$2
	short=${marker%????????????????????????}
	alone=
	shift 2
	section begin
	case $verb in
	facts) read_facts "$@" ;;
	run) run_turn "$@" ;;
	look) look_turn "$@" ;;
	write) write_file "$@" ;;
	reboot) reboot_turn "$@" ;;
	check) check_health "$@" ;;
	take) take_over "$@" ;;
	needs-reboot) needs_reboot ;;
	*) refuse "there is no verb $verb" ;;
	esac
	section end
)
