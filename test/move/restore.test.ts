// A device goes on from a snapshot: rings, filters, mappings; and what a snapshot that is wrong, or does not fit, leads to.

import { afterEach, describe, expect, test } from '@jest/globals'
import { moveDevice } from '../../lib/move/move.js'
import { restoreDevice } from '../../lib/move/restore.js'
import { compareSnapshot } from '../../lib/move/differences.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { blockFeatureBits, netFeatureBits, transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netCommands, type NetCommandName } from '../../lib/uapi/virtio-net-commands.js'
import type { FeatureName } from '../drivers/features.js'
import { address, runPair, Traffic, type Pair, type PairSetup } from './support.js'

const code = (name: string) => expect.objectContaining({ code: name })
const pairs: Pair[] = []

async function run(setup?: PairSetup): Promise<Pair> {
  const pair = await runPair(setup)
  pairs.push(pair)
  return pair
}

afterEach(async () => {
  for (const { source, target } of pairs.splice(0)) for (const one of [source, target]) await one.close()
})

const rings: Record<string, readonly FeatureName[]> = {
  split: [],
  'split, indirect, event idx': ['VIRTIO_F_RING_INDIRECT_DESC', 'VIRTIO_F_RING_EVENT_IDX'],
  packed: ['VIRTIO_F_RING_PACKED'],
}

describe.each(Object.entries(rings))('%s', (_name, features) => {
  test('a driver goes on with another device: same address, modes and pairs, no frame lost or doubled', async () => {
    const { source, target, driver, control, models, simulator } = await run({ features })
    await control.setPromiscuous(true)
    const traffic = new Traffic()
    traffic.send(driver, 7)
    simulator.drain()
    traffic.send(driver, 5)
    await source.suspend()
    const { snapshot, memories } = source.takeSnapshot({ control })
    const saved = await driver.save()
    const restored = await restoreDevice(target, JSON.parse(JSON.stringify(snapshot)) as never, {
      memories,
      driver: saved,
    })
    await source.close()
    const moved = restored.driver as NetDriver
    await traffic.settle(moved)
    traffic.send(moved, 6)
    await traffic.settle(moved)
    expect(traffic.seen).toEqual(traffic.sent)
    expect(models[1]?.mac).toBe(address)
    expect(models[1]?.control).toMatchObject({ isPromiscuous: true, queuePairs: 2 })
    expect([moved.pairs, moved.activePairs]).toEqual([2, 2])
    expect(target.groups.asidOf(target.groups.of(target.controlQueueIndex ?? 0) ?? 0)).toBe(1)
    expect(restored.lost).toEqual([])
    await restored.control?.setMacAddress('02:00:00:00:00:09')
    expect(models[1]?.mac).toBe('02:00:00:00:00:09')
  })
})

test('a feature of the platform that the target does not offer is named, with what to do, and a word of bits without it goes on', async () => {
  const simulator = new Simulator()
  const { VIRTIO_F_ORDER_PLATFORM: order } = transportFeatureBits
  simulator.add(networkDevice({ path: '/dev/vhost-vdpa-4', moreFeatures: [order] }))
  for (const path of ['/dev/vhost-vdpa-5', '/dev/vhost-vdpa-6']) simulator.add(networkDevice({ path }))
  const open = (path: string) => openDevice(path, { backend: simulator, expect: 'net' })
  const [source, target] = [await open('/dev/vhost-vdpa-4'), await open('/dev/vhost-vdpa-5')]
  await source.negotiate(['VIRTIO_NET_F_MAC'])
  const driver = await NetDriver.start(source, { size: 16 })
  await source.start()
  const words =
    'it does not offer VIRTIO_F_ORDER_PLATFORM (where such devices are to be targets, negotiate without it, by a word of bits: ' +
    'a list of features brings VIRTIO_F_ORDER_PLATFORM wherever it is offered)'
  await expect(moveDevice(source, target, { driver })).rejects.toMatchObject({
    code: 'ERR_VDPA_NOT_SUPPORTED',
    message: expect.stringContaining(words),
  })
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({})
  expect(compareSnapshot(target, snapshot)).toEqual([words])
  await expect(restoreDevice(target, snapshot, { memories })).rejects.toMatchObject({
    code: 'ERR_VDPA_NOT_SUPPORTED',
    message: expect.stringContaining(words),
  })
  expect([source.state, target.state]).toEqual(['suspended', 'claimed'])
  await source.reset()
  await source.negotiate(source.offeredFeatures.bits & ~(1n << BigInt(order)))
  const again = await NetDriver.start(source, { size: 16 })
  await source.start()
  const { isMoved } = await moveDevice(source, target, { driver: again })
  expect(isMoved).toBe(true)
  await target.close()
})

