// What guests do in these suites, and what their devices offer.

import { netFeatureBits as net, transportFeatureBits as transport } from '../../lib/uapi/virtio-features'

export const ringFeatures = [transport.VIRTIO_F_RING_INDIRECT_DESC, transport.VIRTIO_F_RING_EVENT_IDX]
export const filters = [
  net.VIRTIO_NET_F_MRG_RXBUF,
  net.VIRTIO_NET_F_CTRL_RX,
  net.VIRTIO_NET_F_CTRL_VLAN,
  net.VIRTIO_NET_F_CTRL_RX_EXTRA,
]

/** Waits until the other guest answers, then asks it twenty times: says `address` of the card, and `pinged 0` where every answer came. */
export const pings = (own: string, other: string) => `
ip link set eth0 up
ip addr add ${own}/24 dev eth0
say address $(cat /sys/class/net/eth0/address)
n=0; until ping -c 1 -W 1 ${other} > /dev/null || [ $n = 60 ]; do n=$((n+1)); done
ping -c 20 -i 0.05 -s 1400 ${other} | grep -q ' 0% packet loss'
say pinged $?
sleep 2`

/** Takes a TCP stream: says `heard` and its sum. */
export const hearsStream = 'say heard $(nc -l -p 5000 | sha256sum)'

/** Sends 4 MiB by TCP, once the other guest takes it: says `sent` and its sum. */
export const sendsStream = (other: string) => `
dd if=/dev/urandom of=/stream bs=64k count=64 2> /dev/null
n=0; until nc ${other} 5000 < /stream || [ $n = 60 ]; do n=$((n+1)); sleep 1; done
say sent $(sha256sum < /stream)`

/** Makes a file system, fills it, and reads it again, after another start of the driver where `unload` knows how: `sum` and `after` are what it has. */
export const fillsDisk = `
mke2fs /dev/vda > /dev/null 2>&1
say made $?
mount -t ext2 /dev/vda /mnt
cp -a /bin /mnt/ && dd if=/dev/urandom of=/mnt/random bs=1M count=8 conv=fsync 2> /dev/null
say sum $(cd /mnt && find . -type f | sort | xargs sha256sum | sha256sum)
umount /mnt
say unmounted $?
unload && load
mount -t ext2 /dev/vda /mnt
say after $(cd /mnt && find . -type f | sort | xargs sha256sum | sha256sum)
umount /mnt`

/** Another guest's look at that disk: the same `sum`, and its `serial`. */
export const looksAtDisk = `
mount -o ro -t ext2 /dev/vda /mnt
say sum $(cd /mnt && find . -type f | sort | xargs sha256sum | sha256sum)
umount /mnt
say serial $(cat /sys/block/vda/serial)`
