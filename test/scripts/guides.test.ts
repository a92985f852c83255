// The programs of examples/: each is what its page in docs/ shows, and does what it says, run where 'vhost-vdpa' is found as in anybody's folder.

import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import ts from 'typescript'
import { tryLoadAddon } from '../../lib/kernel/addon.js'
import { TemporaryFolder } from '../native/support.js'
import { ensureBuilt, root } from './support.js'

/** What a program does; scripts/check-package.mjs asks it of the packed package. */
interface Outcome {
  readonly stdout: string
  /** The first word of each line of stderr; absent: there is none. */
  readonly stderrWords?: readonly string[]
  readonly needsAddon?: boolean
}

const read = (file: string): string => readFileSync(join(root, file), 'utf8')
const outcomes = JSON.parse(read('scripts/package/examples.json')) as Readonly<Record<string, Outcome>>
const programs = readdirSync(join(root, 'examples')).filter((name) => /\.m[jt]s$/.test(name))
const pages = [...readdirSync(join(root, 'docs/guides')).map((name) => `docs/guides/${name}`), 'docs/diagnostics.md']
const wordOf = (program: string): string => program.replace(/\.m[jt]s$/, '')
/** A module that the others import, and what asks the kernel: test/vhost-net/guide.test.ts runs the last on a device that stands for it. */
const notRunAlone = ['disk', 'serve-disk', 'vhost-net']

/** Programs by name, as a page shows them: the pieces that name one are its parts, in order. */
function shownBy(page: string): ReadonlyMap<string, string> {
  const shown = new Map<string, string>()
  for (const [, name = '', code = ''] of read(page).matchAll(/^```[jt]s (\S+)\n([\s\S]*?)^```$/gm))
    shown.set(name, shown.has(name) ? `${shown.get(name)}\n${code}` : code)
  return shown
}

/** A folder with the package and the programs in it, compiled as TypeScript's users do. */
function userFolder(): TemporaryFolder {
  const folder = new TemporaryFolder()
  mkdirSync(folder.file('node_modules'))
  symlinkSync(root, folder.file('node_modules/vhost-vdpa'))
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
  for (const program of programs) {
    const { outputText } = ts.transpileModule(read(`examples/${program}`), { compilerOptions })
    writeFileSync(folder.file(`${wordOf(program)}.mjs`), outputText)
  }
  return folder
}

let folder: TemporaryFolder

beforeAll(() => {
  ensureBuilt()
  folder = userFolder()
}, 300_000)

afterAll(() => folder[Symbol.dispose]())

test('every program is what one page shows, and the page says where it is', () => {
  const shown = pages.flatMap((page) => Array.from(shownBy(page), ([name, code]) => ({ page, name, code })))
  expect(shown.map(({ name }) => name).sort()).toEqual([...programs].sort())
  for (const { page, name, code } of shown) {
    expect({ page, name, code }).toEqual({ page, name, code: read(`examples/${name}`) })
    expect(read(page)).toContain(`\`examples/${name}\``)
  }
})

test('every guide has a program', () => {
  expect(pages.filter((page) => shownBy(page).size === 0)).toEqual([])
})

test('the list of programs has a row for each, and no other', () => {
  const rows = Array.from(read('examples/README.md').matchAll(/^\| `([^`]+)` \|/gm), ([, name]) => name)
  expect(rows.sort()).toEqual([...programs].sort())
})

test('it is known of every program what it prints', () => {
  const words = programs.map(wordOf).filter((word) => !notRunAlone.includes(word))
  expect(Object.keys(outcomes).sort()).toEqual(words.sort())
})

const { addon, reason } = tryLoadAddon()

for (const [word, { stdout, stderrWords = [], needsAddon = false }] of Object.entries(outcomes)) {
  const isSkipped = needsAddon && addon === undefined
  ;(isSkipped ? test.skip : test)(isSkipped ? `${word} (skipped: ${reason})` : word, () => {
    const sockets = { VM_SOCKET: folder.file('net.sock'), CHANNEL: folder.file('channel') }
    const ended = spawnSync(process.execPath, [`${word}.mjs`], {
      cwd: folder.path,
      env: { ...process.env, ...sockets },
      encoding: 'utf8',
      timeout: 300_000,
    })
    const words = ended.stderr.split('\n').flatMap((line) => (line === '' ? [] : [line.split(' ')[0]]))
    expect({ status: ended.status, stdout: ended.stdout, words }).toEqual({ status: 0, stdout, words: stderrWords })
  })
}

test('a program is run in a checkout by its name, and the names are told to who gives none', () => {
  const run = (...words: string[]) =>
    spawnSync(process.execPath, ['scripts/example.mjs', ...words], { cwd: root, encoding: 'utf8', timeout: 300_000 })
  expect(run('first-device')).toMatchObject({ status: 0, stdout: outcomes['first-device']?.stdout, stderr: '' })
  expect(run()).toMatchObject({ status: 2, stdout: '', stderr: expect.stringContaining('first-device') })
})