test.each([true, false])('a write cache that was switched %s is so on the other disk', async (isOn) => {
  const simulator = new Simulator()
  const moreFeatures = [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE]
  for (const path of ['/dev/vhost-vdpa-4', '/dev/vhost-vdpa-5'])
    simulator.add(blockDevice({ path, capacity: 64, moreFeatures }))
  const source = await openDevice('/dev/vhost-vdpa-4', { backend: simulator, expect: 'block' })
  const target = await openDevice('/dev/vhost-vdpa-5', { backend: simulator, expect: 'block' })
  await source.negotiate(['VIRTIO_BLK_F_CONFIG_WCE', 'VIRTIO_BLK_F_FLUSH'])
  const driver = await BlockDriver.start(source, { size: 16 })
  await source.start()
  await driver.setWriteCache(!isOn)
  await driver.setWriteCache(isOn)
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({})
  const { driver: moved } = await restoreDevice(target, snapshot, { memories, driver: await driver.save() })
  expect((moved as BlockDriver).limits.hasWriteCache).toBe(isOn)
  for (const device of [source, target]) await device.close()
})

test('data queues are served only when the commands were acknowledged, where they can be enabled late', async () => {
  const { source, target, driver, control, models } = await run()
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({ control })
  const saved = await driver.save()
  expect(snapshot.control.map(({ name }) => name)).toContain('VIRTIO_NET_CTRL_MAC_ADDR_SET')
  const order: string[] = []
  const { transport } = target
  const enable = transport.setVringEnable.bind(transport)
  transport.setVringEnable = (index, isOn) => {
    order.push(`${index} ${models[1]?.mac}`)
    enable(index, isOn)
  }
  await restoreDevice(target, snapshot, { memories, driver: saved })
  const none = '00:00:00:00:00:00'
  expect(order).toEqual([`4 ${none}`, ...[0, 1, 2, 3].map((index) => `${index} ${address}`)])
})

test('without that, they are enabled before the device runs', async () => {
  const { source, target, driver, control } = await run({ target: { capabilities: { enableAfterDriverOk: false } } })
  const traffic = new Traffic()
  traffic.send(driver, 5)
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({ control })
  const restored = await restoreDevice(target, snapshot, { memories, driver: await driver.save() })
  await traffic.settle(restored.driver as NetDriver)
  expect(traffic.seen).toEqual(traffic.sent)
})

test('the rings of a guest go on where they stood, in memory that is mapped again', async () => {
  const { simulator, source, target } = await run()
  await source.reset()
  await source.negotiate(['VIRTIO_NET_F_MTU'])
  const memory = simulator.allocate(0x8000)
  const kick = simulator.eventfd()
  const call = simulator.eventfd()
  await source.addressSpace(0).map({ iova: 0x10000n, region: memory, offset: 0, size: 0x8000 })
  const addresses = { descriptor: 0x10000n, driver: 0x11000n, device: 0x12000n }
  memory.view(0x2002, 2).set([3, 0])
  source.vring(1).setUp({ size: 8, addresses, state: { available: 3, used: 3 }, kick })
  source.vring(1).enable()
  await source.start()
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({})
  const { driver } = await restoreDevice(target, snapshot, { memories, eventfds: [{ index: 1, kick, call }] })
  expect(driver).toBeUndefined()
  // An interrupt of the source may not have been heard.
  expect(call.take()).toBe(1)
  expect(target.addressSpace(0).snapshot()).toEqual(source.addressSpace(0).snapshot())
  await target.suspend()
  expect(target.vring(1).state()).toEqual({ available: 3, used: 3 })
  expect([target.vring(1).isEnabled, target.vring(0).isEnabled]).toEqual([true, false])
  for (const one of [source, target]) await one.close()
  kick.close()
  call.close()
  memory.close()
})

