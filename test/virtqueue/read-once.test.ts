// A peer may change memory between two reads of it. So nothing is read twice: here every field is destroyed as soon as it was read, and the rings
// must not notice.

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'

import { RingMemory } from '../../lib/memory/ring-memory.js'
import { TABLES_IOVA, TestQueue, loaded, packedDescriptor, send, splitDescriptor } from './support.js'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4

/** Absolute positions of the bytes that were read, in order. */
let reads: number[] = []

beforeEach(() => {
  reads = []
  // eslint-disable-next-line @typescript-eslint/unbound-method -- each is called with a `this` below
  const { u8, u16, u32, load16, setU8 } = RingMemory.prototype
  const destroying = (read: (this: RingMemory, offset: number) => number, width: number) =>
    function (this: RingMemory, offset: number): number {
      const value = read.call(this, offset)
      for (let byte = 0; byte < width; byte++) {
        reads.push(this.byteOffset + offset + byte)
        setU8.call(this, offset + byte, 0xee)
      }
      return value
    }
  jest.spyOn(RingMemory.prototype, 'u8').mockImplementation(destroying(u8, 1))
  jest.spyOn(RingMemory.prototype, 'u16').mockImplementation(destroying(u16, 2))
  jest.spyOn(RingMemory.prototype, 'u32').mockImplementation(destroying(u32, 4))
  jest.spyOn(RingMemory.prototype, 'load16').mockImplementation(destroying(load16, 2))
})

afterEach(() => {
  jest.restoreAllMocks()
})

function expectReadOnce(): void {
  expect(reads.length).toBeGreaterThan(0)
  expect(new Set(reads).size).toBe(reads.length)
}

describe('a device reads what a driver wrote once', () => {
  test('split: direct descriptors before a table', () => {
    const queue = new TestQueue({ format: 'split', size: 4, features: { indirect: true } })
    const device = queue.device()
    splitDescriptor(queue.areas.descriptor, 3, [0x1_0000_1000n, 10], NEXT, 1)
    splitDescriptor(queue.areas.descriptor, 1, [TABLES_IOVA, 32], INDIRECT)
    splitDescriptor(queue.tables, 0, [0x2_0000_2000n, 20], NEXT | WRITE, 1)
    splitDescriptor(queue.tables, 1, [0x3_0000_3000n, 30], WRITE)
    queue.areas.driver.setU16(4, 3)
    queue.areas.driver.setU16(2, 1)
    expect(device.next()).toBe(true)
    expect(loaded(device)).toEqual({
      id: 3,
      slots: 2,
      readable: [[0x1_0000_1000n, 10]],
      writable: [
        [0x2_0000_2000n, 20],
        [0x3_0000_3000n, 30],
      ],
    })
    expectReadOnce()
    device.complete(3, 50)
  })

  test.each(['list', 'table'] as const)('packed: a %s', (kind) => {
    const queue = new TestQueue({ format: 'packed', size: 3, features: { indirect: true } })
    const device = queue.device()
    if (kind === 'list') {
      packedDescriptor(queue.areas.descriptor, 0, [0x1_0000_1000n, 10], 0, 0x80 | NEXT)
      packedDescriptor(queue.areas.descriptor, 1, [0x2_0000_2000n, 20], 9, 0x80 | WRITE)
    } else {
      packedDescriptor(queue.areas.descriptor, 0, [TABLES_IOVA, 32], 9, 0x80 | INDIRECT)
      packedDescriptor(queue.tables, 0, [0x1_0000_1000n, 10], 0, 0)
      packedDescriptor(queue.tables, 1, [0x2_0000_2000n, 20], 0, WRITE)
    }
    expect(device.next()).toBe(true)
    expect(loaded(device)).toMatchObject({ readable: [[0x1_0000_1000n, 10]], writable: [[0x2_0000_2000n, 20]] })
    expectReadOnce()
    reads = []
    device.complete(device.chain.id, 20)
    expect(reads).toEqual([])
    device.publish()
    expectReadOnce()
  })
})

describe('a driver reads what a device wrote once, and never what it wrote itself', () => {
  test.each(['split', 'packed'] as const)('%s', (format) => {
    const queue = new TestQueue({ format, size: 4, features: { eventIdx: true } })
    const driver = queue.driver()
    reads = []
    send(driver, 7, [[0n, 1]], [[0n, 100]])
    expectReadOnce()
    if (format === 'split') {
      queue.areas.device.setU32(8, 60)
      queue.areas.device.setU32(4, 0)
      queue.areas.device.setU16(2, 1)
    } else {
      packedDescriptor(queue.areas.descriptor, 0, [0n, 60], 0, 0x8080 | WRITE)
    }
    reads = []
    expect([driver.take(), driver.usedLength]).toEqual([7, 60])
    expectReadOnce()
    expect([driver.freeCount, driver.inFlight]).toEqual([4, 0])
  })
})
