// A guest's control ring in the guest's memory, wherever the pieces of that begin and end.

import { expect, test } from '@jest/globals'
import { GuestRing } from '../../lib/control/guest-ring.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { PartedRingMemory } from '../../lib/memory/parted-ring-memory.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { Simulator } from '../../lib/simulator/index.js'
import { transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes } from '../../lib/virtqueue/layout.js'

const PAGE = 4096
const PAGES = 8
const SIZE = 16
const addresses = { descriptor: BigInt(PAGE - 64), driver: BigInt(2 * PAGE - 4), device: BigInt(4 * PAGE - 8) }

/** A guest whose memory is in pieces of a page; `hole` is not there. */
function guestMemory(hole = -1): GuestMemory {
  const simulator = new Simulator()
  const memory = new GuestMemory()
  for (let page = 0; page < PAGES; page++)
    if (page !== hole) memory.add({ address: BigInt(page * PAGE), region: simulator.allocate(PAGE) })
  return memory
}

function ringOf(memory: GuestMemory, isPacked: boolean) {
  const interrupts: number[] = []
  const ring = new GuestRing({
    memory,
    features: isPacked ? 1n << BigInt(transportFeatureBits.VIRTIO_F_RING_PACKED) : 0n,
    size: SIZE,
    addresses,
    kick: new Simulator().eventfd(),
    call: { signal: () => void interrupts.push(1) },
  })
  return { ring, interrupts }
}

test.each([
  ['split', false],
  ['packed', true],
] as const)('a %s ring whose areas go from piece to piece is served, more than once around', (format, isPacked) => {
  const memory = guestMemory()
  const sizes = areaSizes(format, SIZE)
  const area = (name: 'descriptor' | 'driver' | 'device') =>
    new PartedRingMemory(
      memory
        .slices(addresses[name], sizes[name])
        .map(({ region, offset, size }) => new RingMemory(region.buffer, offset, size)),
    )
  const areas = { descriptor: area('descriptor'), driver: area('driver'), device: area('device') }
  const driver = createDriverRing({ format, size: SIZE, areas })
  const { ring, interrupts } = ringOf(memory, isPacked)
  const [command] = memory.slices(BigInt(6 * PAGE), PAGE)
  for (let sent = 0; sent < 3 * SIZE; sent++) {
    command?.region.view(0, 3).set([1, 2, sent])
    driver.begin()
    driver.push(0, 6 * PAGE, 3, false)
    driver.push(0, 6 * PAGE + 16, 1, true)
    driver.commit(sent)
    driver.publish()
    expect(ring.take(100)).toEqual({ bytes: Uint8Array.of(1, 2, sent), length: 3, room: 1 })
    ring.answer(Uint8Array.of(sent))
    expect([driver.take(), driver.usedLength, command?.region.view(16, 1)[0]]).toEqual([sent, 1, sent])
  }
  expect(ring.take(100)).toBeUndefined()
  expect(interrupts.length).toBe(3 * SIZE)
})

test.each([1, 2, 4])('a ring of which page %i is not there is refused', (hole) => {
  expect(() => ringOf(guestMemory(hole), false)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN' }))
})
