// A disk whose store takes its time: what is answered when, what a failure becomes, and what happens to what is under way.

import { expect, test } from '@jest/globals'
import { vdpaError } from '../../lib/base/errors.js'
import type { BlockStore } from '../../lib/models/block-store.js'
import { storedBlockDevice, STORED_BLOCK_FEATURES, type StoredBlockOptions } from '../../lib/models/stored-block.js'
import { blockFeatureBits, transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { blockRequestTypes as types, decodeBlockConfig, virtioBlkOutHdr } from '../../lib/uapi/virtio-blk.js'
import { makeQueue, send } from '../simulator/support.js'
import { drive } from './support.js'

const HEAD = 0x1_0000
const DATA = 0x1_1000
const STATUS = 0x1_0800
const [OK, IOERR] = [0, 1]
const FLUSH = 1n << BigInt(blockFeatureBits.VIRTIO_BLK_F_FLUSH)
const WCE = 1n << BigInt(blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE)
const none = new Uint8Array(0)

/** A store whose calls wait until the test lets them end. */
class SlowStore implements BlockStore {
  size = 512 * 1024
  readonly bytes = new Uint8Array(this.size)
  readonly calls: string[] = []
  readonly waiting: { readonly end: () => void; readonly fail: () => void }[] = []
  isThrowing = false
  /** What a store has at hand it gives at once. */
  readNow?: (position: number, target: Uint8Array) => boolean
  buffer?: (length: number) => Uint8Array

  #call(name: string, work: () => void): Promise<void> {
    this.calls.push(name)
    if (this.isThrowing) throw new Error('the store threw')
    return new Promise((resolve, reject) => {
      const end = () => {
        work()
        resolve()
      }
      this.waiting.push({ end, fail: () => reject(new Error('the store failed')) })
    })
  }

  read(position: number, target: Uint8Array): Promise<void> {
    return this.#call(`read ${position} ${target.length}`, () =>
      target.set(this.bytes.subarray(position, position + target.length)),
    )
  }

  write(position: number, source: Uint8Array): Promise<void> {
    return this.#call(`write ${position} ${source.length}`, () => this.bytes.set(source, position))
  }

  clear(position: number, length: number): Promise<void> {
    return this.#call(`clear ${position} ${length}`, () => this.bytes.fill(0, position, position + length))
  }

  flush(): Promise<void> {
    return this.#call('flush', () => undefined)
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

function stage(options: StoredBlockOptions = {}, features?: bigint) {
  const store = new SlowStore()
  const device = storedBlockDevice(store, options)
  const driven = drive(device, { memory: 0x10_0000, ...(features !== undefined && { features }) })
  const { bytes, simulator, queues } = driven
  const queue = queues[0]
  if (queue === undefined) throw new Error('a disk has a queue')
  /** Makes a request available, in slot `at` of the memory, and gives the device a turn. */
  function ask(type: number, sector: number, readable: Uint8Array, writable = 0, at = 0) {
    const [head, status, data] = [HEAD + at * 16, STATUS + at, DATA + at * 0x2_0000]
    virtioBlkOutHdr.encodeInto({ type, ioprio: 0, sector: BigInt(sector) }, bytes, head)
    bytes[status] = 255
    bytes.set(readable, data)
    const segments = [
      [BigInt(head), 16, false],
      ...(readable.length > 0 ? [[BigInt(data), readable.length, false] as const] : []),
      ...(writable > 0 ? [[BigInt(data), writable, true] as const] : []),
      [BigInt(status), 1, true],
    ] as const
    if (queue !== undefined) send(queue, segments, at + 1)
    simulator.drain()
  }
  /** Lets what the store has end, well or not, and the device go on. */
  async function step(how: 'end' | 'fail' = 'end') {
    store.waiting.shift()?.[how]()
    await turn()
    simulator.drain()
  }
  const statusOf = (at = 0) => bytes[STATUS + at]
  return { store, device, ask, step, statusOf, ring: queue.ring, queue, ...driven }
}

test('has the shape of its store', () => {
  const { device } = stage()
  expect(device.features()).toBe(STORED_BLOCK_FEATURES)
  expect(decodeBlockConfig(device.config)).toMatchObject({ capacity: 1024n, blockSize: 512 })
})

test('what the store has at hand is answered in the same turn, and asked for otherwise', async () => {
  const { store, ask, step, statusOf, bytes } = stage()
  store.bytes.fill(7)
  const asked: string[] = []
  let hasIt = true
  store.readNow = (position, target) => {
    asked.push(`${position} ${target.length}`)
    if (hasIt) target.fill(9)
    return hasIt
  }
  ask(types.VIRTIO_BLK_T_IN, 2, none, 1024)
  expect([statusOf(), store.calls, asked]).toEqual([OK, [], ['1024 1024']])
  expect(bytes.subarray(DATA, DATA + 1025)).toEqual(new Uint8Array(1025).fill(9, 0, 1024))
  hasIt = false
  ask(types.VIRTIO_BLK_T_IN, 4, none, 512)
  expect([statusOf(), store.calls]).toEqual([255, ['read 2048 512']])
  await step()
  expect([statusOf(), bytes[DATA]]).toEqual([OK, 7])
  store.readNow = () => {
    throw new Error('the store threw')
  }
  ask(types.VIRTIO_BLK_T_IN, 0, none, 512)
  expect(statusOf()).toBe(IOERR)
})

test.each([
  ['a bug of the program', new Error('the store threw')],
  ['a refusal by name', vdpaError('ERR_VDPA_STATE', 'no memory now')],
])('memory that the store does not give is IOERR, and asked for again: %s', async (_name, failure) => {
  const { store, ask, step, statusOf, device } = stage()
  let asked = 0
  store.buffer = (length) => {
    if (asked++ < 2) throw failure
    return new Uint8Array(length)
  }
  ask(types.VIRTIO_BLK_T_IN, 0, none, 512)
  expect(statusOf()).toBe(IOERR)
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512).fill(3))
  expect([statusOf(), store.calls, device.status() & 0x40]).toEqual([IOERR, [], 0])
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512).fill(3))
  await step()
  expect([statusOf(), store.bytes[511], asked]).toEqual([OK, 3, 3])
})

