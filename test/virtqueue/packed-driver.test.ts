// The driver's side of a packed ring, byte by byte, against a device that is written out by hand and may be hostile.

import { describe, expect, test } from '@jest/globals'

import type { DriverRing, RingFeatures } from '../../lib/virtqueue/virtqueue.js'
import { TestQueue, driverVerbs, errorOf, hex, packedDescriptor, send } from './support.js'

const WRITE = 2
const USED_LAP_1 = 0x8080
const USED_LAP_0 = 0x0000

function make(features: RingFeatures = {}, size = 4, at?: number) {
  const queue = new TestQueue({
    format: 'packed',
    size,
    features,
    ...(at === undefined ? {} : { state: { available: at, used: at } }),
  })
  const driver = queue.driver()
  const { descriptor: ring, driver: driverEvent, device: deviceEvent } = queue.areas
  return { queue, driver, ring, driverEvent, deviceEvent }
}

describe('making chains available (2.8.21)', () => {
  test('a list fills slots in order; the head is announced last, all flags say whose they are', () => {
    const { driver, ring } = make()
    driver.begin()
    driver.pushAddress(0x1122_3344_5566_7788n, 0x10, false)
    driver.push(0, 0x2000, 0x20, false)
    driver.push(0, 0x3000, 0x30, true)
    driver.commit(77)
    // AVAIL is bit 7, USED bit 15: in the first lap AVAIL is 1 and USED is 0.
    expect(hex(ring)).toEqual([
      '8877665544332211' + '10000000' + '0000' + '0000',
      '0020000000000000' + '20000000' + '0000' + '8100',
      '0030000000000000' + '30000000' + '0000' + '8200',
      '00'.repeat(16),
    ])
    expect(driver.publish()).toBe(true)
    expect(hex(ring)[0]?.slice(28)).toBe('8100')
    expect([driver.freeCount, driver.inFlight, driver.publish()]).toEqual([1, 1, false])
  })

  test('several chains are announced by the first head; the wrap counter turns at the end of the ring', () => {
    const { driver, ring } = make({}, 3, 0x8002)
    for (const token of [1, 2]) {
      driver.begin()
      driver.push(0, token, 1, false)
      driver.commit(token)
    }
    expect(ring.u16(2 * 16 + 14)).toBe(0)
    expect(ring.u16(0 * 16 + 14)).toBe(0x8000)
    expect(driver.state()).toEqual({ available: 0x8002, used: 0x8002 })
    driver.publish()
    expect(ring.u16(2 * 16 + 14)).toBe(0x0080)
    expect(driver.state()).toEqual({ available: 1, used: 0x8002 })
  })

  test.each([0x0002, 0x8002])(
    'what is not published is no part of the state, over the end of the ring in either lap: %i',
    (at) => {
      const { driver } = make({}, 3, at)
      driver.begin()
      driver.push(0, 0, 1, false)
      driver.push(0, 0, 1, false)
      driver.commit(1)
      expect([driver.state().available, driver.notificationData(0) >>> 16]).toEqual([at, at])
      driver.publish()
      expect(driver.state().available).toBe(at === 0x0002 ? 0x8001 : 0x0001)
    },
  )

  test('a ring that begins in the middle of a lap looks used on both sides of its position', () => {
    const { ring } = make({}, 3, 0x8001)
    expect([0, 1, 2].map((slot) => ring.u16(slot * 16 + 14))).toEqual([0x8080, 0, 0])
    const other = make({}, 3, 0x0001)
    expect([0, 1, 2].map((slot) => other.ring.u16(slot * 16 + 14))).toEqual([0, 0x8080, 0x8080])
  })

  test('a list that does not fit leaves the ring as it was and may be committed later', () => {
    const { driver, ring } = make({}, 3)
    send(driver, 1, [
      [0n, 1],
      [0n, 1],
    ])
    const before = hex(ring)
    driver.begin()
    driver.push(0, 0, 1, false)
    driver.push(0, 0, 1, false)
    expect(errorOf(() => driver.commit(2)).code).toBe('ERR_VDPA_NO_SPACE')
    expect(hex(ring)).toEqual(before)
    packedDescriptor(ring, 0, [0n, 0], 0, USED_LAP_1)
    expect(driver.take()).toBe(1)
    driver.commit(2)
    driver.publish()
    // It began at the last slot of lap 1 and went on in lap 0, where AVAIL is 0 and USED is 1.
    expect([ring.u16(2 * 16 + 14), ring.u16(14)]).toEqual([0x0081, 0x8000])
  })

  test('ids of chains are used again only when they came back', () => {
    const { driver, ring } = make({}, 2)
    send(driver, 1, [[0n, 1]])
    send(driver, 2, [[0n, 1]])
    expect([ring.u16(12), ring.u16(28)]).toEqual([0, 1])
    packedDescriptor(ring, 0, [0n, 0], 1, USED_LAP_1)
    expect(driver.take()).toBe(2)
    send(driver, 3, [[0n, 1]])
    expect(ring.u16(12)).toBe(1)
  })

  test('an indirect table has WRITE as its only flag, and no ids (2.8.7)', () => {
    const { driver, ring, queue } = make({ indirect: true })
    send(
      driver,
      1,
      [
        [0x1000n, 0x10],
        [0x2000n, 0x20],
      ],
      [[0x3000n, 0x30]],
    )
    expect(hex(ring)[0]).toBe('00f0ffff07000000' + '30000000' + '0000' + '8400')
    expect(hex(queue.tables).slice(0, 3)).toEqual([
      '0010000000000000' + '10000000' + '0000' + '0000',
      '0020000000000000' + '20000000' + '0000' + '0000',
      '0030000000000000' + '30000000' + '0000' + '0200',
    ])
    expect(driver.freeCount).toBe(3)
    packedDescriptor(ring, 0, [0n, 0x30], 0, USED_LAP_1 | WRITE)
    expect([driver.take(), driver.usedLength, driver.freeCount]).toEqual([1, 0x30, 4])
  })
})

