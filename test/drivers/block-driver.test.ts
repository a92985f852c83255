// The block driver by itself: what it refuses, how it waits, what it makes of a device that fails or lies, and random requests against a Buffer.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { bit } from '../../lib/base/bits.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver, type BlockDriverOptions } from '../../lib/drivers/block-driver.js'
import { DeviceQueue as ModelQueue } from '../../lib/models/device-queue.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, customDevice, Simulator, type BlockDeviceOptions } from '../../lib/simulator/index.js'
import { blockZoneModels, virtioBlkConfig } from '../../lib/uapi/virtio-blk.js'
import { blockFeatureBits, transportFeatureBits, type BlockFeature } from '../../lib/uapi/virtio-features.js'
import { deviceIds } from '../../lib/uapi/virtio-ids.js'
import { until } from '../until.js'

const path = '/dev/vhost-vdpa-0'
const capacity = 1024

const allFeatures: readonly BlockFeature[] = [
  'VIRTIO_BLK_F_SIZE_MAX',
  'VIRTIO_BLK_F_SEG_MAX',
  'VIRTIO_BLK_F_FLUSH',
  'VIRTIO_BLK_F_MQ',
  'VIRTIO_BLK_F_DISCARD',
  'VIRTIO_BLK_F_WRITE_ZEROES',
  'VIRTIO_BLK_F_RO',
]

interface Setting {
  readonly simulator: Simulator
  readonly device: VdpaDevice<'block'>
  readonly driver: BlockDriver
}

async function begin(
  simulator: Simulator,
  options: BlockDriverOptions = {},
  features: readonly BlockFeature[] = allFeatures,
): Promise<Setting> {
  const device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate([], { optional: features })
  const driver = await BlockDriver.start(device, options)
  await device.start()
  return { simulator, device, driver }
}

function disk(options: BlockDeviceOptions = {}, scheduler?: 'manual'): Simulator {
  const simulator = new Simulator(scheduler === undefined ? {} : { scheduler })
  simulator.add(blockDevice({ path, capacity, ...options }))
  return simulator
}

/** A disk that answers every request as `answer` says, and says that it wrote as much as it did, or what `lengthOf` says. */
function liar(
  answer: (writable: number, count: number) => Uint8Array | undefined,
  lengthOf?: (writable: number) => number,
): Simulator {
  const config = new Uint8Array(virtioBlkConfig.size)
  new DataView(config.buffer).setBigUint64(0, BigInt(capacity), true)
  const features = [32, 33].reduce((word, number) => word | bit(number), bit(blockFeatureBits.VIRTIO_BLK_F_FLUSH))
  const simulator = new Simulator()
  let count = 0
  simulator.add(
    customDevice({
      path,
      deviceId: deviceIds.block,
      config,
      features,
      onKick(chain) {
        const bytes = answer(chain.writableLength, count++)
        if (bytes === undefined) return false
        chain.write(bytes, 0, bytes.byteLength)
        if (lengthOf === undefined) return true
        if (!(chain instanceof ModelQueue)) throw new Error('not a queue')
        chain.completeWith(lengthOf(chain.writableLength))
        chain.publish()
        return false
      },
    }),
  )
  return simulator
}

const code = (name: string, message = '') => ({ code: name, message: expect.stringContaining(message) })

