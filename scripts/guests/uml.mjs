// User Mode Linux as a guest: a whole Linux in an ordinary process, with the kernel's own virtio drivers, which find their devices at vhost-user sockets.
// Needs Debian's packages user-mode-linux and busybox-static, and neither root nor KVM.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { tmpdir } from 'node:os'
import { writeArchive } from './initramfs.mjs'

/** Where the package is: its own places, or below a folder that it was unpacked to. */
const ROOT = process.env.VHOST_VDPA_UML_ROOT ?? '/'
const KERNEL = join(ROOT, 'usr/bin/linux.uml')
const BUSYBOX = '/bin/busybox'
/** The guest's memory is a file in this folder, so it should be one in memory. */
const MEMORY = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
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
const names = MODULES.map((path) => path.split('/').at(-1))

/** Why no guest can be started here, and what mends it; undefined when one can. */
export function whyNoGuest() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'User Mode Linux needs Linux on x86-64'
  if (!existsSync(KERNEL)) return 'as root, run: apt-get install user-mode-linux'
  if (!existsSync(BUSYBOX) || readFileSync(BUSYBOX).includes('/lib64/ld-linux'))
    return 'as root, run: apt-get install busybox-static'
  return undefined
}

const init = (script) => `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 3 > /proc/sys/kernel/printk
load() { for name in ${names.join(' ')}; do insmod /modules/$name.ko; done; }
unload() { for name in ${names.toReversed().join(' ')}; do rmmod $name; done; }
say() { echo "guest: $*"; }
load
say ready
${script}
say "done $?"
poweroff -f
`

function moduleFolder() {
  const folder = join(ROOT, 'usr/lib/uml/modules')
  const [version] = readdirSync(folder)
  return join(folder, version, 'kernel')
}

/** Boots a guest that runs `script` with busybox; `devices` are `<socket>:<virtio device id>`. Its console is this process's output. Resolves with its end. */
export async function runGuest({ script, devices, memory }) {
  const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-guest-'))
  try {
    const archive = join(folder, 'initramfs')
    const modules = moduleFolder()
    writeArchive(archive, [
      ['bin/busybox', BUSYBOX],
      ['init', Buffer.from(init(script))],
      ...MODULES.map((path, index) => [`modules/${names[index]}.ko`, join(modules, `${path}.ko`)]),
    ])
    const words = [`mem=${memory}`, `initrd=${archive}`, 'con=null', 'con0=null,fd:1', 'root=/dev/ram0', 'quiet']
    const guest = spawn(KERNEL, [...words, ...devices.map((device) => `virtio_uml.device=${device}`)], {
      detached: true,
      env: { ...process.env, TMPDIR: MEMORY },
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    // The guest's programs are processes of its group.
    const kill = () => {
      try {
        process.kill(-guest.pid, 'SIGKILL')
      } catch {
        return
      }
    }
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, kill)
    return await new Promise((resolve) => guest.once('exit', (code, signal) => resolve({ code, signal })))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
