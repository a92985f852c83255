// Both sides of a ring on two threads, asleep whenever the ring says that they may be: the nightly program, for a few seconds of it. A side that reads the other's
// event before it stores its index loses a wake-up within some thousand chains, and one that announces a chain before it is written hands over the wrong bytes.

import { expect, test } from '@jest/globals'
import { runProgram } from './support.js'

test('two threads lose neither a chain nor a wake-up', () => {
  const { code, stdout, stderr } = runProgram('scripts/fuzz-rings.mjs', ['--cases', '0', '--chains', '20000'])
  expect(stderr).toBe('')
  expect(code).toBe(0)
  const soaked = stdout.split('\n').filter((line) => line.startsWith('two threads, '))
  expect(soaked).toHaveLength(12)
  for (const line of soaked) expect(line).toMatch(/: 20000 chains, [1-9]\d* kicks, driver slept [1-9]\d* times$/)
}, 300_000)
