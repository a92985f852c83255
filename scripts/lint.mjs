// `npm run lint`: types, eslint, the formatters, and the layer table. Runs all of them and fails when any failed.
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const bin = (name) => `node_modules/.bin/${name}`
const nativeFiles = readdirSync(`${root}native`, { recursive: true })
  .map(String)
  .filter((name) => /\.(cc|h)$/.test(name))
  .map((name) => `native/${name}`)

const checks = [
  ['types', bin('tsc'), ['-p', 'tsconfig.json']],
  ['eslint', bin('eslint'), ['lib', 'test', 'scripts', 'examples', '--max-warnings', '0']],
  [
    'prettier',
    bin('prettier'),
    ['--check', '--log-level', 'warn', 'lib', 'test', 'scripts', 'examples/*.{mts,mjs}', '*.{json,mjs,cjs}'],
  ],
  ['clang-format', bin('clang-format'), ['--dry-run', '--Werror', ...nativeFiles]],
  ['layers', process.execPath, ['scripts/check-layers.mjs']],
  ['docs', process.execPath, ['scripts/check-docs.mjs']],
  ['reference', process.execPath, ['scripts/docs.mjs', '--check']],
]

let failed = 0
for (const [name, command, args] of checks) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  const passed = status === 0
  console.log(`${passed ? 'ok  ' : 'FAIL'} ${name}${error === undefined ? '' : ` (${error.message})`}`)
  if (!passed) failed++
}
process.exitCode = failed === 0 ? 0 : 1
