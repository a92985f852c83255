// A guest that writes all over its own memory and rings while its traffic flows. It may break its own queues; it changes, reads and stalls nothing else.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import { DirtyLog } from '../../lib/shadow/dirty-log.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import {
  BASE,
  kinds,
  makeNetWorld,
  MEMORY_BYTES,
  sendFrames,
  settle,
  SIZE,
  turn,
  upTo,
  type NetGuest,
} from './guest.js'
import { until } from '../until.js'

const SECRET = 0x5a
/** Where memory of somebody else is mapped in the same address space. */
const OTHERS = 0x8000_0000

type Step =
  | { readonly do: 'scribble'; readonly at: number; readonly bytes: Uint8Array }
  | { readonly do: 'aim'; readonly queue: number; readonly address: number; readonly length: number }
  | { readonly do: 'send' | 'collect' | 'turn' | 'kick' | 'begin' | 'end' | 'take' }

// The rings are in the first pages of two halves, where most of what is written shall go.
const place = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 0x2000 }) },
  { weight: 4, arbitrary: fc.integer({ min: 0x8000, max: 0xa000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: MEMORY_BYTES - 64 }) },
)
/** Descriptors that point at the memory of others, or nowhere. */
const descriptor = fc
  .tuple(
    fc.constantFrom(BASE, BASE + MEMORY_BYTES - 8, OTHERS, 0, 0xffff_f000),
    fc.constantFrom(0, 1, 0xffff_ffff),
    fc.constantFrom(64, 4096, 0xffff_ffff),
    fc.constantFrom(0, 1, 2, 3, 4, 7, 0x80, 0x8000, 0x82),
  )
  .map(([low, high, length, flags]) => {
    const bytes = new Uint8Array(16)
    const view = new DataView(bytes.buffer)
    for (const [at, value] of [low, high, length].entries()) view.setUint32(4 * at, value, true)
    view.setUint16(12, flags, true)
    view.setUint16(14, flags, true)
    return bytes
  })
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('scribble' as const),
      at: place,
      bytes: fc.oneof(fc.uint8Array({ minLength: 1, maxLength: 32, max: 0x50 }), descriptor),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('aim' as const),
      queue: fc.integer({ min: 0, max: 1 }),
      address: fc.constantFrom(OTHERS, OTHERS + 64, BASE + MEMORY_BYTES - 32, 0, 0xffff_f000),
      length: fc.constantFrom(64, 78, 4096),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom<Exclude<Step['do'], 'scribble' | 'aim'>>('send', 'send', 'collect', 'turn', 'kick', 'take'),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom<'begin' | 'end'>('begin', 'end') }) },
)

/** What a guest does to itself hurts its own driver, too. */
function tolerate(act: () => void): void {
  try {
    act()
  } catch {
    // Its ring is broken for itself.
  }
}

/** A chain like any other, but for what it names. */
function aim(guest: NetGuest, queue: number, address: number, length: number): void {
  const ring = guest.ring(queue)
  ring.begin()
  ring.pushAddress(BigInt(address), length, queue === 0)
  ring.commit(SIZE - 1)
  if (ring.publish()) guest.kicks[queue]?.signal()
}

/** What others have: a frame for everybody, full of what the guest must not read. */
function secret(): Uint8Array {
  const bytes = new Uint8Array(0x1_0000).fill(SECRET)
  for (const at of [0, 64]) bytes.fill(0, at, at + 12).fill(0xff, at + 12, at + 18)
  return bytes
}

async function play(guest: NetGuest, shadows: readonly ShadowQueue[], log: DirtyLog, one: Step): Promise<void> {
  switch (one.do) {
    case 'scribble':
      return guest.bytes(one.at, one.bytes.length).set(one.bytes)
    case 'aim':
      return tolerate(() => aim(guest, one.queue, one.address, one.length))
    case 'send':
      return tolerate(() => guest.send())
    case 'collect':
      return tolerate(() => guest.collect())
    case 'turn':
      return turn()
    case 'kick':
      return guest.kicks.forEach((kick) => kick.signal())
    case 'take':
      return void log.take()
    case 'begin':
    case 'end':
      return (one.do === 'begin' ? ShadowQueue.beginAll(shadows) : ShadowQueue.endAll(shadows)).catch(
        (failure: unknown) => {
          const codes = ['ERR_VDPA_STATE', 'ERR_VDPA_RING_BROKEN', 'ERR_VDPA_TIMEOUT']
          expect(codes).toContain((failure as { code: unknown }).code)
        },
      )
  }
}

