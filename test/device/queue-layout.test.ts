// Where the parts of a queue lie in its memory: behind one another, aligned, and none in another's place.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { layOut } from '../../lib/device/queue-layout.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'

test('parts follow one another, with room for all of each', () => {
  const sizes = fc.integer({ min: 0, max: 15 }).map((power) => 2 ** power)
  const shapes = fc.record({
    format: fc.constantFrom('split' as const, 'packed' as const),
    size: sizes,
    bufferBytes: fc.integer({ min: 0, max: 1 << 20 }),
    indirectTableSize: fc.integer({ min: 0, max: 64 }),
  })
  fc.assert(
    fc.property(shapes, (shape) => {
      const { driver, device, indirect, buffers, total } = layOut(shape)
      const areas = areaSizes(shape.format, shape.size)
      expect(driver).toBeGreaterThanOrEqual(areas.descriptor)
      expect(device).toBeGreaterThanOrEqual(driver + areas.driver)
      expect(indirect).toBeGreaterThanOrEqual(device + areas.device)
      // A table of descriptors of 16 bytes for each slot of the ring.
      expect(buffers).toBeGreaterThanOrEqual(indirect + shape.size * shape.indirectTableSize * 16)
      expect(total).toBe(buffers + shape.bufferBytes)
      expect([driver % 2, device % 4, indirect % 16, buffers % 64]).toEqual([0, 0, 0, 0])
    }),
  )
})
