# The anchor of a lab: it holds the lab's mount namespace, and cleans up when the
# test process is gone. Arguments: the lab's name, the folder of all labs.
# It is started in a fresh mount namespace, says "ready" on stdout, and then reads
# stdin until the other end closes it.
set -e
lab=$1 labs=$2
mount --make-rprivate /

# A view of cgroup2 alone, also on a machine that mounts v1 (which systemd-nspawn
# would otherwise follow).
umount -l /sys/fs/cgroup/* 2>/dev/null || true
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# Networks and nspawn's own notes stay in here as well.
mkdir -p /run/netns /run/systemd/nspawn
mount -t tmpfs rlv-netns /run/netns
mount -t tmpfs rlv-nspawn /run/systemd/nspawn

# end NAME kills what runs in a lab's cgroup, and removes its cgroups and disks.
end() {
	cg=/sys/fs/cgroup/$1
	if [ -d "$cg" ]; then
		echo 0 >"$cg/cgroup.freeze" || true
		echo 1 >"$cg/cgroup.kill" || true
		n=0
		while grep -q 'populated 1' "$cg/cgroup.events" && [ $n -lt 100 ]; do
			sleep 0.05
			n=$((n + 1))
		done
		find "$cg" -depth -type d -exec rmdir {} \; || true
	fi
	[ -d "$labs/$1" ] || return 0
	grep " $labs/$1/" /proc/self/mounts | cut -d' ' -f2 | sort -r | while read -r m; do
		umount -l "$m" || true
	done
	rm -rf "${labs:?}/$1"
}

# What an earlier run left: the caller has the machine's only lab lock.
for old in /sys/fs/cgroup/rlv-* "$labs"/rlv-*; do
	[ -e "$old" ] && end "$(basename "$old")" || true
done

mkdir -p "$labs/$lab"
mkdir "/sys/fs/cgroup/$lab"
echo ready
cat >/dev/null || true
set +e
end "$lab"