describe('what a block driver refuses', () => {
  test('before negotiate(), before start(), after start()', async () => {
    const simulator = disk()
    await using device = await openDevice(path, { backend: simulator, expect: 'block' })
    await expect(BlockDriver.start(device)).rejects.toMatchObject(code('ERR_VDPA_STATE'))
    await device.negotiate([])
    const driver = await BlockDriver.start(device)
    await expect(driver.read(0, 1)).rejects.toMatchObject(code('ERR_VDPA_STATE', 'device.start()'))
    await expect(driver.save()).rejects.toMatchObject(code('ERR_VDPA_STATE'))
    await device.start()
    await expect(BlockDriver.start(device)).rejects.toMatchObject(code('ERR_VDPA_STATE'))
    expect(await driver.read(0, 1)).toEqual(new Uint8Array(512))
  })

  test('what was not negotiated', async () => {
    const { device, driver } = await begin(disk({ queues: 2 }), {}, [])
    await expect(driver.flush()).rejects.toMatchObject(code('ERR_VDPA_NOT_SUPPORTED', 'VIRTIO_BLK_F_FLUSH'))
    await expect(driver.discard(0, 1)).rejects.toMatchObject(code('ERR_VDPA_NOT_SUPPORTED', 'VIRTIO_BLK_F_DISCARD'))
    await expect(driver.writeZeroes(0, 1)).rejects.toMatchObject(code('ERR_VDPA_NOT_SUPPORTED'))
    await device.close()
    await expect(begin(disk({ queues: 2 }), { queues: 2 }, [])).rejects.toMatchObject(
      code('ERR_VDPA_NOT_SUPPORTED', '1 request queues'),
    )
  })

  test('writes to a read-only disk', async () => {
    const { device, driver } = await begin(disk({ isReadOnly: true }))
    const [queue] = driver.queues
    await expect(driver.write(0, new Uint8Array(512))).rejects.toMatchObject(
      code('ERR_VDPA_NOT_SUPPORTED', 'read-only'),
    )
    await expect(driver.discard(0, 1)).rejects.toMatchObject(code('ERR_VDPA_NOT_SUPPORTED', 'read-only'))
    await expect(driver.writeZeroes(0, 1, { unmap: true })).rejects.toMatchObject(code('ERR_VDPA_NOT_SUPPORTED'))
    const slot = queue?.acquire() ?? -1
    expect(() => queue?.write(slot, 0, 512, () => undefined)).toThrow('read-only')
    await device.close()
  })

  test('a disk whose zones the host manages, and no other', async () => {
    for (const [model, isRefused] of [
      [blockZoneModels.VIRTIO_BLK_Z_HM, true],
      [blockZoneModels.VIRTIO_BLK_Z_HA, false],
      [blockZoneModels.VIRTIO_BLK_Z_NONE, false],
    ] as const) {
      const simulator = new Simulator()
      const zoned = blockDevice({ path, capacity, moreFeatures: [blockFeatureBits.VIRTIO_BLK_F_ZONED] })
      zoned.config[virtioBlkConfig.fields.find(({ name }) => name === 'model')?.offset ?? -1] = model
      simulator.add(zoned)
      const device = await openDevice(path, { backend: simulator, expect: 'block' })
      await device.negotiate(['VIRTIO_BLK_F_ZONED'])
      const starting = BlockDriver.start(device)
      if (isRefused) await expect(starting).rejects.toMatchObject(code('ERR_VDPA_NOT_SUPPORTED', 'VIRTIO_BLK_Z_HM'))
      else await starting
      await device.close()
    }
  })

  test('no request of a disk that grew', async () => {
    const simulator = new Simulator()
    const growing = blockDevice({ path, capacity })
    simulator.add(growing)
    const { device, driver } = await begin(simulator)
    await expect(driver.write(capacity, new Uint8Array(512))).rejects.toThrow(RangeError)
    growing.changeConfig(0, new Uint8Array(BigUint64Array.of(2n * BigInt(capacity)).buffer))
    await new Promise((resolve) => setImmediate(resolve))
    expect(driver.capacity).toBe(2 * capacity)
    await driver.write(capacity, new Uint8Array(512).fill(3))
    expect((await driver.read(capacity, 1)).every((byte) => byte === 3)).toBe(true)
    expect(growing.violations).toEqual([])
    await device.close()
  })

  test('sectors, lengths and slots that are none', async () => {
    const { device, driver } = await begin(disk())
    const [queue] = driver.queues
    if (queue === undefined) throw new Error('there is no queue')
    for (const [sector, sectors] of [
      [-1, 1],
      [capacity, 1],
      [0, capacity + 1],
      [0.5, 1],
      [NaN, 1],
      [0, 0],
    ] as const)
      await expect(driver.read(sector, sectors)).rejects.toThrow(RangeError)
    await expect(driver.read('0' as unknown as number, 1)).rejects.toThrow(TypeError)
    await expect(driver.write(0, new Uint8Array(511))).rejects.toThrow(RangeError)
    await expect(driver.write(0, [] as unknown as Uint8Array)).rejects.toThrow(TypeError)
    await expect(driver.read(0, 1, { signal: {} as AbortSignal })).rejects.toThrow(TypeError)
    const slot = queue.acquire()
    const done = () => undefined
    expect(() => queue.read(slot, capacity - 1, 1024, done)).toThrow(RangeError)
    expect(() => queue.read(slot, -1, 512, done)).toThrow(RangeError)
    expect(() => queue.read(slot, 0.5, 512, done)).toThrow(RangeError)
    expect(() => queue.read(slot, 0, queue.slotBytes + 512, done)).toThrow(RangeError)
    expect(() => queue.read(slot, 0, 100, done)).toThrow(RangeError)
    expect(() => queue.read(slot + 1, 0, 512, done)).toThrow('slot must be')
    expect(() => queue.read(999, 0, 512, done)).toThrow(RangeError)
    expect(() => queue.data(999)).toThrow(RangeError)
    queue.release(slot)
    expect(() => queue.release(slot)).toThrow('slot must be')
    await device.close()
  })
})

