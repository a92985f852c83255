// What a shadow is given and cannot be: refused by name, and what is known of the guest's ring stays known.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { makeNetWorld, sendFrames, settle, upTo, type NetWorld } from './guest.js'

const misuse = expect.objectContaining({
  code: expect.stringMatching(/^ERR_(INVALID_ARG_TYPE|OUT_OF_RANGE)$/) as unknown,
})
let world: NetWorld

beforeEach(async () => {
  world = await makeNetWorld()
  await world.device.addressSpace(0).map(world.guest.memory)
})

afterEach(() => world.device.close())

test('options', () => {
  const { device, guest } = world
  const given = { index: 0, guest: guest.queue(0), space: device.addressSpace(0) }
  for (const [name, others] of [
    ['options', null],
    ['guest', { guest: null }],
    ['space', { space: undefined }],
    ['space', { space: {} }],
    ['descriptorSpace', { descriptorSpace: 5 }],
    ['onBroken', { onBroken: 5 }],
    ['log', { log: {} }],
    ['patience', { patience: -1 }],
    ...Object.entries({ memory: {}, kick: 5, call: null, addresses: undefined, size: 0 }).map(
      ([field, value]) => [`guest.${field}`, { guest: { ...given.guest, [field]: value } }] as const,
    ),
    ['guest.addresses.driver', { guest: { ...given.guest, addresses: { ...given.guest.addresses, driver: 'x' } } }],
  ] as const) {
    const make = () => new ShadowQueue(device, (others === null ? null : { ...given, ...others }) as never)
    expect(make).toThrow(misuse)
    expect(make).toThrow(name)
  }
  expect(() => new ShadowQueue({} as never, given)).toThrow(misuse)
})

test('lists of shadows', async () => {
  for (const list of [5, undefined, [null], [{}], [world.shadows[0], null]] as never[]) {
    await expect(ShadowQueue.beginAll(list)).rejects.toThrow(misuse)
    await expect(ShadowQueue.endAll(list)).rejects.toThrow(misuse)
  }
  expect(world.shadows.map(({ isShadowing }) => isShadowing)).toEqual([false, false])
})

test('where the ring stands: the next begin() goes by what was known', async () => {
  const { device, guest, shadows } = world
  const [receive, transmit] = shadows as [ShadowQueue, ShadowQueue]
  await device.start()
  await ShadowQueue.beginAll(shadows)
  await sendFrames(guest, 5)
  await settle(guest)
  await device.suspend()
  await ShadowQueue.endAll(shadows)
  await device.reset()
  await device.negotiate([])
  const known = shadows.map(({ state }) => state)
  expect(known[1]).toEqual({ available: 5, used: 5 })
  for (const state of [
    5,
    null,
    {},
    { available: 'x', used: 0 },
    { available: -1, used: 0 },
    { available: 3000, used: 0 },
  ])
    await expect(receive.begin({ state } as never)).rejects.toThrow(misuse)
  // Well formed, and refused all the same.
  world.simulator.faults.fail({ request: 'VHOST_SET_VRING_ADDR', with: 'EIO' })
  await expect(receive.begin({ state: { available: 9, used: 9 } })).rejects.toMatchObject({ code: 'EIO' })
  expect(shadows.map(({ state }) => state)).toEqual(known)
  await ShadowQueue.beginAll([receive, transmit])
  await expect(receive.begin({ state: { available: 0, used: 0 } })).rejects.toMatchObject({ code: 'ERR_VDPA_STATE' })
  await device.start()
  await sendFrames(guest, 5)
  await settle(guest)
  expect(guest.received).toEqual(upTo(guest.sent))
})

test('where the ring stands is not said of a device that runs by then', async () => {
  const { device, shadows } = world
  const started = device.start()
  await expect(shadows[0]?.begin({ state: { available: 3, used: 3 } })).rejects.toMatchObject({
    code: 'ERR_VDPA_STATE',
  })
  await started
  expect(shadows[0]?.state).toBeUndefined()
})
