// A PC whose IOMMU is at a vhost-user socket: QEMU emulating it, with the kernel's own virtio_iommu driver, and two random number generators behind that IOMMU (endpoints 0x20
// and 0x28). Needs a QEMU that has vhost-user-test-device-pci (newer-qemu.mjs), one run of the kernel lab before, and busybox-static.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { newestCached } from '../lab/kernel.mjs'
import { boot, whyNoBusybox } from './machine.mjs'
import { newerQemu } from './newer-qemu.mjs'

const DEVICE = 'vhost-user-test-device-pci'
const MODULES = ['virtio_iommu', 'virtio_rng']
const IOMMU_SLOT = 3
const SLOTS = [4, 5]

/** The program and its first words. */
const qemu = () => newerQemu() ?? ['qemu-system-x86_64']

/** Why no guest can be started here, and what mends it; undefined when one can. */
export async function whyNoGuest() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the kernel is one for x86-64'
  const [program, ...words] = qemu()
  // It ends with 0 for a device that it does not know.
  const help = spawnSync(program, [...words, '-device', `${DEVICE},help`], { encoding: 'utf8' }).stdout ?? ''
  if (!help.includes('virtio-id='))
    return `no QEMU with ${DEVICE} (11.1 has it): as root, run: node scripts/guests/newer-qemu.mjs`
  if ((await newestCached('6.12')) === undefined) return 'as root, run: node scripts/lab/run.mjs -- true'
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
  const { folder } = await newestCached('6.12')
  const [program, ...words] = qemu()
  const wordsOf = (archive) => {
    const table = join(dirname(archive), 'viot')
    writeFileSync(table, viot())
    return [
      ...words,
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-acpitable', `file=${table}`],
      ...['-object', `memory-backend-memfd,id=memory,size=${memory},share=on`],
      ...['-machine', 'q35,memory-backend=memory', '-accel', 'tcg', '-cpu', 'max', '-m', memory],
      ...['-kernel', join(folder, 'vmlinuz'), '-initrd', archive],
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
  return boot({
    command: program,
    script,
    modules: MODULES.map((name) => [name, join(folder, `modules/${name}.ko`)]),
    wordsOf,
  })
}
