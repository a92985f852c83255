// What a snapshot has of a device, and when it is refused.

import { afterEach, describe, expect, test } from '@jest/globals'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import { extraNetFeatures, networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const mac = '02:11:22:33:44:55'
const code = (name: string) => expect.objectContaining({ code: name })
const open: VdpaDevice[] = []

async function openNet(features: readonly string[] = [], shape: Parameters<typeof networkDevice>[0] = {}) {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path, mac, moreFeatures: extraNetFeatures, ...shape }))
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  open.push(device)
  await device.negotiate(['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', ...(features as 'VIRTIO_F_RING_PACKED'[])])
  return { simulator, device }
}

afterEach(async () => {
  for (const device of open.splice(0)) await device.close()
})

describe.each([
  ['split', []],
  ['packed', ['VIRTIO_F_RING_PACKED']],
] as const)('a %s ring', (format, features) => {
  test('of a guest is where the device says, beside its mappings, groups and commands', async () => {
    const { simulator, device } = await openNet([...features, 'VIRTIO_NET_F_CTRL_MAC_ADDR'])
    const memory = simulator.allocate(0x8000)
    device.groups.assign(1, 1)
    await device.addressSpace(0).map({ iova: 0x10000n, region: memory, offset: 0x1000, size: 0x4000, access: 'rw' })
    const control = await NetControlQueue.start(device, device.addressSpace(1))
    const addresses = { descriptor: 0x10000n, driver: 0x11000n, device: 0x12000n }
    const state = format === 'split' ? { available: 7, used: 7 } : { available: 0x8007, used: 0x8007 }
    memory.view(0x3002, 2).set([7, 0])
    device.vring(0).setUp({ size: 8, addresses, state })
    device.vring(0).enable()
    expect(device.vring(0).addresses).toEqual(addresses)
    await device.start()
    await control.setMacAddress('02:00:00:00:00:07')
    await device.suspend()
    const snapshot = device.snapshot({ control })
    expect(JSON.parse(JSON.stringify(snapshot))).toEqual(snapshot)
    expect(snapshot).toMatchObject({
      version: 1,
      deviceId: 1,
      features: `0x${(device.features?.bits ?? 0n).toString(16)}`,
      groups: [{ group: 1, asid: 1 }],
      memories: [{ length: 0x8000 }],
      spaces: [
        { asid: 0, mappings: [{ iova: '0x10000', size: '0x4000', access: 'rw', memory: 0, offset: 0x1000 }] },
        { asid: 1, mappings: [] },
      ],
      queues: [
        { index: 0, size: 8, isEnabled: true, asid: 0, position: state },
        { index: 2, asid: 1, isControl: true, position: null },
      ],
      control: [{ name: 'VIRTIO_NET_CTRL_MAC_ADDR_SET', payload: '020000000007' }],
      lost: [],
    })
    expect(snapshot.config.slice(0, 12)).toBe('020000000007')
    await device.close()
    memory.close()
  })

  test('of a driver is in its books, and the driver goes on after resume', async () => {
    const { simulator, device } = await openNet(features)
    const driver = await NetDriver.start(device, { size: 8 })
    await device.start()
    simulator.drain()
    await device.suspend()
    expect(driver.send(Uint8Array.from([2, 0x11, 0x22, 0x33, 0x44, 0x55, ...new Array<number>(58).fill(9)]))).toBe(true)
    const { queues, memories, spaces } = device.snapshot()
    expect(queues.map(({ books }) => books?.ring.chains.length)).toEqual([8, 1])
    expect(queues.map(({ books }) => books?.ring.format)).toEqual([format, format])
    expect(queues.map(({ books }) => books?.memory)).toEqual([0, 1])
    expect(memories.length).toBe(2)
    expect(spaces).toEqual([{ asid: 0, mappings: [] }])
    await device.resume()
    expect((await driver.nextFrame())[20]).toBe(9)
  })
})

test('is refused while the device runs, before negotiation, and after the end', async () => {
  const { device } = await openNet()
  await device.start()
  expect(() => device.snapshot()).toThrow(code('ERR_VDPA_STATE'))
  await device.reset()
  expect(() => device.snapshot()).toThrow(code('ERR_VDPA_STATE'))
  await device.close()
  expect(() => device.snapshot()).toThrow(code('ERR_VDPA_CLOSED'))
})

test('what the book of the control queue throws is thrown, and one that closes the device is noticed', async () => {
  const { device } = await openNet()
  const thrown = new Error('no book')
  const book = (commands: () => never[]) => ({ control: { commands } })
  expect(() =>
    device.snapshot(
      book(() => {
        throw thrown
      }),
    ),
  ).toThrow(thrown)
  let closing: Promise<void> | undefined
  expect(() => device.snapshot(book(() => ((closing = device.close()), [])))).toThrow(code('ERR_VDPA_CLOSED'))
  await closing
})

test('a device that does not say where it stands is looked for in the memory of its ring', async () => {
  const { simulator, device } = await openNet([], { capabilities: { vringState: 'none' } })
  const memory = simulator.allocate(0x4000)
  await device.addressSpace(0).map({ iova: 0n, region: memory, offset: 0, size: 0x4000 })
  device.vring(0).setUp({ size: 8, addresses: { descriptor: 0n, driver: 0x1000n, device: 0x2000n } })
  device.vring(0).enable()
  await device.start()
  memory.view(0x2002, 2).set([5, 1])
  await device.suspend()
  const { queues, lost } = device.snapshot()
  expect(queues[0]?.position).toEqual({ available: 0x105, used: 0x105 })
  expect(lost).toEqual([expect.stringContaining('carried out again')])
  await device.close()
  memory.close()
})
