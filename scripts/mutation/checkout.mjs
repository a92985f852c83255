// A copy of the checkout as JavaScript, in which suites run without a compiler: a mutant costs what its tests cost. With marks in each function it says once what
// each test file runs.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { marked } from './functions.mjs'

const copied = ['lib', 'test', 'scripts', 'package.json', 'tsconfig.json', 'README.md']
const linked = ['node_modules', 'build', 'dist', 'examples', 'docs']

/** Runs in the copy before each test file, and writes which functions ran while it did. */
const witness = `
const { afterAll, expect } = require('@jest/globals')
const { appendFileSync } = require('node:fs')
const names = new Set()
globalThis.ran = (name) => names.add(name)
afterAll(() => appendFileSync('ran.jsonl', JSON.stringify([expect.getState().testPath, [...names]]) + '\\n'))
`

/** Jest runs the files that it is given in their order. */
const sequencer = `
const Sequencer = require('@jest/test-sequencer').default
module.exports = class extends Sequencer {
  sort(tests) {
    const order = process.argv
    return [...tests].sort((one, other) => order.indexOf(one.path) - order.indexOf(other.path))
  }
}
`

/** Two copies of `root`: `plain`, and `withMarks`, which says which functions run. */
export function prepareCheckouts(root, plain, withMarks) {
  mkdirSync(plain)
  for (const name of copied) cpSync(join(root, name), join(plain, name), { recursive: true })
  for (const name of programsOf(plain)) writeProgram(plain, name, readFileSync(join(plain, name), 'utf8'))
  cpSync(plain, withMarks, { recursive: true })
  for (const name of programsOf(withMarks).filter((file) => file.startsWith('lib/')))
    writeProgram(withMarks, name, marked(name, readFileSync(join(withMarks, name), 'utf8')))
  for (const place of [plain, withMarks]) {
    for (const name of linked) if (existsSync(join(root, name))) symlinkSync(join(root, name), join(place, name))
    writeFileSync(join(place, 'witness.cjs'), witness)
    writeFileSync(join(place, 'sequencer.cjs'), sequencer)
    const config = configOf(place, place === withMarks)
    writeFileSync(join(place, 'jest.config.cjs'), `module.exports = ${JSON.stringify(config)}\n`)
  }
}

function programsOf(place) {
  return ['lib', 'test'].flatMap((room) =>
    readdirSync(join(place, room), { recursive: true })
      .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
      .map((name) => `${room}/${name}`),
  )
}

function configOf(place, hasMarks) {
  return {
    testEnvironment: 'node',
    testMatch: ['<rootDir>/test/**/*.test.js'],
    testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/kernel/', '<rootDir>/test/guests/'],
    modulePathIgnorePatterns: ['<rootDir>/build', '<rootDir>/dist/package.json'],
    moduleFileExtensions: ['js', 'mjs', 'cjs', 'json', 'node'],
    cacheDirectory: join(place, 'cache'),
    transform: {},
    testSequencer: '<rootDir>/sequencer.cjs',
    testTimeout: 600_000,
    ...(hasMarks && { setupFilesAfterEnv: ['<rootDir>/witness.cjs'] }),
  }
}

/** Puts the text of a source in its place, as JavaScript. */
export function writeProgram(place, file, text) {
  const { outputText } = ts.transpileModule(text, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS, esModuleInterop: true },
  })
  writeFileSync(join(place, file.replace(/\.ts$/, '.js')), outputText)
}

/** Runs suites in a copy: their exit status, undefined when they did not end in time, and what jest said. */
export function runSuites(place, words, milliseconds) {
  // In one process, so that a mutant which loops can be ended.
  const all = ['node_modules/jest/bin/jest.js', '--silent', '--runInBand', ...words]
  // A lottery in a test is the same for each mutant.
  const env = { ...process.env, STATE_MACHINE_RUNS: '200', STATE_MACHINE_SEED: '1' }
  const child = spawnSync(process.execPath, all, {
    cwd: place,
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    timeout: milliseconds,
    killSignal: 'SIGKILL',
  })
  return { status: child.status ?? undefined, words: child.stderr }
}

/** Runs the suites of a folder in a copy with marks: of each test file that passes how long it took and which functions it ran; of the others what failed. */
export function surveyFolder(place, folder) {
  const [path, reportPath] = [join(place, 'ran.jsonl'), join(place, 'report.json')]
  rmSync(path, { force: true })
  rmSync(reportPath, { force: true })
  runSuites(place, ['--json', `--outputFile=${reportPath}`, `${folder}/`])
  const report = JSON.parse(readFileSync(reportPath, 'utf8')).testResults
  const lines = readFileSync(path, 'utf8').trim().split('\n')
  const ran = new Map(lines.map((line) => JSON.parse(line)))
  const tests = report
    .filter(({ status }) => status !== 'failed')
    .map(({ name, startTime, endTime }) => ({
      name: name.slice(place.length + 1),
      took: endTime - startTime,
      ran: new Set(ran.get(name)),
    }))
  const failures = report.filter(({ status }) => status === 'failed').map(({ name, message }) => ({ name, message }))
  return { tests, failures }
}
