// Drivers as Linux has them make indirect tables that have more descriptors than the ring, where the device takes so many segments: hosts that take drivers as they are let them.

import { describe, expect, test } from '@jest/globals'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { blockDevice } from '../../lib/models/block.js'
import type { Profile } from '../../lib/simulator/profiles.js'
import { transportFeatureBits as transport } from '../../lib/uapi/virtio-features.js'
import { splitDescriptor } from '../virtqueue/support.js'
import { drive } from './support.js'

const [NEXT, WRITE, INDIRECT] = [1, 2, 4]
const AVAIL = 0x80
const SIZE = 8
const SEGMENTS = 32
const [TABLE, HEAD, DATA, STATUS] = [0x1_0000, 0x2_0000, 0x2_1000, 0x2_2000]

/** Asks for sector 0 in 32 segments, as many as the disk says that it takes, by a ring of 8. */
function read(format: 'split' | 'packed', profile: Profile) {
  const { VIRTIO_F_RING_INDIRECT_DESC, VIRTIO_F_RING_PACKED } = transport
  const device = blockDevice({
    content: new Uint8Array(512).fill(5),
    moreFeatures: [VIRTIO_F_RING_INDIRECT_DESC, ...(format === 'packed' ? [VIRTIO_F_RING_PACKED] : [])],
  })
  const { memory, bytes, simulator, queues } = drive(device, { size: SIZE, options: { profile } })
  const ring = new RingMemory(memory.buffer, 0, memory.length)
  const parts = Array.from({ length: SEGMENTS }, (_, index) => [DATA + 16 * index, 16, WRITE] as const)
  const table = [[HEAD, 16, 0] as const, ...parts, [STATUS, 1, WRITE] as const]
  for (const [index, [address, length, flags]] of table.entries()) {
    const at = TABLE + 16 * index
    ring.setU32(at, address)
    ring.setU32(at + 8, length)
    const next = index === table.length - 1 ? 0 : NEXT | ((index + 1) << 16)
    ring.setU32(at + 12, format === 'split' ? flags | next : flags << 16)
  }
  bytes[STATUS] = 255
  splitDescriptor(ring, 0, [BigInt(TABLE), 16 * table.length], format === 'split' ? INDIRECT : 0)
  if (format === 'packed') ring.setU32(12, ((INDIRECT | AVAIL) << 16) >>> 0)
  else ring.store16(16 * SIZE + 2, 1)
  queues[0]?.kick.signal()
  simulator.drain()
  return { status: bytes[STATUS], isRead: bytes.subarray(DATA, DATA + 512).every((byte) => byte === 5), device }
}

describe.each(['split', 'packed'] as const)('a table of 34 descriptors in a %s ring of 8', (format) => {
  test.each<Profile>(['kernel', 'linux-6.12', 'linux-7'])('is carried out by %s', (profile) => {
    const { status, isRead, device } = read(format, profile)
    expect([status, isRead, device.violations]).toEqual([0, true, []])
  })

  test('is refused by rule where drivers are held to the specification', () => {
    const { status, device } = read(format, 'strict')
    expect([status, device.violations]).toEqual([255, [expect.stringMatching(/longer than/)]])
  })
})
