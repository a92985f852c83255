// QEMU as a guest's machine, emulated, whose virtio PCI devices are vDPA devices of this machine: nodes of vhost-vdpa, which QEMU maps the guest's memory into. Needs root, a QEMU that
// has vhost-vdpa-device-pci (newer-qemu.mjs), busybox-static, and one run of the kernel lab before, whose kernel the guest boots.
import { spawnSync } from 'node:child_process'
import { newestCached } from '../lab/kernel.mjs'
import { boot, whyNoBusybox } from './machine.mjs'
import { newerQemu } from './newer-qemu.mjs'
import { kernelWords, MODULES, modulesOf, pcWords } from './qemu.mjs'

const DEVICE = 'vhost-vdpa-device-pci'

/** The program and its first words. */
const qemu = () => newerQemu() ?? ['qemu-system-x86_64']

/** Why no guest can be started here, and what mends it; undefined when one can. */
export async function whyNoGuest() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the kernel is one for x86-64'
  const [program, ...words] = qemu()
  // It ends with 0 for a device that it does not know.
  const help = spawnSync(program, [...words, '-device', `${DEVICE},help`], { encoding: 'utf8' }).stdout ?? ''
  if (!help.includes('vhostdev='))
    return `no QEMU with ${DEVICE} (8.0 has it): as root, run: node scripts/guests/newer-qemu.mjs`
  if ((await newestCached('6.12')) === undefined) return 'as root, run: node scripts/lab/run.mjs -- true'
  return whyNoBusybox()
}

/**
 * Boots a guest that runs `script` with busybox, or, by the `firmware`, what is on its disk, which ends it by a write to port 0xf4; `devices` are nodes. Its console is this
 * process's output. Resolves with its end.
 */
export async function runGuest({ script, devices, memory, firmware }) {
  const kernel = await newestCached('6.12')
  const [program, ...words] = qemu()
  const wordsOf = (archive) => [
    ...[...words, ...pcWords(memory)],
    ...(firmware ? ['-device', 'isa-debug-exit,iobase=0xf4'] : kernelWords(kernel, archive)),
    ...devices.flatMap((node) => ['-device', `${DEVICE},vhostdev=${node}`]),
  ]
  return boot({ command: program, script, modules: modulesOf(kernel, MODULES), wordsOf })
}