describe('kicks (2.8.10)', () => {
  test.each([
    ['enabled', 0, false, true],
    ['disabled', 1, false, false],
    ['for a descriptor, without EVENT_IDX', 2, false, true],
    ['reserved', 3, false, true],
    ['disabled, with reserved bits', 0xfffd, false, false],
    ['reserved, with EVENT_IDX', 3, true, true],
    ['disabled, with EVENT_IDX', 1, true, false],
  ] as const)('%s', (_name, flags, eventIdx, wants) => {
    const { driver, deviceEvent } = make({ eventIdx })
    deviceEvent.setU16(0, 3 | 0x8000)
    deviceEvent.setU16(2, flags)
    expect(send(driver, 1, [[0n, 1]])).toBe(wants)
  })

  test('for a descriptor: when the chain that covers it is published', () => {
    const { driver, deviceEvent, ring } = make({ eventIdx: true }, 3)
    deviceEvent.setU16(2, 2)
    deviceEvent.setU16(0, 0x8000 | 2)
    expect(send(driver, 1, [[0n, 1]])).toBe(false)
    expect(
      send(driver, 2, [
        [0n, 1],
        [0n, 1],
      ]),
    ).toBe(true)
    packedDescriptor(ring, 0, [0n, 0], 0, USED_LAP_1)
    packedDescriptor(ring, 1, [0n, 0], 1, USED_LAP_1)
    driver.take()
    driver.take()
    deviceEvent.setU16(0, 1)
    expect(send(driver, 3, [[0n, 1]])).toBe(false)
    expect(send(driver, 4, [[0n, 1]])).toBe(true)
  })

  test('NOTIFICATION_DATA is the queue, and the next slot with its wrap counter (2.9)', () => {
    const { driver } = make({}, 3, 0x8002)
    expect(driver.notificationData(5)).toBe(0x8002_0005)
    driver.begin()
    driver.push(0, 0, 1, false)
    driver.commit(1)
    expect(driver.notificationData(5)).toBe(0x8002_0005)
    driver.publish()
    expect(driver.notificationData(5)).toBe(0x0000_0005)
  })
})

