// `node scripts/guests/newer-qemu.mjs` (root, Debian): unpacks the QEMU of Debian's next release, with all that it needs, into the lab's cache, for what only a newer one
// has, and its tools with libblkio, a driver of disks in a process. Nothing is installed, and the machine's own packages stay as they are.
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suiteApt } from '../lab/apt.mjs'
import { cacheFolder } from '../lab/kernel.mjs'
import { runOrThrow } from '../lab/processes.mjs'
import { exitCodes, labError } from '../lab/progress.mjs'

const folder = () => join(cacheFolder(), 'newer-qemu')

/** The words that start one of its programs: the loader and the libraries that it came with; undefined where it was not unpacked. */
function program(name) {
  const root = folder()
  if (!existsSync(root)) return undefined
  const libraries = join(root, 'usr/lib/x86_64-linux-gnu')
  return [
    join(libraries, 'ld-linux-x86-64.so.2'),
    ...['--library-path', [libraries, join(libraries, 'pulseaudio')].join(':')],
    join(root, 'usr/bin', name),
  ]
}

/** The words that start the machine, with where its own files are; undefined where it was not unpacked. */
export function newerQemu() {
  const root = folder()
  const files = ['-L', join(root, 'usr/share/qemu'), '-L', join(root, 'usr/share/seabios')]
  return program('qemu-system-x86_64')?.concat(files)
}

/** The words that start qemu-io, and the environment in which it finds the drivers of its disks; undefined where it was not unpacked. */
export function newerQemuIo() {
  const words = program('qemu-io')
  const drivers = join(folder(), 'usr/lib/x86_64-linux-gnu/qemu')
  return words && { words, env: { ...process.env, QEMU_MODULE_DIR: drivers } }
}

async function unpack() {
  const cache = cacheFolder()
  await mkdir(cache, { recursive: true })
  const workshop = await mkdtemp(join(cache, '.building-'))
  try {
    const [packages, root] = ['packages', 'root'].map((name) => join(workshop, name))
    await Promise.all([mkdir(packages), mkdir(root)])
    const apt = await suiteApt(['sid'], workshop)
    const failure = await apt.update()
    if (failure !== undefined) throw labError(exitCodes.cannotRun, `apt-get update ${failure}`)
    console.log('downloading QEMU and what it needs (about 70 MB)')
    await apt.downloadClosure(['qemu-system-x86', 'qemu-utils', 'qemu-block-extra'], packages)
    for (const name of (await readdir(packages)).filter((each) => each.endsWith('.deb')))
      await runOrThrow('dpkg-deb', ['-x', join(packages, name), root])
    await rename(root, folder())
  } catch (error) {
    // Two may unpack at once: whoever comes second uses what the first one finished.
    if (!['ENOTEMPTY', 'EEXIST'].includes(error.code)) throw error
  } finally {
    await rm(workshop, { recursive: true, force: true })
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url) && newerQemu() === undefined) await unpack()
