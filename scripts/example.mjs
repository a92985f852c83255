// Runs a program of examples/ in a checkout, on any Node that the package serves: `node scripts/example.mjs first-device`. It is compiled beside this package,
// where 'vhost-vdpa' is what a program of somebody else finds.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))
const programs = readdirSync(join(root, 'examples')).filter((name) => /\.m[jt]s$/.test(name))
const wordOf = (name) => name.replace(/\.m[jt]s$/, '')

/** Compiles all of them, because one may import another; the folder. */
function compile() {
  const folder = join(root, 'build/examples')
  mkdirSync(folder, { recursive: true })
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
  for (const name of programs) {
    const text = readFileSync(join(root, 'examples', name), 'utf8')
    writeFileSync(join(folder, `${wordOf(name)}.mjs`), ts.transpileModule(text, { compilerOptions }).outputText)
  }
  return folder
}

const [word, ...args] = process.argv.slice(2)
if (word === undefined || !programs.some((name) => wordOf(name) === wordOf(word))) {
  console.error(`node scripts/example.mjs NAME, where NAME is one of: ${programs.map(wordOf).join(', ')}`)
  process.exitCode = 2
} else {
  const program = join(compile(), `${wordOf(word)}.mjs`)
  const { status } = spawnSync(process.execPath, [program, ...args], { stdio: 'inherit' })
  process.exitCode = status ?? 1
}