describe('taking used chains (2.8.22)', () => {
  test('a used descriptor stands at the first slot of those it frees, in any order of ids', () => {
    const { driver, ring } = make({}, 5)
    send(driver, 10, [[0n, 1]], [[0n, 100]])
    send(
      driver,
      11,
      [],
      [
        [0n, 7],
        [0n, 7],
        [0n, 7],
      ],
    )
    expect(driver.take()).toBe(-1)
    packedDescriptor(ring, 0, [0n, 21], 2, USED_LAP_1 | WRITE)
    expect([driver.take(), driver.usedLength, driver.freeCount]).toEqual([11, 21, 3])
    expect(driver.take()).toBe(-1)
    packedDescriptor(ring, 3, [0n, 60], 0, USED_LAP_1 | WRITE)
    expect([driver.take(), driver.usedLength, driver.freeCount]).toEqual([10, 60, 5])
    expect(driver.state()).toEqual({ available: 0, used: 0 })
    expect(driver.take()).toBe(-1)
    send(driver, 12, [[0n, 1]])
    packedDescriptor(ring, 0, [0n, 0], ring.u16(12), USED_LAP_0)
    expect(driver.take()).toBe(12)
  })

  test('without WRITE the length is reserved: ignored when it cannot be true, believed when it can (2.8.4)', () => {
    const { driver, ring } = make()
    send(driver, 1, [], [[0n, 100]])
    send(driver, 2, [], [[0n, 100]])
    packedDescriptor(ring, 0, [0n, 101], 0, USED_LAP_1)
    packedDescriptor(ring, 1, [0n, 100], 1, USED_LAP_1)
    expect([driver.take(), driver.usedLength]).toEqual([1, 0])
    expect([driver.take(), driver.usedLength]).toEqual([2, 100])
  })

  test('one descriptor closes a batch with IN_ORDER; what it skipped counts as written full (2.8.8)', () => {
    const { driver, ring } = make({ inOrder: true }, 7)
    send(driver, 1, [[0n, 5]], [[0n, 100]])
    send(driver, 2, [[0n, 5]])
    send(
      driver,
      3,
      [],
      [
        [0n, 50],
        [0n, 50],
      ],
    )
    send(driver, 4, [[0n, 5]])
    packedDescriptor(ring, 0, [0n, 70], 3, USED_LAP_1 | WRITE)
    expect(driver.enableCalls()).toBe(false)
    expect([driver.take(), driver.usedLength]).toEqual([1, 100])
    expect(driver.enableCalls()).toBe(false)
    expect(driver.save().used).toEqual([
      { token: 2, length: 0 },
      { token: 3, length: 70 },
    ])
    expect([driver.enableCalls(), driver.inFlight]).toEqual([false, 3])
    expect(driver.usedLength).toBe(100)
    expect([driver.take(), driver.usedLength]).toEqual([2, 0])
    expect([driver.take(), driver.usedLength]).toEqual([3, 70])
    expect([driver.take(), driver.freeCount]).toEqual([-1, 6])
    packedDescriptor(ring, 5, [0n, 0], 5, USED_LAP_1)
    expect([driver.take(), driver.freeCount]).toEqual([4, 7])
  })

  test('calls are asked for with the flags, or with the next used slot (2.8.14)', () => {
    const plain = make()
    plain.driver.disableCalls()
    expect(plain.driverEvent.u16(2)).toBe(1)
    expect([plain.driver.enableCalls(), plain.driverEvent.u16(2)]).toEqual([true, 0])

    const { driver, driverEvent, ring } = make({ eventIdx: true }, 3, 0x0002)
    driver.disableCalls()
    expect(driverEvent.u16(2)).toBe(1)
    send(driver, 1, [[0n, 1]])
    packedDescriptor(ring, 2, [0n, 0], 0, USED_LAP_0)
    expect(driver.enableCalls()).toBe(false)
    expect(hex(driverEvent)).toEqual(['02000200'])
    driver.take()
    expect(driver.enableCalls()).toBe(true)
    expect(hex(driverEvent)).toEqual(['00800200'])
  })
})

