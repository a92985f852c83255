// A device that breaks down in the middle of its work is reset and goes on by its drivers' books; where it does not, it is reset, and nobody waits.

import { afterEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import type { NetDriver } from '../../lib/drivers/net-driver.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { openDevice } from '../../lib/open.js'
import { blockFeatureBits } from '../../lib/uapi/virtio-features.js'
import { virtioBlkConfig } from '../../lib/uapi/virtio-blk.js'
import { iotlbMessageTypes, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'
import type { ShownCall } from '../../lib/backend/call.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import { Guest, makeWorld, startShadow } from '../control/guest.js'
import type { FeatureName } from '../drivers/features.js'
import { A, address, runPair, Traffic, type Pair, type PairSetup } from './support.js'

const code = (name: string) => expect.objectContaining({ code: name })
const writeCacheAt = virtioBlkConfig.fields.find(({ name }) => name === 'wce')?.offset ?? 0
const devices: VdpaDevice[] = []

async function run(setup?: PairSetup): Promise<Pair> {
  const pair = await runPair(setup)
  devices.push(pair.source, pair.target)
  return pair
}

afterEach(async () => {
  for (const device of devices.splice(0)) await device.close()
})

const rings: Record<string, readonly FeatureName[]> = {
  split: [],
  packed: ['VIRTIO_F_RING_PACKED'],
  'in order': ['VIRTIO_F_IN_ORDER'],
}

describe.each(Object.entries(rings))('%s', (_name, features) => {
  test.each([
    ['while it runs', false],
    ['while it is suspended', true],
  ])(
    'a network device that broke down %s: same address, modes and pairs, no frame lost or doubled',
    async (_when, isSuspended) => {
      const { source, driver, control, models, simulator } = await run({ features })
      await control.setPromiscuous(true)
      const traffic = new Traffic()
      traffic.send(driver, 5)
      simulator.drain()
      if (isSuspended) await source.suspend()
      simulator.faults.needsReset(A)
      traffic.sendDirectly(driver, 4)
      const waiting = driver.nextFrame({ pair: 1 }).catch((failure: unknown) => failure)
      const {
        driver: again,
        control: commands,
        lost,
        device,
        queues,
      } = await recoverDevice(source, { driver, control })
      expect([device, lost, queues, source.state, driver.isClosed]).toEqual([source, [], [], 'running', true])
      expect(await waiting).toMatchObject({
        code: expect.stringMatching(/^ERR_VDPA_(DEVICE_BROKEN|CANCELED)$/) as unknown,
      })
      const moved = again as NetDriver
      await traffic.settle(moved)
      traffic.send(moved, 5)
      await traffic.settle(moved)
      expect(traffic.seen).toEqual(traffic.sent)
      expect([models[0]?.mac, moved.activePairs, models[0]?.control?.isPromiscuous]).toEqual([address, 2, true])
      expect(source.groups.asidOf(source.groups.of(source.controlQueueIndex ?? 0) ?? 0)).toBe(1)
      await commands?.setMacAddress('02:00:00:00:00:09')
      expect(models[0]?.mac).toBe('02:00:00:00:00:09')
    },
  )
})

test('data queues are enabled when the commands were acknowledged', async () => {
  const { source, driver, control, models } = await run()
  await control.setPromiscuous(true)
  const order: string[] = []
  const { transport } = source
  const enable = transport.setVringEnable.bind(transport)
  transport.setVringEnable = (index, isOn) => {
    order.push(`${index} ${models[0]?.control?.isPromiscuous}`)
    enable(index, isOn)
  }
  await recoverDevice(source, { driver, control })
  expect(order).toEqual(['4 false', '0 true', '1 true', '2 true', '3 true'])
})

test.each([
  ['stay where IOTLB_PERSIST was acknowledged', true],
  ['are sent again where it was not', false],
])('mappings %s', async (_what, persists) => {
  const { source, driver, control, simulator, backend } = await run()
  const device = persists ? source : await reopened(source, backend)
  const memory = simulator.allocate(0x4000)
  const started = persists ? { driver, control } : {}
  if (!persists) {
    await device.negotiate([])
    await device.start()
  }
  await device.addressSpace(0).map({ iova: 0x10000n, region: memory })
  let updates = 0
  const watch = backend.fail({ with: 'EIO', when: (call) => (updates += updatesOf(call)) < 0 })
  await recoverDevice(device, started)
  watch.close()
  // With a driver, the memory of its queues and of the control queue is mapped anew in any case.
  expect(updates).toBe(persists ? 5 : 1)
  expect(device.addressSpace(0).lookup(0x10000n)?.region).toBe(memory)
  await device.close()
  memory.close()
})

/** How many mappings a call sends. */
function updatesOf(call: ShownCall): number {
  if (call.op !== 'write' && !call.op.startsWith('writeEach')) return 0
  const { bytes } = call as { bytes: Uint8Array }
  const places = Array.from({ length: bytes.length / vhostMsgV2.size }, (_, at) => at * vhostMsgV2.size)
  const types = places.map((at) => vhostMsgV2.decode(bytes.subarray(at, at + vhostMsgV2.size)).type)
  return types.filter((type) => type === iotlbMessageTypes.VHOST_IOTLB_UPDATE).length
}

async function reopened(device: VdpaDevice, backend: Pair['backend']): Promise<VdpaDevice> {
  await device.close()
  const again = await openDevice(A, {
    backend,
    backendFeatures: ['VHOST_BACKEND_F_IOTLB_MSG_V2', 'VHOST_BACKEND_F_IOTLB_BATCH', 'VHOST_BACKEND_F_IOTLB_ASID'],
  })
  devices.push(again)
  return again
}

describe('a disk', () => {
  async function disk(waitsForRecovery: boolean) {
    const simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(blockDevice({ path: A, capacity: 256, moreFeatures: [blockFeatureBits.VIRTIO_BLK_F_CONFIG_WCE] }))
    const device = await openDevice(A, { backend: simulator, expect: 'block' })
    devices.push(device)
    await device.negotiate([])
    const driver = await BlockDriver.start(device, { size: 16, waitsForRecovery })
    await device.start()
    return { simulator, device, driver }
  }
  const sector = (at: number) => new Uint8Array(512).fill(at)
  const drained = async <T>(simulator: Simulator, promise: Promise<T>): Promise<T> => {
    let isSettled = false
    promise.finally(() => (isSettled = true)).catch(() => undefined)
    while (!isSettled) {
      simulator.drain()
      await new Promise((resolve) => setImmediate(resolve))
    }
    return promise
  }

  test('requests that wait for recovery are carried out after it, and their promises settle', async () => {
    const { simulator, device, driver } = await disk(true)
    const writes = [1, 2, 3].map((at) => driver.write(at, sector(at)))
    simulator.faults.needsReset(A)
    const late = driver.write(4, sector(4))
    const { driver: again } = await drained(simulator, recoverDevice(device, { driver }))
    await drained(simulator, Promise.all([...writes, late]))
    const next = again as BlockDriver
    for (const at of [1, 2, 3, 4]) expect((await drained(simulator, next.read(at, 1)))[7]).toBe(at)
    // It goes on waiting, as it was asked to.
    const more = next.write(5, sector(5))
    simulator.faults.needsReset(A)
    const third = await drained(simulator, recoverDevice(device, { driver: next }))
    await drained(simulator, more)
    expect(third.lost).toEqual([])
  })

  test('requests that were told of the breakdown are not sent again, and the driver begins empty', async () => {
    const { simulator, device, driver } = await disk(false)
    const write = driver.write(1, sector(1)).catch((failure: unknown) => failure)
    simulator.faults.needsReset(A)
    expect(await drained(simulator, write)).toEqual(code('ERR_VDPA_DEVICE_BROKEN'))
    const { driver: again, lost } = await drained(simulator, recoverDevice(device, { driver }))
    expect(lost).toEqual([expect.stringContaining('empty queues')])
    const next = again as BlockDriver
    expect((await drained(simulator, next.read(1, 1)))[7]).toBe(0)
    await drained(simulator, next.write(2, sector(2)))
    expect((await drained(simulator, next.read(2, 1)))[7]).toBe(2)
  })

  test.each([true, false])(
    'the write cache that was switched %s is so again, whatever the device made of it',
    async (isOn) => {
      const { simulator, device } = await disk(true)
      await device.reset()
      await device.negotiate(['VIRTIO_BLK_F_CONFIG_WCE', 'VIRTIO_BLK_F_FLUSH'])
      const switching = await BlockDriver.start(device, { size: 16, waitsForRecovery: true })
      await device.start()
      await switching.setWriteCache(!isOn)
      await switching.setWriteCache(isOn)
      // A device that breaks down may begin anew at once.
      simulator.faults.changeConfig(A, writeCacheAt, Uint8Array.of(isOn ? 0 : 1))
      simulator.faults.needsReset(A)
      const { driver: again } = await drained(simulator, recoverDevice(device, { driver: switching }))
      expect([(again as BlockDriver).limits.hasWriteCache, device.config.block().writeCache]).toEqual([isOn, isOn])
      // And what a reset of the program's own forgot is not set again.
      await device.reset()
      await device.negotiate(['VIRTIO_BLK_F_CONFIG_WCE', 'VIRTIO_BLK_F_FLUSH'])
      const third = await BlockDriver.start(device, { size: 16 })
      await device.start()
      const { driver: fourth } = await drained(simulator, recoverDevice(device, { driver: third }))
      expect((fourth as BlockDriver).limits.hasWriteCache).toBe(false)
    },
  )

  test('who waits is told when the device is closed instead', async () => {
    const { simulator, device, driver } = await disk(true)
    const write = driver.write(1, sector(1)).catch((failure: unknown) => failure)
    simulator.faults.needsReset(A)
    simulator.drain()
    await device.close()
    expect(await write).toEqual(code('ERR_VDPA_CANCELED'))
  })
})

test('each of its calls refused in turn: it runs, or is reset or lost, and nothing is left that anybody waits for', async () => {
  const states = new Set<string>()
  let nth = 1
  for (; nth < 300; nth++) {
    const { source, target, driver, control, backend, simulator } = await runPair()
    const traffic = new Traffic()
    traffic.send(driver, 3)
    simulator.drain()
    simulator.faults.needsReset(A)
    const waiting = driver.nextFrame().catch((failure: unknown) => failure)
    const fault = backend.fail({ with: 'EIO', nth, when: ({ op }) => op !== 'close' })
    const result = await recoverDevice(source, { driver, control, timeout: 100 }).catch((failure: unknown) => failure)
    const { hits } = fault
    fault.close()
    const isRecovered = typeof result === 'object' && result !== null && 'device' in result
    states.add(source.state)
    // The question that follows the interrupt of the breakdown may be what is refused: the device is lost after it was recovered then.
    const may = isRecovered ? ['running', ...(hits > 0 ? ['lost'] : [])] : ['running', 'claimed', 'lost']
    expect(may).toContain(source.state)
    await waiting
    if (source.state === 'lost') await source.reset().catch(() => undefined)
    if (!isRecovered && source.state === 'running') expect(driver.isClosed).toBe(false)
    for (const device of [source, target]) await device.close()
    expect(simulator.descriptors).toEqual([])
    if (hits === 0) break
  }
  expect(nth).toBeLessThan(300)
  expect([...states].sort()).toEqual(['claimed', 'lost', 'running'])
})

describe('queues that no driver of ours has', () => {
  test('those of createQueue() are given as they are, their chains in them', async () => {
    const { source } = await run()
    await source.reset()
    await source.negotiate([])
    const queue = await source.createQueue(1, { addressSpace: source.addressSpace(0), size: 8, bufferBytes: 64 })
    await source.start()
    await source.suspend()
    queue.ring.begin()
    queue.ring.pushAddress(queue.buffersIova, 14, false)
    queue.ring.commit(5)
    const { queues, lost } = await recoverDevice(source)
    expect(queues.map(({ index, ring }) => [index, ring.inFlight])).toEqual([[1, 1]])
    expect([queue.isClosed, lost]).toEqual([true, []])
  })

  test('a ring in the address space of its descriptors comes back to that one', async () => {
    const { source } = await run({
      source: { queuePairs: 1, groups: [0, 0, 1], descriptorGroups: [2, 2, 1], addressSpaces: 3 },
    })
    await source.reset()
    await source.negotiate([])
    source.groups.assign(2, 2)
    const [addressSpace, descriptorSpace] = [source.addressSpace(0), source.addressSpace(2)]
    await source.createQueue(1, { addressSpace, descriptorSpace, size: 8 })
    await source.start()
    const { queues } = await recoverDevice(source)
    expect([queues[0]?.addressSpace, descriptorSpace.size, addressSpace.size]).toEqual([descriptorSpace, 1, 0])
  })

  async function guest(features: readonly FeatureName[]) {
    const pair = await run()
    const { source, simulator } = pair
    await source.reset()
    await source.negotiate(features)
    const memory = simulator.allocate(0x8000)
    const kick = simulator.eventfd()
    await source.addressSpace(0).map({ iova: 0x10000n, region: memory, offset: 0, size: 0x8000 })
    const addresses = { descriptor: 0x10000n, driver: 0x11000n, device: 0x12000n }
    source.vring(1).setUp({ size: 8, addresses, kick })
    source.vring(1).enable()
    await source.start()
    memory.view(0x2002, 2).set([3, 0])
    const end = async () => {
      await source.close()
      kick.close()
      memory.close()
    }
    return { ...pair, kick, end }
  }

  test('a guest’s split ring goes on behind its last used entry', async () => {
    const { source, kick, end } = await guest([])
    const { lost } = await recoverDevice(source, { eventfds: [{ index: 1, kick }] })
    expect(lost).toEqual([expect.stringContaining('queue 1')])
    await source.suspend()
    expect(source.vring(1).state()).toEqual({ available: 3, used: 3 })
    await end()
  })

  test('a guest’s packed ring does not tell where it stands: nothing is touched', async () => {
    const { source, end } = await guest(['VIRTIO_F_RING_PACKED'])
    await expect(recoverDevice(source)).rejects.toThrow(code('ERR_VDPA_NOT_SUPPORTED'))
    expect(source.state).toBe('running')
    await end()
  })
})

test('is refused before anything is touched', async () => {
  const { source, target, driver, control } = await run()
  await expect(recoverDevice(source, { driver })).rejects.toThrow(code('ERR_VDPA_STATE'))
  await expect(recoverDevice(source, { control })).rejects.toThrow(code('ERR_VDPA_STATE'))
  await expect(recoverDevice(target)).rejects.toThrow(code('ERR_VDPA_STATE'))
  await expect(recoverDevice(source, null as never)).rejects.toThrow(TypeError)
  await expect(recoverDevice(source, { driver: 7 as never, control })).rejects.toThrow(TypeError)
  await expect(recoverDevice(source, { driver, control, timeout: 0 })).rejects.toThrow(RangeError)
  expect([source.state, driver.isClosed, control.isClosed, target.state]).toEqual(['running', false, false, 'claimed'])
  await target.close()
  await expect(recoverDevice(target)).rejects.toThrow(code('ERR_VDPA_CLOSED'))
})

test('a lost device is reset only, and said to be lost', async () => {
  const { source, driver, control, backend } = await run()
  const fault = backend.fail({ request: 'VHOST_VDPA_SUSPEND', with: 'ENODEV' })
  const waiting = driver.nextFrame().catch((failure: unknown) => failure)
  await expect(source.suspend()).rejects.toThrow(code('ERR_VDPA_DEVICE_BROKEN'))
  fault.close()
  await expect(recoverDevice(source, { driver, control })).rejects.toThrow(code('ERR_VDPA_DEVICE_BROKEN'))
  expect(source.state).toBe('claimed')
  expect(await waiting).toEqual(code('ERR_VDPA_CANCELED'))
})

test('a call that comes without waiting for it comes after it, and closing does not wait for a device that is silent', async () => {
  const { source, driver, control } = await run()
  const [recovered] = await Promise.all([recoverDevice(source, { driver, control }), source.suspend()])
  expect([recovered.device.state, recovered.driver?.isClosed]).toEqual(['suspended', false])
  await source.resume()
  const again = {
    driver: recovered.driver as NetDriver,
    control: recovered.control as NonNullable<typeof recovered.control>,
  }
  const recovering = recoverDevice(source, again)
  const closing = source.close()
  const [outcome] = await Promise.allSettled([recovering, closing])
  expect(outcome).toMatchObject({ status: 'rejected' })
  expect(source.state).toBe('closed')
})

test.each(['a driver', 'nobody'])(
  'memory of queues of %s that could not be unmapped is freed with the device',
  async (who) => {
    const { source, driver, control, backend } = await run()
    if (who === 'nobody') {
      await source.reset()
      await source.negotiate([])
      await source.createQueue(0, { addressSpace: source.addressSpace(0), size: 8 })
      await source.start()
    }
    const owner = who === 'nobody' ? 'createQueue()' : 'a NetDriver'
    const memories = source.drivenQueues.filter((queue) => queue.owner === owner).map(({ place }) => place.memory)
    expect(memories.length).toBeGreaterThan(0)
    const faults = [
      backend.fail({ op: 'eventfd', with: 'EMFILE', times: Infinity }),
      backend.fail({ request: 'VHOST_IOTLB_INVALIDATE', with: 'EFAULT', nth: 1, times: Infinity }),
    ]
    await expect(recoverDevice(source, who === 'nobody' ? {} : { driver, control })).rejects.toThrow()
    expect(memories.map(({ isClosed }) => isClosed)).toEqual(memories.map(() => false))
    for (const fault of faults) fault.close()
    await source.close()
    expect(memories.map(({ isClosed }) => isClosed)).toEqual(memories.map(() => true))
  },
)

test('a device that was lost says so also where close() comes right behind', async () => {
  const { source, backend, driver, control } = await run()
  const fault = backend.fail({ request: 'VHOST_VDPA_SET_STATUS', with: 'ENODEV' })
  await expect(source.reset()).rejects.toEqual(code('ERR_VDPA_DEVICE_BROKEN'))
  fault.close()
  const recovering = recoverDevice(source, { driver, control })
  const [outcome] = await Promise.allSettled([recovering, source.close()])
  expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VDPA_DEVICE_BROKEN' } })
})

describe('a guest', () => {
  test('whose control queue is shadowed goes on with it, its filters set again', async () => {
    const own = await makeWorld()
    devices.push(own.device)
    const guest = new Guest(own)
    const shadow = await startShadow(own, { guest: guest.queue() })
    expect((await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 77)).ack).toBe(0)
    expect((await guest.command('VIRTIO_NET_CTRL_RX_ALLMULTI', true)).ack).toBe(0)
    own.simulator.faults.needsReset(A)
    const { shadowControl } = await recoverDevice(own.device, { shadowControl: shadow })
    expect(shadowControl?.commands().map(({ name }) => name)).toEqual([
      'VIRTIO_NET_CTRL_RX_ALLMULTI',
      'VIRTIO_NET_CTRL_VLAN_ADD',
    ])
    expect((await guest.command('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:43')).ack).toBe(0)
    expect([own.model.mac, own.model.control?.acceptsAllMulticast, shadow.isClosed]).toEqual([
      '02:00:00:00:00:43',
      true,
      true,
    ])
    await own.device.close()
    for (const owned of [guest.kick, guest.call, ...guest.regions]) owned.close()
  })
})
