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
#   run    OWNER TERM TURN SECONDS COMMAND64 ARGUMENT64 [FROM HEAD TAIL]
#                                                 once a turn; answers at its end
#   look   TURN [FROM HEAD TAIL]                  answers at once, starts nothing
#   write  OWNER TERM MODE PATH64 CONTENT64       a whole file, if it differs
#   reboot OWNER TERM TURN BOOT_ID                once a turn, from that boot only
#   check  OWNER TERM SECONDS COMMAND64           a health command, as often as asked
#   take   OWNER TERM                             makes the host OWNER's, whosever it was
#
# (OWNER is the identity of the log whose leader asks, TERM that leader's term. A host
# without an owner becomes that of the first who asks, unless it has seen a later term:
# an earlier version of this script kept terms only, and somebody manages that host.
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
# where it is not known; `refused` holds why nothing could be done. While a command runs there come, as it prints, sections
# `output BYTE`, which hold what it printed from that byte on, and `running`, which
# are empty; of the end of the output, which is in `tail` as well, there may be none.
#
# What is kept, in /var/lib/commissaire (0700), for 7 days a turn:
#
#   lock, term      whoever decides holds lock; term is the highest seen
#   owner           identity of the log that the turns are of, and since when
#   work            held by a runner from its start to the end of its command, so
#                   that no two commands run at the same time, whoever asked
#   turn/NAME/      boot, limit, command, argument, runner: written before the
#                   turn is claimed by renaming the directory to its name
#       running     held by the runner from its start to the end of the command
#       started     the runner holds, or held, `running`
#       output      standard output and standard error of the command
#       exit, ended exit status; why there is none
#       late        whoever waited gave up before the runner started: it must not
#
# Programs besides those of the shell: base64 cat chmod date df find flock head mkdir
# mv nproc reboot rm rpm-ostree setsid sh sha256sum sleep sync systemctl
# systemd-run tail timeout uname wc. POSIX, and runs in interpreters that know
# redirections of 0, 1 and 2 only and no umask.

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

# Under lock, in $state. Standard input: owner, term, new file, path.
replace="$fence"'
read -r new
read -r path
if [ -f "$path" ] && [ "$(sha256sum <"$new")" = "$(sha256sum <"$path")" ]; then
	echo same
else
	mv -f "$new" "$path" && echo changed
fi
'

# Under running, in the directory of a turn: says "done" and why, or "waiting"
# where the runner has yet to start.
settle='
read -r boot <boot
read -r now </proc/sys/kernel/random/boot_id
if [ -s exit ] || [ -e ended ]; then
	:
elif [ "$boot" != "$now" ]; then
	echo "interrupted by a reboot" >ended
elif [ -e started ]; then
	echo killed >ended
elif [ -e late ]; then
	echo "never started" >ended
else
	echo waiting
	exit
fi
echo done
'

# What the runner does under running, in the directory of its turn. The exit status
# has its room on the disk before the command can fill that, and the time limit
# does not go by a clock that may be set meanwhile.
run='[ ! -e started ] && [ ! -e ended ] || exit 0
: >started
echo none >exit.new
read -r limit <limit
read -r began idle </proc/uptime
timeout -k 30 "$limit" sh ./command </dev/null >output 2>&1
status=$?
if [ "$status" = 124 ] || [ "$status" = 137 ]; then
	read -r now idle </proc/uptime
	if [ $((${now%.*} - ${began%.*})) -ge "$limit" ]; then
		echo "stopped at its time limit of $limit s" >ended
	fi
fi
echo "$status" >exit.new && mv exit.new exit
'

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

