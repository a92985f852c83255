// A disk under verified writes, shadowed and not, on devices that answer in their order and in another.

import { expect, test } from '@jest/globals'
import type { DeviceCapabilities } from '../../lib/models/device-shape.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import { BlockGuest } from './block-guest.js'
import { path } from './guest.js'

const devices: readonly (readonly [string, DeviceCapabilities])[] = [
  ['answers at once', {}],
  ['takes requests ahead', { takesAhead: 4 }],
  ['takes requests ahead and answers the newest first', { takesAhead: 4, answersNewestFirst: true }],
]

test.each(devices)('a disk that %s reads what was written, shadowed or not', async (_, capabilities) => {
  const simulator = new Simulator()
  simulator.add(blockDevice({ path, capacity: 256, capabilities }))
  const device = await openDevice(path, { backend: simulator, expect: 'block' })
  await device.negotiate([])
  const guest = new BlockGuest(simulator, 24)
  await device.addressSpace(0).map(guest.memory)
  const shadow = new ShadowQueue(device, {
    index: 0,
    guest: guest.queue(),
    space: device.addressSpace(0),
    patience: 50,
  })
  shadow.attach()
  await device.start()
  let refusals = 0
  for (let round = 0; round < 12; round++) {
    await guest.work(37)
    await (shadow.isShadowing ? shadow.end() : shadow.begin()).catch((failure: unknown) => {
      // While it answers out of order and has always taken more, nobody can tell.
      expect(failure).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' })
      refusals++
    })
  }
  await guest.work(50)
  expect(guest.wrong).toEqual([])
  if (capabilities.answersNewestFirst !== true) expect(refusals).toBe(0)
  await device.close()
  guest.close()
})
