// Queues that this process drives: made whole or not at all, told by eventfd or doorbell, saved and restored, and closed with their memory.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDevice, openDeviceSync } from '../../lib/open.js'
import { customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const bit = (number: number) => 1n << BigInt(number)
const features = bit(28) | bit(29) | bit(32) | bit(33) | bit(34) | bit(35) | bit(38)

describe.each(['split', 'packed'] as const)('a %s queue', (format) => {
  let simulator: Simulator
  let model: ReturnType<typeof customDevice>
  let device: VdpaDevice
  /** What the device saw, a byte of each chain. */
  let served: number[]

  beforeEach(() => {
    served = []
    simulator = new Simulator({ scheduler: 'manual' })
    model = customDevice({
      path,
      deviceId: 25,
      queues: 2,
      features,
      capabilities: { doorbell: true },
      onKick(chain) {
        const byte = new Uint8Array(1)
        chain.read(byte, 0, 1)
        served.push(byte[0] ?? -1)
      },
    })
    simulator.add(model)
    device = openDeviceSync(path, { backend: simulator })
    negotiate([])
  })

  afterEach(() => device.close())

  function negotiate(optional: readonly string[]) {
    device.negotiateSync([...(format === 'packed' ? ['VIRTIO_F_RING_PACKED' as const] : []), ...(optional as [])])
  }

  const make = (options: Partial<Parameters<VdpaDevice['createQueue']>[1]> = {}) =>
    device.createQueue(0, { addressSpace: device.addressSpace(0), size: 8, bufferBytes: 4096, ...options })

  function send(queue: DeviceQueue, byte: number) {
    queue.buffers.setU8(byte, byte)
    queue.ring.begin()
    queue.ring.pushAddress(queue.buffersIova + BigInt(byte), 1, false)
    queue.ring.commit(byte)
    queue.publish()
  }

  test('takes no listener that is none', async () => {
    const queue = await make()
    expect(() => queue.onClose(undefined as never)).toThrow('listener must be a function (got undefined)')
    expect(() => queue.onCall(5 as never)).toThrow('listener must be a function (got 5)')
    await queue.close()
  })

  test('signals for chains, and owes nothing once the device was told', async () => {
    const queue = await make()
    await device.start()
    const signals: number[] = []
    const count = () => signals.push(simulator.pending)
    send(queue, 1)
    count()
    simulator.drain()
    queue.publish()
    count()
    expect(signals[0]).toBeGreaterThan(0)
    expect(signals[1]).toBe(0)
  })

  test('published before start() it is not kicked, and start() tells the device of it', async () => {
    const queue = await make()
    send(queue, 3)
    queue.kick()
    simulator.drain()
    expect(served).toEqual([])
    expect(model.violations).toEqual([])
    await device.start()
    simulator.drain()
    expect(served).toEqual([3])
    expect(takeAll(queue)).toEqual([3])
  })

  function takeAll(queue: DeviceQueue): number[] {
    const taken: number[] = []
    for (let token = queue.ring.take(); token >= 0; token = queue.ring.take()) taken.push(token)
    return taken
  }

  test.each(['eventfd', 'doorbell', 'auto'] as const)('reaches the device, told by %s', async (notifyBy) => {
    const queue = await make({ notifyBy })
    device.startSync()
    for (const byte of [3, 1, 4]) send(queue, byte)
    simulator.drain()
    expect(served).toEqual([3, 1, 4])
    expect(takeAll(queue)).toEqual([3, 1, 4])
    expect(queue.takeCalls()).toBeGreaterThan(0)
  })

  test('with NOTIFICATION_DATA, the doorbell says where the ring stands', async () => {
    await device.reset()
    negotiate(['VIRTIO_F_NOTIFICATION_DATA'])
    const queue = await make({ notifyBy: 'doorbell' })
    device.startSync()
    for (let byte = 0; byte < 20; byte++) {
      send(queue, byte)
      simulator.drain()
      expect(takeAll(queue)).toEqual([byte])
    }
    expect(served).toEqual(Array.from({ length: 20 }, (_, byte) => byte))
  })

  test('goes on where it was saved, with what is in flight', async () => {
    const queue = await make()
    device.startSync()
    send(queue, 1)
    simulator.drain()
    send(queue, 2)
    send(queue, 3)
    device.suspendSync()
    const snapshot = await queue.save()
    expect(queue.isClosed).toBe(true)
    await device.reset()
    negotiate([])
    const again = await make({ restore: snapshot })
    device.startSync()
    again.kick()
    simulator.drain()
    expect(served).toEqual([1, 2, 3])
    expect(takeAll(again).sort()).toEqual([1, 2, 3])
    send(again, 5)
    simulator.drain()
    expect(takeAll(again)).toEqual([5])
  })

  test.each([
    'VHOST_SET_VRING_NUM',
    'VHOST_SET_VRING_BASE',
    'VHOST_SET_VRING_ADDR',
    'VHOST_SET_VRING_KICK',
    'VHOST_SET_VRING_CALL',
    'VHOST_VDPA_SET_VRING_ENABLE',
    'write',
  ] as const)('leaves nothing behind when %s is refused', async (request) => {
    const before = simulator.descriptors
    simulator.faults.fail({ request, with: 'EIO' })
    await expect(make()).rejects.toMatchObject({ code: 'EIO' })
    expect(simulator.descriptors).toEqual(before)
    expect(device.addressSpace(0).size).toBe(0)
  })

  test('is closed with the device, its memory unmapped and its descriptors closed', async () => {
    const queue = await make()
    const closed: string[] = []
    queue.onClose(() => closed.push(`${queue.buffers.u8(0)}`))
    device.startSync()
    await device.close()
    expect(queue.isClosed).toBe(true)
    expect(closed).toEqual(['0'])
    expect(simulator.descriptors).toEqual([])
  })

  test.each([
    ['no size', { size: 0 }],
    ['a size above the largest', { size: 0x8000 }],
    ['a size that no ring has', { size: 12 }],
    ['a way of notifying that there is none of', { notifyBy: 'dorbell' as never }],
    ['a negative number of bytes', { bufferBytes: -1 }],
    ['an address space of another device', { addressSpace: { asid: 0 } as never }],
    ['an IOVA that is no page', { iova: 1n }],
  ])('%s is refused', async (_, options) => {
    const before = simulator.descriptors
    await expect(make(options)).rejects.toThrow(RangeError)
    expect(simulator.descriptors).toEqual(before)
  })

  test('may have no buffers beside its ring', async () => {
    expect((await make({ bufferBytes: 0 })).buffers.byteLength).toBe(0)
  })

  test('is not closed under a running or suspended device, which closes it when it is reset', async () => {
    const queue = await make()
    const closing = [queue.close(), device.start(), queue.close()]
    await Promise.all(closing)
    expect(queue.isClosed).toBe(true)
    await device.reset()
    negotiate([])
    const other = await make()
    await device.start()
    for (const state of ['runs', 'is suspended']) {
      await expect(other.close()).rejects.toMatchObject({
        code: 'ERR_VDPA_STATE',
        path,
        message: expect.stringContaining(`while the device ${state}: call reset(), or close the device`),
      })
      expect(() => other.closeSync()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
      await other[Symbol.asyncDispose]()
      expect([other.isClosed, device.addressSpace(0).size]).toEqual([false, 1])
      if (state === 'runs') await device.suspend()
    }
    const end = other.close()
    await expect(end).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await device.reset()
    await other.close()
    expect([other.isClosed, device.addressSpace(0).size]).toEqual([true, 0])
  })

  test('whose memory the program unmapped is closed all the same', async () => {
    const queues = [await make(), await device.createQueue(1, { addressSpace: device.addressSpace(0), size: 8 })]
    await device.addressSpace(0).unmapAll()
    await queues[0]?.close()
    await device.close()
    expect(queues.map((queue) => queue.buffers.buffer.byteLength)).toEqual([0, 0])
  })

  test('whose memory could not be unmapped leaves alone what the program maps in its place', async () => {
    const backend = new FaultyBackend(simulator)
    const other = openDeviceSync(simulator.add(customDevice({ deviceId: 25, queues: 1 })), { backend })
    other.negotiateSync([])
    const space = other.addressSpace(0)
    const queue = await other.createQueue(0, { addressSpace: space, iova: 0x10000n, size: 8 })
    const { byteLength } = queue.buffers.buffer
    backend.fail({ with: 'EIO', when: ({ op }) => op.startsWith('write') })
    await expect(queue.close()).rejects.toThrow()
    await space.unmapAll()
    const own = simulator.allocate(byteLength)
    await space.map({ iova: 0x10000n, region: own })
    await other.reset()
    expect(space.lookup(0x10000n)?.region).toBe(own)
    await other.close()
    expect([queue.buffers.buffer.byteLength, own.holders]).toEqual([0, []])
    own.close()
  })

  test('tells a listener that came after its end, unless it was taken off', async () => {
    const queue = await make()
    await queue.close()
    const told: string[] = []
    const takeOff = queue.onClose(() => told.push('taken off'))
    queue.onClose(() => told.push('left'))
    takeOff()
    await Promise.resolve()
    expect(told).toEqual(['left'])
  })

  test('waits for the end that its device brings', async () => {
    const queue = await make()
    const closing = device.close()
    const end = queue.close()
    await queue[Symbol.asyncDispose]()
    expect(queue.isClosed).toBe(true)
    await end
    await closing
    await queue.close()
  })

  test('has one owner, who is named to the second', async () => {
    const queue = await make({ owner: 'the first' })
    await expect(make()).rejects.toMatchObject({
      code: 'ERR_VDPA_STATE',
      message: expect.stringContaining('queue 0 is in use already, by the first'),
    })
    const addresses = { descriptor: 0x1000n, driver: 0x2000n, device: 0x3000n }
    expect(() => device.vring(0).setUp({ size: 4, addresses })).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_STATE' }),
    )
    await queue.close()
    await make()
  })

  test('that is given up before start() is disabled, or the device is to be reset where its parent cannot', async () => {
    const enabled = () => model.queues.filter((one) => one.isReady).map((one) => one.index)
    const queue = await make()
    expect(enabled()).toEqual([0])
    await queue.close()
    expect(enabled()).toEqual([])
    const again = await make()
    simulator.faults.fail({ request: 'VHOST_GET_VRING_BASE', with: 'EOPNOTSUPP' })
    await again.close()
    for (const verb of [() => device.start(), () => make()])
      await expect(verb()).rejects.toMatchObject({
        code: 'ERR_VDPA_STATE',
        message: expect.stringContaining('call reset() first'),
      })
    await device.reset()
    expect(enabled()).toEqual([])
    negotiate([])
    await make()
    await device.start()
  })

  test('that cannot be saved is as it was, and one that was is not resumed under its memory', async () => {
    const queue = await make()
    await device.start()
    await expect(queue.save()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    send(queue, 1)
    simulator.drain()
    expect([served, takeAll(queue)]).toEqual([[1], [1]])
    await device.suspend()
    const snapshot = await queue.save()
    await expect(device.resume()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    await device.reset()
    snapshot.memory.close()
  })

  test('is restored in the shape that it had', async () => {
    const queue = await make({ bufferBytes: 8192, indirectTableSize: 4 })
    const { buffersIova } = queue
    await device.start()
    await device.suspend()
    const restore = await queue.save()
    await device.reset()
    negotiate([])
    const addressSpace = device.addressSpace(0)
    for (const other of [{ bufferBytes: 4096 }, { size: 4 }, { indirectTableSize: 2 }, { iova: 0x1000n }])
      await expect(device.createQueue(0, { addressSpace, restore, ...other })).rejects.toThrow(RangeError)
    const again = await device.createQueue(0, { addressSpace, restore })
    expect([again.buffersIova, again.buffers.byteLength, again.ring.size]).toEqual([buffersIova, 8192, 8])
  })

  test.each(['EINVAL', 'ENXIO', 'ENOTSUPP', 'EACCES'] as const)(
    'takes the eventfd where the doorbell is refused by %s, or says so',
    async (errno) => {
      const backend = new FaultyBackend(simulator)
      const other = openDeviceSync(simulator.add(customDevice({ deviceId: 25, queues: 1 })), { backend })
      other.negotiateSync([])
      backend.fail({ op: 'mapDoorbell', with: errno, times: 2 })
      const addressSpace = other.addressSpace(0)
      await expect(other.createQueue(0, { addressSpace, notifyBy: 'doorbell' })).rejects.toMatchObject({
        code: 'ERR_VDPA_NOT_SUPPORTED',
        cause: { code: errno },
      })
      await other.createQueue(0, { addressSpace, notifyBy: 'auto' })
      await other.close()
    },
  )

  test('the eventfds have descriptors that others may use', async () => {
    const queue = await make()
    device.startSync()
    queue.buffers.setU8(7, 7)
    queue.ring.begin()
    queue.ring.pushAddress(queue.buffersIova + 7n, 1, false)
    queue.ring.commit(7)
    queue.ring.publish()
    using kick = simulator.eventfd(queue.kickFd)
    using call = simulator.eventfd(queue.callFd)
    kick.signal()
    simulator.drain()
    expect(served).toEqual([7])
    expect(call.take()).toBe(1)
  })
})

test('without a doorbell, asking for one says so', async () => {
  const simulator = new Simulator()
  simulator.add(customDevice({ path, deviceId: 25, queues: 1 }))
  const device = openDeviceSync(path, { backend: simulator })
  device.negotiateSync([])
  const before = simulator.descriptors
  await expect(
    device.createQueue(0, { addressSpace: device.addressSpace(0), notifyBy: 'doorbell' }),
  ).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED', path })
  expect(simulator.descriptors).toEqual(before)
  await device.close()
})

describe('the address space of a queue', () => {
  let device: VdpaDevice

  beforeEach(() => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path }))
    device = openDeviceSync(path, { backend: simulator })
    device.negotiateSync(['VIRTIO_NET_F_CTRL_VQ'])
  })

  afterEach(() => device.close())

  test('is the one that its group is in', async () => {
    const [guest, own] = [device.addressSpace(0), device.addressSpace(1)]
    device.groups.assign(1, own)
    await expect(device.createQueue(2, { addressSpace: guest })).rejects.toMatchObject({
      code: 'ERR_VDPA_STATE',
      message: expect.stringContaining('queue 2 is of group 1, which is in asid 1, not 0'),
    })
    const queue = await device.createQueue(2, { addressSpace: own })
    expect(() => device.groups.assign(1, guest)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    device.groups.assign(1, own)
    await queue.close()
    device.groups.assign(1, guest)
  })

  test.each([
    ['nothing', undefined],
    ['a number', 1],
  ])('is no %s', async (_, addressSpace) => {
    await expect(device.createQueue(0, { addressSpace: addressSpace as never })).rejects.toThrow(TypeError)
  })
})

