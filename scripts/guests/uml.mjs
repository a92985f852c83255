// User Mode Linux as a guest: a whole Linux in an ordinary process, with the kernel's own virtio drivers, which find their devices at vhost-user sockets.
// Needs Debian's packages user-mode-linux and busybox-static, and neither root nor KVM.
import { existsSync, readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { tmpdir } from 'node:os'
import { boot, whyNoBusybox } from './machine.mjs'

/** Where the package is: its own places, or below a folder that it was unpacked to. */
const ROOT = process.env.VHOST_VDPA_UML_ROOT ?? '/'
const KERNEL = join(ROOT, 'usr/bin/linux.uml')
/** The guest's memory is a file in this folder, so it should be one in memory; with huge pages where a device has to pin it all. */
const MEMORY = process.env.VHOST_VDPA_UML_MEMORY ?? (existsSync('/dev/shm') ? '/dev/shm' : tmpdir())
const MODULES = [
  'net/llc/llc',
  'net/802/stp',
  'net/802/garp',
  'net/802/mrp',
  'net/8021q/8021q',
  'net/core/failover',
  'drivers/net/net_failover',
  'drivers/net/virtio_net',
  'drivers/block/virtio_blk',
]

/** Why no guest can be started here, and what mends it; undefined when one can. */
export function whyNoGuest() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'User Mode Linux needs Linux on x86-64'
  if (!existsSync(KERNEL)) return 'as root, run: apt-get install user-mode-linux'
  return whyNoBusybox()
}

function moduleFolder() {
  const folder = join(ROOT, 'usr/lib/uml/modules')
  const [version] = readdirSync(folder)
  return join(folder, version, 'kernel')
}

/** Boots a guest that runs `script` with busybox; `devices` are `<socket>:<virtio device id>`. Its console is this process's output. Resolves with its end. */
export function runGuest({ script, devices, memory }) {
  const folder = moduleFolder()
  const modules = MODULES.map((path) => [basename(path), join(folder, `${path}.ko`)])
  const wordsOf = (archive) => [
    ...[`mem=${memory}`, `initrd=${archive}`, 'con=null', 'con0=null,fd:1', 'root=/dev/ram0', 'quiet'],
    ...devices.map((device) => `virtio_uml.device=${device}`),
  ]
  return boot({ command: KERNEL, script, modules, wordsOf, env: { ...process.env, TMPDIR: MEMORY } })
}
