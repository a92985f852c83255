// What a driver can make long, a device cuts: requests, chains and queues go on in other turns, and nothing is lost or done twice by it.

import { describe, expect, test } from '@jest/globals'
import { blockDevice, DEFAULT_BLOCK_FEATURES } from '../../lib/models/block.js'
import { customDevice } from '../../lib/models/custom.js'
import { networkDevice } from '../../lib/models/network.js'
import type { ModelDevice } from '../../lib/models/model-device.js'
import { RoundRobin, TurnMeter } from '../../lib/models/turn-meter.js'
import { netFeatureBits, transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { blockRequestTypes as types, virtioBlkOutHdr } from '../../lib/uapi/virtio-blk.js'
import { MAC, send, VERSION_AND_PLATFORM } from '../simulator/support.js'
import { drive, type DriveOptions, type Driven } from './support.js'

/** Has the device believe that its time is up whenever it looks. */
function hurried<D extends ModelDevice>(device: D, isTurnOver = () => true): D {
  const attach = device.attach.bind(device)
  device.attach = (host) => attach({ ...host, isTurnOver })
  return device
}

const HEAD = 0x1_0000
const STATUS = 0x1_0800
const DATA = 0x10_0000
const DATA_BYTES = 0x10_0000

/** A disk without limits of segments, and requests of `count` times the same megabyte. */
function disk(device: ModelDevice, options: DriveOptions = {}) {
  const driven = drive(device, { size: 256, memory: DATA + DATA_BYTES, ...options })
  const request = (type: number, count: number, at = HEAD, status = STATUS) => {
    virtioBlkOutHdr.encodeInto({ type, ioprio: 0, sector: 0n }, driven.bytes, at)
    driven.bytes[status] = 255
    const isRead = type === types.VIRTIO_BLK_T_IN
    const data = Array.from({ length: count }, () => [BigInt(DATA), DATA_BYTES, isRead] as const)
    send(queueOf(driven, 0), [[BigInt(at), 16, false], ...data, [BigInt(status), 1, true]], 7)
  }
  return { driven, request }
}

function queueOf({ queues }: Driven, index: number) {
  const queue = queues[index]
  if (queue === undefined) throw new Error(`no queue ${index}`)
  return queue
}

const unlimited = { capacity: 0x10_0000, features: DEFAULT_BLOCK_FEATURES & ~6n }

describe('a request of many megabytes', () => {
  test.each([
    ['a read', types.VIRTIO_BLK_T_IN, 200 * DATA_BYTES + 1],
    ['a write', types.VIRTIO_BLK_T_OUT, 1],
  ])('%s moves a share in each turn, and is answered once', (_name, type, used) => {
    const device = hurried(blockDevice({ ...unlimited, content: Uint8Array.of(5, 6, 7) }))
    const { driven, request } = disk(device)
    driven.bytes.fill(9, DATA)
    request(type, 200)
    const { ring } = queueOf(driven, 0)
    let turns = 0
    for (; driven.bytes[STATUS] === 255; turns++) expect(driven.simulator.step()).toMatch(/works$|told/)
    // 4096 units of 256 bytes are a megabyte.
    expect(turns).toBeGreaterThan(190)
    driven.simulator.drain()
    expect([ring.take(), ring.usedLength, ring.take(), driven.bytes[STATUS]]).toEqual([7, used, -1, 0])
    expect(device.counters).toMatchObject({ errors: 0, reads: used > 1 ? 1 : 0, writes: used > 1 ? 0 : 1 })
  })

  test.each([
    ['split', 0n],
    ['packed', 1n << BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED)],
    ['IN_ORDER', 1n << BigInt(transportFeatureBits.VIRTIO_F_IN_ORDER)],
  ])('%s: a device that is suspended in the middle of it has not taken it, and begins anew', (_name, more) => {
    const device = hurried(blockDevice({ ...unlimited, features: unlimited.features | more }))
    const { driven, request } = disk(device)
    const { simulator, client } = driven
    const before = client.vring('VHOST_GET_VRING_BASE', 0)
    request(types.VIRTIO_BLK_T_IN, 20)
    for (let turn = 0; turn < 6; turn++) simulator.step()
    client.call('VHOST_VDPA_SUSPEND')
    expect(client.vring('VHOST_GET_VRING_BASE', 0)).toBe(before)
    simulator.drain()
    expect(driven.bytes[STATUS]).toBe(255)
    client.call('VHOST_VDPA_RESUME')
    queueOf(driven, 0).kick.signal()
    simulator.drain()
    const { ring } = queueOf(driven, 0)
    expect([ring.take(), ring.usedLength, ring.take(), driven.bytes[STATUS]]).toEqual([7, 20 * DATA_BYTES + 1, -1, 0])
    expect(device.counters).toMatchObject({ reads: 1, errors: 0 })
  })

  test('goes on, from its beginning, when mappings change in the middle of it', () => {
    const device = hurried(blockDevice(unlimited))
    const { driven, request } = disk(device)
    request(types.VIRTIO_BLK_T_OUT, 20)
    for (let turn = 0; turn < 6; turn++) driven.simulator.step()
    driven.client.map(0, 0x1000_0000n, driven.simulator.allocate(4096))
    driven.simulator.drain()
    const { ring } = queueOf(driven, 0)
    expect([ring.take(), ring.take(), driven.bytes[STATUS]]).toEqual([7, -1, 0])
    expect(device.counters).toMatchObject({ writes: 1, errors: 0 })
  })

  test('is forgotten by a reset', () => {
    const device = hurried(blockDevice(unlimited))
    const { driven, request } = disk(device)
    request(types.VIRTIO_BLK_T_IN, 20)
    for (let turn = 0; turn < 6; turn++) driven.simulator.step()
    driven.client.set('VHOST_VDPA_SET_STATUS', 0)
    driven.simulator.drain()
    expect(driven.bytes[STATUS]).toBe(255)
    expect(device.queues[0]?.isHolding).toBe(false)
  })

  test('does not keep the other queues of its device waiting', () => {
    const device = hurried(blockDevice({ ...unlimited, queues: 2 }))
    const { driven, request } = disk(device)
    request(types.VIRTIO_BLK_T_IN, 100)
    driven.simulator.step()
    virtioBlkOutHdr.encodeInto({ type: types.VIRTIO_BLK_T_GET_ID, ioprio: 0, sector: 0n }, driven.bytes, HEAD + 64)
    const segments = [
      [BigInt(HEAD + 64), 16, false],
      [BigInt(HEAD + 128), 20, true],
      [BigInt(STATUS + 64), 1, true],
    ] as const
    send(queueOf(driven, 1), segments)
    while (queueOf(driven, 1).ring.take() < 0) driven.simulator.step()
    expect(driven.bytes[STATUS]).toBe(255)
  })
})

