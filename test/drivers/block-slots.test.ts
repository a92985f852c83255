// Where the parts of a block request lie, when the addresses of its memory pass 2^32.

import { expect, test } from '@jest/globals'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import { BlockSlots, slotMemory } from '../../lib/drivers/block-slots.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import type { DriverRing } from '../../lib/virtqueue/virtqueue.js'

const SLOT_BYTES = 0x3000

test('data that passes 2^32 is pushed piece by piece at addresses of both halves', () => {
  const buffers = new RingMemory(new ArrayBuffer(slotMemory(1, SLOT_BYTES)))
  // The data begins 64 bytes on, and 0x1000 bytes before 2^32.
  const queue: Pick<DeviceQueue, 'buffers' | 'buffersIova'> = { buffers, buffersIova: 0x1_0000_0000n - 0x1040n }
  const slots = new BlockSlots(queue as DeviceQueue, 1, SLOT_BYTES)
  const pushed: [address: bigint, length: number, deviceWrites: boolean][] = []
  const ring: Pick<DriverRing, 'push'> = {
    push: (high, low, length, deviceWrites) =>
      void pushed.push([(BigInt(high) << 32n) | BigInt(low), length, deviceWrites]),
  }
  slots.pushData(ring as DriverRing, 0, 0x2800, 0x1000, true)
  expect(pushed).toEqual([
    [0xffff_f000n, 0x1000, true],
    [0x1_0000_0000n, 0x1000, true],
    [0x1_0000_1000n, 0x800, true],
  ])
})
