// Queues that this process drives: made whole or not at all, told by eventfd or doorbell, saved and restored, and closed with their memory.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { openDeviceSync } from '../../lib/open.js'
import { customDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const bit = (number: number) => 1n << BigInt(number)
const features = bit(28) | bit(29) | bit(32) | bit(33) | bit(34) | bit(35) | bit(38)

describe.each(['split', 'packed'] as const)('a %s queue', (format) => {
  let simulator: Simulator
  let device: VdpaDevice
  /** What the device saw, a byte of each chain. */
  let served: number[]

  beforeEach(() => {
    served = []
    simulator = new Simulator({ scheduler: 'manual' })
    simulator.add(
      customDevice({
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
      }),
    )
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
    ['a size above the largest', { size: 0x1_0000 }],
    ['a negative number of bytes', { bufferBytes: -1 }],
    ['an address space of another device', { addressSpace: { asid: 0 } as never }],
    ['an IOVA that is no page', { iova: 1n }],
  ])('%s is refused', async (_, options) => {
    const before = simulator.descriptors
    await expect(make(options)).rejects.toThrow(RangeError)
    expect(simulator.descriptors).toEqual(before)
  })

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
