// Data queues of a guest, shadowed: from the start, in the middle of traffic, and not any more.

import { describe, expect, test } from '@jest/globals'
import { kinds, makeNetWorld, sendFrames, settle, upTo } from './guest.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'

describe.each(kinds)('a guest whose rings are %s', (_, kind) => {
  test('sends and receives through a shadow that is there from the start', async () => {
    const { device, guest, shadows } = await makeNetWorld(kind)
    await device.addressSpace(0).map(guest.memory)
    await ShadowQueue.beginAll(shadows)
    await device.start()
    await sendFrames(guest, 300)
    await settle(guest)
    expect(guest.received).toEqual(upTo(300))
    expect(shadows.map(({ counters }) => counters.used)).toEqual([300, 300])
    await device.close()
    expect(shadows.map(({ isShadowing }) => isShadowing)).toEqual([false, false])
    guest.close()
  })

  test('is served as before where shadowing cannot listen to its kicks', async () => {
    const { device, guest, shadows } = await makeNetWorld(kind)
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await device.start()
    const [, kick] = guest.kicks
    const listening = kick?.onSignal(() => undefined)
    await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
    expect(shadows.map(({ isShadowing }) => isShadowing)).toEqual([false, false])
    listening?.close()
    await sendFrames(guest, 20)
    await ShadowQueue.beginAll(shadows)
    await sendFrames(guest, 20)
    await settle(guest)
    expect(guest.received).toEqual(upTo(40))
    await device.close()
    guest.close()
  })

  test('is served as before where the device does not let go of its first queue', async () => {
    const { device, guest, shadows, simulator } = await makeNetWorld(kind)
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await device.start()
    await sendFrames(guest, 30)
    simulator.faults.fail({ request: 'VHOST_VDPA_SET_VRING_ENABLE', with: 'EIO', nth: 1 })
    await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject({ code: 'EIO' })
    expect([device.isRunning, ...shadows.map(({ isShadowing }) => isShadowing)]).toEqual([true, false, false])
    await sendFrames(guest, 20)
    await settle(guest)
    expect(guest.received).toEqual(upTo(50))
    await device.close()
    guest.close()
  })

  test('loses and doubles nothing when shadowing begins and ends in the middle of traffic', async () => {
    const { device, guest, shadows } = await makeNetWorld(kind)
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await device.start()
    for (let round = 0; round < 6; round++) {
      await sendFrames(guest, 20 + round)
      await (round % 2 === 0 ? ShadowQueue.beginAll(shadows) : ShadowQueue.endAll(shadows))
      expect(shadows.map(({ isShadowing }) => isShadowing)).toEqual([round % 2 === 0, round % 2 === 0])
      await sendFrames(guest, 3 * (20 + round))
    }
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
    expect(guest.sent).toBeGreaterThan(500)
    await device.close()
    guest.close()
  })
})

test('a guest whose queues are not all taken is served as before, and that is not at all before start()', async () => {
  const { device, guest, shadows } = await makeNetWorld()
  const space = device.addressSpace(0)
  await space.map(guest.memory)
  const queue = await device.createQueue(1, { addressSpace: space, size: 8 })
  await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
  expect([device.vring(0).isEnabled, shadows[0]?.isShadowing]).toEqual([false, false])
  await queue.close()
  await ShadowQueue.beginAll(shadows)
  await device.start()
  await sendFrames(guest, 20)
  await settle(guest)
  expect(guest.received).toEqual(upTo(20))
  await device.close()
  guest.close()
})

test('end() of what is not shadowed asks nothing of the device', async () => {
  const { device, guest, shadows, simulator } = await makeNetWorld()
  await device.addressSpace(0).map(guest.memory)
  for (const shadow of shadows) shadow.attach()
  await device.start()
  simulator.faults.fail({ request: 'VHOST_VDPA_SUSPEND', with: 'EIO', nth: 1 })
  await ShadowQueue.endAll(shadows)
  await shadows[0]?.end()
  await expect(device.suspend()).rejects.toMatchObject({ code: 'EIO' })
  await device.close()
  guest.close()
})

test('close() of a shadow beside its device does not overtake what was asked for before', async () => {
  const { device, guest, shadows } = await makeNetWorld()
  await device.addressSpace(0).map(guest.memory)
  const [shadow] = shadows
  const begun = shadow?.begin()
  await Promise.all([begun, device.close(), shadow?.close()])
  expect(shadow?.isClosed).toBe(true)
  guest.close()
})

test('a queue that somebody else drives is not taken, and nothing is done to it', async () => {
  const { device, guest, shadows, simulator } = await makeNetWorld()
  const space = device.addressSpace(0)
  await space.map(guest.memory)
  const queue = await device.createQueue(0, { addressSpace: space, size: 8 })
  const { addresses } = queue.vring
  await expect(shadows[0]?.begin()).rejects.toThrow('in use already, by createQueue()')
  expect([queue.vring.isEnabled, queue.vring.addresses, queue.isClosed]).toEqual([true, addresses, false])
  expect(simulator.dump(device.path).queues[0]).toMatchObject({ size: 8, isReady: true })
  await device.close()
  guest.close()
})
