# Makes the disk that all real hosts of the tests begin with, if it is not there:
# Debian with systemd, OpenSSH, apt, dnf and rpm, as a tar file. Argument: that file.
# It comes from the mirror that apt uses here. Exit status 2: real hosts cannot run
# here, and the line that was printed says why.

set -eu
umask 022
tar=$1

cannot() {
	echo "$1: the tests on real hosts are left out"
	exit 2
}

[ "$(id -u)" = 0 ] || cannot 'this takes root'
for program in debootstrap systemd-nspawn ip; do
	! command -v "$program" >/dev/null || continue
	command -v apt-get >/dev/null || cannot "there is no $program, and no apt-get that could install it"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap debian-archive-keyring systemd-container iproute2 >/dev/null
done
unshare --mount --net --pid --fork mount -t tmpfs tmpfs /mnt 2>/dev/null || cannot 'no namespaces with mounts of their own can be made here'
[ ! -e "$tar" ] || exit 0

mkdir -p "$(dirname "$tar")"
new=$(mktemp -d "$tar.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 2>/dev/null | sed -n '/debian\/*$/{p;q;}')
echo "making $tar, which takes some minutes once" >&2
unshare --mount debootstrap --variant=minbase \
	--include=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,sudo,iproute2,procps,dnf,rpm,createrepo-c \
	bookworm "$new/root" "${mirror:-http://deb.debian.org/debian}" >"$new/log" 2>&1 || {
	tail -n 20 "$new/log" >&2
	exit 1
}
cd "$new/root"
rm -rf var/cache/apt/* var/lib/apt/lists/* etc/ssh/ssh_host_* usr/share/doc usr/share/locale usr/share/man
: >etc/machine-id
tar -cf ../tar .
mv ../tar "$tar"
