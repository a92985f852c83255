// Drivers over devices that are like hardware: they take requests ahead, answer them out of order, say of their position what they count or nothing, and cannot
// give a queue back. Whatever they do, nothing is lost and nothing is carried out twice by a save in the middle of traffic.

import { afterEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import {
  blockDevice,
  extraNetFeatures,
  networkDevice,
  Simulator,
  type DeviceCapabilities,
  type ModelDevice,
  type SimulatorOptions,
} from '../../lib/simulator/index.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { virtioStatus } from '../../lib/uapi/virtio-status.js'
import { mac, numbered, numberOf, path } from './support.js'

type RingFeature =
  'VIRTIO_F_RING_PACKED' | 'VIRTIO_F_IN_ORDER' | 'VIRTIO_F_RING_INDIRECT_DESC' | 'VIRTIO_F_RING_EVENT_IDX'

const ringFeatures = [
  'VIRTIO_F_RING_PACKED',
  'VIRTIO_F_IN_ORDER',
  'VIRTIO_F_RING_INDIRECT_DESC',
  'VIRTIO_F_RING_EVENT_IDX',
] as const

const rings: readonly (readonly RingFeature[])[] = [
  [],
  ['VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC'],
  ['VIRTIO_F_IN_ORDER'],
  ['VIRTIO_F_RING_PACKED'],
  ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_RING_INDIRECT_DESC'],
  ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_IN_ORDER'],
]

const hardware: readonly DeviceCapabilities[] = [
  { takesAhead: 4 },
  { takesAhead: 256, answersNewestFirst: true },
  { takesAhead: 5, answersNewestFirst: true, vringState: 'used index' },
  { takesAhead: 3, vringState: 'none', disablesQueues: false, suspend: true },
  { mapsAtOnce: true, pinsMemory: true, pieceBytes: 4096, takesAhead: 2 },
]

const cases = rings.flatMap((features) =>
  hardware.map((capabilities) => ({
    features,
    capabilities,
    title: `${features.map((name) => name.slice(9)).join(' ') || 'split'} on ${JSON.stringify(capabilities)}`,
  })),
)

/** Numbers that look drawn by lot, the same in each run. */
function lots(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % below
  }
}

const opened: VdpaDevice[] = []
const simulators: Simulator[] = []

afterEach(async () => {
  for (const device of opened.splice(0)) await device.close()
  for (const simulator of simulators.splice(0)) expect(simulator.descriptors).toEqual([])
})

function simulate(options: SimulatorOptions = { scheduler: 'manual' }): Simulator {
  const simulator = new Simulator(options)
  simulators.push(simulator)
  return simulator
}

