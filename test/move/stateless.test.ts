// Devices that neither say nor take where a ring stands (vp_vdpa): what a snapshot of them is good for, and what becomes of one that is to go on there.

import { afterEach, describe, expect, test } from '@jest/globals'
import type { DeviceSnapshot } from '../../lib/device/snapshot.js'
import { compareSnapshot } from '../../lib/move/differences.js'
import { restoreDevice } from '../../lib/move/restore.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { extraNetFeatures, networkDevice, Simulator, type DeviceCapabilities } from '../../lib/simulator/index.js'
import { NetGuest, sendFrames, settle, upTo } from '../shadow/guest.js'
import { A, B } from './support.js'

const stateless: DeviceCapabilities = { vringState: 'none' }
const ends: (() => Promise<void> | void)[] = []

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A guest with packed rings, which do not show where they stand, on a device that was suspended. */
async function suspendedGuest(capabilities: { source?: DeviceCapabilities; target?: DeviceCapabilities }) {
  const simulator = new Simulator()
  const open = async (path: string, wish: DeviceCapabilities = {}) => {
    simulator.add(networkDevice({ path, moreFeatures: extraNetFeatures, capabilities: wish }))
    const device = await openDevice(path, { backend: simulator, expect: 'net' })
    ends.push(() => device.close())
    return device
  }
  const source = await open(A, capabilities.source)
  const target = await open(B, capabilities.target)
  const kind = ['VIRTIO_F_RING_PACKED'] as const
  await source.negotiate(kind)
  const guest = new NetGuest(simulator, kind)
  ends.push(() => guest.close())
  await source.addressSpace(0).map(guest.memory)
  const eventfds = [0, 1].map((index) => {
    const { size, addresses, kick, call } = guest.queue(index)
    source.vring(index).setUp({ size, addresses, kick, call })
    source.vring(index).enable()
    return { index, kick, call }
  })
  await source.start()
  await sendFrames(guest, 5)
  await settle(guest)
  await source.suspend()
  return { simulator, source, target, guest, eventfds, ...source.takeSnapshot({}) }
}

/** Where the guest's driver knows that its rings stand. */
function withPositions(snapshot: DeviceSnapshot, guest: NetGuest): DeviceSnapshot {
  const queues = snapshot.queues.map((queue) => {
    const { used } = guest.ring(queue.index).state()
    return { ...queue, position: { available: used, used } }
  })
  return { ...snapshot, queues }
}

describe('a snapshot of rings that nobody can tell where they stand', () => {
  const words = (index: number) =>
    `nobody can tell where queue ${index} stands (its position is null: the device that it is of does not say it, and the ring does not show it; ` +
    'have a ShadowQueue serve it before the stop, or put the position that its driver knows there)'

  test('is refused before anything is touched, with what to do', async () => {
    const { source, target, snapshot, memories, eventfds } = await suspendedGuest({ source: stateless })
    expect(snapshot.queues.map(({ position }) => position)).toEqual([null, null])
    expect(snapshot.lost).toHaveLength(2)
    expect(compareSnapshot(target, snapshot)).toEqual([words(0), words(1)])
    await expect(restoreDevice(target, snapshot, { memories, eventfds })).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SUPPORTED',
      message: expect.stringContaining(`${words(0)}; ${words(1)}`),
    })
    expect([source.state, target.state, target.status]).toEqual(['suspended', 'claimed', 0])
  })

  test('goes on where its driver says, and no frame is lost or doubled', async () => {
    const { source, target, guest, snapshot, memories, eventfds } = await suspendedGuest({ source: stateless })
    await restoreDevice(target, withPositions(snapshot, guest), { memories, eventfds })
    await source.close()
    await sendFrames(guest, 20)
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
  })
})

test('a target that takes rings at their beginning only is closed, and says what to do; a shadow serves the ring there', async () => {
  const { simulator, source, target, guest, snapshot, memories, eventfds } = await suspendedGuest({ target: stateless })
  await expect(restoreDevice(target, snapshot, { memories, eventfds })).rejects.toMatchObject({
    code: 'ERR_VDPA_NOT_SUPPORTED',
    request: 'VHOST_SET_VRING_BASE',
    message: expect.stringContaining('the device takes rings at their beginning only'),
    hint: expect.stringContaining('begin({ state }) before start()'),
  })
  expect([source.state, target.state]).toEqual(['suspended', 'closed'])
  const again = await openDevice(B, { backend: simulator, expect: 'net' })
  ends.push(() => again.close())
  await again.negotiate(BigInt(snapshot.features))
  await again.addressSpace(0).map(guest.memory)
  for (const { index, position } of withPositions(snapshot, guest).queues) {
    const shadow = new ShadowQueue(again, { index, guest: guest.queue(index), space: again.addressSpace(0) })
    await shadow.begin(position === null ? {} : { state: position })
  }
  await source.close()
  await again.start()
  await sendFrames(guest, 20)
  await settle(guest)
  expect(guest.received).toEqual(upTo(guest.sent))
})
