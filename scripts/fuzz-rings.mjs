// Nightly fuzz of the rings: a million random hostile peers (npm test runs 20,000), then both sides of each format on two threads. No device.
// node scripts/fuzz-rings.mjs [--cases N] [--seed N] [--chains N]. Exit code 1, with the seed and a shrunk case, when anything failed.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'

const root = fileURLToPath(new URL('..', import.meta.url))
const require = createRequire(import.meta.url)

function option(name, fallback) {
  const at = process.argv.indexOf(name)
  return at < 0 ? fallback : Number(process.argv[at + 1])
}

/** The shared code is TypeScript of the tests; it is compiled, with the parts of the library it uses, into a folder of its own. */
function compile(directory) {
  const config = {
    extends: join(root, 'tsconfig.json'),
    compilerOptions: {
      noEmit: false,
      rootDir: root,
      outDir: directory,
      typeRoots: [join(root, 'node_modules/@types')],
    },
    include: [],
    files: ['run', 'soak'].map((name) => join(root, `test/virtqueue/fuzz/${name}.ts`)),
  }
  const file = join(directory, 'tsconfig.json')
  writeFileSync(file, JSON.stringify(config))
  const { status } = spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', file], {
    stdio: 'inherit',
  })
  if (status !== 0) throw new Error('the fuzzer does not compile')
}

function fuzz(directory, cases, seed) {
  const { runSeed, report } = require(join(directory, 'test/virtqueue/fuzz/run.js'))
  const outcomes = new Map()
  const begin = Date.now()
  let failures = 0
  for (let count = 0; count < cases && failures < 5; count++) {
    const result = runSeed((seed + count) >>> 0)
    for (const outcome of result.outcomes) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
    if (result.failure !== undefined) {
      failures++
      console.error(report(result))
    }
    if ((count + 1) % 100_000 === 0)
      console.log(`${count + 1} cases, ${failures} failures, ${((Date.now() - begin) / 1000).toFixed(0)} s`)
  }
  for (const [outcome, count] of [...outcomes].sort((a, b) => b[1] - a[1]))
    console.log(`${String(count).padStart(9)}  ${outcome}`)
  return failures
}

async function soak(directory, chains) {
  const { driveSoak, makeSoak } = require(join(directory, 'test/virtqueue/fuzz/soak.js'))
  let failures = 0
  for (const format of ['split', 'packed']) {
    for (const [eventIdx, inOrder] of [
      [false, false],
      [true, false],
      [true, true],
    ]) {
      for (const size of format === 'split' ? [2, 64] : [3, 61]) {
        const shared = makeSoak({ format, size, eventIdx, inOrder, chains })
        const name = `two threads, ${format} of ${size}, EVENT_IDX ${eventIdx}, IN_ORDER ${inOrder}`
        const { promise, start } = device(directory, shared)
        try {
          const { kicks, sleeps } = driveSoak(shared, start)
          await promise
          console.log(`${name}: ${chains} chains, ${kicks} kicks, driver slept ${sleeps} times`)
        } catch (error) {
          failures++
          console.error(`${name}: ${error.message}`)
          await promise.catch((reason) => console.error(`  the device: ${reason.message}`))
        }
      }
    }
  }
  return failures
}

/** The device's thread. It is started once the driver has made the ring, and has loaded its code by the time the driver sleeps. */
function device(directory, shared) {
  let start
  const promise = new Promise((resolve, reject) => {
    start = () => {
      const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { directory, shared } })
      worker.once('error', reject).once('exit', resolve)
    }
  })
  return { promise, start }
}

if (isMainThread) {
  const directory = mkdtempSync(join(tmpdir(), 'vhost-vdpa-fuzz-'))
  try {
    const [cases, seed] = [option('--cases', 1_000_000), option('--seed', Date.now() >>> 0)]
    console.log(`${cases} cases from seed ${seed} on`)
    compile(directory)
    const failures = fuzz(directory, cases, seed) + (await soak(directory, option('--chains', 200_000)))
    console.log(failures === 0 ? 'no failures' : `${failures} failures`)
    process.exitCode = failures === 0 ? 0 : 1
  } finally {
    rmSync(directory, { recursive: true })
  }
} else {
  require(join(workerData.directory, 'test/virtqueue/fuzz/soak.js')).serveSoak(workerData.shared)
  parentPort.close()
}
