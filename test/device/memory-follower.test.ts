// Following a table of guest memory: what the program gives to it, and where what the program throws goes.

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import type { AddressSpace } from '../../lib/device/address-space.js'
import { MemoryFollower } from '../../lib/device/memory-follower.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { hearUncaught } from '../uncaught.js'

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

afterEach(async () => {
  jest.restoreAllMocks()
  await device.close()
})

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

describe('a table whose own function throws when it is left', () => {
  const table = (memory: MemoryRegion) => ({
    pieces: () => [{ address: 0n, region: memory, offset: 0, size: 4096 }],
    onChange: () => () => {
      throw new Error('of the table')
    },
  })

  test('does not keep the device from closing', async () => {
    using memory = simulator.allocate(4096)
    await space.follow(table(memory))
    await space.follow({ ...table(memory), pieces: () => [] })
    const uncaught = hearUncaught()
    await device.close()
    await new Promise((resolve) => setImmediate(resolve))
    expect([device.state, memory.holders.length, uncaught.length]).toEqual(['closed', 0, 2])
  })

  test('is unmapped by close(), which throws it at the end', async () => {
    using memory = simulator.allocate(4096)
    const follower = await space.follow(table(memory))
    await expect(follower.close()).rejects.toThrow('of the table')
    expect([space.size, follower.isClosed]).toEqual([0, true])
  })
})

test('a table is left once, by who comes first', async () => {
  let left = 0
  const table = { pieces: () => [], onChange: () => () => void left++ }
  const follower = await space.follow(table)
  await follower.close()
  await follower.close()
  expect(left).toBe(1)
  await space.follow(table)
  await device.close()
  await follower.close()
  expect(left).toBe(2)
})

test('a table that cannot be left is refused, and heard no more', async () => {
  using memory = simulator.allocate(4096)
  let tell: () => void = () => undefined
  const table = {
    pieces: () => [{ address: 0n, region: memory, offset: 0, size: 4096 }],
    onChange: (listener: () => void) => void (tell = listener),
  }
  await expect(space.follow(table as never)).rejects.toThrow('what table.onChange() returns must be a function')
  tell()
  await device.close()
  expect(device.state).toBe('closed')
})

test('memory that was taken out of the table is kept no more, and what stays keeps its place', async () => {
  const guest = new GuestMemory()
  const space = {
    asid: 0,
    pageSize: 4096,
    backend: simulator,
    options: { version: 2, batch: false } as const,
    isMapped: () => true,
  }
  const follower = new MemoryFollower(guest, {}, { run: () => Promise.resolve(), end: () => undefined })
  const change = () => {
    const { plan, regions, done } = follower.plan(space)
    done()
    return { steps: plan.count, regions }
  }
  const [first, second, third] = [0, 1, 2].map((number) => {
    const region = simulator.allocate(4096)
    guest.add({ address: BigInt(number * 4096), region })
    return region
  })
  expect(change().regions).toEqual([first, second, third])
  guest.remove(0n)
  change()
  // Nothing is to be sent, and of the first nothing is known.
  expect(change()).toEqual({ steps: 0, regions: [second, third] })
  await follower.close()
  change()
  expect(change()).toEqual({ steps: 0, regions: [] })
})
