// Options that make a simulated device like hardware: each as a driver by hand sees it.

import { describe, expect, test } from '@jest/globals'
import { AheadRing } from '../../lib/models/ahead-ring.js'
import { customDevice } from '../../lib/models/custom.js'
import type { DeviceCapabilities } from '../../lib/models/device-shape.js'
import { networkDevice } from '../../lib/models/network.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { virtioStatus } from '../../lib/uapi/virtio-status.js'
import { codeOf, MAC, send, VERSION_AND_PLATFORM } from '../simulator/support.js'
import { drive, type Driven } from './support.js'

const { VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER } = transportFeatureBits

/** A device of one queue that completes what it is given, and five chains in it. */
function five(capabilities: DeviceCapabilities, features: readonly number[] = []) {
  const served: number[] = []
  const device = customDevice({
    deviceId: 42,
    features: features.reduce((word, number) => word | (1n << BigInt(number)), VERSION_AND_PLATFORM),
    capabilities,
    onKick: (chain) => {
      const byte = new Uint8Array(1)
      chain.read(byte, 0, 1)
      served.push(byte[0] ?? 0)
    },
  })
  const driven = drive(device)
  for (let number = 1; number <= 5; number++) {
    driven.bytes[0x1_0000 + number] = number
    send(queueOf(driven), [[BigInt(0x1_0000 + number), 1, false]], number)
  }
  /** One turn of the device, and what it answered in all. */
  const turn = () => {
    for (let step = driven.simulator.step(); step?.endsWith('works') === false; step = driven.simulator.step());
    return [...served]
  }
  return { ...driven, device, served, turn, base: () => codeOf(() => driven.client.vring('VHOST_GET_VRING_BASE', 0)) }
}

function queueOf({ queues }: Pick<Driven, 'queues'>) {
  const [queue] = queues
  if (queue === undefined) throw new Error('no queue')
  return queue
}

describe('takesAhead', () => {
  test('takes chains in one turn and answers them in the next, so many at a time', () => {
    const { turn, simulator, device } = five({ takesAhead: 3 })
    expect(turn()).toEqual([])
    expect(device.queues[0]?.ring.inFlight).toBe(3)
    expect(turn().length).toBeGreaterThan(0)
    simulator.drain()
    expect(turn()).toEqual([1, 2, 3, 4, 5])
  })

  test.each([
    ['newest first', [], [5, 4, 3, 2, 1]],
    ['in order where that was negotiated', [VIRTIO_F_IN_ORDER], [1, 2, 3, 4, 5]],
    ['newest first in a packed ring', [VIRTIO_F_RING_PACKED], [5, 4, 3, 2, 1]],
  ])('answers %s', (_name, features, order) => {
    const { turn, queues } = five({ takesAhead: 32, answersNewestFirst: true }, features)
    expect(turn()).toEqual([])
    expect(turn()).toEqual(order)
    expect(Array.from({ length: 6 }, () => queueOf({ queues }).ring.take())).toEqual([...order, -1])
  })

  test('what a suspended device took it answers after resume(), without a kick, and forgets at a reset', () => {
    const { client, simulator, served, turn } = five({ takesAhead: 32 })
    turn()
    client.call('VHOST_VDPA_SUSPEND')
    simulator.drain()
    expect(served).toEqual([])
    client.call('VHOST_VDPA_RESUME')
    simulator.drain()
    expect(served).toEqual([1, 2, 3, 4, 5])
    const other = five({ takesAhead: 32 })
    other.turn()
    other.client.set('VHOST_VDPA_SET_STATUS', 0)
    other.simulator.drain()
    expect(other.served).toEqual([])
  })

  test('what it took stays taken when mappings change', () => {
    const { client, simulator, served, turn } = five({ takesAhead: 32 })
    turn()
    client.map(0, 0x1000_0000n, simulator.allocate(4096))
    simulator.drain()
    expect(served).toEqual([1, 2, 3, 4, 5])
  })

  test('receive buffers wait for a frame, taken or not, and a frame that needs too many leaves them', () => {
    const device = networkDevice({
      mac: MAC,
      moreFeatures: [15],
      capabilities: { takesAhead: 4, answersNewestFirst: true },
    })
    const driven = drive(device, { size: 16, memory: 0x4_0000 })
    const [receive, transmit] = driven.queues
    if (receive === undefined || transmit === undefined) throw new Error('no queues')
    for (let index = 0; index < 6; index++) send(receive, [[BigInt(0x2_0000 + index * 0x100), 64, true]], index)
    const frame = (length: number) => {
      driven.bytes.fill(0, 0x3_0000, 0x3_0000 + 1024)
      driven.bytes.fill(0xff, 0x3_000c, 0x3_0012)
      send(transmit, [[0x3_0000n, 12 + length, false]], 1)
      expect(driven.simulator.drain()).toBeLessThan(100)
    }
    // 7 buffers of 64 are needed, and 6 there.
    frame(400)
    expect([device.counters.rxOverruns, receive.ring.take()]).toEqual([1, -1])
    frame(200)
    expect(device.counters.rxPackets).toBe(1)
    const tokens = Array.from({ length: 4 }, () => receive.ring.take())
    expect(new Set(tokens).size).toBe(4)
    expect(tokens).not.toContain(-1)
    expect(receive.ring.take()).toBe(-1)
  })

  test.each([0, -1, 1.5, 0x8001])('refuses %d chains', (takesAhead) => {
    expect(() => customDevice({ deviceId: 42, capabilities: { takesAhead } })).toThrow(RangeError)
  })
})

