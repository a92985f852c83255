// The device's side of a split ring, against a hostile driver that is written out by hand.

import { describe, expect, test } from '@jest/globals'

import type { DeviceRing } from '../../lib/virtqueue/virtqueue.js'
import { TABLES_IOVA, deviceVerbs, errorOf, splitDescriptor, splitDeviceByHand } from './support.js'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4

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

  test('available index farther ahead than the ring is long', () => {
    const { device, available } = splitDeviceByHand()
    available.setU16(2, 5)
    broken(device, 'available index 5 is 5 ahead of used index 0 in a ring of 4', '2.7.13')
  })

  test('the same, seen when kicks are enabled', () => {
    const { device, available } = splitDeviceByHand()
    available.setU16(2, 0x8000)
    broken(device, 'available index 32768 is 32768 ahead', '2.7.13', () => device.enableKicks())
  })

  test('an index that goes back', () => {
    const { device, descriptor, offer, available } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0n, 1])
    splitDescriptor(descriptor, 1, [0n, 1])
    offer(0, 1)
    device.next()
    device.next()
    available.setU16(2, 1)
    broken(device, 'available index 1 is behind 2', '2.7.6.1')
  })

  test.each([4, 0xffff])('a head out of range: %i', (head) => {
    const { device, offer } = splitDeviceByHand()
    offer(head)
    broken(device, `available entry 0 names descriptor ${head} of 4`, '2.7.6')
  })

  test('a head whose chain is in flight', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 2, [0n, 1])
    offer(2, 2)
    device.next()
    broken(device, 'available entry 1 names descriptor 2, whose chain is in flight', '2.7.13.1')
  })

  test.each([
    ['a loop of one', [[0, NEXT, 0]]],
    [
      'a loop of two',
      [
        [0, NEXT, 1],
        [1, NEXT, 0],
      ],
    ],
    [
      'a loop that the head is not in',
      [
        [0, NEXT, 1],
        [1, NEXT, 2],
        [2, NEXT, 1],
      ],
    ],
  ] as const)('%s', (_name, links) => {
    const { device, descriptor, offer } = splitDeviceByHand()
    for (const [index, flags, next] of links) splitDescriptor(descriptor, index, [0x1000n, 1], flags, next)
    offer(0)
    broken(device, 'the chain of descriptor 0 loops, or is longer than the ring', '2.7.5.3.1')
  })

  test.each([4, 0xffff])('a chain that goes on at descriptor %i', (next) => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0x1000n, 1], NEXT, next)
    offer(0)
    broken(device, `goes on at ${next}, its table has 4 descriptors`, '2.7.5')
  })

  test('a readable segment after a writable one', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0x1000n, 1], NEXT | WRITE, 1)
    splitDescriptor(descriptor, 1, [0x1000n, 1])
    offer(0)
    broken(device, 'descriptor 1: a device-readable segment follows a device-writable one', '2.7.4.2')
  })

  test('a segment that passes the end of the address space', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0xffff_ffff_ffff_ffffn, 2])
    offer(0)
    broken(device, 'descriptor 0: a segment passes address 2^64-1', '2.7.5')
  })

  test('more than 2^32 bytes', () => {
    const { device, descriptor, offer } = splitDeviceByHand()
    splitDescriptor(descriptor, 0, [0n, 0xffff_ffff], NEXT, 1)
    splitDescriptor(descriptor, 1, [0n, 2], WRITE)
    offer(0)
    broken(device, 'the chain has more than 2^32 bytes', '2.7.5.2')
  })

  describe('with indirect tables', () => {
    test.each([
      ['not a multiple of 16', 40, INDIRECT, 'an indirect table of 40 bytes is not a number of descriptors', '2.7.5.3'],
      ['of no bytes', 0, INDIRECT, 'an indirect table of 0 bytes', '2.7.5.3'],
      ['with NEXT', 16, INDIRECT | NEXT, 'a descriptor has both INDIRECT and NEXT', '2.7.5.3.1'],
      [
        'beyond what is mapped',
        0x1000_0000,
        INDIRECT,
        'an indirect table lies where the device cannot read',
        '2.7.5.3',
      ],
    ])('a table %s', (_name, length, flags, what, section) => {
      const { device, descriptor, offer } = splitDeviceByHand({ indirect: true })
      splitDescriptor(descriptor, 0, [TABLES_IOVA, length], flags)
      offer(0)
      broken(device, what, section)
    })

    test('a table that passes the end of the address space', () => {
      const { device, descriptor, offer } = splitDeviceByHand({ indirect: true })
      splitDescriptor(descriptor, 0, [0xffff_ffff_ffff_fff0n, 32], INDIRECT)
      offer(0)
      broken(device, 'an indirect table passes address 2^64-1', '2.7.5.3')
    })

    test('a table without VIRTIO_F_INDIRECT_DESC', () => {
      const { device, descriptor, offer } = splitDeviceByHand()
      splitDescriptor(descriptor, 0, [TABLES_IOVA, 16], INDIRECT)
      offer(0)
      broken(device, 'an indirect descriptor without VIRTIO_F_INDIRECT_DESC', '2.7.5.3.1')
    })

    test('a table in a table', () => {
      const { device, descriptor, queue, offer } = splitDeviceByHand({ indirect: true })
      splitDescriptor(descriptor, 0, [TABLES_IOVA, 16], INDIRECT)
      splitDescriptor(queue.tables, 0, [TABLES_IOVA, 16], INDIRECT)
      offer(0)
      broken(device, 'an indirect table refers to another table', '2.7.5.3.1')
    })

    test('a link out of the table', () => {
      const { device, descriptor, queue, offer } = splitDeviceByHand({ indirect: true })
      splitDescriptor(descriptor, 0, [TABLES_IOVA, 32], INDIRECT)
      splitDescriptor(queue.tables, 0, [0n, 1], NEXT, 2)
      offer(0)
      broken(device, 'goes on at 2, its table has 2 descriptors', '2.7.5')
    })

    test('a chain in a table that is longer than the ring', () => {
      const { device, descriptor, queue, offer } = splitDeviceByHand({ indirect: true })
      splitDescriptor(descriptor, 0, [TABLES_IOVA, 128], INDIRECT)
      for (let index = 0; index < 5; index++)
        splitDescriptor(queue.tables, index, [0n, 1], index < 4 ? NEXT : 0, index + 1)
      offer(0)
      broken(device, "longer than the ring's 4 descriptors", '2.7.5.3.1')
    })

    test('a loop in a table, after a direct descriptor', () => {
      const { device, descriptor, queue, offer } = splitDeviceByHand({ indirect: true })
      splitDescriptor(descriptor, 0, [0n, 1], NEXT, 1)
      splitDescriptor(descriptor, 1, [TABLES_IOVA, 16], INDIRECT)
      splitDescriptor(queue.tables, 0, [0n, 1], NEXT, 0)
      offer(0)
      broken(device, 'the chain of descriptor 0 loops', '2.7.5.3.1')
    })
  })

  test('a lookup that throws is passed on, and the ring is as it was', () => {
    const { device, descriptor, queue, offer } = splitDeviceByHand({ indirect: true })
    splitDescriptor(descriptor, 0, [TABLES_IOVA, 16], INDIRECT)
    splitDescriptor(descriptor, 1, [0n, 1])
    offer(1, 0)
    device.next()
    queue.translateTable = () => {
      throw new Error('the IOTLB is closed')
    }
    expect(errorOf(() => device.next()).message).toBe('the IOTLB is closed')
    expect([device.isBroken, device.inFlight, device.state().available]).toEqual([false, 1, 1])
    // The chain loaded before is no longer in the columns, so it cannot be rewound; it can be completed.
    expect(errorOf(() => device.rewind()).code).toBe('ERR_VDPA_STATE')
    device.complete(1, 0)
  })

  test('reset() mends, and begins where it is told', () => {
    const { device, available, descriptor, used } = splitDeviceByHand()
    available.setU16(2, 9)
    broken(device, 'available index 9', '2.7.13')
    device.reset({ available: 8, used: 8 })
    splitDescriptor(descriptor, 0, [0x1000n, 5])
    expect([device.isBroken, device.next(), device.chain.id]).toEqual([false, true, 0])
    device.complete(0, 0)
    device.publish()
    expect([used.u16(2), device.state()]).toEqual([9, { available: 9, used: 9 }])
    expect(() => device.reset({ available: 8, used: 0 })).toThrow(RangeError)
  })
})
