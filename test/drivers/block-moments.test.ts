// A block driver whose configuration changes while it cannot be read, whose snapshot is used twice, and signals of whichever realm.

import { expect, test } from '@jest/globals'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const capacity = 1024

async function opened(simulator: Simulator): Promise<VdpaDevice<'block'>> {
  simulator.add(blockDevice({ path, capacity }))
  const device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate([])
  return device
}

async function begin(simulator = new Simulator()) {
  const device = await opened(simulator)
  const driver = await BlockDriver.start(device)
  await device.start()
  return { simulator, device, driver }
}

test('a change that cannot be read is heard by who asks next, and by nobody else', async () => {
  const { simulator, device, driver } = await begin()
  const smaller = new Uint8Array(8)
  new DataView(smaller.buffer).setBigUint64(0, BigInt(capacity / 2), true)
  simulator.faults.fail({ request: 'VHOST_VDPA_GET_CONFIG', with: 'EIO', times: 2 })
  simulator.faults.changeConfig(path, 0, smaller)
  await new Promise((resolve) => setImmediate(resolve))
  await expect(driver.read(0, 1)).rejects.toMatchObject({ code: 'EIO' })
  expect(driver.capacity).toBe(capacity / 2)
  await expect(driver.read(capacity / 2, 1)).rejects.toThrow(RangeError)
  await device.close()
})

test('a snapshot is restored once, and who tries again harms nobody', async () => {
  const { simulator, device, driver } = await begin(new Simulator({ scheduler: 'manual' }))
  const reading = driver.read(0, 1)
  await device.suspend()
  const restore = await driver.save()
  await device.reset()
  await device.negotiate([])
  const again = await BlockDriver.start(device, { restore })
  const elsewhere = await opened(new Simulator())
  for (const place of [device, elsewhere])
    await expect(BlockDriver.start(place, { restore })).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
  await device.start()
  simulator.drain()
  expect(await reading).toHaveLength(512)
  await again.close()
  await Promise.all([device.close(), elsewhere.close()])
})

test.each([
  ['another realm', { aborted: false, addEventListener: () => undefined, removeEventListener: () => undefined }],
  ['this one', new AbortController().signal],
])('a signal of %s is one', async (_, signal) => {
  const { device, driver } = await begin()
  expect(await driver.read(0, 1, { signal: signal as never })).toHaveLength(512)
  await device.close()
})

test('null is no options of a request', async () => {
  const { device, driver } = await begin()
  const none = null as never
  for (const request of [
    driver.read(0, 1, none),
    driver.readInto(0, new Uint8Array(512), none),
    driver.write(0, new Uint8Array(512), none),
    driver.getId(none),
  ])
    await expect(request).rejects.toThrow('options must be an object (got null)')
  await device.close()
})
