// Prepares this checkout on the host, where a compiler is fast, so that the guest only runs what is finished.
import { existsSync } from 'node:fs'
import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { exitCodes, labError, report } from './progress.mjs'
import { run } from './processes.mjs'

/** The checkout that this script belongs to. */
export const checkout = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')

const CONFIG = 'jest.kernel.config.cjs'

async function step(text, program, args) {
  report(text)
  const { code, stdout, stderr } = await run(program, args, { cwd: checkout })
  if (code === 0) return
  const said = `${stdout}\n${stderr}`.trim().split('\n').slice(-30).join('\n')
  throw labError(exitCodes.checkoutFailed, `${text} failed (${program} ${args.join(' ')} ended with ${code}):\n${said}`)
}

/** Whether the addon is there, and made of the sources as they are. */
async function hasAddon() {
  const folder = join(checkout, 'build/Release')
  const built = existsSync(folder) ? (await readdir(folder)).filter((name) => name.endsWith('.node')) : []
  if (built.length === 0) return false
  const sources = (await readdir(join(checkout, 'native'))).map((name) => join('native', name))
  const changed = async (name) => (await stat(join(checkout, name))).mtimeMs
  const newest = Math.max(...(await Promise.all(['binding.gyp', ...sources].map(changed))))
  return (await changed(join('build/Release', built[0]))) >= newest
}

/** What was compiled from a file that is gone since would still be run. */
async function removeOrphans() {
  const compiled = join(checkout, 'build-lab')
  if (!existsSync(compiled)) return
  for (const name of await readdir(compiled, { recursive: true }))
    if (name.endsWith('.js') && !existsSync(join(checkout, name.replace(/\.js$/, '.ts'))))
      await rm(join(compiled, name))
}

/** Compiles the tests to JavaScript and builds the addon if it is not there; returns the command that runs the kernel tests. */
export async function kernelTestCommand(pattern) {
  for (const name of ['node_modules/jest/bin/jest.js', 'node_modules/typescript/bin/tsc'])
    if (!existsSync(join(checkout, name)))
      throw labError(exitCodes.cannotRun, `${name} is missing: run npm install in ${checkout}`)
  await step('compiling lib and test', process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.lab.json'])
  await removeOrphans()
  if (!(await hasAddon())) await step('building the addon', 'npm', ['run', 'build:native'])
  const reporters = ['--reporters', 'default', '--reporters', '<rootDir>/scripts/lab/tests-reporter.cjs']
  const kept = ['--json', '--outputFile', '/run/lab/jest.json']
  const jest = [
    'node_modules/jest/bin/jest.js',
    '--config',
    CONFIG,
    '--runInBand',
    '--cacheDirectory',
    '/tmp/jest',
    ...reporters,
    ...kept,
  ]
  return [process.execPath, ...jest, ...(pattern === undefined ? [] : ['--testPathPatterns', pattern])]
}
