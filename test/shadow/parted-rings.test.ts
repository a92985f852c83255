// A guest whose rings lie over several pieces of its memory: they are shadowed as others are.

import { expect, test } from '@jest/globals'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { kinds, makeNetWorld, sendFrames, settle, upTo, type NetWorld } from './guest.js'

/** The guest's memory in pieces whose edges are within the areas of its rings, in the middle of an entry too. */
function inPieces({ guest }: Pick<NetWorld, 'guest'>): GuestMemory {
  const [{ address, region, size } = { address: 0n, region: guest.region, size: 0 }] = guest.memory.pieces()
  const edges = [0, 1].flatMap((index) => {
    const { descriptor, driver, device } = guest.queue(index).addresses
    return [descriptor + 16n * 3n, descriptor + 16n * 5n + 6n, driver + 6n, device + 4n + 8n * 3n + 2n]
  })
  const offsets = [0, ...edges.map((edge) => Number(edge - address)), size].sort((one, other) => one - other)
  const pieces = offsets.slice(0, -1).flatMap((offset, index) => {
    const length = (offsets[index + 1] ?? 0) - offset
    return length === 0 ? [] : [{ address: address + BigInt(offset), region, offset, size: length }]
  })
  return new GuestMemory(pieces)
}

/** Memory whose pieces have an edge where no index can be read at once. */
const odd: Record<string, (world: Pick<NetWorld, 'guest'>) => GuestMemory> = {
  'ends at an odd byte': ({ guest }) => {
    const [{ address, region, size } = { address: 0n, region: guest.region, size: 0 }] = guest.memory.pieces()
    const offset = Number(guest.queue(1).addresses.descriptor - address) + 7
    return new GuestMemory([
      { address, region, offset: 0, size: offset },
      { address: address + BigInt(offset), region, offset, size: size - offset },
    ])
  },
  'begins at an odd byte of its region': ({ guest }) => {
    const [{ address, region, size } = { address: 0n, region: guest.region, size: 0 }] = guest.memory.pieces()
    return new GuestMemory([{ address, region, offset: 1, size: size - 1 }])
  },
}

test.each(Object.entries(odd))(
  'a ring whose piece of memory %s is refused by name, and the device serves it on',
  async (_, inOdd) => {
    const [[, kind] = ['', {} as never]] = kinds
    const world = await makeNetWorld(kind, {}, (half, index) => ({
      guest: { ...half.guest.queue(index), ...(index === 1 && { memory: inOdd(half) }) },
    }))
    const { device, guest, shadows, broken } = world
    await device.addressSpace(0).map(guest.memory)
    for (const shadow of shadows) shadow.attach()
    await device.start()
    await sendFrames(guest, 5)
    await expect(ShadowQueue.beginAll(shadows)).rejects.toMatchObject({
      code: 'ERR_VDPA_RING_BROKEN',
      message: expect.stringMatching(
        /the \w+ area of the guest's ring lies in a piece of its memory that begins or ends at an odd byte/,
      ),
    })
    expect(shadows.map(({ isShadowing }) => isShadowing)).toEqual([false, false])
    await sendFrames(guest, 20)
    await settle(guest)
    expect([broken, guest.received]).toEqual([[], upTo(guest.sent)])
    await device.close()
    guest.close()
  },
)

test.each(kinds)('frames go through, from the device to the shadow and back: %s', async (_, kind) => {
  const world = await makeNetWorld(kind, {}, (half, index) => ({
    guest: { ...half.guest.queue(index), memory: inPieces(half) },
  }))
  const { device, guest, shadows, broken } = world
  await device.addressSpace(0).map(guest.memory)
  for (const shadow of shadows) shadow.attach()
  await device.start()
  for (let round = 0; round < 4; round++) {
    await sendFrames(guest, 23)
    await (round % 2 === 0 ? ShadowQueue.beginAll(shadows) : ShadowQueue.endAll(shadows))
    await sendFrames(guest, 40)
  }
  await settle(guest)
  expect([broken, guest.received]).toEqual([[], upTo(guest.sent)])
  await device.close()
  guest.close()
})
