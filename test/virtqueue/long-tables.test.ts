// Indirect tables that have more descriptors than their ring: no driver may make one, Linux' own do, and who takes them says how long they may be.

import { describe, expect, test } from '@jest/globals'
import { createDeviceRing } from '../../lib/virtqueue/create.js'
import type { DeviceLaw } from '../../lib/virtqueue/ring-options.js'
import type { RingFormat } from '../../lib/virtqueue/virtqueue.js'
import { errorOf, splitDescriptor, TABLES_IOVA, TestQueue } from './support.js'

const [NEXT, WRITE, INDIRECT] = [1, 2, 4]
const AVAIL = 0x80
const SIZE = 4
const TABLE = 40

/** A ring of 4 whose first chain is a table of 40 descriptors, of which the last 10 are written. */
function stage(format: RingFormat, options: { law?: DeviceLaw; longestTable?: number } = {}) {
  const queue = new TestQueue({ format, size: SIZE, features: { indirect: true }, tables: 1, tableSize: TABLE })
  const device = createDeviceRing({
    ...{ format, size: SIZE, areas: queue.areas, features: { indirect: true }, ...options },
    translateTable: (high, low, length) => queue.translateTable(high, low, length),
  })
  const { tables } = queue
  const { descriptor, driver } = queue.areas
  for (let index = 0; index < TABLE; index++) {
    const flags = (index < 30 ? 0 : WRITE) | (index === TABLE - 1 ? 0 : NEXT)
    if (format === 'split') splitDescriptor(tables, index, [BigInt(0x1000 * index), index + 1], flags, index + 1)
    else {
      tables.setU32(16 * index, 0x1000 * index)
      tables.setU32(16 * index + 8, index + 1)
      tables.setU32(16 * index + 12, flags << 16)
    }
  }
  splitDescriptor(descriptor, 0, [TABLES_IOVA, 16 * TABLE], format === 'split' ? INDIRECT : 0)
  if (format === 'packed') descriptor.setU32(12, (INDIRECT | AVAIL) << 16)
  else driver.store16(2, 1)
  return { queue, device, descriptor, driver }
}

describe.each(['split', 'packed'] as const)('a %s ring of 4 and a table of 40', (format) => {
  test('breaks where nothing is said', () => {
    const { device } = stage(format)
    expect(errorOf(() => device.next()).code).toBe('ERR_VDPA_RING_BROKEN')
  })

  test('loads it where tables of 40 are taken', () => {
    const { queue, device } = stage(format, { longestTable: TABLE })
    expect(device.next()).toBe(true)
    const { count, readableCount, slots, readableLength, writableLength, iovaLow, lengths } = device.chain
    expect([count, readableCount, slots, readableLength, writableLength]).toEqual([40, 30, 1, 465, 355])
    expect([iovaLow[39], lengths[39], iovaLow[0], lengths[0]]).toEqual([0x2_7000, 40, 0, 1])
    device.complete(device.chain.id, 355)
    expect([device.publish(), device.next(), queue.firstDamage()]).toEqual([true, false, -1])
  })

  test('breaks where tables of 39 are the longest', () => {
    const { device } = stage(format, { longestTable: TABLE - 1 })
    expect(errorOf(() => device.next()).message).toContain('longer than 39 descriptors')
  })

  test('refuses a number that no table can have', () => {
    for (const longestTable of [0, 1.5, 65_537])
      expect(() => stage(format, { longestTable })).toThrow(/longestTable must be an integer from 1 to 65536/)
    expect(() => stage(format, { longestTable: '9' as never })).toThrow(TypeError)
  })
})

test('direct descriptors that loop are found out all the same', () => {
  const { device, descriptor } = stage('split', { longestTable: TABLE })
  splitDescriptor(descriptor, 0, [0x1000n, 1], NEXT, 0)
  expect(errorOf(() => device.next()).message).toContain('the chain of descriptor 0 loops')
})

describe('by the law of vringh', () => {
  const law = { law: 'vringh' } as const

  test('it is taken, and the chain goes on behind it', () => {
    const { device, descriptor } = stage('split', law)
    splitDescriptor(descriptor, 0, [TABLES_IOVA, 16 * TABLE], INDIRECT | NEXT, 1)
    splitDescriptor(descriptor, 1, [0x5000n, 5], WRITE)
    expect([device.next(), device.chain.count, device.chain.slots, device.chain.writableLength]).toEqual([
      true,
      41,
      2,
      360,
    ])
  })

  test('one that loops is lost', () => {
    const { queue, device } = stage('split', law)
    splitDescriptor(queue.tables, 39, [0x1000n, 1], WRITE | NEXT, 39)
    expect([device.next(), device.isBroken, device.state().available]).toEqual([false, false, 1])
  })
})