test.each(kinds)('spoils its own queues only: %s', async (_, kind) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 80 }), async (steps) => {
      const logs: DirtyLog[] = []
      const world = await makeNetWorld(kind, {}, ({ guest }) => ({
        log: (logs[0] ??= new DirtyLog(guest.memory)),
        patience: 0,
      }))
      const { device, guest, shadows, simulator } = world
      const [data, own] = [device.addressSpace(0), device.addressSpace(1)]
      await data.map(guest.memory)
      const others = simulator.allocate(0x1_0000)
      new Uint8Array(others.buffer).set(secret())
      await data.map({ iova: BigInt(OTHERS), region: others })
      device.groups.assign(1, own)
      const control = await NetControlQueue.start(device, own, { timeout: 1000 })
      await ShadowQueue.beginAll(shadows)
      await device.start()
      await sendFrames(guest, 5)
      let isSpoiled = false
      for (const one of steps) {
        // What the guest has spoiled or aimed by then would be served by the device itself, which goes wherever something is mapped.
        if (one.do === 'scribble' || one.do === 'aim') isSpoiled = true
        if (one.do === 'end' && isSpoiled) continue
        await play(guest, shadows, logs[0] as DirtyLog, one)
        if (one.do === 'end') await ShadowQueue.beginAll(shadows).catch(() => undefined)
      }
      for (let count = 0; count < 20; count++) await turn()
      expect(Buffer.from(others.buffer).equals(secret())).toBe(true)
      expect(holds(new Uint8Array(guest.region.buffer), SECRET, 16)).toBe(false)
      // A device that does not have the guest's queues back goes on with all others.
      if (device.state === 'running') await control.setMacAddress('02:00:00:00:00:33')
      expect(['running', 'claimed']).toContain(device.state)
      await device.close()
      others.close()
      guest.close()
    }),
    { numRuns: Number(process.env['SHADOW_RUNS'] ?? 25) },
  )
})

/** Whether a byte stands so often in a row. */
function holds(bytes: Uint8Array, byte: number, count: number): boolean {
  for (let at = bytes.indexOf(byte), row = 0; at >= 0 && at < bytes.length; at++) {
    row = bytes[at] === byte ? row + 1 : 0
    if (row === count) return true
  }
  return false
}

test('a chain of nothing, one past the end of memory, and a table that lies nowhere', async () => {
  const { device, guest, shadows, broken } = await makeNetWorld(['VIRTIO_F_RING_INDIRECT_DESC'])
  await device.addressSpace(0).map(guest.memory)
  await ShadowQueue.beginAll(shadows)
  await device.start()
  const view = new DataView(guest.region.buffer, 0x8000)
  const offer = (at: number, address: number, length: number, flags: number) => {
    view.setUint32(at * 16, address, true)
    view.setUint32(at * 16 + 8, length, true)
    view.setUint16(at * 16 + 12, flags, true)
    view.setUint16(16 * SIZE + 4 + 2 * at, at, true)
    view.setUint16(16 * SIZE + 2, at + 1, true)
    guest.kicks[1]?.signal()
  }
  const [, transmit] = shadows as [ShadowQueue, ShadowQueue]
  offer(0, BASE, 0, 0)
  await turn()
  await turn()
  // It was answered here: no device can be given a descriptor of no bytes.
  expect(view.getUint16(0x1000 + 2, true)).toBe(1)
  expect(transmit.failure).toBeUndefined()
  offer(1, BASE + MEMORY_BYTES - 4, 8, 0)
  await turn()
  await turn()
  expect(transmit.failure).toMatchObject({ code: 'ERR_VDPA_RING_BROKEN' })
  expect(broken).toEqual([transmit.failure])
  // The other queue goes on, and what is broken is not given back.
  await ShadowQueue.endAll(shadows)
  expect(shadows.map(({ isShadowing }) => isShadowing)).toEqual([false, false])
  expect([device.state, device.vring(0).isEnabled, device.vring(1).isEnabled]).toEqual(['running', true, false])
  await device.close()
  guest.close()
})