/** Pieces of work, with the program's own between them. */
async function work(simulator: Simulator, count: number): Promise<void> {
  for (let done = 0; done < count; done++) {
    simulator.step()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Chains that a device took and did not answer. */
function taken({ queues }: ModelDevice): number {
  return queues.reduce((sum, queue) => sum + (queue.hasRing ? queue.ring.inFlight : 0), 0)
}

const moreFeatures = ringFeatures.map((name) => transportFeatureBits[name])

describe('a block driver that is saved in the middle of traffic', () => {
  test.each(cases)('$title', async ({ features, capabilities }) => {
    const simulator = simulate()
    const model = blockDevice({ path, moreFeatures, capabilities, queues: 2 })
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    opened.push(device)
    const negotiate = () => device.negotiate(['VIRTIO_BLK_F_FLUSH', 'VIRTIO_BLK_F_MQ', ...features])
    await negotiate()
    let driver = await BlockDriver.start(device, { queues: 2, slots: 8, size: 32 })
    await device.start()
    const lot = lots(7)
    const answers: Promise<unknown>[] = []
    let writes = 0
    let unanswered = 0
    for (let cycle = 0; cycle < 6; cycle++) {
      for (let count = 0; count < 12; count++, writes++)
        answers.push(driver.write(writes, new Uint8Array(512).fill(writes + 1)))
      await work(simulator, lot(5))
      await device.suspend()
      await work(simulator, lot(3))
      unanswered += taken(model)
      const restore = await driver.save()
      await device.reset()
      await negotiate()
      driver = await BlockDriver.start(device, { restore })
      await device.start()
    }
    for (let turn = 0; turn < 500 && model.counters.writes < writes; turn++) await work(simulator, 4)
    await work(simulator, 40)
    await Promise.all(answers)
    expect(unanswered).toBeGreaterThan(5)
    expect(model.counters).toMatchObject({ writes, errors: 0 })
    expect(model.violations).toEqual([])
    const back = driver.read(0, writes)
    await work(simulator, 200)
    expect(await back).toEqual(Buffer.concat(Array.from({ length: writes }, (_, at) => Buffer.alloc(512, at + 1))))
  })
})

describe('a network driver that is saved in the middle of traffic', () => {
  test.each(cases)('$title', async ({ features, capabilities }) => {
    const simulator = simulate()
    const model = networkDevice({ path, mac, moreFeatures: [...extraNetFeatures], capabilities })
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    opened.push(device)
    const negotiate = () => device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_MRG_RXBUF', ...features])
    await negotiate()
    let driver = await NetDriver.start(device, { size: 16, bufferBytes: 128 })
    await device.start()
    driver.kickReceive()
    const lot = lots(9)
    const seen: number[] = []
    let next = 0
    let unanswered = 0
    for (let cycle = 0; cycle < 8; cycle++) {
      for (let count = 0; count < 4; count++) if (driver.send(numbered(next, 100))) next++
      await work(simulator, lot(4))
      await device.suspend()
      await work(simulator, lot(3))
      unanswered += taken(model)
      const restore = await driver.save()
      await device.reset()
      await negotiate()
      driver = await NetDriver.start(device, { restore })
      await device.start()
      driver.kickReceive()
      driver.receive((frame) => seen.push(numberOf(frame)))
      driver.reclaim()
    }
    for (let turn = 0; turn < 200 && seen.length < next; turn++) {
      await work(simulator, 4)
      driver.receive((frame) => seen.push(numberOf(frame)))
      driver.reclaim()
    }
    await work(simulator, 20)
    driver.receive((frame) => seen.push(numberOf(frame)))
    expect(seen.sort((one, other) => one - other)).toEqual(Array.from({ length: next }, (_, number) => number))
    expect(next).toBeGreaterThan(20)
    expect(unanswered).toBeGreaterThan(5)
    expect(model.violations).toEqual([])
  })
})

describe('a driver is closed while its device has requests that it took ahead', () => {
  test.each(hardware.map((capabilities) => [JSON.stringify(capabilities), capabilities] as const))(
    '%s',
    async (_, capabilities) => {
      const simulator = simulate()
      const model = blockDevice({ path, moreFeatures, capabilities })
      simulator.add(model)
      const device = await openDevice(path, { backend: simulator, expect: 'block' })
      opened.push(device)
      await device.negotiate([])
      const driver = await BlockDriver.start(device)
      await device.start()
      const ends = Array.from({ length: 8 }, (_each, at) =>
        driver.write(at, new Uint8Array(512).fill(1)).catch(({ code }: { code: string }) => code),
      )
      await work(simulator, 2)
      await driver.close()
      expect(new Set(await Promise.all(ends))).toEqual(new Set(['ERR_VDPA_CANCELED']))
      expect(simulator.dump(path).addressSpaces.flatMap(({ mappings }) => mappings)).toEqual([])
    },
  )
})

describe('a device that cannot give a queue back', () => {
  test('is not asked to: what was made of a driver that failed is due a reset, by name', async () => {
    const simulator = simulate({})
    const capabilities = { vringState: 'none', disablesQueues: false } as const
    const model = networkDevice({ path, mac, capabilities })
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    opened.push(device)
    await device.negotiate([])
    // The second queue's eventfd is refused when the first is enabled already.
    simulator.faults.fail({ request: 'VHOST_SET_VRING_CALL', with: 'EMFILE', nth: 2 })
    await expect(NetDriver.start(device)).rejects.toMatchObject({ code: 'EMFILE' })
    expect([model.status() & virtioStatus.NEEDS_RESET, model.queues[0]?.isReady]).toEqual([0, true])
    await expect(device.start()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE', message: /reset/ })
    await device.reset()
    await device.negotiate([])
    const driver = await NetDriver.start(device)
    await device.start()
    driver.kickReceive()
    expect(driver.send(numbered(1))).toBe(true)
    expect(numberOf(await driver.nextFrame())).toBe(1)
    expect(model.violations).toEqual([])
  })
})

describe('a doorbell page that is refused', () => {
  const errnos = ['EINVAL', 'ENXIO', 'ENOTSUPP', 'EPERM', 'EAGAIN', 'ENOMEM', 'EIO'] as const

  test.each(errnos)(
    'with %s: by name, with what was made taken back; who leaves the way open gets an eventfd',
    async (errno) => {
      const simulator = simulate({})
      simulator.add(blockDevice({ path, capabilities: { doorbell: true } }))
      const device = await openDevice(path, { backend: simulator, expect: 'block' })
      opened.push(device)
      await device.negotiate([])
      const before = simulator.descriptors
      simulator.faults.fail({ request: 'mmap', with: errno, times: 2 })
      await expect(BlockDriver.start(device, { notifyBy: 'doorbell' })).rejects.toMatchObject({
        code: 'ERR_VDPA_NOT_SUPPORTED',
        cause: expect.objectContaining({ code: errno }) as unknown,
      })
      expect(simulator.descriptors).toEqual(before)
      expect(simulator.dump(path).addressSpaces.flatMap(({ mappings }) => mappings)).toEqual([])
      const driver = await BlockDriver.start(device, { notifyBy: 'auto' })
      await device.start()
      expect(await driver.read(0, 1)).toHaveLength(512)
    },
  )
})

describe('a reset that fails', () => {
  test('has the device lost, its waiters told, and all of it freed when it is closed', async () => {
    const simulator = simulate({})
    simulator.add(blockDevice({ path, capabilities: { takesAhead: 8 } }))
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    await device.negotiate([])
    const driver = await BlockDriver.start(device)
    await device.start()
    expect(await driver.read(0, 1)).toHaveLength(512)
    simulator.faults.failReset({ with: 'EIO', times: Infinity })
    const read = driver.read(0, 1).then(
      () => 'answered',
      ({ code }: { code: string }) => code,
    )
    await expect(device.reset()).rejects.toMatchObject({ code: 'ERR_VDPA_DEVICE_BROKEN' })
    expect(device.state).toBe('lost')
    expect(['answered', 'ERR_VDPA_CANCELED']).toContain(await read)
    await device.close()
    expect(simulator.descriptors).toEqual([])
    expect(simulator.dump(path)).toMatchObject({ isOpen: false, addressSpaces: [] })
  })

  test('a device that could not be reset when it was closed is reset when it is opened again', async () => {
    const simulator = simulate({})
    const model = blockDevice({ path })
    simulator.add(model)
    simulator.faults.failReset({ with: 'EIO' })
    await expect(openDevice(path, { backend: simulator })).rejects.toMatchObject({ code: 'EIO', syscall: 'open' })
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    opened.push(device)
    expect(model.status()).toBeLessThan(4)
  })
})

describe('memory in pieces', () => {
  test('that are more than the IOTLB has entries for is refused by name or with what is known of it, and nothing stays mapped', async () => {
    const simulator = simulate({})
    simulator.add(blockDevice({ path, capabilities: { pinsMemory: true, pieceBytes: 4096, mapsAtOnce: true } }))
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    opened.push(device)
    const space = device.addressSpace(0)
    const region = simulator.allocate(2049 * 4096)
    await expect(space.mapRegion(region)).rejects.toMatchObject({
      code: 'ERR_VDPA_REFUSED',
      message: expect.stringMatching(/more physically contiguous runs than there are free entries, of 2048/) as unknown,
    })
    expect([...space.mappings]).toEqual([])
    expect([simulator.memlock().pinned, simulator.dump(path).addressSpaces[0]?.mappings ?? []]).toEqual([0n, []])
    region.close()
    const small = simulator.allocate(2048 * 4096)
    const iova = await space.mapRegion(small)
    await space.unmap({ iova, size: BigInt(small.length) })
    expect(simulator.memlock().pinned).toBe(0n)
    small.close()
  })

  test('a change that fails half-way is undone piece by piece', async () => {
    const simulator = simulate({})
    simulator.add(blockDevice({ path, capabilities: { pinsMemory: true, pieceBytes: 8192, mapsAtOnce: true } }))
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    opened.push(device)
    const space = device.addressSpace(0)
    const region = simulator.allocate(16 * 4096)
    const pieces = [0, 1, 2, 3].map((at) => ({
      iova: BigInt(at) * 0x1_0000n,
      region,
      offset: at * 0x4000,
      size: 0x4000,
    }))
    simulator.faults.fail({ request: 'write', with: 'EFAULT', nth: 4 })
    await expect(space.map(pieces)).rejects.toMatchObject({ code: 'ERR_VDPA_REFUSED' })
    expect([...space.mappings]).toEqual([])
    expect(simulator.memlock().pinned).toBe(0n)
    region.close()
  })
})
