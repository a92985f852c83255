// `npm run mutation`: changes the program a little, one place at a time, and counts how many changes a test notices. In a copy of the checkout; nothing here is
// changed. `--sample N --seed S` takes N places by lot (0: a new seed), `--only PATH` those of files whose path has the text, `--least PERCENT` fails below a score,
// `--minutes M` stops there and counts what was tried.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { mutantsOf, mutated, sample } from './mutation/mutants.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const rooms = ['lib/virtqueue', 'lib/drivers', 'lib/device']

/** The suites that look at a room, those first that end soon. A mutant is tried on the next when it survives one. */
const suitesOfRoom = {
  'lib/virtqueue': [['test/virtqueue'], ['test/models', 'test/drivers'], ['test/control', 'test/conformance']],
  'lib/drivers': [['test/drivers'], ['test/conformance/net-datapath', 'test/conformance/block', 'test/sweep']],
  'lib/device': [['test/device'], ['test/drivers', 'test/control'], ['test/conformance', 'test/sweep']],
}

const { values: options } = parseArgs({
  options: {
    sample: { type: 'string' },
    seed: { type: 'string', default: '0' },
    only: { type: 'string', default: '' },
    least: { type: 'string', default: '0' },
    minutes: { type: 'string', default: 'Infinity' },
  },
})
const seed = Number(options.seed) || Date.now() % 0x1_0000_0000

const place = mkdtempSync(join(tmpdir(), 'vhost-vdpa-mutation-'))
process.on('exit', () => rmSync(place, { recursive: true, force: true, maxRetries: 5 }))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130))
prepare()

const files = rooms.flatMap((room) =>
  readdirSync(join(place, room))
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${room}/${name}`),
)
const all = files
  .filter((file) => file.includes(options.only))
  .flatMap((file) => mutantsOf(file, readFileSync(join(place, file), 'utf8')).map((mutant) => ({ file, ...mutant })))
const chosen = sample(all, Number(options.sample ?? Infinity), seed)
console.log(`mutation: ${chosen.length} of ${all.length} places, seed ${seed}`)

function prepare() {
  for (const name of ['lib', 'test', 'scripts', 'package.json', 'tsconfig.json', 'README.md'])
    cpSync(join(root, name), join(place, name), { recursive: true })
  for (const name of ['node_modules', 'build', 'dist']) {
    if (existsSync(join(root, name))) symlinkSync(join(root, name), join(place, name))
  }
  const { compilerOptions } = JSON.parse(readFileSync(join(root, 'tsconfig.json'), 'utf8'))
  const config = {
    testEnvironment: 'node',
    testMatch: ['<rootDir>/test/**/*.test.ts'],
    testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/kernel/'],
    modulePathIgnorePatterns: ['<rootDir>/build', '<rootDir>/dist'],
    moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
    cacheDirectory: join(place, 'cache'),
    // Types are not asked: a mutant is noticed by what it does.
    transform: { '^.+\\.ts$': ['ts-jest', { tsconfig: compilerOptions, diagnostics: false }] },
  }
  writeFileSync(join(place, 'jest.config.cjs'), `module.exports = ${JSON.stringify(config)}\n`)
}

/** Runs suites in the copy: their exit status, undefined when they did not end in time, and how long they took. */
function run(suites, milliseconds) {
  const before = performance.now()
  // In one process, so that a mutant which loops can be ended.
  const words = ['node_modules/jest/bin/jest.js', '--bail', '--silent', '--runInBand', ...suites]
  // A lottery in a test is the same for each mutant.
  const env = { ...process.env, STATE_MACHINE_RUNS: '200', STATE_MACHINE_SEED: '1' }
  const child = spawnSync(process.execPath, words, {
    cwd: place,
    env,
    stdio: 'ignore',
    timeout: milliseconds,
    killSignal: 'SIGKILL',
  })
  return { status: child.status ?? undefined, took: performance.now() - before }
}

/** The suites of a file in the order in which they are tried: its own first, then those of its relatives by name (`net-`), then those of its room and beyond. */
function suitesOf(file) {
  const own = file.replace(/^lib/, 'test').replace(/\.ts$/, '.test.ts')
  const relatives = /^[^-]*-/.exec(own.slice(own.lastIndexOf('/')))?.[0]
  const room = rooms.find((name) => file.startsWith(`${name}/`)) ?? ''
  const tests = room.replace(/^lib/, 'test')
  const hasRelatives =
    relatives !== undefined && readdirSync(join(place, tests)).some((name) => `/${name}`.startsWith(relatives))
  return [
    ...(existsSync(join(place, own)) ? [[own]] : []),
    ...(hasRelatives ? [[`${tests}${relatives}`]] : []),
    ...suitesOfRoom[room],
  ]
}

// How long suites took that passed, by their names.
const passed = new Map()
const LONGEST = 900_000

async function tryAll() {
  const results = []
  const end = performance.now() + Number(options.minutes) * 60_000
  for (const mutant of chosen) {
    if (performance.now() > end) break
    const text = readFileSync(join(place, mutant.file), 'utf8')
    const how = suitesOf(mutant.file)
      .map((suites) => () => tryOn(suites, mutant, text))
      .reduce((found, attempt) => found ?? attempt(), undefined)
    results.push({ ...mutant, how })
    show(mutant, text, how)
  }
  return results
}

/** What noticed the mutant; undefined when nothing did. */
function tryOn(suites, mutant, text) {
  const name = suites.join(' ')
  const path = join(place, mutant.file)
  const took = passed.get(name)
  writeFileSync(path, mutated(text, mutant))
  // A mutant may loop: it gets three times as long as the suites take.
  const { status, took: now } = run(suites, took === undefined ? LONGEST : Math.ceil(3 * took + 15_000))
  writeFileSync(path, text)
  if (status === 0) passed.set(name, now)
  else if (took === undefined) checkPasses(suites, name)
  if (status === 0) return undefined
  return status === undefined ? `${name} did not end` : name
}

/** That suites fail says something only when they pass without a mutant. */
function checkPasses(suites, name) {
  const { status, took } = run(suites, LONGEST)
  passed.set(name, took)
  if (status === 0) return
  console.error(`mutation: ${name} fails without any mutant`)
  process.exit(2)
}

function show({ file, at, end, kind, to }, text, how) {
  const line = text.slice(0, at).split('\n').length
  const [was] = text.slice(at, end).split('\n')
  const fate = how === undefined ? 'ALIVE' : 'died '
  console.log(
    `${fate} ${file}:${line} ${kind}: ${was.slice(0, 80)} -> ${to.slice(0, 80)}${how === undefined ? '' : ` (${how})`}`,
  )
}

function report(results) {
  const died = results.filter(({ how }) => how !== undefined).length
  const score = results.length === 0 ? 0 : (100 * died) / results.length
  for (const room of rooms) {
    const here = results.filter(({ file }) => file.startsWith(`${room}/`))
    if (here.length > 0)
      console.log(`${room}: ${here.filter(({ how }) => how !== undefined).length} of ${here.length} died`)
  }
  console.log(`mutation: ${died} of ${results.length} died, ${score.toFixed(1)} %, seed ${seed}`)
  process.exitCode = results.length > 0 && score >= Number(options.least) ? 0 : 1
}

report(await tryAll())
