// Bench rows of the rings: both sides in memory, 64-byte frames looped in one process, against the same rings in C (rings.c). No device, no event loop.
// Alone: node scripts/bench/rings.mjs [--lib DIR] [--rounds N] [--frames N]. DIR holds the compiled library (default: dist).

import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PerformanceObserver, constants } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const SIZE = 256
const BATCH = 32
const FRAME = 64

/** One queue and both its sides, over memory of its own. */
function makeQueue(library, format) {
  const { RingMemory } = library.memory
  const { createDeviceRing, createDriverRing } = library.create
  const sizes = library.layout.areaSizes(format, SIZE)
  const area = (length) => new RingMemory(new ArrayBuffer(length))
  const areas = { descriptor: area(sizes.descriptor), driver: area(sizes.driver), device: area(sizes.device) }
  const options = { format, size: SIZE, areas }
  return { driver: createDriverRing(options), device: createDeviceRing(options) }
}

/**
 * The loop: the driver writes a frame into each buffer of a batch and sends it, the device copies it from the send to the receive buffer, the driver takes
 * both back and posts the receive buffer again. IOVAs are offsets in `words` (4 bytes each) and in `bytes`, the same memory.
 */
function loop(send, receive, words, frames) {
  const bytes = new Uint8Array(words.buffer)
  let sum = 0
  for (let done = 0; done < frames; done += BATCH) {
    sendBatch(send.driver, words, done)
    forward(send.device, receive.device, bytes)
    sum = (sum + receiveBatch(receive.driver, words)) | 0
    while (send.driver.take() >= 0) sum++
  }
  return sum
}

function sendBatch(driver, words, first) {
  for (let value = first; value < first + BATCH; value++) {
    const token = value & (SIZE - 1)
    const at = token * (FRAME / 4)
    for (let word = 0; word < FRAME / 4; word++) words[at + word] = value + word
    driver.begin()
    driver.push(0, token * FRAME, FRAME, false)
    driver.commit(token)
  }
  driver.publish()
}

function receiveBatch(driver, words) {
  let sum = 0
  for (let token = driver.take(); token >= 0; token = driver.take()) {
    sum += driver.usedLength + words[(SIZE + token) * (FRAME / 4)]
    driver.begin()
    driver.push(0, (SIZE + token) * FRAME, FRAME, true)
    driver.commit(token)
  }
  driver.publish()
  return sum
}

/** The device's part: each frame from the chain that was sent to the chain that waits for one. */
function forward(sent, waiting, bytes) {
  const from = sent.chain
  const to = waiting.chain
  while (sent.next()) {
    if (!waiting.next()) throw new Error('no receive buffer')
    if (from.readableLength > to.writableLength) throw new Error('frame too long')
    const source = from.iovaLow[0]
    bytes.copyWithin(to.iovaLow[0], source, source + from.lengths[0])
    sent.complete(from.id, 0)
    waiting.complete(to.id, from.readableLength)
  }
  sent.publish()
  waiting.publish()
}

/** In a process of its own: frames a second, and collections while they were counted. */
async function child(lib, format, frames) {
  const require = createRequire(import.meta.url)
  const library = {
    memory: require(join(lib, 'memory/ring-memory.js')),
    create: require(join(lib, 'virtqueue/create.js')),
    layout: require(join(lib, 'virtqueue/layout.js')),
  }
  const [send, receive] = [makeQueue(library, format), makeQueue(library, format)]
  const words = new Int32Array((2 * SIZE * FRAME) / 4)
  for (let token = 0; token < SIZE; token++) {
    receive.driver.begin()
    receive.driver.push(0, (SIZE + token) * FRAME, FRAME, true)
    receive.driver.commit(token)
  }
  receive.driver.publish()
  loop(send, receive, words, frames / 4)
  const collections = { major: 0, minor: 0 }
  const observer = new PerformanceObserver((list) => count(list.getEntries()))
  const count = (entries) => {
    for (const { detail } of entries) {
      if (detail.kind === constants.NODE_PERFORMANCE_GC_MINOR) collections.minor++
      else collections.major++
    }
  }
  observer.observe({ entryTypes: ['gc'] })
  const from = process.hrtime.bigint()
  const sum = loop(send, receive, words, frames)
  const seconds = Number(process.hrtime.bigint() - from) / 1e9
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate)
  count(observer.takeRecords())
  observer.disconnect()
  console.log(JSON.stringify({ perSecond: frames / seconds, sum, frames, ...collections }))
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
/** Half the distance between the fastest and the slowest round, as a part of the median. */
const spread = (values) => (Math.max(...values) - Math.min(...values)) / 2 / median(values)

/**
 * The rows: `{ name, unit, ours, baseline, baselineName, ratio, spread, note }`, medians of `rounds` rounds, each side of each round in a process of its own,
 * taking turns. `ratio` is ours / baseline; more is better.
 */
export function rows({ lib = join(here, '../../dist'), rounds = 5, frames = 2_000_000 } = {}) {
  if (!existsSync(join(lib, 'virtqueue/create.js'))) throw new Error(`no compiled library in ${lib}: run npm run build`)
  const directory = mkdtempSync(join(tmpdir(), 'vhost-vdpa-bench-'))
  try {
    const program = join(directory, 'rings')
    execFileSync(process.env.CC ?? 'cc', ['-std=c11', '-O2', '-o', program, join(here, 'rings.c')], {
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    const run = (command, ...args) => JSON.parse(execFileSync(command, args, { encoding: 'utf8' }))
    return ['split', 'packed'].map((format) => {
      const pairs = Array.from({ length: rounds }, () => ({
        ours: run(process.execPath, fileURLToPath(import.meta.url), '--child', lib, format, String(frames)),
        baseline: run(program, format, String(frames * 2)),
      }))
      const ours = pairs.map((pair) => pair.ours.perSecond)
      const baseline = pairs.map((pair) => pair.baseline.perSecond)
      const major = Math.max(...pairs.map((pair) => pair.ours.major))
      const minor = Math.max(...pairs.map((pair) => pair.ours.minor))
      return {
        name: `rings in memory, ${format}: 64-byte frames looped`,
        unit: 'frames/s',
        ours: median(ours),
        baseline: median(baseline),
        baselineName: 'the same rings in C, gcc -O2',
        ratio: median(ours) / median(baseline),
        spread: { ours: spread(ours), baseline: spread(baseline) },
        note: `${major} major and ${minor} minor collections in ${frames} frames (worst of ${rounds} rounds)`,
      }
    })
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** A row for people. */
export function show({ name, unit, ours, baseline, baselineName, ratio, spread, note }) {
  const millions = (value) => `${(value / 1e6).toFixed(2)} M`
  const percent = (value) => `±${(value * 100).toFixed(0)} %`
  return [
    `${name}`,
    `  ours      ${millions(ours)} ${unit} ${percent(spread.ours)}`,
    `  baseline  ${millions(baseline)} ${unit} ${percent(spread.baseline)} (${baselineName})`,
    `  ratio     ${ratio.toFixed(3)}x`,
    `  note      ${note}`,
  ].join('\n')
}

function option(name, fallback) {
  const at = process.argv.indexOf(name)
  return at < 0 ? fallback : process.argv[at + 1]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === '--child') {
    const [lib, format, frames] = process.argv.slice(3)
    await child(lib, format, Number(frames))
  } else {
    const lib = option('--lib', undefined)
    const made = rows({
      ...(lib === undefined ? {} : { lib }),
      rounds: Number(option('--rounds', 5)),
      frames: Number(option('--frames', 2_000_000)),
    })
    for (const row of made) console.log(show(row))
  }
}
