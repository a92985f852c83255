// npm's `prepack` script: compiles the addon for those who have no compiler, into prebuilds/, with every cross compiler that is found here.
// One command of the compiler each, from the same sources and defines as the other builds; Node's headers are the same for every processor.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildEnvironment } from './node-headers.mjs'
import { targets } from './package/prebuilt-targets.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))

/** Compiles with the first of `compilers` that is here; `error` is ENOENT where none is. */
function compile(compilers, output) {
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
    ...[
      '-shared',
      '-fPIC',
      '-O2',
      '-std=c++17',
      '-fexceptions',
      '-fvisibility=hidden',
      '-pthread',
      '-s',
      '-Wl,--version-script=native/exports.map',
    ],
    ...defines.map((define) => `-D${define}`),
    ...headers.flatMap((folder) => ['-isystem', folder]),
    ...sources.map((source) => join('native', source)),
    ...['-o', output],
  ]
  for (const [command, ...first] of compilers) {
    const ended = spawnSync(command, [...first, ...words], { cwd: root, encoding: 'utf8' })
    if (ended.error?.code !== 'ENOENT') return { ...ended, command }
  }
  return { status: null, error: Object.assign(new Error('no compiler'), { code: 'ENOENT' }), stderr: '' }
}

rmSync(join(root, 'prebuilds'), { recursive: true, force: true })
let made = 0
for (const [name, compilers] of Object.entries(targets)) {
  mkdirSync(join(root, 'prebuilds', name), { recursive: true })
  const { status, error, stderr, command } = compile(compilers, join(root, 'prebuilds', name, 'vhost_vdpa_native.node'))
  if (status === 0) made++
  else rmSync(join(root, 'prebuilds', name), { recursive: true })
  if (error !== undefined && error.code !== 'ENOENT') throw error
  if (error === undefined && status !== 0) {
    process.stderr.write(stderr)
    process.exitCode = 1
  }
  // npm's --json takes stdout for itself.
  const names = compilers.map(([each]) => each).join(' and no ')
  const outcome = status === 0 ? `made by ${command}` : error === undefined ? 'failed' : `no ${names} here`
  console.error(`prebuilds/${name}: ${outcome}`)
}
if (made === 0) process.exitCode = 1
