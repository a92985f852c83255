// The eight operations of 2018 as a model: a device that echoes, driven through the simulator, and operations that refuse or throw.

import { expect, test } from '@jest/globals'
import { parentDevice, type ParentOperations, type ParentState } from '../../lib/models/parent-device.js'
import { openDevice } from '../../lib/open.js'
import { Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const FEATURES = 3n << 32n

interface Log {
  readonly calls: string[]
  interrupt: (() => void) | undefined
}

/** A device that writes 0x5a to each writable buffer of one descriptor; every call is noted. */
function echo(log: Log, changes: Partial<ParentOperations> = {}): ParentOperations {
  return {
    start: () => void log.calls.push('start'),
    stop: () => void log.calls.push('stop'),
    dmaMap: () => void log.calls.push('dmaMap'),
    dmaUnmap: () => void log.calls.push('dmaUnmap'),
    setEventfd: (_device, _vector, interrupt) => (log.interrupt = interrupt),
    supportedFeatures: () => FEATURES,
    notify: (device, queue) => {
      log.calls.push(`notify ${queue}`)
      serve(device, queue)
      log.interrupt?.()
    },
    ...changes,
  }
}

/** The split ring as hardware walks it: one descriptor a chain. */
function serve({ dma, vrings }: ParentState, queue: number): void {
  const vring = vrings[queue]
  if (vring === undefined) throw new Error('no queue')
  const at = (area: bigint, offset: number) => [Number(area >> 32n), Number(area & 0xffff_ffffn) + offset] as const
  const read = (area: bigint, offset: number, length: number) => {
    const bytes = new Uint8Array(length)
    expect(dma.read(0, ...at(area, offset), bytes, 0, length)).toBe(true)
    return new DataView(bytes.buffer)
  }
  const write = (area: bigint, offset: number, bytes: Uint8Array) =>
    expect(dma.write(0, ...at(area, offset), bytes, 0, bytes.length)).toBe(true)
  const available = read(vring.driver, 2, 2).getUint16(0, true)
  for (; vring.base !== available; vring.base = (vring.base + 1) & 0xffff) {
    const head = read(vring.driver, 4 + 2 * (vring.base % vring.size), 2).getUint16(0, true)
    const descriptor = read(vring.descriptor, 16 * head, 16)
    const length = descriptor.getUint32(8, true)
    write(descriptor.getBigUint64(0, true), 0, new Uint8Array(length).fill(0x5a))
    const used = new Uint8Array(8)
    new DataView(used.buffer).setUint32(0, head, true)
    new DataView(used.buffer).setUint32(4, length, true)
    write(vring.device, 4 + 8 * (vring.base % vring.size), used)
    write(vring.device, 2, new Uint8Array(Uint16Array.of((vring.base + 1) & 0xffff).buffer))
  }
}

test('a device is mapped, started, kicked, stopped and unmapped', async () => {
  const log: Log = { calls: [], interrupt: undefined }
  const simulator = new Simulator()
  simulator.add(parentDevice(echo(log), { path, deviceId: 4, queues: 2 }))
  const device = await openDevice(path, { backend: simulator })
  await device.negotiate([])
  const space = device.addressSpace(0)
  const queue = await device.createQueue(0, { addressSpace: space, bufferBytes: 4096 })
  await device.start()
  const { ring } = queue
  ring.begin()
  ring.pushAddress(queue.buffersIova, 16, true)
  ring.commit(1)
  ring.publish()
  queue.kick()
  simulator.drain()
  expect(ring.take()).toBe(1)
  expect(Array.from({ length: 16 }, (_, at) => queue.buffers.u8(at)).every((byte) => byte === 0x5a)).toBe(true)
  await device.close()
  expect(log.calls).toEqual(['dmaMap', 'start', 'notify 0', 'stop', 'dmaUnmap'])
  expect(log.interrupt).toBeUndefined()
})

test.each<[string, Partial<ParentOperations>, string, string[]]>([
  ['memory that is refused', { dmaMap: () => false }, 'EINVAL', ['dmaUnmap']],
  ['a start that is refused', { start: () => false }, 'EINVAL', ['dmaMap', 'dmaUnmap']],
  [
    'a start that throws',
    {
      start: () => {
        throw new Error('no power')
      },
    },
    'no power',
    ['dmaMap', 'dmaUnmap'],
  ],
])('%s leaves nothing, and is heard of', async (_name, changes, text, calls) => {
  const log: Log = { calls: [], interrupt: undefined }
  const simulator = new Simulator()
  simulator.add(parentDevice(echo(log, changes), { path, deviceId: 4 }))
  await using device = await openDevice(path, { backend: simulator })
  await device.negotiate([])
  await expect(device.start()).rejects.toThrow(text)
  expect(log.calls).toEqual(calls)
})

test('a stop that throws is heard of when all is stopped', () => {
  const log: Log = { calls: [], interrupt: undefined }
  const stop = () => {
    throw new Error('stuck')
  }
  const device = parentDevice(echo(log, { stop }), { deviceId: 4 })
  const dma = { read: () => false, write: () => false, locate: () => undefined, version: () => 0 }
  device.attach({ dma, schedule: (work) => work(), deviates: () => false })
  device.setFeatures(FEATURES)
  for (const status of [1, 3, 11, 15]) expect(device.setStatus(status)).toBe(true)
  expect(() => device.reset()).toThrow('stuck')
  expect(device.status()).toBe(0)
  expect(log.calls).toEqual(['dmaMap', 'start', 'dmaUnmap'])
  expect(() => device.reset()).not.toThrow()
})

test('drivers that break rules are refused', () => {
  const device = parentDevice(echo({ calls: [], interrupt: undefined }), { deviceId: 4 })
  const dma = { read: () => false, write: () => false, locate: () => undefined, version: () => 0 }
  const broken: string[] = []
  device.attach({ dma, schedule: (work) => work(), deviates: () => false, report: ({ what }) => broken.push(what) })
  expect(device.setFeatures(1n << 63n)).toBe(false)
  expect(device.setFeatures(0n)).toBe(false)
  expect(device.setStatus(4)).toBe(false)
  expect(broken).toHaveLength(2)
})

test('what is no device is refused', () => {
  const ops = echo({ calls: [], interrupt: undefined })
  expect(() => parentDevice({ ...ops, notify: undefined } as unknown as ParentOperations, { deviceId: 1 })).toThrow(
    'ops.notify must be a function',
  )
  expect(() => parentDevice(ops, { deviceId: 1, queues: 0 })).toThrow('options.queues must be an integer from 1')
})
