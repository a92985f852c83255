// The rings against random hostile peers: 20,000 seeds here, a million in scripts/fuzz-rings.mjs. The only outcomes are a valid chain or a named
// rule, memory outside stays as it was, and the oracle agrees. FUZZ_SEED=n begins at another seed.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { describe, expect, test } from '@jest/globals'

import { vdpaError } from '../../lib/base/errors.js'
import { FuzzFailure, Random, type FuzzCase } from './fuzz/case.js'
import { ruleOf } from './fuzz/guard.js'
import { report, runCase, runSeed, shrink } from './fuzz/run.js'

const first = Number(process.env['FUZZ_SEED'] ?? 1)
const each = 5000
// One case a line: a failure's report ends with the line to add.
const corpus = readFileSync(join(__dirname, 'fuzz/corpus.jsonl'), 'utf8')
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => JSON.parse(line) as FuzzCase)

describe('random hostile peers', () => {
  test.each([0, 1, 2, 3].map((part) => first + part * each))(`${each} seeds from %i on`, (seed) => {
    const seen = new Set<string>()
    for (let at = seed; at < seed + each; at++) {
      const result = runSeed(at)
      if (result.failure !== undefined) throw new Error(report(result))
      for (const outcome of result.outcomes) seen.add(outcome)
    }
    // The peers are hostile, and honest, enough: both ways of ending are seen in every part.
    expect([...seen]).toEqual(expect.arrayContaining(['chain', 'completed', 'taken with bytes', 'moved', 'misuse']))
    expect([...seen].filter((outcome) => outcome.includes('(2.')).length).toBeGreaterThan(20)
  })

  test('equal seeds give equal cases', () => {
    expect(runSeed(first)).toEqual(runSeed(first))
    expect(runCase(runSeed(first).case).outcomes).toEqual(runSeed(first).outcomes)
  })
})

describe('kept cases: past failures, and one for each rule', () => {
  test.each(corpus.map((kept) => [kept.note, kept] as const))('%s', (_note, kept) => {
    const result = runCase(kept)
    if (result.failure !== undefined) throw new Error(report(result))
    if (kept.shows !== undefined) expect([...result.outcomes]).toContain(kept.shows)
  })
})

describe('the fuzzer itself', () => {
  test('takes no other error for a rule', () => {
    expect(ruleOf(vdpaError('ERR_VDPA_RING_BROKEN', 'it did 5, against virtio 1.2 section 2.7.8'))).toBe(
      'it did N (2.7.8)',
    )
    expect(() => ruleOf(vdpaError('ERR_VDPA_RING_BROKEN', 'it did 5'))).toThrow(FuzzFailure)
    expect(() => ruleOf(vdpaError('ERR_VDPA_STATE', 'x, against virtio 1.2 section 2.7.8'))).toThrow(FuzzFailure)
    expect(() => ruleOf(new TypeError('x'))).toThrow(FuzzFailure)
  })

  test('finds a verb that does what the oracle does not expect, and makes the case small', () => {
    const options = {
      side: 'device',
      format: 'split',
      size: 4,
      eventIdx: false,
      indirect: false,
      inOrder: false,
      at: 0,
    } as const
    const noise = Array.from({ length: 20 }, () => ['publish', 0, 0] as const)
    const result = runCase({ note: 'a verb of the other side', options, steps: [...noise, ['take', 0, 0], ...noise] })
    expect(result.failure?.message).toBe('a device has no verb take')
    expect(shrink(result.case, (shorter) => runCase(shorter).failure !== undefined).steps).toEqual([['take', 0, 0]])
    expect(report(result)).toContain('"steps":[["take",0,0]]')
  })

  test('draws evenly, the same on every machine', () => {
    const random = new Random(7)
    expect([random.below(1000), random.below(1000), random.below(1000)]).toEqual([11, 61, 976])
    expect(() => random.pick([])).toThrow(RangeError)
  })
})
