// `node scripts/guests/newer-qemu.mjs` (root, Debian): unpacks the QEMU of Debian's next release, with all that it needs, into the lab's cache, for what only a newer one
// has. Nothing is installed, and the machine's own packages stay as they are.
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suiteApt } from '../lab/apt.mjs'
import { cacheFolder } from '../lab/kernel.mjs'
import { runOrThrow } from '../lab/processes.mjs'
import { exitCodes, labError } from '../lab/progress.mjs'

const folder = () => join(cacheFolder(), 'qemu')

/** The words that start it: the loader and the libraries that it came with, and where its own files are; undefined where it was not unpacked. */
export function newerQemu() {
  const root = folder()
  if (!existsSync(root)) return undefined
  const libraries = join(root, 'usr/lib/x86_64-linux-gnu')
  return [
    join(libraries, 'ld-linux-x86-64.so.2'),
    ...['--library-path', [libraries, join(libraries, 'pulseaudio')].join(':')],
    join(root, 'usr/bin/qemu-system-x86_64'),
    ...['-L', join(root, 'usr/share/qemu'), '-L', join(root, 'usr/share/seabios')],
  ]
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
    console.log('downloading QEMU and what it needs (about 41 MB)')
    await apt.downloadClosure(['qemu-system-x86'], packages)
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
