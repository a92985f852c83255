#!/bin/sh
# Brings up the devices that the file `steps` lists, and writes /run/lab/devices.json and the command's environment with what
# it found. Runs in the guest, inside the host's files; a device that does not appear is a failure.
set -u
PATH=/usr/sbin:/sbin:/usr/bin:/bin
own=/run/lab/.lab
found=/run/lab-found
: >"$found"

fail() { echo "lab: $*"; exit 1; }
remember() { echo "s#@$1@#$2#g" >>"$found"; }

# wait_for TEXT COMMAND...: until the command succeeds, five seconds at most.
wait_for() {
  text=$1; shift
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
    "$@" && return 0
    sleep 0.2
  done
  fail "$text"
}

# A function must be free and reserved before vp_vdpa is loaded, which then takes it by itself.
override() {
  device=/sys/bus/pci/devices/$1
  [ -d "$device" ] || fail "no PCI function $1"
  [ ! -e "$device/driver" ] || echo "$1" >"$device/driver/unbind" || fail "cannot free $1"
  echo vp-vdpa >"$device/driver_override" || fail "cannot reserve $1 for vp_vdpa"
}

modules() {
  # Peers say nothing that a test has not asked for: without this, IPv6 greets every network that comes up.
  echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
  while read -r module; do
    busybox insmod "/run/lab-modules/$module.ko" || fail "module $module does not load"
  done </run/lab-modules/later
  ip link set lo up
}

chardev_of() { chardev=$(ls "/sys/bus/vdpa/devices/$1" 2>/dev/null | grep '^vhost-vdpa-') && [ -c "/dev/$chardev" ]; }

# add NAME MANAGEMENT [OPTIONS...]
add() {
  name=$1 management=$2; shift 2
  vdpa dev add name "$name" mgmtdev "$management" "$@" || fail "cannot make $name on $management"
  wait_for "$name has no /dev/vhost-vdpa-N" chardev_of "$name"
  remember "$name" "/dev/$chardev"
}

interface_of() { interface=$(ls "/sys/bus/pci/devices/$1/"virtio*/net 2>/dev/null | head -n 1) && [ -n "$interface" ]; }

# peer NAME FUNCTION ADDRESS: the ordinary card on the other end of NAME's wire.
peer() {
  wait_for "no network interface on the PCI function $2" interface_of "$2"
  ip address add "$3" dev "$interface" && ip link set "$interface" up || fail "cannot bring up $interface"
  remember "$1-peer" "$interface"
}

while read -r step arguments; do
  "$step" $arguments </dev/null
done <"$own/steps"

# The monitor greets once and wants one word before commands; after this, a test can write commands at once.
exec 3<>/dev/virtio-ports/qmp || fail "no port to QEMU's monitor"
echo '{"execute":"qmp_capabilities"}' >&3
read -r greeting <&3
read -r answer <&3
exec 3>&-
case $answer in *return*) ;; *) fail "QEMU's monitor answers: $greeting $answer" ;; esac

[ -c /dev/vduse/control ] || fail "no /dev/vduse/control"
sed -f "$found" "$own/environment.template" >"$own/environment" || fail "cannot write the environment"
sed -f "$found" "$own/devices.template" >/run/lab/devices.json || fail "cannot write devices.json"
! grep -n '@[a-z0-9-]*@' /run/lab/devices.json || fail "devices.json has a device that was not found"
