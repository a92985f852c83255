// `npm run lint`: types, eslint, the formatters, and the layer table. Runs all of them, as many at a time as there are processors, and fails when any failed.
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const bin = (name) => `node_modules/.bin/${name}`
const nativeFiles = readdirSync(`${root}native`, { recursive: true })
  .map(String)
  .filter((name) => /\.(cc|h)$/.test(name))
  .map((name) => `native/${name}`)

const checks = [
  ['eslint', bin('eslint'), ['lib', 'test', 'scripts', 'examples', '--max-warnings', '0']],
  ['types', bin('tsc'), ['-p', 'tsconfig.json']],
  ['reference', process.execPath, ['scripts/docs.mjs', '--check']],
  [
    'prettier',
    bin('prettier'),
    ['--check', '--log-level', 'warn', 'lib', 'test', 'scripts', 'examples/*.{mts,mjs}', '*.{json,mjs,cjs}'],
  ],
  ['clang-format', bin('clang-format'), ['--dry-run', '--Werror', ...nativeFiles]],
  ['layers', process.execPath, ['scripts/check-layers.mjs']],
  ['docs', process.execPath, ['scripts/check-docs.mjs']],
]

/** Runs one check, and says whether it passed. What it printed comes in one piece, so that two checks do not mix. */
function run([name, command, args]) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    let why = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (said += text))
    child.on('error', ({ message }) => (why = ` (${message})`))
    child.on('close', (status) => {
      const passed = status === 0
      process.stdout.write(`${said}${passed ? 'ok  ' : 'FAIL'} ${name}${why}\n`)
      resolve(passed)
    })
  })
}

const waiting = checks.values()
async function runNext(passed = []) {
  for (const check of waiting) passed.push(await run(check))
  return passed
}
const passed = (await Promise.all(Array.from({ length: availableParallelism() }, () => runNext()))).flat()
process.exitCode = passed.length === checks.length && passed.every(Boolean) ? 0 : 1
