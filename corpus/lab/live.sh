#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck disable=SC2086 # the command is several words
# Runs in the guest of live-guest, its disk as root: converts the running system, in every way that it may refuse, too.
# out/CASE.txt has what was said, out/CASE.code the exit status.
export PATH=/bin:/usr/bin HOME=/ PYTHONPATH=/site PYTHONDONTWRITEBYTECODE=1
cd /out || exit
mkdir /dev/shm && mount -t tmpfs shm /dev/shm
say() { echo "lab: $*" >/dev/kmsg; }
run() { # run CASE ARGUMENT...
	name=$1
	shift
	"$@" >"$name.txt" 2>&1 </dev/null
	echo $? >"$name.code"
	say "live $name: exit $(cat "$name.code")"
}
dumpconv="python3.11 -m dumpconv"
cat /proc/iomem >iomem
cat /proc/kallsyms >kallsyms
head -c 65536 /proc/kcore >kcore-headers
run stat stat /proc/kcore
run info $dumpconv info /proc/kcore
run map $dumpconv map --json /proc/kcore
run convert $dumpconv --force /proc/kcore live.elf
run convert-two $dumpconv --force --jobs 2 --executor processes /proc/kcore live2.elf
run to-pipe sh -c "$dumpconv /proc/kcore - | cat >live3.elf"
run compare $dumpconv compare live.elf live2.elf
run compare-live $dumpconv compare live.elf /proc/kcore
umount /dev/shm
run no-shm $dumpconv --force --jobs 2 /proc/kcore live3.elf
mount -t tmpfs shm /dev/shm
rm -f live2.elf live3.elf
run stdin sh -c "$dumpconv info - </proc/kcore"
run cat-stdin sh -c "head -c 1048576 /proc/kcore | $dumpconv info -"

# A balloon takes memory away: its frames are offline, and the kernel gives zeros for them.
say "live BALLOON"
sleep 20
run ballooned $dumpconv --force /proc/kcore refused.elf
run ballooned-salvage $dumpconv --force --salvage /proc/kcore balloon.elf
cp /proc/kpageflags kpageflags
run ballooned-info $dumpconv info /proc/kcore
say "live BALLOON OFF"
sleep 10

# What can stand in the way.
run not-root /usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups $dumpconv info /proc/kcore
run no-rawio /usr/bin/setpriv --bounding-set -sys_rawio --inh-caps -sys_rawio $dumpconv info /proc/kcore
mount --bind /dev/null /proc/kcore
run masked $dumpconv info /proc/kcore
umount /proc/kcore
mount -t securityfs security /sys/kernel/security
echo integrity >/sys/kernel/security/lockdown
run integrity $dumpconv info /proc/kcore
echo confidentiality >/sys/kernel/security/lockdown
run confidentiality $dumpconv info /proc/kcore
run confidentiality-convert $dumpconv --force /proc/kcore refused.elf
ls -la >files
sync
say "live DONE"
