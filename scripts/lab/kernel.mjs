// Which kernel the lab boots, and where its files are kept. The newest of a series that apt offers is taken, never a pinned one;
// building it is kernel-build.mjs.
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { buildKernel, recipe } from './kernel-build.mjs'
import { isRoot } from './apt.mjs'
import { refreshLists } from './packages.mjs'
import { exitCodes, labError, report } from './progress.mjs'
import { allSeries } from './series.mjs'

const STALE = 2 * 60 * 60 * 1000

/** Where built kernels stay between runs. */
export function cacheFolder() {
  const chosen = process.env.VHOST_VDPA_LAB_CACHE
  if (chosen) return chosen
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vhost-vdpa-lab')
}

/** Changes when apt's lists do. Asking apt itself takes longer than all else that a second run does before it boots. */
async function listsStamp(folder) {
  const names = (await readdir(folder)).filter((name) => name.endsWith('Packages') || /Packages\.\w+$/.test(name))
  const stats = await Promise.all(names.sort().map((name) => stat(join(folder, name))))
  return names.map((name, index) => `${name} ${stats[index].size} ${stats[index].mtimeMs}`).join('\n')
}

/** As `newestOffered`, remembered in the cache for as long as apt's lists stay as they are. */
async function newestOfferedRemembered(cache, series, apt) {
  const file = join(cache, `offered-${series.name}.json`)
  const stamp = await listsStamp(apt.lists)
  try {
    const remembered = JSON.parse(await readFile(file, 'utf8'))
    if (remembered.stamp === stamp) return remembered.offered
  } catch {
    // Nothing remembered, or half of it: ask.
  }
  const offered = await newestOffered(series, apt)
  if (offered === undefined) return undefined
  await writeFile(`${file}.${process.pid}`, JSON.stringify({ stamp, offered }))
  await rename(`${file}.${process.pid}`, file)
  return offered
}

/** The numbers in a release's name, for comparing: 7.2.13+deb14 comes before 7.10. */
const numbersOf = (release) => release.split(/[.+_-]/).map((part) => Number.parseInt(part, 10) || 0)

/** Newest first. */
function byRelease(one, other) {
  const [ours, theirs] = [numbersOf(one), numbersOf(other)]
  const at = ours.findIndex((number, index) => number !== theirs[index])
  return at === -1 ? 0 : (theirs[at] ?? 0) - ours[at]
}

/**
 * The newest release of the series whose packages apt has all in one version, because modules built from another version's source may not fit. One that is
 * not out yet (a version with a tilde) is taken only where nothing else is there.
 */
async function newestOffered(series, apt) {
  const releases = (await apt.names(series.beginning))
    .flatMap((name) => series.image.exec(name)?.[1] ?? [])
    .sort(byRelease)
  const wanted = (release) => [series.source(release), ...series.packages(release)]
  const versions = releases.length === 0 ? new Map() : await apt.versionsOf([...new Set(releases.flatMap(wanted))])
  const whole = releases.flatMap((release) => {
    const [source, first, ...others] = wanted(release)
    const version = versions.get(first)[0]
    const isWhole = version !== undefined && [source, ...others].every((name) => versions.get(name).includes(version))
    return isWhole ? [{ release, version }] : []
  })
  const chosen = whole.find(({ version }) => !version.includes('~rc')) ?? whole[0]
  if (chosen === undefined) return undefined
  const { release, version } = chosen
  const [source, ...packages] = wanted(release).map((name) => `${name}=${version}`)
  return { series: series.name, release, version, packages, source }
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

/** Whether a folder of the cache has a kernel of a series: it is called after its release and version. */
const isOf = (series, name) => series.image.test(`linux-image-${name.split('_')[0]}`)

/** The newest kernel of a series that was built already, and a candidate only where nothing else was; undefined where none was. */
export async function newestCached(word, cache = cacheFolder()) {
  if (!existsSync(cache)) return undefined
  const names = (await readdir(cache)).filter((name) => isOf(allSeries[word], name)).sort(byRelease)
  const isCandidate = (name) => name.includes('~rc')
  for (const name of [...names.filter((each) => !isCandidate(each)), ...names.filter(isCandidate)]) {
    const kernel = await readCached(join(cache, name))
    if (kernel !== undefined) return kernel
  }
  return undefined
}

/** Removes half-built folders of runs that were killed, and kernels of the series other than the one just built. */
async function prune(cache, series, keep) {
  for (const name of await readdir(cache)) {
    const folder = join(cache, name)
    const isOldKernel = isOf(series, name) && name !== keep
    const isStale = name.startsWith('.building-') && Date.now() - (await stat(folder)).mtimeMs > STALE
    if (isOldKernel || isStale) await rm(folder, { recursive: true, force: true })
  }
}

async function build(cache, series, apt, chosen, name) {
  const workshop = await mkdtemp(join(cache, '.building-'))
  try {
    const product = await buildKernel(series, apt, chosen, workshop)
    await rm(join(cache, name), { recursive: true, force: true })
    await rename(product, join(cache, name))
  } catch (error) {
    // Two runs may build at once: whoever comes second uses what the first one finished.
    if (!['ENOTEMPTY', 'EEXIST'].includes(error.code)) throw error
  } finally {
    await rm(workshop, { recursive: true, force: true })
  }
  await prune(cache, series, name)
}

/**
 * The kernel to boot of a series ('6.12' or '7'), from the cache or freshly built: `{ release, version, folder, boot, modules }`, where `boot` and
 * `modules` name modules in the order of loading. Throws (exit code 2) when none can be had.
 */
export async function ensureKernel(word) {
  const series = allSeries[word]
  const cache = cacheFolder()
  await mkdir(cache, { recursive: true })
  const apt = await series.apt(cache)
  let offered = await newestOfferedRemembered(cache, series, apt)
  if (offered === undefined) {
    const cached = await newestCached(word, cache)
    if (cached !== undefined) {
      report(`apt's lists have no kernel ${series.name}; using the cached ${cached.release}`)
      return cached
    }
    if (await refreshLists(apt)) offered = await newestOffered(series, apt)
    if (offered === undefined) throw labError(exitCodes.cannotRun, series.missing)
  }
  const name = (entry) => `${entry.release}_${entry.version.replaceAll(':', '%3a')}`
  const cached = await readCached(join(cache, name(offered)))
  if (cached !== undefined) return cached
  if (series.mustBeRoot && !isRoot())
    throw labError(
      exitCodes.cannotRun,
      `kernel ${series.name} is compiled in a root of its own, which only root may enter`,
    )
  // Lists that are behind the mirror name packages which the mirror no longer has.
  if (await refreshLists(apt)) offered = (await newestOffered(series, apt)) ?? offered
  if (!existsSync(join(cache, name(offered), 'manifest.json')))
    report(`kernel ${offered.release} is not in ${cache} yet`)
  await build(cache, series, apt, offered, name(offered))
  const built = await readCached(join(cache, name(offered)))
  if (built === undefined)
    throw labError(exitCodes.cannotRun, `the kernel in ${join(cache, name(offered))} is incomplete after building`)
  return built
}
