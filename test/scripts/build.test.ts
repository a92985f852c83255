// The build script at its worst moments, with a compiler that writes one file.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot, TemporaryFolder } from '../native/support'

let folder: TemporaryFolder

beforeEach(() => {
  folder = new TemporaryFolder()
  for (const part of ['scripts', 'node_modules/typescript/lib']) mkdirSync(folder.file(part), { recursive: true })
  copyFileSync(join(packageRoot(), 'scripts/build.mjs'), folder.file('scripts/build.mjs'))
  writeFileSync(folder.file('node_modules/typescript/package.json'), '{"name":"typescript","version":"5.0.0"}')
  const compiler = `const fs = require('node:fs'), to = process.argv.at(-1)
fs.mkdirSync(to, { recursive: true })
fs.writeFileSync(to + '/fresh.js', '')`
  for (const name of ['tsc.js', '_tsc.js', 'typescript.js'])
    writeFileSync(folder.file(`node_modules/typescript/lib/${name}`), compiler)
  mkdirSync(folder.file('node_modules/typescript/bin'))
  writeFileSync(folder.file('node_modules/typescript/bin/tsc'), compiler)
})

afterEach(() => folder[Symbol.dispose]())

/** Builds, with a prelude in the builder's process. */
function build(prelude: string) {
  writeFileSync(
    folder.file('prelude.cjs'),
    `const fs = require('node:fs'), { syncBuiltinESMExports } = require('node:module')\n${prelude}`,
  )
  const words = ['--require', folder.file('prelude.cjs'), folder.file('scripts/build.mjs')]
  const { status, stderr } = spawnSync(process.execPath, words, { cwd: folder.path, encoding: 'utf8' })
  const left = readdirSync(folder.path).filter((name) => name.startsWith('dist'))
  return { status, stderr, left, files: readdirSync(folder.file('dist')) }
}

const built = { status: 0, stderr: '', left: ['dist'], files: ['fresh.js'] }

test('the build that ends last has the place, also where another takes it in the middle', () => {
  const other = `
const { renameSync } = fs
fs.renameSync = (from, to) => {
  fs.renameSync = renameSync
  syncBuiltinESMExports()
  try {
    renameSync(from, to)
  } finally {
    fs.mkdirSync('dist')
    fs.writeFileSync('dist/other.js', '')
  }
}
syncBuiltinESMExports()`
  expect(build(other)).toEqual(built)
  expect(build(other)).toEqual(built)
})

test('what a build left that was killed, and whose process had the same number, is in nobody’s way', () => {
  expect(
    build(`
fs.mkdirSync('dist')
for (const name of ['dist-' + process.pid, 'dist-' + process.pid + '-old']) {
  fs.mkdirSync(name)
  fs.writeFileSync(name + '/gone.js', '')
}`),
  ).toEqual(built)
})
