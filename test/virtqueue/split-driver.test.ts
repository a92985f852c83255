// The driver's side of a split ring, byte by byte, against a device that is written out by hand. The hostile one is next door.

import { describe, expect, test } from '@jest/globals'

import { TABLES_IOVA, TestQueue, errorOf, hex, send, splitDriverByHand } from './support.js'

describe('making chains available (2.7.13)', () => {
  test('a chain is linked descriptors, its head an entry, and visible when the index is', () => {
    const { driver, descriptor, available } = splitDriverByHand()
    driver.begin()
    driver.pushAddress(0x1122_3344_5566_7788n, 0x10, false)
    driver.push(0x0000_0001, 0x0000_2000, 0x20, false)
    driver.push(0, 0x3000, 0x30, true)
    driver.commit(77)
    expect(hex(descriptor)).toEqual([
      '8877665544332211' + '10000000' + '0100' + '0100',
      '0020000001000000' + '20000000' + '0100' + '0200',
      '0030000000000000' + '30000000' + '0200' + '0000',
      '00'.repeat(16),
    ])
    expect(hex(available)[0]).toBe('0000' + '0000' + '0000'.repeat(4) + '0000')
    expect(driver.publish()).toBe(true)
    expect(hex(available)[0]).toBe('0000' + '0100' + '0000'.repeat(4) + '0000')
    expect([driver.freeCount, driver.inFlight]).toEqual([1, 1])
    expect(driver.publish()).toBe(false)
  })

  test('several chains are published at once; entries and index come round', () => {
    const { driver, available, use } = splitDriverByHand({}, 2, 0xffff)
    for (const token of [1, 2]) {
      driver.begin()
      driver.push(0, token * 0x1000, 1, false)
      driver.commit(token)
    }
    expect(driver.publish()).toBe(true)
    expect(hex(available)[0]).toBe('0000' + '0100' + '0100' + '0000' + '0000')
    use([1, 0], [0, 0])
    expect([driver.take(), driver.take(), driver.take()]).toEqual([2, 1, -1])
    expect(driver.state()).toEqual({ available: 1, used: 1 })
  })

  test('a chain that does not fit leaves the ring as it was and may be committed later', () => {
    const { driver, queue, use } = splitDriverByHand()
    send(driver, 1, [
      [0x1000n, 1],
      [0x2000n, 1],
      [0x3000n, 1],
    ])
    const before = hex(queue.areas.descriptor)
    driver.begin()
    driver.push(0, 0x4000, 1, false)
    driver.push(0, 0x5000, 1, false)
    const error = errorOf(() => driver.commit(2))
    expect([error.code, error.message]).toEqual([
      'ERR_VDPA_NO_SPACE',
      'ERR_VDPA_NO_SPACE: the chain needs 2 descriptors, 1 are free',
    ])
    expect(hex(queue.areas.descriptor)).toEqual(before)
    use([0, 0])
    expect(driver.take()).toBe(1)
    driver.commit(2)
    expect(driver.publish()).toBe(true)
    use([queue.areas.driver.u16(4 + 2 * 1), 0])
    expect(driver.take()).toBe(2)
  })

  test('a chain longer than the ring never fits', () => {
    const { driver } = splitDriverByHand({ indirect: true })
    driver.begin()
    for (let segment = 0; segment < 5; segment++) driver.push(0, segment * 0x1000, 1, false)
    const error = errorOf(() => driver.commit(0))
    expect(error).toBeInstanceOf(RangeError)
    expect([error.code, error.message]).toEqual([
      'ERR_OUT_OF_RANGE',
      'the chain must be at most 4 segments long, as the ring has descriptors: a longer one never fits (got 5)',
    ])
    expect(errorOf(() => driver.commit(0)).code).toBe('ERR_OUT_OF_RANGE')
    // Another chain is not in its way.
    driver.begin()
    driver.push(0, 0, 1, false)
    driver.commit(0)
    expect(driver.inFlight).toBe(1)
  })

  test('begin() forgets what was not committed', () => {
    const { driver } = splitDriverByHand()
    driver.begin()
    driver.push(0, 0, 1, true)
    driver.begin()
    expect(errorOf(() => driver.commit(0)).code).toBe('ERR_VDPA_STATE')
    driver.push(0, 0, 1, false)
    driver.commit(0)
    expect(driver.freeCount).toBe(3)
  })

  test('with IN_ORDER descriptors are used in the order of the table, round its end (2.7.5)', () => {
    const { driver, descriptor, available, use } = splitDriverByHand({ inOrder: true })
    send(driver, 1, [
      [0x1000n, 1],
      [0x2000n, 1],
      [0x3000n, 1],
    ])
    use([0, 0])
    expect(driver.take()).toBe(1)
    send(driver, 2, [
      [0x4000n, 1],
      [0x5000n, 1],
    ])
    expect(hex(descriptor).map((line) => line.slice(24))).toEqual(['00000000', '01000200', '00000000', '01000000'])
    expect(available.u16(6)).toBe(3)
  })
})

