// What drivers do with their queues, as verbs of the device: made, saved and closed whole, in order with everything else, with await or without.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDeviceSync } from '../../lib/open.js'
import { blockDevice, customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const code = (name: string) => expect.objectContaining({ code: name })

let simulator: Simulator
let backend: FaultyBackend

beforeEach(() => {
  simulator = new Simulator()
  backend = new FaultyBackend(simulator)
})

describe('a network driver', () => {
  let device: VdpaDevice<'net'>
  let model: ReturnType<typeof networkDevice>

  beforeEach(() => {
    simulator.add((model = networkDevice({ path, queuePairs: 2 })))
    device = openDeviceSync(path, { backend, expect: 'net' })
  })

  afterEach(async () => {
    await device.close().catch(() => undefined)
    expect(simulator.descriptors).toEqual([])
  })

  const enabled = () => model.queues.filter((one) => one.isReady).map((one) => one.index)
  const features = ['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'] as const

  test('is made between negotiate() and start() without await', async () => {
    const negotiated = device.negotiate(features)
    const made = NetDriver.start(device, { pairs: 2 })
    const control = NetControlQueue.start(device, device.addressSpace(0))
    await Promise.all([negotiated, made, control, device.start()])
    expect(enabled()).toEqual([0, 1, 2, 3, 4])
    await (await made).usePairs(await control)
  })

  test('that was asked for before close() is made, and closed with the device', async () => {
    const negotiated = device.negotiate(features)
    const made = NetDriver.start(device, { pairs: 2 })
    const control = NetControlQueue.start(device, device.addressSpace(0))
    await Promise.all([negotiated, device.close()])
    expect([(await made).isClosed, (await control).isClosed]).toEqual([true, true])
  })

  test('is not made of queues that another driver has, who goes on', async () => {
    await device.negotiate(features)
    const first = await NetDriver.start(device, { pairs: 1 })
    await expect(NetDriver.start(device, { pairs: 2 })).rejects.toMatchObject({
      code: 'ERR_VDPA_STATE',
      message: expect.stringContaining('by a NetDriver'),
    })
    expect([first.isClosed, enabled()]).toEqual([false, [0, 1]])
  })

  test('refuses to be closed under a running device, and goes on', async () => {
    await device.negotiate(features)
    const driver = await NetDriver.start(device)
    await device.start()
    for (const _ of ['running', 'suspended']) {
      await expect(driver.close()).rejects.toMatchObject({ code: 'ERR_VDPA_STATE', path })
      expect(driver.isClosed).toBe(false)
      if (!device.isSuspended) {
        expect(driver.send(new Uint8Array(60))).toBe(true)
        await device.suspend()
      }
    }
    await device.reset()
    await driver.close()
    await driver.close()
    expect([driver.isClosed, device.addressSpace(0).size]).toEqual([true, 0])
  })

  test('is left to a running device by await using, and nobody waits any more', async () => {
    let waiting: Promise<unknown>
    {
      await using other = openDeviceSync(simulator.add(networkDevice({ queuePairs: 2 })), { backend, expect: 'net' })
      await other.negotiate(features)
      await using control = await NetControlQueue.start(other, other.addressSpace(0))
      await using driver = await NetDriver.start(other)
      await other.start()
      waiting = driver.nextFrame().catch((failure: unknown) => failure)
      const dispose = driver[Symbol.asyncDispose].bind(driver)
      await dispose()
      expect([driver.isClosed, control.isClosed, other.addressSpace(0).size]).toEqual([true, false, 3])
      expect(() => driver.send(new Uint8Array(60))).toThrow(code('ERR_VDPA_CLOSED'))
    }
    expect(await waiting).toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  })

  test('that cannot be made whole leaves nothing, and says why', async () => {
    await device.negotiate(features)
    backend.fail({ op: 'eventfd', with: 'EMFILE', nth: 6 })
    await expect(NetDriver.start(device, { pairs: 2 })).rejects.toThrow(code('EMFILE'))
    expect([enabled(), device.addressSpace(0).size]).toEqual([[], 0])
    await NetDriver.start(device, { pairs: 1 })
    await device.start()
    expect(enabled()).toEqual([0, 1])
  })

  test('is saved whole although a reset waits behind it', async () => {
    await device.negotiate(features)
    const driver = await NetDriver.start(device, { pairs: 2 })
    await device.start()
    await device.suspend()
    const saving = driver.save()
    const reset = device.reset()
    const restore = await saving
    await reset
    expect([driver.isClosed, restore.queues.length, device.addressSpace(0).size]).toEqual([true, 4, 0])
    const negotiated = device.negotiate(features)
    const again = NetDriver.start(device, { restore })
    await Promise.all([negotiated, device.start()])
    expect((await again).pairs).toBe(2)
  })
})

describe('a block driver', () => {
  let device: VdpaDevice<'block'>

  beforeEach(() => {
    simulator.add(blockDevice({ path, capacity: 8, queues: 2 }))
    device = openDeviceSync(path, { backend, expect: 'block' })
  })

  afterEach(async () => {
    await device.close().catch(() => undefined)
    expect(simulator.descriptors).toEqual([])
  })

  test('is made, used and closed without await', async () => {
    const negotiated = device.negotiate(['VIRTIO_BLK_F_MQ'])
    const made = BlockDriver.start(device, { queues: 2 })
    const started = device.start()
    const driver = await made
    const closing = driver.close()
    await Promise.all([negotiated, started, closing])
    expect([driver.isClosed, device.state, device.addressSpace(0).size]).toEqual([true, 'claimed', 0])
  })

  test('ends well with its device when the process behind the device died', async () => {
    let reading: Promise<unknown>
    {
      await using other = openDeviceSync(simulator.add(blockDevice({ capacity: 8 })), { backend, expect: 'block' })
      await other.negotiate([])
      await using driver = await BlockDriver.start(other)
      await other.start()
      backend.fail({ request: 'VHOST_VDPA_SET_STATUS', with: 'EIO', times: Infinity })
      backend.fail({ op: 'writeEach', with: 'EFAULT', times: Infinity })
      backend.fail({ op: 'signal', with: 'EAGAIN', times: Infinity })
      reading = driver.read(0, 1).catch((failure: unknown) => failure)
    }
    expect(await reading).toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    backend.clear()
  })

  test('that cannot listen to its device leaves no queue', async () => {
    await device.negotiate([])
    backend.fail({ request: 'VHOST_VDPA_SET_CONFIG_CALL', with: 'EIO' })
    await expect(BlockDriver.start(device)).rejects.toThrow(code('EIO'))
    expect([device.addressSpace(0).size, device.vring(0).isEnabled]).toEqual([0, false])
  })
})

describe('a device that no driver can drive is refused by name', () => {
  test.each([
    ['net', 1],
    ['block', 2],
  ] as const)('%s without VERSION_1', async (kind, deviceId) => {
    simulator.add(customDevice({ path, deviceId, queues: 2, features: 1n << 33n, config: new Uint8Array(60) }))
    const device = openDeviceSync(path, { backend, expect: kind })
    await device.negotiate([])
    const driver = kind === 'net' ? NetDriver.start(device as never) : BlockDriver.start(device as never)
    const message = expect.stringContaining('VIRTIO_F_VERSION_1')
    await expect(driver).rejects.toMatchObject({ code: 'ERR_VDPA_FEATURES', message })
    await device.close()
  })

  test.each([1, 2, 3])('a disk with rings of %d', async (maxQueueSize) => {
    simulator.add(blockDevice({ path, maxQueueSize }))
    const device = openDeviceSync(path, { backend, expect: 'block' })
    await device.negotiate([])
    await expect(BlockDriver.start(device)).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: `ERR_VDPA_NOT_SUPPORTED: ${path}: the largest ring has ${maxQueueSize} descriptors, and a request takes 3, of a power of two`,
    })
    await device.close()
  })

  test('but a disk with rings of 4, which have room for a request, is driven', async () => {
    simulator.add(blockDevice({ path, maxQueueSize: 4 }))
    const device = openDeviceSync(path, { backend, expect: 'block' })
    await device.negotiate([])
    const driver = await BlockDriver.start(device)
    await device.start()
    expect(await driver.read(0, 1)).toHaveLength(512)
    await device.close()
  })

  test('a control queue of one descriptor, and nothing is left of it', async () => {
    simulator.add(networkDevice({ path, maxQueueSize: 1 }))
    const device = openDeviceSync(path, { backend, expect: 'net' })
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
    const made = NetControlQueue.start(device, device.addressSpace(0))
    await expect(made).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: expect.stringContaining('a command takes 2'),
    })
    expect([device.addressSpace(0).size, device.vring(2).isEnabled]).toEqual([0, false])
    await device.close()
  })

  test('a queue that can have no descriptors', async () => {
    const model = networkDevice({ path, capabilities: { queueMaxSize: true } })
    Object.defineProperty(model, 'queueMaxSize', { value: () => 0 })
    simulator.add(model)
    const device = openDeviceSync(path, { backend, expect: 'net' })
    await device.negotiate([])
    const refusal = { code: 'ERR_VDPA_NOT_SUPPORTED', message: expect.stringContaining('can have no descriptors') }
    await expect(NetDriver.start(device)).rejects.toMatchObject(refusal)
    await expect(device.createQueue(0, { addressSpace: device.addressSpace(0), size: 4 })).rejects.toMatchObject(
      refusal,
    )
    const addresses = { descriptor: 0x1000n, driver: 0x2000n, device: 0x3000n }
    expect(() => device.vring(0).setUp({ size: 4, addresses })).toThrow(expect.objectContaining(refusal))
    await device.close()
  })
})

test.each([
  [
    'a network driver',
    () => blockDevice({ path }),
    (device: VdpaDevice) => NetDriver.start(device as VdpaDevice<'net'>),
    'a net device (id 1) was expected, and this is a block device (id 2)',
  ],
  [
    'a block driver',
    () => networkDevice({ path }),
    (device: VdpaDevice) => BlockDriver.start(device as VdpaDevice<'block'>),
    'a block device (id 2) was expected, and this is a net device (id 1)',
  ],
] as const)('%s refuses a device of another kind by name', async (_name, make, start, text) => {
  simulator.add(make())
  await using device = openDeviceSync(path, { backend })
  await device.negotiate([])
  await expect(start(device)).rejects.toMatchObject({
    code: 'ERR_VDPA_WRONG_DEVICE',
    message: expect.stringContaining(text) as unknown,
  })
  await device.start()
})