test('a chain of nothing is in the log before its guest sees it as used', async () => {
  const marked: (readonly [address: number, used: number])[] = []
  const { device, guest, shadows } = await makeNetWorld([], {}, (world) => {
    const log = new DirtyLog(world.guest.memory)
    const used = () => new DataView(world.guest.region.buffer, 0x8000).getUint16(0x1000 + 2, true)
    return { log: Object.assign(log, { mark: (address: number) => void marked.push([address, used()]) }) }
  })
  await device.addressSpace(0).map(guest.memory)
  await ShadowQueue.beginAll(shadows)
  await device.start()
  const view = new DataView(guest.region.buffer, 0x8000)
  view.setUint32(0, BASE, true)
  view.setUint16(16 * SIZE + 2, 1, true)
  guest.kicks[1]?.signal()
  await until(() => view.getUint16(0x1000 + 2, true) === 1)
  const entry = BASE + 0x8000 + 0x1000 + 4
  expect(marked.find(([address]) => address === entry)).toEqual([entry, 0])
  await device.close()
  guest.close()
})

test('a table of 4 GiB takes no more memory than can be reached of it', async () => {
  const { device, guest, shadows, broken } = await makeNetWorld(['VIRTIO_F_RING_INDIRECT_DESC'])
  await device.addressSpace(0).map(guest.memory)
  await ShadowQueue.beginAll(shadows)
  await device.start()
  const lengths: number[] = []
  const Whole = ArrayBuffer
  globalThis.ArrayBuffer = class extends Whole {
    constructor(length: number) {
      lengths.push(length)
      super(length)
    }
  } as ArrayBufferConstructor
  try {
    const view = new DataView(guest.region.buffer, 0x8000)
    view.setUint32(0, BASE + MEMORY_BYTES - 4096, true)
    view.setUint32(8, 0xffff_fff0, true)
    view.setUint16(12, 4, true)
    view.setUint16(16 * SIZE + 4, 0, true)
    view.setUint16(16 * SIZE + 2, 1, true)
    guest.kicks[1]?.signal()
    await until(() => broken.length > 0)
  } finally {
    globalThis.ArrayBuffer = Whole
  }
  expect(broken).toEqual([expect.objectContaining({ code: 'ERR_VDPA_RING_BROKEN' })])
  expect(Math.max(0, ...lengths)).toBeLessThanOrEqual(0x10_0000)
  await device.close()
  guest.close()
})

test.each([0, 1])('memory of others is neither read nor written by queue %d', async (queue) => {
  const { device, guest, shadows, simulator, broken } = await makeNetWorld()
  const others = simulator.allocate(0x1_0000)
  new Uint8Array(others.buffer).set(secret())
  await device.addressSpace(0).map(guest.memory)
  await device.addressSpace(0).map({ iova: BigInt(OTHERS), region: others })
  await ShadowQueue.beginAll(shadows)
  await device.start()
  await sendFrames(guest, 3)
  aim(guest, queue, OTHERS, 78)
  for (let count = 0; count < 5; count++) {
    await turn()
    guest.collect()
  }
  expect(broken).toMatchObject([{ code: 'ERR_VDPA_RING_BROKEN' }])
  expect(guest.received).toEqual(upTo(3))
  expect(Buffer.from(others.buffer).equals(secret())).toBe(true)
  await device.close()
  others.close()
  guest.close()
})

test('memory that goes away under the rings ends the queues, once and by name', async () => {
  const { device, guest, shadows, broken } = await makeNetWorld()
  await device.addressSpace(0).map(guest.memory)
  await ShadowQueue.beginAll(shadows)
  await device.start()
  await sendFrames(guest, 3)
  await settle(guest)
  expect(guest.received).toEqual(upTo(3))
  guest.region.close({ unmap: true })
  for (let count = 0; count < 3; count++) {
    guest.kicks.forEach((kick) => kick.signal())
    await turn()
  }
  expect(broken.length).toBe(2)
  await device.close()
  guest.close()
})
