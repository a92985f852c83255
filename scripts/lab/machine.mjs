// The machine as a QEMU command line: a q35 board with an emulated IOMMU, the devices of devices.mjs, and the channels to the host.
// It starts nothing.
import { join } from 'node:path'
import { pciDevices } from './devices.mjs'

const slot = (number) => `addr=0x${number.toString(16)}`

// Modern virtio behind the IOMMU, a doorbell page for each queue: what vp_vdpa wants. No boot ROM, which would cost time.
const behindIommu = 'disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on'

/** A channel that a program of the guest writes to as a device and the host reads as a socket. */
const port = (id, name, path) => [
  ...['-chardev', `socket,id=${id},path=${path}`],
  ...['-device', `virtserialport,chardev=${id},name=${name}`],
]

const share = (id, path, tag, more) => [
  '-virtfs',
  `local,id=${id},path=${path},mount_tag=${tag},security_model=none,multidevs=remap${more}`,
]

/** Both ends of a wire inside QEMU: the vDPA device and its peer hang on one hub. */
function hubNetdevs(device, index) {
  return [
    ...['-netdev', `hubport,id=${device.name}-net,hubid=${index}`],
    ...['-netdev', `hubport,id=${device.name}-peer-net,hubid=${index}`],
  ]
}

/** Taps in the machine's own network namespace (see network.mjs), because no other back end has several queues. */
function tapNetdevs(device) {
  const tap = (id, name, queues) => [
    '-netdev',
    `tap,id=${id},ifname=${name},script=no,downscript=no,vhost=off${queues}`,
  ]
  return [
    ...tap(`${device.name}-net`, device.name, `,queues=${device.queuePairs}`),
    ...tap(`${device.name}-peer-net`, `${device.name}-peer`, ''),
  ]
}

function networkDevice(device, index, folder) {
  const { name, peer } = device
  const queues = device.queuePairs === undefined ? '' : `,mq=on,vectors=${2 * device.queuePairs + 2}`
  const card = `virtio-net-pci,id=${name},netdev=${name}-net,${slot(device.slot)},mac=${device.mac},${behindIommu},romfile=`
  const capture = device.capture && [
    '-object',
    `filter-dump,id=${name}-dump,netdev=${name}-net,file=${join(folder, device.capture.file)}`,
  ]
  return [
    ...(device.wire === 'tap' ? tapNetdevs(device) : hubNetdevs(device, index)),
    ...['-device', `${card}${queues}${device.properties}`],
    ...[
      '-device',
      `virtio-net-pci,id=${name}-peer,netdev=${name}-peer-net,${slot(peer.slot)},mac=${peer.mac},romfile=`,
    ],
    ...(capture ?? []),
  ]
}

function blockDevice(device, folder) {
  const { name } = device
  return [
    ...[
      '-drive',
      `if=none,id=${name}-disk,file=${join(folder, device.image.file)},format=raw,cache=writeback,discard=unmap`,
    ],
    '-device',
    `virtio-blk-pci,id=${name},drive=${name}-disk,${slot(device.slot)},num-queues=${device.queues},serial=vhost-vdpa-lab,${behindIommu}`,
  ]
}

/** QEMU's monitor is a server that the machine itself is connected to, so that a test in the guest can pull a cable. */
function monitor(sockets) {
  return [
    ...['-chardev', `socket,id=qmp-server,path=${sockets.qmp},server=on,wait=off`],
    ...['-mon', 'chardev=qmp-server,mode=control'],
    ...port('qmp', 'qmp', sockets.qmp),
  ]
}

/**
 * Arguments of qemu-system-x86_64. `plan` has `kernel`, `initramfs`, `shareFolder`, `sockets` (paths of stdout, stderr, console, qmp),
 * `memory` in MiB, `cpus`, `hugepages`, and `absent`, the names of devices to leave out.
 */
export function machineArguments(plan) {
  const { kernel, sockets, shareFolder } = plan
  const devices = pciDevices.filter((device) => !plan.absent.has(device.name))
  // A fault in the kernel ends the machine at once instead of leaving a test to wait for its time limit.
  const words = [
    'console=ttyS0',
    'panic=-1',
    'oops=panic',
    'quiet',
    'loglevel=2',
    'intel_iommu=on',
    `hugepages=${plan.hugepages}`,
  ]
  // Protections and self-tests that an emulated machine of our own does not need cost it seconds.
  words.push('mitigations=off', 'nokaslr', 'cryptomgr.notests')
  // Linux patches its own code while it starts. QEMU before 8.1 can lose such a patch to another processor that is translating the
  // same page just then, and the kernel dies of a stray breakpoint. So it starts on one; guest/init brings up the others.
  words.push('maxcpus=1', 'noreplace-smp')
  // The kernel waits a moment of the host's time for timer interrupts, and panics when a busy host gives the machine none of it.
  words.push('no_timer_check')
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-machine', 'q35,kernel-irqchip=split', '-accel', 'tcg,thread=multi', '-cpu', 'max'],
    ...['-m', `${plan.memory}M`, '-smp', String(plan.cpus)],
    ...['-kernel', join(kernel.folder, 'vmlinuz'), '-initrd', plan.initramfs, '-append', words.join(' ')],
    ...['-chardev', `socket,id=console,path=${sockets.console}`, '-serial', 'chardev:console'],
    ...['-device', 'intel-iommu,intremap=on,device-iotlb=on'],
    ...share('host', '/', 'host', ',readonly=on'),
    ...share('share', shareFolder, 'share', ''),
    ...['-device', 'virtio-serial-pci'],
    ...port('stdout', 'stdout', sockets.stdout),
    ...port('stderr', 'stderr', sockets.stderr),
    ...monitor(sockets),
    ...devices.flatMap((device, index) =>
      device.kind === 'net' ? networkDevice(device, index, shareFolder) : blockDevice(device, shareFolder),
    ),
  ]
}
