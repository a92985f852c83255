// The device's side of a split ring that is held to vringh's law: nothing a driver does breaks it. That the kernel does the same is for the differential
// tests of traffic to say.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'

import { createDeviceRing } from '../../lib/virtqueue/create.js'
import { errorOf, loaded, splitDescriptor, splitDeviceByHand, TABLES_IOVA, TestQueue } from './support.js'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4

function ringOf(queue: TestQueue, state = { available: 0, used: 0 }) {
  return createDeviceRing({
    format: 'split',
    size: queue.options.size,
    areas: queue.areas,
    state,
    law: 'vringh',
    translateTable: (high, low, length) => queue.translateTable(high, low, length),
  })
}

function byHand() {
  const { queue, descriptor, available, offer } = splitDeviceByHand()
  // Descriptor 3 is a good chain, to see that the ring goes on.
  splitDescriptor(descriptor, 3, [0x3000n, 3])
  return { queue, device: ringOf(queue), descriptor, available, offer }
}

describe('a chain that cannot be followed is lost, and the one behind it is next', () => {
  test.each<readonly [string, readonly [index: number, segment: [bigint, number], flags: number, next: number][]]>([
    ['a loop', [[0, [0x1000n, 1], NEXT, 0]]],
    ['a descriptor that is none', [[0, [0x1000n, 1], NEXT, 4]]],
    [
      'readable behind writable',
      [
        [0, [0x1000n, 1], NEXT | WRITE, 1],
        [1, [0x2000n, 1], 0, 0],
      ],
    ],
    ['a table that cannot be read', [[0, [0x1000n, 16], INDIRECT, 0]]],
    ['half a table', [[0, [TABLES_IOVA, 17], INDIRECT, 0]]],
    ['a table of no bytes', [[0, [TABLES_IOVA, 0], INDIRECT, 0]]],
  ])('%s', (_name, descriptors) => {
    const { device, descriptor, offer } = byHand()
    for (const [index, segment, flags, next] of descriptors) splitDescriptor(descriptor, index, segment, flags, next)
    offer(0, 3)
    expect([device.next(), device.isBroken, device.state().available]).toEqual([false, false, 1])
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
    expect([device.next(), device.chain.id]).toEqual([true, 3])
    device.complete(3, 0)
    expect([device.publish(), device.state()]).toEqual([true, { available: 2, used: 1 }])
  })
})

test('a head that is no descriptor is waited for, until the driver mends it or takes it back', () => {
  const { device, available, offer } = byHand()
  offer(4)
  expect([device.next(), device.next(), device.isBroken, device.state().available]).toEqual([false, false, false, 0])
  available.setU16(2, 0)
  expect(device.next()).toBe(false)
  available.setU16(4, 3)
  available.setU16(2, 1)
  expect([device.next(), device.chain.id]).toEqual([true, 3])
})

test('how far ahead the index is does not matter, nor whether a chain is in flight', () => {
  const { device, available } = byHand()
  for (let entry = 0; entry < 4; entry++) available.setU16(4 + 2 * entry, 3)
  available.setU16(2, 6)
  expect(device.enableKicks()).toBe(false)
  let chains = 0
  while (device.next()) chains++
  expect([chains, device.state()]).toEqual([6, { available: 6, used: 0 }])
})

test('begins at any two positions', () => {
  const { queue, available } = byHand()
  const device = ringOf(queue, { available: 100, used: 7 })
  available.setU16(4, 3)
  available.setU16(2, 101)
  expect(device.next()).toBe(true)
  device.complete(3, 0)
  device.publish()
  expect(device.state()).toEqual({ available: 101, used: 8 })
})

describe('tables that were not negotiated', () => {
  test('are read, and the chain goes on behind them', () => {
    const { queue, device, descriptor, offer } = byHand()
    splitDescriptor(queue.tables, 0, [0x5000n, 5])
    splitDescriptor(descriptor, 0, [TABLES_IOVA, 16], INDIRECT | NEXT, 1)
    splitDescriptor(descriptor, 1, [0x6000n, 6], WRITE)
    offer(0)
    expect([device.next(), loaded(device)]).toEqual([
      true,
      { id: 0, slots: 2, readable: [[0x5000n, 5]], writable: [[0x6000n, 6]] },
    ])
  })

  test('but not at descriptor 0', () => {
    const { queue, device, descriptor, offer } = byHand()
    splitDescriptor(queue.tables, 0, [0x5000n, 5])
    splitDescriptor(descriptor, 1, [TABLES_IOVA, 16], INDIRECT | NEXT, 0)
    offer(1)
    expect([device.next(), loaded(device).readable]).toEqual([true, [[0x5000n, 5]]])
  })
})

test('lengths and addresses are not added up', () => {
  const { device, descriptor, offer } = byHand()
  splitDescriptor(descriptor, 0, [0xffff_ffff_ffff_f000n, 0xffff_ffff], NEXT, 1)
  splitDescriptor(descriptor, 1, [0n, 0xffff_ffff])
  offer(0)
  expect([device.next(), device.chain.readableLength]).toEqual([true, 2 * 0xffff_ffff])
})

test('whatever is in the memory, each look ends, breaks nothing, and stays in the ring', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 64 + 14, maxLength: 64 + 14 }), fc.nat(20), (bytes, ahead) => {
      const { queue, descriptor, available } = splitDeviceByHand()
      const device = ringOf(queue)
      descriptor.bytes().set(bytes.subarray(0, 64))
      available.bytes().set(bytes.subarray(64))
      available.setU16(2, ahead)
      for (let look = 0; look < 40; look++) if (device.next()) device.complete(device.chain.id, 0)
      device.publish()
      expect([device.isBroken, queue.firstDamage()]).toEqual([false, -1])
    }),
  )
})

test('is for split rings only', () => {
  const queue = new TestQueue({ format: 'packed', size: 4 })
  const make = () =>
    createDeviceRing({ format: 'packed', size: 4, areas: queue.areas, law: 'vringh', translateTable: () => undefined })
  expect(errorOf(make).message).toContain('law')
})