test.each(['readNow', 'read'] as const)('a store that resets the device in its %s()', async (name) => {
  const { store, ask, step, statusOf, device, simulator } = stage()
  const read = store.read.bind(store)
  store.readNow = () => {
    if (name === 'readNow') device.reset()
    return name === 'readNow'
  }
  store.read = (position, target) => {
    device.reset()
    return read(position, target)
  }
  ask(types.VIRTIO_BLK_T_IN, 0, none, 512)
  await step()
  simulator.drain()
  expect([statusOf(), device.status()]).toEqual([255, 0])
})

test('a write is answered when the store has it, and a flush when that is done', async () => {
  const { store, ask, step, statusOf, ring, device } = stage()
  const data = Uint8Array.from({ length: 1024 }, (_, index) => (index * 7) & 255)
  ask(types.VIRTIO_BLK_T_OUT, 2, data)
  expect([statusOf(), ring.take()]).toEqual([255, -1])
  await step()
  expect([statusOf(), ring.take()]).toEqual([OK, 1])
  expect(Buffer.compare(store.bytes.subarray(1024, 2048), data)).toBe(0)
  ask(types.VIRTIO_BLK_T_FLUSH, 0, none)
  expect(statusOf()).toBe(255)
  await step()
  expect(statusOf()).toBe(OK)
  expect(store.calls).toEqual(['write 1024 1024', 'flush'])
  expect(device.counters).toMatchObject({ writes: 1, bytesWritten: 1024, flushes: 1, errors: 0 })
})

test('a read brings the bytes into the guest’s memory, in pieces where it is long', async () => {
  const { store, ask, step, statusOf, bytes } = stage({ features: STORED_BLOCK_FEATURES & ~2n })
  store.bytes.fill(7, 0, 0x3_0000)
  // Of what takes several steps nothing is taken at once, so that others have their turn between two.
  store.readNow = () => true
  ask(types.VIRTIO_BLK_T_IN, 0, none, 0x3_0000)
  await step()
  expect(statusOf()).toBe(255)
  await step()
  expect([statusOf(), bytes[DATA], bytes[DATA + 0x2_ffff], bytes[DATA + 0x3_0000]]).toEqual([OK, 7, 7, 0])
  expect(store.calls).toEqual(['read 0 131072', 'read 131072 65536'])
})

