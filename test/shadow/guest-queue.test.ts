// What the shadow writes to a guest's ring is in the log before the guest sees it: rings of several pages, chains answered one by one and in batches.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { DirtyLog, dirtyRanges } from '../../lib/shadow/dirty-log.js'
import { GuestQueue } from '../../lib/shadow/guest-queue.js'
import { GuestWindows } from '../../lib/shadow/guest-windows.js'
import { Simulator } from '../../lib/simulator/index.js'
import { createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes, initialState } from '../../lib/virtqueue/layout.js'
import { kinds } from './guest.js'

const BYTES = 0x2_0000
const PAGE = 4096

/** A guest whose areas lie at the ends of pages, and what serves its ring. */
function begin(kind: (typeof kinds)[number][1]) {
  const format = kind.includes('VIRTIO_F_RING_PACKED') ? 'packed' : 'split'
  const features = { eventIdx: kind.includes('VIRTIO_F_RING_EVENT_IDX'), inOrder: kind.includes('VIRTIO_F_IN_ORDER') }
  const size = format === 'packed' ? 700 : 1024
  const region = new Simulator().allocate(BYTES)
  const memory = new GuestMemory([{ address: 0n, region }])
  const at = { descriptor: 0x1100, driver: 0x8ffc, device: 0xeffc }
  const sizes = areaSizes(format, size)
  const area = (name: keyof typeof at) => {
    const { buffer, byteOffset } = region.view(at[name], sizes[name])
    return new RingMemory(buffer, byteOffset, sizes[name])
  }
  const areas = { descriptor: area('descriptor'), driver: area('driver'), device: area('device') }
  const guest = createDriverRing({ format, size, features, areas })
  const addresses = { descriptor: BigInt(at.descriptor), driver: BigInt(at.driver), device: BigInt(at.device) }
  const space = { lookup: () => undefined, mappings: [] }
  const windows = new GuestWindows(memory, space as never)
  const queue = new GuestQueue({ format, size, features, addresses }, windows, initialState(format))
  return { region, memory, guest, queue, isInOrder: features.inOrder }
}

const turns = fc.array(
  fc.record({
    chains: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 300 }),
    answered: fc.nat({ max: 400 }),
    isFull: fc.boolean(),
    isTaken: fc.boolean(),
  }),
  { minLength: 1, maxLength: 12 },
)

test.each(kinds)('%s', (_, kind) => {
  fc.assert(
    fc.property(turns, (list) => {
      const { region, memory, guest, queue, isInOrder } = begin(kind)
      const log = new DirtyLog(memory)
      const { ring } = queue
      const loaded: { readonly id: number; readonly room: number }[] = []
      const isMarked = new Uint8Array(BYTES / PAGE)
      const isWritten = new Uint8Array(BYTES / PAGE)
      const take = () => {
        for (const { address, size } of dirtyRanges(log.take())) {
          const first = Number(address)
          isMarked.fill(1, first / PAGE, (first + size) / PAGE)
        }
      }
      for (const { chains, answered, isFull, isTaken } of list) {
        while (guest.take() >= 0);
        for (const [token, count] of chains.entries()) {
          if (guest.freeCount < count) break
          guest.begin()
          for (let at = 0; at < count; at++) guest.push(0, 0x1_f000 + 16 * at, 16, true)
          guest.commit(token)
        }
        guest.publish()
        // What the guest writes is its own to tell.
        const before = region.view(0, BYTES).slice()
        ring.disableKicks()
        while (ring.next()) loaded.push({ id: ring.chain.id, room: ring.chain.writableLength })
        ring.enableKicks()
        for (let count = 0; count < answered && loaded.length > 0; count++) {
          const [one] = loaded.splice(isInOrder ? 0 : (count * 7) % loaded.length, 1)
          if (one !== undefined) ring.complete(one.id, isFull ? one.room : 1)
        }
        queue.mark(log)
        ring.publish()
        const after = region.view(0, BYTES)
        for (let at = 0; at < BYTES; at++) if (after[at] !== before[at]) isWritten[Math.floor(at / PAGE)] = 1
        if (!isTaken) continue
        take()
        expect(isWritten.findIndex((written, page) => written > (isMarked[page] ?? 0))).toBe(-1)
        isWritten.fill(0)
        isMarked.fill(0)
      }
    }),
    { numRuns: 60 },
  )
})
