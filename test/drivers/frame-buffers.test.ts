// Where frame buffers lie: one after the other, and not all on the same sets of a cache.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { frameBufferStride } from '../../lib/drivers/frame-buffers.js'

const LINE_BYTES = 64

test('a buffer ends before the next begins, by less than two cache lines', () => {
  fc.assert(
    fc.property(fc.integer({ min: 64, max: 66_560 }), (bufferBytes) => {
      const stride = frameBufferStride(bufferBytes)
      expect(stride).toBeGreaterThanOrEqual(bufferBytes)
      expect(stride - bufferBytes).toBeLessThan(2 * LINE_BYTES)
    }),
  )
})

test('the beginnings of 64 buffers lie on 64 different lines of a cache with 64 sets', () => {
  for (const bufferBytes of [64, 100, 2048, 2112, 4096, 65_562]) {
    const stride = frameBufferStride(bufferBytes)
    const sets = Array.from({ length: 64 }, (_, index) => ((index * stride) / LINE_BYTES) % 64)
    expect(new Set(sets).size).toBe(64)
  }
})
