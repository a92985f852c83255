// npm's `prepack` script: compiles the addon for those who have no compiler, into prebuilds/, with every cross compiler that is found here.
// One command of the compiler each, from the same sources and defines as the other builds; Node's headers are the same for every processor.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildEnvironment } from './node-headers.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))

/**
 * Folder of prebuilds/ to compiler. The C++ library is not linked in: Debian's wants a newer C library (2.36) than the addon does (2.33). Musl needs a compiler
 * with a C++ library of its own, which Debian does not have.
 */
const targets = {
  'linux-x64-glibc': 'x86_64-linux-gnu-g++',
  'linux-arm64-glibc': 'aarch64-linux-gnu-g++',
  'linux-x64-musl': 'x86_64-linux-musl-g++',
  'linux-arm64-musl': 'aarch64-linux-musl-g++',
}

function compile(compiler, output) {
  const sources = readFileSync(join(root, 'native/sources.txt'), 'utf8').trim().split('\n')
  const { target_name: name } = JSON.parse(readFileSync(join(root, 'binding.gyp'), 'utf8')).targets[0]
  const defines = [
    'NAPI_VERSION=8',
    'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
    'NAPI_CPP_EXCEPTIONS',
    `NODE_GYP_MODULE_NAME=${name}`,
  ]
  const { npm_config_nodedir: nodedir } = buildEnvironment()
  if (nodedir === undefined)
    throw new Error("Node's headers are not installed: set npm_config_nodedir to where they are")
  const headers = [join(nodedir, 'include/node'), join(root, 'node_modules/node-addon-api')]
  const words = [
    ...['-shared', '-fPIC', '-O2', '-std=c++17', '-fexceptions', '-fvisibility=hidden', '-pthread', '-s'],
    ...defines.map((define) => `-D${define}`),
    ...headers.flatMap((folder) => ['-isystem', folder]),
    ...sources.map((source) => join('native', source)),
    ...['-o', output],
  ]
  return spawnSync(compiler, words, { cwd: root, encoding: 'utf8' })
}

rmSync(join(root, 'prebuilds'), { recursive: true, force: true })
let made = 0
for (const [name, compiler] of Object.entries(targets)) {
  mkdirSync(join(root, 'prebuilds', name), { recursive: true })
  const { status, error, stderr } = compile(compiler, join(root, 'prebuilds', name, 'vhost_vdpa_native.node'))
  if (status === 0) made++
  else rmSync(join(root, 'prebuilds', name), { recursive: true })
  if (error !== undefined && error.code !== 'ENOENT') throw error
  if (error === undefined && status !== 0) {
    process.stderr.write(stderr)
    process.exitCode = 1
  }
  // npm's --json takes stdout for itself.
  console.error(`prebuilds/${name}: ${status === 0 ? 'made' : error === undefined ? 'failed' : `no ${compiler} here`}`)
}
if (made === 0) process.exitCode = 1
