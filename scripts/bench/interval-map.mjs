// Bench rows of the interval map against C++ std::map (interval-map.cc): a million mappings come, are looked up and go, in address order and at random.
// Alone: node scripts/bench/interval-map.mjs [--lib DIR] [--rounds N]. DIR holds the compiled library (default: dist).

import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const MANY = 1_000_000
const FEW = 1_000
const LOOKUPS = 4_000_000
const WARM_UP = 200_000

/** The same generator, shuffle and probes as in interval-map.cc. */
function generator(seed) {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}

function orderOf(count, isRandom, seed) {
  const order = Uint32Array.from({ length: count }, (_, i) => i)
  const next = generator(seed)
  for (let i = count - 1; isRandom && i > 0; i--) {
    const j = next() % (i + 1)
    const swapped = order[i]
    order[i] = order[j]
    order[j] = swapped
  }
  return order
}

function probesOf(length, count, isRandom) {
  const next = generator(2)
  return Uint32Array.from({ length }, (_, n) => (isRandom ? next() % count : n % count))
}

// Mapping i is the page at 2^32 + i * 4096.
const high = (i) => 1 + (i >>> 20)
const low = (i) => (i << 12) >>> 0

/** Each returns what the C++ program adds to its checksum. */
function insertAll(table, order) {
  const entry = new Uint32Array(8)
  let sum = 0
  for (let n = 0; n < order.length; n++) {
    const i = order[n]
    entry[0] = high(i)
    entry[1] = low(i)
    entry[2] = high(i)
    entry[3] = low(i) + 4095
    entry[4] = 0x7f00 + high(i)
    entry[5] = low(i)
    entry[6] = 1 + (i % 3)
    entry[7] = i % 1000
    if (table.insert(entry)) sum++
  }
  return sum
}

function findAll(table, probes) {
  let sum = 0
  for (let n = 0; n < probes.length; n++) {
    const i = probes[n]
    const index = table.find(high(i), low(i) + (n & 0xfff))
    if (index >= 0) sum += table.uaddrLow(index) + table.perm(index)
  }
  return sum
}

function removeAll(table, order) {
  let sum = 0
  for (let n = 0; n < order.length; n++) {
    const i = order[n]
    if (table.remove(high(i), low(i), high(i), low(i) + 4095)) sum++
  }
  return sum
}

function memoryNow() {
  globalThis.gc()
  globalThis.gc()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return arrayBuffers + heapUsed
}

/** One trial, in a process of its own: what interval-map.cc does, and prints. */
function trial(library, count, isRandom, lookups) {
  const inserts = orderOf(count, isRandom, 1)
  const probes = probesOf(lookups, count, isRandom)
  const removes = orderOf(count, isRandom, 3)
  const { IntervalTable } = createRequire(import.meta.url)(join(library, 'iotlb/interval-table.js'))
  const warm = new IntervalTable()
  for (let pass = 0; pass < 3; pass++) {
    insertAll(warm, orderOf(WARM_UP, isRandom, 4))
    findAll(warm, probesOf(WARM_UP, WARM_UP, isRandom))
    removeAll(warm, orderOf(WARM_UP, isRandom, 5))
  }
  const before = memoryNow()
  const table = new IntervalTable()
  let sum = 0
  const nanosecondsEach = (n, body) => {
    const start = process.hrtime.bigint()
    sum += body()
    return Number(process.hrtime.bigint() - start) / n
  }
  const insert = nanosecondsEach(count, () => insertAll(table, inserts))
  const bytes = (memoryNow() - before) / count
  sum += findAll(table, probes)
  const find = nanosecondsEach(lookups, () => findAll(table, probes))
  const remove = nanosecondsEach(count, () => removeAll(table, removes))
  if (table.size !== 0) throw new Error(`${table.size} mappings were left`)
  console.log(JSON.stringify({ insert, find, remove, bytes, checksum: String(sum) }))
}

function compileBaseline(directory) {
  const output = join(directory, 'interval-map')
  const compiler = process.env.CXX ?? 'g++'
  execFileSync(compiler, ['-O2', '-std=c++17', '-o', output, join(here, 'interval-map.cc')], { stdio: 'inherit' })
  return output
}

