// Which kernel the lab boots, and where its files are kept. The newest 6.12 that apt offers is taken, never a pinned one;
// building it is kernel-build.mjs.
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { buildKernel, recipe } from './kernel-build.mjs'
import { packageNames, refreshLists, versionsOf } from './packages.mjs'
import { exitCodes, labError, report } from './progress.mjs'

const IMAGE = /^linux-image-(6\.12\.(\d+)\+deb\d+-amd64)$/
const STALE = 2 * 60 * 60 * 1000

/** Where built kernels stay between runs. */
export function cacheFolder() {
  const chosen = process.env.VHOST_VDPA_LAB_CACHE
  if (chosen) return chosen
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vhost-vdpa-lab')
}

const SOURCE = 'linux-source-6.12'

/** The packages of one release. All are taken in one version, because modules built from another version's source may not fit. */
function packagesOf(release) {
  const common = release.replace(/-amd64$/, '')
  return [
    `linux-image-${release}`,
    `linux-headers-${release}`,
    `linux-headers-${common}-common`,
    `linux-kbuild-${common}`,
  ]
}

/** Changes when apt's lists do. Asking apt itself takes longer than all else that a second run does before it boots. */
async function listsStamp() {
  const folder = '/var/lib/apt/lists'
  const names = (await readdir(folder)).filter((name) => name.endsWith('Packages') || /Packages\.\w+$/.test(name))
  const stats = await Promise.all(names.sort().map((name) => stat(join(folder, name))))
  return names.map((name, index) => `${name} ${stats[index].size} ${stats[index].mtimeMs}`).join('\n')
}

/** As `newestOffered`, remembered in the cache for as long as apt's lists stay as they are. */
async function newestOfferedRemembered(cache) {
  const file = join(cache, 'offered.json')
  const stamp = await listsStamp()
  try {
    const remembered = JSON.parse(await readFile(file, 'utf8'))
    if (remembered.stamp === stamp) return remembered.offered
  } catch {
    // Nothing remembered, or half of it: ask.
  }
  const offered = await newestOffered()
  if (offered === undefined) return undefined
  await writeFile(`${file}.${process.pid}`, JSON.stringify({ stamp, offered }))
  await rename(`${file}.${process.pid}`, file)
  return offered
}

async function newestOffered() {
  const releases = (await packageNames('linux-image-6.12.'))
    .map((name) => IMAGE.exec(name))
    .filter((match) => match !== null)
    .sort((a, b) => Number(b[2]) - Number(a[2]))
    .map((match) => match[1])
  const versions = releases.length === 0 ? new Map() : await versionsOf([SOURCE, ...releases.flatMap(packagesOf)])
  for (const release of releases) {
    const packages = packagesOf(release)
    const [version] = versions.get(packages[0])
    const isWhole = [SOURCE, ...packages].every((name) => versions.get(name).includes(version))
    if (version !== undefined && isWhole)
      return {
        release,
        version,
        packages: packages.map((name) => `${name}=${version}`),
        source: `${SOURCE}=${version}`,
      }
  }
  return undefined
}

/** Reads a cached kernel; undefined when it is not there, from another recipe, or a file is missing or cut short. */
async function readCached(folder) {
  try {
    const manifest = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'))
    if (manifest.recipe !== recipe) return undefined
    for (const [name, size] of Object.entries(manifest.files))
      if ((await stat(join(folder, name))).size !== size) return undefined
    return { ...manifest, folder }
  } catch {
    return undefined
  }
}

async function newestCached(cache) {
  const names = (await readdir(cache)).filter((name) => /^6\.12\.\d+/.test(name))
  names.sort((a, b) => Number(b.split(/[.+]/)[2]) - Number(a.split(/[.+]/)[2]))
  for (const name of names) {
    const kernel = await readCached(join(cache, name))
    if (kernel !== undefined) return kernel
  }
  return undefined
}

/** Removes half-built folders of runs that were killed, and kernels other than the one just built. */
async function prune(cache, keep) {
  for (const name of await readdir(cache)) {
    const folder = join(cache, name)
    const isOldKernel = /^6\.12\.\d+.*_/.test(name) && name !== keep
    const isStale = name.startsWith('.building-') && Date.now() - (await stat(folder)).mtimeMs > STALE
    if (isOldKernel || isStale) await rm(folder, { recursive: true, force: true })
  }
}

async function build(cache, chosen, name) {
  const workshop = await mkdtemp(join(cache, '.building-'))
  try {
    const product = await buildKernel(chosen, workshop)
    await rm(join(cache, name), { recursive: true, force: true })
    await rename(product, join(cache, name))
  } catch (error) {
    // Two runs may build at once: whoever comes second uses what the first one finished.
    if (!['ENOTEMPTY', 'EEXIST'].includes(error.code)) throw error
  } finally {
    await rm(workshop, { recursive: true, force: true })
  }
  await prune(cache, name)
}

const noKernel =
  'apt offers no linux-image-6.12.*-amd64 with its headers and source: the suite bookworm-security must be among its sources ' +
  '(deb http://security.debian.org/debian-security bookworm-security main), and as root run: apt-get update'

/**
 * The kernel to boot, from the cache or freshly built: `{ release, version, folder, boot, modules }`, where `boot` and
 * `modules` name modules in the order of loading. Throws (exit code 2) when none can be had.
 */
export async function ensureKernel() {
  const cache = cacheFolder()
  await mkdir(cache, { recursive: true })
  let offered = await newestOfferedRemembered(cache)
  if (offered === undefined) {
    const cached = await newestCached(cache)
    if (cached !== undefined) {
      report(`apt's lists have no 6.12 kernel; using the cached ${cached.release}`)
      return cached
    }
    if (await refreshLists()) offered = await newestOffered()
    if (offered === undefined) throw labError(exitCodes.cannotRun, noKernel)
  }
  const name = (entry) => `${entry.release}_${entry.version.replaceAll(':', '%3a')}`
  const cached = await readCached(join(cache, name(offered)))
  if (cached !== undefined) return cached
  // Lists that are behind the mirror name packages which the mirror no longer has.
  if (await refreshLists()) offered = (await newestOffered()) ?? offered
  if (!existsSync(join(cache, name(offered), 'manifest.json')))
    report(`kernel ${offered.release} is not in ${cache} yet`)
  await build(cache, offered, name(offered))
  const built = await readCached(join(cache, name(offered)))
  if (built === undefined)
    throw labError(exitCodes.cannotRun, `the kernel in ${join(cache, name(offered))} is incomplete after building`)
  return built
}