describe('how a block driver waits', () => {
  test('in order, when the queue is full; a signal gives up', async () => {
    const { simulator, device, driver } = await begin(disk({}, 'manual'), { slots: 2 })
    const order: number[] = []
    const given = new AbortController()
    const outcomes = Array.from({ length: 6 }, (_, index) =>
      driver.write(index, new Uint8Array(512).fill(index), index === 3 ? { signal: given.signal } : {}).then(
        () => order.push(index),
        (failure: { code: string }) => failure.code,
      ),
    )
    expect(driver.queues[0]?.acquire()).toBe(-1)
    given.abort()
    expect(await outcomes[3]).toBe('ERR_VDPA_CANCELED')
    await expect(driver.read(0, 1, { signal: AbortSignal.abort() })).rejects.toMatchObject(code('ERR_VDPA_CANCELED'))
    const idle = driver.idle()
    for (let turn = 0; turn < 20; turn++) {
      simulator.drain()
      await new Promise((resolve) => setImmediate(resolve))
    }
    await idle
    expect(order).toEqual([0, 1, 2, 4, 5])
    await device.close()
  })

  test('a lost interrupt loses no answer: the next one brings both', async () => {
    const { simulator, device, driver } = await begin(disk({}, 'manual'))
    simulator.faults.dropInterrupts(path, 0, 1)
    const first = driver.read(0, 1)
    // It goes to the device at the end of this turn.
    await new Promise((resolve) => setImmediate(resolve))
    expect(simulator.drain()).toBeGreaterThan(0)
    setImmediate(() => simulator.drain())
    const answers = await Promise.all([first, driver.read(1, 1)])
    expect(answers.map((bytes) => bytes.length)).toEqual([512, 512])
    await device.close()
  })

  test('a callback that throws keeps no other from being called', async () => {
    const { simulator, device, driver } = await begin(disk({}, 'manual'), { completions: 'poll' })
    const [queue] = driver.queues
    if (queue === undefined) throw new Error('there is no queue')
    const called: number[] = []
    for (let index = 0; index < 3; index++)
      queue.read(queue.acquire(), index, 512, (slot) => {
        called.push(index)
        queue.release(slot)
        if (index === 0) throw new Error('of the caller')
      })
    queue.publish()
    simulator.drain()
    expect(() => queue.poll()).toThrow('of the caller')
    expect(called).toEqual([0, 1, 2])
    expect(queue.poll()).toBe(0)
    await device.close()
  })
})

