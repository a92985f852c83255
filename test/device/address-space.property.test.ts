// Random plans with one fault each: whatever the kernel refuses, and whenever the caller gives up, the address space is what it was before, ours and the
// kernel's, or the change has happened whole.

import { afterEach, beforeEach, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const page = 4096

let simulator: Simulator
let device: VdpaDevice
let space: AddressSpace
let memory: MemoryRegion

beforeEach(() => {
  simulator = new Simulator()
  simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
  device = openDeviceSync(path, { backend: simulator })
  space = device.addressSpace(0)
  memory = simulator.allocate(64 * page)
})

afterEach(async () => {
  await device.close()
  memory.close()
})

/** What is mapped, by our account and by that of the pretended kernel. */
function state(): unknown {
  const kernel = simulator.dump(path).addressSpaces.find(({ asid }) => asid === 0)?.mappings ?? []
  const own = space.snapshot().map(({ iova, size, access }) => `${iova} ${size} ${access}`)
  return { own, kernel: kernel.map((mapping) => ({ ...mapping })), held: memory.holders.length > 0 }
}

/** Slots of 4 pages, at which at most one mapping of 1 to 3 pages begins: plans never overlap by accident. */
const slots = fc.uniqueArray(fc.record({ slot: fc.nat(49), pages: fc.integer({ min: 1, max: 3 }) }), {
  selector: ({ slot }) => slot,
  minLength: 1,
  maxLength: 50,
})
type Slots = readonly { readonly slot: number; readonly pages: number }[]

const iovaOf = (slot: number) => BigInt((1 + 4 * slot) * page)
const requests = (list: Slots) =>
  list.map(({ slot, pages }) => ({ iova: iovaOf(slot), region: memory, offset: slot * page, size: pages * page }))

const fault = fc.oneof(
  fc.record({ kind: fc.constant('refuse' as const), nth: fc.integer({ min: 1, max: 54 }) }),
  fc.record({ kind: fc.constant('short' as const), nth: fc.integer({ min: 1, max: 54 }) }),
  fc.record({ kind: fc.constant('cancel' as const), nth: fc.nat(6) }),
)
type Fault = { readonly kind: 'refuse' | 'short' | 'cancel'; readonly nth: number }

/** Carries a change out with a fault planted, and says whether it happened. */
async function spoil({ kind, nth }: Fault, change: (signal: AbortSignal) => Promise<unknown>): Promise<boolean> {
  const controller = new AbortController()
  if (kind === 'refuse') simulator.faults.fail({ request: 'write', with: 'EFAULT', nth })
  if (kind === 'short') simulator.faults.shortWrite({ nth, length: 8 })
  try {
    const running = change(controller.signal)
    if (kind === 'cancel') {
      for (let turn = 0; turn < nth; turn++) await Promise.resolve()
      controller.abort()
    }
    await running
    return true
  } catch (failure) {
    expect(failure).toMatchObject({ code: expect.stringMatching(/^(ERR_VDPA_(REFUSED|CANCELED)|EIO)$/) })
    return false
  } finally {
    simulator.faults.clear()
  }
}

test('a map with a fault happens whole or not at all', async () => {
  await fc.assert(
    fc.asyncProperty(slots, fault, async (list, planted) => {
      const before = state()
      const happened = await spoil(planted, (signal) => space.map(requests(list), { signal }))
      if (happened) expect(space.size).toBe(list.length)
      else expect(state()).toEqual(before)
      await space.unmapAll()
      expect(state()).toEqual(before)
    }),
    { numRuns: 150 },
  )
})

test('an unmap with a fault happens whole or not at all', async () => {
  await fc.assert(
    fc.asyncProperty(slots, fc.nat(), fault, async (list, share, planted) => {
      await space.map(requests(list))
      const before = state()
      const going = list.slice(0, 1 + (share % list.length))
      const wish = going.map(({ slot, pages }) => ({ iova: iovaOf(slot), size: BigInt(pages * page) }))
      const isAll = going.length === list.length
      const happened = await spoil(planted, (signal) =>
        isAll ? space.unmapAll({ signal }) : space.unmap(wish, { signal }),
      )
      if (happened) expect(space.size).toBe(list.length - going.length)
      else expect(state()).toEqual(before)
      await space.unmapAll()
    }),
    { numRuns: 150 },
  )
})

test('a table that is followed through a fault is mapped as it was, and as it is after the next change', async () => {
  await fc.assert(
    fc.asyncProperty(slots, slots, fault, async (first, second, planted) => {
      const guest = new GuestMemory()
      const fill = (list: Slots) => {
        for (const { address } of guest.pieces()) guest.remove(address)
        for (const { iova, ...piece } of requests(list)) guest.add({ address: iova, ...piece })
      }
      fill(first)
      const follower = await space.follow(guest)
      const before = state()
      const happened = await spoil(planted, () => {
        fill(second)
        return follower.settled()
      })
      if (!happened) expect(state()).toEqual(before)
      fill(second)
      await follower.settled()
      const mapped = space.snapshot().map(({ iova, size }) => [iova, Number(size)])
      expect(mapped).toEqual(guest.pieces().map(({ address, size }) => [address, size]))
      await follower.close()
      expect(space.size).toBe(0)
    }),
    { numRuns: 100 },
  )
})

test.each([
  ['a number for an address', { iova: 4096 as never }],
  ['a negative address', { iova: -4096n }],
  ['an address behind the end', { iova: 2n ** 64n }],
  ['a range that wraps', { iova: 2n ** 64n - 4096n, size: 2 * page }],
  ['no bytes', { size: 0 }],
  ['NaN bytes', { size: NaN }],
  ['half a byte', { size: 4096.5 }],
  ['a negative offset', { offset: -page }],
  ['an offset behind the end', { offset: 64 * page }],
  ['a fraction of a page', { iova: 100n }],
  ['a bigint of bytes', { size: 4096n as never }],
])('%s, after good pieces, is one clear error and changes nothing', (_, bad) => {
  const before = state()
  const good = requests([
    { slot: 0, pages: 1 },
    { slot: 1, pages: 1 },
  ])
  const spoilt = { iova: iovaOf(9), region: memory, size: page, ...bad }
  expect(() => space.mapSync([...good, spoilt])).toThrow(/ must be .*\(got /)
  expect(state()).toEqual(before)
})

test('a region that was closed meanwhile is one clear error and changes nothing', () => {
  const closed = simulator.allocate(page)
  closed.close()
  const before = state()
  const good = requests([{ slot: 0, pages: 1 }])
  expect(() => space.mapSync([...good, { iova: iovaOf(9), region: closed }])).toThrow(
    expect.objectContaining({ code: 'ERR_VDPA_CLOSED' }),
  )
  expect(state()).toEqual(before)
})
