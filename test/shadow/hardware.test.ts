// Devices that do what hardware does: they take chains ahead, say where they stand in words of their own, or not at all, and cannot be suspended.

import { describe, expect, test } from '@jest/globals'
import { DirtyLog } from '../../lib/shadow/dirty-log.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import type { DeviceCapabilities } from '../../lib/models/device-shape.js'
import { kinds, makeNetWorld, sendFrames, settle, upTo } from './guest.js'

const devices: readonly (readonly [string, DeviceCapabilities])[] = [
  ['takes chains ahead', { takesAhead: 8 }],
  ['takes chains ahead and says what it has answered', { takesAhead: 8, vringState: 'used index' }],
  ['says what it has answered', { vringState: 'used index' }],
]

describe.each(devices)('a device that %s', (_, capabilities) => {
  test.each(kinds)('loses and doubles nothing: %s', async (__, kind) => {
    const { device, guest, shadows } = await makeNetWorld(kind, { capabilities })
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await device.start()
    for (let round = 0; round < 6; round++) {
      await sendFrames(guest, 23)
      await (round % 2 === 0 ? ShadowQueue.beginAll(shadows) : ShadowQueue.endAll(shadows))
      await sendFrames(guest, 40)
    }
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
    await device.close()
    guest.close()
  })
})

