// Following a table of guest memory: what the program gives to it, and where what the program throws goes.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
let simulator: Simulator
let device: VdpaDevice
let space: AddressSpace

beforeEach(() => {
  simulator = new Simulator()
  simulator.add(networkDevice({ path }))
  device = openDeviceSync(path, { backend: simulator })
  space = device.addressSpace(0)
})

afterEach(() => device.close())

test.each([
  ['null', null, {}, 'table must be'],
  ['a table that does not tell', { pieces: () => [] }, {}, 'table must be'],
  ['null for options', new GuestMemory(), null, 'options must be an object (got null)'],
  ['a listener that is none', new GuestMemory(), { onError: 5 }, 'onError must be a function (got 5)'],
])('%s is refused by name', async (_, table, options, sentence) => {
  await expect(space.follow(table as never, options as never)).rejects.toThrow(sentence)
})

test('a failed change is told once, and made with the next one', async () => {
  using memory = simulator.allocate(8192)
  const guest = new GuestMemory()
  const told: unknown[] = []
  const follower = await space.follow(guest, { onError: (failure) => told.push(failure) })
  simulator.faults.fail({ request: 'write', with: 'EFAULT' })
  guest.add({ address: 0n, region: memory, size: 4096 })
  await follower.settled().catch(() => undefined)
  await new Promise((resolve) => setImmediate(resolve))
  expect(told).toMatchObject([{ code: 'ERR_VDPA_REFUSED' }])
  guest.add({ address: 4096n, region: memory, offset: 4096, size: 4096 })
  await follower.settled()
  expect(space.size).toBe(2)
  await follower.close()
})
