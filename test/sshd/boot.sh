# The first process of a host: lays the host's own files over those of the
# machine, runs sshd, and ends with the host. Arguments: directory of the host,
# "ostree" or "", "systemd" or "". Standard input stays open for as long as the
# host is to be up. Exit status: 42 reboot, 43 power off.

set -e
host=$1
exec 3<&0 </dev/null
umask 022

mount --bind "$host/boot_id" /proc/sys/kernel/random/boot_id
for programs in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
	[ -L "$programs" ] || mount -t overlay -o "lowerdir=$host/programs:$programs" overlay "$programs"
done
mount --bind "$host/etc" /etc
mount --bind "$host/lib" /var/lib
mount --bind "$host/root" /root
mount --bind "$host/home" /home
mount -t tmpfs tmpfs /var/log
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
[ ! -d /sys/fs/cgroup ] || mount -t tmpfs -o ro tmpfs /sys/fs/cgroup
[ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null /proc/sysrq-trigger

mount -t tmpfs -o mode=755 tmpfs "$host/run"
mkdir "$host/run/sshd" "$host/run/lock" "$host/run/stand-ins"
mount --bind "$host/rig" "$host/run/stand-ins"
[ "$2" != ostree ] || : >"$host/run/ostree-booted"
[ "$3" != systemd ] || mkdir -p "$host/run/systemd/system"
mount --rbind "$host/run" /run

# From here on $host is out of sight.
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,ro,bind /
cd /

rig=/run/stand-ins
rm -f $rig/units/*.active
for unit in $rig/units/*.enabled; do
	[ ! -e "$unit" ] || : >"${unit%.enabled}.active"
done
if [ -e $rig/pending ]; then
	mv $rig/booted $rig/previous
	mv $rig/pending $rig/booted
fi

trap 'exit 42' TERM
trap 'exit 43' USR1
/usr/sbin/sshd -D -e -f /etc/ssh/sshd_config 3<&- &
cat <&3 >/dev/null &
exec 3<&-
wait -n