# verdict TEXT OWNER TERM...: standard output of $1 under lock, or why there is none.
verdict() {
	text=$1
	shift
	said=$(printf '%s\n' "$@" | flock lock sh -c "$text")
	case $said in
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
		systemd-run --unit="commissaire-$turn" /bin/sh "$1/runner" >/dev/null 2>&1; then
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

report() {
	section state
	if [ -e ended ]; then
		printf 'ended %s\n' "$(cat ended)"
	elif [ -s exit ]; then
		printf 'exit %s\n' "$(cat exit)"
	else
		printf 'running\n'
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

run_turn() {
	owner=$1 term=$2 turn=$3
	shift 3
	from=$4 head=$5 tail=$6
	is_turn "$turn" || return
	enter_state || return
	if [ ! -d "turn/$turn" ]; then
		new=turn/.new-$short
		mkdir -m 700 "$new" &&
			decode "$2" >"$new/command" &&
			decode "$3" >"$new/argument" &&
			cat "$boot_id" >"$new/boot" &&
			echo "$1" >"$new/limit" &&
			printf '%s' "$run" >"$new/run" &&
			printf 'cd %s && exec flock -o ../../work flock -o running sh ./run\n' "$state/turn/$turn" >"$new/runner" ||
			refuse "could not write to $state" || return
	fi
	if ! verdict "$claim" "$owner" "$term" "$turn" ".new-$short" -; then
		rm -rf "turn/.new-$short"
		return
	fi
	cd "turn/$turn" || return
	if [ "$said" = new ]; then
		detach "$state/turn/$turn"
	else
		rm -rf "../.new-$short"
	fi
	# 1 s of short waits, 20 s of longer ones, if the runner does not start; what
	# it waits for while another command runs does not count. Once it runs, what it
	# prints is told after a fifth of a second, then every second.
	tries=0 looks=0 wait=60
	[ -z "$from" ] || wait=0.2
	while :; do
		said=$(flock -w "$wait" running sh -c "$settle")
		status=$?
		[ -e boot ] || refuse 'its record is gone' || return
		case $status$said in
		0done) break ;;
		1)
			[ -z "$from" ] || [ ! -s output ] || tell "$(wc -c <output)"
			section running || return # nobody listens any more
			looks=$((looks + 1))
			[ "$looks" -ne 5 ] || [ -z "$from" ] || wait=1
			;;
		*)
			if [ "$tries" -lt 50 ]; then
				tries=$((tries + 1))
				sleep 0.02
			elif ! flock -n ../../work true; then
				sleep 0.2
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
	flock -n running sh -c "$settle" >/dev/null
	report
}

write_file() {
	path=$(decode "$4")
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
		decode "$5" >"$new/file" && chmod "$3" "$new/file"; then
		if verdict "$replace" "$1" "$2" "$new/file" "$path"; then
			if [ "$said" = same ]; then
				chmod "$3" "$path"
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
	turn=$3
	is_turn "$turn" || return
	enter_state || return
	new=turn/.new-$short
	mkdir -m 700 "$new" &&
		printf '%s\n' "$4" >"$new/boot" &&
		printf 'sleep 1\nsystemctl reboot || reboot\n' >"$new/runner" ||
		refuse "could not write to $state" || return
	if verdict "$claim" "$1" "$2" "$turn" ".new-$short" "$4"; then
		if [ "$said" = new ]; then
			detach "$state/turn/$turn"
		fi
		section reboot
		printf '%s\n' "$said"
	fi
	rm -rf "$new"
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
	decode "$4" | timeout -k 5 "$3" sh -s >"$said" 2>&1
	status=$?
	section output
	tail -c 8192 "$said"
	section exit
	printf '%s\n' "$status"
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
	section kernels
	for directory in /lib/modules/*; do
		[ ! -d "$directory" ] || printf '%s\n' "${directory##*/}"
	done
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
	if [ -e /run/ostree-booted ]; then
		section rpm-ostree
		timeout 60 rpm-ostree status --json
	fi
}

# In a shell of its own, so that it leaves nothing behind for the next one.
commissaire() (
	marker=$1
	verb=$2
	short=${marker%????????????????????????}
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
	*) refuse "there is no verb $verb" ;;
	esac
	section end
)
