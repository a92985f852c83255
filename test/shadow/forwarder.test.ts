// The hot path between a guest's ring and the device's, with nothing of a device around it.

import { expect, test } from '@jest/globals'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import { RingMemory } from '../../lib/memory/ring-memory.js'
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

/** A guest, a shadow, and the device's end of the shadow's ring. */
function begin(kind: (typeof kinds)[number][1]) {
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
  const windows = new GuestWindows(memory, { lookup: () => undefined, mappings: [mapping] } as never)
  const addresses = { descriptor: 0n, driver: 0x1000n, device: 0x2000n }
  const log = new DirtyLog(memory)
  const failures: unknown[] = []
  const calls: number[] = []
  const forwarder = new Forwarder({
    guest: new GuestQueue({ format, size: SIZE, features, addresses }, windows, initialState(format)),
    queue: { ring: into, publish: () => void into.publish() } as unknown as DeviceQueue,
    windows,
    bounce: undefined,
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
