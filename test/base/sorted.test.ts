import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { countBefore } from '../../lib/base/sorted.js'

test('says how many come before a place, as a walk does', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(20)), fc.nat(21), (numbers, place) => {
      const sorted = numbers.sort((one, other) => one - other)
      expect(countBefore(sorted, (one) => one < place)).toBe(sorted.filter((one) => one < place).length)
    }),
  )
})
