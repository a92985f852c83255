// npm's `install` script: builds the native addon where none that came with the package fits and it can be done. It never fails: the package works
// without the addon, as a simulator, and one sentence says so and why.
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildEnvironment } from './node-headers.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const isCheckout = existsSync(join(root, 'scripts/build.mjs'))
const buildFolder = join(root, 'build')
const addon = join(buildFolder, 'Release', 'vhost_vdpa_native.node')
const log = join(buildFolder, 'install.log')

/** The first of `names` that is a program, by itself or on the PATH. */
function program(...names) {
  const folders = (process.env.PATH ?? '').split(delimiter)
  const isProgram = (path) => {
    try {
      accessSync(path, constants.X_OK)
      return statSync(path).isFile()
    } catch {
      return false
    }
  }
  return names
    .filter((name) => name !== undefined && name !== '')
    .find((name) => (name.includes('/') ? isProgram(name) : folders.some((folder) => isProgram(join(folder, name)))))
}

/** The compiler that is to be used: $CXX may have arguments. */
const compiler = () => program(process.env.CXX?.split(' ')[0], 'g++', 'clang++', 'c++')

/** Why the addon cannot be built here, or undefined. */
function obstacle() {
  if (process.platform !== 'linux') return `the native addon is for Linux only and this is ${process.platform}`
  if (compiler() === undefined) return 'no C++ compiler (g++ or clang++) was found'
  if (program('make') === undefined) return 'make was not found'
  if (program(process.env.npm_config_python, process.env.PYTHON, 'python3', 'python') === undefined)
    return 'Python 3, which node-gyp needs, was not found'
  return undefined
}

/** True when nothing that the addon is made of is newer than it. */
function isUpToDate() {
  if (!existsSync(addon)) return false
  const sources = readdirSync(join(root, 'native')).map((name) => join(root, 'native', name))
  const built = statSync(addon).mtimeMs
  return [...sources, join(root, 'binding.gyp')].every((source) => statSync(source).mtimeMs <= built)
}

/** True when an addon that came with the package can be loaded here; one that cannot is for another C library. A checkout builds its own. */
function hasPrebuilt() {
  if (isCheckout) return false
  return ['glibc', 'musl']
    .map((library) => join(root, 'prebuilds', `linux-${process.arch}-${library}`, 'vhost_vdpa_native.node'))
    .some(
      (path) => existsSync(path) && spawnSync(process.execPath, ['-e', 'require(process.argv[1])', path]).status === 0,
    )
}

/** npm and pnpm have node-gyp with them and say where; in a checkout it is installed. */
function nodeGyp() {
  const { npm_config_node_gyp: own } = process.env
  if (own !== undefined && existsSync(own)) return own
  return createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
}

/** Builds with node-gyp. Returns why it failed, or undefined. */
function build() {
  const env = buildEnvironment()
  if (env.CXX === undefined && compiler() !== 'g++') env.CXX = compiler()
  const args = [nodeGyp(), 'rebuild']
  const { status, error, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' })
  if (status === 0) return undefined
  mkdirSync(buildFolder, { recursive: true })
  writeFileSync(log, `${stdout ?? ''}${stderr ?? ''}${error ?? ''}\n`)
  return `building the native addon failed; the log is ${log}`
}

/** One sentence, for the person who installs and for the error of a program that later asks for the addon. */
function explain(reason) {
  if (existsSync(addon)) {
    console.log(`vhost-vdpa: the native addon is older than its sources and was kept, because ${reason}.`)
    return
  }
  const next = isCheckout ? 'npm install' : 'npm rebuild vhost-vdpa'
  // Elsewhere than on Linux nothing can be mended.
  const advice = process.platform === 'linux' ? `; when that is mended, \`${next}\` compiles it` : ''
  console.log(`vhost-vdpa: only the simulator is available, because ${reason}${advice}.`)
  try {
    mkdirSync(buildFolder, { recursive: true })
    writeFileSync(join(buildFolder, 'not-built.txt'), `when it was installed, ${reason}${advice}\n`)
  } catch {
    // A folder that cannot be written: that the sentence was said once must do.
  }
}

function main() {
  if (isUpToDate() || hasPrebuilt()) return
  const failure = obstacle() ?? build()
  if (failure !== undefined) explain(failure)
}

try {
  main()
} catch (error) {
  // A node-gyp that is not there, a folder that cannot be read: no reason to fail an installation.
  explain(`the native addon could not be built: ${error.message.split('\n')[0]}`)
}