test('queues without a driver are given as they are', async () => {
  const { source, target } = await run()
  await source.reset()
  await source.negotiate([])
  const queue = await source.createQueue(1, { addressSpace: source.addressSpace(0), size: 8, bufferBytes: 64 })
  queue.ring.begin()
  queue.ring.pushAddress(queue.buffersIova, 14, false)
  queue.ring.commit(5)
  await source.start()
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({})
  await queue.save()
  const { queues } = await restoreDevice(target, snapshot, { memories })
  expect(queues.map(({ index, ring }) => [index, ring.inFlight])).toEqual([[1, 1]])
})

describe('explains before anything is touched', () => {
  async function taken(setup?: PairSetup) {
    const pair = await run(setup)
    await pair.source.suspend()
    return { ...pair, ...pair.source.takeSnapshot({ control: pair.control }) }
  }

  test.each<[string, PairSetup, string]>([
    [
      'features',
      { features: ['VIRTIO_F_RING_PACKED'], target: { moreFeatures: [netFeatureBits.VIRTIO_NET_F_CTRL_RX] } },
      'RING_PACKED',
    ],
    ['the size of a queue', { target: { maxQueueSize: 4 } }, '16 descriptors'],
    ['queue pairs', { target: { queuePairs: 3 } }, 'queue pairs'],
    ['the MTU', { features: ['VIRTIO_NET_F_MTU'], target: { mtu: 9000 } }, 'its MTU is 9000, not 1500'],
    ['address spaces', { target: { addressSpaces: 1 } }, 'asid 1 is in use'],
  ])('%s', async (_name, setup, sentence) => {
    const { target, snapshot, memories } = await taken(setup)
    expect(compareSnapshot(target, snapshot).join()).toContain(sentence)
    await expect(restoreDevice(target, snapshot, { memories })).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: expect.stringContaining(sentence) as unknown,
    })
    expect([target.state, target.status]).toEqual(['claimed', 0])
  })

  test.each<[string, readonly FeatureName[], NetCommandName, unknown, string]>([
    [
      'hashes',
      ['VIRTIO_NET_F_HASH_REPORT'],
      'VIRTIO_NET_CTRL_MQ_HASH_CONFIG',
      { hashTypes: 0x40, key: new Uint8Array(40) },
      'supported_hash_types',
    ],
    [
      'a command without its feature',
      [],
      'VIRTIO_NET_CTRL_VLAN_ADD',
      7,
      'VIRTIO_NET_CTRL_VLAN_ADD, which needs VIRTIO_NET_F_CTRL_VLAN',
    ],
  ])('what was set, and it cannot be told: %s', async (_name, features, name, value, sentence) => {
    const moreFeatures = [...extraNetFeatures, netFeatureBits.VIRTIO_NET_F_HASH_REPORT]
    const { target, snapshot, memories } = await taken({ features, source: { moreFeatures }, target: { moreFeatures } })
    const { encode } = netCommands[name] as { encode: (value: unknown) => Uint8Array }
    const payload = Buffer.from(encode(value)).toString('hex')
    // The device before said that it can all of it.
    const changed = { ...snapshot, config: snapshot.config.slice(0, 2 * 20) + 'ffffffff', control: [{ name, payload }] }
    expect(compareSnapshot(target, changed)).toEqual([expect.stringContaining(sentence)])
    await expect(restoreDevice(target, changed, { memories })).rejects.toThrow(code('ERR_VDPA_NOT_SUPPORTED'))
    expect([target.state, target.status]).toEqual(['claimed', 0])
    // Where it never said so, the other is asked.
    if (features.length > 0) expect(compareSnapshot(target, { ...changed, config: snapshot.config })).toEqual([])
  })

  test('a position that no ring of the size can have', async () => {
    const { target, snapshot, memories } = await taken()
    const [first, ...others] = snapshot.queues
    if (first === undefined) throw new Error('there are queues')
    const at = (available: number, used: number) => {
      const { books: _, ...queue } = first
      return { ...snapshot, queues: [{ ...queue, position: { available, used } }, ...others] }
    }
    for (const wrong of [at(17, 0), at(0, 1), at(0x1_0000, 0), at(0, -1)])
      await expect(restoreDevice(target, wrong, { memories })).rejects.toThrow(/snapshot\.queues\[0\]\.position/)
    expect([target.state, target.status]).toEqual(['claimed', 0])
    expect(compareSnapshot(target, at(16, 0))).toEqual([])
  })

  test('memory that is missing or short, a device that is not new, options that are none', async () => {
    const { source, target, snapshot, memories, simulator } = await taken()
    const short = simulator.allocate(4096)
    await expect(restoreDevice(target, snapshot, { memories: [] })).rejects.toThrow(TypeError)
    await expect(restoreDevice(target, snapshot, { memories: memories.map(() => short) })).rejects.toThrow(RangeError)
    await expect(restoreDevice(target, snapshot, null as never)).rejects.toThrow(TypeError)
    await expect(restoreDevice(source, snapshot, { memories })).rejects.toThrow(code('ERR_VDPA_STATE'))
    expect([target.state, source.state]).toEqual(['claimed', 'suspended'])
    short.close()
  })
})

