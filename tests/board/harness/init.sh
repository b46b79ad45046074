#!/bin/busybox sh
# First program of the emulated board: finds the disk and hands over to systemd.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do $b insmod "$module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do $b sleep 0.1; tries=$((tries + 1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /root || { echo "board: no disk"; $b poweroff -f; }
$b mount --move /dev /root/dev
$b mount --move /sys /root/sys
$b umount /proc
exec $b switch_root /root /sbin/init