test('the size of a ring is a power of two by default, also where the largest is none', async () => {
  const simulator = new Simulator()
  simulator.add(customDevice({ path, deviceId: 25, queues: 1, maxQueueSize: 192 }))
  const device = openDeviceSync(path, { backend: simulator })
  device.negotiateSync([])
  expect(device.vring(0).defaultSize).toBe(128)
  expect((await device.createQueue(0, { addressSpace: device.addressSpace(0) })).ring.size).toBe(128)
  await device.close()
})

test('memory of a queue that was not made, and that could not be unmapped, is freed when the device is closed', async () => {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0' }))
  const regions: MemoryRegion[] = []
  const allocate = simulator.allocate.bind(simulator)
  simulator.allocate = (...wish) => {
    const region = allocate(...wish)
    regions.push(region)
    return region
  }
  const device = await openDevice('/dev/vhost-vdpa-0', { backend: simulator })
  await device.negotiate([])
  simulator.faults.fail({ request: 'VHOST_SET_VRING_ADDR', with: 'EIO' })
  simulator.faults.fail({ request: 'write', with: 'EIO', nth: 2, times: Infinity })
  const made = device.createQueue(0, { addressSpace: device.addressSpace(0) })
  await expect(made).rejects.toThrow('queue 0 of /dev/vhost-vdpa-0 was not made, nor all of it undone')
  expect(regions.map(({ isClosed }) => isClosed)).toEqual([false])
  await device.close().catch(() => undefined)
  expect(regions.map(({ isClosed }) => isClosed)).toEqual([true])
})
