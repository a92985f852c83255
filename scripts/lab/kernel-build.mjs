// Makes one kernel ready to boot: downloads Debian's packages, builds the vDPA modules that Debian leaves out from Debian's own
// source package, and lays down the few files the machine needs. Nothing is installed on the host, and no kernel code is kept here.
import { existsSync } from 'node:fs'
import { copyFile, mkdir, readFile, readdir, stat, symlink, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { buildPackages, ensurePackages } from './packages.mjs'
import { exitCodes, labError, report } from './progress.mjs'
import { runOrThrow } from './processes.mjs'

/** Raised by whoever changes what a cached kernel holds, so that older caches are built anew. */
export const recipe = 3

/** Loaded by the first program, before it can see the host's files. */
const bootModules = ['9pnet_virtio', '9p']

/** Loaded afterwards in this order: vhost_vdpa first, because a new vDPA device binds to the first driver that takes it. */
const laterModules = [
  'vhost_vdpa',
  'vduse',
  'vdpa_sim_net',
  'vdpa_sim_blk',
  'vp_vdpa',
  'virtio_net',
  'virtio_blk',
  'virtio_vdpa',
]

/** Loaded when the kernel has them; no device of the lab depends on them. */
const optionalModules = [
  ...['tun', 'vhost_net', 'vhost_vsock', 'vsock_loopback', 'crc32c_generic', 'ext4'],
  // For guests whose IOMMU is ours (scripts/guests).
  ...['virtio_iommu', 'virtio_rng'],
]

const builtHere = ['vringh', 'vdpa_sim', 'vdpa_sim_net', 'vdpa_sim_blk', 'vp_vdpa']

async function unpackPackages(apt, chosen, workshop, root) {
  report(`downloading kernel ${chosen.release} (about 280 MB)`)
  const downloaded = await apt.download([...chosen.packages, chosen.source], workshop)
  if (downloaded.code !== 0)
    throw labError(
      exitCodes.cannotRun,
      `cannot download kernel ${chosen.version}: ${downloaded.stderr.trim().split('\n').at(-1)}`,
    )
  const packages = (await readdir(workshop)).filter((name) => name.endsWith('.deb'))
  report('unpacking the kernel')
  const isSource = (name) => name.startsWith('linux-source-')
  for (const name of packages.filter((each) => !isSource(each)))
    await runOrThrow('dpkg-deb', ['-x', join(workshop, name), root])
  const source = packages.find(isSource)
  if (source === undefined) throw labError(exitCodes.cannotRun, `the download of ${chosen.source} brought no package`)
  return join(workshop, source)
}

/** Takes drivers/vdpa and drivers/vhost out of the source package in one stream, without laying down the rest of it. */
async function unpackSource(sourcePackage, target) {
  report('unpacking drivers/vdpa and drivers/vhost from the source package')
  await mkdir(target)
  const script = `dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
    tar -xJ -C "$2" --strip-components=1 --wildcards '*/drivers/vdpa/*' '*/drivers/vhost/*'`
  await runOrThrow('/bin/sh', ['-c', script, 'sh', sourcePackage, target])
}

/** Lays what is to be compiled into a folder: Debian's sources, and a Kbuild of one line. */
async function layDownSource(source, folder) {
  await mkdir(folder, { recursive: true })
  const simulator = join(source, 'drivers/vdpa/vdpa_sim')
  const files = (await readdir(simulator)).filter((name) => /\.[ch]$/.test(name)).map((name) => join(simulator, name))
  files.push(join(source, 'drivers/vhost/vringh.c'), join(source, 'drivers/vdpa/virtio_pci/vp_vdpa.c'))
  for (const file of files) await copyFile(file, join(folder, basename(file)))
  await writeFile(join(folder, 'Kbuild'), `obj-m += ${builtHere.map((name) => `${name}.o`).join(' ')}\n`)
}

/** Reads depmod's table: module name → its file and the files it needs, nearest first. */
async function readDependencies(tree) {
  const table = new Map()
  for (const line of (await readFile(join(tree, 'modules.dep'), 'utf8')).split('\n')) {
    const [file, needs] = line.split(':')
    if (needs !== undefined)
      table.set(moduleName(file), { file, needs: needs.split(' ').filter((each) => each !== '') })
  }
  return table
}

const moduleName = (file) =>
  basename(file)
    .replace(/\.ko.*$/, '')
    .replaceAll('-', '_')

/** The wanted modules and all they need, in an order in which each can be loaded. */
function loadOrder(table, wanted, loaded) {
  const order = []
  const add = (name) => {
    if (loaded.has(name)) return
    loaded.add(name)
    const entry = table.get(name)
    if (entry === undefined) throw labError(exitCodes.cannotRun, `this kernel has no module ${name}`)
    for (const need of entry.needs.toReversed()) add(moduleName(need))
    order.push(name)
  }
  for (const name of wanted) add(name)
  return order
}

async function layDownModules(table, tree, names, target) {
  for (const name of names) {
    const file = join(tree, table.get(name).file)
    const plain = join(target, `${name}.ko`)
    if (file.endsWith('.xz')) await runOrThrow('/bin/sh', ['-c', 'xz -dc "$1" > "$2"', 'sh', file, plain])
    else if (file.endsWith('.zst')) await runOrThrow('/bin/sh', ['-c', 'zstd -dcq "$1" > "$2"', 'sh', file, plain])
    else await copyFile(file, plain)
  }
}

async function writeManifest(chosen, product, boot, modules) {
  const names = ['vmlinuz', ...[...boot, ...modules].map((name) => `modules/${name}.ko`)]
  const files = {}
  for (const name of names) files[name] = (await stat(join(product, name))).size
  const manifest = { recipe, release: chosen.release, version: chosen.version, boot, modules, files }
  await writeFile(join(product, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}

/** Newer packages keep the kernel beside its modules. */
function imageOf(root, release) {
  const places = [join(root, 'boot', `vmlinuz-${release}`), join(root, 'lib/modules', release, 'vmlinuz')]
  return places.find((place) => existsSync(place)) ?? places[0]
}

/** Builds `chosen`, of `series` and from `apt`, inside the folder `workshop` and returns the finished folder in it, ready to be renamed into the cache. */
export async function buildKernel(series, apt, chosen, workshop) {
  await ensurePackages(buildPackages)
  const root = join(workshop, 'root')
  const product = join(workshop, 'product')
  await mkdir(root)
  await mkdir(join(product, 'modules'), { recursive: true })
  const sourcePackage = await unpackPackages(apt, chosen, workshop, root)
  if (!existsSync(join(root, 'lib'))) await symlink('usr/lib', join(root, 'lib'))
  const source = join(workshop, 'source')
  await unpackSource(sourcePackage, source)
  const { release } = chosen
  const prepare = async (folder) => {
    await layDownSource(source, folder)
    report(`building ${builtHere.join(', ')}`)
  }
  const folder = await series.build({ root, release, apt, workshop, prepare })
  for (const name of builtHere) await runOrThrow('strip', ['--strip-debug', join(folder, `${name}.ko`)])
  const tree = join(root, 'lib/modules', release)
  await mkdir(join(tree, 'extra'), { recursive: true })
  for (const name of builtHere) await copyFile(join(folder, `${name}.ko`), join(tree, 'extra', `${name}.ko`))
  await runOrThrow('depmod', ['-b', root, release], {
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  })
  const table = await readDependencies(tree)
  const loaded = new Set()
  const boot = loadOrder(table, bootModules, loaded)
  const modules = loadOrder(table, [...laterModules, ...optionalModules.filter((name) => table.has(name))], loaded)
  await layDownModules(table, tree, [...boot, ...modules], join(product, 'modules'))
  await copyFile(imageOf(root, release), join(product, 'vmlinuz'))
  await writeManifest(chosen, product, boot, modules)
  return product
}
