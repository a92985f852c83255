// The bugs of scripts/mutants.json can be planted: each place is there, once. Whether a test dies of them is found out by `npm run mutants`.

import { expect, test } from '@jest/globals'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './support.js'

interface Mutant {
  readonly name: string
  readonly file: string
  readonly find: string
  readonly replace: string
  readonly suites: readonly string[]
}

const { mutants } = JSON.parse(readFileSync(join(root, 'scripts/mutants.json'), 'utf8')) as {
  mutants: readonly Mutant[]
}

test.each(mutants)('$name', ({ file, find, replace, suites }) => {
  expect(readFileSync(join(root, file), 'utf8').split(find)).toHaveLength(2)
  expect(replace).not.toBe(find)
  expect(suites).not.toEqual([])
})
