// The hot path between a guest's ring and the device's, with nothing of a device around it.

import { expect, test } from '@jest/globals'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
import { Bounce, CHUNK_BYTES } from '../../lib/shadow/bounce.js'
import { DirtyLog, dirtyRanges } from '../../lib/shadow/dirty-log.js'
import { Forwarder } from '../../lib/shadow/forwarder.js'
import { GuestQueue } from '../../lib/shadow/guest-queue.js'
import { GuestWindows } from '../../lib/shadow/guest-windows.js'
import { Simulator } from '../../lib/simulator/index.js'
import { createDeviceRing, createDriverRing } from '../../lib/virtqueue/create.js'
import { areaSizes, initialState } from '../../lib/virtqueue/layout.js'
import { kinds } from './guest.js'

const SIZE = 8
const MAPPED = 0x10_0000n

interface Wish {
  readonly bounce?: Bounce
  /** The device has the guest's memory at the guest's addresses. */
  readonly isSame?: boolean
}

/** A guest, a shadow, and the device's end of the shadow's ring. */
function begin(kind: (typeof kinds)[number][1], { bounce, isSame = false }: Wish = {}) {
  const format = kind.includes('VIRTIO_F_RING_PACKED') ? 'packed' : 'split'
  const features = { eventIdx: kind.includes('VIRTIO_F_RING_EVENT_IDX'), inOrder: kind.includes('VIRTIO_F_IN_ORDER') }
  const region = new Simulator().allocate(0x1_0000)
  const memory = new GuestMemory([{ address: 0n, region }])
  const sizes = areaSizes(format, SIZE)
  const areasAt = (at: number) => {
    const area = (name: keyof typeof sizes, offset: number) => {
      const { buffer, byteOffset } = region.view(at + offset, sizes[name])
      return new RingMemory(buffer, byteOffset, sizes[name])
    }
    return { descriptor: area('descriptor', 0), driver: area('driver', 0x1000), device: area('device', 0x2000) }
  }
  const ring = { format, size: SIZE, features } as const
  const guest = createDriverRing({ ...ring, areas: areasAt(0) })
  const into = createDriverRing({ ...ring, areas: areasAt(0x8000) })
  const device = createDeviceRing({ ...ring, areas: areasAt(0x8000) })
  const mapping = { iova: MAPPED, size: BigInt(region.length), region, offset: 0 }
  const mappings = bounce === undefined ? [mapping] : []
  const lookup = (iova: bigint) => (isSame ? { region, offset: Number(iova), mapping } : undefined)
  const windows = new GuestWindows(memory, { lookup, mappings } as never)
  const addresses = { descriptor: 0n, driver: 0x1000n, device: 0x2000n }
  const log = new DirtyLog(memory)
  const failures: unknown[] = []
  const calls: number[] = []
  const forwarder = new Forwarder({
    guest: new GuestQueue({ format, size: SIZE, features, addresses }, windows, initialState(format)),
    queue: { ring: into, publish: () => void into.publish() } as unknown as DeviceQueue,
    windows,
    bounce,
    log,
    counters: { forwarded: 0, used: 0, bounced: 0, resubmitted: 0 },
    tableSize: 0,
    call: () => calls.push(guest.inFlight),
    onFailure: (failure) => failures.push(failure),
  })
  const post = (token: number) => {
    guest.begin()
    guest.push(0, 0x5000 + 16 * token, 16, true)
    guest.commit(token)
    guest.publish()
  }
  const taken = () => {
    const tokens: number[] = []
    for (let token = guest.take(); token >= 0; token = guest.take()) tokens.push(token)
    return tokens
  }
  return { region, guest, device, forwarder, log, failures, calls, post, taken, isPacked: format === 'packed' }
}

