#!/bin/sh
# Brings up the devices that the file `steps` lists, and writes /run/lab/devices.json and the command's environment with what
# it found. Runs in the guest, inside the host's files; a device that does not appear is a failure.
set -u
PATH=/usr/sbin:/sbin:/usr/bin:/bin
own=/run/lab/.lab
found=/run/lab-found
: >"$found"
echo 'link set lo up' >/run/lab-peers

fail() { echo "lab: $*"; exit 1; }
remember() { echo "s#@$1@#$2#g" >>"$found"; }

# wait_for TEXT COMMAND...: until the command succeeds, some ten seconds at most.
wait_for() {
  text=$1 tries=0; shift
  until "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "$text"
    sleep 0.1
  done
}

# A function must be free and reserved before vp_vdpa is loaded, which then takes it by itself.
override() {
  device=/sys/bus/pci/devices/$1
  [ -d "$device" ] || fail "no PCI function $1"
  [ ! -e "$device/driver" ] || echo "$1" >"$device/driver/unbind" || fail "cannot free $1"
  echo vp-vdpa >"$device/driver_override" || fail "cannot reserve $1 for vp_vdpa"
}

# put FILE OFFSET VALUE: four bytes, least first, in one write.
put() {
  bytes=$(printf '\\%03o\\%03o\\%03o\\%03o' $(($3 & 255)) $(($3 >> 8 & 255)) $(($3 >> 16 & 255)) $(($3 >> 24 & 255)))
  printf "$bytes" | dd of="$1" bs=4 seek=$(($2 / 4)) conv=notrunc 2>/dev/null || fail "cannot write $1"
}

# multiqueue FUNCTION: QEMU shows the queues beyond the first pair only while VIRTIO_NET_F_MQ is negotiated, and vp_vdpa counts them
# when it takes the function. So the driver's feature bits are set beforehand, through the window to the common structure
# that a function has in its configuration space (virtio 1.2, section 4.1.4.9).
multiqueue() {
  config=/sys/bus/pci/devices/$1/config
  set -- $(od -An -v -tu1 -N 256 "$config")
  common='' window='' at=${53}
  while [ "$at" -ne 0 ]; do
    eval "id=\${$((at + 1))} next=\${$((at + 2))} type=\${$((at + 4))}"
    [ "$id.$type" != 9.1 ] || common=$at
    [ "$id.$type" != 9.5 ] || window=$at
    at=$next
  done
  [ -n "$common" ] && [ -n "$window" ] || fail "$config has no window to the common structure"
  eval "bar=\${$((common + 5))}"
  put "$config" $((window + 4)) "$bar"
  put "$config" $((window + 12)) 4
  # driver_feature_select and driver_feature lie at 8 and 12; CTRL_VQ is bit 17, MQ bit 22, VERSION_1 bit 32.
  for pair in 8:0 12:$((1 << 17 | 1 << 22)) 8:1 12:1; do
    put "$config" $((window + 8)) "${pair%:*}"
    put "$config" $((window + 16)) "${pair#*:}"
  done
}

modules() {
  # Peers say nothing that a test has not asked for: without this, IPv6 greets every network that comes up.
  echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
  while read -r module parameters; do
    busybox insmod "/run/lab-modules/$module.ko" $parameters || fail "module $module does not load"
  done </run/lab-modules/later
}

# Both look for one file by a pattern, without starting a program for it.
chardev_of() {
  for chardev in "/sys/bus/vdpa/devices/$1"/vhost-vdpa-*; do chardev=/dev/${chardev##*/}; done
  [ -c "$chardev" ]
}
interface_of() {
  for interface in "/sys/bus/pci/devices/$1"/virtio*/net/*; do :; done
  [ -d "$interface" ] && interface=${interface##*/}
}

# add NAME MANAGEMENT [OPTIONS...]
add() {
  name=$1 management=$2; shift 2
  vdpa dev add name "$name" mgmtdev "$management" "$@" || fail "cannot make $name on $management"
  wait_for "$name has no /dev/vhost-vdpa-N" chardev_of "$name"
  remember "$name" "$chardev"
}

# peer NAME FUNCTION ADDRESS: the ordinary card on the other end of NAME's wire.
peer() {
  wait_for "no network interface on the PCI function $2" interface_of "$2"
  printf 'address add %s dev %s\nlink set %s up\n' "$3" "$interface" "$interface" >>/run/lab-peers
  remember "$1-peer" "$interface"
}

while read -r step arguments; do
  "$step" $arguments </dev/null
done <"$own/steps"
ip -batch /run/lab-peers || fail "the peers' interfaces cannot be brought up"

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
