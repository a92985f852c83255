// Mappings as plain data, there and back.

import { describe, expect, test } from '@jest/globals'

import { accessOf, mapOf, permOf, snapshotOf, type MappingSnapshot } from '../../lib/iotlb/mapping.js'

describe('access', () => {
  test('is a perm, and back', () => {
    expect((['ro', 'wo', 'rw'] as const).map(permOf)).toEqual([1, 2, 3])
    expect([1, 2, 3].map(accessOf)).toEqual(['ro', 'wo', 'rw'])
  })

  test.each(['r', 'RW', undefined, 3, 'toString'])('%p is none', (access) => {
    expect(() => permOf(access as 'ro')).toThrow("access must be one of 'ro', 'wo', 'rw'")
  })

  test.each([0, 4, 255, NaN])('perm %p is none', (perm) => {
    expect(() => accessOf(perm)).toThrow('perm must be VHOST_ACCESS_RO, _WO or _RW')
  })
})

describe('snapshots', () => {
  const mappings: MappingSnapshot[] = [
    { iova: 0n, size: 0x1000n, uaddr: 0x7000n, access: 'ro' },
    { iova: 0x1000n, size: (1n << 64n) - 0x1000n, uaddr: 0n, access: 'rw' },
  ]

  test('are the same after a round trip, in the order of addresses', () => {
    expect(snapshotOf(mapOf([...mappings].reverse()))).toEqual(mappings)
    expect(snapshotOf(mapOf(JSON.parse('[]') as MappingSnapshot[]))).toEqual([])
  })

  test('that are no mappings are refused', () => {
    const [first] = mappings
    expect(() => mapOf([{ ...first, size: 0n } as MappingSnapshot])).toThrow(RangeError)
    expect(() => mapOf([...mappings, { iova: 5n, size: 1n, uaddr: 0n, access: 'wo' }])).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_OVERLAP' }),
    )
    expect(() => mapOf([{ ...first, size: 1n << 65n } as MappingSnapshot])).toThrow('last must be from 0 to 2^64-1')
  })
})