describe('a ring that is taken ahead', () => {
  test('gives back the chain in hand, once', () => {
    const { turn, device } = five({ takesAhead: 2 })
    turn()
    const ring = device.queues[0]?.ring
    if (!(ring instanceof AheadRing)) throw new Error('not such a ring')
    device.meter.begin()
    expect([ring.next(), ring.chain.id]).toEqual([true, 0])
    ring.rewind()
    expect(() => ring.rewind()).toThrow('no chain is in hand')
    expect([ring.next(), ring.chain.id, ring.next(), ring.chain.id]).toEqual([true, 0, true, 1])
    ring.reset({ available: 0, used: 0 })
    expect([ring.owesAnswers, ring.inFlight]).toEqual([false, 0])
  })

  test('gives back what it gave since it said where it stood, also where it was asked again meanwhile', () => {
    const { turn, device } = five({ takesAhead: 3 })
    turn()
    const ring = device.queues[0]?.ring
    if (ring === undefined) throw new Error('no ring')
    device.meter.begin()
    const from = ring.state()
    expect([ring.next(), ring.chain.id, ring.next(), ring.chain.id]).toEqual([true, 0, true, 1])
    ring.state()
    ring.reset(from)
    expect([ring.next(), ring.chain.id, ring.next(), ring.chain.id]).toEqual([true, 0, true, 1])
  })
})

describe('vringState', () => {
  test.each([
    ['available index', [], 4],
    ['used index', [], 0],
    ['available index', [VIRTIO_F_RING_PACKED], 0x8000_8004],
    ['used index', [VIRTIO_F_RING_PACKED], 0x8000_8000],
  ] as const)('%s %j', (vringState, features, expected) => {
    const { turn, client, base } = five({ takesAhead: 4, vringState }, features)
    turn()
    client.call('VHOST_VDPA_SUSPEND')
    expect(base()).toBe(expected)
  })

  test.each([
    ['split', [], 0, 1],
    ['packed', [VIRTIO_F_RING_PACKED], 0x8000_8000, 0x8000_0000],
  ])('none: it is not there, and %s rings begin at their beginning only', (_name, features, initial, other) => {
    const { client, base } = five({ vringState: 'none' }, features)
    client.call('VHOST_VDPA_SUSPEND')
    expect(base()).toBe('EOPNOTSUPP')
    const set = (value: number) => codeOf(() => client.vring('VHOST_SET_VRING_BASE', 0, value))
    expect([set(initial), set(other)]).toEqual([initial, 'EOPNOTSUPP'])
  })

  test('refuses other words', () => {
    const capabilities = { vringState: 'last' } as unknown as DeviceCapabilities
    expect(() => customDevice({ deviceId: 42, capabilities })).toThrow(RangeError)
  })
})

describe('disablesQueues', () => {
  test.each([
    [true, false],
    [false, true],
  ])('%p: disabling a queue has the device break down: %p', (disablesQueues, breaks) => {
    const { client, device } = five({ disablesQueues })
    client.vring('VHOST_VDPA_SET_VRING_ENABLE', 0, 0)
    expect((device.status() & virtioStatus.NEEDS_RESET) !== 0).toBe(breaks)
    expect(device.queues[0]?.isReady).toBe(breaks)
    client.set('VHOST_VDPA_SET_STATUS', 0)
    // What is not enabled can be disabled by any device.
    client.vring('VHOST_VDPA_SET_VRING_ENABLE', 0, 0)
    expect([device.status(), device.queues[0]?.isReady]).toEqual([0, false])
  })
})

describe('work that was due when the device was suspended', () => {
  test('is done after resume(), without a kick', () => {
    const { client, simulator, served } = five({})
    client.call('VHOST_VDPA_SUSPEND')
    simulator.drain()
    expect(served).toEqual([])
    client.call('VHOST_VDPA_RESUME')
    simulator.drain()
    expect(served).toEqual([1, 2, 3, 4, 5])
  })
})
