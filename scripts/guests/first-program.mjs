// The first program of a guest: loads its drivers, runs a script with busybox, and switches off.

/** `modules` are names of drivers in the order of loading; their files are in the guest's /modules. */
export const firstProgram = (script, modules) => `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 3 > /proc/sys/kernel/printk
load() { for name in ${modules.join(' ')}; do insmod /modules/$name.ko; done; }
unload() { for name in ${modules.toReversed().join(' ')}; do rmmod $name; done; }
say() { echo "guest: $*"; }
load
say ready
${script}
say "done $?"
poweroff -f
`
