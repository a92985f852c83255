// The device's side of a packed ring, byte by byte, against a driver that is written out by hand and may be hostile.

import { describe, expect, test } from '@jest/globals'

import type { DeviceRing, RingFeatures } from '../../lib/virtqueue/virtqueue.js'
import { TABLES_IOVA, TestQueue, deviceVerbs, errorOf, hex, loaded, packedDescriptor } from './support.js'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4
/** Available in the lap with wrap counter 1, and in the one with 0. */
const LAP_1 = 0x0080
const LAP_0 = 0x8000

function make(features: RingFeatures = {}, size = 4, at?: number) {
  const queue = new TestQueue({
    format: 'packed',
    size,
    features,
    ...(at === undefined ? {} : { state: { available: at, used: at } }),
  })
  const device = queue.device()
  const { descriptor: ring, driver: driverEvent, device: deviceEvent } = queue.areas
  return { queue, device, ring, driverEvent, deviceEvent }
}

describe('loading chains (2.8.21)', () => {
  test('a list in the order of its slots; the id is that of its last descriptor', () => {
    const { device, ring } = make()
    expect(device.next()).toBe(false)
    packedDescriptor(ring, 0, [0x1122_3344_5566_7788n, 0x10], 1, LAP_1 | NEXT)
    packedDescriptor(ring, 1, [0x2000n, 0x20], 2, LAP_1 | NEXT | WRITE)
    packedDescriptor(ring, 2, [0x3000n, 0xffff_ff00], 0xfffe, LAP_1 | WRITE)
    expect(device.next()).toBe(true)
    const { id, ...rest } = loaded(device)
    expect(rest).toEqual({
      slots: 3,
      readable: [[0x1122_3344_5566_7788n, 0x10]],
      writable: [
        [0x2000n, 0x20],
        [0x3000n, 0xffff_ff00],
      ],
    })
    expect([device.chain.readableLength, device.chain.writableLength]).toEqual([0x10, 0xffff_ff20])
    expect(device.next()).toBe(false)
    device.complete(id, 5)
    device.publish()
    expect(hex(ring)[0]?.slice(16)).toBe('05000000' + 'feff' + '8280')
  })

  test('a list goes on round the end of the ring, where the flags turn', () => {
    const { device, ring } = make({}, 3, 0x8002)
    packedDescriptor(ring, 2, [0x1000n, 1], 0, LAP_1 | NEXT)
    packedDescriptor(ring, 0, [0x2000n, 2], 7, LAP_0)
    expect([device.next(), device.next()]).toEqual([true, false])
    expect(loaded(device).readable).toEqual([
      [0x1000n, 1],
      [0x2000n, 2],
    ])
    expect(device.state()).toEqual({ available: 1, used: 0x8002 })
    device.complete(device.chain.id, 0)
    device.publish()
    expect(device.state()).toEqual({ available: 1, used: 1 })
  })

  test('an indirect table: one after the other, all flags but WRITE ignored (2.8.7)', () => {
    const { device, ring, queue } = make({ indirect: true })
    packedDescriptor(ring, 0, [TABLES_IOVA + 64n, 48], 9, LAP_1 | INDIRECT | WRITE)
    packedDescriptor(queue.tables, 4, [0x1000n, 1], 77, 0)
    packedDescriptor(queue.tables, 5, [0x2000n, 2], 78, NEXT | INDIRECT | LAP_1)
    packedDescriptor(queue.tables, 6, [0x3000n, 3], 79, WRITE)
    device.next()
    expect(loaded(device)).toEqual({
      id: device.chain.id,
      slots: 1,
      readable: [
        [0x1000n, 1],
        [0x2000n, 2],
      ],
      writable: [[0x3000n, 3]],
    })
  })

  test('what the driver changes afterwards changes nothing', () => {
    const { device, ring } = make()
    packedDescriptor(ring, 0, [0x1000n, 100], 3, LAP_1 | WRITE)
    device.next()
    const before = loaded(device)
    packedDescriptor(ring, 0, [0x9000n, 1_000_000], 4, LAP_1)
    expect(loaded(device)).toEqual(before)
    expect(errorOf(() => device.complete(before.id, 101))).toBeInstanceOf(RangeError)
    device.complete(before.id, 100)
    device.publish()
    expect(ring.u16(12)).toBe(3)
  })

  test('a list may have more than 2^32 bytes: only split rings have that rule (2.7.5.2)', () => {
    const { device, ring } = make()
    packedDescriptor(ring, 0, [0n, 0xffff_ffff], 0, LAP_1 | NEXT | WRITE)
    packedDescriptor(ring, 1, [0n, 0xffff_ffff], 0, LAP_1 | WRITE)
    device.next()
    expect(device.chain.writableLength).toBe(0x1_ffff_fffe)
    device.complete(device.chain.id, 0xffff_ffff)
  })

  test('rewind() gives the chain again, over the end of the ring too, once', () => {
    const { device, ring } = make({}, 2, 0x8001)
    packedDescriptor(ring, 1, [0x1000n, 1], 0, LAP_1 | NEXT)
    packedDescriptor(ring, 0, [0x2000n, 1], 0, LAP_0)
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
    device.next()
    device.rewind()
    expect([device.inFlight, device.state().available]).toEqual([0, 0x8001])
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
    expect([device.next(), device.chain.count]).toEqual([true, 2])
    device.complete(device.chain.id, 0)
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
  })
})