describe('a device that does not say where its rings stand', () => {
  const capabilities: DeviceCapabilities = { vringState: 'none' }

  test('is asked by the used index of a split ring, and begins shadow rings at their beginning', async () => {
    const { device, guest, shadows } = await makeNetWorld([], { capabilities })
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await device.start()
    await sendFrames(guest, 50)
    await ShadowQueue.beginAll(shadows)
    await sendFrames(guest, 50)
    await settle(guest)
    expect(guest.received).toEqual(upTo(100))
    // It takes no ring that stands elsewhere: the queues stay shadowed.
    await expect(ShadowQueue.endAll(shadows)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    await sendFrames(guest, 50)
    await settle(guest)
    expect([guest.received, device.state]).toEqual([upTo(150), 'running'])
    await device.close()
    guest.close()
  })

  test('cannot begin on a packed ring, which is then served as before', async () => {
    const { device, guest, shadows } = await makeNetWorld(['VIRTIO_F_RING_PACKED'], { capabilities })
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await device.start()
    await sendFrames(guest, 50)
    await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    await sendFrames(guest, 50)
    await settle(guest)
    expect([guest.received, device.state]).toEqual([upTo(100), 'running'])
    await device.close()
    guest.close()
  })
})

describe('a device that cannot be suspended', () => {
  test.each(kinds.filter(([, kind]) => !kind.includes('VIRTIO_F_RING_PACKED')))(
    'is shadowed after a reset, from where the ring stands: %s',
    async (_, kind) => {
      const { device, guest, shadows } = await makeNetWorld(kind, { capabilities: { suspend: false } })
      await device.addressSpace(0).map(guest.memory)
      for (const shadow of shadows) shadow.attach()
      await device.start()
      await sendFrames(guest, 50)
      await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
      await settle(guest)
      await device.reset()
      await device.negotiate(kind)
      await ShadowQueue.beginAll(shadows)
      await device.start()
      await sendFrames(guest, 50)
      await settle(guest)
      // And once more, from the shadow's own books.
      await device.reset()
      expect(shadows.map(({ isShadowing }) => isShadowing)).toEqual([false, false])
      await device.negotiate(kind)
      await ShadowQueue.beginAll(shadows)
      await device.start()
      await sendFrames(guest, 50)
      await settle(guest)
      expect(guest.received).toEqual(upTo(150))
      await device.close()
      guest.close()
    },
  )
})

describe('a device that answers the newest chain first', () => {
  const capabilities: DeviceCapabilities = { takesAhead: 8, answersNewestFirst: true }

  test.each(kinds)('is not guessed about: nothing is lost, or it is refused by name: %s', async (_, kind) => {
    const { device, guest, shadows } = await makeNetWorld(kind, { capabilities }, () => ({ patience: 20 }))
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    const [, transmit] = shadows as [ShadowQueue, ShadowQueue]
    await device.start()
    const isPacked = kind.includes('VIRTIO_F_RING_PACKED')
    if (isPacked && !kind.includes('VIRTIO_F_IN_ORDER')) {
      // A packed ring does not show what was answered out of order: one begins at rest.
      await sendFrames(guest, 30)
      await settle(guest)
    }
    for (let round = 0; round < 4; round++) {
      await (round % 2 === 0 ? transmit.begin() : transmit.end()).catch((failure: unknown) =>
        expect(failure).toMatchObject({ code: 'ERR_VDPA_TIMEOUT' }),
      )
      await sendFrames(guest, 30)
      if (isPacked) await settle(guest)
    }
    await settle(guest)
    expect([...guest.received].sort((a, b) => a - b)).toEqual(upTo(guest.sent))
    await device.close()
    guest.close()
  })
})

describe('a reset under a guest that goes on', () => {
  const capabilities: DeviceCapabilities = { takesAhead: 8, answersNewestFirst: true }
  const outOfOrder = kinds.filter(([, kind]) => !kind.includes('VIRTIO_F_IN_ORDER'))

  async function resetOutOfOrder(kind: (typeof kinds)[number][1]) {
    const world = await makeNetWorld(kind, { capabilities })
    const { device, guest, shadows } = world
    await device.addressSpace(0).map(guest.memory)
    await ShadowQueue.beginAll(shadows)
    await device.start()
    await sendFrames(guest, 3)
    await settle(guest)
    // Of the receive buffers that it took, it used the newest.
    expect(shadows.map(({ isInOrder }) => isInOrder)).toEqual([false, true])
    await device.reset()
    await device.negotiate(kind)
    return world
  }

  test.each(outOfOrder)(
    'of a device that answered out of order is not gone on from as if one number said what is in flight: %s',
    async (_, kind) => {
      const { device, guest, shadows } = await resetOutOfOrder(kind)
      const [receive, transmit] = shadows as [ShadowQueue, ShadowQueue]
      const refused = {
        code: 'ERR_VDPA_STATE',
        message: expect.stringContaining('ended with answers out of order'),
        hint: expect.stringContaining('recoverDevice()'),
      }
      expect([receive.state, transmit.state === undefined]).toEqual([undefined, false])
      await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject(refused)
      await expect(receive.begin()).rejects.toMatchObject(refused)
      expect(() => receive.attach()).toThrow(expect.objectContaining(refused))
      expect([receive.isShadowing, transmit.isShadowing, device.state]).toEqual([false, false, 'negotiated'])
      await transmit.begin()
      await device.close()
      guest.close()
    },
  )

  test.each(kinds.filter(([, kind]) => !kind.includes('VIRTIO_F_RING_PACKED')))(
    'goes on where a ring says that it stands which the device served by itself: %s',
    async (_, kind) => {
      const { device, guest, shadows } = await makeNetWorld(kind)
      await device.addressSpace(0).map(guest.memory)
      for (let round = 0; round < 3; round++) {
        for (const shadow of shadows) shadow.attach()
        await device.start()
        await sendFrames(guest, 21)
        await settle(guest)
        await device.reset()
        await device.negotiate(kind)
      }
      expect(guest.received).toEqual(upTo(guest.sent))
      await device.close()
      guest.close()
    },
  )

  test('goes on where the guest began its ring anew', async () => {
    const { device, guest, shadows } = await resetOutOfOrder([])
    const [receive, transmit] = shadows as [ShadowQueue, ShadowQueue]
    guest.beginAnew()
    await receive.begin({ state: { available: 0, used: 0 } })
    await transmit.begin()
    await device.start()
    await sendFrames(guest, 20)
    await settle(guest)
    expect([...guest.received].sort((a, b) => a - b)).toEqual(upTo(guest.sent))
    // And it is forgotten then.
    expect(receive.state).toBeDefined()
    await device.close()
    guest.close()
  })
})

describe('a device with descriptors of a group of their own', () => {
  const groups = { groups: [0, 0, 1], descriptorGroups: [2, 2, 1], addressSpaces: 3 }

  test('has the ring of the shadow in an address space where no buffer of the guest can be', async () => {
    const world = await makeNetWorld([], groups, ({ device }) => ({ descriptorSpace: device.addressSpace(2) }))
    const { device, guest, shadows } = world
    device.groups.assign(2, 2)
    const [data, descriptors] = [device.addressSpace(0), device.addressSpace(2)]
    await data.map(guest.memory)
    // Where the device is to serve the guest by itself, it must find the guest's rings by the same group.
    await descriptors.map(guest.memory)
    const before = data.snapshot()
    for (const shadow of shadows) shadow.attach()
    await device.start()
    await sendFrames(guest, 50)
    await ShadowQueue.beginAll(shadows)
    expect(data.snapshot()).toEqual(before)
    expect(descriptors.size).toBe(3)
    await sendFrames(guest, 50)
    await ShadowQueue.endAll(shadows)
    expect(descriptors.size).toBe(1)
    await sendFrames(guest, 50)
    await settle(guest)
    expect(guest.received).toEqual(upTo(150))
    await device.close()
    guest.close()
  })

  test('needs nothing of the guest there when it is shadowed from the start', async () => {
    const world = await makeNetWorld(['VIRTIO_F_RING_INDIRECT_DESC'], groups, ({ device }) => ({
      descriptorSpace: device.addressSpace(2),
    }))
    const { device, guest, shadows } = world
    device.groups.assign(2, 2)
    await device.addressSpace(0).map(guest.memory)
    await ShadowQueue.beginAll(shadows)
    await device.start()
    await sendFrames(guest, 100)
    await settle(guest)
    expect(guest.received).toEqual(upTo(100))
    await device.close()
    guest.close()
  })

  test('refuses a space that the group is not in, and one where there is no such group', async () => {
    for (const options of [groups, {}] as const) {
      const world = await makeNetWorld([], options, ({ device }) => ({ descriptorSpace: device.addressSpace(1) }))
      const { device, guest, shadows } = world
      await device.addressSpace(0).map(guest.memory)
      await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject({
        code: options === groups ? 'ERR_VDPA_STATE' : 'ERR_VDPA_NOT_SUPPORTED',
      })
      await device.close()
      guest.close()
    }
  })
})

describe('memory that the device cannot reach', () => {
  test.each(kinds)('is bounced through memory that it can, and marked: %s', async (_, kind) => {
    const logs: DirtyLog[] = []
    const world = await makeNetWorld(kind, {}, ({ simulator, guest }) => ({
      bounce: simulator.allocate(64 * 4096),
      log: (logs[0] ??= new DirtyLog(guest.memory)),
    }))
    const { device, guest, shadows } = world
    await ShadowQueue.beginAll(shadows)
    await device.start()
    await sendFrames(guest, 300)
    await settle(guest)
    expect(guest.received).toEqual(upTo(300))
    expect(shadows.every(({ counters }) => counters.bounced >= 300)).toBe(true)
    expect(logs[0]?.take().length).toBe(1)
    await device.close()
    for (const shadow of shadows) await shadow.close()
    guest.close()
  })

  test('ends the queue where there is nothing to bounce it through', async () => {
    const { device, guest, shadows, broken } = await makeNetWorld()
    await ShadowQueue.beginAll(shadows)
    await device.start()
    guest.send()
    await settle(guest)
    expect(broken).toMatchObject([{ code: 'ERR_VDPA_RING_BROKEN' }, { code: 'ERR_VDPA_RING_BROKEN' }])
    await device.close()
    guest.close()
  })
})
