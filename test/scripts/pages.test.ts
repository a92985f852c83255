// What the pages of the package name by its path: it is there, and what is for users of the package is in the package, since there they read them.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect, test } from '@jest/globals'
import { root } from './support.js'

/** The files of the package, as npm would pack them. */
function packed(): readonly string[] {
  const words = ['pack', '--dry-run', '--json', '--ignore-scripts']
  const { stdout } = spawnSync('npm', words, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 })
  const [{ files }] = JSON.parse(stdout) as [{ files: readonly { readonly path: string }[] }]
  return files.map(({ path }) => path)
}

/** Paths between backticks: of a file or a folder of this package, from its root or beside the page. */
function namedBy(page: string): string[] {
  const text = readFileSync(join(root, page), 'utf8').replace(/^```[\s\S]*?^```$/gm, '')
  const named = Array.from(
    text.matchAll(/`((?:[\w.*-]+\/)*[\w.*-]+(?:\/|\.(?:md|m[jt]s|json|ya?ml|service)))`/g),
    ([, path = '']) => path,
  )
  return named.flatMap((path) => {
    if (/^(docs|examples|lib|scripts|test)\//.test(path) || /^[A-Z]+\.md$/.test(path)) return [path]
    const beside = join(dirname(page), path)
    return /\.md$/.test(path) && existsSync(join(root, beside)) ? [beside] : []
  })
}

/** What is for whoever changes the package: in a checkout alone. */
const ofCheckout = /^(test\/|CONTRIBUTING\.md$|scripts\/(?!quickstart\.mjs$))/

const matches = (path: string, file: string) =>
  path.endsWith('/')
    ? file.startsWith(path)
    : new RegExp(`^${path.replaceAll('.', '\\.').replaceAll('*', '[^/]+')}$`).test(file)

test('the package has what its pages name, and a checkout the rest', () => {
  const files = packed()
  const pages = files.filter((file) => file.endsWith('.md'))
  expect(pages).toEqual(
    expect.arrayContaining(['README.md', 'SECURITY.md', 'docs/guides/first-device.md', 'lib/cli/README.md']),
  )
  const named = pages.flatMap((page) => namedBy(page).map((path) => ({ page, path })))
  expect(named.length).toBeGreaterThan(50)
  const lacking = named.filter(({ path }) =>
    ofCheckout.test(path) ? !existsSync(join(root, path)) : !files.some((file) => matches(path, file)),
  )
  expect(lacking).toEqual([])
})
