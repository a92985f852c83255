// A chain of one segment in one call: what the same chain is that begin(), push() and commit() make, in the ring as in the driver's books.

import { describe, expect, test } from '@jest/globals'
import type { RingFormat } from '../../lib/virtqueue/virtqueue.js'
import { errorOf, TestQueue } from './support.js'

const features = [{}, { eventIdx: true }, { inOrder: true }, { indirect: true }] as const
const cases = (['split', 'packed'] as const).flatMap((format) => features.map((some) => [format, some] as const))

function both(format: RingFormat, some: (typeof features)[number]) {
  const [one, three] = [0, 1].map(() => new TestQueue({ format, size: 4, features: some }))
  if (one === undefined || three === undefined) throw new Error('two queues are needed')
  return { one, three, a: one.driver(), b: three.driver() }
}

describe.each(cases)('a %s ring with %j', (format, some) => {
  test('is the same, around its end too', () => {
    const { one, three, a, b } = both(format, some)
    const [devices, drivers] = [
      [one.device(), three.device()],
      [a, b],
    ] as const
    for (let round = 0; round < 7; round++) {
      for (let at = 0; at < 3; at++) {
        const segment = [0xffff_ffff, 0xffff_ff00 - at, 0x100 + at, at > 0] as const
        a.commitOne(10 * round + at, ...segment)
        b.begin()
        b.push(...segment)
        b.commit(10 * round + at)
      }
      expect([a.freeCount, a.inFlight]).toEqual([1, 3])
      expect(a.publish()).toBe(b.publish())
      expect(a.save()).toEqual(b.save())
      for (const device of devices) {
        for (let at = 0; at < 3; at++) {
          expect(device.next()).toBe(true)
          device.complete(device.chain.id, Math.min(device.chain.writableLength, 0x100))
        }
        device.publish()
      }
      expect(Buffer.compare(Buffer.from(one.buffer), Buffer.from(three.buffer))).toBe(0)
      for (const driver of drivers)
        expect([0, 1, 2].map(() => [driver.take(), driver.usedLength])).toEqual(
          [0, 1, 2].map((at) => [10 * round + at, at > 0 ? 0x100 : 0]),
        )
    }
    expect([one.firstDamage(), three.firstDamage()]).toEqual([-1, -1])
  })

  test('forgets a chain that was begun, and refuses what does not fit', () => {
    const { a } = both(format, some)
    a.begin()
    a.push(0, 0x1000, 1, true)
    a.commitOne(0, 0, 0x2000, 8, false)
    expect(() => a.commit(1)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    for (const token of [1, 2, 3]) a.commitOne(token, 0, 0x3000, 8, true)
    expect(errorOf(() => a.commitOne(4, 0, 0x3000, 8, true))).toMatchObject({ code: 'ERR_VDPA_NO_SPACE' })
    expect(errorOf(() => a.commitOne(4, 0xffff_ffff, 0xffff_ffff, 2, true)).message).toContain('the segment ends')
    expect([a.freeCount, a.inFlight]).toEqual([0, 4])
    expect(a.save().chains.map(({ token, segments }) => [token, segments.length])).toEqual(
      [0, 1, 2, 3].map((token) => [token, 1]),
    )
  })
})