describe('indirect tables (2.7.5.3)', () => {
  test('a chain of several segments goes to a table, one segment stays direct', () => {
    const { driver, descriptor, queue } = splitDriverByHand({ indirect: true })
    send(
      driver,
      1,
      [
        [0x1000n, 0x10],
        [0x2000n, 0x20],
      ],
      [[0x3000n, 0x30]],
    )
    send(driver, 2, [[0x4000n, 0x40]])
    expect(hex(descriptor).slice(0, 2)).toEqual([
      '00f0ffff07000000' + '30000000' + '0400' + '0000',
      '0040000000000000' + '40000000' + '0000' + '0000',
    ])
    expect(hex(queue.tables).slice(0, 4)).toEqual([
      '0010000000000000' + '10000000' + '0100' + '0100',
      '0020000000000000' + '20000000' + '0100' + '0200',
      '0030000000000000' + '30000000' + '0200' + '0000',
      '00'.repeat(16),
    ])
    expect(driver.freeCount).toBe(2)
  })

  test('without a free table, or in none long enough, chains are direct; a taken chain gives its table back', () => {
    const queue = new TestQueue({ format: 'split', size: 8, features: { indirect: true }, tables: 1, tableSize: 2 })
    const driver = queue.driver()
    send(driver, 1, [
      [0x1000n, 1],
      [0x2000n, 1],
    ])
    expect(driver.freeCount).toBe(7)
    send(driver, 2, [
      [0x1000n, 1],
      [0x2000n, 1],
    ])
    expect(driver.freeCount).toBe(5)
    queue.areas.device.store16(2, 1)
    expect(driver.take()).toBe(1)
    send(driver, 3, [
      [0x1000n, 1],
      [0x2000n, 1],
      [0x3000n, 1],
    ])
    expect(driver.freeCount).toBe(3)
    send(driver, 4, [
      [0x1000n, 1],
      [0x2000n, 1],
    ])
    expect(driver.freeCount).toBe(2)
  })

  test('the address of a later table carries into the high half', () => {
    const queue = new TestQueue({ format: 'split', size: 64, features: { indirect: true }, tables: 40, tableSize: 8 })
    const driver = queue.driver()
    for (let token = 0; token < 40; token++)
      send(driver, token, [
        [0n, 1],
        [1n, 1],
      ])
    const at = 39 * 16
    const iova = (BigInt(queue.areas.descriptor.u32(at + 4)) << 32n) | BigInt(queue.areas.descriptor.u32(at))
    expect(iova).toBe(TABLES_IOVA + 39n * 128n)
    expect(iova >> 32n).toBe(8n)
  })
})

describe('kicks (2.7.10)', () => {
  test('without EVENT_IDX bit 0 of the flags decides, and the event field is ignored', () => {
    const { driver, used } = splitDriverByHand()
    used.setU16(4 + 8 * 4, 0x1234)
    used.setU16(0, 1)
    expect(send(driver, 1, [[0n, 1]])).toBe(false)
    used.setU16(0, 0xfffe)
    expect(send(driver, 2, [[0n, 1]])).toBe(true)
  })

  test('with EVENT_IDX the entry at avail_event decides, and the flags are ignored', () => {
    const { driver, used } = splitDriverByHand({ eventIdx: true }, 8, 0xfffe)
    used.setU16(0, 1)
    used.setU16(4 + 8 * 8, 0xffff)
    expect(send(driver, 1, [[0n, 1]])).toBe(false)
    expect(send(driver, 2, [[0n, 1]])).toBe(true)
    expect(send(driver, 3, [[0n, 1]])).toBe(false)
  })

  test('with EVENT_IDX the first chain is kicked, wherever the ring begins and whatever lay in its memory', () => {
    for (const at of [0, 1, 0x7fff, 0xffff]) {
      const features = { eventIdx: true }
      const queue = new TestQueue({ format: 'split', size: 4, features, state: { available: at, used: at } })
      const { driver: available, device: used } = queue.areas
      for (const area of [available, used]) area.bytes(0, area.byteLength).fill(0xa5)
      // An event that the first chain does not pass.
      used.setU16(4 + 8 * 4, (at + 0x4000) & 0xffff)
      const driver = queue.driver()
      expect([available.u16(0), available.u16(2), used.u16(0), used.u16(2)]).toEqual([0, at, 0, at])
      expect(driver.take()).toBe(-1)
      expect(send(driver, 1, [[0n, 1]])).toBe(true)
    }
  })

  test('NOTIFICATION_DATA is the queue and the next entry, all 16 bits of it (2.9)', () => {
    const { driver } = splitDriverByHand({}, 4, 0x8001)
    expect(driver.notificationData(3)).toBe(0x8001_0003)
    driver.begin()
    driver.push(0, 0, 1, false)
    driver.commit(1)
    expect(driver.notificationData(3)).toBe(0x8001_0003)
    driver.publish()
    expect(driver.notificationData(0xffff)).toBe(0x8002_ffff)
  })
})

