// Runs the repository's own programs as a user does, in a process of their own, on `dist/`. What stands for the kernel there is said by a prelude.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

/** The checkout. */
export const root = resolve(__dirname, '../..')

/** How a program ended. */
export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** `dist/` is what programs import; it is compiled anew where it is older than `lib/`. */
export function ensureBuilt(): void {
  const newest = (folder: string) =>
    Math.max(
      ...readdirSync(join(root, folder), { recursive: true }).map((name) => {
        const { mtimeMs } = statSync(join(root, folder, String(name)))
        return mtimeMs
      }),
    )
  let built = 0
  try {
    built = statSync(join(root, 'dist/index.js')).mtimeMs
  } catch {
    // It was never compiled.
  }
  if (newest('lib') <= built) return
  const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs'], { cwd: root, encoding: 'utf8' })
  if (status !== 0) throw new Error(`dist/ could not be compiled:\n${stderr}`)
}

/**
 * Runs a module with arguments. `prelude` is JavaScript that is run first, with `lib` and `simulator` (the two doors of the package); what it assigns to
 * `replaced` takes the place of the exports of 'vhost-vdpa' of the same name.
 */
export function runProgram(file: string, args: readonly string[] = [], prelude = ''): Ended {
  const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-program-'))
  try {
    const door = join(folder, 'door.mjs')
    writeFileSync(door, doorSource(prelude))
    const hooks = join(folder, 'hooks.mjs')
    const resolved = `export async function resolve(specifier, context, next) {
      if (specifier === 'vhost-vdpa') return { url: ${JSON.stringify(pathToFileURL(door).href)}, shortCircuit: true }
      // The other doors of the package, as a program in this checkout finds them.
      const isOurs = specifier.startsWith('vhost-vdpa/')
      return next(specifier, isOurs ? { ...context, parentURL: ${JSON.stringify(pathToFileURL(join(root, 'package.json')).href)} } : context)
    }`
    writeFileSync(hooks, resolved)
    const register = `data:text/javascript,import { register } from 'node:module'; register(${JSON.stringify(pathToFileURL(hooks).href)})`
    const words = prelude === '' ? [file, ...args] : ['--import', register, file, ...args]
    const { status, stdout, stderr } = spawnSync(process.execPath, words, {
      cwd: root,
      encoding: 'utf8',
      timeout: 300_000,
    })
    return { code: status, stdout, stderr }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function doorSource(prelude: string): string {
  const at = (path: string) => JSON.stringify(join(root, path))
  return `import { createRequire } from 'node:module'
const require = createRequire(import.meta.url)
const lib = require(${at('dist/index.js')}), simulator = require(${at('dist/simulator/index.js')})
const replaced = {}
${prelude}
const door = { ...lib, ...replaced }
export const { ${exportedNames().join(', ')} } = door
`
}

function exportedNames(): string[] {
  const script = `console.log(Object.keys(require(${JSON.stringify(join(root, 'dist/index.js'))})).join(' '))`
  const { stdout } = spawnSync(process.execPath, ['-e', script], { cwd: root, encoding: 'utf8' })
  return stdout.trim().split(' ')
}
