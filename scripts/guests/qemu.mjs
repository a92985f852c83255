// QEMU as a guest's machine, emulated (no KVM and no root): its virtio PCI devices are at vhost-user sockets, and the kernel is the lab's, from its cache.
// Needs Debian's packages qemu-system-x86 and busybox-static, and one run of the kernel lab before.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { newestCached } from '../lab/kernel.mjs'
import { boot, whyNoBusybox } from './machine.mjs'

const QEMU = 'qemu-system-x86_64'
/** Drivers of networks and disks, and a file system, in the order of loading. */
export const MODULES = [
  ...['failover', 'net_failover', 'virtio_net', 'virtio_blk'],
  ...['crc32c_generic', 'jbd2', 'mbcache', 'crc16', 'ext4'],
]

/** Why no guest can be started here, and what mends it; undefined when one can. */
export async function whyNoGuest() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the lab has a kernel for x86-64 only'
  if (spawnSync(QEMU, ['--version']).status !== 0) return 'as root, run: apt-get install qemu-system-x86'
  if ((await newestCached('6.12')) === undefined) return 'as root, run: node scripts/lab/run.mjs -- true'
  return whyNoBusybox()
}

/** How QEMU comes back to a back end that went: in milliseconds since 9.2, which later ones insist on. */
function reconnecting() {
  const { stdout } = spawnSync(QEMU, ['--version'], { encoding: 'utf8' })
  const [, major, minor] = /version (\d+)\.(\d+)/.exec(stdout) ?? []
  return Number(major) > 9 || (major === '9' && Number(minor) >= 2) ? 'reconnect-ms=1000' : 'reconnect=1'
}

/** `<socket>:<virtio device id>[,<property>=<value>…]`, and how it comes back; `queues` is the front end's, the other properties are those of QEMU's device. */
function deviceWords(device, index, reconnect) {
  const [, path, id, more] = /^(.*?):(\d+)(,.*)?$/.exec(device) ?? []
  const properties = more?.split(',').filter((each) => each !== '') ?? []
  const queues = Number(properties.find((each) => each.startsWith('queues='))?.slice('queues='.length) ?? 1)
  const rest = properties.filter((each) => !each.startsWith('queues=')).map((each) => `,${each}`)
  const socket = ['-chardev', `socket,id=socket${index},path=${path},${reconnect}`]
  if (id === '2')
    return [...socket, '-device', `vhost-user-blk-pci,chardev=socket${index},num-queues=${queues}${rest.join('')}`]
  if (id !== '1') throw new Error(`${device}: the number of a network is 1, and that of a disk 2`)
  // Without MSI-X: QEMU 7.2 emulating a processor dies (SIGSEGV) when the driver of such a card starts its rings.
  const pairs = queues > 1 ? ',mq=on' : ''
  return [
    ...socket,
    ...['-netdev', `vhost-user,id=net${index},chardev=socket${index},queues=${queues}`],
    ...['-device', `virtio-net-pci,netdev=net${index},romfile=,vectors=0${pairs}${rest.join('')}`],
  ]
}

/** Pairs of a driver's name and its file, of those that the lab keeps of a kernel. */
export const modulesOf = (kernel, names) => names.map((name) => [name, join(kernel.folder, `modules/${name}.ko`)])

/** An emulated PC without devices, whose memory another process, or a device, can map. */
export const pcWords = (memory) => [
  ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
  ...['-object', `memory-backend-memfd,id=memory,size=${memory},share=on`],
  ...['-machine', 'q35,memory-backend=memory', '-accel', 'tcg', '-cpu', 'max', '-m', memory],
  ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
]

/** What it boots: the lab's kernel. */
export const kernelWords = (kernel, archive) => [
  ...['-kernel', join(kernel.folder, 'vmlinuz'), '-initrd', archive],
  // As the lab's machine, whose comments say why.
  ...['-append', 'console=ttyS0 quiet loglevel=2 panic=-1 mitigations=off nokaslr cryptomgr.notests no_timer_check'],
]

/** Where it can be asked (QMP), and whether it waits for a guest that another one sends. */
const migrationWords = (monitor, incoming) => [
  ...(monitor === undefined ? [] : ['-qmp', `unix:${monitor},server=on,wait=off`]),
  ...(incoming ? ['-incoming', 'defer'] : []),
]

/** Boots a guest that runs `script` with busybox, or waits for one. Its console is this process's output. Resolves with its end. */
export async function runGuest({ script, devices, memory, monitor, incoming }) {
  const kernel = await newestCached('6.12')
  // As many processors as queue pairs: Linux uses no more pairs than it has processors.
  const processors = Math.max(1, ...devices.map((device) => Number(/,queues=(\d+)/.exec(device)?.[1] ?? 1)))
  const reconnect = reconnecting()
  const wordsOf = (archive) => [
    ...pcWords(memory),
    ...['-smp', `${processors}`],
    ...kernelWords(kernel, archive),
    ...devices.flatMap((device, index) => deviceWords(device, index, reconnect)),
    ...migrationWords(monitor, incoming),
  ]
  return boot({ command: QEMU, script, modules: modulesOf(kernel, MODULES), wordsOf })
}
