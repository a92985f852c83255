// Inclusive u64 ranges and names of bits, at their edges.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { bitOfName, namesOfBits } from '../../lib/base/bits.js'
import { contains, overlaps, rangeOf, showRange, U64_LAST } from '../../lib/base/ranges.js'

const word = fc.bigInt({ min: 0n, max: U64_LAST })

describe('ranges', () => {
  test('end at 2^64-1 and not behind it', () => {
    expect(rangeOf(0n, U64_LAST + 1n)).toEqual({ first: 0n, last: U64_LAST })
    expect(rangeOf(U64_LAST, 1n)).toEqual({ first: U64_LAST, last: U64_LAST })
    expect(rangeOf(U64_LAST, 2n)).toBeUndefined()
    expect(rangeOf(1n, 0n)).toBeUndefined()
  })

  test('overlap when they share an address, and contain when they share all of one', () => {
    fc.assert(
      fc.property(word, word, word, word, (a, b, c, d) => {
        const one = { first: a < b ? a : b, last: a < b ? b : a }
        const two = { first: c < d ? c : d, last: c < d ? d : c }
        const shared = one.first > two.first ? one.first : two.first
        expect(overlaps(one, two)).toBe(shared <= one.last && shared <= two.last)
        expect(overlaps(one, two)).toBe(overlaps(two, one))
        if (contains(one, two)) expect(overlaps(one, two)).toBe(true)
        expect(contains(one, one)).toBe(true)
      }),
    )
  })

  test('are shown with both ends', () => {
    expect(showRange({ first: 0x1000n, last: 0x1fffn })).toBe('[0x1000, 0x1fff]')
  })
})

describe('names of bits', () => {
  const names = { FIRST: 0, LAST: 63 }

  test('lose no bit', () => {
    fc.assert(
      fc.property(word, (bits) => {
        const back = namesOfBits(bits, names).reduce(
          (sum, name) => sum | (1n << BigInt(bitOfName(name, names) ?? 64)),
          0n,
        )
        expect(back).toBe(bits)
      }),
    )
  })

  test('are numbers, also for bits without a name; anything else is none', () => {
    expect(namesOfBits(0x8000_0000_0000_0003n, names)).toEqual(['FIRST', 'bit_1', 'LAST'])
    expect(bitOfName('bit_64', names)).toBeUndefined()
    expect(bitOfName('toString', names)).toBeUndefined()
  })
})