describe('a device that fails or lies', () => {
  const status = (value: number) => (writable: number) => {
    const bytes = new Uint8Array(writable)
    bytes[writable - 1] = value
    return bytes
  }

  test('each status has its error, with the sector', async () => {
    for (const [value, expected] of [
      [1, code('ERR_VDPA_REFUSED', 'sector 7: the device answered VIRTIO_BLK_S_IOERR')],
      [2, code('ERR_VDPA_NOT_SUPPORTED', 'VIRTIO_BLK_S_UNSUPP')],
      [77, code('ERR_VDPA_REFUSED', 'an unknown status, 77')],
      [0xff, code('ERR_VDPA_REFUSED', 'without a status')],
    ] as const) {
      const { device, driver } = await begin(liar(status(value)))
      await expect(driver.read(7, 1)).rejects.toMatchObject(expected)
      expect(driver.queues[0]?.counters).toMatchObject({ answers: 1, failures: 1 })
      await device.close()
    }
  })

  test('a refusal in the middle of a long range rejects it once, and the rest is not sent', async () => {
    const { device, driver } = await begin(
      liar((writable, count) => status(count === 2 ? 1 : 0)(writable)),
      { slots: 1, slotBytes: 512 },
    )
    await expect(driver.read(0, 10)).rejects.toMatchObject(code('ERR_VDPA_REFUSED', 'sector 2'))
    expect(driver.queues[0]?.counters.requests).toBe(3)
    expect(await driver.read(0, 1)).toHaveLength(512)
    await device.close()
  })

  test('less data than was asked for is no success, and no status none', async () => {
    const { device, driver } = await begin(liar((_, count) => new Uint8Array([100, 0, 0][count] ?? 0)))
    await expect(driver.read(5, 1)).rejects.toMatchObject(code('ERR_VDPA_REFUSED', 'only 100 bytes'))
    await expect(driver.flush()).rejects.toMatchObject(code('ERR_VDPA_REFUSED', 'only 0 bytes'))
    await device.close()
  })

  test('a status behind the length that the device gave is none, whatever lies there', async () => {
    const simulator = liar(
      (writable) => status(0)(writable),
      (writable) => writable - 1,
    )
    const { device, driver } = await begin(simulator)
    await expect(driver.read(0, 1)).rejects.toMatchObject(code('ERR_VDPA_REFUSED'))
    await expect(driver.flush()).rejects.toMatchObject(code('ERR_VDPA_REFUSED'))
    expect(driver.queues[0]?.counters).toMatchObject({ answers: 2, failures: 2 })
    await device.close()
  })

  test('a device that breaks down, or goes silent, ends what is under way', async () => {
    const { simulator, device, driver } = await begin(liar(() => undefined))
    const pending = driver.read(0, 1)
    simulator.faults.needsReset(path)
    await expect(pending).rejects.toMatchObject(code('ERR_VDPA_DEVICE_BROKEN'))
    await expect(driver.read(0, 1)).rejects.toMatchObject(code('ERR_VDPA_DEVICE_BROKEN'))
    await device.close()
  })

  test('a used ring that lies breaks the queue, and everybody is told', async () => {
    const { simulator, device, driver } = await begin(disk({}, 'manual'), { size: 16 })
    const pending = [driver.read(0, 1), driver.read(1, 1)].map((promise) =>
      promise.catch((failure: unknown) => failure),
    )
    await new Promise((resolve) => setImmediate(resolve))
    const [region] = device.addressSpace(0).mappings
    if (region === undefined) throw new Error('nothing is mapped')
    // The used index of a split ring of 16: behind 256 bytes of descriptors and 38 of the available ring, at a multiple of 4.
    new DataView(region.region.buffer).setUint16(296 + 2, 5, true)
    expect(() => driver.poll()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN' }))
    for (const failure of await Promise.all(pending)) expect(failure).toMatchObject(code('ERR_VDPA_RING_BROKEN'))
    await expect(driver.read(0, 1)).rejects.toMatchObject(code('ERR_VDPA_RING_BROKEN'))
    simulator.drain()
    await device.close()
  })

  test('a disk that grows is read to its new end', async () => {
    const { simulator, device, driver } = await begin(liar(status(0)))
    const grown = new Uint8Array(8)
    new DataView(grown.buffer).setBigUint64(0, BigInt(capacity + 8), true)
    await expect(driver.read(capacity, 8)).rejects.toThrow(RangeError)
    simulator.faults.changeConfig(path, 0, grown)
    await until(() => driver.capacity === capacity + 8)
    expect(await driver.read(capacity, 8)).toHaveLength(4096)
    await device.close()
  })
})

describe('a save that fails', () => {
  test.each([
    ['the second queue does not say where it stands', 'EIO'],
    ['the device is gone', 'ENODEV'],
  ] as const)('%s: the driver goes on after resume()', async (_, errno) => {
    const { simulator, device, driver } = await begin(disk({ queues: 2 }), { queues: 2 })
    await device.suspend()
    const reads = [driver.read(0, 1), driver.read(1, 1)]
    simulator.faults.fail({ request: 'VHOST_GET_VRING_BASE', with: errno, nth: 2 })
    await expect(driver.save()).rejects.toMatchObject({ code: errno })
    expect(driver.isClosed).toBe(false)
    await device.resume()
    for (const read of reads) expect(await read).toHaveLength(512)
    expect(await driver.read(2, 1)).toHaveLength(512)
    await device.close()
  })

  test('a device that has no positions is saved all the same', async () => {
    const { simulator, device, driver } = await begin(disk())
    await device.suspend()
    simulator.faults.fail({ request: 'VHOST_GET_VRING_BASE', with: 'EOPNOTSUPP', nth: 1 })
    const restore = await driver.save()
    await device.reset()
    await device.negotiate([], { optional: allFeatures })
    const again = await BlockDriver.start(device, { restore })
    await device.start()
    expect(await again.read(0, 1)).toHaveLength(512)
    await device.close()
  })
})

describe('random requests', () => {
  const place = fc
    .tuple(fc.integer({ min: 0, max: capacity - 1 }), fc.integer({ min: 1, max: 80 }))
    .map(([sector, sectors]) => ({ sector, sectors: Math.min(sectors, capacity - sector) }))
  const request = fc.oneof(
    fc.record({ kind: fc.constant('read' as const), place }),
    fc.record({ kind: fc.constant('write' as const), place, value: fc.integer({ min: 1, max: 255 }) }),
    fc.record({ kind: fc.constant('zeroes' as const), place }),
    fc.record({ kind: fc.constant('flush' as const) }),
    fc.record({ kind: fc.constant('restart' as const) }),
  )
  const shape = fc.record({
    ring: fc.subarray<BlockFeature & keyof typeof transportFeatureBits>([
      'VIRTIO_F_RING_PACKED',
      'VIRTIO_F_RING_EVENT_IDX',
      'VIRTIO_F_RING_INDIRECT_DESC',
    ]),
    queues: fc.integer({ min: 1, max: 3 }),
    slots: fc.integer({ min: 1, max: 7 }),
    size: fc.constantFrom(16, 32),
    slotBytes: fc.constantFrom(512, 3072, 8192),
  })

  test('leave the disk as they leave a Buffer, whatever the rings and slots', async () => {
    await fc.assert(
      fc.asyncProperty(shape, fc.array(request, { maxLength: 40 }), async ({ ring, queues, ...options }, requests) => {
        const moreFeatures = ring.map((name) => transportFeatureBits[name])
        const features = [...allFeatures, ...ring]
        const setting = await begin(disk({ moreFeatures, queues }), { queues, ...options }, features)
        const { device } = setting
        let { driver } = setting
        const model = Buffer.alloc(capacity * 512)
        try {
          for (const wish of requests) {
            if (wish.kind === 'restart') {
              await device.suspend()
              const restore = await driver.save()
              await device.reset()
              await device.negotiate([], { optional: features })
              driver = await BlockDriver.start(device, { restore })
              await device.start()
            } else if (wish.kind === 'flush') await driver.flush()
            else {
              const { sector, sectors } = wish.place
              const [first, last] = [sector * 512, (sector + sectors) * 512]
              if (wish.kind === 'read')
                expect(Buffer.compare(await driver.read(sector, sectors), model.subarray(first, last))).toBe(0)
              else if (wish.kind === 'write') {
                model.fill(wish.value, first, last)
                await driver.write(sector, model.subarray(first, last))
              } else {
                model.fill(0, first, last)
                await driver.writeZeroes(sector, sectors)
              }
            }
          }
          expect(Buffer.compare(await driver.read(0, capacity), model)).toBe(0)
        } finally {
          await device.close()
        }
      }),
      { numRuns: 60 },
    )
  })
})
