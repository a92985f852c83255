// Changes of an address space: all of it or none of it, whatever the kernel refuses and whenever the caller gives up.

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import fc from 'fast-check'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { MapProgress } from '../../lib/device/send-plan.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { IntervalTable } from '../../lib/iotlb/interval-table.js'
import { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { openDeviceSync } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'

const path = '/dev/vhost-vdpa-0'
const page = 0x1000

/** What the pretended kernel itself has mapped: the witness that does not share our bookkeeping. */
function kernelMap(simulator: Simulator, asid: number): string[] {
  const space = simulator.dump(path).addressSpaces.find((candidate) => candidate.asid === asid)
  return (space?.mappings ?? []).map((mapping) =>
    JSON.stringify(mapping, (_, value: unknown) => (typeof value === 'bigint' ? value.toString(16) : value)),
  )
}

function thrownBy(work: () => void): unknown {
  try {
    work()
  } catch (failure) {
    return failure
  }
  return undefined
}

describe('an address space', () => {
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

  const pieces = (count: number, first = 0x10_0000) =>
    Array.from({ length: count }, (_, index) => ({
      iova: BigInt(first + 2 * index * page),
      region: memory,
      offset: index * page,
      size: page,
    }))

  test('changes of a device that a program serves are batches, also of one mapping', async () => {
    const served = new Simulator()
    served.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
    const open = served.open.bind(served)
    jest.spyOn(served, 'open').mockImplementation((node) => Object.assign(open(node), { isServedByProgram: true }))
    const recording = new RecordingBackend(served)
    const region = served.allocate(page)
    const other = openDeviceSync(path, { backend: recording })
    try {
      const begin = recording.trace.events.length
      await other.addressSpace(0).map({ iova: 0x10_0000n, region })
      await other.addressSpace(0).unmap({ iova: 0x10_0000n, size: BigInt(page) })
      const messages = recording.trace.events
        .slice(begin)
        .map((event) => (event.op === 'writeEach' ? event.bytes.length / 2 / event.stride : 0))
      expect(messages.filter((count) => count > 0)).toEqual([3, 3])
    } finally {
      await other.close()
      region.close()
    }
  })

  describe('thousands of regions', () => {
    let looks: { mockRestore(): void; mock: { calls: unknown[] } }[]
    beforeEach(() => {
      looks = (['find', 'next'] as const).map((verb) => jest.spyOn(IntervalTable.prototype, verb))
    })
    afterEach(() => {
      for (const look of looks) look.mockRestore()
    })

    /** How many entries are looked at while `count` regions are mapped, and unmapped one by one. */
    const looked = (count: number) => {
      const before = looks.reduce((sum, { mock }) => sum + mock.calls.length, 0)
      const regions = Array.from({ length: count }, () => simulator.allocate(page))
      for (const region of regions) space.mapRegionSync(region)
      expect(space.mappings.map((mapping) => mapping.region)).toEqual([...regions].reverse())
      for (const region of regions) {
        space.unmapRegionSync(region)
        region.close()
      }
      expect(space.size).toBe(0)
      return looks.reduce((sum, { mock }) => sum + mock.calls.length, 0) - before
    }

    test('cost as much each, mapped and unmapped, as a hundred', () => {
      const hundred = looked(100)
      expect(hundred).toBeGreaterThan(100)
      expect(looked(800)).toBeLessThan(9 * hundred)
    })
  })

  test('the place of a region that was unmapped is the first to be given again', () => {
    const regions = [0, 1, 2].map(() => simulator.allocate(page))
    const places = regions.map((region) => space.mapRegionSync(region))
    for (const again of [0, 1, 0]) {
      space.unmapRegionSync(regions[again] as MemoryRegion)
      expect(space.mapRegionSync(regions[again] as MemoryRegion)).toBe(places[again])
    }
    space.unmapAllSync()
    for (const region of regions) region.close()
  })

  test('two regions that come after one that went are two', () => {
    const [gone, ...come] = [0, 1, 2].map(() => simulator.allocate(page))
    space.mapRegionSync(memory)
    space.mapRegionSync(gone as MemoryRegion)
    space.unmapRegionSync(gone as MemoryRegion)
    for (const region of come) space.mapRegionSync(region)
    expect(new Set(space.mappings.map(({ region }) => region))).toEqual(new Set([memory, ...come]))
    for (const region of come) space.unmapRegionSync(region)
    expect(space.mappings.map(({ region }) => region)).toEqual([memory])
    for (const region of [gone, ...come]) region?.close()
    space.unmapAllSync()
  })

  test.each([
    [0x9000n, 0x3000n],
    [0x3000n, 0x9000n],
  ])('a region that is mapped below and above others is found whole: %s, then %s', (first, second) => {
    using other = simulator.allocate(page)
    space.mapSync({ iova: first, region: memory, size: page })
    space.mapSync({ iova: 0x5000n, region: other })
    space.mapSync({ iova: second, region: memory, size: page })
    space.unmapRegionSync(other)
    space.mapSync({ iova: 0x5000n, region: other })
    space.unmapRegionSync(memory)
    expect(space.mappings.map(({ iova }) => iova)).toEqual([0x5000n])
    space.unmapRegionSync(other)
  })

  test('holds memory that is mapped again while other memory stayed', () => {
    using other = simulator.allocate(page)
    space.mapSync({ iova: 0x9000n, region: other })
    space.mapSync({ iova: 0x1000n, region: memory, size: page })
    space.unmapSync({ iova: 0x1000n, size: BigInt(page) })
    expect(memory.holders).toEqual([])
    space.mapSync({ iova: 0x1000n, region: memory, size: page })
    expect(memory.holders).toHaveLength(1)
    expect(space.mappings.map(({ region }) => region)).toEqual([memory, other])
    space.unmapAllSync()
  })

  test('holds the memory that it maps, whatever a request says of itself the second time', () => {
    using other = simulator.allocate(page)
    let asked = 0
    const request = {
      iova: 0x1000n,
      size: page,
      get region() {
        return asked++ === 0 ? memory : other
      },
    }
    space.mapSync(request)
    expect([memory.holders.length, other.holders.length]).toEqual([1, 0])
    expect(space.mappings).toMatchObject([{ region: memory, offset: 0 }])
  })

  test('a refusal of any of 50 pieces leaves the kernel and us as before', () => {
    space.mapSync({ iova: 0x1000n, region: memory, size: page })
    const before = kernelMap(simulator, 0)
    for (let nth = 1; nth <= 52; nth++) {
      simulator.faults.fail({ request: 'write', with: 'EFAULT', nth })
      expect(() => space.mapSync(pieces(50))).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^ERR_VDPA_/) }),
      )
      expect(space.size).toBe(1)
      expect(kernelMap(simulator, 0)).toEqual(before)
    }
    space.mapSync(pieces(50))
    expect(space.size).toBe(51)
  })

  test('a refusal within an unmap of 50 pieces leaves everything mapped', () => {
    space.mapSync(pieces(50))
    const before = kernelMap(simulator, 0)
    for (let nth = 1; nth <= 52; nth++) {
      simulator.faults.fail({ request: 'write', with: 'EFAULT', nth })
      expect(() => space.unmapAllSync()).toThrow()
      expect(space.size).toBe(50)
      expect(kernelMap(simulator, 0)).toEqual(before)
    }
    space.unmapAllSync()
    expect(kernelMap(simulator, 0)).toEqual([])
  })

  test('what is asked to explain a refusal leaves no batch open', () => {
    space.mapSync({ iova: 0x1000n, region: memory, size: page })
    simulator.faults.fail({ request: 'write', with: 'EFAULT', nth: 1 })
    simulator.faults.fail({ request: 'write', with: 'EFAULT', nth: 2 })
    expect(() => space.unmapAllSync()).toThrow()
    expect(simulator.dump(path).batchAsid).toBeUndefined()
    space.mapSync({ iova: 0x3000n, region: memory, size: page })
    expect(simulator.dump(path).addressSpaces[0]?.isBehind).toBe(false)
  })

  test('the error of a refusal names the piece', () => {
    simulator.faults.fail({ request: 'write', with: 'EFAULT', nth: 4 })
    expect(() => space.mapSync(pieces(5))).toThrow(/\[0x104000, 0x104fff\] in asid 0/)
  })

  test('a cancel before and during a change leaves nothing', async () => {
    await expect(space.map(pieces(20), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ERR_VDPA_CANCELED',
    })
    const controller = new AbortController()
    const change = space.map(pieces(50), { signal: controller.signal })
    queueMicrotask(() => controller.abort())
    await change.catch((failure: unknown) => expect(failure).toMatchObject({ code: 'ERR_VDPA_CANCELED' }))
    expect(kernelMap(simulator, 0)).toHaveLength(space.size)
  })

  test('changes asked for at once happen one after another', async () => {
    await Promise.all([
      space.map(pieces(10)),
      space.map(pieces(10, 0x80_0000)),
      space.unmap({ iova: 0x10_0000n, size: 0x1000n }),
    ])
    expect(space.size).toBe(19)
    const change = space.unmapAll()
    expect(() => space.mapSync(pieces(1))).toThrow(expect.objectContaining({ code: 'ERR_VDPA_STATE' }))
    await change
  })

  test('random changes agree with the kernel, piece by piece', () => {
    const change = fc.record({
      first: fc.integer({ min: 1, max: 40 }),
      count: fc.integer({ min: 1, max: 8 }),
      isMap: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(change, { maxLength: 30 }), (changes) => {
        const model = new Map<number, number>()
        for (const { first, count, isMap } of changes) {
          const range = { iova: BigInt(first * page), size: BigInt(count * page) }
          try {
            if (isMap) space.mapSync({ iova: range.iova, region: memory, size: count * page })
            else space.unmapSync(range)
            if (isMap) model.set(first, count)
            else model.delete(first)
          } catch (failure) {
            const isFree = [...model].every(([at, length]) => at + length <= first || first + count <= at)
            expect(isMap ? isFree : model.get(first) === count).toBe(false)
            expect(failure).toMatchObject({ code: isMap ? 'ERR_VDPA_OVERLAP' : 'ERR_VDPA_NOT_MAPPED' })
          }
        }
        expect(space.mappings.map(({ iova, size }) => [Number(iova) / page, Number(size) / page])).toEqual(
          [...model].sort(([a], [b]) => a - b),
        )
        expect(kernelMap(simulator, 0)).toHaveLength(model.size)
        space.unmapAllSync()
      }),
      { numRuns: 100 },
    )
  })

  test("a guest's whole memory is mapped at its addresses, and a change of the table is mapped alone", async () => {
    const guest = new GuestMemory([
      { address: 0n, region: memory, size: 8 * page },
      { address: 0x1_0000_0000n, region: memory, offset: 8 * page },
    ])
    const seen: number[] = []
    await space.map(guest, { onProgress: ({ entries }) => seen.push(entries) })
    expect(space.mappings.map(({ iova, size }) => [iova, Number(size)])).toEqual([
      [0n, 8 * page],
      [0x1_0000_0000n, 56 * page],
    ])
    using more = simulator.allocate(page)
    const { address, region } = guest.add({ address: 0x10_0000n, region: more })
    await space.map({ iova: address, region })
    expect(space.lookup(0x10_0010n)).toMatchObject({ region: more, offset: 0x10 })
    await space.unmap({ iova: address, size: 0x1000n })
    await space.unmapAll()
    expect(kernelMap(simulator, 0)).toEqual([])
  })

  test('the ends of a 64-bit address space can be used', () => {
    const last = 0xffff_ffff_ffff_f000n
    space.mapSync([
      { iova: 0n, region: memory, size: page },
      { iova: last, region: memory, offset: page, size: page },
    ])
    expect(space.lookup(0xffff_ffff_ffff_ffffn)).toMatchObject({ region: memory, offset: 2 * page - 1 })
    expect(space.lookup(0x1000n)).toBeUndefined()
    expect(space.mappings.map(({ iova, size }) => [iova, size])).toEqual([
      [0n, 0x1000n],
      [last, 0x1000n],
    ])
    space.unmapAllSync()
  })

  test('more entries than an IOTLB has are refused before the first is sent', () => {
    const many = Array.from({ length: 2049 }, (_, index) => ({
      iova: BigInt(index + 1) * 0x2000n,
      region: memory,
      size: page,
    }))
    expect(() => space.mapSync(many)).toThrow(expect.objectContaining({ code: 'ERR_VDPA_ENTRY_LIMIT' }))
    expect(kernelMap(simulator, 0)).toEqual([])
    space.mapSync(many.slice(1))
    expect(space.size).toBe(2048)
  })

  test('a refusal of one piece of many is not said to be for want of entries that the pieces after it would have taken', () => {
    const many = Array.from({ length: 1500 }, (_, index) => ({
      iova: BigInt(index) * 0x4000n,
      region: memory,
      size: 2 * page,
    }))
    simulator.faults.fail({ request: 'write', with: 'EFAULT', nth: 2 })
    const refusal = thrownBy(() => space.mapSync(many))
    expect(refusal).toMatchObject({ code: 'ERR_VDPA_REFUSED', cause: { code: 'EFAULT' } })
    expect(String(refusal)).toMatch(/and gave no reason; [^;]*$/)
    expect(space.size).toBe(0)
    space.mapSync(many)
  })

  test('progress counts mappings and bytes, of which the last call has all', async () => {
    const seen: MapProgress[] = []
    const onProgress = (progress: MapProgress) => void seen.push(progress)
    const whole = { entries: 3, totalEntries: 3, bytes: 3 * page, totalBytes: 3 * page }
    await space.map(pieces(3), { onProgress })
    expect(seen.at(-1)).toEqual(whole)
    await space.unmapAll({ onProgress })
    expect(seen.at(-1)).toEqual(whole)
  })

  test('after close nothing is mapped and the memory is free', async () => {
    space.mapSync(pieces(3))
    expect(() => memory.close()).toThrow(expect.objectContaining({ code: 'ERR_VDPA_MEMORY_HELD' }))
    await device.close()
    expect(memory.holders).toEqual([])
    await expect(space.map(pieces(1))).rejects.toMatchObject({ code: 'ERR_VDPA_CLOSED' })
  })
})
