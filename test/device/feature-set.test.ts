// Sets of feature bits by name, number, or as the word; no bit is lost and no name is guessed.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { FeatureSet } from '../../lib/device/feature-set.js'
import { featureNames } from '../../lib/uapi/virtio-features.js'
import { deviceIds } from '../../lib/uapi/virtio-ids.js'

const names = featureNames(deviceIds.net)
const word = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })

describe('a feature set', () => {
  test('is the same by word, by names and by bit numbers', () => {
    fc.assert(
      fc.property(word, (bits) => {
        const set = new FeatureSet(bits, names)
        expect(FeatureSet.of(set.names, names).bits).toBe(bits)
        const numbers = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => set.has(bit))
        expect(FeatureSet.of(numbers, names).bits).toBe(bits)
      }),
    )
  })

  test('is combined as sets are', () => {
    fc.assert(
      fc.property(word, word, (a, b) => {
        const [one, two] = [new FeatureSet(a, names), new FeatureSet(b, names)]
        expect([one.and(two).bits, one.or(two).bits, one.without(two).bits]).toEqual([a & b, a | b, a & ~b])
      }),
    )
  })

  test('takes names for bit numbers and never for masks', () => {
    expect(FeatureSet.of(['VIRTIO_NET_F_MAC'], names).bits).toBe(0x20n)
    expect(FeatureSet.of([32], names).names).toEqual(['VIRTIO_F_VERSION_1'])
    expect(FeatureSet.of(['bit_63'], names).bits).toBe(1n << 63n)
  })

  test('reads well', () => {
    const set = FeatureSet.of(['VIRTIO_F_VERSION_1', 'VIRTIO_NET_F_MAC'], names)
    expect(String(set)).toBe('0x100000020 (VIRTIO_NET_F_MAC VIRTIO_F_VERSION_1)')
    expect(String(new FeatureSet(0n, names))).toBe('0x0 (none)')
    expect(JSON.stringify(set)).toBe('{"bits":"0x100000020","names":["VIRTIO_NET_F_MAC","VIRTIO_F_VERSION_1"]}')
  })

  test.each([['VIRTIO_BLK_F_FLUSH'], ['toString'], [64], [-1], [0.5], [null]])('%p is no feature', (item) => {
    expect(() => FeatureSet.of([item as never], names)).toThrow(RangeError)
  })

  test.each([5, 'VIRTIO_NET_F_MAC', undefined, {}])('%p is no wish', (wish) => {
    expect(() => FeatureSet.of(wish as never, names)).toThrow(TypeError)
  })

  test.each([-1n, 2n ** 64n])('%p is no word', (bits) => {
    expect(() => FeatureSet.of(bits, names)).toThrow(RangeError)
  })
})
