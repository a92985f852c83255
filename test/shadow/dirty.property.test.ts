// The dirty log under random traffic: a copy that is brought up to date by the log alone is, at the end, what the device and the shadow have written.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { DeviceCapabilities } from '../../lib/models/device-shape.js'
import { DirtyLog, dirtyRanges } from '../../lib/shadow/dirty-log.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { BASE, kinds, makeNetWorld, MEMORY_BYTES, settle, SIZE, turn, upTo } from './guest.js'

type Step = 'send' | 'collect' | 'turn' | 'take' | 'switch'
const steps = fc.array(
  fc.oneof(
    { weight: 12, arbitrary: fc.constantFrom<Step>('send', 'send', 'collect', 'turn', 'take') },
    { weight: 1, arbitrary: fc.constant<Step>('switch') },
  ),
  { minLength: 10, maxLength: 120 },
)
const devices = fc.constantFrom<DeviceCapabilities>(
  {},
  { takesAhead: 4 },
  { vringState: 'used index' },
  { takesAhead: 4, vringState: 'used index' },
)

/** Where only the device's side writes: used rings of split queues, and receive buffers. */
function written(isSplit: boolean): readonly (readonly [number, number])[] {
  const buffers = [0x4_0000, (SIZE / 2) * 0x800] as const
  return isSplit ? [buffers, [0x1000, 6 + 8 * SIZE], [0x9000, 6 + 8 * SIZE]] : [buffers]
}

test.each(kinds)('misses no page, and no frame: %s', async (_, kind) => {
  const isSplit = !kind.includes('VIRTIO_F_RING_PACKED')
  await fc.assert(
    fc.asyncProperty(steps, devices, fc.boolean(), async (list, capabilities, isBounced) => {
      const logs: DirtyLog[] = []
      const world = await makeNetWorld(kind, { capabilities }, ({ guest, simulator }) => ({
        log: (logs[0] ??= new DirtyLog(guest.memory)),
        ...(isBounced && { bounce: simulator.allocate(128 * 4096) }),
      }))
      const { device, guest, shadows } = world
      const [log] = logs as [DirtyLog]
      const copy = new Uint8Array(MEMORY_BYTES)
      const follow = () => {
        for (const { address, size } of dirtyRanges(log.take()))
          copy.set(guest.bytes(Number(address) - BASE, size), Number(address) - BASE)
      }
      const toggle = async () => {
        // What is bounced cannot be reached by the device itself.
        if (isBounced) return
        if (shadows[0]?.isShadowing === true) return ShadowQueue.endAll(shadows)
        await ShadowQueue.beginAll(shadows)
        // Nobody followed what the device wrote by itself.
        log.markAll()
      }
      if (!isBounced) await device.addressSpace(0).map(guest.memory)
      await ShadowQueue.beginAll(shadows)
      await device.start()
      for (const step of list) {
        if (step === 'send') guest.send()
        if (step === 'collect') guest.collect()
        if (step === 'turn') await turn()
        if (step === 'take') follow()
        if (step === 'switch') await toggle()
      }
      if (shadows[0]?.isShadowing !== true) await toggle()
      await settle(guest)
      expect(guest.received).toEqual(upTo(guest.sent))
      follow()
      for (const [at, length] of written(isSplit)) {
        const is = Buffer.from(guest.bytes(at, length))
        expect(Buffer.from(copy.subarray(at, at + length)).equals(is)).toBe(true)
      }
      await device.close()
      for (const shadow of shadows) await shadow.close()
      guest.close()
    }),
    { numRuns: Number(process.env['SHADOW_RUNS'] ?? 25) },
  )
})

test.each(kinds)('has what was written before the guest sees that it was used: %s', async (_, kind) => {
  const logs: DirtyLog[] = []
  const { device, guest, shadows } = await makeNetWorld(kind, {}, ({ guest: { memory } }) => ({
    log: (logs[0] ??= new DirtyLog(memory)),
  }))
  await device.addressSpace(0).map(guest.memory)
  await ShadowQueue.beginAll(shadows)
  await device.start()
  for (let round = 0; round < 50; round++) {
    guest.send()
    // Each time that the guest looks, what it finds is marked already.
    for (let count = 0; count < 4; count++) {
      await turn()
      guest.collect()
      const marked = [...dirtyRanges(logs[0]?.take() ?? [])]
      const isMarked = (address: number) =>
        marked.some((range) => address >= Number(range.address) && address < Number(range.address) + range.size)
      for (const { address } of guest.written.splice(0)) {
        expect(isMarked(address)).toBe(true)
        expect(isMarked(BASE + (kind.includes('VIRTIO_F_RING_PACKED') ? 0 : 0x1000))).toBe(true)
      }
    }
  }
  expect(guest.received).toEqual(upTo(50))
  await device.close()
  guest.close()
})
