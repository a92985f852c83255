// Translation, against bigint arithmetic on the same mappings, while they come and go.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { U64_LAST } from '../../lib/base/ranges.js'
import { IntervalMap } from '../../lib/iotlb/interval-map.js'
import { DENIED, TranslationCache, UNMAPPED } from '../../lib/iotlb/translation-cache.js'

function translate(cache: TranslationCache, iova: bigint, perm: number): number {
  return cache.translate(Number(iova >> 32n), Number(iova & 0xffff_ffffn), perm)
}

const address = fc
  .tuple(fc.constantFrom(0n, 1n << 32n, 1n << 53n, U64_LAST), fc.bigInt(-40n, 40n))
  .map(([at, by]) => BigInt.asUintN(64, at + by))
const step = fc.record({
  verb: fc.constantFrom('map', 'unmap', 'translate', 'translate', 'translate'),
  address,
  size: fc.constantFrom(1n, 5n, 1n << 32n, 1n << 60n),
  uaddr: fc.constantFrom(0n, 0xffff_fffen, 0x7fff_ffff_f000n, U64_LAST),
  perm: fc.constantFrom(1, 2, 3),
})

describe('any changes and translations', () => {
  test('give what the map says', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
        const map = new IntervalMap()
        const cache = new TranslationCache(map.table)
        for (const { verb, address, size, uaddr, perm } of steps) {
          const last = address + size - 1n > U64_LAST ? U64_LAST : address + size - 1n
          const found = map.find(address)
          if (verb === 'map') {
            if (map.firstOverlap(address, last) === undefined) map.insert(address, last, uaddr, perm, 7)
          } else if (verb === 'unmap') {
            map.removeOverlapping(address, last)
          } else if (found === undefined) {
            expect(translate(cache, address, perm)).toBe(UNMAPPED)
          } else {
            const rest = found.last - address + 1n
            const bytes = rest > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(rest)
            expect(translate(cache, address, perm)).toBe((found.perm & perm) === perm ? bytes : DENIED)
            const to = (BigInt(cache.uaddrHigh) << 32n) | BigInt(cache.uaddrLow)
            expect(to).toBe(BigInt.asUintN(64, found.uaddr + (address - found.first)))
            expect([cache.perm, cache.object]).toEqual([found.perm, 7])
          }
        }
      }),
      { numRuns: 300 },
    )
  })
})

test('a mapping that was cached is gone after its unmap', () => {
  const map = new IntervalMap()
  const cache = new TranslationCache(map.table)
  map.insert(0x1000n, 0x1fffn, 0x7000n, 3)
  expect(translate(cache, 0x1800n, 3)).toBe(0x800)
  map.remove(0x1000n, 0x1fffn)
  expect(translate(cache, 0x1800n, 3)).toBe(UNMAPPED)
  map.insert(0x1000n, 0x17ffn, 0x9000n, 3)
  expect(translate(cache, 0x1800n, 3)).toBe(UNMAPPED)
  expect(translate(cache, 0x17ffn, 3)).toBe(1)
})