describe('completing chains (2.8.22)', () => {
  test('used descriptors follow each other over the slots of the chains, the first announced last', () => {
    const { device, ring } = make({}, 5)
    packedDescriptor(ring, 0, [0n, 1], 20, LAP_1 | NEXT)
    packedDescriptor(ring, 1, [0n, 100], 20, LAP_1 | WRITE)
    packedDescriptor(ring, 2, [0n, 1], 21, LAP_1)
    device.next()
    const first = device.chain.id
    device.next()
    device.complete(device.chain.id, 0)
    device.complete(first, 100)
    expect(
      hex(ring)
        .map((line) => line.slice(16))
        .slice(0, 2),
    ).toEqual(['00000000' + '1500' + '8100', '64000000' + '1400' + '8280'])
    expect(device.publish()).toBe(true)
    expect(hex(ring)[0]?.slice(16)).toBe('00000000' + '1500' + '8080')
    expect([device.publish(), device.state()]).toEqual([false, { available: 0x8003, used: 0x8003 }])
  })

  test('with IN_ORDER one descriptor stands for a run that was written full (2.8.8)', () => {
    const { device, ring } = make({ inOrder: true }, 7)
    packedDescriptor(ring, 0, [0n, 10], 100, LAP_1 | WRITE | NEXT)
    packedDescriptor(ring, 1, [0n, 10], 100, LAP_1 | WRITE)
    for (const [at, length] of [
      [2, 20],
      [3, 30],
      [4, 40],
    ] as const)
      packedDescriptor(ring, at, [0n, length], 100 + at, LAP_1 | WRITE)
    const ids = [1, 2, 3, 4].map(() => {
      device.next()
      return device.chain.id
    })
    expect(errorOf(() => device.complete(ids[1] ?? -1, 20)).message).toContain('is due')
    for (const [at, written] of [20, 19, 30, 40].entries()) device.complete(ids[at] ?? -1, written)
    device.publish()
    // Chains 1 and 2 (three slots, closed by the short one) at slot 0; chains 3 and 4 at slot 3.
    expect(
      hex(ring)
        .map((line) => line.slice(16))
        .slice(0, 5),
    ).toEqual([
      '13000000' + '6600' + '8280',
      '0a000000' + '6400' + '8200',
      '14000000' + '6600' + '8200',
      '28000000' + '6800' + '8280',
      '28000000' + '6800' + '8200',
    ])
    expect(device.state().used).toBe(0x8005)
  })

  test.each([
    ['a chain that is not in flight', 1, 0],
    ['a chain that is out of range', 4, 0],
    ['no chain', -1, 0],
    ['NaN', NaN, 0],
    ['half a chain', 0.5, 0],
    ['more bytes than may be written', 0, 101],
    ['fewer than none', 0, -1],
    ['half a byte', 0, 0.5],
  ])('%s: RangeError, and nothing is completed', (_name, id, written) => {
    const { device, ring } = make()
    packedDescriptor(ring, 0, [0n, 100], 0, LAP_1 | WRITE)
    device.next()
    expect(device.chain.id).toBe(0)
    expect(errorOf(() => device.complete(id, written))).toBeInstanceOf(RangeError)
    expect([device.inFlight, device.publish(), ring.u16(14), device.isBroken]).toEqual([1, false, LAP_1 | WRITE, false])
    device.complete(0, 100)
  })
})

