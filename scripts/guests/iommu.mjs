// A PC whose IOMMU is at a vhost-user socket: QEMU emulating it, with the kernel's own virtio_iommu driver, and two random number generators behind that IOMMU (endpoints 0x20
// and 0x28). Needs a QEMU that has vhost-user-test-device-pci, Debian's kernel package with its modules, and busybox-static; each may be unpacked to a folder.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { boot, whyNoBusybox } from './machine.mjs'

/** Where newer packages of QEMU were unpacked to, those that it needs included; without it the one that is installed is asked. */
const QEMU_ROOT = process.env.VHOST_VDPA_QEMU_ROOT
const KERNEL_ROOT = process.env.VHOST_VDPA_KERNEL_ROOT ?? '/'
const DEVICE = 'vhost-user-test-device-pci'
const MODULES = ['iommu/virtio-iommu', 'char/hw_random/virtio-rng']
const IOMMU_SLOT = 3
const SLOTS = [4, 5]

/** The program and its first words. */
function qemu() {
  if (QEMU_ROOT === undefined) return ['qemu-system-x86_64']
  const libraries = join(QEMU_ROOT, 'usr/lib/x86_64-linux-gnu')
  const folders = [libraries, join(libraries, 'pulseaudio')].join(':')
  return [
    ...[join(libraries, 'ld-linux-x86-64.so.2'), '--library-path', folders],
    ...[join(QEMU_ROOT, 'usr/bin/qemu-system-x86_64'), '-L', join(QEMU_ROOT, 'usr/share/qemu')],
    ...['-L', join(QEMU_ROOT, 'usr/share/seabios')],
  ]
}

/** The kernel, and the file of each module; undefined where they are not. */
function kernel() {
  const folder = join(KERNEL_ROOT, 'lib/modules')
  const releases = existsSync(folder) ? readdirSync(folder) : []
  for (const release of releases) {
    const image = join(KERNEL_ROOT, 'boot', `vmlinuz-${release}`)
    const files = MODULES.map((name) => join(folder, release, 'kernel/drivers', `${name}.ko.xz`))
    if ([image, ...files].every((file) => existsSync(file))) return { image, files }
  }
  return undefined
}

/** Why no guest can be started here, and what mends it; undefined when one can. */
export function whyNoGuest() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the kernel is one for x86-64'
  const [program, ...words] = qemu()
  // It ends with 0 for a device that it does not know.
  const help = spawnSync(program, [...words, '-device', `${DEVICE},help`], { encoding: 'utf8' }).stdout ?? ''
  if (!help.includes('virtio-id='))
    return `no QEMU with ${DEVICE} (11.1 has it): unpack its packages to a folder and name it in VHOST_VDPA_QEMU_ROOT`
  if (kernel() === undefined)
    return 'no kernel with virtio-iommu.ko.xz: apt-get download linux-image-6.12.…-amd64-unsigned, dpkg-deb -x it to a folder and name it in VHOST_VDPA_KERNEL_ROOT'
  return whyNoBusybox()
}

/** The table by which the firmware says what is behind the IOMMU (ACPI 6.5, section 5.2.30): two nodes, the IOMMU and a range of PCI functions. */
function viot() {
  const table = Buffer.alloc(88)
  const nodes = { iommu: 48, range: 64 }
  const function0 = (slot) => slot << 3
  table.write('VIOT', 0, 'latin1')
  table.writeUInt32LE(table.length, 4)
  table.write('VHOSTVGUESTS', 10, 'latin1')
  table.writeUInt16LE(2, 36)
  table.writeUInt16LE(nodes.iommu, 38)
  // A virtio-iommu on PCI: segment, function.
  table.writeUInt8(3, nodes.iommu)
  table.writeUInt16LE(16, nodes.iommu + 2)
  table.writeUInt16LE(function0(IOMMU_SLOT), nodes.iommu + 6)
  // Endpoints from a number on: segments, first and last function, whose they are.
  table.writeUInt8(1, nodes.range)
  table.writeUInt16LE(24, nodes.range + 2)
  table.writeUInt32LE(function0(SLOTS[0]), nodes.range + 4)
  table.writeUInt16LE(function0(SLOTS[0]), nodes.range + 12)
  table.writeUInt16LE(function0(SLOTS.at(-1)) + 7, nodes.range + 14)
  table.writeUInt16LE(nodes.iommu, nodes.range + 16)
  // All bytes together are 0.
  table.writeUInt8(-table.reduce((sum, byte) => sum + byte, 0) & 0xff, 9)
  return table
}

/** Boots a guest that runs `script` with busybox; the device is `<socket>:23`. Its console is this process's output. Resolves with its end. */
export async function runGuest({ script, devices, memory }) {
  const [, socket] = /^(.*):23$/.exec(devices[0] ?? '') ?? []
  if (socket === undefined || devices.length !== 1) throw new Error('the device is one, <socket>:23')
  const { image, files } = kernel()
  const names = MODULES.map((name) => name.split('/').at(-1))
  const unpacked = files.map((file) => execFileSync('xz', ['-dc', file], { maxBuffer: 1 << 26 }))
  const [program, ...words] = qemu()
  const wordsOf = (archive) => {
    const table = join(dirname(archive), 'viot')
    writeFileSync(table, viot())
    return [
      ...words,
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-acpitable', `file=${table}`],
      ...['-object', `memory-backend-memfd,id=memory,size=${memory},share=on`],
      ...['-machine', 'q35,memory-backend=memory', '-accel', 'tcg', '-cpu', 'max', '-m', memory],
      ...['-kernel', image, '-initrd', archive],
      ...['-append', 'console=ttyS0 quiet loglevel=2 panic=-1 mitigations=off cryptomgr.notests no_timer_check'],
      ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
      ...['-chardev', `socket,id=iommu,path=${socket}`],
      ...['-device', `${DEVICE},addr=${IOMMU_SLOT},chardev=iommu,virtio-id=23,num_vqs=2,config_size=40`],
      // Without their option ROMs and MSI, which no IOMMU of this kind remaps.
      ...SLOTS.flatMap((slot) => [
        '-device',
        `virtio-rng-pci,addr=${slot},disable-legacy=on,iommu_platform=on,vectors=0`,
      ]),
    ]
  }
  return boot({ command: program, script, modules: names.map((name, index) => [name, unpacked[index]]), wordsOf })
}
