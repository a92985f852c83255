// The driver's side of a split ring, against a hostile device that is written out by hand.

import { describe, expect, test } from '@jest/globals'

import type { DriverRing } from '../../lib/virtqueue/virtqueue.js'
import { driverVerbs, errorOf, send, splitDriverByHand } from './support.js'

describe('a hostile device', () => {
  const broken = (driver: DriverRing, what: string, verb: () => unknown = () => driver.take()) => {
    const error = errorOf(verb)
    expect([error.code, error.message]).toEqual(['ERR_VDPA_RING_BROKEN', expect.stringContaining(what)])
    expect(error.message).toContain('against virtio 1.2 section 2.7.')
    expect(driver.isBroken).toBe(true)
    for (const [name, again] of Object.entries(driverVerbs(driver))) {
      expect([name, errorOf(again).message]).toEqual([name, error.message])
    }
  }

  test('used index beyond what is in flight', () => {
    const { driver, used } = splitDriverByHand()
    send(driver, 1, [[0n, 1]])
    used.setU16(2, 2)
    broken(driver, 'used index 2 announces 2 chains and 1 are in flight')
  })

  test('used index beyond what is in flight, seen when calls are enabled', () => {
    const { driver, used } = splitDriverByHand()
    used.setU16(2, 0xffff)
    broken(driver, 'used index 65535 announces 65535 chains and 0 are in flight', () => driver.enableCalls())
  })

  test('an index that covers a chain that is committed and not published', () => {
    const { driver, use } = splitDriverByHand()
    driver.begin()
    driver.push(0, 0, 1, false)
    driver.commit(1)
    use([0, 0])
    broken(driver, 'used index 1 announces 1 chains and 0 are in flight')
  })

  test('the id of a chain that is committed and not published', () => {
    const { driver, use } = splitDriverByHand()
    send(driver, 1, [[0n, 1]])
    driver.begin()
    driver.push(0, 0, 1, false)
    driver.commit(2)
    use([1, 0])
    broken(driver, 'used id 1 is not the head of a chain in flight')
  })

  test.each([4, 0xffff, 0x1_0000, 0xffff_ffff])('used id %i out of range', (id) => {
    const { driver, use } = splitDriverByHand()
    send(driver, 1, [[0n, 1]])
    use([id, 0])
    broken(driver, `used id ${id} is not below the ring's size 4`)
  })

  test.each([1, 2, 3])('used id %i that was never given', (id) => {
    const { driver, use } = splitDriverByHand()
    send(driver, 1, [
      [0n, 1],
      [0n, 1],
    ])
    use([id, 0])
    broken(driver, `used id ${id} is not the head of a chain in flight`)
  })

  test('a used id twice', () => {
    const { driver, use } = splitDriverByHand()
    send(driver, 1, [[0n, 1]])
    send(driver, 2, [[0n, 1]])
    use([0, 0], [0, 0])
    expect(driver.take()).toBe(1)
    broken(driver, 'used id 0 is not the head of a chain in flight')
  })

  test.each([
    [[], 1],
    [[[0n, 100]], 101],
    [
      [
        [0n, 100],
        [0n, 28],
      ],
      0xffff_ffff,
    ],
  ] as [[bigint, number][], number][])(
    'more bytes written than may be are cut to what may be, and counted, %j: %i',
    (writable, length) => {
      const { driver, use } = splitDriverByHand()
      send(driver, 1, [[0n, 1000]], writable)
      use([0, length])
      const last = writable.reduce((sum, [, bytes]) => sum + bytes, 0)
      expect([driver.take(), driver.usedLength, driver.overlongCount]).toEqual([1, last, 1])
    },
  )

  test('a batch that the index does not cover (IN_ORDER)', () => {
    const { driver, use } = splitDriverByHand({ inOrder: true })
    send(driver, 1, [[0n, 1]])
    send(driver, 2, [[0n, 1]])
    use([1, 0])
    broken(driver, 'used id 1 closes a batch that the used index does not cover')
  })

  test('descriptors and entries that it overwrote are not read', () => {
    const { driver, queue, use } = splitDriverByHand()
    send(driver, 1, [
      [0n, 1],
      [0n, 1],
    ])
    queue.areas.descriptor.bytes().fill(0xff)
    queue.areas.driver.bytes().fill(0xff)
    use([0, 0])
    expect([driver.take(), driver.freeCount]).toEqual([1, 4])
    send(driver, 2, [
      [0n, 1],
      [0n, 1],
      [0n, 1],
      [0n, 1],
    ])
    expect(queue.areas.driver.u16(2)).toBe(2)
  })

  test('reset() mends: the ring and its memory are as new (2.6.1)', () => {
    const { driver, queue, used } = splitDriverByHand({ eventIdx: true, indirect: true })
    send(driver, 1, [
      [0n, 1],
      [0n, 1],
    ])
    used.setU16(2, 9)
    broken(driver, 'used index 9')
    driver.reset()
    expect([driver.isBroken, driver.inFlight, driver.freeCount, driver.take()]).toEqual([false, 0, 4, -1])
    expect([used.u16(0), used.u16(2), used.u16(36)]).toEqual([0, 0, 0])
    expect([0, 2, 12].map((at) => queue.areas.driver.u16(at))).toEqual([0, 0, 0])
    expect(
      send(driver, 5, [
        [0n, 1],
        [0n, 1],
      ]),
    ).toBe(true)
    expect(driver.freeCount).toBe(3)
  })
})
