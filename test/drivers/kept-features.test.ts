// A driver that was saved goes on only where what lies in its rings can be driven: under features and limits that allow it.

import { afterEach, describe, expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import type { blockFeatureBits } from '../../lib/uapi/virtio-features.js'
import { netFeatureBits, transportFeatureBits, type NetFeature } from '../../lib/uapi/virtio-features.js'
import { virtioBlkConfig } from '../../lib/uapi/virtio-blk.js'
import { mac, numbered, numberOf, path } from './support.js'

const devices: VdpaDevice[] = []

afterEach(async () => {
  for (const device of devices.splice(0)) await device.close()
})

const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('a network driver', () => {
  const offload: NetFeature[] = ['VIRTIO_NET_F_CSUM', 'VIRTIO_NET_F_HOST_TSO4']

  async function saved(features: readonly NetFeature[], send: (driver: NetDriver) => unknown) {
    const model = networkDevice({
      path,
      mac,
      moreFeatures: [...offload, 'VIRTIO_NET_F_HASH_REPORT', 'VIRTIO_NET_F_MRG_RXBUF', 'VIRTIO_NET_F_GUEST_CSUM'].map(
        (name) => netFeatureBits[name as keyof typeof netFeatureBits],
      ),
    })
    const simulator = new Simulator()
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    devices.push(device)
    await device.negotiate(features)
    const driver = await NetDriver.start(device, { size: 4, bufferBytes: 3000 })
    await device.start()
    await device.suspend()
    send(driver)
    const snapshot = await driver.save()
    await device.reset()
    return { model, device, snapshot }
  }

  const gso = { flags: 1, gsoType: 1, headerLength: 54, gsoSize: 20, checksumStart: 34, checksumOffset: 16 }

  test.each<[NetFeature[], NetFeature[], RegExp, typeof gso | undefined]>([
    [['VIRTIO_NET_F_HASH_REPORT', 'VIRTIO_NET_F_CTRL_VQ'], ['VIRTIO_NET_F_CTRL_VQ'], /HASH_REPORT was neg/, undefined],
    [['VIRTIO_NET_F_CTRL_VQ'], ['VIRTIO_NET_F_HASH_REPORT', 'VIRTIO_NET_F_CTRL_VQ'], /HASH_REPORT was not/, undefined],
    [offload, [], /VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4 was neg/, gso],
    [['VIRTIO_NET_F_MRG_RXBUF'], [], /MRG_RXBUF was neg/, undefined],
    [[], ['VIRTIO_NET_F_MRG_RXBUF'], /MRG_RXBUF was not/, undefined],
    [[], ['VIRTIO_NET_F_MTU'], /MTU was not/, undefined],
  ])('saved under %j does not go on under %j, and does where it can', async (then, now, message, header) => {
    const { model, device, snapshot } = await saved(then, (driver) => driver.send(numbered(7), 0, header))
    await device.negotiate(now)
    await expect(NetDriver.start(device, { restore: snapshot })).rejects.toMatchObject({
      code: 'ERR_VDPA_FEATURES',
      message: expect.stringMatching(message),
    })
    await device.reset()
    await device.negotiate(then)
    await NetDriver.start(device, { restore: snapshot }).then((driver) => driver[Symbol.asyncDispose]())
    expect(model.violations).toEqual([])
  })

  test('goes on under more offloads than before, with its frame', async () => {
    const { device, snapshot } = await saved([], (driver) => driver.send(numbered(7)))
    await device.negotiate([...offload, 'VIRTIO_NET_F_GUEST_CSUM'])
    const driver = await NetDriver.start(device, { restore: snapshot })
    await device.start()
    driver.kickReceive()
    await turn()
    const got: number[] = []
    driver.receive((frame) => got.push(numberOf(frame)))
    expect(got).toEqual([7])
  })

  test('believes a snapshot that says nothing of features, and refuses one that says nonsense', async () => {
    const { device, snapshot } = await saved([], () => undefined)
    await device.negotiate(['VIRTIO_NET_F_MTU'])
    const { features: _, ...rest } = snapshot
    await expect(NetDriver.start(device, { restore: { ...rest, features: 'all' as never } })).rejects.toThrow(TypeError)
    await NetDriver.start(device, { restore: rest }).then((driver) => driver[Symbol.asyncDispose]())
  })
})

describe('a block driver', () => {
  const names = ['VIRTIO_BLK_F_SIZE_MAX', 'VIRTIO_BLK_F_SEG_MAX', 'VIRTIO_BLK_F_FLUSH'] as const

  async function saved(wish: readonly (keyof typeof blockFeatureBits | 'VIRTIO_F_RING_INDIRECT_DESC')[]) {
    const model = blockDevice({
      path,
      moreFeatures: [transportFeatureBits.VIRTIO_F_RING_INDIRECT_DESC],
      content: new Uint8Array(32 * 512).fill(9),
    })
    const simulator = new Simulator()
    simulator.add(model)
    const device = await openDevice(path, { backend: simulator, expect: 'block' })
    devices.push(device)
    await device.negotiate(wish)
    const driver = await BlockDriver.start(device, { size: 8 })
    await device.start()
    await device.suspend()
    const reading = driver.read(0, 32)
    reading.catch(() => undefined)
    const snapshot = await driver.save()
    await device.reset()
    return { model, device, reading, snapshot }
  }

  const set = (model: ReturnType<typeof blockDevice>, field: 'size_max' | 'seg_max', value: number) => {
    const at = virtioBlkConfig.fields.find(({ name }) => name === field)?.offset ?? -1
    model.changeConfig(at, new Uint8Array(Uint32Array.of(value).buffer))
  }

  test.each([
    ['size_max', 1024],
    ['seg_max', 1],
  ] as const)('does not go on where %s is only %i, and who waits is told', async (field, value) => {
    const { model, device, reading, snapshot } = await saved(names)
    set(model, field, value)
    await device.negotiate(names)
    await expect(BlockDriver.start(device, { restore: snapshot })).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: expect.stringContaining('4 segments of 4096 bytes'),
    })
    await expect(reading).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    expect(model.violations).toEqual([])
  })

  test('goes on where the device takes more', async () => {
    const { model, device, reading, snapshot } = await saved(names)
    set(model, 'size_max', 65_536)
    set(model, 'seg_max', 200)
    await device.negotiate(names)
    await BlockDriver.start(device, { restore: snapshot })
    await device.start()
    expect((await reading).every((byte) => byte === 9)).toBe(true)
    expect(model.violations).toEqual([])
  })

  test.each([
    [[...names, 'VIRTIO_F_RING_INDIRECT_DESC'] as const, names, /RING_INDIRECT_DESC was/],
    [names, names.slice(0, 2), /FLUSH was/],
  ])('saved under %j does not go on under %j', async (then, now, message) => {
    const { device, reading, snapshot } = await saved(then)
    await device.negotiate(now)
    await expect(BlockDriver.start(device, { restore: snapshot })).rejects.toMatchObject({
      code: 'ERR_VDPA_FEATURES',
      message: expect.stringMatching(message),
    })
    await expect(reading).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
  })
})