test.each([
  ['without FLUSH', STORED_BLOCK_FEATURES & ~FLUSH, [], undefined],
  ['with its cache off', STORED_BLOCK_FEATURES | WCE, [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE], 0],
])('for a driver %s each write is flushed before it is answered', async (_name, features, moreFeatures, cache) => {
  const { store, ask, step, statusOf, device } = stage({ moreFeatures }, features)
  if (cache !== undefined) device.writeConfig(32, Uint8Array.of(cache))
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512).fill(1))
  await step()
  expect([statusOf(), store.calls]).toEqual([255, ['write 0 512', 'flush']])
  await step()
  expect([statusOf(), device.counters.writes]).toEqual([OK, 1])
  if (cache === undefined) return
  device.writeConfig(32, Uint8Array.of(1))
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512).fill(1))
  await step()
  expect(statusOf()).toBe(OK)
})

test.each([
  ['a write', types.VIRTIO_BLK_T_OUT, new Uint8Array(512), 0],
  ['a read', types.VIRTIO_BLK_T_IN, none, 512],
  ['a flush', types.VIRTIO_BLK_T_FLUSH, none, 0],
])(
  '%s that fails is IOERR, whether the store rejects or throws, and the next one goes on',
  async (_name, type, data, writable) => {
    const { store, ask, step, statusOf, device } = stage()
    ask(type, 0, data, writable)
    await step('fail')
    expect(statusOf()).toBe(IOERR)
    store.isThrowing = true
    ask(type, 0, data, writable)
    await step()
    expect(statusOf()).toBe(IOERR)
    store.isThrowing = false
    ask(type, 0, data, writable)
    await step()
    expect([statusOf(), device.counters.errors]).toEqual([OK, 2])
  },
)

test('a write whose flush fails is IOERR', async () => {
  const { ask, step, statusOf } = stage({}, STORED_BLOCK_FEATURES & ~FLUSH)
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512))
  await step()
  await step('fail')
  expect(statusOf()).toBe(IOERR)
})

test('requests are answered in order, one with the store at a time', async () => {
  const { store, ask, step, statusOf, ring } = stage()
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512), 0, 0)
  ask(types.VIRTIO_BLK_T_IN, 0, none, 512, 1)
  expect(store.calls).toHaveLength(1)
  await step()
  expect([ring.take(), ring.take(), statusOf(1)]).toEqual([1, -1, 255])
  await step()
  expect([ring.take(), statusOf(1)]).toEqual([2, OK])
})

test('what was under way at a reset ends before anything new begins, and is nobody’s answer', async () => {
  const { store, device, ask, step, statusOf, client, memory, bytes, simulator } = stage()
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512).fill(1))
  client.set('VHOST_VDPA_SET_STATUS', 0)
  bytes.fill(0)
  for (const status of [1, 3]) client.set('VHOST_VDPA_SET_STATUS', status)
  client.set('VHOST_SET_FEATURES', STORED_BLOCK_FEATURES)
  client.set('VHOST_VDPA_SET_STATUS', 11)
  const next = makeQueue(client, 0, memory, [0n, 0], { size: 64 })
  client.set('VHOST_VDPA_SET_STATUS', 15)
  virtioBlkOutHdr.encodeInto({ type: types.VIRTIO_BLK_T_IN, ioprio: 0, sector: 0n }, bytes, HEAD)
  bytes[STATUS] = 255
  send(next, [
    [BigInt(HEAD), 16, false],
    [BigInt(DATA), 512, true],
    [BigInt(STATUS), 1, true],
  ])
  simulator.drain()
  expect(store.calls).toEqual(['write 0 512'])
  await step()
  expect([statusOf(), store.calls]).toEqual([255, ['write 0 512', 'read 0 512']])
  await step()
  expect([statusOf(), bytes[DATA]]).toEqual([OK, 1])
  expect(device.counters).toMatchObject({ writes: 0, reads: 1, errors: 0 })
})

test('a suspended disk answers nothing, and carries out again what it had in hand', async () => {
  const { store, ask, step, statusOf, client } = stage()
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512).fill(1))
  client.call('VHOST_VDPA_SUSPEND')
  await step()
  expect([statusOf(), store.calls.length]).toEqual([255, 1])
  client.call('VHOST_VDPA_RESUME')
  await step()
  expect(store.calls).toEqual(['write 0 512', 'write 0 512'])
  await step()
  expect(statusOf()).toBe(OK)
})

