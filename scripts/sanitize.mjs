// `npm run test:native:asan`: the native tests with an addon built for AddressSanitizer, then the request queue alone under ThreadSanitizer. Fails on
// any report that has to do with the addon. Leaks of Node itself are not ours to report.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildEnvironment } from './node-headers.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const addon = join(root, 'build-asan/Release/vhost_vdpa_native.node')
const addonInStack = 'vhost_vdpa_native.node'
// These load no addon, or compare numbers that a sanitizer does not change.
const leftOut = ['install\\.test', 'abi\\.test', '/test/kernel/']

function run(program, args, options = {}) {
  const { status, signal, error } = spawnSync(program, args, { cwd: root, stdio: 'inherit', ...options })
  if (error !== undefined) throw error
  return status ?? `signal ${signal}`
}

function build() {
  const cmake = join(root, 'node_modules/.bin/cmake-js')
  const args = [
    'compile',
    '--directory',
    'native',
    '--out',
    'build-asan',
    '--CDSANITIZE=address',
    '--log-level',
    'error',
  ]
  if (run(cmake, args, { env: buildEnvironment() }) !== 0) throw new Error('the addon was not built')
  if (!readFileSync(addon, 'latin1').includes('__asan_report_load'))
    throw new Error('the addon was built without AddressSanitizer')
}

/** The runtime must be loaded before everything else, because node itself was not built with it. */
function runtime() {
  const { stdout } = spawnSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' })
  const path = stdout?.trim() ?? ''
  if (!existsSync(path)) throw new Error('libasan.so was not found: install g++ and its sanitizers')
  return path
}

/**
 * Whether a leak is the addon's: it allocated, or Node-API did for it. What the engine allocated for its own heap while the addon called it is freed, or
 * not, by the engine.
 */
function isOurs(leak) {
  const [callees, ...rest] = leak.split(addonInStack)
  return rest.length > 0 && !callees.includes('v8::internal::')
}

/** The reports in the logs that concern the addon. */
function complaints(folder) {
  const reports = readdirSync(folder)
    .filter((name) => name.startsWith('asan.'))
    .flatMap((name) => readFileSync(join(folder, name), 'utf8').split(/\n(?=(?:Direct|Indirect) leak of )/))
  const isLeak = (report) => /^(?:Direct|Indirect) leak of /.test(report)
  return reports.filter((report) => (isLeak(report) ? isOurs(report) : /ERROR: AddressSanitizer/.test(report)))
}

function testAddon(folder) {
  const results = join(folder, 'results.json')
  const status = run(
    process.execPath,
    [
      'node_modules/jest/bin/jest.js',
      'test/native',
      '--runInBand',
      // The addon is several times slower here, on a machine that may be busy.
      '--testTimeout',
      '60000',
      '--testPathIgnorePatterns',
      ...leftOut,
      '--json',
      '--outputFile',
      results,
    ],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: {
        ...process.env,
        LD_PRELOAD: runtime(),
        // exitcode=0: leaks of Node must not fail the run; the logs are read for the rest.
        ASAN_OPTIONS: `detect_leaks=1:exitcode=0:log_path=${join(folder, 'asan')}`,
        VHOST_VDPA_ADDON: addon,
      },
    },
  )
  const found = complaints(folder)
  for (const report of found.slice(0, 10)) console.error(report)
  const { numPassedTests = 0 } = existsSync(results) ? JSON.parse(readFileSync(results, 'utf8')) : {}
  console.log(`AddressSanitizer: ${numPassedTests} tests passed, ${found.length} reports`)
  return status === 0 && numPassedTests > 0 && found.length === 0
}

function testQueue(folder) {
  const program = join(folder, 'request-queue')
  const sources = ['test/native/request-queue.stress.cc', 'native/request_queue.cc']
  const flags = ['-std=c++17', '-O1', '-g', '-Wall', '-Wextra', '-fsanitize=thread', '-pthread']
  if (run('g++', [...flags, ...sources, '-o', program]) !== 0)
    throw new Error('the stress test of the queue was not built')
  const status = run(program, [])
  console.log(`ThreadSanitizer: the request queue ${status === 0 ? 'is clean' : `ended with ${status}`}`)
  return status === 0
}

const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-sanitize-'))
try {
  build()
  const passed = [testAddon(folder), testQueue(folder)].every(Boolean)
  process.exitCode = passed ? 0 : 1
} catch (error) {
  console.error(`sanitize: ${error.message}`)
  process.exitCode = 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}