test('a device that refuses half-way is closed, and the source resumes', async () => {
  const { source, target, driver, control, backend, models } = await run()
  const traffic = new Traffic()
  traffic.send(driver, 4)
  await source.suspend()
  const { snapshot, memories } = source.takeSnapshot({ control })
  const fault = backend.fail({ with: 'EIO', request: 'VHOST_SET_VRING_ADDR', nth: 1 })
  const guests = {
    ...snapshot,
    queues: snapshot.queues.map(({ books: _, ...queue }) => ({ ...queue, position: { available: 0, used: 0 } })),
  }
  await expect(restoreDevice(target, guests, { memories })).rejects.toThrow(code('EIO'))
  fault.close()
  expect([target.isClosed, models[1]?.queues.some((queue) => queue.isReady)]).toEqual([true, false])
  await source.resume()
  await traffic.settle(driver)
  expect(traffic.seen).toEqual(traffic.sent)
})

test('a snapshot from another program is restored with memory of this one', async () => {
  const { source, driver, control, simulator } = await run()
  const traffic = new Traffic()
  traffic.send(driver, 3)
  await source.suspend()
  const text = JSON.stringify(source.snapshot({ control }))
  const { memories } = source.takeSnapshot({})
  const other = await openDevice(
    simulator.add(
      networkDevice({
        queuePairs: 2,
        moreFeatures: [netFeatureBits.VIRTIO_NET_F_CTRL_RX, netFeatureBits.VIRTIO_NET_F_MQ],
      }),
    ),
    { backend: simulator, expect: 'net' },
  )
  const copies: MemoryRegion[] = memories.map((region) => {
    const copy = simulator.allocate(region.length)
    copy.view(0, region.length).set(region.view(0, region.length))
    return copy
  })
  const { queues } = await restoreDevice(other, JSON.parse(text) as never, { memories: copies })
  expect(queues.map(({ index }) => index)).toEqual([0, 1, 2, 3])
  expect(queues.reduce((sum, { ring }) => sum + ring.inFlight, 0)).toBeGreaterThan(3)
  await other.close()
})