test.each(kinds)('what a device answered before it broke its ring is the guest’s, and in the log: %s', (_, kind) => {
  const { region, device, forwarder, log, failures, calls, post, taken, isPacked } = begin(kind)
  for (const token of [0, 1, 2]) post(token)
  forwarder.work()
  for (let chain = 0; chain < 2; chain++) {
    device.next()
    device.complete(device.chain.id, 16)
  }
  device.publish()
  // A third, which is none.
  if (isPacked) region.view(0x8000 + 2 * 16 + 12, 4).set([0xff, 0xff, 0x82, 0x80])
  else {
    region.view(0xa000 + 4 + 2 * 8, 4).fill(0xff)
    region.view(0xa000 + 2, 2).set([3, 0])
  }
  log.take()
  forwarder.work()
  expect(failures).toMatchObject([{ code: 'ERR_VDPA_RING_BROKEN' }])
  expect(calls).toEqual([3])
  expect(taken()).toEqual([0, 1])
  const usedAt = isPacked ? 0 : 0x2000
  expect([...dirtyRanges(log.take())].map(({ address }) => Number(address))).toEqual(
    expect.arrayContaining([usedAt, 0x5000]),
  )
  forwarder.end()
})

test.each(kinds)('a chain of nothing between others is answered in its turn: %s', (_, kind) => {
  const { region, guest, device, forwarder, failures, post, taken } = begin(kind)
  post(0)
  post(1)
  // No driver of this package makes one: its length is taken away.
  const { format } = guest
  region.view(16 + 8, 4).fill(0)
  post(2)
  const answer = () => {
    for (; device.next(); device.publish()) device.complete(device.chain.id, 16)
    forwarder.work()
  }
  forwarder.work()
  answer()
  answer()
  expect(failures).toEqual([])
  expect([format, taken().sort()]).toEqual([format, [0, 1, 2]])
  expect(forwarder.inFlight).toBe(0)
  forwarder.end()
})

const placed = kinds.flatMap(([name, kind]) => [true, false].map((isSame) => ({ name, kind, isSame })))

test.each(placed)(
  'all that a device may have written is in the log, whatever length it says: $name, same addresses $isSame',
  ({ kind, isSame }) => {
    const { guest, device, forwarder, log, taken } = begin(kind, { isSame })
    guest.begin()
    guest.push(0, 0x5ff0, 0x20, true)
    guest.commit(0)
    guest.begin()
    guest.push(0, 0xb000, 16, true)
    guest.push(0, 0xcf00, 0x200, true)
    guest.commit(1)
    guest.publish()
    forwarder.work()
    log.take()
    for (; device.next(); device.publish()) device.complete(device.chain.id, 1)
    forwarder.work()
    expect(taken()).toEqual([0, 1])
    const marked = [...dirtyRanges(log.take())]
    for (const page of [0x5000, 0x6000, 0xb000, 0xc000, 0xd000])
      expect(marked.some(({ address, size }) => page >= Number(address) && page < Number(address) + size)).toBe(true)
    forwarder.end()
  },
)

test.each(kinds)('of what was bounced the guest gets what the device says that it wrote: %s', (_, kind) => {
  const memory = new Simulator().allocate(4 * CHUNK_BYTES)
  const { region, guest, device, forwarder, log, taken } = begin(kind, { bounce: new Bounce(memory, MAPPED) })
  region.view(0xb000, 0x2000).fill(0xee)
  guest.begin()
  guest.push(0, 0xb000, 16, true)
  guest.push(0, 0xc000, 16, true)
  guest.commit(0)
  guest.publish()
  forwarder.work()
  log.take()
  device.next()
  const { chain } = device
  for (let segment = 0; segment < 2; segment++)
    memory.view((chain.iovaLow[segment] ?? 0) - Number(MAPPED), 16).fill(segment + 1)
  device.complete(chain.id, 20)
  device.publish()
  forwarder.work()
  expect(taken()).toEqual([0])
  expect([...region.view(0xb000, 17)]).toEqual([...Array<number>(16).fill(1), 0xee])
  expect([...region.view(0xc000, 16)]).toEqual([2, 2, 2, 2, ...Array<number>(12).fill(0xee)])
  const marked = [...dirtyRanges(log.take())].map(({ address }) => Number(address))
  expect(marked).toContain(0xb000)
  forwarder.end()
})
