// The programs of examples/ in a user's folder: compiled under strict by the types that the package ships, and run.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const examples = fileURLToPath(new URL('../../examples', import.meta.url))
const outcomes = JSON.parse(readFileSync(new URL('examples.json', import.meta.url), 'utf8'))

/** `run(cwd, command, ...args)` gives what a program printed, or throws. */
export function checkExamples(userFolder, run, tsc) {
  const folder = join(userFolder, 'examples')
  mkdirSync(folder)
  const programs = readdirSync(examples).filter((name) => /\.m[jt]s$/.test(name))
  for (const name of programs) copyFileSync(join(examples, name), join(folder, name))
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2022',
    lib: ['es2023', 'esnext.disposable'],
    types: ['node'],
    strict: true,
  }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.mts'] }))
  run(folder, tsc, '-p', '.')
  for (const [word, { stdout }] of Object.entries(outcomes)) {
    const env = [`VM_SOCKET=${join(folder, 'net.sock')}`, `CHANNEL=${join(folder, 'channel')}`]
    const printed = run(folder, 'env', ...env, process.execPath, `${word}.mjs`)
    if (printed !== stdout) throw new Error(`examples/${word} printed:\n${printed}`)
  }
  console.log(`ok   ${programs.length} examples`)
}
