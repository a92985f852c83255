// A bridged device as front ends see it, on a simulator: data through rings that are the device's own, memory, order, control queues; front ends that are hostile, and a
// device that refuses.

import { expect, it } from '@jest/globals'
import { closeSync, ftruncateSync, openSync } from 'node:fs'
import { bit } from '../../lib/base/bits'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, type BridgeVhostUserOptions } from '../../lib/serve'
import { blockDevice, networkDevice, Simulator, type BlockDeviceOptions } from '../../lib/simulator'
import { netFeatureBits as net, transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import type { BackendFeature } from '../../lib/uapi/vhost-types'
import type { RequestName } from '../../lib/uapi/vhost'
import { describeNative } from '../native/support'
import { ownFolder } from '../own-folder'
import { readSector } from '../vhost-user/disk-requests'
import { FrontEnd, GUEST, USER, words } from '../vhost-user/front-end'
import { until } from '../until'
import { command } from './guest-command'

const packed = bit(transport.VIRTIO_F_RING_PACKED)
const eventIdx = bit(transport.VIRTIO_F_RING_EVENT_IDX)
const controlQueue = bit(net.VIRTIO_NET_F_CTRL_VQ)
const moreFeatures = [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_RING_EVENT_IDX]
/** No STATUS: rings alone say when to start. */
const STATUS = bit(16)

describeNative('a device that is bridged', (backend) => {
  const { begin, file } = ownFolder(backend)
  const disk = async (
    options: BlockDeviceOptions = {},
    settings: Partial<BridgeVhostUserOptions> = {},
    backendFeatures?: readonly BackendFeature[],
  ) => {
    const simulator = new Simulator()
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    const model = blockDevice({ capacity: 64, content, moreFeatures, ...options })
    const device = await openDevice(simulator.add(model), {
      backend: simulator,
      expect: 'block',
      ...(backendFeatures && { backendFeatures }),
    })
    const bridge = await bridgeVhostUser(device, { socket: file('socket'), ...settings })
    const end = async () => {
      await bridge.close()
      expect([device.state, device.addressSpace(0).size]).toEqual(['claimed', 0])
      await device.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { simulator, model, device, bridge, [Symbol.asyncDispose]: end }
  }
  const network = async (settings: Partial<BridgeVhostUserOptions> = {}, queuePairs = 2) => {
    const simulator = new Simulator()
    const more = [net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_VLAN]
    const model = networkDevice({ mac: '02:00:00:00:00:01', queuePairs, moreFeatures: more })
    const device = await openDevice(simulator.add(model), { backend: simulator, expect: 'net' })
    const bridge = await bridgeVhostUser(device, { socket: file('net'), ...settings })
    const end = async () => {
      await bridge.close()
      await device.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { simulator, model, device, bridge, [Symbol.asyncDispose]: end }
  }

  it.each([
    ['split', packed | eventIdx],
    ['split', packed],
    ['packed', eventIdx],
    ['packed', 0n],
  ] as const)('moves data through a %s ring, and goes on where it stopped', async (format, without) => {
    begin()
    await using world = await disk()
    using front = new FrontEnd(backend(), world.bridge.path)
    const features = await front.begin(without, STATUS)
    expect(features & bit(transport.VIRTIO_F_ACCESS_PLATFORM)).toBe(0n)
    const queue = front.queue(0, { format, eventIdx: (features & eventIdx) !== 0n })
    for (const sector of [0n, 5n, 63n]) expect(await readSector(front, queue, sector)).toEqual([Number(sector), 0])
    expect(world.bridge.isRunning).toBe(true)
    const base = (await front.ask('GET_VRING_BASE', words(0, 99))).payload
    expect(base).toEqual(format === 'split' ? words(0, 3) : words(0, 0x8009_8009))
    expect(world.bridge.isRunning).toBe(false)
    expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(base)
    front.send('SET_VRING_BASE', base)
    front.send('SET_VRING_KICK', words(0n), [queue.kick.fd])
    expect(await readSector(front, queue, 9n)).toEqual([9, 0])
    expect(world.bridge.refusals).toEqual([])
  })

  it('moves data of a simulator that is sabotaged as of one that is not', async () => {
    begin()
    const simulator = new Simulator()
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    const node = simulator.add(blockDevice({ capacity: 64, content }))
    await using device = await openDevice(node, { backend: new FaultyBackend(simulator), expect: 'block' })
    await using bridge = await bridgeVhostUser(device, { socket: file('socket') })
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(0n, STATUS)
    expect(await readSector(front, front.queue(0), 5n)).toEqual([5, 0])
    expect(bridge.refusals).toEqual([])
  })

  it('begins anew for the next front end where the device cannot say where it stood and the memory is gone', async () => {
    begin()
    const withoutSuspend = ['VHOST_BACKEND_F_IOTLB_MSG_V2', 'VHOST_BACKEND_F_IOTLB_BATCH'] as const
    await using world = await disk({}, {}, withoutSuspend)
    for (const sector of [0n, 5n]) {
      {
        using front = new FrontEnd(backend(), world.bridge.path)
        await front.begin(packed | eventIdx, STATUS)
        expect(await readSector(front, front.queue(0), sector)).toEqual([Number(sector), 0])
      }
      await until(() => !world.bridge.isRunning)
    }
    expect(world.bridge.refusals).toEqual([])
  })

  it('has a device to itself, until it is closed', async () => {
    begin()
    await using world = await disk()
    const again = () => bridgeVhostUser(world.device, { socket: file('other') })
    await expect(again()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await world.bridge.close()
    await using other = await again()
    expect(other.frontEnds).toBe(0)
    await other.close()
    await expect(bridgeVhostUser(world.device, { socket: '/nowhere/socket' })).rejects.toMatchObject({ code: 'ENOENT' })
    await (await again()).close()
  })

  it('maps memory that is added, and stops for what is taken away only', async () => {
    begin()
    await using world = await disk()
    using front = new FrontEnd(backend(), world.bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    expect(await readSector(front, queue, 3n)).toEqual([3, 0])
    const more = backend().allocate(1 << 16)
    const region = words(0n, GUEST * 2n, BigInt(more.length), USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
    expect(await front.acknowledged('ADD_MEM_REG', region, [more.fd ?? -1])).toBe(0n)
    expect(
      world.device
        .addressSpace(0)
        .snapshot()
        .map(({ iova }) => iova),
    ).toEqual([GUEST, GUEST * 2n])
    expect(await readSector(front, queue, 4n)).toEqual([4, 0])
    expect(await front.acknowledged('REM_MEM_REG', region)).toBe(0n)
    expect(world.device.addressSpace(0).size).toBe(1)
    expect(await readSector(front, queue, 5n)).toEqual([5, 0])
    // The table comes again, as it is: nothing happens.
    expect(await front.acknowledged('SET_MEM_TABLE', front.table(), [front.fd])).toBe(0n)
    expect(await readSector(front, queue, 6n)).toEqual([6, 0])
    // Without its rings' memory a queue cannot run: the refusal is named, and memory that comes back has it go on.
    expect(await front.acknowledged('REM_MEM_REG', words(0n, GUEST, 1n << 20n, USER, 0n))).toBe(1n)
    expect(world.bridge.isRunning).toBe(false)
    expect(world.bridge.refusals).toEqual([expect.stringContaining('lies in no region')])
    expect(await front.acknowledged('SET_MEM_TABLE', front.table(), [front.fd])).toBe(0n)
    expect(await readSector(front, queue, 7n)).toEqual([7, 0])
    // Memory that ends inside a page is mapped with all of it, and unmapped so.
    const part = words(0n, GUEST * 2n, 0x3b10n, USER * 2n, 0n)
    expect(await front.acknowledged('ADD_MEM_REG', part, [more.fd ?? -1])).toBe(0n)
    const snapshot = world.device.addressSpace(0).snapshot()
    expect(snapshot.find(({ iova }) => iova === GUEST * 2n)?.size).toBe(0x4000n)
    expect(await front.acknowledged('REM_MEM_REG', part)).toBe(0n)
    expect(world.device.addressSpace(0).size).toBe(1)
    more.close()
  })

  it('is started by DRIVER_OK where the front end says that it sends it, and not stopped by its end', async () => {
    begin()
    await using world = await disk()
    using front = new FrontEnd(backend(), world.bridge.path)
    // As QEMU does: enabled before there is a ring, and the status last.
    front.send('SET_VRING_ENABLE', words(0, 1))
    await front.begin(packed | eventIdx)
    front.send('SET_STATUS', words(8n))
    const queue = front.queue(0)
    await front.ask('GET_FEATURES')
    expect(world.bridge.isRunning).toBe(false)
    expect(await front.acknowledged('SET_STATUS', words(15n))).toBe(0n)
    expect(world.bridge.isRunning).toBe(true)
    expect(await readSector(front, queue, 1n)).toEqual([1, 0])
    front.send('SET_STATUS', words(0n))
    expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(words(0, 1))
    front.send('SET_VRING_ENABLE', words(0, 0))
    expect((await front.ask('GET_STATUS')).value).toBe(0n)
  })

  it('calls by a socket, by another eventfd from now on, or not at all', async () => {
    begin()
    await using world = await disk()
    using front = new FrontEnd(backend(), world.bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    const queue = front.queue(0)
    // Once without cause: an interrupt from before the device ran may be lost.
    await until(() => queue.call.take() > 0)
    expect(await readSector(front, queue, 1n)).toEqual([1, 0])
    await until(() => queue.call.take() > 0)
    const [ours, theirs] = backend().sockets.pair()
    expect(await front.acknowledged('SET_VRING_CALL', words(0n), [theirs.fd])).toBe(0n)
    theirs.close()
    const target = new Uint8Array(64)
    // What was announced to the one before may not have been heard.
    await until(() => ours.receive(target, 0, 64)?.length === 8)
    await readSector(front, queue, 2n)
    await until(() => ours.receive(target, 0, 64)?.length === 8)
    expect(await front.acknowledged('SET_VRING_CALL', words(0x100n))).toBe(0n)
    expect(await readSector(front, queue, 3n)).toEqual([3, 0])
    expect(queue.call.take()).toBe(0)
    ours.close()
  })

  it('serves a guest’s control queue by the shadow, across a stop, and has a new driver begin anew', async () => {
    begin()
    await using world = await network({
      policy: ({ name }) => (name === 'VIRTIO_NET_CTRL_MAC_ADDR_SET' ? 'deny' : 'allow'),
    })
    const { model, bridge } = world
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(0n, STATUS)
    const [, , , , control] = [0, 1, 2, 3, 4].map((index) => front.queue(index))
    if (control === undefined) throw new Error('there is no control queue')
    expect(await command(front, control, 4, 0, 2, 0)).toBe(0)
    expect(await command(front, control, 0, 0, 1)).toBe(0)
    expect(await command(front, control, 1, 1, 2, 0, 0, 0, 0, 9)).toBe(1)
    expect([model.control.isPromiscuous, model.mac]).toEqual([true, '02:00:00:00:00:01'])
    expect(bridge.shadow?.counters).toEqual({ commands: 3, errors: 1 })
    // A queue that stops takes all with it, and the guest's settings are there again when it goes on.
    const base = (await front.ask('GET_VRING_BASE', words(0, 0))).payload
    expect([bridge.isRunning, model.control.isPromiscuous]).toEqual([false, false])
    front.send('SET_VRING_BASE', base)
    const kick = backend().eventfd()
    expect(await front.acknowledged('SET_VRING_KICK', words(0n), [kick.fd])).toBe(0n)
    expect(model.control.isPromiscuous).toBe(true)
    expect(await command(front, control, 2, 0, 5, 0)).toBe(0)
    expect([...model.control.vlans]).toEqual([5])
    // As User Mode Linux unloads its driver, and loads it.
    for (const index of [4, 3, 2, 1, 0]) expect(await front.acknowledged('SET_VRING_ENABLE', words(index, 0))).toBe(0n)
    expect(bridge.isRunning).toBe(false)
    front.send('SET_FEATURES', words((await front.ask('GET_FEATURES')).value))
    const again = [0, 1, 2, 3, 4].map((index) => front.queue(index)).at(-1)
    if (again === undefined) throw new Error('there is no control queue')
    expect(await command(front, again, 0, 1, 1)).toBe(0)
    expect([model.control.isPromiscuous, [...model.control.vlans]]).toEqual([false, []])
    expect(bridge.refusals).toEqual([])
    kick.close()
  })

  it('runs the control queue itself where the front end keeps it', async () => {
    begin()
    await using world = await network()
    const { model, bridge } = world
    using front = new FrontEnd(backend(), bridge.path)
    // As QEMU does: MQ without its parent.
    await front.begin(controlQueue, 0n)
    for (const index of [0, 1, 2, 3]) front.queue(index)
    for (const index of [2, 3]) front.send('SET_VRING_ENABLE', words(index, 0))
    expect(await front.acknowledged('SET_STATUS', words(15n))).toBe(0n)
    expect(model.control.isPromiscuous).toBe(true)
    expect(model.control.queuePairs).toBe(1)
    for (const index of [2, 3]) expect(await front.acknowledged('SET_VRING_ENABLE', words(index, 1))).toBe(0n)
    expect(model.control.queuePairs).toBe(2)
    expect(bridge.refusals).toEqual([])
  })

  it.each<RequestName>([
    'VHOST_SET_FEATURES',
    'VHOST_VDPA_SET_GROUP_ASID',
    'VHOST_SET_VRING_NUM',
    'VHOST_SET_VRING_BASE',
    'VHOST_SET_VRING_ADDR',
    'VHOST_SET_VRING_KICK',
    'VHOST_SET_VRING_CALL',
    'VHOST_VDPA_SET_VRING_ENABLE',
    'VHOST_VDPA_SET_STATUS',
  ])('names a refused %s to the front end, and serves the next one', async (request) => {
    begin()
    await using world = await network()
    const { simulator, bridge } = world
    for (let nth = 1; nth <= 8; nth++) {
      simulator.faults.fail({ request, with: 'EIO', nth })
      using front = new FrontEnd(backend(), bridge.path)
      await front.begin(0n, STATUS)
      for (const index of [0, 1, 2, 3, 4]) front.queue(index)
      front.send('GET_FEATURES')
      const isThere = (await front.answer().catch(() => undefined)) !== undefined
      front.close()
      await until(() => bridge.frontEnds === 0 && !bridge.isRunning)
      simulator.faults.clear()
      if (isThere) expect(nth).toBeGreaterThan(1)
    }
    expect(bridge.refusalCount).toBeGreaterThan(0)
    for (const refusal of bridge.refusals) expect(refusal).toContain('EIO')
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(0n, STATUS)
    const queues = [0, 1, 2, 3, 4].map((index) => front.queue(index))
    expect(await command(front, queues[4] as (typeof queues)[0], 0, 0, 1)).toBe(0)
  })

  it.each<[string, (front: FrontEnd) => unknown]>([
    ['garbage', (front) => front.socket.send(new Uint8Array(4096).fill(0xa5))],
    ['half a message, and silence', (front) => front.socket.send(words(2, 1, 8))],
    ['descriptors with what takes none', (front) => front.send('SET_OWNER', undefined, [0, 1, 2])],
    ['memory that its file has not', (front) => front.send('SET_MEM_TABLE', front.table(GUEST, 1n << 30n), [front.fd])],
    ['a kick that is a file', (front) => front.send('SET_VRING_KICK', words(0n), [front.fd])],
    ['a call that is a file', (front) => front.send('SET_VRING_CALL', words(0n), [front.fd])],
    ['features that were not offered', (front) => front.send('SET_FEATURES', words(1n << 60n))],
    ['a driver of before version 1', (front) => front.send('SET_FEATURES', words(0n))],
    ['a queue that is not there', (front) => front.send('SET_VRING_ENABLE', words(200, 1))],
    ['a log that its file has not', (front) => front.send('SET_LOG_BASE', words(1n << 20n, 1n), [front.fd])],
    ['a queue that is to be polled', (front) => front.send('SET_VRING_KICK', words(0x100n))],
  ])('survives %s, names it, and serves the next', async (_name, attack) => {
    begin()
    await using world = await disk({}, { messageTimeout: 50 })
    const { bridge } = world
    {
      using bad = new FrontEnd(backend(), bridge.path)
      await bad.begin(packed | eventIdx, STATUS)
      expect(await readSector(bad, bad.queue(0), 1n)).toEqual([1, 0])
      attack(bad)
      expect(await bad.answer().catch(() => undefined)).toBeUndefined()
    }
    await until(() => bridge.frontEnds === 0)
    expect(bridge.refusalCount).toBe(1)
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    expect(await readSector(front, front.queue(0), 2n)).toEqual([2, 0])
  })

  it('ends the connection of who makes its memory shorter', async () => {
    begin()
    await using world = await disk()
    const { bridge } = world
    {
      using bad = new FrontEnd(backend(), bridge.path)
      const ram = openSync(file('ram'), 'w+')
      ftruncateSync(ram, 1 << 20)
      await bad.begin(packed | eventIdx, STATUS)
      expect(await bad.acknowledged('SET_MEM_TABLE', bad.table(), [ram])).toBe(0n)
      const victim = bad.queue(0)
      await bad.ask('GET_FEATURES')
      ftruncateSync(ram, 0)
      victim.kick.signal()
      expect(await bad.ask('GET_FEATURES').catch(() => undefined)).toBeDefined()
      closeSync(ram)
    }
    await until(() => bridge.frontEnds === 0)
    using front = new FrontEnd(backend(), bridge.path)
    await front.begin(packed | eventIdx, STATUS)
    expect(await readSector(front, front.queue(0), 2n)).toEqual([2, 0])
  })

  it('gives everything back when the device, or the bridge, is closed under a front end', async () => {
    begin()
    for (const way of ['device', 'bridge'] as const) {
      const { device, bridge, simulator } = await disk()
      const front = new FrontEnd(backend(), bridge.path)
      await front.begin(packed | eventIdx, STATUS)
      expect(await readSector(front, front.queue(0), 2n)).toEqual([2, 0])
      await (way === 'device' ? device : bridge).close()
      expect(await front.answer()).toBeUndefined()
      await bridge.close()
      await bridge.close()
      await device.close()
      front.close()
      expect([bridge.isClosed, bridge.frontEnds, simulator.descriptors]).toEqual([true, 0, []])
      // Who hears of it first says so: the bridge, or the verb that it had begun.
      expect(bridge.refusals).toEqual(way === 'device' ? [expect.stringMatching(/(was|is) closed/)] : [])
    }
  })

  it('refuses what cannot be bridged', async () => {
    begin()
    const simulator = new Simulator()
    await using device = await openDevice(simulator.add(blockDevice()), { backend: simulator, expect: 'block' })
    const socket = file('s')
    await expect(bridgeVhostUser({} as typeof device, { socket })).rejects.toThrow(TypeError)
    await expect(bridgeVhostUser(device, { socket: '' })).rejects.toThrow(RangeError)
    await expect(bridgeVhostUser(device, { socket, backend: simulator })).rejects.toThrow('has no UNIX sockets')
    // What only a guest's control queue will need is looked at now.
    for (const wish of [{ policy: 'deny' }, { onAudit: 1 }, { timeout: 0 }, { timeout: '5' }, { macTableEntries: -1 }])
      await expect(bridgeVhostUser(device, { socket, ...wish } as never)).rejects.toThrow(
        new RegExp(`^${Object.keys(wish).join()} must be`),
      )
    await device.negotiate([])
    await expect(bridgeVhostUser(device, { socket })).rejects.toThrow('bridged before it is negotiated')
    await device.reset()
    await using bridge = await bridgeVhostUser(device, { socket })
    expect(bridge.isolation).toBeUndefined()
  })
})