/** Ours and the baseline once each, in fresh processes; they must have seen the same. */
function pair(library, program, count, order) {
  const args = [String(count), order, String(LOOKUPS)]
  const script = join(here, 'interval-map.mjs')
  const ours = JSON.parse(execFileSync(process.execPath, ['--expose-gc', script, '--trial', library, ...args]))
  const baseline = JSON.parse(execFileSync(program, args))
  if (ours.checksum !== baseline.checksum) throw new Error(`checksums differ: ${ours.checksum}, ${baseline.checksum}`)
  return { ours, baseline }
}

/**
 * The rows, each `{ name, unit, ours, baseline, reach, against }` with one number a round in `ours` and `baseline`, which `against` names. Ours and std::map
 * take turns.
 */
export function rows({ library = fileURLToPath(new URL('../../dist', import.meta.url)), rounds = 5 } = {}) {
  if (!existsSync(join(library, 'iotlb/interval-table.js'))) throw new Error(`no compiled library in ${library}`)
  const directory = mkdtempSync(join(tmpdir(), 'interval-map-'))
  try {
    const program = compileBaseline(directory)
    const many = { ordered: [], random: [] }
    const few = { ordered: [], random: [] }
    for (let round = 0; round < rounds; round++) {
      for (const order of ['ordered', 'random']) {
        many[order].push(pair(library, program, MANY, order))
        few[order].push(pair(library, program, FEW, order))
      }
    }
    return Object.keys(many).flatMap((order) => rowsOf(many[order], few[order], order))
  } finally {
    rmSync(directory, { recursive: true })
  }
}

function rowsOf(many, few, order) {
  const where = order === 'ordered' ? 'in address order' : 'at random'
  const verbs = { insert: 'insert', find: 'look up', remove: 'remove' }
  const timed = Object.entries(verbs).map(([key, verb]) => ({
    name: `interval map, 1,000,000 mappings ${where}: ${verb}`,
    unit: 'ns',
    ours: many.map(({ ours }) => ours[key]),
    baseline: many.map(({ baseline }) => baseline[key]),
    reach: 'at most 1.0x',
    against: 'std::map',
  }))
  const larger = {
    name: `interval map, look up ${where} in 1,000,000`,
    unit: 'ns',
    ours: many.map(({ ours }) => ours.find),
    baseline: few.map(({ ours }) => ours.find),
    reach: 'at most 3x',
    against: 'in 1,000',
  }
  const memory = {
    name: `interval map, 1,000,000 mappings ${where}: memory a mapping`,
    unit: 'bytes',
    ours: many.map(({ ours }) => ours.bytes),
    baseline: many.map(({ baseline }) => baseline.bytes),
    reach: 'at most 64 bytes',
    against: 'std::map',
  }
  return [...timed, larger, memory]
}

function print({ name, unit, ours, baseline, reach, against }) {
  const sorted = (list) => [...list].sort((a, b) => a - b)
  const median = (list) => sorted(list)[Math.floor(list.length / 2)]
  const show = (list) => `${median(list).toFixed(1)} (${Math.min(...list).toFixed(1)}–${Math.max(...list).toFixed(1)})`
  const ratio = (median(ours) / median(baseline)).toFixed(2)
  console.log(
    `${name.padEnd(62)} ${show(ours).padEnd(22)} ${against.padStart(8)} ${show(baseline).padEnd(25)} ${unit.padEnd(5)}  ratio ${ratio}x   reach: ${reach}`,
  )
}

function option(name, fallback) {
  const index = process.argv.indexOf(name)
  return index < 0 ? fallback : process.argv[index + 1]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === '--trial') {
    const [library, count, order, lookups] = process.argv.slice(3)
    trial(library, Number(count), order === 'random', Number(lookups))
  } else {
    const library = option('--lib', undefined)
    const rounds = Number(option('--rounds', '5'))
    for (const row of rows({ ...(library === undefined ? {} : { library }), rounds })) print(row)
  }
}