test('says when nothing is under way for queues that ended or were suspended', async () => {
  const { device, ask, step, client } = stage({ queues: 2 })
  expect(device.whenQuiet()).toBeUndefined()
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512).fill(1))
  // It is the queue's own work, and goes on.
  expect(device.whenQuiet()).toBeUndefined()
  client.vring('VHOST_VDPA_SET_VRING_ENABLE', 0, 0)
  let told = 0
  for (let count = 0; count < 2; count++) void device.whenQuiet()?.then(() => told++)
  await turn()
  expect(told).toBe(0)
  await step('fail')
  expect([told, device.whenQuiet()]).toEqual([2, undefined])
})

test('zeroes are the store’s to write, and discards nothing', async () => {
  const discard = blockFeatureBits.VIRTIO_BLK_F_DISCARD
  const { store, ask, step, statusOf, device } = stage({ moreFeatures: [discard] })
  const range = new Uint8Array(16)
  new DataView(range.buffer).setUint32(8, 4, true)
  ask(types.VIRTIO_BLK_T_DISCARD, 0, range)
  expect([statusOf(), store.calls]).toEqual([OK, []])
  ask(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range)
  await step()
  expect([statusOf(), store.calls, device.counters.clears]).toEqual([OK, ['clear 0 2048'], 2])
  new DataView(range.buffer).setUint32(8, 0x8001, true)
  ask(types.VIRTIO_BLK_T_WRITE_ZEROES, 0, range)
  expect(statusOf()).toBe(IOERR)
})

test('a store that cannot be written makes a disk that cannot be', () => {
  const { ask, statusOf, device, store } = stage({ isReadOnly: true })
  expect(device.features() & (1n << BigInt(blockFeatureBits.VIRTIO_BLK_F_RO))).not.toBe(0n)
  ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512))
  expect([statusOf(), store.calls]).toEqual([IOERR, []])
})

test('in packed rings, too', async () => {
  const { ask, step, statusOf, ring } = stage({ moreFeatures: [transportFeatureBits.VIRTIO_F_RING_PACKED] })
  for (let round = 0; round < 100; round++) {
    ask(types.VIRTIO_BLK_T_OUT, 0, new Uint8Array(512))
    await step()
    expect([ring.take(), statusOf()]).toEqual([1, OK])
  }
})

test('refuses stores and options that no disk can have', () => {
  const make = (part: object) => storedBlockDevice(Object.assign(new SlowStore(), part))
  expect(() => storedBlockDevice(7 as never)).toThrow(TypeError)
  expect(() => make({ size: 100 })).toThrow(RangeError)
  expect(() => make({ size: -512 })).toThrow(RangeError)
  expect(() => make({ blockSize: 1000 })).toThrow(RangeError)
  expect(() => make({ flush: 1 })).toThrow(TypeError)
  expect(() => make({ isReadOnly: 1 })).toThrow(TypeError)
  expect(() => storedBlockDevice(new SlowStore(), { id: 'x'.repeat(21) })).toThrow(RangeError)
  expect(() => storedBlockDevice(new SlowStore(), { queues: 0 })).toThrow(RangeError)
})

test('a store with another size is the disk it says it is when the device took it', () => {
  const store = new SlowStore()
  const device = storedBlockDevice(store)
  let changes = 0
  device.setConfigCallback(() => changes++)
  const capacity = () => decodeBlockConfig(device.config).capacity
  store.size = 1024 * 1024
  expect([capacity(), changes]).toEqual([1024n, 0])
  device.takeSize()
  device.takeSize()
  expect([capacity(), changes]).toEqual([2048n, 1])
  store.size = 100
  expect(() => device.takeSize()).toThrow(RangeError)
  store.size = null as never
  expect(() => device.takeSize()).toThrow(TypeError)
  expect([capacity(), changes]).toEqual([2048n, 1])
})

test('what was flushed with a write is no answer to the read that comes after it', async () => {
  const { ask, step, statusOf, bytes, store } = stage({ features: STORED_BLOCK_FEATURES & ~FLUSH })
  ask(types.VIRTIO_BLK_T_OUT, 3, new Uint8Array(512).fill(5))
  await step()
  await step()
  expect([statusOf(), store.calls]).toEqual([OK, ['write 1536 512', 'flush']])
  ask(types.VIRTIO_BLK_T_IN, 3, none, 512)
  bytes.fill(0, DATA, DATA + 512)
  await step()
  expect([statusOf(), [...new Set(bytes.subarray(DATA, DATA + 512))]]).toEqual([OK, [5]])
})
