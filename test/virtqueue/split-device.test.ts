// The device's side of a split ring, byte by byte, against a driver that is written out by hand. The hostile one is next door.

import { describe, expect, test } from '@jest/globals'

import { TABLES_IOVA, errorOf, hex, loaded, splitDescriptor, splitDeviceByHand } from './support.js'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4

describe('loading chains (2.7.13)', () => {
  test('direct descriptors in the order of their links', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 3, [0x1122_3344_5566_7788n, 0x10], NEXT, 1)
    splitDescriptor(descriptor, 1, [0x2000n, 0x20], NEXT | WRITE, 0)
    splitDescriptor(descriptor, 0, [0x3000n, 0xffff_ff00], WRITE, 7)
    expect(device.next()).toBe(false)
    offer(3)
    expect(device.next()).toBe(true)
    expect(loaded(device)).toEqual({
      id: 3,
      slots: 3,
      readable: [[0x1122_3344_5566_7788n, 0x10]],
      writable: [
        [0x2000n, 0x20],
        [0x3000n, 0xffff_ff00],
      ],
    })
    expect([device.chain.readableLength, device.chain.writableLength]).toEqual([0x10, 0xffff_ff20])
    expect([device.next(), device.inFlight]).toEqual([false, 1])
  })

  test('entries and index come round', () => {
    const { device, descriptor, offer, used } = splitDeviceByHand({}, 2, 0xffff)
    splitDescriptor(descriptor, 0, [0x1000n, 1])
    splitDescriptor(descriptor, 1, [0x2000n, 1], WRITE)
    offer(1, 0)
    expect([device.next(), device.chain.id, device.next(), device.chain.id]).toEqual([true, 1, true, 0])
    expect(device.state()).toEqual({ available: 1, used: 0xffff })
    device.complete(0, 0)
    device.complete(1, 1)
    device.publish()
    expect(hex(used)[0]).toBe('0000' + '0100' + '01000000' + '01000000' + '00000000')
    expect(device.state()).toEqual({ available: 1, used: 1 })
  })

  test('a segment of 0 bytes is a segment, and the last byte of the address space can be one', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0xffff_ffff_ffff_ffffn, 1], NEXT, 1)
    splitDescriptor(descriptor, 1, [0xffff_ffff_ffff_ffffn, 0])
    offer(0)
    device.next()
    expect(loaded(device).readable).toEqual([
      [0xffff_ffff_ffff_ffffn, 1],
      [0xffff_ffff_ffff_ffffn, 0],
    ])
  })

  test('what the driver changes afterwards changes nothing', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0x1000n, 100], WRITE)
    offer(0)
    device.next()
    const before = loaded(device)
    splitDescriptor(descriptor, 0, [0x9000n, 1_000_000], 0)
    expect(loaded(device)).toEqual(before)
    expect(errorOf(() => device.complete(0, 101))).toBeInstanceOf(RangeError)
    device.complete(0, 100)
  })

  test('rewind() gives the chain again, once, and not after another was completed', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0x1000n, 1])
    splitDescriptor(descriptor, 1, [0x2000n, 1])
    offer(0, 1)
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
    device.next()
    device.rewind()
    expect([device.inFlight, device.state().available]).toEqual([0, 0])
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
    device.next()
    device.next()
    expect(device.chain.id).toBe(1)
    device.complete(0, 0)
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
  })
})

describe('indirect tables (2.7.5.3)', () => {
  test('a table follows links of its own; WRITE on the descriptor is ignored', () => {
    const { device, descriptor, queue, offer } = splitDeviceByHand({ indirect: true })
    splitDescriptor(descriptor, 2, [TABLES_IOVA + 64n, 48], INDIRECT | WRITE, 99)
    splitDescriptor(queue.tables, 4, [0x1000n, 1], NEXT, 2)
    splitDescriptor(queue.tables, 5, [0x3000n, 3], WRITE)
    splitDescriptor(queue.tables, 6, [0x2000n, 2], NEXT, 1)
    offer(2)
    device.next()
    expect(loaded(device)).toEqual({
      id: 2,
      slots: 1,
      readable: [
        [0x1000n, 1],
        [0x2000n, 2],
      ],
      writable: [[0x3000n, 3]],
    })
  })

  test('direct descriptors may come before the table (2.7.5.3.2)', () => {
    const { device, descriptor, queue, offer } = splitDeviceByHand({ indirect: true })
    splitDescriptor(descriptor, 0, [0x1000n, 1], NEXT, 1)
    splitDescriptor(descriptor, 1, [TABLES_IOVA, 16], INDIRECT)
    splitDescriptor(queue.tables, 0, [0x2000n, 2], WRITE)
    offer(0)
    device.next()
    expect(loaded(device)).toEqual({ id: 0, slots: 2, readable: [[0x1000n, 1]], writable: [[0x2000n, 2]] })
  })
})

