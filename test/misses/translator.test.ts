// What is believed of an answer: whatever a translator says, a translation that a device may be given, or misuse by name.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { U64_LAST } from '../../lib/base/ranges.js'
import { checkedAnswer, type MissAnswer } from '../../lib/misses/translator.js'

const edges = [0n, 1n, 0x1000n, 2n ** 63n, U64_LAST - 1n, U64_LAST, 2n ** 64n, -1n]
const number = fc.oneof(fc.constantFrom(...edges), fc.bigInt({ min: -2n, max: 2n ** 65n }), fc.anything())

test('any answer to any address', () => {
  const fields = { iova: number, size: number, uaddr: number, access: fc.constantFrom('ro', 'wo', 'rw', 'r', 3, null) }
  const likely = fc.record({
    iova: fc.constantFrom(0n, 1n, 0x1000n),
    size: fc.constantFrom(...edges),
    uaddr: fc.constantFrom(0n, 0x1000n),
    access: fc.constantFrom('ro', 'wo', 'rw'),
  })
  const answer = fc.oneof(likely, fc.record(fields), fc.record(fields, { requiredKeys: [] }))
  let taken = 0
  fc.assert(
    fc.property(fc.oneof(answer, fc.anything()), fc.constantFrom(...edges.slice(0, 6)), (given, wanted) => {
      // Nothing is no answer, and never comes here.
      fc.pre(given !== undefined && given !== null)
      try {
        const { answer: checked, range } = checkedAnswer(given as MissAnswer, wanted)
        expect([range.first, range.last - range.first + 1n]).toEqual([checked.iova, checked.size])
        expect(range.first >= 0n && range.first <= wanted && wanted <= range.last && range.last <= U64_LAST).toBe(true)
        expect(checked.size <= U64_LAST && checked.uaddr >= 0n && checked.uaddr + checked.size <= 2n ** 64n).toBe(true)
        taken++
      } catch (failure) {
        if (!(failure instanceof TypeError || failure instanceof RangeError)) throw failure
        expect(failure.message).toMatch(/^(answer|access)\S* must be/)
      }
    }),
    { numRuns: 10_000 },
  )
  expect(taken).toBeGreaterThan(0)
})

test('an answer may reach the last address, and not be all of them', () => {
  const top = { iova: U64_LAST - 0xfffn, size: 0x1000n, uaddr: 0n, access: 'rw' } as const
  expect(checkedAnswer(top, U64_LAST).range.last).toBe(U64_LAST)
  expect(() => checkedAnswer({ ...top, iova: 0n, size: 2n ** 64n }, U64_LAST)).toThrow(/^answer.size must be/)
  expect(checkedAnswer({ ...top, iova: 1n, size: U64_LAST }, U64_LAST).range).toEqual({ first: 1n, last: U64_LAST })
})
