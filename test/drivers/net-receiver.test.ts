// When the device sees the buffers that come back, and when it is told of them: over a ring whose other side is played by hand.

import { describe, expect, test } from '@jest/globals'
import { FrameBuffers, frameBufferStride } from '../../lib/drivers/frame-buffers.js'
import { newNetCounters } from '../../lib/drivers/net-counters.js'
import { NetHeaders } from '../../lib/drivers/net-header.js'
import { NetReceiver } from '../../lib/drivers/net-receiver.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import type { DeviceRing, RingFormat } from '../../lib/virtqueue/virtqueue.js'
import { TestQueue } from '../virtqueue/support.js'

const SIZE = 16
const BUFFER_BYTES = 128
const FRAME_BYTES = 12 + 60

interface Scene {
  readonly receiver: NetReceiver
  readonly device: DeviceRing
  readonly kicks: { count: number; failure: Error | undefined }
  /** Frames come: the device fills so many buffers of those it has. */
  readonly fill: (count: number) => void
  /** Buffers that the device finds in the ring. */
  readonly found: () => number
  /** Gives the program frames, at most so many. */
  readonly receive: (budget?: number) => number
}

function scene(format: RingFormat, eventIdx: boolean): Scene {
  const memory = new TestQueue({ format, size: SIZE, features: { eventIdx } })
  const [ring, device] = [memory.driver(), memory.device()]
  const kicks: Scene['kicks'] = { count: 0, failure: undefined }
  const kick = () => {
    if (kicks.failure !== undefined) throw kicks.failure
    kicks.count++
  }
  const buffers = new RingMemory(new ArrayBuffer(SIZE * frameBufferStride(BUFFER_BYTES)))
  const publish = () => {
    if (ring.publish()) kick()
  }
  const queue = { ring, buffers, buffersIova: 0x1000n, isClosed: false, publish, kick }
  const headers = new NetHeaders(() => false)
  const receiver = new NetReceiver(new FrameBuffers(queue, BUFFER_BYTES), headers, newNetCounters(), eventIdx)
  receiver.post(receiver.buffers.idle())
  const held: number[] = []
  const found = () => {
    while (device.next()) held.push(device.chain.id)
    return held.length
  }
  const fill = (count: number) => {
    found()
    for (const id of held.splice(0, count)) device.complete(id, FRAME_BYTES)
    device.publish()
  }
  return { receiver, device, kicks, fill, found, receive: (budget = SIZE) => receiver.receive(() => undefined, budget) }
}

describe.each(['split', 'packed'] as const)('a %s receive queue', (format) => {
  test('shows the device each buffer that came back at once', () => {
    const { fill, found, receive } = scene(format, false)
    for (let count = 1; count <= SIZE; count++) {
      fill(count)
      expect(receive()).toBe(count)
      expect(found()).toBe(SIZE)
    }
  })

  test('tells of them by quarters of the ring, a device that wants to be told', () => {
    const { device, kicks, fill, receive } = scene(format, false)
    kicks.count = 0
    const told: number[] = []
    for (let frame = 0; frame < 8; frame++) {
      fill(1)
      receive()
      told.push(kicks.count)
    }
    expect(told).toEqual([0, 0, 0, 1, 1, 1, 1, 2])
    device.disableKicks()
    for (let frame = 0; frame < 8; frame++) {
      fill(1)
      receive()
    }
    expect(kicks.count).toBe(2)
  })

  test('tells at the quarter of what was asked for before it', () => {
    const { device, kicks, fill, receive } = scene(format, false)
    kicks.count = 0
    fill(1)
    receive()
    device.disableKicks()
    fill(3)
    receive()
    expect(kicks.count).toBe(1)
  })

  test('tells a device that has none left and asks by position of the first that comes back', () => {
    const { device, kicks, fill, found, receive } = scene(format, true)
    kicks.count = 0
    // While it has buffers it does not ask.
    device.disableKicks()
    fill(5)
    receive()
    expect(kicks.count).toBe(0)
    fill(SIZE)
    expect(found()).toBe(0)
    expect(device.enableKicks()).toBe(true)
    receive(1)
    expect(kicks.count).toBe(1)
    expect(found()).toBe(1)
    // It did not ask again.
    device.disableKicks()
    receive()
    expect(kicks.count).toBe(1)
    expect(found()).toBe(SIZE)
  })

  test('tells once more what could not be told', () => {
    const { kicks, fill, found, receive } = scene(format, false)
    kicks.count = 0
    kicks.failure = new Error('no kick')
    fill(4)
    expect(receive).toThrow('no kick')
    expect(found()).toBe(SIZE)
    kicks.failure = undefined
    fill(1)
    receive()
    expect(kicks.count).toBe(1)
    fill(3)
    receive()
    expect(kicks.count).toBe(1)
  })
})