describe('the turns of a network device', () => {
  test('end after a share of commands, and go on with the rest', () => {
    const features = VERSION_AND_PLATFORM | (1n << BigInt(netFeatureBits.VIRTIO_NET_F_CTRL_VQ))
    const device = networkDevice({ mac: MAC, groups: [0, 0, 0] })
    const driven = drive(device, { features, size: 256 })
    for (let index = 0; index < 100; index++) {
      const chain = [
        [0x2_0000n, 2, false],
        [0x2_1000n, 1, true],
      ] as const
      send(queueOf(driven, 2), chain, index)
    }
    const counts: number[] = []
    while (driven.simulator.step() !== undefined) counts.push(device.counters.commands)
    expect(counts).toContain(64)
    expect(device.counters).toMatchObject({ commands: 100, commandErrors: 100 })
    const tokens = Array.from({ length: 100 }, () => queueOf(driven, 2).ring.take())
    expect(tokens).toEqual(Array.from({ length: 100 }, (_, index) => index))
  })

  test('end when they cost too much, and no pair waits for ever for another', () => {
    const device = hurried(networkDevice({ mac: MAC, queuePairs: 2, maxQueueSize: 256 }))
    const driven = drive(device, { size: 256, memory: 0x8_0000 })
    const { bytes } = driven
    bytes.set([4, 0, 2, 0], 0x4_0000)
    expect(driven.exchange(4, [[0x4_0000n, 4, false], [0x4_1000n, 1, true]])).toBe(1) // prettier-ignore
    // Each frame of 200 pieces costs more than 200 units: twenty of them are a turn.
    const pieces = Array.from({ length: 200 }, (_, index) => [BigInt(0x5_0000 + index), 1, false] as const)
    for (const queue of [1, 3]) send(queueOf(driven, queue), pieces, 1)
    // Both are filled again as soon as a frame comes back, so that neither is ever empty.
    const sent = new Map([1, 3].map((queue) => [queue, 0]))
    for (let count = 0; count < 100; count++) {
      for (const [queue, before] of sent) {
        if (queueOf(driven, queue).ring.take() < 0) continue
        sent.set(queue, before + 1)
        send(queueOf(driven, queue), pieces, 1)
      }
      driven.simulator.step()
    }
    expect(Math.min(...sent.values())).toBeGreaterThan(20)
  })
})

describe('a device of one’s own', () => {
  test('gives way after each call that lasted, and serves its queues round about', () => {
    const served: number[] = []
    const device = customDevice({ deviceId: 42, queues: 2, onKick: ({ index }) => void served.push(index) })
    const driven = drive(hurried(device))
    for (const queue of [0, 0, 0, 1, 1]) send(queueOf(driven, queue), [[0x2_0000n, 1, false]], 1)
    driven.simulator.drain()
    expect(served).toEqual([0, 1, 0, 1, 0])
  })
})

describe('the meter of a turn', () => {
  test('looks at the clock after a share of work, and stays over until the next turn', () => {
    let looks = 0
    let isUp = false
    const meter = new TurnMeter(() => (looks++, isUp))
    expect([meter.isOver, looks]).toEqual([false, 0])
    meter.countBytes(4095 * 256)
    expect([meter.isOver, looks]).toEqual([false, 0])
    meter.countBytes(256)
    expect([meter.isOver, looks]).toEqual([false, 1])
    isUp = true
    expect([meter.isOver, looks]).toEqual([false, 1])
    meter.countChain(4088)
    expect([meter.isOver, meter.isOver, looks]).toEqual([true, true, 2])
    meter.begin()
    expect([meter.isOver, looks]).toEqual([false, 2])
    meter.countUnknown()
    expect([meter.isOver, looks]).toEqual([true, 3])
  })

  test('a turn that ends early has the next begin behind its last queue', () => {
    const meter = new TurnMeter(() => true)
    const order: number[] = []
    const robin = new RoundRobin()
    const turn = (isLong: boolean, wantsMore = false) => {
      meter.begin()
      return robin.serveAll(3, meter, (index) => {
        order.push(index)
        if (isLong) meter.countUnknown()
        return wantsMore
      })
    }
    expect([turn(true), turn(false), turn(true), turn(true), turn(false, true)]).toEqual([
      true,
      false,
      true,
      true,
      true,
    ])
    expect(order).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2])
  })

  test('work that a program runs by hand is not cut', () => {
    const device = blockDevice(unlimited)
    const { driven, request } = disk(device)
    request(types.VIRTIO_BLK_T_IN, 100)
    expect(driven.simulator.step()).toBeDefined()
    driven.simulator.step()
    expect(driven.bytes[STATUS]).toBe(0)
  })
})
