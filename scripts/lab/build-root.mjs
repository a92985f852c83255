// Compiles modules with the compiler that the kernel's own release has, unpacked into a root of its own and entered by chroot: the headers' programs want a
// newer C library than the machine has. Nothing is configured or installed, and the root is thrown away afterwards.
import { mkdir, readdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { makeWords } from './build-host.mjs'
import { report } from './progress.mjs'
import { runOrThrow } from './processes.mjs'

/** Beside the headers and what they need: a shell and the tools that kbuild calls. */
const tools = ['make', 'base-files', 'dash', 'coreutils', 'sed', 'grep', 'gawk', 'perl-base', 'bash', 'findutils']

/** What the packages' scripts, which do not run here, would link. */
const links = [
  ['dash', 'usr/bin/sh'],
  ['gawk', 'usr/bin/awk'],
]

async function unpackTools({ root, release, apt, workshop }) {
  report('downloading its compiler (about 90 MB)')
  const folder = join(workshop, 'tools')
  await mkdir(folder)
  await apt.downloadClosure([`linux-headers-${release}`, ...tools], folder)
  report('unpacking its compiler')
  const packages = (await readdir(folder)).filter((name) => name.endsWith('.deb'))
  // It brings the links /bin, /lib and so on, through which the others are unpacked.
  const isBase = (name) => name.startsWith('base-files_')
  for (const name of [...packages.filter(isBase), ...packages.filter((each) => !isBase(each))])
    await runOrThrow('dpkg-deb', ['-x', join(folder, name), root])
  for (const [target, name] of links)
    await symlink(target, join(root, name)).catch((error) => {
      if (error.code !== 'EEXIST') throw error
    })
}

/** objtool reads /proc, and a shell wants /dev/null. The mounts end with the process that made them. */
const entering = `mount --rbind /proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$@"`

/** As buildWithHost. */
export async function buildInRoot(task) {
  const { root, release, prepare } = task
  await unpackTools(task)
  for (const name of ['proc', 'dev']) await mkdir(join(root, name), { recursive: true })
  const folder = join(root, 'build/modules')
  await prepare(folder)
  const make = ['make', ...makeWords(`/usr/src/linux-headers-${release}`, '/build/modules')]
  const words = ['--mount', '--propagation', 'private', 'sh', '-c', entering, 'sh', root, ...make]
  await runOrThrow('unshare', words, { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' } })
  return folder
}
