// `npm run mutation`: changes the program a little, one place at a time, and counts how many changes a test notices. In copies of the checkout; nothing here is
// changed. `--sample N --seed S` takes N places by lot (0: a new seed), `--rooms A,B` those of other rooms than the three, `--only PATH` those of files whose path has
// the text, `--least PERCENT` fails below a score, `--minutes M` stops there and counts what was tried.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { prepareCheckouts, runSuites, surveyFolder, writeProgram } from './mutation/checkout.mjs'
import { functionAt, functionsOf } from './mutation/functions.mjs'
import { mutantsOf, mutated, sample } from './mutation/mutants.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))

/** The suites that look at a room beside its own, those first that end soon. A mutant is tried on the next when it survives one. */
const suitesOfRoom = {
  'lib/virtqueue': [
    ['test/models', 'test/drivers'],
    ['test/control', 'test/conformance'],
  ],
  'lib/drivers': [['test/conformance', 'test/sweep']],
  'lib/device': [
    ['test/drivers', 'test/control'],
    ['test/conformance', 'test/sweep'],
  ],
}
const otherSuites = [['test/conformance', 'test/sweep']]

const { values: options } = parseArgs({
  options: {
    sample: { type: 'string' },
    seed: { type: 'string', default: '0' },
    rooms: { type: 'string', default: Object.keys(suitesOfRoom).join() },
    only: { type: 'string', default: '' },
    least: { type: 'string', default: '0' },
    minutes: { type: 'string', default: 'Infinity' },
  },
})
const rooms = options.rooms.split(',')
const seed = Number(options.seed) || Date.now() % 0x1_0000_0000

const place = mkdtempSync(join(tmpdir(), 'vhost-vdpa-mutation-'))
process.on('exit', () => rmSync(place, { recursive: true, force: true, maxRetries: 5 }))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130))
const [plain, withMarks] = [join(place, 'plain'), join(place, 'marks')]
prepareCheckouts(root, plain, withMarks)

const files = rooms.flatMap((room) =>
  readdirSync(join(plain, room))
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${room}/${name}`),
)
const all = files
  .filter((file) => file.includes(options.only))
  .flatMap((file) => mutantsOf(file, readFileSync(join(plain, file), 'utf8')).map((mutant) => ({ file, ...mutant })))
const chosen = sample(all, Number(options.sample ?? Infinity), seed)
console.log(`mutation: ${chosen.length} of ${all.length} places, seed ${seed}`)

// What each test file of a folder runs, by the folder.
const surveys = new Map()
let failed = 0

/** What the test files of a folder run. One that fails without any mutant says nothing of mutants: it is left out, and the run fails at its end. */
function testsIn(folder) {
  const known = surveys.get(folder)
  if (known !== undefined) return known
  const { tests, failures } = surveyFolder(withMarks, folder)
  for (const { name, message } of failures) console.error(`mutation: ${name} fails without any mutant\n${message}`)
  failed += failures.length
  surveys.set(folder, tests)
  return tests
}

// The own test file of a source, which notices most: known by its name, without a survey.
const owns = new Map()

/** The own test file of a source as it is; empty where there is none, or where it fails without any mutant. */
function ownTest(file) {
  const known = owns.get(file)
  if (known !== undefined) return known
  const name = file.replace(/^lib/, 'test').replace(/\.ts$/, '.test.js')
  const isThere = existsSync(join(plain, name))
  const before = performance.now()
  const hasPassed = isThere && runSuites(plain, ['--runTestsByPath', join(plain, name)]).status === 0
  const found = hasPassed ? [{ name, took: performance.now() - before }] : []
  owns.set(file, found)
  return found
}

/** The test files that may notice a mutant, in the order in which they are tried: its own, then those that run its function, of its room and of others, the quickest first. */
function* suitesOf({ file, at }, text) {
  const own = ownTest(file)
  if (own.length > 0) yield own
  const room = rooms.find((name) => file.startsWith(`${name}/`)) ?? ''
  const name = functionAt(file, functionsOf(file, text), at)
  for (const folders of [[room.replace(/^lib/, 'test')], ...(suitesOfRoom[room] ?? otherSuites)]) {
    const tests = folders
      .flatMap(testsIn)
      .filter((test) => test.ran.has(name) && !own.some((other) => other.name === test.name))
    if (tests.length > 0) yield tests.sort((one, other) => one.took - other.took)
  }
}

function tryAll() {
  const results = []
  const end = performance.now() + Number(options.minutes) * 60_000
  for (const mutant of chosen) {
    if (performance.now() > end) break
    const text = readFileSync(join(plain, mutant.file), 'utf8')
    let how
    for (const tests of suitesOf(mutant, text)) {
      how = tryOn(tests, mutant, text)
      if (how !== undefined) break
    }
    results.push({ ...mutant, how })
    show(mutant, text, how)
  }
  return results
}

/** What noticed the mutant; undefined when nothing did. */
function tryOn(tests, mutant, text) {
  const paths = tests.map(({ name }) => join(plain, name))
  // A mutant may loop: it gets several times as long as the tests took.
  const most = Math.ceil(4 * tests.reduce((sum, { took }) => sum + took, 0)) + 30_000
  writeProgram(plain, mutant.file, mutated(text, mutant))
  const { status, words } = runSuites(plain, ['--bail', '--runTestsByPath', ...paths], most)
  writeProgram(plain, mutant.file, text)
  if (status === 0) return undefined
  if (status === undefined) return 'did not end'
  return /^FAIL (.*\.test\.js)/m.exec(words)?.[1] ?? 'no test file'
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
  process.exitCode = failed === 0 && results.length > 0 && score >= Number(options.least) ? 0 : 1
}

report(tryAll())