describe('notifications (2.8.10)', () => {
  test.each([
    ['enabled', 0, false, true],
    ['disabled', 1, false, false],
    ['for a descriptor, without EVENT_IDX', 2, false, true],
    ['reserved', 3, true, true],
    ['for a descriptor that was used', 2, true, true],
  ] as const)('calls %s', (_name, flags, eventIdx, wants) => {
    const { device, ring, driverEvent } = make({ eventIdx })
    driverEvent.setU16(0, 0x8000)
    driverEvent.setU16(2, flags)
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1)
    device.next()
    device.complete(0, 0)
    expect(device.publish()).toBe(wants)
  })

  test('kicks are asked for with the flags, or with the next slot (2.8.14)', () => {
    const plain = make()
    plain.device.disableKicks()
    expect(plain.deviceEvent.u16(2)).toBe(1)
    expect([plain.device.enableKicks(), plain.deviceEvent.u16(2)]).toEqual([true, 0])

    const { device, ring, deviceEvent } = make({ eventIdx: true }, 3, 0x8002)
    device.disableKicks()
    expect(hex(deviceEvent)).toEqual(['00000100'])
    packedDescriptor(ring, 2, [0n, 1], 0, LAP_1)
    expect(device.enableKicks()).toBe(false)
    expect(hex(deviceEvent)).toEqual(['02800200'])
    device.next()
    expect(device.enableKicks()).toBe(true)
    expect(hex(deviceEvent)).toEqual(['00000200'])
  })
})