describe('a hostile device', () => {
  const broken = (driver: DriverRing, what: string, verb: () => unknown = () => driver.take()) => {
    const error = errorOf(verb)
    expect([error.code, error.message]).toEqual(['ERR_VDPA_RING_BROKEN', expect.stringContaining(what)])
    expect(error.message).toContain('against virtio 1.2 section 2.8')
    expect(driver.isBroken).toBe(true)
    for (const [name, again] of Object.entries(driverVerbs(driver))) {
      expect([name, errorOf(again).message]).toEqual([name, error.message])
    }
  }

  test.each([4, 0xffff])('used id %i out of range', (id) => {
    const { driver, ring } = make()
    send(driver, 1, [[0n, 1]])
    packedDescriptor(ring, 0, [0n, 0], id, USED_LAP_1)
    broken(driver, `used buffer id ${id} is not below the ring's size 4`)
  })

  test('a used id that was never given', () => {
    const { driver, ring } = make()
    send(driver, 1, [[0n, 1]])
    packedDescriptor(ring, 0, [0n, 0], 1, USED_LAP_1)
    broken(driver, 'used buffer id 1 is not that of a chain in flight')
  })

  test('a descriptor that is used while nothing is in flight', () => {
    const { driver, ring } = make()
    packedDescriptor(ring, 0, [0n, 0], 0, USED_LAP_1)
    broken(driver, 'used buffer id 0 is not that of a chain in flight')
  })

  test('the id of a chain that is committed and not published', () => {
    const { driver, ring } = make()
    driver.begin()
    driver.push(0, 0, 1, false)
    driver.commit(1)
    packedDescriptor(ring, 0, [0n, 0], 0, USED_LAP_1)
    broken(driver, 'used buffer id 0 is not that of a chain in flight')
  })

  test('a used id twice', () => {
    const { driver, ring } = make()
    send(driver, 1, [[0n, 1]])
    send(driver, 2, [[0n, 1]])
    packedDescriptor(ring, 0, [0n, 0], 0, USED_LAP_1)
    packedDescriptor(ring, 1, [0n, 0], 0, USED_LAP_1)
    expect(driver.take()).toBe(1)
    broken(driver, 'used buffer id 0 is not that of a chain in flight')
  })

  test.each([1, 101, 0xffff_ffff])(
    'more bytes written than may be are cut to what may be, and counted: %i',
    (length) => {
      const { driver, ring } = make()
      send(driver, 1, [[0n, 1000]], length === 1 ? [] : [[0n, 100]])
      packedDescriptor(ring, 0, [0n, length], 0, USED_LAP_1 | WRITE)
      expect([driver.take(), driver.usedLength, driver.overlongCount]).toEqual([1, length === 1 ? 0 : 100, 1])
    },
  )

  test.each([0x8000, 0x0080, USED_LAP_0])('flags 0x%i contradict, or are of another lap: nothing is used', (flags) => {
    const { driver, ring } = make()
    send(driver, 1, [[0n, 1]])
    packedDescriptor(ring, 0, [0n, 0], 0, flags)
    expect([driver.take(), driver.enableCalls(), driver.isBroken]).toEqual([-1, true, false])
  })

  test('descriptors that it overwrote are not read', () => {
    const { driver, ring } = make()
    send(driver, 1, [
      [0n, 1],
      [0n, 1],
    ])
    ring.bytes().fill(0xff)
    packedDescriptor(ring, 0, [0n, 0], 0, USED_LAP_1)
    expect([driver.take(), driver.freeCount]).toEqual([1, 4])
  })

  test('reset() mends: the ring and its memory are as new (2.6.1)', () => {
    const { driver, ring, driverEvent, deviceEvent } = make({ eventIdx: true, indirect: true }, 3)
    send(driver, 1, [
      [0n, 1],
      [0n, 1],
    ])
    driver.disableCalls()
    deviceEvent.setU32(0, 0xffff_ffff)
    packedDescriptor(ring, 0, [0n, 0], 2, USED_LAP_1)
    broken(driver, 'used buffer id 2')
    driver.reset()
    expect([driver.isBroken, driver.inFlight, driver.freeCount, driver.take()]).toEqual([false, 0, 3, -1])
    expect([ring.bytes().every((byte) => byte === 0), driverEvent.u32(0), deviceEvent.u32(0)]).toEqual([true, 0, 0])
    expect(driver.state()).toEqual({ available: 0x8000, used: 0x8000 })
    expect(
      send(driver, 5, [
        [0n, 1],
        [0n, 1],
      ]),
    ).toBe(true)
    expect(driver.freeCount).toBe(2)
  })
})
