// What is done while a guest stands still does not depend on how much memory is mapped: it is counted, calls to the system and looks at mappings, for little memory and for much.

import { afterEach, describe, expect, jest, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { AddressSpace } from '../../lib/device/address-space.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { prepareMove } from '../../lib/move/move.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { openDevice } from '../../lib/open.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { A, B } from './support.js'

const PIECE = 0x1_0000
const moving = ['IOTLB_MSG_V2', 'IOTLB_BATCH', 'IOTLB_ASID', 'SUSPEND', 'RESUME', 'ENABLE_AFTER_DRIVER_OK'] as const
const persisting = [...moving, 'IOTLB_PERSIST'] as const
const features = [...persisting, 'DESC_ASID'] as const
type Feature = (typeof features)[number]

afterEach(() => void jest.restoreAllMocks())

/** Counts what is done until the returned function is called: calls of any kind, messages about mappings among them. */
function count(backend: FaultyBackend): () => { calls: number; messages: number; looks: number } {
  let [calls, messages] = [0, 0]
  const watch = backend.fail({
    with: 'EIO',
    when: ({ op }) => {
      calls++
      if (op === 'write' || op === 'writeEach') messages++
      return false
    },
  })
  const looks = jest.spyOn(AddressSpace.prototype, 'mappings', 'get')
  return () => {
    watch.close()
    const counted = { calls, messages, looks: looks.mock.calls.length }
    looks.mockRestore()
    return counted
  }
}

/** A guest with so many pieces of memory, its queues shadowed, on a device that runs. */
async function makeGuest(pieces: number, isBounced: boolean, acknowledged: readonly Feature[] = features) {
  const simulator = new Simulator({ scheduler: 'manual' })
  const backend = new FaultyBackend(simulator)
  const hasOwn = acknowledged.includes('DESC_ASID')
  for (const path of [A, B]) simulator.add(networkDevice({ path, ...(hasOwn && { descriptorGroups: [1, 1, 1] }) }))
  const backendFeatures = acknowledged.map((name) => `VHOST_BACKEND_F_${name}` as const)
  const open = (path: string) => openDevice(path, { backend, expect: 'net', backendFeatures })
  const [device, target] = [await open(A), await open(B)]
  const region = simulator.allocate(pieces * PIECE)
  const memory = new GuestMemory(
    Array.from({ length: pieces }, (_, at) => {
      return { address: BigInt(at * PIECE), region, offset: at * PIECE, size: PIECE }
    }),
  )
  await device.negotiate([])
  if (hasOwn) device.groups.assign(1, 1)
  const [space, descriptorSpace] = [device.addressSpace(0), device.addressSpace(1)]
  await space.map(memory)
  const shadows = [0, 1].map((index) => {
    const at = BigInt(index * 0x4000)
    const [kick, call] = [simulator.eventfd(), simulator.eventfd()]
    const addresses = { descriptor: at, driver: at + 0x1000n, device: at + 0x2000n }
    return new ShadowQueue(device, {
      index,
      guest: { memory, size: 8, addresses, kick, call },
      space,
      ...(hasOwn && { descriptorSpace }),
      ...(isBounced && { bounce: simulator.allocate(0x4000) }),
    })
  })
  await ShadowQueue.beginAll(shadows)
  await device.start()
  return { backend, device, target, shadows }
}

describe.each([
  ['shadowed', false],
  ['shadowed, with memory to bounce through', true],
])('a guest that is %s', (_, isBounced) => {
  test.each<[string, readonly Feature[]]>([
    ['IOTLB_PERSIST and DESC_ASID', features],
    ['IOTLB_PERSIST', persisting],
    ['neither', moving],
  ])('stands still for as many steps with 1024 pieces of memory as with 16: %s', async (__, acknowledged) => {
    const counted = []
    for (const pieces of [16, 1024]) {
      const { backend, device, target, shadows } = await makeGuest(pieces, isBounced, acknowledged)
      const prepared = await prepareMove(device, target, { shadows })
      const end = count(backend)
      // Closing the source is done when the guest runs again.
      const close = jest.spyOn(device, 'endSteps').mockImplementation(() => (function* () {})())
      expect(await prepared.finish()).toMatchObject({ isMoved: true, failure: undefined })
      counted.push(end())
      close.mockRestore()
      for (const one of [device, target]) await one.close()
    }
    expect(counted[1]).toEqual(counted[0])
    // A parent that is told its whole table at the end of a batch, as vdpa_sim, would be told all of it for one.
    expect(counted[0]).toMatchObject({ messages: 0, looks: 0 })
    expect(counted[0]?.calls).toBeGreaterThan(10)
  })

  test('recovers in as many steps where IOTLB_PERSIST was acknowledged', async () => {
    const counted = []
    for (const pieces of [16, 1024]) {
      const { backend, device, target } = await makeGuest(pieces, isBounced)
      const end = count(backend)
      await recoverDevice(device)
      counted.push(end())
      for (const one of [device, target]) await one.close()
    }
    expect(counted[1]).toEqual(counted[0])
    expect(counted[0]?.calls).toBeGreaterThan(10)
  })
})