describe('taking used chains (2.7.8, 2.7.14)', () => {
  test('in the order of the used ring, with the length the device wrote', () => {
    const { driver, use } = splitDriverByHand()
    send(driver, 10, [[0n, 1]], [[0x1000n, 100]])
    send(driver, 11, [], [[0x2000n, 200]])
    expect(driver.take()).toBe(-1)
    use([2, 200], [0, 60])
    expect([driver.take(), driver.usedLength, driver.freeCount]).toEqual([11, 200, 2])
    expect([driver.take(), driver.usedLength, driver.freeCount]).toEqual([10, 60, 4])
    expect([driver.take(), driver.inFlight]).toEqual([-1, 0])
  })

  test('one entry closes a batch with IN_ORDER; what it skipped counts as written full (2.7.9)', () => {
    const { driver, used } = splitDriverByHand({ inOrder: true }, 8)
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
    used.setU32(4, 3)
    used.setU32(8, 70)
    used.setU16(2, 3)
    expect([driver.take(), driver.usedLength]).toEqual([1, 100])
    expect(driver.save().used).toEqual([
      { token: 2, length: 0 },
      { token: 3, length: 70 },
    ])
    expect(driver.usedLength).toBe(100)
    expect([driver.take(), driver.usedLength]).toEqual([2, 0])
    expect([driver.take(), driver.usedLength]).toEqual([3, 70])
    expect([driver.take(), driver.freeCount]).toEqual([-1, 7])
    used.setU32(4 + 8 * 3, 5)
    used.setU16(2, 4)
    expect([driver.take(), driver.usedLength, driver.freeCount]).toEqual([4, 0, 8])
  })

  test('calls are asked for with the flag, or with the event (2.7.7)', () => {
    const plain = splitDriverByHand()
    plain.driver.disableCalls()
    expect(plain.available.u16(0)).toBe(1)
    expect(plain.driver.enableCalls()).toBe(true)
    expect(plain.available.u16(0)).toBe(0)

    const { driver, available, use } = splitDriverByHand({ eventIdx: true }, 4, 7)
    expect(available.u16(12)).toBe(7)
    driver.disableCalls()
    expect([available.u16(0), available.u16(12)]).toEqual([0, 6])
    send(driver, 1, [[0n, 1]])
    send(driver, 2, [[0n, 1]])
    use([0, 0], [1, 0])
    expect(driver.enableCalls()).toBe(false)
    driver.take()
    expect(driver.enableCalls()).toBe(false)
    driver.take()
    expect(driver.enableCalls()).toBe(true)
    expect([available.u16(0), available.u16(12)]).toEqual([0, 9])
  })
})

test('a chain in flight while 2^16 others pass is still known as published', () => {
  const { driver, queue } = splitDriverByHand({}, 2)
  const { device: used } = queue.areas
  send(driver, 7, [[0n, 1]])
  for (let count = 0; count < 0x1_0000 - 1; count++) {
    send(driver, 8, [[0n, 1]])
    used.setU32(4 + 8 * (count % 2), 1)
    used.store16(2, count + 1)
    if (driver.take() !== 8) throw new Error('the other chain came back')
  }
  driver.begin()
  driver.push(0, 0, 1, false)
  driver.commit(9)
  used.setU32(4 + 8 * 1, 0)
  used.store16(2, 0)
  expect(driver.take()).toBe(7)
})

describe('publishing against a device that is going to sleep (2.7.13.4.1)', () => {
  const size = 4

  test.each([true, false])('the wish is looked at after the index is stored, event index %s', (eventIdx) => {
    const { driver, available, used } = splitDriverByHand({ eventIdx }, size)
    const wants = (isWanted: boolean) =>
      eventIdx ? used.setU16(4 + 8 * size, isWanted ? 0 : 0x7fff) : used.setU16(0, isWanted ? 0 : 1)
    wants(false)
    const store = available.store16.bind(available)
    // The device writes its wish just before the index is there to be seen, and will not look again.
    available.store16 = (at, value) => {
      wants(true)
      store(at, value)
    }
    expect(send(driver, 1, [[0n, 1]])).toBe(true)
  })
})