describe('a hostile driver', () => {
  const broken = (device: DeviceRing, what: string, section: string, verb: () => unknown = () => device.next()) => {
    const error = errorOf(verb)
    expect([error.code, error.message]).toEqual(['ERR_VDPA_RING_BROKEN', expect.stringContaining(what)])
    expect(error.message).toContain(`against virtio 1.2 section ${section}`)
    expect(device.isBroken).toBe(true)
    for (const [name, again] of Object.entries(deviceVerbs(device))) {
      expect([name, errorOf(again).message]).toEqual([name, error.message])
    }
  }

  test('a list round and round the ring', () => {
    const { device, ring } = make({}, 3)
    for (let slot = 0; slot < 3; slot++) packedDescriptor(ring, slot, [0n, 1], 0, LAP_1 | NEXT)
    broken(device, 'descriptor 0 continues a list and is not available itself', '2.8.6')
  })

  test('a list longer than the slots that are free', () => {
    const { device, ring } = make({}, 3)
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1)
    device.next()
    packedDescriptor(ring, 1, [0n, 1], 0, LAP_1 | NEXT)
    packedDescriptor(ring, 2, [0n, 1], 0, LAP_1 | NEXT)
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_0)
    broken(device, 'the list at 1 is longer than the slots that are free', '2.8.17')
  })

  test.each([
    ['a direct descriptor', LAP_0, 'the list at 0 is longer than the slots that are free'],
    ['a table', LAP_0 | INDIRECT, 'descriptor 0 is available while all are in flight'],
  ])('%s made available over one in flight', (_name, flags, what) => {
    const { device, ring } = make({ indirect: true }, 1)
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1)
    device.next()
    packedDescriptor(ring, 0, [TABLES_IOVA, 16], 0, flags)
    broken(device, what, flags === LAP_0 ? '2.8.17' : '2.8.16')
  })

  test('over one that is completed and not published', () => {
    const { device, ring } = make({}, 1)
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1)
    device.next()
    device.complete(0, 0)
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_0)
    broken(device, 'the list at 0 is longer', '2.8.17')
  })

  test.each([0, LAP_0, 0x8080])('a list whose second descriptor has flags 0x%i', (flags) => {
    const { device, ring } = make()
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1 | NEXT)
    packedDescriptor(ring, 1, [0n, 1], 0, flags)
    broken(device, 'descriptor 1 continues a list and is not available itself', '2.8.6')
  })

  test('an indirect descriptor in a list', () => {
    const { device, ring } = make({ indirect: true })
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1 | NEXT)
    packedDescriptor(ring, 1, [TABLES_IOVA, 16], 0, LAP_1 | INDIRECT)
    broken(device, 'descriptor 1 of a list is indirect', '2.8.19')
  })

  test('a readable segment after a writable one', () => {
    const { device, ring } = make()
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1 | NEXT | WRITE)
    packedDescriptor(ring, 1, [0n, 1], 0, LAP_1)
    broken(device, 'descriptor 1: a device-readable segment follows a device-writable one', '2.8.17')
  })

  test('a segment that passes the end of the address space', () => {
    const { device, ring } = make()
    packedDescriptor(ring, 0, [0xffff_ffff_ffff_f001n, 0x1000], 0, LAP_1)
    broken(device, 'descriptor 0: a segment passes address 2^64-1', '2.8.4')
  })

  test.each([
    ['not a multiple of 16', 40, INDIRECT, 'an indirect table of 40 bytes is not a number of descriptors', '2.8.7'],
    ['of no bytes', 0, INDIRECT, 'an indirect table of 0 bytes', '2.8.7'],
    ['with NEXT', 16, INDIRECT | NEXT, 'a descriptor has both INDIRECT and NEXT', '2.8.19'],
    ['longer than the ring', 80, INDIRECT, 'an indirect table of 80 bytes is longer than a list may be', '2.8.5'],
  ])('a table %s', (_name, length, flags, what, section) => {
    const { device, ring } = make({ indirect: true })
    packedDescriptor(ring, 0, [TABLES_IOVA, length], 0, LAP_1 | flags)
    broken(device, what, section)
  })

  test('a table that is not mapped, and one that passes the end', () => {
    const one = make({ indirect: true })
    packedDescriptor(one.ring, 0, [0x1000n, 16], 0, LAP_1 | INDIRECT)
    broken(one.device, 'an indirect table lies where the device cannot read', '2.8.7')
    const other = make({ indirect: true })
    packedDescriptor(other.ring, 0, [0xffff_ffff_ffff_fff0n, 32], 0, LAP_1 | INDIRECT)
    broken(other.device, 'an indirect table passes address 2^64-1', '2.8.7')
  })

  test('a table without VIRTIO_F_INDIRECT_DESC', () => {
    const { device, ring } = make()
    packedDescriptor(ring, 0, [TABLES_IOVA, 16], 0, LAP_1 | INDIRECT)
    broken(device, 'an indirect descriptor without VIRTIO_F_INDIRECT_DESC', '2.8.19')
  })

  test('a table with a readable segment after a writable one', () => {
    const { device, ring, queue } = make({ indirect: true })
    packedDescriptor(ring, 0, [TABLES_IOVA, 32], 0, LAP_1 | INDIRECT)
    packedDescriptor(queue.tables, 0, [0n, 1], 0, WRITE)
    packedDescriptor(queue.tables, 1, [0n, 1], 0, 0)
    broken(device, 'indirect table: a device-readable segment follows', '2.8.17')
  })

  test('a lookup that throws is passed on, and the ring is as it was', () => {
    const { device, ring, queue } = make({ indirect: true })
    packedDescriptor(ring, 0, [0n, 1], 0, LAP_1)
    packedDescriptor(ring, 1, [TABLES_IOVA, 16], 0, LAP_1 | INDIRECT)
    device.next()
    const first = device.chain.id
    queue.translateTable = () => {
      throw new Error('the IOTLB is closed')
    }
    expect(errorOf(() => device.next()).message).toBe('the IOTLB is closed')
    expect([device.isBroken, device.inFlight, device.state().available]).toEqual([false, 1, 0x8001])
    // The chain loaded before is no longer in the columns, so it cannot be rewound; it can be completed.
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
    device.complete(first, 0)
  })

  test('reset() mends, and begins where it is told', () => {
    const { device, ring } = make({}, 3)
    packedDescriptor(ring, 0, [TABLES_IOVA, 16], 0, LAP_1 | INDIRECT)
    broken(device, 'an indirect descriptor', '2.8.19')
    device.reset({ available: 2, used: 2 })
    packedDescriptor(ring, 2, [0x1000n, 5], 0, LAP_0)
    expect([device.isBroken, device.next(), device.state()]).toEqual([false, true, { available: 0x8000, used: 2 }])
    expect(() => device.reset({ available: 1, used: 2 })).toThrow(RangeError)
    device.reset()
    expect(device.state()).toEqual({ available: 0x8000, used: 0x8000 })
  })
})