describe('completing chains (2.7.8)', () => {
  test('entries, then the index, for several chains in any order', () => {
    const { device, descriptor, used, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0x1000n, 100], WRITE)
    splitDescriptor(descriptor, 2, [0x2000n, 200], WRITE)
    offer(0, 2)
    device.next()
    device.next()
    device.complete(2, 200)
    device.complete(0, 7)
    expect(hex(used)[0]).toBe('0000' + '0000' + '02000000' + 'c8000000' + '00000000')
    expect(device.publish()).toBe(true)
    expect(hex(used).slice(0, 2)).toEqual([
      '0000' + '0200' + '02000000' + 'c8000000' + '00000000',
      '07000000' + '00'.repeat(12),
    ])
    expect(device.publish()).toBe(false)
  })

  test('with IN_ORDER one entry stands for a run that was written full (2.7.9)', () => {
    const { device, descriptor, used, offer } = splitDeviceByHand({ inOrder: true }, 8)
    for (const [index, length] of [10, 20, 30, 40].entries()) splitDescriptor(descriptor, index, [0n, length], WRITE)
    offer(0, 1, 2, 3)
    for (let count = 0; count < 4; count++) device.next()
    expect(errorOf(() => device.complete(1, 20)).message).toContain('chain 0 is due')
    device.complete(0, 10)
    device.complete(1, 19)
    device.complete(2, 30)
    device.complete(3, 40)
    device.publish()
    const entries = [0, 1, 2, 3].map((at) => [used.u32(4 + 8 * at), used.u32(8 + 8 * at)])
    expect(entries).toEqual([
      [1, 19],
      [0, 0],
      [3, 40],
      [0, 0],
    ])
    expect(used.u16(2)).toBe(4)
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
    const { device, descriptor, used, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0x1000n, 100], WRITE)
    offer(0)
    device.next()
    expect(errorOf(() => device.complete(id, written))).toBeInstanceOf(RangeError)
    expect([device.inFlight, device.publish(), used.u16(2), device.isBroken]).toEqual([1, false, 0, false])
    device.complete(0, 100)
  })
})

describe('notifications', () => {
  test('calls: bit 0 of the flags decides without EVENT_IDX (2.7.7.2)', () => {
    const { device, descriptor, available, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0n, 1])
    for (const [flags, wants] of [
      [0, true],
      [1, false],
      [0xfffe, true],
    ] as const) {
      available.setU16(0, flags)
      offer(0)
      device.next()
      device.complete(0, 0)
      expect(device.publish()).toBe(wants)
    }
  })

  test('calls: the entry at used_event decides with it, the flags do not', () => {
    const { device, descriptor, available, offer } = splitDeviceByHand({ eventIdx: true }, 4, 0xfffe)
    splitDescriptor(descriptor, 0, [0n, 1])
    available.setU16(0, 1)
    available.setU16(12, 0xffff)
    const wants = [1, 2, 3].map(() => {
      offer(0)
      device.next()
      device.complete(0, 0)
      return device.publish()
    })
    expect(wants).toEqual([false, true, false])
  })

  test('kicks are asked for with the flag, or with the event (2.7.10)', () => {
    const plain = splitDeviceByHand()
    plain.device.disableKicks()
    expect(plain.used.u16(0)).toBe(1)
    expect([plain.device.enableKicks(), plain.used.u16(0)]).toEqual([true, 0])

    const { device, descriptor, used, offer } = splitDeviceByHand({ eventIdx: true }, 4, 5)
    splitDescriptor(descriptor, 0, [0n, 1])
    device.disableKicks()
    expect([used.u16(0), used.u16(36)]).toEqual([0, 4])
    offer(0)
    expect(device.enableKicks()).toBe(false)
    device.next()
    expect([device.enableKicks(), used.u16(0), used.u16(36)]).toEqual([true, 0, 6])
  })
})

describe('publishing against a driver that is going to sleep (2.7.8.2)', () => {
  const size = 4

  test.each([true, false])('the wish is looked at after the index is stored, event index %s', (eventIdx) => {
    const { device, descriptor, available, used, offer } = splitDeviceByHand({ eventIdx }, size)
    splitDescriptor(descriptor, 0, [0n, 1], WRITE, 0)
    offer(0)
    device.next()
    const wants = (isWanted: boolean) =>
      eventIdx ? available.setU16(4 + 2 * size, isWanted ? 0 : 0x7fff) : available.setU16(0, isWanted ? 0 : 1)
    wants(false)
    const store = used.store16.bind(used)
    // The driver writes its wish just before the index is there to be seen, and will not look again.
    used.store16 = (at, value) => {
      wants(true)
      store(at, value)
    }
    device.complete(0, 1)
    expect(device.publish()).toBe(true)
  })
})
